"""TRL's GOLD trainer, wherever its definitions and ours agree.

They part, on purpose, in four things. GOLD pairs tokens that are written alike, we pair those that spell the same bytes. It
compares the distribution at a span's last token, after texts that differ; we compare at the span's first, where both sides
have read the same. What tokens both have is no distribution there, and is clamped at 1e-8; ours sums to one. And its
tokenizers must be byte-level, ours may also be of pieces with byte fallback.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.alignment import align
from stillhouse.objectives import Reading, jsd, sorted_mass, span_logprobs, span_outcomes

gold_trainer = pytest.importorskip("trl.experimental.gold.gold_trainer")

SEEDS = st.integers(0, 2**31)
PROMPT = 2
"""Tokens before the answer, so that its first has something to be predicted from."""


def gold(**settings):
    """GOLD's loss alone, of nothing but the distance of distributions."""
    usual = {
        "uld_crossentropy_weight": 0.0,
        "uld_distillation_weight": 1.0,
        "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0,
        "uld_skip_student_eos": False,
        "uld_skip_teacher_eos": False,
        "use_extended_uld": True,
        "uld_token_merge_strategy": "bayesian",
        "uld_use_hybrid_loss": False,
        "uld_hybrid_matched_weight": None,
        "uld_hybrid_unmatched_weight": None,
        "beta": 0.5,
    }
    tokenizer = SimpleNamespace(get_vocab=lambda: {f"token {number}": number for number in range(6)})
    return gold_trainer.ULDLoss(SimpleNamespace(**{**usual, **settings}), tokenizer, tokenizer)


def random_logits(seed, *shape):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_ends(seed, total):
    """A text of that many bytes, cut at random."""
    chosen = torch.rand(total - 1, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.tensor([*(place + 1 for place in range(total - 1) if chosen[place]), total])


def theirs(loss, student_logits, teacher_logits, ids):
    """GOLD's loss of one answer after a prompt, of logits that predict the answer's tokens one by one."""
    answer = len(ids)
    whole = torch.cat([torch.zeros(PROMPT, dtype=torch.long), ids])[None]
    labels = whole.clone()
    labels[:, :PROMPT] = -100
    ends = torch.cat([torch.zeros(PROMPT, dtype=torch.long), torch.arange(1, answer + 1)])
    offsets = torch.stack([(ends - 1).clamp(min=0), ends], dim=-1)[None]

    def unshifted(logits):
        first, last = torch.zeros(PROMPT - 1, logits.shape[-1]), torch.zeros(1, logits.shape[-1])
        return torch.cat([first, logits, last])[None]

    pair = unshifted(student_logits), unshifted(teacher_logits)
    return loss(*pair, labels, labels, whole, whole, student_byte_offsets=offsets, teacher_byte_offsets=offsets)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, total=st.integers(1, 20))
def test_spans_are_golds_groups(seed, total):
    student, teacher = random_ends(seed, total), random_ends(seed + 1, total)
    offsets = [torch.stack([ends, ends], dim=-1).tolist() for ends in (student, teacher)]
    groups = gold_trainer.ULDLoss._align_by_byte_offsets(*offsets)
    spans = align(student, teacher)
    for side, found in zip((spans.student, spans.teacher), groups, strict=True):
        assert [(side == span).nonzero()[:, 0].tolist() for span in range(len(spans.ends))] == found


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_spans_probability_is_golds_merged_one_of_the_token_that_came(seed):
    ends = random_ends(seed, 8)
    spans = align(ends, torch.tensor([2, 5, 8])).student
    if spans.max() < 1:
        return
    logits = random_logits(seed, len(ends), 6)
    ids = torch.randint(6, (len(ends),), generator=torch.Generator().manual_seed(seed))
    groups = [(spans == span).nonzero()[:, 0].tolist() for span in range(int(spans.max()) + 1)]
    merged = gold()._merge_probabilities_with_alignment_groups(logits.softmax(-1), groups, ids.tolist())
    said = logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    found = span_logprobs(said, spans, num_spans=len(groups)).exp()
    last = torch.tensor([group[-1] for group in groups])
    assert_close(merged.gather(-1, ids[last, None]).squeeze(-1), found)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_sorted_mass_is_uld_where_each_token_has_one_beside_it(seed):
    ids = torch.randint(5, (4,), generator=torch.Generator().manual_seed(seed))
    student, teacher = random_logits(seed, 4, 5), random_logits(seed + 1, 4, 9)
    assert_close(theirs(gold(), student, teacher, ids), sorted_mass(student, teacher).mean())
    by_position = gold(use_extended_uld=False)
    assert_close(theirs(by_position, student, teacher, ids), sorted_mass(student, teacher).mean())


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_divergence_of_outcomes_is_golds_of_matched_tokens_for_equal_vocabularies(seed):
    ids = torch.randint(6, (4,), generator=torch.Generator().manual_seed(seed))
    logits, others = random_logits(seed, 4, 6), random_logits(seed + 1, 4, 6)
    each = torch.arange(4), torch.arange(6)
    outcomes = span_outcomes(Reading(logits, ids, *each), Reading(others, ids, *each), num_outcomes=6)
    loss = theirs(gold(uld_use_hybrid_loss=True), logits, others, ids)
    # TRL's beta is ours; its clamp at 1e-8 is below every probability here.
    assert_close(loss, jsd(*outcomes, beta=0.5).mean(), rtol=1e-6, atol=1e-8)


def test_gold_finds_a_difference_where_one_model_reads_the_same_text_in_other_tokens():
    """`un` + `do` and `undo`: equal probabilities of the text, which is all that both sides can name."""
    outcomes = torch.zeros(6, dtype=torch.long)
    two = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.05, 0.05], [0.1, 0.6, 0.1, 0.1, 0.05, 0.05]]).double()
    one = torch.tensor([[0.3, 0.2, 0.1, 0.3, 0.05, 0.05]]).double()
    student = Reading(two.log(), torch.tensor([0, 1]), torch.tensor([0, 0]), outcomes)
    teacher = Reading(one.log(), torch.tensor([3]), torch.tensor([0]), outcomes)
    assert_close(jsd(*span_outcomes(student, teacher, num_outcomes=1)), torch.zeros(1).double())
    loss = gold(uld_use_hybrid_loss=True)
    merged = loss._merge_probabilities_with_alignment_groups(two, [[0, 1]], [0, 1])
    assert loss._compute_hybrid_uld_loss(merged, one) > 0.05
