"""A student that answers prompts in the step in which it learns from its answers: the loop cannot tell."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.asked import Asked, Followup, Told
from stillhouse.data.packing import to_batch
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling, sample
from stillhouse.objectives import Ramp
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.trainer import Schedule, latest_checkpoint, train

from .cases import step_gradients

VOCAB, END, MOST = 40, 1, 20
LENGTHS = [(9, 4), (14, 6), (5, 1), (11, 7), (8, 3), (16, 12), (7, 2), (10, 5), (12, 9), (6, 4)]


@pytest.fixture
def asked(build_example):
    examples = [build_example(seed, n, prompt=prompt, vocab=VOCAB) for seed, (n, prompt) in enumerate(LENGTHS)]
    return [Asked(one.ids[:prompt], (one,)) for one, (_, prompt) in zip(examples, LENGTHS, strict=True)]


@pytest.fixture
def build_student(build_model):
    return lambda **changes: build_model(vocab=VOCAB, layers=2, **changes)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(vocab=VOCAB, layers=2, seed=9))


def _rows(asked, student, told=None, **changes):
    settings = {"student_share": 1.0, "sampling": Sampling(max_new_tokens=12), "seed": 7, "stop_ids": {END}}
    settings |= {"vocab_size": VOCAB - 3, "max_tokens": MOST, "batch_size": 3, **changes}
    return AskedRows(asked, student, tell=(lambda rollout: None) if told is None else told.append, **settings)


def _batch(rows, indices, *, step=1):
    """One batch of these rows, as the step sees it."""
    return as_batch(rows.at_step([rows.collate(indices)], step=step)[0])


def test_a_step_learns_from_what_the_student_says_now_and_from_nothing_else(asked, build_student):
    told, student = [], build_student()
    batch = _batch(_rows(asked, student, told), range(10), step=4)
    assert [rollout.row for rollout in told] == list(range(10))
    for number, rollout in enumerate(told):
        real = batch.documents[number] == 0
        assert rollout.step == 4 and rollout.prompt == asked[number].prompt
        assert batch.ids[number][real].tolist() == [*rollout.prompt, *rollout.answer]
        weights = [0.0] * len(rollout.prompt) + [1.0] * len(rollout.answer)
        assert batch.weights[number][real].tolist() == weights
        assert batch.weights[number][~real].sum() == 0
        assert max(rollout.answer) < VOCAB - 3
        assert rollout.finished == (rollout.answer[-1] == END) and END not in rollout.answer[:-1]
        assert len(rollout.answer) == 12 or rollout.finished or real.sum() == MOST
    assert {rollout.finished for rollout in told} == {True, False}


TALKS = [
    Asked((5, 6, 7), (), followups=(Followup((1, 8), (9, 10)), Followup((1,), (11,))), weights=(1.0, 0.5, 2.0)),
    Asked((12, 13), (), followups=(Followup((1,), (14, 15, 16)),), weights=(1.0, 1.0)),
    Asked((17,), ()),
]
"""Conversations of three, two and one answers: each asks on behind the answer before."""


def by_hand(student, talk, row, *, step, most, sampling):
    """What the student says turn by turn, each behind its own answers; and the whole, with weights."""
    ids, weights, answers = list(talk.prompt), [0.0] * len(talk.prompt), []
    for turn, weight in enumerate(talk.weights):
        seed = f"7, step {step}" + (f", turn {turn}" if turn else "")
        settings = {"numbers": [row], "stop_ids": {END}, "vocab_size": VOCAB - 3, "max_tokens": most}
        (said,) = sample(student, [ids], sampling=sampling, seed=seed, **settings)
        answers.append((turn, tuple(ids), tuple(said.tokens)))
        ids, weights = [*ids, *said.tokens], [*weights, *[weight] * len(said.tokens)]
        if turn == len(talk.followups):
            break
        between = talk.followups[turn]
        added = between.prompt if said.tokens[-1] == END else between.closing + between.prompt
        if len(ids) + len(added) >= most:
            break
        ids, weights = [*ids, *added], [*weights, *[0.0] * len(added)]
    return ids, weights, answers


@pytest.mark.parametrize("most", [64, 12])
def test_every_turn_of_a_conversation_is_answered_behind_the_students_own_answers(build_student, most):
    """Each with the weight of its turn; questions, and ends that the student did not write, with none."""
    sampling, student, ends = Sampling(max_new_tokens=5, temperature=3.0), build_student(), set()
    for step in range(1, 9):
        told = []
        rows = _rows(TALKS, student, told, sampling=sampling, max_tokens=most)
        batch = _batch(rows, [2, 0, 1], step=step)
        for place, row in enumerate([2, 0, 1]):
            ids, weights, answers = by_hand(student, TALKS[row], row, step=step, most=most, sampling=sampling)
            real = batch.documents[place] == 0
            assert batch.ids[place][real].tolist() == ids
            assert batch.weights[place][real].tolist() == weights
            mine = [rollout for rollout in told if rollout.row == row]
            assert [(one.turn, one.prompt, one.answer) for one in mine] == answers
            ends |= {(one.turn, one.finished) for one in mine}
    assert {(0, True), (0, False), (1, True), (1, False)} <= ends
    assert most == 12 or {turn for turn, _ in ends} == {0, 1, 2}


def test_a_teacher_that_is_told_more_reads_the_same_turns_behind_it(build_student):
    """And a conversation ends where the teacher's side has no room for any answer that may come."""
    sampling, more = Sampling(max_new_tokens=5, temperature=3.0), (20, 21, 22, 23)
    talks = [replace(talk, told=Told((*more, *talk.prompt), ())) for talk in TALKS]
    for most, expected in ((64, {0, 1, 2}), (20, {0, 1})):
        told = []
        rows = _rows(talks, build_student(), told, sampling=sampling, max_tokens=most)
        tensors = rows.at_step([rows.collate([0, 1, 2])], step=1)[0]
        for row in range(3):
            ours, theirs = (
                tensors[f"{side}ids"][row][tensors[f"{side}documents"][row] == 0].tolist() for side in ("", "teacher_")
            )
            assert theirs == [*more, *ours] and len(theirs) <= most
            weights = tensors["weights"][row].tolist(), tensors["teacher_weights"][row].tolist()
            assert [w for w in weights[0] if w] == [w for w in weights[1] if w]
        assert {rollout.turn for rollout in told} == expected


