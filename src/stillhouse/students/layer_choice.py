"""Which layers of a teacher a student keeps. It can matter more than all of a short training."""

from collections.abc import Sequence
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
from stillhouse.students.skipping import only

LayerMethod = Literal["uniform", "block_influence", "greedy"]

GREEDY_SHORTLIST = 5
"""Blocks tried at each step of the greedy choice: those of lowest influence. Trying more takes longer in proportion and
finds little more: see `benchmarks/layer_choice.py`."""


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
    the one of a shortlist whose loss costs the least KL from the whole teacher. Step by step can still lead astray, so
    `greedy` gives way to either of the others where that has the lower KL on `batch`; the choice's own `method` says so.

    Raises:
        ModelError: if more layers are kept than there are, none, or one that does not exist.
    """
    total = decoder_config(teacher).num_hidden_layers
    check_keep(keep, total)
    with torch.no_grad():
        probe = _Probe(teacher, batch)
        influence = probe.block_influence()
        options = probe.options(influence, keep, method, progress)
        costs = {name: probe.kl_when_kept(kept) for name, kept in options.items()}
        chosen = min(options, key=costs.__getitem__) if method == "greedy" else next(iter(options))
        return LayerChoice(
            method=chosen,
            kept=options[chosen],
            teacher_layers=total,
            calibration_tokens=int(batch.predicts.sum()),
            influence=tuple(influence),
            start_kl_nats=costs.pop(chosen),
            alternatives=costs,
        )


def check_keep(keep: int | Sequence[int], total: int) -> None:
    """Refuse to keep more layers than the `total` that there are, none, one twice, or one that does not exist.

    Raises:
        ModelError: saying which there are.
    """
    if isinstance(keep, int) and not 1 <= keep <= total:
        raise ModelError(f"student.keep is {keep}, but the teacher has {total} layers. Keep between 1 and {total}.")
    if not isinstance(keep, int):
        wrong = [layer for layer in keep if not 0 <= layer < total]
        if wrong or not keep or len(set(keep)) < len(keep):
            raise ModelError(
                f"student.keep is {list(keep)}, but the teacher's layers are 0 to {total - 1}. "
                "Name at least one, each once."
            )


def kl_when_kept(teacher: PreTrainedModel, batch: Batch, kept: Sequence[int]) -> float:
    """Mean KL(whole teacher || only these of its layers) a token of the batch, in nats."""
    with torch.no_grad():
        return _Probe(teacher, batch).kl_when_kept(kept)


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

    def options(
        self, influence: Sequence[float], keep: int | Sequence[int], method: LayerMethod, progress: Progress
    ) -> dict[str, tuple[int, ...]]:
        """The layers that each method worth measuring would keep; the one asked for first."""
        if not isinstance(keep, int):
            return {"explicit": tuple(sorted(keep))}
        found = {
            "uniform": uniform_layers(len(influence), keep),
            "block_influence": most_influential(influence, keep),
        }
        asked = self.greedy(influence, keep, progress) if method == "greedy" else found.pop(method)
        return {method: asked, **found}

    def kl_when_kept(self, kept: Sequence[int]) -> float:
        """Mean KL(whole || with these blocks only) a token, in nats."""
        with only(self.layers, kept):
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
