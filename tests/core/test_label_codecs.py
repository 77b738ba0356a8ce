"""Stored answers: every form comes back within the bound that it states, whatever the shape of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.label_codecs import (
    Ragged,
    SampledRows,
    SparseRows,
    sampled_from_bytes,
    sampled_to_bytes,
    sparse_error,
    sparse_from_bytes,
    sparse_to_bytes,
    states_from_bytes,
    states_to_bytes,
)

ROUNDING = 1e-6
"""Of float32, relative: what the arithmetic around the stored numbers adds."""


def ragged(rng: np.random.Generator, vocab: int, *, tokens: int, most: int, least: int = 0) -> Ragged:
    counts = rng.integers(least, min(most, vocab) + 1, tokens)
    ids = [np.sort(rng.choice(vocab, count, replace=False)) for count in counts]
    return Ragged(counts, np.concatenate([*ids, np.zeros(0, np.int64)]).astype(np.int64))


def sparse(seed: int, vocab: int, *, tokens: int = 9, most: int = 12, span: float = 8.0, temperatures: int = 1):
    rng = np.random.default_rng(seed)
    rows = ragged(rng, vocab, tokens=tokens, most=most)
    logits = -span * rng.random(len(rows.ids)).astype(np.float32) ** 2
    tails = rng.normal(0, 6, (temperatures, tokens)).astype(np.float32)
    return SparseRows(rows, logits, np.where(rng.random(tails.shape) < 0.1, -np.inf, tails).astype(np.float32))


VOCABULARIES = st.sampled_from([1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 300_000])


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    vocab=VOCABULARIES,
    tokens=st.integers(1, 30),
    span=st.sampled_from([0.0, 1e-3, 7.0, 40.0, 2e4]),
    temperatures=st.integers(1, 3),
)
def test_sparse_rows_come_back_within_the_stated_bound(seed, vocab, tokens, span, temperatures):
    rows = sparse(seed, vocab, tokens=tokens, span=span, temperatures=temperatures)
    sections = sparse_to_bytes(rows, vocab_size=vocab)
    back = sparse_from_bytes(sections, vocab_size=vocab, temperatures=temperatures)
    np.testing.assert_array_equal(back.tokens.counts, rows.tokens.counts)
    np.testing.assert_array_equal(back.tokens.ids, rows.tokens.ids)
    assert (np.abs(back.logits - rows.logits) <= sparse_error(rows.logits) + ROUNDING * span).all()
    assert_halves(back.tails, rows.tails)


def assert_halves(back: np.ndarray, original: np.ndarray) -> None:
    """Within 2^-11 of each number, or 2^-25; infinities as they were."""
    finite = np.isfinite(original)
    np.testing.assert_array_equal(back[~finite], original[~finite])
    back, original = back[finite], original[finite]
    assert (np.abs(back - original) <= np.maximum(2.0**-11 * np.abs(original), 2.0**-25)).all()


def test_the_stated_bound_of_sparse_logits_is_reached_and_is_least_where_tokens_are_likely():
    logits = -np.linspace(0, 7, 20_001, dtype=np.float32)
    rows = SparseRows(Ragged(np.array([20_001]), np.arange(20_001)), logits, np.zeros((1, 1), np.float32))
    back = sparse_from_bytes(sparse_to_bytes(rows, vocab_size=30_000), vocab_size=30_000, temperatures=1)
    error, bound = np.abs(back.logits - logits), sparse_error(logits)
    assert (error <= bound + ROUNDING * 7).all()
    for part in (slice(100, 2_000), slice(2_000, 10_000), slice(10_000, 20_001)):
        assert error[part].max() > 0.95 * bound[part].min()
    assert bound[0] < 0.0005 < 0.1 < bound[-1] < 0.112


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    vocab=VOCABULARIES,
    tokens=st.integers(1, 30),
    corrected=st.booleans(),
    big=st.booleans(),
)
def test_sampled_rows_come_back_with_their_draws_as_they_were(seed, vocab, tokens, corrected, big):
    rng = np.random.default_rng(seed)
    drawn = ragged(rng, vocab, tokens=tokens, most=9, least=1)
    entries = len(drawn.ids)
    corrections = rng.normal(0, 3, entries) if corrected else np.zeros(entries)
    rows = SampledRows(
        drawn,
        rng.integers(1, 65_536 if big else 4, entries),
        corrections.astype(np.float32),
        rng.uniform(0, 11, tokens).astype(np.float32),
    )
    back = sampled_from_bytes(sampled_to_bytes(rows, vocab_size=vocab), vocab_size=vocab)
    for name in ("counts", "ids"):
        np.testing.assert_array_equal(getattr(back.tokens, name), getattr(rows.tokens, name))
    np.testing.assert_array_equal(back.draws, rows.draws)
    assert_halves(back.corrections, rows.corrections)
    assert_halves(back.entropies, rows.entropies)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), exponents=st.lists(st.integers(-120, 120), min_size=1, max_size=4))
@pytest.mark.parametrize("bits", [8, 16])
def test_hidden_states_come_back_within_the_stated_bound(seed, exponents, bits):
    # Columns from 1 down to 2^-20 of the row's largest: both branches of the bound are reached.
    columns = 2.0 ** -np.arange(0, 21, 4)
    rows = np.random.default_rng(seed).normal(size=(len(exponents), 6)) * columns
    states = (rows * 2.0 ** np.array(exponents)[:, None]).astype(np.float32)
    assert_states(states_from_bytes(states_to_bytes(states, bits=bits), bits=bits), states, bits)


def assert_states(back: np.ndarray, states: np.ndarray, bits: int) -> None:
    size, largest = np.abs(states), np.abs(states).max(-1, keepdims=True)
    bound = np.maximum(2.0**-11 * size, 2.0**-25 * largest) if bits == 16 else largest / 254
    assert (np.abs(back - states) <= bound + ROUNDING * largest * (bits == 8) + 2.0**-22 * size).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_values_far_beyond_float16_survive(bits):
    states = [[3e38, -1e38, 1.0], [1e-30, -3e-30, 0.0], [0.0, 0.0, 0.0], [70_000.0, 1.0, -65_504.0]]
    rows = np.array(states, dtype=np.float32)
    assert_states(states_from_bytes(states_to_bytes(rows, bits=bits), bits=bits), rows, bits)


def test_a_row_of_one_certain_token_takes_few_bytes():
    tokens = 400
    rows = SparseRows(
        Ragged(np.ones(tokens, np.int64), np.random.default_rng(0).integers(0, 49_152, tokens)),
        np.zeros(tokens, np.float32),
        np.full((1, tokens), -9.0, np.float32),
    )
    assert sum(map(len, sparse_to_bytes(rows, vocab_size=49_152))) < 2.5 * tokens
