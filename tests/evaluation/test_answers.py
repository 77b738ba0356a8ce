"""Hidden tokens, classes, tags and numbers: against loops over the models' own outputs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from stillhouse.core.errors import DataError
from stillhouse.core.results import HEADLINE, METRICS, EvaluationResult
from stillhouse.evaluation.answers import choice_statistics, choose, estimate
from stillhouse.evaluation.compare import evaluate_encoders

CHOICES = ("masked_lm", "sequence_classification", "token_classification")
OF_TASK = {
    "masked_lm": {"accuracy", "cross_entropy", "forward_kl", "top1_agreement"},
    "sequence_classification": {
        *("accuracy", "macro_f1", "matthews_correlation", "cross_entropy", "forward_kl", "top1_agreement"),
        "calibration_error",
    },
    "token_classification": {"accuracy", "macro_f1", "cross_entropy", "forward_kl", "top1_agreement"},
    "regression": {"spearman", "pearson", "mean_squared_error", "teacher_spearman", "teacher_pearson"},
}


@pytest.fixture(autouse=True)
def _quick_timing(monkeypatch):
    monkeypatch.setattr("stillhouse.evaluation.cost.DOCUMENT_REPEATS", 1)


@torch.no_grad()
def _rows(model, batches):
    """The model's own logits, one document at a time and without padding: (logits, batch, row)."""
    for batch in batches:
        for row in range(len(batch.ids)):
            ids = batch.ids[row][batch.real[row]][None]
            yield model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double(), batch, row


def _judged(model, batches, task):
    """[(document, logits, target)] of everything that is judged, in order."""
    found = []
    for document, (logits, batch, row) in enumerate(_rows(model, batches)):
        if task == "sequence_classification":
            found.append((document, logits, int(batch.labels[row])))
        else:
            places = [place for place in range(len(logits)) if batch.weights[row, place] > 0]
            found += [(document, logits[place], int(batch.labels[row, place])) for place in places]
    return found


@pytest.mark.parametrize("task", CHOICES)
@pytest.mark.parametrize("chunk", [256, 3])
def test_choices_are_those_of_a_scalar_loop(build_encoder, build_batches, monkeypatch, task, chunk):
    monkeypatch.setattr("stillhouse.evaluation.judging.CHUNK_ANSWERS", chunk)
    teacher, student, batches = build_encoder(task, seed=1), build_encoder(task, seed=2), build_batches(task)
    choices = choose({"teacher": teacher, "student": student}, {"teacher": batches, "student": batches}, task=task)[
        "student"
    ]
    ours, theirs = (_judged(model, batches, task) for model in (student, teacher))
    assert len(choices.target) == len(ours)
    for number, ((document, q, target), (_, p, _)) in enumerate(zip(ours, theirs, strict=True)):
        q, p = q.softmax(-1), p.softmax(-1)
        assert choices.document[number] == document
        assert choices.target[number] == target
        assert choices.chosen[number] == int(q.argmax())
        if task == "sequence_classification":
            assert choices.confidence[number] == pytest.approx(float(q.max()), rel=1e-4)
        assert choices.loss_nats[number] == pytest.approx(-math.log(q[target]), rel=1e-4, abs=1e-6)
        assert choices.kl_nats[number] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-3, abs=1e-6)
        assert choices.agrees[number] == float(q.argmax() == p.argmax())


def test_numbers_are_the_models_own(build_encoder, build_batches):
    models = {"teacher": build_encoder("regression", seed=1), "student": build_encoder("regression", seed=2)}
    batches = build_batches("regression")
    found = estimate(models, dict.fromkeys(models, batches))["student"]
    for answers, model in ((found.answer, models["student"]), (found.teacher, models["teacher"])):
        np.testing.assert_allclose(answers, [float(row[0]) for row, _, _ in _rows(model, batches)], rtol=1e-4)
    assert found.target.tolist() == torch.cat([batch.labels for batch in batches]).tolist()


