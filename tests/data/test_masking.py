"""Which tokens are hidden, by what, and when again: the laws of masked language modelling."""

import math

import pytest
import torch
from scipy.stats import chisquare, norm

from stillhouse.core.batch import TaggedBatch
from stillhouse.core.errors import DataError, ModelError
from stillhouse.data.masking import FixedMaskRows, MaskedRows, Masking, masked_pieces, masking_for

VOCAB, MASK, SPECIAL = 60, 4, 5
"""Tokens 0 to 4 are special, 4 is the mask."""


def _masking(*, share=0.15, weights=None):
    token_weights = torch.ones(VOCAB, dtype=torch.float64) if weights is None else weights
    return Masking(share, token_weights.index_fill(0, torch.arange(SPECIAL), 0.0), MASK)


def _text(length, seed=0):
    """A random text between token 2 and token 3."""
    words = torch.randint(SPECIAL, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return (2, *words, 3)


def _rows(texts, *, seed=0, kind=MaskedRows, **masking):
    return kind(texts, pad_id=0, masking=_masking(**masking), seed=seed)


@pytest.mark.parametrize("length", [7, 10, 33])
def test_fifteen_in_a_hundred_tokens_are_to_be_guessed(length):
    """The number of a text is one of the two whole numbers beside its share, and right on average."""
    numbers = torch.tensor([float(sum(_rows([_text(length, seed)])[0][2])) for seed in range(1_000)])
    expected = 0.15 * length
    low = math.floor(expected)
    assert set(numbers.tolist()) <= {low, low + 1}
    upper = int((numbers == low + 1).sum())
    assert chisquare([upper, 1_000 - upper], [1_000 * (expected - low), 1_000 * (1 - expected + low)]).pvalue > 1e-3


def test_every_text_has_something_to_guess():
    assert all(sum(_rows([_text(length, seed)])[0][2]) == 1 for length in (1, 2, 3) for seed in range(20))


def test_eight_in_ten_are_hidden_one_is_replaced_and_one_left_alone():
    """Any ordinary token may come as the replacement, the very same too: so 1 in 55 replacements shows as none."""
    counts = dict.fromkeys(["hidden", "replaced", "left"], 0)
    for text, hidden, judged in _items(_rows([_text(200, seed) for seed in range(200)])):
        for before, after, guessed in zip(text, hidden, judged, strict=True):
            if guessed:
                counts["hidden" if after == MASK else "replaced" if after != before else "left"] += 1
            else:
                assert before == after
    total, same = sum(counts.values()), 0.1 / (VOCAB - SPECIAL)
    expected = [0.8 * total, (0.1 - same) * total, (0.1 + same) * total]
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def _items(rows):
    return [rows[index] for index in range(len(rows))]


def test_replacements_are_ordinary_tokens_all_alike():
    found = torch.zeros(VOCAB)
    for text, hidden, _ in _items(_rows([_text(200, seed) for seed in range(400)], share=0.5)):
        for before, after in zip(text, hidden, strict=True):
            if after not in (before, MASK):
                found[after] += 1
    assert (found[:SPECIAL] == 0).all()
    assert chisquare(found[SPECIAL:].tolist()).pvalue > 1e-3


def test_special_tokens_are_never_to_be_guessed():
    texts = [(2, 1, 7, 8, 4, 9, 3, 10, 11, 3) for _ in range(1)]
    rows = _rows(texts, share=0.9)
    for epoch in range(200):
        rows.set_epoch(epoch)
        text, hidden, judged = rows[0]
        assert not any(guess for token, guess in zip(text, judged, strict=True) if token < SPECIAL)
        assert all(after == before for before, after in zip(text, hidden, strict=True) if before < SPECIAL)


def test_where_one_token_is_chosen_it_is_in_proportion_to_its_weight():
    weights = torch.ones(VOCAB, dtype=torch.float64)
    weights[[10, 11, 12, 13]] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    rows, counts = _rows([(2, 10, 11, 12, 13, 3)], weights=weights), torch.zeros(6)
    for epoch in range(2_000):
        rows.set_epoch(epoch)
        counts += torch.tensor(rows[0][2])
    assert chisquare(counts[1:5].tolist(), [200, 400, 600, 800]).pvalue > 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 1.0])
