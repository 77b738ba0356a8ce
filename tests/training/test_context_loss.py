"""A teacher that has read more than the student: its word on each token of an answer, wherever that stands in its own rows."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.core.errors import ModelError
from stillhouse.data.asked import Asked, Told
from stillhouse.data.context import ContextRows, Views
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.labelling import Sampled, Sparse, label
from stillhouse.models.generate import Sampling
from stillhouse.objectives import forward_kl, jsd, next_token, reverse_kl
from stillhouse.teachers import LocalTeacher, StoredTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.trainer import Schedule, train

from .cases import gradients_of, step_gradients

VOCAB, TOKENS, ROW_TOKENS = 40, 37, 48
SIZES = [(9, 4, 20), (14, 6, 3), (5, 1, 31), (11, 7, 0), (8, 3, 12), (16, 12, 30), (7, 2, 5), (10, 5, 0)]
"""Tokens of a document, of its prompt, and of what the teacher alone reads."""
TERMS = [
    Term("forward_kl", 0.7, temperature=2.0),
    Term("reverse_kl", 0.5),
    Term("jsd", 0.3, parameters={"beta": 0.3}),
    Term("next_token", 0.2),
]


def drawn(seed, count):
    return tuple(torch.randint(2, TOKENS, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.fixture
def views(build_example):
    found = []
    for seed, (tokens, prompt, more) in enumerate(SIZES):
        own = build_example(seed, tokens, prompt=prompt, vocab=TOKENS)
        weights = [0.0, *(weight * (1 + seed % 3) for weight in own.weights[1:])]
        own = Example(own.ids, tuple(weights), own.num_bytes)
        # The context may end otherwise than the student's prompt: only the answers are the same.
        told = Example((*drawn(100 + seed, more), *own.ids), ((0.0,) * more + own.weights), own.num_bytes, own.document)
        found.append(Views(own, told, None if more == 0 else 0))
    return found


@pytest.fixture
def build_student(build_model):
    return lambda family="llama", **changes: build_model(family, vocab=VOCAB, layers=2, **changes)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(vocab=VOCAB, layers=2, seed=9))


def whole(views):
    """All views, packed, in one batch."""
    (batch,) = ContextRows(views, row_tokens=ROW_TOKENS).batches(len(views))
    return batch


def loss(student, batch, teacher, terms=TERMS):
    return distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=TOKENS)


def by_definition(student, teacher, views):
    """A scalar loop: each document alone, each token of its answer by itself."""
    functions = [
        lambda q, p, y: 4.0 * forward_kl(q / 2.0, p / 2.0),  # a temperature's gradient falls with its square
        lambda q, p, y: reverse_kl(q, p),
        lambda q, p, y: jsd(q, p, beta=0.3),
        lambda q, p, y: next_token(q, y),
    ]
    total = torch.zeros(())
    for view in views:
        ours = student(torch.tensor([view.student.ids])).logits[0, :, :TOKENS]
        with torch.no_grad():
            theirs = teacher.model(torch.tensor([view.teacher.ids])).logits[0, :, :TOKENS]
        more = len(view.teacher.ids) - len(view.student.ids)
        for place, weight in enumerate(view.student.weights):
            if place and weight:
                q, p, y = ours[None, place - 1], theirs[None, more + place - 1], torch.tensor([view.student.ids[place]])
                for term, function in zip(TERMS, functions, strict=True):
                    total = total + term.weight * weight * function(q, p, y)[0]
    return total


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_packed_rows_have_the_loss_and_gradient_of_a_loop_over_single_tokens(family, build_student, teacher, views):
    """Also where a family would leak from one document into the next, and gets a row for each."""
    student = build_student(family)
    expected = by_definition(student, teacher, views)
    gradients = gradients_of(student, expected)
    found, _ = loss(student, whole(views), teacher)
    assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for name, gradient in gradients_of(student, found).items():
        assert_close(gradient, gradients[name], atol=1e-4, rtol=1e-4)


def test_what_the_teacher_alone_reads_changes_the_loss(build_student, teacher, views):
    student = build_student()
    alike = [Views(view.student, view.student) for view in views]
    told, plain = (loss(student, whole(some), teacher)[0].item() for some in (views, alike))
    assert abs(told - plain) > 0.1


def test_without_a_context_loss_and_gradients_are_those_of_plain_rows_to_the_bit(build_student, teacher, views):
    plain = PackedRows([view.student for view in views], row_tokens=ROW_TOKENS)
    alike = ContextRows([Views(view.student, view.student) for view in views], row_tokens=ROW_TOKENS)
    assert alike.rows == plain.rows and alike.lengths == plain.lengths
    found = []
    for rows in (plain, alike):
        student = build_student()
        (batch,) = rows.batches(len(rows))
        total, sums = loss(student, batch, teacher)
        found.append((total, sums, gradients_of(student, total)))
    (one, ones, gradients), (other, others, other_gradients) = found
    assert torch.equal(one, other) and torch.equal(ones, others)
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_accumulation_has_the_gradient_of_one_large_batch(rows_at_once, build_student, teacher, views, tmp_path):
    settings = {"row_tokens": ROW_TOKENS, "rows_of": lambda some, row_tokens: ContextRows(some, row_tokens=row_tokens)}
    settings |= {"terms": TERMS, "teacher": teacher, "vocab_size": TOKENS, "rows_per_step": 4}
    whole_step = step_gradients(build_student(), views, tmp_path / "whole", rows_per_micro_batch=4, **settings)
    parts = step_gradients(build_student(), views, tmp_path / "parts", rows_per_micro_batch=rows_at_once, **settings)
    for one, other in zip(whole_step, parts, strict=True):
        for name, gradient in one.items():
            assert_close(other[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("recorder", "tolerance"),
    [(None, 2e-2), (Sparse(TOKENS, 0.0, TOKENS, (1.0,)), 2e-2), (Sampled(TOKENS, 4000, 1.0, 1.0, 0), 0.1)],
)
def test_stored_answers_are_those_that_the_teacher_gives_with_its_context(
    recorder, tolerance, build_student, teacher, views, tmp_path
):
    settings = {} if recorder is None else {"recorder": recorder}
    told = ContextRows(views, row_tokens=ROW_TOKENS).teacher_examples
    label(teacher, told, tmp_path, made_from="x", row_tokens=ROW_TOKENS, **settings)
    stored, student, terms = StoredTeacher(tmp_path), build_student(), [Term("forward_kl")]
    said, _ = loss(student, whole(views), teacher, terms)
    found, _ = loss(student, whole(views), stored, terms)
    assert_close(found, said, rtol=tolerance, atol=0)


def test_what_compares_more_than_the_answers_is_refused(build_student, teacher, views):
    with pytest.raises(ModelError, match="the teacher has read more than the student"):
        loss(build_student(), whole(views), teacher, [Term("forward_kl", where="tokens")])


def asked_of(views):
    return [
        Asked(
            view.student.ids[:prompt],
            (view.student,),
            Told(view.teacher.ids[: prompt + more], (view.teacher,), view.style),
        )
        for view, (_, prompt, more) in zip(views, SIZES, strict=True)
    ]


def rollouts(views, student, told, share=1.0):
    return AskedRows(
        asked_of(views),
        student,
        student_share=share,
        sampling=Sampling(max_new_tokens=6),
        seed=7,
        stop_ids={1},
        vocab_size=TOKENS,
        max_tokens=ROW_TOKENS,
        tell=told.append,
    )


def test_the_student_answers_without_the_context_and_the_teacher_judges_with_it(build_student, teacher, views):
    told, student = [], build_student()
    rows = rollouts(views, student, told)
    batch = as_batch(rows.at_step([rows.collate(range(len(views)))], step=3)[0])
    written = []
    for rollout, view, (_, prompt, more) in zip(told, views, SIZES, strict=True):
        assert rollout.prompt == view.student.ids[:prompt]
        weights = (0.0,) * prompt + (1.0,) * len(rollout.answer)
        own = Example((*rollout.prompt, *rollout.answer), weights)
        written.append(Views(own, Example((*view.teacher.ids[:more], *own.ids), (0.0,) * more + weights)))
    assert (batch.targets == batch.teacher.targets).all()
    assert_close(loss(student, batch, teacher)[0], by_definition(student, teacher, written), atol=1e-4, rtol=1e-5)


def test_where_the_data_answers_the_rows_are_the_datas(build_student, teacher, views):
    told, student = [], build_student()
    rows = rollouts(views, student, told, share=0.0)
    batch = as_batch(rows.at_step([rows.collate(range(len(views)))], step=1)[0])
    assert not told
    assert_close(loss(student, batch, teacher)[0], loss(student, whole(views), teacher)[0], atol=1e-4, rtol=1e-5)


def test_a_student_learns_what_only_the_teacher_has_read(build_student, teacher, views, tmp_path):
    student, terms = build_student(), [Term("forward_kl")]
    before = loss(student, whole(views), teacher, terms)[0].item()
    train(
        student,
        ContextRows(views, row_tokens=ROW_TOKENS),
        terms=terms,
        teacher=teacher,
        vocab_size=TOKENS,
        schedule=Schedule(epochs=30, learning_rate=1e-2, rows_per_step=4, rows_per_micro_batch=4),
        checkpoints=tmp_path,
    )
    assert loss(student, whole(views), teacher, terms)[0].item() < 0.2 * before
