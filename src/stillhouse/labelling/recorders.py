"""From what a teacher says about a document to what is kept of it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from stillhouse.core.errors import ModelError
from stillhouse.core.label_codecs import (
    Bits,
    Ragged,
    SampledRows,
    SparseRows,
    sampled_to_bytes,
    sparse_to_bytes,
    states_to_bytes,
)
from stillhouse.core.signals import FactoredLogits, Signals, SparseLogprobs, Wanted

CHUNK_ELEMENTS = 2**22
"""Logits held at once: 16 MiB in float32."""


@runtime_checkable
class Recorder(Protocol):
    """One form in which a teacher's answers are kept."""

    @property
    def signal(self) -> str:
        """What it is called in recipes."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the bytes depend on beside the teacher and the text, as plain values."""

    @property
    def wanted(self) -> Wanted:
        """What the teacher must be asked for."""

    @property
    def keeps_head(self) -> bool:
        """Whether logits are rebuilt with the teacher's head."""

    def record(self, said: Signals, where: Bool[Tensor, "batch seq"], *, key: str) -> list[bytes]:
        """The sections of one document, which stands in the batch at these places."""


@dataclass(frozen=True)
class States:
    """Hidden states: the last ones, from which logits are made, and those of layers that are compared themselves."""

    bits: Bits = 16
    layers: tuple[int, ...] = ()
    keeps_head: bool = True
    """Whether the last ones, as the head takes them, are kept too."""

    @property
    def signal(self) -> str:
        """`hidden_states` as soon as there are layers."""
        return "hidden_states" if self.layers else "last_hidden"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Bits and layers, in the order of the sections."""
        return {"bits": self.bits, "layers": list(self.layers)}

    @property
    def wanted(self) -> Wanted:
        """The states of all layers, and the head's input."""
        return Wanted(logits=self.keeps_head, hidden_states=frozenset(self.layers))

    def record(self, said: Signals, where: Bool[Tensor, "batch seq"], *, key: str) -> list[bytes]:
        """The last states first, then layer by layer; two sections each."""
        states = [said.hidden_states[layer][where] for layer in self.layers]
        if self.keeps_head:
            states.insert(0, _factored(said).at(where).hidden)
        return [section for each in states for section in states_to_bytes(_array(each.float()), bits=self.bits)]


