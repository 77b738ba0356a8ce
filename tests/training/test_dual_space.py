"""Distillation in two spaces: what both sides say by one head, through maps that are trained beside the student."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.packing import to_batch
from stillhouse.data.paired import PairedRows
from stillhouse.kernels.terms import Term
from stillhouse.models.token_bytes import common_outcomes
from stillhouse.objectives import objective
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training.dual_space import QUERY, STATES, VALUE, dual_space_widths
from stillhouse.training.features import FeatureTerm
from stillhouse.training.loss import distillation_loss

from .cases import gradients_of, step_gradients
from .test_paired_loss import TEXTS, TOKENS, batch_of, other_tokenizer, pairs_of  # noqa: F401

VOCAB = 60


def dual(space, **parameters):
    return FeatureTerm(f"dual_space_{space}", parameters=parameters)


def maps_for(*terms, student=32, teacher=32, is_paired=False, seed=3):
    widths = dual_space_widths(terms, student_width=student, teacher_width=teacher, is_paired=is_paired)
    return Projections(widths, seed=seed, always=widths)


@pytest.fixture
def batch(build_example):
    return to_batch(
        [[build_example(seed, 9 + seed, prompt=3, vocab=VOCAB) for seed in range(3)], [build_example(9, 12)]]
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_the_same_model_and_no_turn_in_between_both_sides_say_the_same(temperature, batch, build_model):
    student, teacher = build_model(seed=1), LocalTeacher(build_model(seed=1))
    terms = [dual("student", temperature=temperature), dual("teacher", temperature=temperature), Term("next_token")]
    maps = maps_for(*terms[:2])
    assert set(maps.numbers) == {VALUE, STATES}
    loss, sums = distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=300, projections=maps)
    assert_close(sums[0], sums[2])  # what is mapped learns the data, and that is all
    assert_close(sums[1], torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(loss.detach(), sums.sum())


def by_hand(student, teacher, batch, maps, temperature, size):
    """Both spaces over all logits at once."""
    places = batch.predicts
    sides = []
    for model in (student, teacher):
        states = model.model(**model_inputs(batch)).last_hidden_state[places]
        sides.append((states, model.lm_head.weight[:size]))
    (ours, our_head), (theirs, their_head) = sides
    mapped = maps(VALUE, theirs) @ our_head.detach().T
    right = torch.ones(len(ours), dtype=torch.bool)
    first = objective("dual_space_student", temperature=temperature).function(
        ours @ our_head.T, mapped, batch.targets, right
    )
    second = objective("dual_space_teacher", temperature=temperature).function(
        maps(STATES, ours) @ their_head.T, theirs @ their_head.T
    )
    return [(values * batch.target_weights).sum() for values in (first, second)]


def model_inputs(batch):
    return {"input_ids": batch.ids, "position_ids": batch.positions}


def test_values_and_gradients_are_those_of_the_objectives_over_all_logits(build_example, build_model):
    """Of models of other widths and padded heads, a document a row."""
    rows = to_batch([[build_example(seed, 9, prompt=3, vocab=VOCAB)] for seed in range(3)])
    student = build_model(seed=1, vocab=VOCAB + 4, hidden=16).double()
    teacher = build_model(seed=2, vocab=VOCAB + 1, hidden=24).double().requires_grad_(False)
    terms = [dual("student", temperature=2.0), dual("teacher", temperature=2.0)]
    maps = maps_for(*terms, student=16, teacher=24).double()
    pupil = torch.nn.ModuleList([student, maps])
    wanted = by_hand(student, teacher, rows, maps, 2.0, VOCAB)
    slopes = gradients_of(pupil, wanted[0] + wanted[1])
    loss, sums = distillation_loss(
        student, rows, teacher=LocalTeacher(teacher), terms=terms, vocab_size=VOCAB, projections=maps
    )
    assert_close(sums, torch.stack(wanted).detach())
    assert_close(gradients_of(pupil, loss), slopes)


def test_no_head_learns_from_what_is_mapped(batch, build_model):
    """The student's head learns only to say what is said; the student itself learns nothing where both are one."""
    student = build_model(seed=1, tie_word_embeddings=False)
    maps = maps_for(dual("student"))
    loss, _ = distillation_loss(
        student,
        batch,
        teacher=LocalTeacher(build_model(seed=1, tie_word_embeddings=False)),
        terms=[dual("student")],
        vocab_size=300,
        projections=maps,
    )
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in student.parameters())
    assert maps.maps[0].grad.abs().max() > 1e-3


# Across tokenizers


