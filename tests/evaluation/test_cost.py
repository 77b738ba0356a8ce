"""How fast encoders are: on documents of their own length, in turns, by paired ratios."""

import copy

import numpy as np
import pytest
import torch

from stillhouse.core import memory
from stillhouse.core.batch import LabelledBatch
from stillhouse.evaluation.cost import (
    DECODE_TOKENS,
    DOCUMENT_REPEATS,
    DOCUMENTS,
    REPEATS,
    Timing,
    costs,
    speed_ups,
    stand_ins,
    time_encoders,
    time_language_models,
)
from stillhouse.evaluation.memory import peak_bytes


def _heard(models, monkeypatch):
    """Which model read which document, in order."""
    heard = []
    names = {id(model): name for name, model in models.items()}
    monkeypatch.setattr(
        "stillhouse.evaluation.cost._seconds",
        lambda model, document: heard.append((names[id(model)], document)) or 1.0,
    )
    return heard


@pytest.fixture
def models(build_encoder):
    return {role: build_encoder("sequence_classification", seed=n) for n, role in enumerate(("teacher", "student"))}


def test_documents_are_read_alone_without_padding_and_by_everybody_next_to_each_other(
    models, build_batches, monkeypatch
):
    heard, batches = _heard(models, monkeypatch), build_batches("sequence_classification", sizes=(20, 20))
    time_encoders(models, batches)
    assert len(heard) == 2 * DOCUMENTS * (DOCUMENT_REPEATS + 1)
    for one, other in zip(heard[::2], heard[1::2], strict=True):
        assert {one[0], other[0]} == models.keys()
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1].keys() | other[1].keys())
    lengths = {int(length) for batch in batches for length in batch.real.sum(-1)}
    assert {document["input_ids"].shape[1] for _, document in heard} <= lengths
    assert all(document["attention_mask"].all() for _, document in heard)


def test_whoever_is_first_changes_from_turn_to_turn(models, build_batches, monkeypatch):
    heard = _heard(models, monkeypatch)
    time_encoders(models, build_batches("sequence_classification"))
    first = [name for name, _ in heard[::2]]
    assert abs(first.count("teacher") - first.count("student")) <= DOCUMENT_REPEATS + 1


def test_pairs_of_texts_are_read_as_pairs(models, monkeypatch):
    heard = _heard(models, monkeypatch)
    ids, segments = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[0, 1, 1, 0]])
    documents = torch.tensor([[0, 0, 0, -1]])
    batch = LabelledBatch(
        ids, torch.arange(4)[None], documents, torch.zeros(1, 4), torch.tensor([1]), torch.ones(1), segments
    )
    time_encoders(models, [batch])
    assert heard[0][1]["input_ids"].tolist() == [[5, 6, 7]]
    assert heard[0][1]["token_type_ids"].tolist() == [[0, 1, 1]]


def test_a_speed_up_is_the_median_of_paired_ratios():
    """A busy second repeat slows both alike, and an interrupted document only itself."""
    teacher = np.array([[10.0, 20, 40], [1, 2, 4], [10, 20, 40]])
    student = 2 * teacher
    student[0, 1] = 0.001
    (speed,) = speed_ups({"teacher": Timing({"document": teacher}), "student": Timing({"document": student})})
    assert (speed.role, speed.work) == ("student", "document")
    assert (speed.ratio.value, speed.ratio.low, speed.ratio.high) == (2, 2, 2)


def test_an_encoder_has_the_time_of_a_document_and_no_other_speed(models, build_batches, tmp_path):
    timings = time_encoders(models, build_batches("sequence_classification"))
    for cost in costs(models, dict.fromkeys(models, tmp_path), timings).values():
        assert 0 < cost.document_milliseconds.low <= cost.document_milliseconds.value <= cost.document_milliseconds.high
        assert cost.decode_tokens_per_second is None
        assert cost.prefill_tokens_per_second is None
    (speed,) = speed_ups(timings)
    assert 0 < speed.ratio.low <= speed.ratio.value <= speed.ratio.high


def test_language_models_are_compared_at_writing_and_at_reading(build_model):
    models = {"teacher": build_model(layers=2), "student": build_model(layers=1)}
    speeds = speed_ups(time_language_models(models))
    assert [speed.work for speed in speeds] == ["decode", "prefill"]
    assert all(0 < speed.ratio.low <= speed.ratio.value <= speed.ratio.high for speed in speeds)


def test_models_of_one_build_are_timed_once_and_the_teacher_for_itself(build_model):
    teacher, student = build_model(layers=2), build_model(layers=1)
    models = {"teacher": teacher, "student": student, "student_before": copy.deepcopy(student), "baseline": teacher}
    assert stand_ins(models) == {
        "teacher": "teacher",
        "student": "student",
        "student_before": "student",
        "baseline": "baseline",
    }
    student.config.rms_norm_eps *= 2  # of the same shapes, and yet another
    assert stand_ins(models)["student_before"] == "student_before"


def test_every_token_that_is_written_is_timed_and_memory_told(build_model, tmp_path):
    models = {"teacher": build_model(layers=6), "student": build_model(layers=2)}
    timings = time_language_models(models)
    assert all(timing.token_seconds.shape == (REPEATS, DECODE_TOKENS) for timing in timings.values())
    found = costs(models, dict.fromkeys(models, tmp_path), timings)
    for role, cost in found.items():
        assert 0 < cost.token_milliseconds.value <= cost.slow_token_milliseconds.value
        assert cost.token_milliseconds.low <= cost.token_milliseconds.value <= cost.token_milliseconds.high
        weights = sum(parameter.numel() * 4 for parameter in models[role].parameters())
        assert cost.peak_bytes is None or cost.peak_bytes >= weights
    assert found["student"].flops_per_token < found["teacher"].flops_per_token


def test_the_most_memory_is_what_the_work_took_and_more_for_more(build_model):
    model, found = build_model(layers=1), []
    for megabytes in (8, 64):
        taken = peak_bytes(model, lambda size=megabytes: np.ones(size * 2**17))
        found.append(taken)
    if None in found:
        pytest.skip("the system does not tell how much memory is in use")
    assert 40 * 2**20 < found[1] - found[0] < 80 * 2**20


def test_what_a_process_held_before_is_not_forgotten_when_one_piece_of_work_is_measured(build_model):
    _ = np.ones(96 * 2**17)
    most = memory.peak_bytes()
    _ = peak_bytes(build_model(layers=1), lambda: None)
    assert memory.peak_bytes() >= most