def test_weights_are_the_smoothed_inverse_of_the_counts(bert_tokenizer, smoothing):
    ids = [[2, 9, 9, 9, 9, 3], [2, 9, 9, 9, 9, 22, 3]]
    masking = masking_for(bert_tokenizer, ids, share=0.15, rarity_smoothing=smoothing)
    assert masking.token_weights[9] == pytest.approx(8**-smoothing)
    assert masking.token_weights[22] == 1
    assert masking.token_weights[30] == 1  # never seen in training: held-out text may have it
    assert len(masking.token_weights) == len(bert_tokenizer)
    assert (masking.token_weights == 0).nonzero()[:, 0].tolist() == sorted(bert_tokenizer.all_special_ids)


def test_rare_tokens_are_guessed_more_often_than_common_ones(bert_tokenizer):
    ids = [(2, *[9] * 15, 22, *[9] * 15, 3)] * 20
    share_of_rare = {}
    for smoothing in (0.0, 0.7):
        masking = masking_for(bert_tokenizer, ids, share=0.15, rarity_smoothing=smoothing)
        rows = MaskedRows(ids[:1], pad_id=0, masking=masking, seed=0)
        picks = []
        for epoch in range(400):
            rows.set_epoch(epoch)
            picks.append(rows[0][2][16])
        share_of_rare[smoothing] = sum(picks) / len(picks)
    assert abs(share_of_rare[0.0] - 0.15) < norm.isf(5e-4) * math.sqrt(0.15 * 0.85 / 400)
    assert share_of_rare[0.7] > 3 * share_of_rare[0.0]


def test_masks_depend_on_seed_text_and_epoch_and_on_nothing_else():
    one, other = _text(50, 1), _text(50, 2)
    rows, moved = _rows([one, other]), _rows([other, one, other])
    assert rows[0] == moved[1] and rows[1] == moved[0] == moved[2]
    moved.set_epoch(3)
    assert moved[1] != rows[0]
    assert [moved[0], moved[1]] == [moved[0], moved[1]]
    rows.set_epoch(3)
    assert rows[0] == moved[1]
    moved.set_epoch(0)
    rows.set_epoch(0)
    assert rows[0] == moved[1]
    assert _rows([one], seed=1)[0] != rows[0]


def test_masks_use_no_random_number_of_anybody_else():
    rows = _rows([_text(50)])
    torch.manual_seed(1)
    before, state = rows[0], torch.get_rng_state()
    torch.manual_seed(2)
    assert rows[0] == before
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_judged_by_wears_the_same_mask_in_every_epoch():
    rows = _rows([_text(50)], kind=FixedMaskRows)
    before = rows[0]
    rows.set_epoch(3)
    assert rows[0] == before


def test_a_batch_asks_for_the_hidden_tokens_where_they_stand():
    rows = _rows([_text(30, 0), _text(9, 1), _text(20, 2)])
    (batch,) = rows.batches(3)
    assert isinstance(batch, TaggedBatch)
    for number, (text, hidden, judged) in enumerate(_items(rows)):
        length, width = len(text), batch.ids.shape[1]
        assert batch.ids[number].tolist() == [*hidden, *[0] * (width - length)]
        assert batch.labels[number, :length].tolist() == list(text)
        assert batch.documents[number].tolist() == [0] * length + [-1] * (width - length)
        assert batch.weights[number].tolist() == [*map(float, judged), *[0.0] * (width - length)]
    hidden_tokens = [text[place] for text, _, judged in _items(rows) for place in range(len(text)) if judged[place]]
    assert batch.targets.tolist() == hidden_tokens


def test_a_long_text_is_cut_in_pieces_that_lose_nothing(bert_tokenizer):
    text = "the old man had a boat and went to sea every day to see the red fish " * 3
    whole = bert_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces, documents = masked_pieces([text, "a fox"], bert_tokenizer, max_tokens=10)
    assert documents == [*[0] * (len(pieces) - 1), 1]
    assert all(len(piece) <= 10 and piece[0] == 2 and piece[-1] == 3 for piece in pieces)
    assert [token for piece in pieces[:-1] for token in piece[1:-1]] == whole
    assert pieces[-1] == (2, *bert_tokenizer("a fox", add_special_tokens=False)["input_ids"], 3)


def test_texts_with_nothing_to_hide_are_refused(bert_tokenizer):
    with pytest.raises(DataError, match="hold no token that could be hidden"):
        masked_pieces(["漢", "[SEP]"], bert_tokenizer, max_tokens=10)


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    with pytest.raises(ModelError, match="masked_text hides tokens, but this tokenizer has no mask token"):
        masking_for(tokenizer, [[5, 6]], share=0.15, rarity_smoothing=0.7)
