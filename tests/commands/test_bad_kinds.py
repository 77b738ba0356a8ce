"""Bad input for what is not plain text: the fault is said before a model is loaded, and nothing is written."""

import json
from typing import Any

import pytest

from stillhouse.models.load import check_head, load_config

from .conftest import KINDS, LABELS, assert_refused, assert_refused_in_one_line, stillhouse, write_rows

RAMP = {"start": 1.0, "end": 0.0}


@pytest.fixture(autouse=True)
def _no_model_and_nothing_made(no_model, tmp_path):
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "rows.jsonl"}


def asked(name: str, **keys: Any) -> dict[str, Any]:
    return {"objectives": [{"name": name, **keys}]}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("masked_text", {"data.kind": "masked"}, "data.kind: 'masked' is not known. Did you mean 'masked_text'?"),
        ("tags", {"data.kind": "spans"}, "data.kind: 'spans' is not known."),
        ("tags", {"data.tag": "x"}, "data.tag: there is no such key. Did you mean 'tags'?"),
        ("masked_text", {"data.mask_share": 1.0}, "data.mask_share: 1.0 came, but it should be less than 1."),
        (
            "masked_text",
            asked("next_token"),
            "next_token does not learn from data of kind 'masked_text'. Use masked_token.",
        ),
        ("tags", asked("masked_token"), "masked_token does not learn from data of kind 'tags'. Use hard_label."),
        ("classification", asked("squared_error"), "squared_error does not learn from data of kind 'classification'."),
        (
            "regression",
            asked("hard_label"),
            "hard_label does not learn from data of kind 'regression'. Use squared_error.",
        ),
        (
            "regression",
            asked("forward_kl"),
            "forward_kl compares distributions, and a single number has none. Use logit_mse.",
        ),
        ("sentences", asked("forward_kl"), "forward_kl compares logits, which sentence embeddings have none of."),
        (
            "tags",
            asked("embedding_mse"),
            "embedding_mse compares sentence embeddings, but data of kind 'tags' has none.",
        ),
        ("tags", {"labels": {}}, "but data is of kind 'tags'. Leave labels out."),
        ("classification", {"labels": {}}, "but data is of kind 'classification'. Leave labels out."),
        ("tags", {"synthesis": {"templates": ["x"], "tokens": 9}, "data.path": None}, "data.path: null came"),
        ("sentences", {"evaluation.control": "hard_labels"}, "evaluation.control is 'hard_labels', but sentences have"),
        ("tags", asked("forward_kl", layers="final"), "objectives.0: forward_kl has no key 'layers'."),
        ("tags", asked("hidden_mse", where="tokens"), "objectives.0: hidden_mse has no key 'where'."),
        (
            "tags",
            asked("hard_label", where="tokens"),
            "objectives.0: hard_label reads labels, which not every token has",
        ),
        (
            "classification",
            asked("forward_kl", where="tokens"),
            "where is tokens for forward_kl, but data of kind 'classification' has one answer a document.",
        ),
        ("tags", asked("hidden_mse", temperature=2.0), "objectives.0: hidden_mse has no key 'temperature'."),
        (
            "tags",
            asked("hidden_mse", layers="unifrm"),
            "objectives.0.layers: \"unifrm\" came, but it should be 'uniform',",
        ),
        (
            "tags",
            asked("hidden_mse", layers=[[1, 2, 3]]),
            "[1, 2, 3] came, but it should have at most 2.",
        ),
        (
            "tags",
            asked("forward_kl", weight=-1),
            "objectives.0.weight: -1 came, but it should be greater than or equal to 0.",
        ),
        (
            "tags",
            asked("forward_kl", weight="x"),
            '"x" came, but it should be a number, or a mapping of keys to values.',
        ),
        (
            "tags",
            asked("multi_head_relation_kl", relation_heads={"start": 4, "end": 8}),
            "relation_heads is a whole number, which cannot follow a ramp.",
        ),
        ("tags", asked("forward_kl", weight={**RAMP, "shape": "step"}), "until is 1: when the training is over."),
        (
            "tags",
            asked("forward_kl", weight={**RAMP, "end": -1}),
            "weight goes from 1.0 to -1.0, but none may be below 0.",
        ),
        ("tags", asked("forward_kl", weight={"start": 0, "end": 0}), "every weight in objectives is 0"),
        (
            "tags",
            asked("forward_kl", weight={**RAMP, "shpe": "linear"}),
            "objectives.0.weight.shpe: there is no such key. Did you mean 'shape'?",
        ),
        ("tags", asked("forward_kl", weight={"start": 1.0}), "objectives.0.weight.end: it must be given."),
        (
            "tags",
            asked("forward_kl", weight={**RAMP, "until": 0}),
            "objectives.0.weight.until: 0 came, but it should be",
        ),
        (
            "tags",
            asked("forward_kl", temperature=RAMP),
            "A temperature must be positive and finite, but it",
        ),
        (
            "tags",
            asked("jsd", beta={"start": 0.5, "end": 1.0}),
            "objectives.0: jsd needs 0 < beta < 1, but beta is 1.0.",
        ),
        (
            "tags",
            asked("jsd", beta={"start": 0.5, "to": 0.6}),
            "beta.to: there is no such key. Known: start, end,",
        ),
    ],
)
def test_a_fault_of_the_recipe_is_named(kind_recipe, tmp_path, kind, changes, words):
    said = stillhouse("distill", kind_recipe(kind, changes))
    assert_refused(said, f"stillhouse: {tmp_path / 'recipe.yaml'} has ", words)
    assert all(len(line) < 240 for line in said.err.splitlines())


