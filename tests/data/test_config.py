"""What a recipe can say about its data: a kind for each task, and nothing that is silently dropped."""

from typing import get_args

import pytest

from stillhouse.core.config import Config, parse_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.task import Task
from stillhouse.data.config import DataConfig, TextDataConfig

TASKS = {
    "text": "causal_lm",
    "masked_text": "masked_lm",
    "classification": "sequence_classification",
    "regression": "regression",
    "rewards": "reward",
    "tags": "token_classification",
    "sentences": "sentence_embedding",
}


class _Recipe(Config):
    data: DataConfig = TextDataConfig()


def _parse(**data):
    return parse_recipe(_Recipe, {"data": data})


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_has_a_task_of_its_own(kind):
    assert _parse(kind=kind, path="some").data.task == TASKS[kind]


def test_every_task_has_a_kind():
    assert set(TASKS.values()) == set(get_args(Task))


def test_data_without_a_kind_is_text():
    assert _parse(path="some.jsonl").data == TextDataConfig.model_validate_json('{"path": "some.jsonl"}')
    assert isinstance(parse_recipe(_Recipe, {}).data, TextDataConfig)


@pytest.mark.parametrize("kind", TASKS)
def test_a_resolved_recipe_reads_back_as_itself(kind):
    recipe = _parse(kind=kind, path="some", held_out_path="other")
    assert parse_recipe(_Recipe, recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    "data, message",
    [
        ({"kind": "masked", "path": "a"}, "data.kind: 'masked' is not known. Did you mean 'masked_text'?"),
        ({"kind": "sentance", "path": "a"}, "data.kind: 'sentance' is not known. Did you mean 'sentences'?"),
        ({"kind": "tags", "path": "a", "wrods": "b"}, "data.wrods: there is no such key. Did you mean 'words'?"),
        ({"kind": "classification"}, "data.path: it must be given."),
        ({"kind": "masked_text", "path": "a", "mask_share": 1.0}, "data.mask_share: 1.0 came"),
        ({"kind": "tags", "path": "a", "held_out": 0.7}, "data.held_out: 0.7 came"),
        (
            {"kind": "tags", "path": "a", "held_out": 0.2, "held_out_path": "b"},
            "data: held_out (0.2) and held_out_path ('b') are both given. Give one",
        ),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_recipe(data, message):
    with pytest.raises(RecipeError) as caught:
        _parse(**data)
    assert message in str(caught.value)


def test_the_sources_are_all_that_is_read():
    data = _parse(kind="sentences", path="a", held_out_path="b", pairs_path="c").data
    assert [str(path) for path in data.sources] == ["a", "b", "c"]
    assert _parse().data.sources == ()
