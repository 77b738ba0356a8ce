"""What a student and its teacher write together: each token by its law, and either side's own text at the ends."""

import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.together import Interleaved, Mixture, sample_together

VOCAB, LENGTHS = 20, (3, 14, 7, 1)
WAYS = [Mixture(0.3), Mixture(1.0), Interleaved(4), Interleaved(1)]
SAMPLING = Sampling(max_new_tokens=24)


@pytest.fixture
def models(build_model):
    return build_model(vocab=VOCAB, layers=2), build_model("qwen2", vocab=VOCAB + 4, layers=3, hidden=16, seed=3)


@pytest.fixture
def prompts(build_example):
    return [list(build_example(seed, length, vocab=VOCAB).ids) for seed, length in enumerate(LENGTHS)]


def write(models, prompts, way, **changes):
    settings = {"sampling": SAMPLING, "seed": 7, "stop_ids": {3}, "vocab_size": VOCAB, **changes}
    return sample_together(*models, prompts, way=way, **settings)


def tokens(written):
    return [one.tokens for one in written]


@pytest.mark.parametrize("way", [Mixture(0.0), Interleaved(VOCAB), Interleaved(10**6)])
def test_with_a_teacher_that_says_nothing_the_text_is_the_students_own(models, prompts, way):
    own = sample(models[0], prompts, sampling=SAMPLING, seed=7, stop_ids={3}, vocab_size=VOCAB)
    found = write(models, prompts, way)
    assert tokens(found) == tokens(own)
    for ours, theirs in zip(found, own, strict=True):
        assert_close(ours.draw_logprobs, theirs.logprobs, atol=1e-5, rtol=1e-5)
        assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=1e-5)


def test_where_no_proposal_is_accepted_the_text_is_the_teachers(models, prompts):
    own = sample(models[1], prompts, sampling=SAMPLING, seed="7, teacher", stop_ids={3}, vocab_size=VOCAB)
    found = write(models, prompts, Interleaved(0))
    assert tokens(found) == tokens(own)
    for ours, theirs in zip(found, own, strict=True):
        assert_close(ours.draw_logprobs, theirs.draw_logprobs, atol=1e-5, rtol=1e-5)


def test_with_all_of_the_share_the_text_is_the_teachers(models, prompts):
    own = sample(models[1], prompts, sampling=SAMPLING, seed=7, stop_ids={3}, vocab_size=VOCAB)
    assert tokens(write(models, prompts, Mixture(1.0))) == tokens(own)


def law(way, student, teacher):
    """With which probability each token comes, by definition, from both sides' log-probabilities."""
    q, p = student.exp(), teacher.exp()
    if isinstance(way, Mixture):
        return way.teacher_share * p + (1 - way.teacher_share) * q
    likeliest = set(p.argsort(descending=True)[: way.accept_top_k].tolist())
    refused = sum(float(q[token]) for token in range(len(q)) if token not in likeliest)
    return torch.stack([q[token] * (token in likeliest) + refused * p[token] for token in range(len(q))])


def both_sides(models, ids):
    """What both say after each beginning."""
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0, :, :VOCAB].log_softmax(-1) for model in models]


@pytest.mark.parametrize("way", WAYS)
def test_each_token_comes_with_the_probability_of_its_draw(models, prompts, way):
    for prompt, written in zip(prompts, write(models, prompts, way), strict=True):
        sides = both_sides(models, prompt + written.tokens)
        for place, token in enumerate(written.tokens):
            student, teacher = (side[len(prompt) - 1 + place] for side in sides)
            assert written.draw_logprobs[place] == pytest.approx(
                float(law(way, student, teacher)[token].log()), abs=1e-4
            )
            assert written.logprobs[place] == pytest.approx(float(student[token]), abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_come_as_often_as_the_law_says(models, way):
    prompt, draws = [3, 5, 2], 6000
    first = torch.tensor(tokens(write(models, [prompt] * draws, way, sampling=Sampling(max_new_tokens=1))))[:, 0]
    expected = law(way, *(side[-1].double().log_softmax(-1) for side in both_sides(models, prompt))) * draws
    counts = torch.bincount(first, minlength=VOCAB).double()
    some = expected > 5  # what chi-square needs
    observed, wanted = ([*values[some].tolist(), float(values[~some].sum())] for values in (counts, expected))
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_what_is_accepted_is_among_the_teachers_likeliest_and_the_rest_the_teachers_own(models, prompts):
    """The proposals are those that the student would have made itself."""
    prompt, many, one = prompts[1], [prompts[1]] * 300, Sampling(max_new_tokens=1)
    found = tokens(write(models, many, Interleaved(4), sampling=one))
    own = tokens(sample(models[0], many, sampling=one, seed=7, vocab_size=VOCAB, stop_ids=set()))
    proposed = [(proposal, chosen) for (proposal,), (chosen,) in zip(own, found, strict=True)]
    likeliest = set(both_sides(models, prompt)[1][-1].topk(4).indices.tolist())
    assert all(chosen == proposal for proposal, chosen in proposed if proposal in likeliest)
    assert any(chosen != proposal for proposal, chosen in proposed if proposal not in likeliest)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_prompt_with_its_number_is_answered_alike_in_any_company(models, prompts, way, batch_size):
    whole = tokens(write(models, prompts, way))
    some = write(models, [prompts[n] for n in (2, 0, 3)], way, numbers=[2, 0, 3], batch_size=batch_size)
    assert tokens(some) == [whole[n] for n in (2, 0, 3)]


def test_sampling_holds_for_both_sides(models, prompts):
    narrow = write(models, prompts, Interleaved(2), sampling=Sampling(top_k=1, max_new_tokens=24))
    for prompt, written in zip(prompts, narrow, strict=True):
        student, teacher = both_sides(models, prompt + written.tokens)
        for place, token in enumerate(written.tokens, len(prompt) - 1):
            proposal = int(student[place].argmax())
            accepted = proposal in teacher[place].topk(2).indices.tolist()
            assert token == (proposal if accepted else int(teacher[place].argmax()))


def test_a_text_ends_where_either_model_has_no_more_positions(build_model, build_example):
    prompt = list(build_example(1, 4).ids)
    for positions in ((20, 40), (40, 20)):
        models = [build_model("gpt2", max_position_embeddings=count) for count in positions]
        (found,) = sample_together(
            *models, [prompt], way=Mixture(0.5), sampling=Sampling(max_new_tokens=50), seed=0, stop_ids=set()
        )
        assert len(found.tokens) == 17
    assert [len(one.tokens) for one in write(models, [prompt], WAYS[0], stop_ids=set(), max_tokens=9)] == [5]


def test_models_in_training_write_as_in_use_and_go_on_training(models, prompts):
    expected = write(models, prompts, WAYS[0])
    for model in models:
        model.train()
    assert write(models, prompts, WAYS[0]) == expected
    assert all(module.training for model in models for module in model.modules())


def test_no_prompt_gives_no_text(models):
    assert write(models, [], WAYS[0]) == []


def test_a_model_that_cannot_remember_is_refused(build_model):
    with pytest.raises(ModelError, match="MambaForCausalLM keeps no key-value cache"):
        write((build_model(), build_model("mamba")), [[3, 4]], WAYS[0])
