"""With the context and without: every number by its definition, and its interval over documents."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.results import EvaluationResult
from stillhouse.data.context import Views
from stillhouse.data.examples import Example
from stillhouse.evaluation.compare import Contestant, evaluate
from stillhouse.evaluation.context import InContext, judge_context
from stillhouse.reporting.contexts import context_lines, context_view

VOCAB, TOKENS = 300, 290
CONTEXTS = ((7, 8, 9, 10, 11), (20, 21, 22))


def in_both(own, context, style):
    told = Example((*context, *own.ids), ((0.0,) * len(context) + own.weights), own.num_bytes, own.document)
    return Views(own, told, style)


@pytest.fixture
def documents(build_example):
    return [build_example(seed, 8 + seed, prompt=3 + seed % 2, vocab=TOKENS) for seed in range(6)]


@pytest.fixture
def held_out(documents, build_example):
    views = [in_both(own, context, n) for own in documents for n, context in enumerate(CONTEXTS)]
    elsewhere = [build_example(50 + seed, 9, prompt=2, vocab=TOKENS) for seed in range(5)]
    told = [view.teacher for view in views if view.style == 0]
    return InContext(told, views, ("1: rules", "2: persona"), elsewhere)


@pytest.fixture
def models(build_model):
    teacher = build_model(vocab=VOCAB, layers=2, seed=1)
    student = build_model(vocab=VOCAB, layers=2, seed=1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return {"teacher": teacher, "student_before": build_model(vocab=VOCAB, layers=2, seed=1), "student": student}


@torch.no_grad()
def said(model, example):
    """Log-probabilities before each token that is judged, and these tokens."""
    logprobs = model(torch.tensor([example.ids])).logits[0, :, :TOKENS].log_softmax(-1)
    places = [place for place, weight in enumerate(example.weights) if place and weight]
    return logprobs[[place - 1 for place in places]], torch.tensor([example.ids[place] for place in places])


def by_definition(models, role, views, *, reads_context):
    """Loss, KL from the teacher that reads the context, and agreement with it, summed over all tokens; and how many."""
    sums = np.zeros(4)
    for view in views:
        theirs, _ = said(models["teacher"], view.teacher)
        ours, tokens = said(models[role], view.teacher if reads_context else view.student)
        loss = -ours.gather(-1, tokens[:, None]).sum()
        kl = (theirs.exp() * (theirs - ours)).sum()
        agree = (ours.argmax(-1) == theirs.argmax(-1)).sum()
        sums += [float(loss), float(kl), float(agree), len(tokens)]
    return sums[:3] / sums[3]


def test_every_model_is_measured_with_each_context_and_without(models, held_out):
    found = judge_context(models, held_out, vocab_size=TOKENS)
    assert [style.name for style in found.styles] == list(held_out.styles)
    for number, style in enumerate(found.styles):
        views = [view for view in held_out.views if view.style == number]
        assert style.documents == 6
        assert {(row.role, row.reads_context) for row in style.readings} == {
            (r, c) for r in models for c in (True, False)
        }
        means = {}
        for row in style.readings:
            expected = by_definition(models, row.role, views, reads_context=row.reads_context)
            names = ("cross_entropy", "forward_kl", "top1_agreement")
            assert_close([row.metrics[name].value for name in names], list(expected), atol=1e-5, rtol=1e-4)
            means[row.role, row.reads_context] = expected
        assert style.tokens_saved.value == style.tokens_saved.low == len(CONTEXTS[number])
        gain = means["teacher", False][0] - means["teacher", True][0]
        assert style.gain.value == pytest.approx(gain, abs=1e-5)
        assert style.gain.low <= style.gain.value <= style.gain.high
        kept = {(row.role, row.measure): row.share for row in style.kept}
        assert kept["student", "kl"].value == pytest.approx(
            1 - means["student", False][1] / means["teacher", False][1], abs=1e-4
        )
        assert kept["student", "kl"].low < kept["student", "kl"].value < kept["student", "kl"].high
        assert kept["student_before", "kl"].value == 0


def test_a_context_that_tells_nothing_is_no_gain_and_has_no_share(models, documents):
    views = [Views(own, own, 0) for own in documents]
    found = judge_context(models, InContext(documents, views, ["nothing"]), vocab_size=TOKENS)
    (style,) = found.styles
    assert not style.kept and not found.drift and style.gain.value == 0 and style.tokens_saved.value == 0
    assert "which is no gain that a student could keep" in context_lines(found)[0]


def test_a_prompted_teacher_in_the_place_of_the_student_has_gone_all_the_way(models, documents):
    """It says behind its own prompts what the teacher says behind the context."""
    views = [in_both(own, CONTEXTS[0], 0) for own in documents]
    reading = next(
        row
        for row in judge_context(
            {**models, "student": models["teacher"]}, InContext([], views, ["rules"]), vocab_size=TOKENS
        )
        .styles[0]
        .readings
        if row.role == "student" and row.reads_context
    )
    assert reading.metrics["forward_kl"].value == 0 and reading.metrics["top1_agreement"].value == 1


def test_by_the_loss_a_share_is_told_only_where_the_context_helps_for_certain(models, build_example):
    def answered(context, prompt, seed):
        """What the teacher itself would say behind the context."""
        ids = [*context, *prompt]
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(models["teacher"](torch.tensor([ids])).logits[0, -1, :TOKENS].argmax()))
        own = tuple(ids[len(context) :])
        return in_both(Example(own, (0.0,) * len(prompt) + (1.0,) * 12, 30), context, 0)

    prompts = [build_example(seed, 4, vocab=TOKENS).ids for seed in range(8)]
    views = [answered(CONTEXTS[0], prompt, seed) for seed, prompt in enumerate(prompts)]
    held_out = InContext([view.teacher for view in views], views, ["rules"])
    (style,) = judge_context(models, held_out, vocab_size=TOKENS).styles
    assert style.gain.low > 0
    share = {(row.role, row.measure): row.share.value for row in style.kept}
    assert share["student_before", "loss"] == pytest.approx(0, abs=1e-6)
    loss = {(row.role, row.reads_context): row.metrics["cross_entropy"].value for row in style.readings}
    expected = (loss["teacher", False] - loss["student", False]) / (loss["teacher", False] - loss["teacher", True])
    assert share["student", "loss"] == pytest.approx(expected, rel=1e-6)


def test_drift_is_told_from_a_teacher_without_context_and_over_the_start(models, held_out):
    found = judge_context(models, held_out, vocab_size=TOKENS)
    assert found.elsewhere == 5
    drift = {row.role: row for row in found.drift}
    assert drift.keys() == {"student", "student_before"}
    assert drift["student_before"].forward_kl.value == drift["student_before"].change.value == 0
    views = [Views(example, example) for example in held_out.elsewhere]
    loss, kl, _ = by_definition(models, "student", views, reads_context=False)
    before, *_ = by_definition(models, "student_before", views, reads_context=False)
    assert drift["student"].forward_kl.value == pytest.approx(kl, rel=1e-4)
    assert drift["student"].change.value == pytest.approx(loss / before - 1, abs=1e-5)


def test_the_whole_comparison_has_the_teacher_in_its_context_and_comes_back_from_json(
    models, held_out, documents, tokenizer, tmp_path, monkeypatch
):
    for module in ("cost", "compare"):
        monkeypatch.setattr(f"stillhouse.evaluation.{module}.REPEATS", 1)
    monkeypatch.setattr("stillhouse.evaluation.cost.DECODE_TOKENS", 4)
    for role, model in models.items():
        model.save_pretrained(tmp_path / role)
    contestants = [Contestant(role, role, model, tmp_path / role) for role, model in models.items()]
    result = evaluate(contestants, documents, tokenizer, num_samples=1, in_context=held_out)
    assert result.model("teacher").metrics["forward_kl"].value == 0
    assert result.model("student_before").metrics["forward_kl"].value > 0
    assert result.held_out.documents == 6 and result.teacher_tokens is None
    again = EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()
    view = context_view(again)
    assert len(view.lines) == 3 and len(view.tables) == 3
    assert context_view(EvaluationResult.from_dict({**result.to_dict(), "context": None})) is None
