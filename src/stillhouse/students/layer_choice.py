"""Which layers of a teacher a student keeps. It matters more than the first hour of training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.models.anatomy import decoder_config, decoder_layers
from stillhouse.models.forward import factored_logits
from stillhouse.objectives import forward_kl

LayerMethod = Literal["uniform", "block_influence", "greedy"]

GREEDY_SHORTLIST = 5
"""Blocks tried at each step of the greedy choice: those of lowest influence. Trying all finds little more and costs six
times as much (measured by `benchmarks/layer_choice.py`)."""


@dataclass(frozen=True)
class LayerChoice:
    """The layers kept, and the measurement that chose them."""

    method: str
    kept: tuple[int, ...]
    teacher_layers: int
    calibration_tokens: int
    influence: tuple[float, ...]
    """1 - cosine of each block's input and output, averaged over tokens: how much the block changes."""
    start_kl_nats: float
    """KL(teacher || student) a token on the calibration text, before any training."""
    alternatives: dict[str, float]
    """The same for the other methods that were measured."""


def choose_layers(
    teacher: PreTrainedModel,
    batch: Batch,
    *,
    keep: int | Sequence[int],
    method: LayerMethod = "greedy",
    progress: Progress = SILENT,
) -> LayerChoice:
    """Choose `keep` of the teacher's layers by `method`, or take the explicit list, and measure the choice on `batch`.

    `uniform` spreads them evenly and looks at nothing; `block_influence` keeps those that change hidden states most
    (Men et al., 2024, arXiv:2403.03853, eq. 1), in one forward pass; `greedy` removes one block after another, each time
    the one of a shortlist whose loss costs the least KL from the whole teacher.

    Raises:
        ModelError: if more layers are kept than there are, none, or one that does not exist.
    """
    total = decoder_config(teacher).num_hidden_layers
    _check_keep(keep, total)
    with torch.no_grad():
        probe = _Probe(teacher, batch)
        influence = probe.block_influence()
        others: dict[str, tuple[int, ...]] = {}
        if isinstance(keep, int):
            others = {"uniform": uniform_layers(total, keep), "block_influence": most_influential(influence, keep)}
            kept = probe.greedy(influence, keep, progress) if method == "greedy" else others.pop(method)
        else:
            kept = tuple(sorted(keep))
        alternatives = {name: probe.kl_when_kept(layers) for name, layers in others.items()}
        return LayerChoice(
            method=method if isinstance(keep, int) else "explicit",
            kept=kept,
            teacher_layers=total,
            calibration_tokens=int(batch.predicts.sum()),
            influence=tuple(influence),
            start_kl_nats=probe.kl_when_kept(kept),
            alternatives=alternatives,
        )


def _check_keep(keep: int | Sequence[int], total: int) -> None:
    if isinstance(keep, int) and not 1 <= keep <= total:
        raise ModelError(f"student.keep is {keep}, but the teacher has {total} layers. Keep between 1 and {total}.")
    if not isinstance(keep, int):
        wrong = [layer for layer in keep if not 0 <= layer < total]
        if wrong or not keep or len(set(keep)) < len(keep):
            raise ModelError(
                f"student.keep is {list(keep)}, but the teacher's layers are 0 to {total - 1}. "
                "Name at least one, each once."
            )


def uniform_layers(total: int, keep: int) -> tuple[int, ...]:
    """`keep` of `total` layers, evenly spread, the first and the last among them."""
    if keep == 1:
        return (0,)
    return tuple(round(index * (total - 1) / (keep - 1)) for index in range(keep))


def most_influential(influence: Sequence[float], keep: int) -> tuple[int, ...]:
    """The `keep` layers of highest influence, in their own order; of equals the earlier."""
    ranked = sorted(range(len(influence)), key=lambda layer: (-influence[layer], layer))
    return tuple(sorted(ranked[:keep]))


class _Probe:
    """Measures a teacher with some of its blocks left out, against itself whole."""

    def __init__(self, teacher: PreTrainedModel, batch: Batch) -> None:
        self.teacher, self.batch = teacher, batch
        self.layers = decoder_layers(teacher)
        self.whole_logits = factored_logits(teacher, batch).at(batch.predicts).dense()  # [tokens, vocab]

    def block_influence(self) -> list[float]:
        """1 - cosine of input and output per block, averaged over the batch's tokens."""
        found: list[float] = []
        real = self.batch.documents >= 0

        def measure(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            if not isinstance(output, Tensor):
                raise ModelError(f"{type(block).__name__} hands on more than hidden states, so it cannot be left out.")
            found.append(float(1 - nn.functional.cosine_similarity(before[real], output[real], dim=-1).mean()))

        handles = [block.register_forward_hook(measure, with_kwargs=True) for block in self.layers]
        try:
            factored_logits(self.teacher, self.batch)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def kl_when_kept(self, kept: Sequence[int]) -> float:
        """Mean KL(whole || with these blocks only) a token, in nats."""
        with _only(self.layers, kept):
            logits = factored_logits(self.teacher, self.batch).at(self.batch.predicts).dense()
        return float(_mean_kl(logits, self.whole_logits))

    def greedy(self, influence: Sequence[float], keep: int, progress: Progress) -> tuple[int, ...]:
        """Remove the least missed block again and again until `keep` are left."""
        kept = list(range(len(influence)))
        with working(progress, "choosing layers", len(kept) - keep, "layers left out"):
            while len(kept) > keep:
                shortlist = sorted(kept, key=lambda layer: influence[layer])[:GREEDY_SHORTLIST]
                costs = {gone: self.kl_when_kept([layer for layer in kept if layer != gone]) for gone in shortlist}
                kept.remove(min(costs, key=costs.__getitem__))
                progress.advance(1, f"KL {min(costs.values()):.2f} nats")
        return tuple(kept)


def _mean_kl(student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"]) -> Tensor:
    parts = zip(student.split(256), teacher.split(256), strict=True)
    return torch.cat([forward_kl(student_part, teacher_part) for student_part, teacher_part in parts]).mean()


class _Skipped(nn.Module):
    """Stands where a block was and hands its input on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = [block]  # in a list: its parameters are not ours

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `attention_type`, which the model asks its blocks for
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states


@contextmanager
def _only(layers: nn.ModuleList, kept: Sequence[int]) -> Iterator[None]:
    """Within the block, the stack acts as if it had only the blocks `kept`."""
    whole = list(layers)
    for index in set(range(len(whole))) - set(kept):
        layers[index] = _Skipped(whole[index])
    try:
        yield
    finally:
        for index, block in enumerate(whole):
            layers[index] = block