def changed(**changes: Any) -> dict[str, Any]:
    return {"student": {"kind": "from_config", "changes": changes}}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (
            "tags",
            asked("hidden_mse", layers=[[2, 9]]),
            "objectives: hidden_mse: layers: in [2, 9], the teacher's layer must",
        ),
        (
            "tags",
            asked("hidden_mse", layers=[[3, 3]]),
            "objectives: hidden_mse: layers: in [3, 3], the student's layer must",
        ),
        (
            "masked_text",
            asked("attention_kl", layers="embeddings"),
            "objectives: attention_kl: layers: in [0, 0], the student's layer must be from 1 to 2, but it is 0.",
        ),
        (
            "masked_text",
            asked("flow_mse", layers="final"),
            "objectives: flow_mse: layers: final matches 1 of a student's 2",
        ),
        (
            "masked_text",
            {**changed(num_hidden_layers=5), **asked("hidden_mse")},
            "objectives: hidden_mse: layers: uniform spreads the student's layers over the teacher's, but",
        ),
        (
            "masked_text",
            {**changed(num_attention_heads=2), **asked("attention_kl")},
            "objectives: attention_kl compares",
        ),
        (
            "masked_text",
            {**changed(num_attention_heads=8), **asked("value_relation_kl")},
            "objectives: value_relation_kl",
        ),
        (
            "masked_text",
            asked("multi_head_relation_kl", relation_heads=5),
            "relation_heads must divide the width",
        ),
        ("sentences", asked("attention_kl"), "objectives: attention_kl: MPNetModel computed attention 0 times"),
        (
            "sentences",
            {"student": {"kind": "from_layers", "keep": 2, "architecture": "distilbert"}},
            "student.architecture is distilbert, but the teacher (mpnet) is none of the BERTs",
        ),
        (
            "masked_text",
            {"data.sequence_tokens": 65},
            "data.sequence_tokens is 65, but the teacher reads at most 64 tokens",
        ),
    ],
)
def test_what_teacher_and_student_cannot_be_compared_by_is_refused(kind_recipe, kind, changes, words):
    assert_refused_in_one_line(stillhouse("distill", kind_recipe(kind, changes)), words)


def test_positions_that_nobody_learnt_cannot_be_kept(recipe, texts_file):
    student = {"kind": "from_layers", "keep": 2, "freeze_position_embeddings": True}
    said = stillhouse("distill", recipe({"synthesis": None, "data.path": str(texts_file), "student": student}))
    assert_refused_in_one_line(said, "LlamaForCausalLM has no embeddings of positions that were learnt. Leave it out.")


@pytest.mark.parametrize(
    ("kind", "task", "words"),
    [
        ("masked_text", "sentence_embedding", "has no masked language modelling head"),
        ("masked_text", "sequence_classification", "has no masked language modelling head"),
        ("classification", "masked_lm", "has no classification head"),
        ("classification", "token_classification", "has no classification head"),
        ("classification", "regression", "gives one number a text, where one class of several is to be told."),
        ("regression", "sequence_classification", "tells 3 classes apart, where one number is to be estimated."),
        ("tags", "sequence_classification", "has no classification head"),
    ],
)
def test_a_teacher_without_the_head_is_refused(kind_recipe, save_teacher, kind, task, words):
    labels = {"labels": LABELS} if "classification" in task else {"labels": ("score",)} if task == "regression" else {}
    said = stillhouse("distill", kind_recipe(kind, teacher=save_teacher(task, **labels)))
    assert_refused_in_one_line(said, words)


