"""The same numbers from TextBrewer and torchdistill. Where a convention differs, the factor between the two is written out."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from stillhouse.objectives import (
    attention_kl,
    attention_mse,
    cross_entropy,
    flow_mse,
    forward_kl,
    gram_mse,
    hidden_cosine,
    hidden_mse,
    logit_mse,
    normalized_mse,
    tempered,
)

from .cases import random_logits

INSTALL = "only an oracle: pip install --no-deps textbrewer torchdistill"
LENGTHS = torch.tensor([5, 3, 4])
MASK = (torch.arange(5) < LENGTHS[:, None]).double()
REAL = MASK.bool()
STATES, SAID = random_logits(0, 3, 5, 6), random_logits(1, 3, 5, 6)
LOGITS, SAID_LOGITS = random_logits(2, 4, 3, 7), random_logits(3, 4, 3, 7)
SCORES, SAID_SCORES = random_logits(4, 3, 2, 5, 5), random_logits(5, 3, 2, 5, 5)
ALLOWED = (REAL[:, :, None] & REAL[:, None, :])[:, None]


def masked(scores):
    return scores.masked_fill(~ALLOWED, -torch.inf)


def documents(*sides):
    """The real tokens of each document, side by side."""
    return [[side[row, :length] for side in sides] for row, length in enumerate(LENGTHS.tolist())]


def head_documents(*sides):
    """The scores among the real tokens of each document, [heads, tokens, tokens]."""
    return [[side[row, :, :length, :length] for side in sides] for row, length in enumerate(LENGTHS.tolist())]


@pytest.fixture(scope="module")
def textbrewer():
    """TextBrewer's loss functions. The rest of it, which its package imports, wants tensorboard."""
    found = find_spec("textbrewer")
    if found is None:
        pytest.skip(INSTALL)
    bare = ModuleType("textbrewer")
    bare.__path__ = list(found.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "textbrewer", bare)
        losses = importlib.import_module("textbrewer.losses")
        for name in ("textbrewer.losses", "textbrewer.compatibility"):
            patch.delitem(sys.modules, name)
    return losses


@pytest.fixture(scope="module")
def torchdistill():
    return pytest.importorskip("torchdistill.losses.mid_level", reason=INSTALL)


# TextBrewer


@pytest.mark.parametrize("temperature", [1, 4])
def test_forward_kl_is_textbrewers_cross_entropy_less_the_entropy_of_the_teacher_times_t_squared(
    textbrewer, temperature
):
    entropy = torch.distributions.Categorical(logits=SAID_LOGITS / temperature).entropy().mean()
    theirs = textbrewer.kd_ce_loss(LOGITS, SAID_LOGITS, temperature=temperature)
    ours = tempered(forward_kl, temperature)(LOGITS, SAID_LOGITS).mean()
    assert_close(ours, temperature**2 * (theirs - entropy))


@pytest.mark.parametrize("temperature", [1, 4])
def test_logit_mse_is_textbrewers_times_t_squared(textbrewer, temperature):
    theirs = textbrewer.kd_mse_loss(LOGITS, SAID_LOGITS, temperature=temperature)
    assert_close(logit_mse(LOGITS, SAID_LOGITS).mean(), temperature**2 * theirs)


def test_attention_mse_is_textbrewers_where_every_pair_of_tokens_counts_alike(textbrewer):
    # Ours is a mean over keys: summed over queries, it must count as often as the document is long.
    ours = attention_mse(masked(SCORES), masked(SAID_SCORES))  # [docs, queries]
    over_pairs = (ours.sum(-1) * LENGTHS).sum() / LENGTHS.square().sum()
    assert_close(over_pairs, textbrewer.att_mse_loss(SCORES, SAID_SCORES, mask=MASK))


def test_attention_mse_without_a_mask_is_textbrewers_but_for_negative_scores(textbrewer):
    # Theirs takes every score from -0.001 down for a masked one, and sets it to 0.
    theirs = textbrewer.att_mse_loss(SCORES, SAID_SCORES)
    cut = [side.masked_fill(side <= -1e-3, 0.0) for side in (SCORES, SAID_SCORES)]
    assert_close(attention_mse(*cut).mean(), theirs)
    assert not torch.allclose(attention_mse(SCORES, SAID_SCORES).mean(), theirs)


def test_attention_kl_is_textbrewers_cross_entropy_less_the_entropy_of_the_teacher(textbrewer):
    # -1e4 is what a masked score looks like there: 0 * -inf would be NaN.
    theirs = textbrewer.att_ce_loss(*(side.masked_fill(~ALLOWED, -1e4) for side in (SCORES, SAID_SCORES)), mask=MASK)
    entropy = torch.stack(
        [
            torch.distributions.Categorical(logits=scores[:, query]).entropy().mean()
            for (scores,), length in zip(head_documents(SAID_SCORES), LENGTHS.tolist(), strict=True)
            for query in range(length)
        ]
    ).mean()
    assert_close(attention_kl(masked(SCORES), masked(SAID_SCORES))[REAL].mean(), theirs - entropy)


