"""One record's answers as bytes and back: what each form of them costs in precision is said here, and proved in its tests.

A record is a list of sections. Where every byte lies is written down in `docs/label-format.md`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8
from numpy import ndarray

Bits = Literal[8, 16]
Section = bytes | memoryview

LEVELS = 63
"""A code is 0 for a row's likeliest token and 63 for the record's unlikeliest. Four times as many levels would take a tenth
more room; a student's gradient would be closer to the dense one by a hundredth of what the tail bucket costs it.
`benchmarks/labels.py` measures it.
"""


@dataclass(frozen=True)
class Ragged:
    """Tokens of each position, in rows of different lengths that stand one after another."""

    counts: Int[ndarray, " tokens"]
    ids: Int[ndarray, " entries"]
    """Ascending within each row."""


@dataclass(frozen=True)
class SparseRows:
    """The likeliest tokens of each position, and all others in one number.

    Logits are what they are above the row's largest, at temperature 1: never above 0.
    """

    tokens: Ragged
    logits: Float[ndarray, " entries"]
    tails: Float[ndarray, "temperatures tokens"]
    """Log of the sum over all other tokens of e^(logit / temperature), at each temperature: -inf where there are none."""


@dataclass(frozen=True)
class SampledRows:
    """What was drawn at each position."""

    tokens: Ragged
    draws: Int[ndarray, " entries"]
    """How often each was drawn."""
    corrections: Float[ndarray, " entries"]
    """Log of its probability over that with which it was drawn: 0 where tokens are drawn as they are."""
    entropies: Float[ndarray, " tokens"]


def sparse_to_bytes(rows: SparseRows, *, vocab_size: int) -> list[bytes]:
    """Four sections: counts, gaps between ids, logits in 6 bits, and tails in float16.

    A logit comes back within `sparse_error`. A tail comes back within 2^-11 of itself, or 2^-25; below -65,504 as -inf.
    """
    span = np.float32(-rows.logits.min(initial=0.0))
    shares = -rows.logits / span if span > 0 else np.zeros_like(rows.logits)
    codes = np.rint(LEVELS * np.sqrt(shares.clip(0, 1))).astype(np.uint8)
    return [*_ragged_to_bytes(rows.tokens, vocab_size), span.tobytes() + _squeezed(codes), _halves(rows.tails)]


def sparse_from_bytes(sections: Sequence[Section], *, vocab_size: int, temperatures: int) -> SparseRows:
    """The inverse of `sparse_to_bytes`."""
    tokens = _ragged_from_bytes(sections[:2], vocab_size)
    span = np.frombuffer(sections[2][:4], "<f4")[0]
    codes = np.frombuffer(zlib.decompress(sections[2][4:]), np.uint8)
    logits = -span * (codes.astype(np.float32) / LEVELS) ** 2
    return SparseRows(tokens, logits, _from_halves(sections[3]).reshape(temperatures, -1))


def sparse_error(logits: Float[ndarray, " entries"]) -> Float[ndarray, " entries"]:
    """How far, at most, each logit of a record comes back from what it was, in nats: least where a token is likely, and never
    more than 1/63 of the lowest, which is a tenth for one of -6.3.
    """
    # Codes are square roots: half a step at code c is span (c + 1/4) / 63^2.
    span = -logits.min(initial=0.0)
    return np.minimum(np.sqrt(-logits * span) / LEVELS + span / (4 * LEVELS**2), span / LEVELS)


def sampled_to_bytes(rows: SampledRows, *, vocab_size: int) -> list[bytes]:
    """Five sections: counts, gaps between ids, draws, corrections in float16 unless all are 0, and entropies in float16.

    A number of draws comes back as it was; a correction and an entropy within 2^-11 of itself, or 2^-25.
    """
    corrections = _halves(rows.corrections) if rows.corrections.any() else b""
    draws = _squeezed(_planes(rows.draws, _width(65_536)))
    return [*_ragged_to_bytes(rows.tokens, vocab_size), draws, corrections, _halves(rows.entropies)]


def sampled_from_bytes(sections: Sequence[Section], *, vocab_size: int) -> SampledRows:
    """The inverse of `sampled_to_bytes`."""
    tokens = _ragged_from_bytes(sections[:2], vocab_size)
    draws = _from_planes(sections[2], _width(65_536))
    corrections = _from_halves(sections[3]) if len(sections[3]) else np.zeros(len(draws), np.float32)
    return SampledRows(tokens, draws, corrections, _from_halves(sections[4]))


def states_to_bytes(states: Float[ndarray, "tokens hidden"], *, bits: Bits) -> list[bytes]:
    """Two sections: the largest number of each row, and each row divided by it, as float16 or in whole 127ths.

    With 16 bits each number comes back within 2^-11 of itself, or 2^-25 of its row's largest where that is more; with 8 bits
    within 1/254 of its row's largest. Not compressed: a compressor finds nothing in hidden states.
    """
    # A row at a time: float16 ends at 65,504, and some models' outliers are beyond it.
    scales = np.abs(states).max(-1, initial=np.finfo(np.float32).tiny).astype("<f4")
    shares = states / scales[:, None]
    rows = shares.astype("<f2") if bits == 16 else np.rint(127 * shares).astype(np.int8)
    return [scales.tobytes(), rows.tobytes()]


def states_from_bytes(sections: Sequence[Section], *, bits: Bits) -> Float[ndarray, "tokens hidden"]:
    """The inverse of `states_to_bytes`, in float32."""
    scales = np.frombuffer(sections[0], "<f4")
    rows = np.frombuffer(sections[1], "<f2" if bits == 16 else np.int8).reshape(len(scales), -1).astype(np.float32)
    return rows * (scales if bits == 16 else scales / np.float32(127))[:, None]


def _ragged_to_bytes(rows: Ragged, vocab_size: int) -> list[bytes]:
    """Counts, and gaps between ids: small numbers in as many bytes as the vocabulary needs, first bytes before second."""
    ends = np.cumsum(rows.counts)
    gaps = np.diff(rows.ids, prepend=0)
    firsts = (ends - rows.counts)[rows.counts > 0]
    gaps[firsts] = rows.ids[firsts]
    return [_squeezed(_planes(numbers, _width(vocab_size))) for numbers in (rows.counts, gaps)]


def _ragged_from_bytes(sections: Sequence[Section], vocab_size: int) -> Ragged:
    counts, gaps = (_from_planes(section, _width(vocab_size)) for section in sections)
    sums = np.concatenate([[0], np.cumsum(gaps)])
    before = sums[np.cumsum(counts) - counts]  # what all earlier rows' gaps add up to
    return Ragged(counts, sums[1:] - np.repeat(before, counts))


def _width(limit: int) -> int:
    """Bytes that hold any number up to `limit`."""
    return (limit.bit_length() + 7) // 8


def _planes(numbers: Integer[ndarray, " numbers"], width: int) -> UInt8[ndarray, " bytes"]:
    """All lowest bytes, then all second ones: alike stands beside alike, for the compressor."""
    return numbers.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].T.ravel()


def _from_planes(section: Section, width: int) -> Int[ndarray, " numbers"]:
    planes = np.frombuffer(zlib.decompress(section), np.uint8).reshape(width, -1).astype(np.int64)
    return (planes << (8 * np.arange(width))[:, None]).sum(0)


def _halves(numbers: Float[ndarray, "*numbers"]) -> bytes:
    with np.errstate(over="ignore"):  # what is beyond float16 becomes infinite
        return _squeezed(_planes(numbers.astype("<f2").ravel().view("<u2"), 2))


def _from_halves(section: Section) -> Float[ndarray, " numbers"]:
    return _from_planes(section, 2).astype("<u2").view("<f2").astype(np.float32)


def _squeezed(numbers: UInt8[ndarray, " bytes"]) -> bytes:
    return zlib.compress(numbers.tobytes())