def across(tokenizer, other, build_model, term, texts=TEXTS, *, double=True, maps=None):
    pairs, common = pairs_of(tokenizer, other, texts), common_outcomes(tokenizer, other)
    student = build_model(seed=1, vocab=len(tokenizer) + 5, hidden=16)
    teacher = build_model("mistral", seed=2, vocab=len(other) + 1, hidden=24).requires_grad_(False)
    maps = maps or maps_for(term, student=16, teacher=24, is_paired=True)
    if double:
        student, teacher, maps = student.double(), teacher.double(), maps.double()
    loss, _ = distillation_loss(
        student,
        batch_of(pairs),
        teacher=LocalTeacher(teacher),
        terms=[term],
        vocab_size=len(tokenizer),
        projections=maps,
        common=common,
    )
    return loss, student, teacher, maps, pairs


def states_of(model, ids):
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    last = model.model(torch.tensor([ids])).last_hidden_state[0]
    return out.hidden_states[0][0], last.detach()


@pytest.mark.parametrize("space", ["student", "teacher"])
def test_attention_between_two_models_is_as_published(space, tokenizer, other_tokenizer, build_model):  # noqa: F811
    """By hand, document by document: queries, keys and values, the softmax over the document's own tokens."""
    term = dual(space, temperature=2.0)
    loss, student, teacher, maps, pairs = across(tokenizer, other_tokenizer, build_model, term)
    total = 0.0
    for pair in pairs:
        (our_words, ours), (their_words, theirs) = (
            states_of(model, side.ids) for model, side in ((student, pair.student), (teacher, pair.teacher))
        )
        a, b = (
            torch.tensor([place - 1 for place, span in enumerate(spans) if span >= 0])
            for spans in (pair.student_spans, pair.teacher_spans)
        )
        key = torch.cat([their_words[b], their_words[b + 1]], -1)
        scores = maps(QUERY, torch.cat([our_words[a], our_words[a + 1]], -1)) @ (key / key.std(correction=0)).T
        scores = scores / math.sqrt(2 * 24)
        ids = torch.tensor(pair.student.ids)[a + 1]
        if space == "student":
            value = theirs[b] / theirs[b].std(correction=0) + their_words[b + 1] / their_words[b + 1].std(correction=0)
            attention = scores.softmax(-1)
            assert_close(attention.sum(-1), torch.ones(len(a), dtype=torch.double))
            head = student.lm_head.weight[: len(tokenizer)]
            mapped = attention @ maps(VALUE, value) @ head.T
            values = objective(term.name, temperature=2.0).function(
                ours[a] @ head.T, mapped, ids, mapped.argmax(-1) == ids
            )
            total += values.sum()
        else:
            head = teacher.lm_head.weight[: len(other_tokenizer)]
            mapped = scores.T.softmax(-1) @ maps(STATES, ours[a]) @ head.T
            values = objective(term.name, temperature=2.0).function(mapped, theirs[b] @ head.T)
            total += values.sum() * len(a) / len(b)
    assert_close(loss.detach(), total.detach())
    loss.backward()
    assert all(found.grad is not None and found.grad.abs().max() > 0 for found in maps.maps)


@pytest.mark.parametrize("per_micro_batch", [1, 2])
def test_uneven_micro_batches_give_the_gradient_of_one_large_batch(
    per_micro_batch,
    tokenizer,
    other_tokenizer,  # noqa: F811
    build_model,
    tmp_path,
):
    pairs = pairs_of(tokenizer, other_tokenizer, [TEXTS[3] + TEXTS[2], TEXTS[1] + TEXTS[2], TEXTS[0] + TEXTS[4]])
    terms = [dual("student"), dual("teacher")]
    found = []
    for size in (4, per_micro_batch):
        (gradients,) = step_gradients(
            build_model(seed=1, vocab=len(tokenizer)),
            pairs,
            tmp_path / str(size),
            row_tokens=TOKENS,
            rows_per_step=4,
            rows_per_micro_batch=size,
            rows_of=PairedRows,
            terms=terms,
            teacher=LocalTeacher(build_model(seed=2, vocab=len(other_tokenizer))),
            vocab_size=len(tokenizer),
            common=common_outcomes(tokenizer, other_tokenizer),
            projections=maps_for(*terms, is_paired=True),
        )
        found.append(gradients)
    assert any("projections" in name for name in found[0])
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_document_in_which_nothing_is_compared_counts_for_nothing(
    tokenizer,
    other_tokenizer,  # noqa: F811
    build_model,
):
    pairs = pairs_of(tokenizer, other_tokenizer)
    bare = [replace(pair, student_spans=(-1,) * len(pair.student_spans)) for pair in pairs[:1]]
    bare = [replace(pair, teacher_spans=(-1,) * len(pair.teacher_spans)) for pair in bare]
    rows = PairedRows(bare, row_tokens=TOKENS)
    loss, _ = distillation_loss(
        build_model(vocab=len(tokenizer)),
        as_batch(rows.collate([rows[0]])),
        teacher=LocalTeacher(build_model(vocab=len(other_tokenizer))),
        terms=[dual("student")],
        vocab_size=len(tokenizer),
        projections=maps_for(dual("student"), is_paired=True),
        common=common_outcomes(tokenizer, other_tokenizer),
    )
    assert loss == 0