def test_a_language_model_of_one_direction_and_one_of_both_are_not_taken_for_each_other(
    kind_recipe, recipe, save_teacher, teacher_folder, texts_file
):
    said = stillhouse("distill", kind_recipe("masked_text", teacher=teacher_folder))
    assert_refused_in_one_line(said, "has no masked language modelling head")
    changes = {"synthesis": None, "data.path": str(texts_file), "teacher.model": str(save_teacher("masked_lm"))}
    assert_refused_in_one_line(stillhouse("distill", recipe(changes)), "reads text in both directions")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("sad", "glad"), "the data alone has 'angry'"),
        (("sad", "glad", "cross"), "the model alone knows 'cross'; the data alone has 'angry'"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "it never named its 3 answers"),
    ],
)
def test_a_teacher_with_other_labels_than_the_data_is_refused(kind_recipe, save_teacher, labels, words):
    said = stillhouse("distill", kind_recipe("classification", teacher=save_teacher(KINDS["tags"].task, labels=labels)))
    assert_refused_in_one_line(said, "has no classification head")
    teacher = save_teacher("sequence_classification", labels=labels)
    said = stillhouse("distill", kind_recipe("classification", teacher=teacher))
    assert_refused_in_one_line(said, "are not those of the data: ", words)


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        (
            "classification",
            {"text": "x", "lable": "sad"},
            "line 1 has no 'label', which data.label names. Did you mean",
        ),
        (
            "classification",
            {"text": "x", "label": 0.5},
            "line 1 has 0.5 under 'label'. Expected text or a whole number",
        ),
        (
            "classification",
            {"text": "", "label": "sad"},
            "line 1 has \"\" under 'text'. Expected a text that is not empty",
        ),
        ("pairs", {"a": "x", "same": "0"}, "line 1 has no 'b', which data.pair names."),
        ("regression", {"text": "x", "label": "much"}, "line 1 has \"much\" under 'label'. Expected a finite number"),
        ("tags", {"words": ["x", "y"], "tags": ["O"]}, "line 1 has 2 words but 1 tags. Give each word one tag."),
        ("tags", {"words": "x y", "tags": ["O"]}, "line 1 has \"x y\" under 'words'. Expected a list of texts"),
        ("sentences", {"sentence": "x"}, "line 1 has no 'text', which data.text names."),
        ("masked_text", {"txt": "x"}, "line 1 has no 'text', which data.text names. Did you mean 'txt'?"),
    ],
)
def test_a_row_that_lacks_what_its_kind_needs_is_named_by_file_and_line(kind_recipe, tmp_path, kind, row, words):
    path = kind_recipe(kind)
    write_rows(tmp_path / "rows.jsonl", [row, *KINDS[kind].rows])
    assert_refused_in_one_line(stillhouse("distill", path), f"{tmp_path / 'rows.jsonl'}, {words}")


def test_rows_that_are_all_of_one_class_are_refused(kind_recipe, tmp_path):
    path = kind_recipe("classification")
    write_rows(tmp_path / "rows.jsonl", [{**row, "label": "sad"} for row in KINDS["classification"].rows])
    assert_refused_in_one_line(stillhouse("distill", path), "every training row has the label 'sad'")


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        *(("masked_text", family) for family in ("bert", "distilbert", "mpnet", "roberta", "electra", "modernbert")),
        *(("classification", family) for family in ("bert", "distilbert", "mpnet", "roberta")),
        ("regression", "electra"),
        ("tags", "modernbert"),
    ],
)
def test_a_head_that_is_only_in_the_configuration_is_missed(kind_recipe, save_teacher, kind, family):
    teacher = save_teacher("sentence_embedding", family)
    task, labels = KINDS[kind].task, KINDS[kind].labels
    whole = save_teacher(task, family, **({"labels": labels} if labels else {}))
    (teacher / "config.json").write_text((whole / "config.json").read_text())
    assert_refused_in_one_line(stillhouse("distill", kind_recipe(kind, teacher=teacher)), "head, so as ")
    check_head(str(whole), load_config(str(whole)), task)


def test_a_checkpoint_without_the_head_is_refused_as_a_student(kind_recipe, save_teacher):
    student = {"kind": "checkpoint", "model": str(save_teacher("sentence_embedding"))}
    said = stillhouse("distill", kind_recipe("masked_text", {"student": student}))
    assert_refused_in_one_line(said, "has no masked language modelling head")


def test_an_embedding_that_nobody_here_can_pool_is_refused(kind_recipe, save_teacher):
    teacher = save_teacher("sentence_embedding")
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Dense", "type": "x.Dense"}]
    (teacher / "modules.json").write_text(json.dumps(modules))
    said = stillhouse("distill", kind_recipe("sentences", teacher=teacher))
    assert_refused_in_one_line(said, "makes embeddings with Dense")


def test_what_is_held_out_is_read_before_the_teacher_writes(recipe, tmp_path):
    path = recipe({"data": {"sequence_tokens": 64, "held_out_path": str(tmp_path / "nowhere.jsonl")}})
    assert_refused_in_one_line(stillhouse("distill", path), "data.held_out_path", "there is no such file or folder")
