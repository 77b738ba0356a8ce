"""Replayed rows among new ones: how many, which, in which order, and what each of them teaches."""

from itertools import accumulate
from random import Random

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch, one_document_a_row
from stillhouse.data.asked import Asked, Told
from stillhouse.data.context import ContextRows, Views
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.policy import PolicyTerm
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm
from stillhouse.training.loss import distillation_loss
from stillhouse.training.mixing import DocumentRows, MixedRows, joined
from stillhouse.training.order import MixedByLength
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.terms import counts_apart, unit_counts
from stillhouse.training.trainer import DistillationTrainer, Schedule, latest_checkpoint, train

from .cases import gradients_of, step_gradients

VOCAB, TOKENS, END = 40, 37, 1
TERMS = [Term("forward_kl", 0.7, temperature=2.0), Term("next_token", 0.2)]
CORPUS = [Term("next_token", 0.6)]


def order(*, new=37, old=11, replayed=9, step=4, seed=0, replay_seed=0, epoch=0):
    lengths = Random(1).choices(range(3, 60), k=new + old)
    rows = MixedByLength(
        lengths[:new], lengths[new:], num_replayed=replayed, rows_per_step=step, seed=seed, replay_seed=replay_seed
    )
    rows.set_epoch(epoch)
    return list(rows)


@pytest.mark.parametrize(
    ("new", "old", "replayed", "step"), [(37, 11, 9, 4), (40, 3, 40, 8), (5, 50, 45, 7), (9, 2, 1, 32)]
)
def test_an_epoch_has_all_new_rows_and_so_many_others_spread_as_evenly_as_can_be(new, old, replayed, step):
    rows = order(new=new, old=old, replayed=replayed, step=step)
    assert sorted(row for row in rows if row < new) == list(range(new))
    is_old = [row >= new for row in rows]
    assert sum(is_old) == replayed
    for number, count in enumerate(accumulate(is_old), start=1):
        assert abs(count - number * replayed / len(rows)) <= 1
    full = [sum(is_old[start : start + step]) for start in range(0, len(rows) - step + 1, step)]
    assert not full or max(full) - min(full) <= 1


def test_which_rows_are_replayed_and_when_depends_on_seeds_and_epoch_alone():
    assert order(epoch=3) == order(epoch=3)
    assert (
        len(
            {tuple(order(seed=seed, replay_seed=other, epoch=n)) for seed in (0, 1) for other in (0, 1) for n in (0, 1)}
        )
        == 8
    )
    # The same are replayed whatever the seed of the training, which only says when.
    assert {row for row in order(seed=0) if row >= 37} == {row for row in order(seed=1) if row >= 37}


def test_all_old_rows_come_before_any_comes_again():
    epochs = [[row for row in order(epoch=n) if row >= 37] for n in range(11)]  # 9 of 11 each: 9 passes
    counts = [sum(rows.count(row) for rows in epochs) for row in range(37, 48)]
    assert counts == [9] * 11
    assert set(range(37, 48)) - set(epochs[0]) <= set(epochs[1])


def test_rows_of_a_step_are_of_like_length():
    lengths = Random(1).choices(range(3, 60), k=300 + 100)

    def padded(rows):
        steps = [rows[start : start + 8] for start in range(0, len(rows), 8)]
        return sum(max(lengths[row] for row in step) * len(step) for step in steps)

    rows = order(new=300, old=100, replayed=100, step=8)
    assert sum(lengths) > 0.85 * padded(rows)
    assert sum(lengths) < 0.65 * padded(Random(0).sample(rows, len(rows)))


# What they are.


@pytest.fixture
def examples(build_example):
    return [build_example(seed, 5 + seed % 7, prompt=1 + seed % 3, vocab=TOKENS) for seed in range(14)]


@pytest.fixture
def build_student(build_model):
    return lambda **changes: build_model(vocab=VOCAB, layers=2, **changes)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(vocab=VOCAB, layers=2, seed=9))


def packed(examples):
    return PackedRows(examples, row_tokens=16)


def mixed(examples, *, share=0.3, seed=0):
    """The first ten are new, the others old."""
    return MixedRows(packed(examples[:10]), packed(examples[10:]), share=share, seed=seed)


def whole(rows):
    """All rows of both sides in one batch."""
    items = [rows[index] for index in range(len(rows.lengths))]
    return as_batch(rows.at_step([rows.collate(items)], step=1)[0])


def alone(rows):
    (batch,) = rows.batches(99)
    return batch


