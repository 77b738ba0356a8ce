"""Pairs of answers as a reward model reads them, and what its margins are worth as odds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.batch import RankedBatch, as_batch
from stillhouse.data.preference_forms import Preference
from stillhouse.data.rewards import RewardReader, RewardRows, form_of
from stillhouse.data.text import Row
from stillhouse.objectives import objective
from stillhouse.objectives.divergences import forward_kl
from stillhouse.objectives.preference import bernoulli_kl
from stillhouse.objectives.responses import centred_logit_mse
from stillhouse.objectives.supervised import cross_entropy

REWARDS = st.lists(st.floats(-20, 20), min_size=2, max_size=2)


def tensor(rewards):
    return torch.tensor([rewards], dtype=torch.float64)


@given(student=REWARDS, teacher=REWARDS, ours=st.floats(-9, 9), theirs=st.floats(-9, 9))
def test_what_is_added_to_all_rewards_of_a_prompt_changes_nothing(student, teacher, ours, theirs):
    for compare in (forward_kl, centred_logit_mse):
        plain = compare(tensor(student), tensor(teacher))
        shifted = compare(tensor(student) + ours, tensor(teacher) + theirs)
        assert_close(shifted, plain, rtol=1e-6, atol=1e-6)
    target = torch.tensor([0])
    assert_close(
        cross_entropy(tensor(student) + ours, target), cross_entropy(tensor(student), target), rtol=1e-6, atol=1e-6
    )


@given(student=REWARDS, teacher=REWARDS)
def test_two_rewards_as_logits_are_bradley_and_terrys_odds(student, teacher):
    margins = [torch.tensor([one[0] - one[1]], dtype=torch.float64) for one in (student, teacher)]
    assert_close(forward_kl(tensor(student), tensor(teacher)), bernoulli_kl(*margins), rtol=1e-6, atol=1e-7)
    wanted = torch.nn.functional.softplus(-margins[0])
    assert_close(cross_entropy(tensor(student), torch.tensor([0])), wanted, rtol=1e-6, atol=1e-7)
    apart = (margins[0] - margins[1]).square()
    mean_square = centred_logit_mse(tensor(student), tensor(teacher))
    assert_close(mean_square, apart / 4, rtol=1e-6, atol=1e-6)  # each of the two is off by half of it


def test_who_finds_both_equally_good_is_half_right():
    odds = torch.zeros(1, 2)
    assert objective("hard_label").name == "hard_label"
    assert_close(cross_entropy(odds, torch.tensor([1])), torch.tensor([math.log(2)]))


def pairs_of(tokenizer, number=6, *, max_tokens=90):
    reader = RewardReader(tokenizer, max_tokens=max_tokens, form="plain")
    rows = [
        Preference(
            f"p{n // 2}",
            Row(f"the fox {n}", prompt=f"who ran {n // 2}?"),
            Row("nobody" * (n + 1), prompt=f"who ran {n // 2}?"),
        )
        for n in range(number)
    ]
    return reader.pairs(rows), reader


def test_a_batch_has_both_answers_and_says_where_the_chosen_one_is(bert_tokenizer):
    pairs, _ = pairs_of(bert_tokenizer)
    rows = RewardRows(pairs, pad_id=0)
    batch = as_batch(rows.collate([rows[index] for index in range(4)]))
    assert isinstance(batch, RankedBatch) and batch.ids.shape[0] == 8 and batch.targets.tolist() == [0, 1, 0, 1]
    for number in range(4):
        chosen = batch.ids[2 * number + int(batch.targets[number])]
        assert tuple(chosen[batch.real[2 * number + int(batch.targets[number])]].tolist()) == pairs[number].chosen.ids
    assert float(batch.total_weight) == 4 and batch.segments is not None and int(batch.segments.max()) == 1
    assert rows.prompt_numbers == (0, 0, 1, 1, 2, 2)
    assert list(rows.lengths) == [max(len(side.ids) for side in pair.sides) for pair in pairs]


def test_a_pair_that_does_not_fit_is_left_out_and_counted(bert_tokenizer):
    pairs, reader = pairs_of(bert_tokenizer, max_tokens=14)
    assert len(pairs) < 6 and sum(reader.dropped.values()) == 6 - len(pairs)
    assert "beyond data.sequence_tokens (14)" in next(iter(reader.dropped))


def test_a_template_is_used_where_there_is_one(tokenizer, bert_tokenizer):
    assert form_of(tokenizer, None, source="x", key="data.form") == "chat"
    assert form_of(bert_tokenizer, None, source="x", key="data.form") == "plain"
    with pytest.raises(ValueError, match="has no chat template, but data.form is 'chat'"):
        form_of(bert_tokenizer, "chat", source="x", key="data.form")