@pytest.mark.parametrize("task", CHOICES)
def test_metrics_of_choices_by_hand(build_encoder, build_batches, task):
    choices = choose({"teacher": build_encoder(task, seed=1)}, {"teacher": build_batches(task)}, task=task)["teacher"]
    statistics = choice_statistics(choices, task=task)
    once = np.ones((1, len(np.unique(choices.document))))
    assert statistics["accuracy"](once)[0] == pytest.approx(np.mean(choices.chosen == choices.target))
    assert statistics["cross_entropy"](once)[0] == pytest.approx(np.mean(choices.loss_nats))
    if task != "masked_lm":
        metrics = pytest.importorskip("sklearn.metrics")
        expected = metrics.f1_score(choices.target, choices.chosen, average="macro", zero_division=0)
        assert statistics["macro_f1"](once)[0] == pytest.approx(expected)


@pytest.mark.parametrize("task", OF_TASK)
def test_each_task_has_its_metrics_and_its_teacher_stands_at_no_distance_from_itself(encoders, build_batches, task):
    result = evaluate_encoders(encoders(task), build_batches(task), task=task)
    assert result.task == task
    assert all(model.metrics.keys() == OF_TASK[task] for model in result.models)
    teacher = result.model("teacher").metrics
    exact = {"forward_kl": 0, "top1_agreement": 1, "teacher_spearman": 1, "teacher_pearson": 1}
    for name in exact.keys() & teacher.keys():
        assert (teacher[name].value, teacher[name].low, teacher[name].high) == (exact[name],) * 3


@pytest.mark.parametrize("task", OF_TASK)
def test_differences_and_shares_are_of_the_metrics_shown(encoders, build_batches, task):
    result = evaluate_encoders(encoders(task), build_batches(task, sizes=(40, 40)), task=task)
    student = result.model("student").metrics
    assert {(row.metric, row.other) for row in result.comparisons} == {
        (name, other) for name in OF_TASK[task] for other in ("teacher", "control_hard_labels")
    }
    for row in result.comparisons:
        other = result.model(row.other).metrics[row.metric]
        assert row.difference.value == pytest.approx(student[row.metric].value - other.value, abs=1e-12)
    for kept in result.retentions:
        value, whole = (result.model(role).metrics[HEADLINE[task]].value for role in (kept.role, "teacher"))
        assert kept.share.value == pytest.approx(value / whole)
        assert kept.share.low <= kept.share.value <= kept.share.high


def test_a_student_that_is_its_teacher_keeps_exactly_all(encoders, build_batches):
    teacher, _, student = encoders("sequence_classification")
    batches = build_batches("sequence_classification", sizes=(60,))
    result = evaluate_encoders(
        [teacher, replace(student, model=teacher.model)], batches, task="sequence_classification"
    )
    kept = result.retention("student").share
    assert (kept.value, kept.low, kept.high) == (1, 1, 1)
    for row in result.comparisons:
        assert (row.difference.value, row.difference.low, row.difference.high) == (0, 0, 0)


def test_nothing_is_kept_of_a_teacher_that_may_have_nothing(encoders, build_batches):
    """A random teacher's answers correlate with the scores by chance alone."""
    result = evaluate_encoders(encoders("regression"), build_batches("regression", sizes=(30,)), task="regression")
    assert result.model("teacher").metrics["spearman"].low <= 0
    assert result.retentions == []


def test_correlations_are_scipys(encoders, build_batches):
    contestants, batches = encoders("regression"), build_batches("regression", sizes=(12, 9))
    metrics = evaluate_encoders(contestants, batches, task="regression").model("student").metrics
    found = estimate({c.role: c.model for c in contestants}, {c.role: batches for c in contestants})["student"]
    assert metrics["spearman"].value == pytest.approx(scipy.stats.spearmanr(found.answer, found.target).statistic)
    assert metrics["pearson"].value == pytest.approx(scipy.stats.pearsonr(found.answer, found.target).statistic)
    assert metrics["teacher_pearson"].value == pytest.approx(
        scipy.stats.pearsonr(found.answer, found.teacher).statistic
    )
    assert metrics["mean_squared_error"].value == pytest.approx(np.mean((found.answer - found.target) ** 2))


