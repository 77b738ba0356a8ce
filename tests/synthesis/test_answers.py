"""The teacher answers the prompts of the data: the same file whatever happens, and the gradient of the right divergence."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.data.asked import Asked
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.models.beams import beam_search
from stillhouse.models.generate import Sampling
from stillhouse.synthesis import ANSWERS, answered_by, read_answers, write_answers
from stillhouse.synthesis.answers import Answer, nearest, rouge_l
from stillhouse.teachers.answering import Answering
from stillhouse.training.loss import distillation_loss

END, LENGTHS = 1, (4, 7, 2, 9, 5, 3, 6)


@pytest.fixture
def asked(build_example, tokenizer):
    rows = [build_example(seed, n + 5, prompt=n, vocab=len(tokenizer)) for seed, n in enumerate(LENGTHS)]
    return [Asked(one.ids[:n], (one,), reference=one.ids[n:]) for one, n in zip(rows, LENGTHS, strict=True)]


@pytest.fixture(scope="module")
def teacher(build_model, tokenizer):
    return build_model(vocab=len(tokenizer), layers=2)


def _write(teacher, tokenizer, asked, folder, *, max_new_tokens=8, **changes):
    answering = Answering(**{"batch_size": 3, "sampling": Sampling(max_new_tokens=max_new_tokens), **changes})
    named = {"stop_ids": {END}, "vocab_size": len(tokenizer), "max_tokens": 14}
    outcome = write_answers(teacher, tokenizer, asked, folder=folder, answering=answering, **named)
    return outcome, read_answers(folder / ANSWERS)


@pytest.mark.parametrize("changes", [{"samples": 3}, {"method": "beam", "beams": 2}, {"method": "nearest"}])
def test_every_prompt_is_answered_in_its_room(teacher, tokenizer, asked, tmp_path, changes):
    outcome, answers = _write(teacher, tokenizer, asked, tmp_path, **changes)
    assert [answer.row for answer in answers] == sorted(answer.row for answer in answers)
    assert {answer.row for answer in answers} == set(range(len(asked)))
    for answer in answers:
        prompt = asked[answer.row].prompt
        assert answer.prompt == tokenizer.decode(list(prompt))
        assert len(answer.ids) == answer.tokens <= min(8, 14 - len(prompt))
        assert answer.finished == (answer.ids[-1] == END) and END not in answer.ids[:-1]
        assert answer.answer == tokenizer.decode(answer.ids[:-1] if answer.finished else answer.ids)
    assert sum(answer.times for answer in answers) == len(asked) * changes.get("samples", 1)
    assert outcome.answers == len(answers) and outcome.unfinished == sum(not answer.finished for answer in answers)


@pytest.mark.parametrize("changes", [{"samples": 2}, {"method": "nearest", "beams": 3}])
def test_a_kill_between_batches_changes_nothing_and_whole_batches_are_not_made_again(
    teacher, tokenizer, asked, tmp_path, changes
):
    _write(teacher, tokenizer, asked, tmp_path / "whole", **changes)
    _write(teacher, tokenizer, asked, tmp_path / "killed", **changes)
    parts = sorted((tmp_path / "killed" / "parts").iterdir())
    assert len(parts) == 3
    kept = parts[0].stat().st_mtime_ns
    for gone in (*parts[1:], tmp_path / "killed" / ANSWERS):
        gone.unlink()
    _write(teacher, tokenizer, asked, tmp_path / "killed", **changes)
    assert parts[0].stat().st_mtime_ns == kept
    whole, again = ((tmp_path / name / ANSWERS).read_bytes() for name in ("whole", "killed"))
    assert whole == again


def test_more_samples_leave_the_first_as_it_was_and_another_seed_does_not(teacher, tokenizer, asked, tmp_path):
    _, one = _write(teacher, tokenizer, asked, tmp_path / "1")
    _, three = _write(teacher, tokenizer, asked, tmp_path / "3", samples=3)
    first = {answer.row: answer.ids for answer in reversed(three)}
    assert first == {answer.row: answer.ids for answer in one}
    _, other = _write(teacher, tokenizer, asked, tmp_path / "other", seed=5)
    assert [answer.ids for answer in other] != [answer.ids for answer in one]


def test_an_answer_that_comes_again_is_written_once_and_counts_for_as_many(teacher, tokenizer, asked, tmp_path):
    tame = {"sampling": Sampling(max_new_tokens=2, top_k=2)}
    outcome, answers = _write(teacher, tokenizer, asked, tmp_path, samples=40, **tame)
    assert len({(answer.row, *answer.ids) for answer in answers}) == len(answers) < 40 * len(asked)
    assert outcome.repeats == 40 * len(asked) - len(answers)
    for row, one in enumerate(answered_by(asked, answers)):
        assert sum(piece.weights[-1] for piece in one.answered) == 40
        assert all(not any(piece.weights[: len(asked[row].prompt)]) for piece in one.answered)


def test_an_answer_that_was_cut_off_has_no_end_to_learn(asked):
    cut = Answer(0, "", "", 2, finished=False, times=1, ids=[7, 8])
    whole = Answer(0, "", "", 3, finished=True, times=1, ids=[7, 8, END])
    (one,) = answered_by(asked[:1], [cut, whole])
    learnt = [[token for token, weight in zip(p.ids, p.weights, strict=True) if weight] for p in one.answered]
    assert learnt == [[7, 8], [7, 8, END]]


def test_nearest_is_the_hypothesis_that_shares_most_with_the_datas_answer(teacher, tokenizer, asked, tmp_path):
    _, answers = _write(teacher, tokenizer, asked, tmp_path, method="nearest", beams=4)
    named = {"beams": 4, "length_penalty": 1.0, "max_new_tokens": 8, "stop_ids": {END}, "vocab_size": len(tokenizer)}
    for one, answer in zip(asked, answers, strict=True):
        (best,) = beam_search(teacher, [one.prompt], max_tokens=14, **named)
        assert answer.ids in best
        chosen = _rouge_by_definition(_without_end(answer.ids), _without_end(one.reference))
        assert chosen == max(_rouge_by_definition(_without_end(other), _without_end(one.reference)) for other in best)
    assert nearest([[5, 6, 7, END], [5, 9, 7, 8], [2, 3]], [5, 9, 8, END], stop_ids={END}) == [5, 9, 7, 8]
    assert nearest([[2, 3], [4]], [5], stop_ids={END}) == [2, 3]  # of equals the likeliest


def _without_end(ids):
    return [token for token in ids if token != END]


def _rouge_by_definition(one, other):
    """The longest subsequence of one that is one of the other, by trying all."""
    for length in range(min(len(one), len(other)), 0, -1):
        if set(itertools.combinations(one, length)) & set(itertools.combinations(other, length)):
            precision, recall = length / len(one), length / len(other)
            return 2 * precision * recall / (precision + recall)
    return 0.0


@given(
    one=st.lists(st.integers(0, 4), min_size=1, max_size=8), other=st.lists(st.integers(0, 4), min_size=1, max_size=8)
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(one, other):
    assert math.isclose(rouge_l(one, other), _rouge_by_definition(one, other), abs_tol=1e-12)


# Sequence-level distillation by enumeration: 3 tokens of which one ends, at most 2 of them.

SEQUENCES = [[END], *([first, second] for first in (0, 2) for second in range(3))]


def _logprob(model, prompt, answer):
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1, :3]
    return logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum()


def test_the_expected_gradient_of_answers_that_are_drawn_is_that_of_kl_over_sequences(build_model):
    teacher, student = (build_model(vocab=3, layers=1, seed=seed) for seed in (1, 2))
    prompt = Asked((2, 0, 2), ())
    with torch.no_grad():
        teacher_logprobs = torch.stack([_logprob(teacher, prompt.prompt, answer) for answer in SEQUENCES])
    assert_close(teacher_logprobs.exp().sum(), torch.tensor(1.0))
    student_logprobs = torch.stack([_logprob(student, prompt.prompt, answer) for answer in SEQUENCES])
    (teacher_logprobs.exp() * (teacher_logprobs - student_logprobs)).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}

    student.zero_grad()
    for answer, logprob in zip(SEQUENCES, teacher_logprobs, strict=True):
        rows = PackedRows(prompt.answer(answer).answered, row_tokens=8)
        batch = as_batch(rows.collate([rows[0]]))
        loss, _ = distillation_loss(student, batch, teacher=None, terms=[Term("next_token")], vocab_size=3)
        (logprob.exp() * loss).backward()
    for name, parameter in student.named_parameters():
        assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


def test_answers_are_drawn_as_often_as_the_teacher_finds_them_likely(build_model, tokenizer, tmp_path):
    teacher, asked = build_model(vocab=3, layers=1, seed=1), [Asked((2, 0, 2), ())]
    answering = Answering(samples=4000, sampling=Sampling(max_new_tokens=2), batch_size=4000)
    named = {"stop_ids": {END}, "vocab_size": 3, "max_tokens": 8}
    write_answers(teacher, tokenizer, asked, folder=tmp_path, answering=answering, **named)
    times = {tuple(answer.ids): answer.times for answer in read_answers(tmp_path / ANSWERS)}
    for answer in SEQUENCES:
        with torch.no_grad():
            prob = float(_logprob(teacher, asked[0].prompt, answer).exp())
        assert abs(times.get(tuple(answer), 0) - 4000 * prob) < 4 * (4000 * prob * (1 - prob)) ** 0.5
