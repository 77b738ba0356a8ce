"""A model is loaded for what it was trained for, whole; a student for classification may come without a head."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoConfig, BertForPreTraining

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import task_of
from stillhouse.models.labels import labels_of, name_labels
from stillhouse.models.load import (
    LABELLED_TASKS,
    PROBLEM_TYPES,
    check_serves,
    load_model,
    load_student,
    pad_id_of,
    untrained,
)

LABELS = ("anger", "joy", "fear")
TASKS = ("masked_lm", "sequence_classification", "regression", "token_classification", "sentence_embedding")
IDS = torch.tensor([[2, 5, 6, 7, 3]])


def _encoder(task, family="bert", seed=0, labels=LABELS, **changes):
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_dim" if family == "distilbert" else "intermediate_size": 64,
        "pad_token_id": 1,
        "initializer_range": 0.3,
        **changes,
    }
    config = AutoConfig.for_model(family, **settings)
    if task in LABELLED_TASKS:
        name_labels(config, labels[:1] if task == "regression" else labels)
        config.problem_type = PROBLEM_TYPES.get(task)
    torch.manual_seed(seed)
    return untrained(config, task, dtype=torch.float32)


@pytest.fixture
def save(tokenizer, tmp_path):
    def saved(model):
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return saved


def _change_config(folder, **changes):
    file = f"{folder}/config.json"
    with open(file) as old:  # noqa: PTH123
        config = json.load(old)
    with open(file, "w") as new:  # noqa: PTH123
        json.dump({**config, **changes}, new)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_any_task_comes_back_whole(task, family, save):
    model = _encoder(task, family)
    loaded = load_model(save(model), task, labels=LABELS if "classification" in task else None)
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights.pop(name), weight) for name, weight in model.state_dict().items()) and not weights
    assert type(loaded.model) is type(model) and not loaded.model.training
    assert (loaded.task, task_of(loaded.model)) == (task, task)
    assert (loaded.pooling, loaded.normalizes) == ("mean" if task == "sentence_embedding" else None, False)
    assert_close(loaded.model(input_ids=IDS)[0], model(input_ids=IDS)[0])


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "electra", "modernbert"])
def test_a_teacher_of_hidden_tokens_must_have_the_head_for_it(family, save):
    with pytest.raises(ModelError, match="has no masked language modelling head") as refusal:
        load_model(save(_encoder("sentence_embedding", family)), "masked_lm")
    assert "Fine-tune it first, or name a model that has" in str(refusal.value)


@pytest.mark.parametrize("family", ["xlm", "flaubert", "bart", "gpt2"])
def test_a_family_that_writes_is_no_masked_language_model(family):
    config = AutoConfig.for_model(family, architectures=["BertForMaskedLM"])  # whatever it says
    with pytest.raises(ModelError, match=f"it is of the family '{family}'. Name a model of another, such as"):
        check_serves(config, "masked_lm", source="teacher")


@pytest.mark.parametrize("task", sorted(LABELLED_TASKS))
@pytest.mark.parametrize("other", ["sentence_embedding", "masked_lm"])
@pytest.mark.parametrize("says_what_it_is", [True, False])
def test_a_teacher_that_classifies_must_have_the_head_for_it(task, other, says_what_it_is, save):
    folder = save(_encoder(other))
    if not says_what_it_is:
        one = {"id2label": {"0": "x"}, "label2id": {"x": 0}} if task in ("regression", "reward") else {}
        _change_config(folder, architectures=None, **one)
    with pytest.raises(ModelError, match="has no classification head, so as a .* it would answer at random"):
        load_model(folder, task)


def test_a_whole_text_classifier_does_not_tag_tokens_nor_the_other_way_round(save):
    with pytest.raises(ModelError, match="has no classification head, so as a token classifier"):
        load_model(save(_encoder("sequence_classification")), "token_classification")
    with pytest.raises(ModelError, match="has no classification head, so as a text classifier"):
        load_model(save(_encoder("token_classification")), "sequence_classification")


def test_the_number_of_answers_must_suit_the_task(save):
    with pytest.raises(ModelError, match="tells 3 classes apart, where one number is to be estimated"):
        load_model(save(_encoder("sequence_classification")), "regression")
    with pytest.raises(ModelError, match="gives one number a text"):
        load_model(save(_encoder("regression")), "sequence_classification")
    folder = save(_encoder("sequence_classification"))
    _change_config(folder, problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="gives several labels at once a text"):
        load_model(folder, "sequence_classification")


def test_the_teachers_labels_must_be_those_of_the_data(save):
    folder = save(_encoder("sequence_classification"))
    with pytest.raises(ModelError, match="they come in another order"):
        load_model(folder, "sequence_classification", labels=("joy", "anger", "fear"))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "mpnet"])
def test_an_encoder_predicts_no_next_tokens(family, save):
    with pytest.raises(ModelError, match="reads text in both directions"):
        load_model(save(_encoder("masked_lm", family)), "causal_lm")


def _leave_out(folder, name):
    weights = load_file(f"{folder}/model.safetensors")
    del weights[name]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("task", TASKS)
def test_weights_missing_inside_are_not_taken_for_a_missing_head(task, save):
    folder = save(_encoder(task))
    _leave_out(folder, "bert." * (task != "sentence_embedding") + "encoder.layer.1.output.dense.weight")
    with pytest.raises(ModelError, match="has no fitting weights for 1 parts .* Get a whole copy"):
        load_model(folder, task)


def test_what_a_pretrained_bert_has_beside_is_left_out(save):
    model = BertForPreTraining(_encoder("masked_lm").config)
    folder = save(model)
    for task in ("masked_lm", "sentence_embedding"):
        names = load_model(folder, task).model.state_dict()
        assert not [name for name in names if "pooler" in name or "seq_relationship" in name]


@pytest.mark.parametrize("task", sorted(LABELLED_TASKS))
def test_a_student_without_a_head_gets_one_that_the_seed_decides(task, save):
    body = _encoder("sentence_embedding")
    folder, labels = save(body), None if task in ("regression", "reward") else ("a", "b", "c", "d")
    first, again, other = (load_student(folder, task, seed=seed, labels=labels).model for seed in (0, 0, 1))
    assert task_of(first) == ("regression" if task == "reward" else task)
    assert first.classifier.out_features == (4 if labels else 1)
    assert labels is None or labels_of(first) == labels
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in first.state_dict().items())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    for name, weight in body.state_dict().items():
        assert torch.equal(first.state_dict()[f"bert.{name}"], weight)


def test_a_students_head_for_as_many_answers_is_a_start_and_for_others_is_made_anew(save):
    model = _encoder("sequence_classification")
    folder = save(model)
    kept = load_student(folder, "sequence_classification", seed=0, labels=("x", "y", "z")).model
    assert torch.equal(kept.classifier.weight, model.classifier.weight)
    assert labels_of(kept) == ("x", "y", "z")
    fresh = load_student(folder, "sequence_classification", seed=0, labels=("x", "y")).model
    assert fresh.classifier.out_features == 2
    assert torch.equal(fresh.bert.pooler.dense.weight, model.bert.pooler.dense.weight)


def test_a_student_that_lacks_more_than_a_head_is_refused(save):
    folder = save(_encoder("sentence_embedding"))
    _leave_out(folder, "encoder.layer.1.output.dense.weight")
    with pytest.raises(ModelError, match="has no fitting weights for 1 parts"):
        load_student(folder, "sequence_classification", seed=0, labels=LABELS)
    with pytest.raises(ModelError, match="has no masked language modelling head"):
        load_student(save(_encoder("sentence_embedding")), "masked_lm", seed=0)


@pytest.mark.parametrize("theirs", [None, 7])
@pytest.mark.parametrize("pads", [True, False])
@torch.no_grad()
def test_a_decoder_that_classifies_finds_a_texts_end_by_what_rows_are_filled_with(
    build_model, save, tokenizer, tmp_path, theirs, pads
):
    """Whatever its configuration says, and also where the tokenizer has no padding of its own."""
    folder = save(build_model("llama", vocab=len(tokenizer)))
    _change_config(folder, pad_token_id=theirs)
    if not pads:
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        settings.pop("pad_token")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_student(folder, "sequence_classification", seed=0, labels=LABELS)
    assert (loaded.tokenizer.pad_token_id is None) == (not pads)
    pad = pad_id_of(loaded.tokenizer)
    rows = [2, 5, 6], [2, 5, 6, pad, pad]
    alone, padded = (loaded.model(input_ids=torch.tensor([row])).logits for row in rows)
    assert_close(alone, padded)


def _write_modules(folder, tmp_path, *kinds, **pooling):
    modules = [{"path": f"{n}_{kind}" if n else "", "type": f"some.package.{kind}"} for n, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 32}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({}, "mean"),
    ],
)
def test_how_an_embedding_is_made_is_read_from_old_and_new_folders(save, tmp_path, settings, pooling):
    folder = _write_modules(save(_encoder("sentence_embedding")), tmp_path, "Transformer", "Pooling", **settings)
    loaded = load_model(folder, "sentence_embedding")
    assert (loaded.pooling, loaded.normalizes) == (pooling, False)


def test_a_folder_says_whether_embeddings_have_length_one(save, tmp_path):
    kinds = ("Transformer", "Pooling", "Normalize")
    folder = _write_modules(save(_encoder("sentence_embedding")), tmp_path, *kinds, pooling_mode="mean")
    assert load_model(folder, "sentence_embedding").normalizes


@pytest.mark.parametrize(
    ("kinds", "settings", "said"),
    [
        (("Transformer", "Pooling", "Dense"), {}, "makes embeddings with Dense"),
        (("Transformer", "Pooling"), {"pooling_mode": "max"}, "pools its token states by max"),
        (("Transformer", "Pooling"), {"pooling_mode": ["mean", "max"]}, "by mean and max"),
        (("Transformer", "Pooling"), {"pooling_mode_weightedmean_tokens": True}, "by weightedmean"),
    ],
)
def test_an_embedding_that_we_could_not_make_is_refused(save, tmp_path, kinds, settings, said):
    folder = _write_modules(save(_encoder("sentence_embedding")), tmp_path, *kinds, **settings)
    with pytest.raises(ModelError, match=said):
        load_model(folder, "sentence_embedding")