def test_what_carries_no_weight_is_not_judged(encoders, build_batches):
    batch = build_batches("sequence_classification", sizes=(6,))[0]
    weights = torch.tensor([1.0, 0, 1, 1, 0, 1])
    some = replace(batch, label_weights=weights)
    teacher = encoders("sequence_classification")[0].model
    choices = choose({"teacher": teacher}, {"teacher": [some]}, task="sequence_classification")["teacher"]
    assert choices.document.tolist() == [0, 2, 3, 5]
    assert choices.target.tolist() == batch.labels[weights > 0].tolist()


def test_a_document_without_a_hidden_token_is_none(encoders, build_batches):
    batch = build_batches("masked_lm", sizes=(6,))[0]
    batch.weights[2] = 0
    result = evaluate_encoders(encoders("masked_lm"), [batch], task="masked_lm")
    judged = batch.weights > 0
    assert result.held_out.documents == int(judged.any(-1).sum()) < 6
    assert result.held_out.answers == int(judged.sum())
    assert result.held_out.tokens == int(batch.real.sum())


def test_nothing_to_judge_by_is_said(encoders, build_batches):
    batch = build_batches("masked_lm", sizes=(3,))[0]
    with pytest.raises(DataError, match="no held-out answer carries weight"):
        evaluate_encoders(encoders("masked_lm"), [replace(batch, weights=batch.weights * 0)], task="masked_lm")


def test_rows_that_pad_the_vocabulary_are_never_chosen_and_cost_nothing(build_encoder, build_batches):
    both = dict.fromkeys(("teacher", "student"), build_batches("masked_lm"))
    teacher, plain, padded = (build_encoder("masked_lm", seed=seed) for seed in (1, 2, 2))
    padded.resize_token_embeddings(96, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().bias[90:] = 50.0
    one = choose({"teacher": teacher, "student": plain}, both, task="masked_lm", vocab_size=90)["student"]
    other = choose({"teacher": teacher, "student": padded}, both, task="masked_lm", vocab_size=90)["student"]
    for name in ("chosen", "loss_nats", "kl_nats"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


def test_spans_are_judged_where_the_tags_make_them(encoders, build_batches):
    contestants, batches = encoders("token_classification"), build_batches("token_classification")
    result = evaluate_encoders(contestants, batches, task="token_classification", tags=["O", "B-PER", "I-PER"])
    assert all("span_f1" in model.metrics for model in result.models)


@pytest.mark.parametrize("task", OF_TASK)
def test_a_result_of_any_task_comes_back_from_json_as_it_was(encoders, build_batches, task):
    result = evaluate_encoders(encoders(task), build_batches(task), task=task)
    again = EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()
    assert again.speed("student") == result.speed("student")


@pytest.mark.parametrize("task", OF_TASK)
def test_every_metric_is_explained(task):
    assert METRICS.keys() >= OF_TASK[task]
    assert METRICS[HEADLINE[task]].better == "higher"


def test_pieces_of_one_document_are_one_document(encoders, build_batches):
    batches = build_batches("masked_lm")
    result = evaluate_encoders(encoders("masked_lm"), batches, task="masked_lm", documents=[0] * 6 + [1] * 6)
    assert result.held_out.documents == 2
    apart = evaluate_encoders(encoders("masked_lm"), batches, task="masked_lm")
    assert apart.held_out.documents > 2
    for name, metric in result.model("student").metrics.items():
        assert metric.value == pytest.approx(apart.model("student").metrics[name].value)
