"""Objectives about some answers alone: the student's one way, the other's another, each divided by its own."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.asked import Asked
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.objectives import forward_kl, reverse_kl
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.terms import UNITS, shares_of, unit_counts, unit_of

from .cases import gradients_of, step_gradients

VOCAB, SPOKEN, END, MOST = 40, 37, 1, 20
LENGTHS = [(9, 4), (14, 6), (5, 1), (11, 7), (8, 3), (16, 12), (7, 2), (10, 5)]


@pytest.fixture
def asked(build_example):
    examples = [build_example(seed, n, prompt=prompt, vocab=SPOKEN) for seed, (n, prompt) in enumerate(LENGTHS)]
    return [Asked(one.ids[:prompt], (one,)) for one, (_, prompt) in zip(examples, LENGTHS, strict=True)]


@pytest.fixture
def student(build_model):
    return build_model(vocab=VOCAB, layers=2)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(vocab=VOCAB, layers=2, seed=9))


def make_rows(asked, student, *, student_share=0.5):
    return AskedRows(
        asked,
        student,
        student_share=student_share,
        sampling=Sampling(max_new_tokens=7),
        seed=7,
        stop_ids={END},
        vocab_size=SPOKEN,
        max_tokens=MOST,
    )


def batch_of(asked, student, **changes):
    rows = make_rows(asked, student, **changes)
    return as_batch(rows.at_step([rows.collate(range(len(asked)))], step=1)[0])


def by_definition(student, teacher, batch, *, average):
    """Forward KL on what others wrote and reverse KL on what the student wrote, each a mean over its own."""
    sums = {True: [], False: []}
    for row in range(len(batch.ids)):
        ids = batch.ids[row][batch.real[row]]
        judged = [place for place in range(1, len(ids)) if batch.weights[row, place] > 0]
        sides = [model(ids[None]).logits[0, :, :SPOKEN] for model in (student, teacher.model)]
        ours, theirs = (side[[place - 1 for place in judged]] for side in sides)
        own = bool(batch.by_student[row])
        values = (reverse_kl if own else forward_kl)(ours, theirs.detach())
        sums[own].append(values.mean()[None] if average == "answers" else values)
    assert all(sums.values())
    return sum(torch.cat(values).mean() for values in sums.values())


def terms_of(average, alpha=0.0):
    return [
        Term("skewed_forward_kl", 1.0, 1.0, {"alpha": alpha}, answers="teacher", average=average),
        Term("skewed_reverse_kl", 1.0, 1.0, {"alpha": alpha}, answers="student", average=average),
    ]


@pytest.mark.parametrize("average", ["tokens", "answers"])
def test_without_skew_it_is_forward_kl_on_the_others_and_reverse_kl_on_its_own_answers(
    asked, student, teacher, average
):
    batch, terms = batch_of(asked, student), terms_of(average)
    loss, _ = distillation_loss(
        student, batch, teacher=teacher, terms=terms, vocab_size=SPOKEN, counts=unit_counts(batch)
    )
    wanted = by_definition(student, teacher, batch, average=average)
    assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    found, expected = gradients_of(student, loss), gradients_of(student, wanted)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)
    nearly, _ = distillation_loss(
        student, batch, teacher=teacher, terms=terms_of(average, 1e-5), vocab_size=SPOKEN, counts=unit_counts(batch)
    )
    assert_close(nearly.detach(), loss.detach(), rtol=1e-3, atol=1e-4)


def test_every_row_is_somebodys_and_counts_where_it_should(asked, student):
    batch = batch_of(asked, student)
    assert 0 < int(batch.by_student.sum()) < len(asked)
    assert (batch.by_student == ~batch.draw_logprobs.isnan().all(-1)).all()
    counts = dict(zip(UNITS, unit_counts(batch).tolist(), strict=True))
    assert counts["student target"] + counts["other target"] == counts["target"]
    assert counts["student answer"] == pytest.approx(int(batch.by_student.sum()))
    assert counts["other answer"] == pytest.approx(int((~batch.by_student).sum()))
    assert counts["answer"] == pytest.approx(len(asked))
    assert shares_of(batch, "student", "tokens").sum() == counts["student target"]
    units = [unit_of(term) for average in ("tokens", "answers") for term in terms_of(average)]
    assert units == ["other target", "student target", "other answer", "student answer"]


def test_an_answers_mean_does_not_depend_on_its_company(asked, student, teacher):
    """Packed, padded, or alone: the mean over answers is that of each of them."""
    terms = [Term("forward_kl", average="answers")]

    def summed(batch):
        return distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=SPOKEN)[0].detach()

    together = summed(batch_of(asked, student, student_share=0.0))
    apart = sum(summed(batch_of([one], student, student_share=0.0)) for one in asked)
    assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", ["tokens", "answers"])
def test_a_step_is_the_same_however_it_is_cut(asked, student, teacher, average, tmp_path, build_model):
    batch, terms = batch_of(asked, student), terms_of(average, 0.1)
    loss, _ = distillation_loss(
        student, batch, teacher=teacher, terms=terms, vocab_size=SPOKEN, counts=unit_counts(batch)
    )
    wanted = gradients_of(student, loss)
    for rows_at_once in (1, 4):
        fresh = build_model(vocab=VOCAB, layers=2)
        found, *_ = step_gradients(
            fresh,
            asked,
            tmp_path / str(rows_at_once),
            row_tokens=MOST,
            rows_per_step=8,
            rows_per_micro_batch=rows_at_once,
            rows_of=lambda some, row_tokens, fresh=fresh: make_rows(some, fresh),
            terms=terms,
            teacher=teacher,
            vocab_size=SPOKEN,
        )
        for name, gradient in wanted.items():
            assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_a_step_in_which_chance_gave_a_term_nothing_learns_the_others(asked, teacher, tmp_path, build_model):
    lines = []
    found = step_gradients(
        build_model(vocab=VOCAB, layers=2),
        asked,
        tmp_path,
        row_tokens=MOST,
        rows_per_step=1,
        rows_per_micro_batch=1,
        rows_of=lambda some, row_tokens: make_rows(some, build_model(vocab=VOCAB, layers=2)),
        terms=terms_of("answers"),
        teacher=teacher,
        vocab_size=SPOKEN,
        log_line=lines.append,
    )
    assert len(found) == len(lines) == len(asked)
    assert {frozenset({"skewed_forward_kl", "skewed_reverse_kl"} & line.keys()) for line in lines} == {
        frozenset({"skewed_forward_kl"}),
        frozenset({"skewed_reverse_kl"}),
    }
    assert all(any(gradient.abs().sum() > 0 for gradient in step.values()) for step in found)


def test_answers_are_no_matter_where_all_tokens_count():
    with pytest.raises(ValueError, match="Leave where out"):
        Term("forward_kl", where="tokens", answers="student")
