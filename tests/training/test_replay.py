"""A student that learns what it said before: who answers goes by the paper's rules, and a kill forgets nothing."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.objectives import Ramp
from stillhouse.training.replay import ReplayRows
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.trainer import Schedule, latest_checkpoint, train

from .test_rollouts import END, MOST, VOCAB, Killed, ToldUntil, asked, build_student, teacher

__all__ = ["asked", "build_student", "teacher"]

ANSWERING = {"sampling": Sampling(max_new_tokens=6), "seed": 7, "stop_ids": {END}, "vocab_size": VOCAB}
REPLAY = {"capacity": 4, "fresh_share": 0.5, "share_step": 0.0, "tolerance_nats": 0.1, "check_every_steps": 1}


def _rows(asked, student, told=None, **changes):
    held_out = PackedRows([piece for one in asked[:4] for piece in one.answered], row_tokens=MOST)
    settings = {**ANSWERING, "max_tokens": MOST, "student_share": 1.0, **REPLAY, **changes}
    tell = (lambda rollout: None) if told is None else told.append
    return ReplayRows(asked, student, held_out=held_out, tell=tell, **settings)


def _step(rows, indices, step, progress=0.0):
    """What each row of one batch says."""
    batch = as_batch(rows.at_step([rows.collate(indices)], step=step, progress=progress)[0])
    return [tuple(ids[real].tolist()) for ids, real in zip(batch.ids, batch.documents == 0, strict=True)]


def _said(rollouts):
    return [(*rollout.prompt, *rollout.answer) for rollout in rollouts]


def test_nothing_is_drawn_before_there_are_as_many_as_can_be_kept_and_the_oldest_is_forgotten_first(
    asked, build_student
):
    told = []
    rows = _rows(asked, build_student(), told, fresh_share=0.0)
    assert _step(rows, [0, 1, 2], 1) == _said(told)
    assert _step(rows, [3, 4], 2) == _said(told)[3:]  # together 5: one too many
    assert [one.answered[0].ids for one in rows.kept] == _said(told)[1:]
    before = list(rows.kept)
    for step in range(3, 20):
        drawn = _step(rows, [5, 6, 7], step)
        assert set(drawn) <= set(_said(told)[1:])
    assert len(told) == 5 and list(rows.kept) == before


def test_answers_are_drawn_evenly_from_all_that_is_kept(asked, build_student):
    rows = _rows(asked, build_student(), fresh_share=0.0)
    _step(rows, [0, 1, 2, 3], 1)
    drawn = [one for step in range(2, 102) for one in _step(rows, range(10), step)]
    counts = [drawn.count(one.answered[0].ids) for one in rows.kept]
    assert sum(counts) == 1000 and all(abs(count - 250) < 4 * (1000 * 0.25 * 0.75) ** 0.5 for count in counts)


def test_what_is_written_anew_follows_its_ramp_and_the_share_of_the_student(asked, build_student):
    told, plenty = [], asked * 40
    ramp = Ramp(1.0, 0.0)
    rows = _rows(
        plenty, build_student(), told, fresh_share=ramp, student_share=0.5, sampling=Sampling(max_new_tokens=1)
    )
    _step(rows, range(20), 1)  # fills what can be kept
    for step, progress in enumerate((0.0, 0.25, 0.75, 1.0), 2):
        told.clear()
        found = _step(rows, range(400), step, progress)
        anew, expected = len(told), 400 * 0.5 * (1 - progress)
        assert abs(anew - expected) <= 4 * (expected * (1 - expected / 400)) ** 0.5
        again = rows.numbers()["replayed"]
        assert abs(anew + again - 200) < 4 * (400 * 0.25) ** 0.5
        own = sum(one == plenty[row].answered[0].ids for row, one in enumerate(found))
        assert own >= 400 - anew - again  # the data's


def test_the_share_grows_where_the_held_out_loss_has_risen_since_it_last_did(asked, build_student, monkeypatch):
    table = [  # at each step: the held-out loss, and the share then
        (3.0, 0.0),
        (3.05, 0.0),
        (2.5, 0.0),  # a fall is not remembered
        (3.05, 0.0),
        (3.125, 0.25),
        (3.2, 0.25),  # risen by less since
        (3.25, 0.5),
        (9.0, 0.75),
        (9.5, 1.0),
        (99.0, 1.0),  # no more than all
    ]
    rows = _rows(asked, build_student(), student_share=0.0, share_step=0.25, tolerance_nats=0.125)
    losses = iter(loss for loss, _ in table)
    monkeypatch.setattr(rows, "_held_out_nats", lambda: next(losses))
    for step, (_, share) in enumerate(table, 1):
        _step(rows, [0], step)
        assert rows.numbers()["student_share"] == share


def test_the_held_out_loss_is_the_mean_over_tokens_without_dropout(asked, build_student):
    student = build_student(attention_dropout=0.5).train()
    rows = _rows(asked, student, share_step=0.1, student_share=0.0)
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    _step(rows, [0], 1)
    assert student.training and torch.equal(torch.rand(1), expected_draw)  # nothing else was drawn
    student.eval()
    total, weight = 0.0, 0.0
    for one in asked[:4]:
        (example,) = one.answered
        with torch.no_grad():
            logprobs = student(torch.tensor([example.ids])).logits[0, :, :VOCAB].log_softmax(-1)
        for place in range(1, len(example.ids)):
            total -= float(logprobs[place - 1, example.ids[place]]) * example.weights[place]
            weight += example.weights[place]
    assert_close(rows.numbers()["held_out_nats"], total / weight, atol=1e-5, rtol=1e-5)


def _train(student, rows, folder, teacher, **schedule):
    settings = {"epochs": 3.0, "rows_per_step": 4, "rows_per_micro_batch": 2, "learning_rate": 1e-2, **schedule}
    lines = []
    train(
        student,
        rows,
        terms=[Term("reverse_kl")],
        teacher=teacher,
        vocab_size=VOCAB,
        schedule=Schedule(**settings),
        checkpoints=folder,
        log_line=lines.append,
    )
    return lines


def _equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("fresh", [{"capacity": 0, "fresh_share": 0.0}, {"capacity": 4, "fresh_share": 1.0}])
def test_with_nothing_kept_or_all_written_anew_a_student_learns_as_on_policy(
    asked, build_student, teacher, tmp_path, fresh
):
    replayed, told, own, said = build_student(), [], build_student(), []
    _train(replayed, _rows(asked, replayed, told, **fresh), tmp_path / "replay", teacher)
    rows = AskedRows(asked, own, tell=said.append, student_share=1.0, max_tokens=MOST, **ANSWERING)
    _train(own, rows, tmp_path / "student", teacher)
    assert told == said and _equal(replayed, own)


def test_a_run_that_goes_on_from_a_checkpoint_remembers_what_was_said_and_how_far_the_share_has_come(
    asked, build_student, teacher, tmp_path, monkeypatch
):
    """The share follows something that rises as weights wander: a training this short only lowers the loss itself."""
    saved, killed = 2, 6

    def size(rows):
        return float(sum(parameter.detach().abs().sum() for parameter in rows.student.parameters()))

    monkeypatch.setattr(ReplayRows, "_held_out_nats", size)
    build = partial(build_student, attention_dropout=0.1)
    changes = {"student_share": 0.4, "share_step": 0.1, "tolerance_nats": 0.0, "fresh_share": Ramp(1.0, 0.5)}

    def run(student, folder, told):
        rows = _rows(asked, student, told, **changes)
        return _train(student, rows, tmp_path / folder, teacher, save_every_steps=saved, epochs=4.0), rows

    whole, told = build(), []
    lines, rows = run(whole, "whole", told)
    with pytest.raises(Killed):
        run(build(), "killed", ToldUntil(next(one.step for one in told if one.step >= killed)))
    checkpoint = latest_checkpoint(tmp_path / "killed")
    resumed_at = int(checkpoint.rpartition("-")[2])
    remembered = json.loads((Path(checkpoint) / "rows_0.json").read_text(encoding="utf-8"))
    assert remembered["kept"]  # there is something to forget
    again, later = build(), []
    lines_again, rows_again = run(again, "killed", later)
    assert later == [rollout for rollout in told if rollout.step > resumed_at]
    assert lines_again == lines[resumed_at:]
    assert sum(line["replayed"] for line in lines_again) > 0
    assert rows_again.state() == rows.state()
    assert lines[resumed_at]["student_share"] > 0.4  # and would not be so had it been forgotten
    assert _equal(whole, again)