def loss(student, batch, teacher, terms, *, replay_terms=()):
    return distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=TOKENS, replay_terms=replay_terms)


def test_a_batch_says_which_rows_are_replayed_and_counts_them(examples):
    rows = mixed(examples)
    batch = whole(rows)
    assert batch.replayed.tolist() == [False] * len(rows.new) + [True] * len(rows.old)
    assert rows.numbers() == {"replayed_rows": len(rows.old)}
    assert len(rows) == len(rows.new) + rows.num_replayed and len(rows.lengths) == len(rows.new) + len(rows.old)
    counts = counts_apart(batch, apart=True)
    assert_close(counts[0], unit_counts(alone(rows.new)))
    assert_close(counts[1], unit_counts(alone(rows.old)))
    assert_close(counts_apart(batch, apart=False)[0], counts.sum(0))
    spread = one_document_a_row(batch)
    assert spread.num_documents == len(spread.ids) == 14 and int(spread.replayed.sum()) == 4


def test_only_one_side_is_joined_too(examples):
    (batch,) = packed(examples[:3]).batches(9)
    assert as_batch(joined(batch.tensors(), {})).replayed.tolist() == [False] * len(batch.ids)
    assert as_batch(joined({}, batch.tensors())).replayed.tolist() == [True] * len(batch.ids)


def test_where_the_objectives_are_learnt_of_both_the_loss_is_that_of_all_rows(examples, build_student, teacher):
    rows = mixed(examples)
    student = build_student()
    expected, _ = loss(student, alone(packed(examples)), teacher, TERMS)
    gradients = gradients_of(student, expected)
    found, _ = loss(student, whole(rows), teacher, TERMS)
    assert_close(found, expected)
    assert_close(gradients_of(student, found), gradients)


@pytest.mark.parametrize(
    "terms",
    [TERMS, [*TERMS, FeatureTerm("hidden_mse", 0.4, ((1, 1), (2, 2))), FeatureTerm("attention_kl", 0.3, ((1, 1),))]],
)
def test_the_loss_with_replay_is_the_sum_of_both_parts_computed_apart(examples, build_student, teacher, terms):
    """Value, gradient and each term's sum; the teacher is asked about the new rows alone."""
    rows = mixed(examples)
    student = build_student()
    (ours, sums), (theirs, corpus) = (
        loss(student, alone(rows.new), teacher, terms),
        loss(student, alone(rows.old), None, CORPUS),
    )
    gradients = gradients_of(student, ours + theirs)

    class Listening:
        vocab_size, asked = teacher.vocab_size, 0

        def signals(self, batch, wanted):
            self.asked += batch.num_documents
            return teacher.signals(batch, wanted)

    listening = Listening()
    found, both = loss(student, whole(rows), listening, terms, replay_terms=CORPUS)
    assert_close(found, ours + theirs)
    assert_close(both, torch.cat([sums, corpus]))
    assert_close(gradients_of(student, found), gradients)
    assert listening.asked == 10


@pytest.mark.parametrize("rows_per_micro_batch", [1, 3])
def test_each_mean_is_over_its_own_tokens_of_the_step_however_it_is_cut(
    examples, build_student, teacher, tmp_path, rows_per_micro_batch
):
    student = build_student()
    rows = mixed(examples, share=0.4)
    expected = []
    for start in range(0, len(rows), 3):
        chosen = list(rows.order(rows_per_step=3, seed=0))[start : start + 3]
        batch = as_batch(rows.at_step([rows.collate([rows[row] for row in chosen])], step=1)[0])
        total = torch.zeros(())
        for part, terms, own in ((~batch.replayed, TERMS, teacher), (batch.replayed, CORPUS, None)):
            if part.any():
                some = batch.of_rows(part)
                total = total + loss(student, some, own, terms)[0] / some.total_weight
        expected.append(gradients_of(student, total))
    found = step_gradients(
        build_student(),
        [],
        tmp_path,
        row_tokens=16,
        rows_per_step=3,
        rows_per_micro_batch=rows_per_micro_batch,
        rows_of=lambda _examples, row_tokens: rows,
        terms=TERMS,
        teacher=teacher,
        vocab_size=TOKENS,
        replay_terms=CORPUS,
    )
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def asked_rows(asked, student):
    settings = {"student_share": 1.0, "sampling": Sampling(max_new_tokens=7), "seed": 7, "stop_ids": {END}}
    return AskedRows(asked, student, vocab_size=TOKENS, max_tokens=20, batch_size=3, **settings)