def test_a_step_on_its_own_conversations_has_the_gradient_of_the_sum_over_their_answers(
    build_student, teacher, tmp_path
):
    told = []
    found, *_ = step_gradients(
        build_student(),
        TALKS,
        tmp_path,
        row_tokens=64,
        rows_per_step=3,
        rows_per_micro_batch=1,
        rows_of=lambda some, row_tokens: _rows(some, build_student(), told, max_tokens=row_tokens),
        terms=[Term("reverse_kl")],
        teacher=teacher,
        vocab_size=VOCAB - 3,
    )
    weights = [TALKS[rollout.row].weights[rollout.turn] for rollout in told]
    assert len(told) > 3 and set(weights) == {1.0, 0.5, 2.0}
    student = build_student()
    expected = _by_definition("reverse_kl", student, teacher.model, told, weights)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_answers_have_the_probability_that_the_student_gives_them(asked, build_student):
    told, student = [], build_student()
    batch = _batch(_rows(asked, student, told), range(10))
    with torch.no_grad():
        logits = torch.stack([student(ids[None]).logits[0] for ids in batch.ids])  # padding is on the right
    logprobs = logits[:, :, : VOCAB - 3].log_softmax(-1)[batch.predicts].gather(-1, batch.targets[:, None])[:, 0]
    assert_close(torch.tensor([one for rollout in told for one in rollout.logprobs]), logprobs, atol=1e-5, rtol=1e-5)


