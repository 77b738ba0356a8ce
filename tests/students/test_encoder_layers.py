"""Students of encoders, with any head: the teacher's to the last bit, and chosen on text as those of decoders are."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Wanted
from stillhouse.models.anatomy import layers_of, num_layers, task_of
from stillhouse.models.labels import labels_of
from stillhouse.models.load import load_model
from stillhouse.models.signals import read_signals
from stillhouse.objectives import forward_kl
from stillhouse.students.build import randomised, student_from_config, student_from_layers
from stillhouse.students.layer_choice import choose_layers

from .cases import assert_copied

IDS = torch.arange(2, 32)[None]
KEPT = (0, 1, 3)


def _answer(model, ids=IDS):
    output = model(input_ids=ids)
    return output.last_hidden_state if task_of(model) == "sentence_embedding" else output.logits


@torch.no_grad()
def test_keeping_all_layers_gives_the_teachers_answer_bit_for_bit(encoder_family, encoder_task, build_encoder):
    teacher = build_encoder(encoder_family, encoder_task)
    student = student_from_layers(teacher, range(4))
    assert type(student) is type(teacher) and student is not teacher
    assert torch.equal(_answer(student), _answer(teacher))


def test_every_weight_of_a_student_is_its_teachers_bit_for_bit(encoder_family, encoder_task, build_encoder):
    teacher = build_encoder(encoder_family, encoder_task)
    assert_copied(student_from_layers(teacher, KEPT), teacher, KEPT)


@torch.no_grad()
def test_a_saved_student_answers_the_same_and_keeps_the_names_of_its_answers(
    encoder_task, build_encoder, tokenizer, tmp_path
):
    student = student_from_layers(build_encoder("bert", encoder_task), (1, 2))
    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), encoder_task)
    weights = again.model.state_dict()
    assert all(torch.equal(weights.pop(name), weight) for name, weight in student.state_dict().items()) and not weights
    assert_close(_answer(again.model), _answer(student))
    assert labels_of(again.model) == labels_of(student)
    assert again.model.config.problem_type == student.config.problem_type


@torch.no_grad()
def test_a_student_of_embeddings_has_no_pooler_though_its_teacher_has_one(build_encoder):
    from transformers import BertModel

    teacher = BertModel(build_encoder("bert").config).eval()
    assert any(name.startswith("pooler") for name in teacher.state_dict())
    student = student_from_layers(teacher, (0, 2))
    assert not any("pooler" in name for name in student.state_dict())


def test_a_classifier_keeps_the_pooler_that_it_reads(build_encoder):
    names = student_from_layers(build_encoder("bert", "sequence_classification"), (0, 2)).state_dict()
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= names.keys()


def test_a_layer_of_an_encoder_keeps_its_own_kind(build_encoder):
    teacher = build_encoder("modernbert")
    kinds = teacher.config.layer_types
    assert len(set(kinds)) == 2
    assert student_from_layers(teacher, KEPT).config.layer_types == [kinds[layer] for layer in KEPT]


def test_a_first_layer_that_lacks_a_norm_cannot_be_exchanged(build_encoder):
    with pytest.raises(ModelError, match="their weights differ in kind"):
        student_from_layers(build_encoder("modernbert"), (1, 2))


@torch.no_grad()
def test_the_measured_start_is_that_of_the_student_which_is_then_built(encoder_family, build_encoder, build_batch):
    teacher, batch = build_encoder(encoder_family), build_batch("masked_lm")
    choice = choose_layers(teacher, batch, keep=KEPT)
    logits = [
        read_signals(model, batch, Wanted(logits=True)).logits.at(batch.predicts).dense()
        for model in (student_from_layers(teacher, choice.kept), teacher)
    ]
    assert choice.start_kl_nats == pytest.approx(float(forward_kl(*logits).mean()), rel=1e-4)
    assert choice.start_kl_nats > 0.01
    assert choice.calibration_tokens == int(batch.predicts.sum())
    assert choice.start_cosine_distance is None


def _distance(teacher, batch, kept):
    """1 - cosine of the last hidden states of the student that is built and its teacher, in plain arithmetic."""
    student = student_from_layers(teacher, kept)
    ours, theirs = (
        model.base_model(input_ids=batch.ids, attention_mask=batch.real.long()).last_hidden_state[batch.real]
        for model in (student, teacher)
    )
    return float((1 - (ours * theirs).sum(-1) / (ours.norm(dim=-1) * theirs.norm(dim=-1))).mean())


@torch.no_grad()
@pytest.mark.parametrize(
    "task", ["sequence_classification", "regression", "token_classification", "sentence_embedding"]
)
@pytest.mark.parametrize("method", ["greedy", "block_influence", "uniform"])
def test_models_that_predict_no_tokens_are_measured_by_their_last_hidden_states(
    task, method, build_encoder, build_batch
):
    teacher, batch = build_encoder("bert", task, layers=5), build_batch(task)
    choice = choose_layers(teacher, batch, keep=3, method=method)
    assert choice.start_kl_nats is None
    assert choice.start_cosine_distance == pytest.approx(_distance(teacher, batch, choice.kept), rel=1e-4)
    assert choice.calibration_tokens == 24 + 16
    if method == "greedy":
        assert choice.start_cosine_distance <= min(choice.alternatives.values())


@torch.no_grad()
def test_influence_is_what_hidden_states_change_by(encoder_family, build_encoder, build_batch):
    teacher, batch = build_encoder(encoder_family, "sentence_embedding"), build_batch("sentence_embedding")
    choice = choose_layers(teacher, batch, keep=KEPT)
    states = teacher(input_ids=batch.ids, attention_mask=batch.real.long(), output_hidden_states=True).hidden_states
    found = [
        float((1 - torch.cosine_similarity(states[n][batch.real], states[n + 1][batch.real], dim=-1)).mean())
        for n in range(4)
    ]
    if encoder_family == "modernbert":  # its last hidden state is after a norm of its own
        found, influence = found[:-1], choice.influence[:-1]
    else:
        influence = choice.influence
    assert influence == pytest.approx(found, abs=1e-5)


def test_padding_does_not_count_in_the_measurement(encoder_family, build_encoder, build_batch):
    teacher = build_encoder(encoder_family, "sentence_embedding")
    narrow, wide = (
        choose_layers(teacher, build_batch("sentence_embedding", width=width), keep=2, method="uniform")
        for width in (None, 50)
    )
    assert narrow.start_cosine_distance == pytest.approx(wide.start_cosine_distance, rel=1e-3)
    assert narrow.influence == pytest.approx(wide.influence, abs=1e-5)


def test_choosing_leaves_an_encoder_untouched(encoder_family, encoder_task, build_encoder, build_batch):
    teacher = build_encoder(encoder_family, encoder_task)
    before, blocks = _answer(teacher), list(layers_of(teacher))
    choose_layers(teacher, build_batch(encoder_task), keep=2)
    assert all(now is then for now, then in zip(layers_of(teacher), blocks, strict=True))
    assert torch.equal(_answer(teacher), before)


def test_a_student_from_a_configuration_answers_as_its_teacher_does(encoder_task, build_encoder, tmp_path):
    teacher = build_encoder("bert", encoder_task)
    build_encoder("electra").config.save_pretrained(tmp_path)
    for student, layers in [
        (student_from_config(teacher, seed=0, changes={"num_hidden_layers": 2}), 2),
        (student_from_config(teacher, seed=0, config=str(tmp_path)), 4),
        (randomised(teacher, seed=0), 4),
    ]:
        assert (task_of(student), num_layers(student)) == (encoder_task, layers)
        assert labels_of(student) == labels_of(teacher)
        assert _answer(student).shape == _answer(teacher).shape


def test_the_seed_decides_the_weights_of_an_encoder(encoder_task, build_encoder):
    teacher = build_encoder("bert", encoder_task)
    answers = [_answer(randomised(teacher, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
