"""A beam search finds what a search of everything finds, and of one beam what greedy text is."""

import itertools

import pytest
import torch

from stillhouse.models.beams import beam_search
from stillhouse.models.generate import Sampling, generate

VOCAB, END, MOST = 4, 1, 3
PROMPTS = [[0, 2, 3], [3], [2, 2, 0, 3, 3], [0, 3], [3, 2]]


def _search(model, prompts=PROMPTS, **changes):
    named = {"beams": 24, "length_penalty": 0.0, "max_new_tokens": MOST, "stop_ids": {END}, "vocab_size": VOCAB}
    return beam_search(model, prompts, **{**named, **changes})


def _everything():
    """Every answer there is: cut at the limit, or ended once."""
    for length in range(1, MOST + 1):
        for answer in itertools.product(range(VOCAB), repeat=length):
            if END not in answer[:-1] and (answer[-1] == END or length == MOST):
                yield list(answer)


@torch.no_grad()
def _scores(model, prompt, length_penalty):
    """Each answer's log-probability over its length to a power, one answer at a time."""
    scores = []
    for answer in _everything():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1, :VOCAB]
        logprobs = logits.double().log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])
        scores.append(float(logprobs.sum()) / len(answer) ** length_penalty)
    return scores


@pytest.mark.parametrize("length_penalty", [0.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_of_a_wide_search_is_the_best_of_all_answers(build_model, seed, length_penalty):
    """The head is padded by two tokens that nobody may write; the model has a penalty of its own that must not count."""
    model = build_model(vocab=VOCAB + 2, layers=2, seed=seed)
    model.generation_config.repetition_penalty = 3.0
    found = _search(model, length_penalty=length_penalty, max_new_tokens=MOST)
    for prompt, best in zip(PROMPTS, found, strict=True):
        scores = _scores(model, prompt, length_penalty)
        everything = list(_everything())
        assert best[0] == everything[scores.index(max(scores))]
    assert model.generation_config.repetition_penalty == 3.0


def test_the_n_best_are_the_n_likeliest_in_their_order(build_model):
    model = build_model(vocab=VOCAB, layers=2, seed=4)
    for prompt, best in zip(PROMPTS, _search(model), strict=True):
        scores = _scores(model, prompt, 0.0)
        ranked = [answer for _, answer in sorted(zip(scores, _everything(), strict=True), reverse=True)]
        assert best[:5] == ranked[:5]


def test_one_beam_is_greedy_text(build_model):
    model = build_model(vocab=40, layers=2, seed=2)
    named = {"beams": 1, "max_new_tokens": 12, "vocab_size": 40}
    greedy = generate(model, PROMPTS, sampling=Sampling(temperature=0, max_new_tokens=12), seed=0, stop_ids={END})
    assert [best for (best,) in _search(model, **named)] == greedy
    assert [best for (best,) in _search(model, batch_size=2, **named)] == greedy


def test_no_prompt_grows_beyond_the_room_that_there_is(build_model):
    """However it is batched: each prompt has the answer that it has alone."""
    model = build_model(vocab=40, layers=2, seed=2)
    named = {"beams": 3, "max_new_tokens": 12, "vocab_size": 40, "max_tokens": 9, "stop_ids": set()}
    together = _search(model, **named)
    for prompt, best in zip(PROMPTS, together, strict=True):
        assert {len(answer) for answer in best} == {9 - len(prompt)}
    assert [_search(model, [prompt], **named)[0] for prompt in PROMPTS] == together