def test_an_answer_depends_on_weights_seed_row_and_step_alone(asked, build_student):
    def answers(indices, *, step=1, **changes):
        told = []
        rows = _rows(asked, changes.pop("student", None) or build_student(), told, **changes)
        rows.at_step([rows.collate(part) for part in indices], step=step)
        return {rollout.row: rollout.answer for rollout in told}

    found = answers([[0, 1, 2, 3, 4, 5]])
    assert answers([[5, 3], [1, 4], [2, 0]]) == found
    assert answers([[2, 4]], batch_size=1) == {row: found[row] for row in (2, 4)}
    others = [{"step": 2}, {"seed": 8}, {"student": build_student(seed=3)}]
    for other in others:
        assert answers([[0, 1, 2, 3, 4, 5]], **other) != found


def test_a_share_of_the_answers_is_the_datas_own(asked, build_student):
    plenty = asked * 40
    told = []
    rows = _rows(plenty, build_student(), told, student_share=0.25, sampling=Sampling(max_new_tokens=1))
    batch = _batch(rows, range(400))
    own = {rollout.row for rollout in told}
    assert abs(len(own) - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5
    for row in set(range(400)) - own:
        (example,) = plenty[row].answered
        real = batch.documents[row] == 0
        assert batch.ids[row][real].tolist() == list(example.ids)
        assert batch.weights[row][real].tolist() == list(example.weights)
    told.clear()
    _batch(rows, range(400), step=2)
    assert {rollout.row for rollout in told} != own


def test_without_a_share_of_the_student_the_data_is_learnt_as_it_is(asked, build_student):
    told = []
    batch = _batch(_rows(asked, build_student(), told, student_share=0.0), [3, 1, 4])
    expected = to_batch([list(asked[row].answered) for row in (3, 1, 4)])
    assert not told
    for name, tensor in expected.tensors().items():
        assert torch.equal(batch.tensors()[name], tensor)


def test_a_ramp_of_the_share_is_at_each_step_the_number_that_it_has_reached(asked, build_student):
    told, plenty = [], asked * 10
    named = {"sampling": Sampling(max_new_tokens=1)}
    ramped = _rows(plenty, build_student(), told, student_share=Ramp(0.0, 1.0), **named)
    for step, progress in enumerate((0.0, 0.25, 1.0), 1):
        told.clear()
        ramped.at_step([ramped.collate(range(100))], step=step, progress=progress)
        own, at_once = {rollout.row for rollout in told}, []
        constant = _rows(plenty, build_student(), at_once, student_share=progress, **named)
        constant.at_step([constant.collate(range(100))], step=step)
        assert own == {rollout.row for rollout in at_once} and ramped.numbers() == {"student_share": progress}
        assert constant.numbers() == {}


@pytest.mark.parametrize("objective", ["forward_kl", "reverse_kl", "jsd"])
def test_a_step_has_the_gradient_of_the_divergence_on_its_own_answers(
    objective, asked, build_student, teacher, tmp_path
):
    """However the step is cut into micro-batches, and with no gradient through what was drawn."""
    told = []
    parameters = {"beta": 0.3} if objective == "jsd" else {}
    for rows_at_once in (1, 2, 6):
        student = build_student()
        told.clear()
        found, *_ = step_gradients(
            student,
            asked[:6],
            tmp_path / str(rows_at_once),
            row_tokens=MOST,
            rows_per_step=6,
            rows_per_micro_batch=rows_at_once,
            rows_of=lambda some, row_tokens, student=student: _rows(some, student, told),
            terms=[Term(objective, parameters=parameters)],
            teacher=teacher,
            vocab_size=VOCAB - 3,
        )
        assert len(told) == 6
        expected = _by_definition(objective, build_student(), teacher.model, told)
        for name, gradient in expected.items():
            assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def _by_definition(objective, student, teacher, rollouts, weights=None):
    total, tokens = torch.zeros(()), 0.0
    for rollout, weight in zip(rollouts, weights or [1.0] * len(rollouts), strict=True):
        ids = torch.tensor([[*rollout.prompt, *rollout.answer]])
        first, last = len(rollout.prompt) - 1, ids.shape[1] - 1
        q, p = (model(ids).logits[0, first:last, : VOCAB - 3].log_softmax(-1) for model in (student, teacher))
        p = p.detach()
        middle = torch.logaddexp(p + torch.tensor(0.3).log(), q + torch.tensor(0.7).log())
        divergence = {
            "forward_kl": p.exp() * (p - q),
            "reverse_kl": q.exp() * (q - p),
            "jsd": 0.3 * p.exp() * (p - middle) + 0.7 * q.exp() * (q - middle),
        }[objective]
        total, tokens = total + weight * divergence.sum(), tokens + weight * len(rollout.answer)
    (total / tokens).backward()
    return {name: parameter.grad for name, parameter in student.named_parameters()}


def _train(student, asked, folder, teacher, told, **schedule):
    settings = {"epochs": 3.0, "rows_per_step": 4, "rows_per_micro_batch": 2, "learning_rate": 1e-2, **schedule}
    return train(
        student,
        _rows(asked, student, told, student_share=0.7),
        terms=[Term("reverse_kl")],
        teacher=teacher,
        vocab_size=VOCAB - 3,
        schedule=Schedule(**settings),
        checkpoints=folder,
    )


def test_answers_are_made_with_the_weights_of_the_step_in_which_they_are_learnt(
    asked, build_student, teacher, tmp_path
):
    """Loaders read a batch ahead: answers made there would be a step old."""
    told, weights, student = [], {}, build_student()

    def keep(rollout):
        weights.setdefault(rollout.step, {name: value.clone() for name, value in student.state_dict().items()})
        told.append(rollout)

    _train(student, asked, tmp_path, teacher, type("Told", (), {"append": staticmethod(keep)}))
    assert {rollout.step for rollout in told} == set(range(1, 10))
    first = build_student()
    assert all(torch.equal(weights[1][name], value) for name, value in first.state_dict().items())
    for step in range(2, 10):
        before = build_student()
        before.load_state_dict(weights[step])
        rollouts = [rollout for rollout in told if rollout.step == step]
        again = sample(
            before,
            [rollout.prompt for rollout in rollouts],
            sampling=Sampling(max_new_tokens=12),
            seed=f"7, step {step}",
            numbers=[rollout.row for rollout in rollouts],
            stop_ids={END},
            vocab_size=VOCAB - 3,
            max_tokens=MOST,
        )
        assert [tuple(one.tokens) for one in again] == [rollout.answer for rollout in rollouts]
        assert any(not torch.equal(weights[step][name], value) for name, value in weights[step - 1].items())


class Killed(BaseException):
    pass


class ToldUntil(list):
    """Dies while the student writes in this step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def append(self, rollout):
        if rollout.step == self.step:
            raise Killed
        super().append(rollout)


def test_a_run_that_goes_on_from_a_checkpoint_says_and_learns_the_same(asked, build_student, teacher, tmp_path):
    saved, killed = 5, 8
    build = partial(build_student, attention_dropout=0.1)
    whole, told = build(), []
    _train(whole, asked, tmp_path / "whole", teacher, told, save_every_steps=saved)
    with pytest.raises(Killed):
        _train(build(), asked, tmp_path / "killed", teacher, ToldUntil(killed), save_every_steps=saved)
    resumed_at = int(latest_checkpoint(tmp_path / "killed").rpartition("-")[2])
    assert resumed_at == (killed - 1) // saved * saved
    again, later = build(), []
    _train(again, asked, tmp_path / "killed", teacher, later, save_every_steps=saved)
    assert later == [rollout for rollout in told if rollout.step > resumed_at]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_student_comes_nearer_to_its_teacher_on_its_own_answers(asked, build_student, teacher, tmp_path):
    student = build_student()

    def divergence():
        batch = _batch(_rows(asked, student), range(10), step=1000)
        sums, _ = distillation_loss(student, batch, teacher=teacher, terms=[Term("reverse_kl")], vocab_size=VOCAB - 3)
        return float(sums.detach() / batch.total_weight)

    before = divergence()
    _train(student, asked, tmp_path, teacher, [], epochs=12.0)
    assert divergence() < 0.7 * before