@dataclass(frozen=True)
class Sparse:
    """The tokens that are likely enough at any of the temperatures, and what all others add up to at each."""

    vocab_size: int
    """The tokenizer's: what pads a head beyond it is no token."""
    min_probability: float = 1e-3
    most: int = 128
    temperatures: tuple[float, ...] = (1.0,)
    signal: str = field(default="sparse", init=False)
    wanted: Wanted = field(default=Wanted(logits=True), init=False)
    keeps_head: bool = field(default=False, init=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All fields that a recipe may set, and the vocabulary."""
        return _given(self)

    def record(self, said: Signals, where: Bool[Tensor, "batch seq"], *, key: str) -> list[bytes]:
        """Four sections.

        Raises:
            ModelError: if the teacher itself knows only a part of the distribution, and not at these temperatures.
        """
        if isinstance(said.logits, SparseLogprobs):
            parts = [self._rows_of_told(said.logits.at(where))]
        else:
            parts = [self._rows(logits) for logits in _chunks(_factored(said).at(where), self.vocab_size)]
        counts, ids, logits, tails = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return sparse_to_bytes(SparseRows(Ragged(counts, ids), logits, tails), vocab_size=self.vocab_size)

    def _rows(self, logits: Float[Tensor, "tokens vocab"]) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Counts, ids, logits and tails, flat, of a few positions."""
        best, ids = logits.topk(min(self.most, self.vocab_size))
        kept = torch.zeros_like(best, dtype=torch.bool)
        for temperature in self.temperatures:
            normaliser = (logits / temperature).logsumexp(-1, keepdim=True)
            kept |= (best / temperature - normaliser).exp() >= self.min_probability
        kept &= best > -torch.inf
        kept[:, 0] = True
        others = logits.scatter(-1, ids, torch.where(kept, -torch.inf, best))
        tails = torch.stack([(others / temperature).logsumexp(-1) for temperature in self.temperatures])
        ids, order = torch.where(kept, ids, self.vocab_size).sort(-1)
        kept, best = ids < self.vocab_size, best.gather(-1, order)
        return _array(kept.sum(-1)), _array(ids[kept]), _array(best[kept]), _array(tails)

    def _rows_of_told(self, told: SparseLogprobs) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """The same of a teacher that told its likeliest tokens. Where it told nothing, none is kept and all is in the tail."""
        best, order = told.logprobs.sort(-1, descending=True)
        used = best > -torch.inf
        self._check_known_at(told, used)
        largest = torch.where(used[:, :1], best[:, :1], 0.0)
        kept = torch.zeros_like(used)
        for temperature in self.temperatures:
            kept |= (best / temperature - _tempered_total(best, told.tail, temperature)).exp() >= self.min_probability
        kept &= used
        kept[:, self.most :] = False
        kept[:, 0] = used[:, 0]
        others, tail = torch.where(used & ~kept, best, -torch.inf) - largest, told.tail - largest.squeeze(-1)
        tails = torch.stack(
            [_tempered_total(others, tail, temperature).squeeze(-1) for temperature in self.temperatures]
        )
        ids, places = torch.where(kept, told.ids.gather(-1, order), self.vocab_size).sort(-1)
        kept, logits = ids < self.vocab_size, (best - largest).gather(-1, places)
        return _array(kept.sum(-1)), _array(ids[kept]), _array(logits[kept]), _array(tails)

    def _check_known_at(self, told: SparseLogprobs, used: Bool[Tensor, "tokens k"]) -> None:
        """Raises: ModelError where the bucket is needed at a temperature at which it is not known."""
        others = [temperature for temperature in self.temperatures if temperature != told.temperature]
        bucket_matters = (used.any(-1) & (told.tail > -torch.inf)).any()
        if told.temperature != 1 or (others and bucket_matters):
            raise ModelError(
                f"the teacher told its likeliest tokens at temperature {told.temperature:g}, and labels are asked for at "
                f"{', '.join(f'{one:g}' for one in others or self.temperatures)}: what all other tokens add up to there is not "
                "known. Leave the temperature of labels and objectives at 1."
            )


@dataclass(frozen=True)
class Sampled:
    """Draws with replacement from the distribution at one temperature, or from a power of it. The same seed and text always
    give the same ones."""

    vocab_size: int
    """The tokenizer's: what pads a head beyond it is no token."""
    draws: int = 50
    power: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    signal: str = field(default="sampled", init=False)
    wanted: Wanted = field(default=Wanted(logits=True), init=False)
    keeps_head: bool = field(default=False, init=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All fields that a recipe may set, and the vocabulary."""
        return _given(self)

    def record(self, said: Signals, where: Bool[Tensor, "batch seq"], *, key: str) -> list[bytes]:
        """Five sections."""
        generator = np.random.Generator(np.random.PCG64(_seed_of(self.seed, key)))
        parts = [self._rows(logits, generator) for logits in _chunks(_factored(said).at(where), self.vocab_size)]
        counts, ids, draws, corrections, entropies = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows = SampledRows(Ragged(counts, ids), draws, corrections, entropies)
        return sampled_to_bytes(rows, vocab_size=self.vocab_size)

    def _rows(
        self, logits: Float[Tensor, "tokens vocab"], generator: np.random.Generator
    ) -> tuple[ndarray, ndarray, ndarray, ndarray, ndarray]:
        """Counts, ids, draws, corrections and entropies, flat, of a few positions."""
        logprobs = (logits / self.temperature).log_softmax(-1)
        proposal = logprobs if self.power == 1 else (self.power * logprobs).log_softmax(-1)
        # float64: in float32 the sum of a large vocabulary's probabilities stops growing before its end.
        sums = proposal.double().exp().cumsum(-1)
        numbers = torch.from_numpy(generator.random((len(logits), self.draws))).to(sums.device) * sums[:, -1:]
        drawn = torch.searchsorted(sums, numbers, right=True).clamp(max=self.vocab_size - 1)
        rows = torch.arange(len(logits), device=drawn.device)[:, None] * self.vocab_size
        places, counts = (rows + drawn).unique(return_counts=True)
        different = (places // self.vocab_size).bincount(minlength=len(logits))
        corrections, entropies = (logprobs - proposal).take(places), torch.special.entr(logprobs.exp()).sum(-1)
        return (
            _array(different),
            _array(places % self.vocab_size),
            _array(counts),
            _array(corrections),
            _array(entropies),
        )


def _tempered_total(
    logits: Float[Tensor, "tokens k"], tail: Float[Tensor, " tokens"], temperature: float
) -> Float[Tensor, "tokens 1"]:
    """Log of the sum of e^(logit / temperature), the bucket's being one of them. Where that is another than 1 the bucket is
    empty, or all that there is."""
    return torch.cat([logits / temperature, tail.unsqueeze(-1)], -1).logsumexp(-1, keepdim=True)


def _array(tensor: Tensor) -> ndarray:
    return tensor.cpu().numpy()


def _given(recorder: Sparse | Sampled) -> dict[str, Any]:
    """What it was made with, as plain values."""
    given = {each.name: getattr(recorder, each.name) for each in fields(recorder) if each.init}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _seed_of(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest(), "little")


def _factored(said: Signals) -> FactoredLogits:
    assert isinstance(said.logits, FactoredLogits), "labels are of a language model"
    return said.logits


def _chunks(logits: FactoredLogits, vocab_size: int) -> Iterator[Float[Tensor, "tokens vocab"]]:
    """Logits above the largest of their row, a few positions at a time.

    Raises:
        ModelError: if the teacher's logits are not numbers.
    """
    logits = logits.first(vocab_size)
    for hidden in logits.hidden.split(max(1, CHUNK_ELEMENTS // vocab_size)):
        dense = replace(logits, hidden=hidden).dense()
        largest = dense.amax(-1, keepdim=True)
        if not largest.isfinite().all():
            raise ModelError(
                "the teacher's logits are not finite, so there is nothing to store. Load it in float32, or choose another."
            )
        yield dense - largest