@pytest.mark.parametrize("in_context", [False, True])
def test_minillm_with_a_corpus_is_the_sum_of_both(examples, build_student, teacher, in_context):
    """The student answers the prompts, and what is replayed keeps the data's own words."""
    student, term = build_student(), PolicyTerm("minillm", 2.0, {"gamma": 0.9})
    asked = [
        Asked(one.ids[:4], (one,), told=Told((5, *one.ids[:4]), (one,)) if in_context else None) for one in examples
    ]
    new, old = asked_rows(asked[:6], student), DocumentRows(asked[6:], in_context=in_context)
    rows = MixedRows(new, old, share=0.5)
    batch = whole(rows)
    answered = as_batch(new.at_step([new.collate(range(6))], step=1)[0])
    replayed = batch.of_rows(batch.replayed)
    assert [tuple(row[real].tolist()) for row, real in zip(replayed.ids, replayed.real, strict=True)] == [
        one.ids for one in examples[6:]
    ]
    assert replayed.draw_logprobs.isnan().all()
    parts = loss(student, answered, teacher, [term])[0], loss(student, alone(packed(examples[6:])), None, CORPUS)[0]
    gradients = gradients_of(student, parts[0] + parts[1])
    found, _ = loss(student, batch, teacher, [term], replay_terms=CORPUS)
    assert_close(found, parts[0] + parts[1])
    assert_close(gradients_of(student, found), gradients)


def test_rows_of_a_teacher_that_reads_more_are_mixed_with_rows_that_both_read(examples, build_student, teacher):
    views = [
        Views(one, one.__class__((7, 8, *one.ids), (0.0, 0.0, *one.weights), 0, one.document), 0)
        for one in examples[:6]
    ]
    alike = [Views(one, one) for one in examples[6:]]
    new, old = ContextRows(views, row_tokens=20), ContextRows(alike, row_tokens=20)
    student = build_student()
    expected = loss(student, alone(new), teacher, TERMS)[0] + loss(student, alone(old), teacher, TERMS)[0]
    assert_close(loss(student, whole(MixedRows(new, old, share=0.5)), teacher, TERMS)[0], expected)


@pytest.mark.parametrize("on_policy", [False, True])
def test_a_run_that_stops_ends_with_the_same_student(
    examples, build_student, teacher, tmp_path, monkeypatch, on_policy
):
    asked = [Asked(one.ids[:4], (one,)) for one in examples]

    def run(folder):
        student, logged = build_student(seed=3), []
        new = asked_rows(asked[:10], student) if on_policy else packed(examples[:10])
        old = DocumentRows(asked[10:], in_context=False) if on_policy else packed(examples[10:])
        schedule = Schedule(epochs=3, learning_rate=1e-2, rows_per_step=3, rows_per_micro_batch=1, save_every_steps=2)
        terms = [Term("reverse_kl")] if on_policy else TERMS
        settings = {"terms": terms, "teacher": teacher, "vocab_size": TOKENS, "replay_terms": CORPUS}
        rows = MixedRows(new, old, share=0.4, seed=5)
        train(student, rows, schedule=schedule, checkpoints=folder, log_line=logged.append, **settings)
        return student.state_dict(), logged

    expected, lines = run(tmp_path / "whole")
    assert all(line["replayed_rows"] in (0, 1, 2) and "replay_next_token" in line for line in lines[:-1])
    compute = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return compute(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert latest_checkpoint(tmp_path / "cut").endswith("checkpoint-4")
    found, again = run(tmp_path / "cut")
    assert again == lines[4:]
    assert_close(found, expected, rtol=0, atol=0)


def test_a_step_of_replayed_rows_alone_leaves_the_objectives_as_they_are(examples, build_student, teacher, tmp_path):
    """The last step may be one row, and that is an old one."""
    rows, logged = mixed(examples, share=0.5), []
    schedule = Schedule(learning_rate=1e-3, rows_per_step=len(rows) - 1, rows_per_micro_batch=1)
    settings = {"terms": TERMS, "teacher": teacher, "vocab_size": TOKENS, "replay_terms": CORPUS}
    train(build_student(), rows, schedule=schedule, checkpoints=tmp_path, log_line=logged.append, **settings)
    assert [line["replayed_rows"] for line in logged] == [rows.num_replayed - 1, 1]
    assert "forward_kl" not in logged[-1] and logged[-1]["replay_next_token"] > 0 and logged[-1]["tokens"] > 0