def test_hidden_mse_is_textbrewers(textbrewer):
    assert_close(hidden_mse(STATES[REAL], SAID[REAL]).mean(), textbrewer.hid_mse_loss(STATES, SAID, mask=MASK))


def test_hidden_cosine_is_textbrewers(textbrewer):
    assert_close(hidden_cosine(STATES[REAL], SAID[REAL]).mean(), textbrewer.cos_loss(STATES, SAID, mask=MASK))


def test_normalized_mse_of_first_tokens_is_textbrewers(textbrewer):
    assert_close(normalized_mse(STATES[:, 0], SAID[:, 0]).mean(), textbrewer.pkd_loss(STATES, SAID))


def test_flow_mse_is_textbrewers(textbrewer):
    lower, said_lower = STATES.flip(-1), SAID.roll(1, -1)
    theirs = textbrewer.fsp_loss([lower, STATES], [said_lower, SAID], mask=MASK)
    ours = torch.stack([flow_mse(*sides) for sides in documents(lower, STATES, said_lower, SAID)])
    assert_close(ours.mean(), theirs)
    assert_close(
        flow_mse(lower, STATES, said_lower, SAID).mean(), textbrewer.fsp_loss([lower, STATES], [said_lower, SAID])
    )


def test_gram_mse_is_textbrewers(textbrewer):
    narrow = STATES[..., :4]
    assert_close(gram_mse(narrow, SAID).mean(), textbrewer.mmd_loss([narrow, narrow], [SAID, SAID]))


def test_gram_mse_of_padded_documents_is_textbrewers_but_for_the_divisor(textbrewer):
    # With a mask, theirs divides products by the padded length instead of the width, and weighs documents by length^2.
    ours = torch.stack([gram_mse(*sides) for sides in documents(STATES, SAID)])
    width, padded_length = STATES.shape[-1], STATES.shape[1]
    weighted = (ours * LENGTHS.square()).sum() / LENGTHS.square().sum()
    theirs = textbrewer.mmd_loss([STATES, STATES], [SAID, SAID], mask=MASK)
    assert_close((width / padded_length) ** 2 * weighted, theirs)


# torchdistill


def kd_loss(torchdistill, logits, said, targets=None, **options):
    loss = torchdistill.KDLoss("head", "output", "head", "output", **options)
    return loss({"head": {"output": logits}}, {"head": {"output": said}}, targets)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_forward_kl_is_torchdistills_times_t_squared_where_it_has_no_targets(torchdistill, temperature):
    flat, said = LOGITS.flatten(0, 1), SAID_LOGITS.flatten(0, 1)
    theirs = kd_loss(torchdistill, flat, said, temperature=temperature, alpha=0.0)
    assert_close(tempered(forward_kl, temperature)(flat, said).mean(), temperature**2 * theirs)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_hard_and_soft_terms_are_torchdistills_where_it_has_targets(torchdistill, temperature):
    flat, said, targets = LOGITS.flatten(0, 1), SAID_LOGITS.flatten(0, 1), torch.arange(12) % 7
    theirs = kd_loss(torchdistill, flat, said, targets, temperature=temperature, alpha=0.3)
    hard, soft = cross_entropy(flat, targets).mean(), tempered(forward_kl, temperature)(flat, said).mean()
    assert_close(0.3 * hard + 0.7 * soft, theirs)


def test_the_softmax_is_over_the_vocabulary_whatever_axes_stand_before_it(torchdistill):
    # Theirs is over axis 1, which is the vocabulary of [tokens, vocab] and the position of [batch, seq, vocab].
    order = torch.tensor([2, 0, 1])
    ours = forward_kl(LOGITS, SAID_LOGITS)
    assert_close(forward_kl(LOGITS[:, order], SAID_LOGITS[:, order]), ours[:, order])
    assert_close(ours.flatten(), forward_kl(LOGITS.flatten(0, 1), SAID_LOGITS.flatten(0, 1)))
    over_positions = kd_loss(torchdistill, LOGITS, SAID_LOGITS, temperature=1.0, alpha=0.0)
    assert_close(forward_kl(LOGITS.mT, SAID_LOGITS.mT).sum(-1).mean(), over_positions)
    assert not torch.allclose(ours.sum(-1).mean(), over_positions)


def test_flow_is_torchdistills_of_a_picture_one_token_wide(torchdistill):
    lower, said_lower = STATES.flip(-1), SAID.roll(1, -1)
    # Theirs then takes a norm of each column, and adds them up; we take the mean square.
    flow, said_flow = (
        torchdistill.FSPLoss.compute_fsp_matrix(below.mT[..., None], above.mT[..., None])
        for below, above in ((lower, STATES), (said_lower, SAID))
    )
    assert_close(flow_mse(lower, STATES, said_lower, SAID), (flow - said_flow).square().mean((-2, -1)))
