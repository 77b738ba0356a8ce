"""Policy gradients in the trainer: on the answers of the step, however it is cut, and as whole after a kill."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.asked import Asked
from stillhouse.kernels.policy import PolicyTerm
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.models.together import Interleaved, Mixture, sample_together
from stillhouse.objectives import POLICIES, Draws, objective, reverse_kl
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.trainer import Schedule, latest_checkpoint, train

from .cases import step_gradients

VOCAB, SPOKEN, END, MOST = 40, 37, 1, 20
LENGTHS = [(9, 4), (14, 6), (5, 1), (11, 7), (8, 3), (16, 12), (7, 2), (10, 5)]
TERMS = [
    PolicyTerm("sampled_reverse_kl"),
    PolicyTerm("sampled_reverse_kl", 0.3, {"gamma": 1.0}),
    PolicyTerm("minillm", 2.0),
    PolicyTerm("minillm", 0.7, {"gamma": 1.0, "length_power": 0.0, "path_power": 1.0}),
]
WAYS = [None, Mixture(0.3), Interleaved(5)]


@pytest.fixture
def asked(build_example):
    examples = [build_example(seed, n, prompt=prompt, vocab=SPOKEN) for seed, (n, prompt) in enumerate(LENGTHS)]
    return [Asked(one.ids[:prompt], (one,)) for one, (_, prompt) in zip(examples, LENGTHS, strict=True)]


@pytest.fixture
def build_student(build_model):
    return lambda **changes: build_model(vocab=VOCAB, layers=2, **changes)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(vocab=VOCAB, layers=2, seed=9))


def make_rows(asked, student, teacher, told=None, *, way=None, **changes):
    settings = {"student_share": 1.0, "sampling": Sampling(max_new_tokens=7), "seed": 7, "stop_ids": {END}}
    settings |= {"vocab_size": SPOKEN, "max_tokens": MOST, "batch_size": 3, **changes}
    write = None if way is None else partial(sample_together, student, teacher.model, way=way)
    tell = (lambda rollout: None) if told is None else told.append
    return AskedRows(asked, student, tell=tell, write=write, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_says_what_was_drawn_and_how(asked, build_student, teacher, way):
    told = []
    rows = make_rows(asked, build_student(), teacher, told, way=way, student_share=0.6)
    batch = as_batch(rows.at_step([rows.collate(range(8))], step=1)[0])
    is_drawn = ~batch.draw_logprobs.isnan()
    by_row = {rollout.row: rollout for rollout in told}
    assert 0 < len(by_row) < 8
    for row in range(8):
        real = batch.documents[row] == 0
        found = by_row.get(row)
        expected = [] if found is None else [*[False] * len(found.prompt), *[True] * len(found.answer)]
        assert is_drawn[row][real].tolist() == (expected or [False] * int(real.sum()))
        assert not is_drawn[row][~real].any()
        logprobs = () if found is None else found.draw_logprobs
        assert_close(batch.draw_logprobs[row][is_drawn[row]], torch.tensor(logprobs))
    drawn, logprobs = batch.draws
    assert drawn.shape == logprobs.shape == batch.answers.shape == batch.targets.shape
    lengths = batch.answers.unique_consecutive(return_counts=True)[1].tolist()
    assert lengths == [int((weights > 0).sum()) for weights in batch.weights]


def by_definition(student, teacher, rollouts):
    """The mean over all tokens of each objective of each answer, from logits of one forward pass."""
    total, tokens = torch.zeros(()), 0
    for rollout in rollouts:
        ids = torch.tensor([[*rollout.prompt, *rollout.answer]])
        first, last = len(rollout.prompt) - 1, ids.shape[1] - 1
        logits = student(ids).logits[0, first:last, :SPOKEN], teacher(ids).logits[0, first:last, :SPOKEN].detach()
        places = torch.arange(last - first), torch.tensor(rollout.answer)
        said = [side.log_softmax(-1)[places] for side in logits]
        answer = torch.zeros(last - first, dtype=torch.long)
        draws = Draws(*said, torch.tensor(rollout.draw_logprobs), answer, answer == 0, reverse_kl(*logits))
        for term in TERMS:
            total = total + term.weight * objective(term.name).bind(**term.parameters)(draws).sum()
        tokens += last - first
    (total / tokens).backward()
    return {name: parameter.grad for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_step_has_the_policy_gradient_of_its_answers_however_it_is_cut(way, asked, build_student, teacher, tmp_path):
    for rows_at_once in (1, 2, 6):
        student, told = build_student(), []
        found, *_ = step_gradients(
            student,
            asked[:6],
            tmp_path / str(rows_at_once),
            row_tokens=MOST,
            rows_per_step=6,
            rows_per_micro_batch=rows_at_once,
            rows_of=lambda some, row_tokens, student=student, told=told: make_rows(
                some, student, teacher, told, way=way
            ),
            terms=TERMS,
            teacher=teacher,
            vocab_size=SPOKEN,
        )
        assert len(told) == 6
        for name, gradient in by_definition(build_student(), teacher.model, told).items():
            assert_close(found[name], gradient, atol=2e-6, rtol=2e-4)


def learn(student, asked, folder, teacher, *, terms, told=None, way=None, student_share=1.0, **schedule):
    settings = {"epochs": 3.0, "rows_per_step": 4, "rows_per_micro_batch": 2, "learning_rate": 1e-2, **schedule}
    return train(
        student,
        make_rows(asked, student, teacher, told, way=way, student_share=student_share),
        terms=terms,
        teacher=teacher,
        vocab_size=SPOKEN,
        schedule=Schedule(**settings),
        checkpoints=folder,
    )


def test_without_what_comes_after_minillm_learns_as_reverse_kl_does(asked, build_student, teacher, tmp_path):
    """On the student's answers and on the data's."""
    told, students = ([], []), []
    terms = [PolicyTerm("minillm", parameters={"gamma": 0.0})], [Term("reverse_kl")]
    for number, chosen in enumerate(terms):
        folder = tmp_path / str(number)
        students.append(
            learn(build_student(), asked, folder, teacher, terms=chosen, told=told[number], student_share=0.6)
        )
    assert [rollout.answer for rollout in told[0]] == [rollout.answer for rollout in told[1]]
    for ours, theirs in zip(*(student.parameters() for student in students), strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_teacher_without_a_share_changes_nothing(asked, build_student, teacher, tmp_path):
    told = ([], [])
    ways = (None, Mixture(0.0))
    students = [
        learn(build_student(), asked, tmp_path / str(way), teacher, terms=[TERMS[2]], told=kept, way=way)
        for way, kept in zip(ways, told, strict=True)
    ]
    assert [rollout.answer for rollout in told[0]] == [rollout.answer for rollout in told[1]]
    for ours, theirs in zip(*(student.parameters() for student in students), strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


class Killed(BaseException):
    pass


class ToldUntil(list):
    """Dies while the student writes in this step."""

    def append(self, rollout):
        if rollout.step == 5:
            raise Killed
        super().append(rollout)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_a_run_that_goes_on_from_a_checkpoint_says_and_learns_the_same(asked, build_student, teacher, tmp_path, way):
    go = partial(learn, asked=asked, teacher=teacher, terms=[TERMS[2]], way=way, save_every_steps=2)
    whole, told = build_student(), []
    go(whole, folder=tmp_path / "whole", told=told)
    with pytest.raises(Killed):
        go(build_student(), folder=tmp_path / "killed", told=ToldUntil())
    assert latest_checkpoint(tmp_path / "killed").endswith("checkpoint-4")
    again, later = build_student(), []
    go(again, folder=tmp_path / "killed", told=later)
    assert later == [rollout for rollout in told if rollout.step > 4]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("name", POLICIES)
def test_the_student_comes_nearer_to_its_teacher_on_its_own_answers(asked, build_student, teacher, tmp_path, name):
    student = build_student()

    def divergence():
        rows = make_rows(asked, student, teacher)
        batch = as_batch(rows.at_step([rows.collate(range(8))], step=1000)[0])
        sums, _ = distillation_loss(student, batch, teacher=teacher, terms=[Term("reverse_kl")], vocab_size=SPOKEN)
        return float(sums.detach() / batch.total_weight)

    before = divergence()
    learn(student, asked, tmp_path, teacher, terms=[PolicyTerm(name)], epochs=8.0)
    assert divergence() < 0.9 * before
