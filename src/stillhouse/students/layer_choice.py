"""Which layers of a teacher a student keeps. It can matter more than all of a short training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch, one_document_a_row
from stillhouse.core.errors import ModelError
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.models.anatomy import layers_of, num_layers, task_of, understood
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import forward_kl
from stillhouse.students.skipping import handed_on, only

LayerMethod = Literal["uniform", "published", "block_influence", "greedy"]

GREEDY_SHORTLIST = 5
"""Blocks tried at each step of the greedy choice: those of lowest influence. Trying more takes longer in proportion and
finds little more: see `benchmarks/layer_choice.py`."""

PUBLISHED_LAYERS: dict[int, dict[int, tuple[int, ...]]] = {
    6: {2: (0, 5), 3: (0, 2, 5), 4: (0, 1, 3, 5)},
    12: {
        1: (0,),
        2: (0, 6),
        3: (0, 6, 11),
        4: (0, 4, 8, 11),
        6: (0, 2, 4, 7, 9, 11),
        9: (0, 1, 2, 4, 5, 7, 9, 10, 11),
    },
    16: {4: (0, 5, 10, 15), 8: (0, 2, 4, 6, 8, 10, 12, 15)},
}
"""By the teacher's number of layers and the student's. Twelve to six is DistilBERT (Sanh et al., 2019, arXiv:1910.01108)
and DistilGPT2; the others are those of the distilled BART, Pegasus and Marian models (Shleifer and Rush, 2020,
arXiv:2010.13002)."""


@dataclass(frozen=True)
class LayerChoice:
    """The layers kept, and the measurement that chose them."""

    method: str
    kept: tuple[int, ...]
    teacher_layers: int
    calibration_tokens: int
    influence: tuple[float, ...]
    """1 - cosine of each block's input and output, averaged over tokens: how much the block changes."""
    start_kl_nats: float | None
    """KL(teacher || student) a token on the calibration text, before any training; None for models that predict no tokens."""
    start_cosine_distance: float | None
    """For those, 1 - cosine of teacher's and student's last hidden states, averaged over tokens."""
    alternatives: dict[str, float]
    """The same for the other methods that were measured, by whichever of the two."""


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
    (Men et al., 2024, arXiv:2403.03853, eq. 1), in one forward pass; `published` takes those of a well-known student;
    `greedy` removes one block after another, each time the one of a shortlist whose loss costs least. Step by step can
    still lead astray, so `greedy` gives way to `uniform` or `block_influence` where that costs less on `batch`; the
    choice's own `method` says so.

    A cost is the mean KL from the whole teacher where the model predicts tokens, seen or hidden, and else the cosine
    distance of the last hidden states: one document has one answer, but a state for each of its tokens.

    Raises:
        ModelError: if more layers are kept than there are, none, or one that does not exist; or if nobody published
            which to keep.
    """
    check_keep(keep, num_layers(teacher), method=method)
    with torch.no_grad():
        probe = _Probe(teacher, batch)
        influence = probe.block_influence()
        options = probe.options(influence, keep, method, progress)
        costs = {name: probe.cost(kept) for name, kept in options.items()}
        chosen = min(options, key=costs.__getitem__) if method == "greedy" else next(iter(options))
        start = costs.pop(chosen)
        return LayerChoice(
            method=chosen,
            kept=options[chosen],
            teacher_layers=num_layers(teacher),
            calibration_tokens=len(probe.whole),
            influence=tuple(influence),
            start_kl_nats=start if probe.speaks else None,
            start_cosine_distance=None if probe.speaks else start,
            alternatives=costs,
        )


def check_keep(keep: int | Sequence[int], total: int, *, method: LayerMethod = "uniform") -> None:
    """Refuse to keep more layers than the `total` that there are, none, one twice, or one that does not exist; and
    `published` ones where there are none.

    Raises:
        ModelError: saying which there are.
    """
    if isinstance(keep, int) and method == "published" and 1 <= keep <= total:
        published_layers(total, keep)
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
    """Mean KL(whole teacher || only these of its layers) a token of the batch, in nats: of a language model."""
    return trials(teacher, batch)(kept)


def trials(teacher: PreTrainedModel, batch: Batch) -> Callable[[Sequence[int]], float]:
    """What says how far the teacher with some of its layers is from itself whole: a trial of `choose_layers`."""
    with torch.no_grad():
        return torch.no_grad()(_Probe(teacher, batch).cost)


def published_layers(teacher_layers: int, keep: int) -> tuple[int, ...]:
    """The layers that a well-known student of a teacher of this depth was made from.

    Raises:
        ModelError: naming those that there are.
    """
    if keep == teacher_layers:
        return tuple(range(keep))
    if keep not in PUBLISHED_LAYERS.get(teacher_layers, {}):
        known = "; ".join(f"{total} to {', '.join(map(str, ways))}" for total, ways in PUBLISHED_LAYERS.items())
        raise ModelError(
            f"student.choose is published, but no published student keeps {keep} of {teacher_layers} layers. "
            f"There are: {known}. Take one of these, or another way to choose."
        )
    return PUBLISHED_LAYERS[teacher_layers][keep]


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
        self.teacher, self.batch = teacher, one_document_a_row(batch.to(teacher.device))
        self.layers = layers_of(teacher)
        self.speaks = task_of(teacher) in ("causal_lm", "masked_lm")
        self.whole = self.answers()

    def answers(self) -> Float[Tensor, "tokens values"]:
        """What the teacher says where it counts, as it is now: logits if it speaks, else last hidden states."""
        if self.speaks:
            return factored_logits(self.teacher, self.batch).at(self.batch.predicts).dense()
        return self.last_hidden()[self.batch.real].float()

    def last_hidden(self) -> Float[Tensor, "batch seq hidden"]:
        """What the teacher's body gives."""
        body: Any = self.teacher.base_model
        segments = getattr(self.batch, "segments", None)
        inputs = understood(body, attention_mask=self.batch.real.long(), token_type_ids=segments, use_cache=False)
        return body(input_ids=self.batch.ids, **inputs).last_hidden_state

    def block_influence(self) -> list[float]:
        """1 - cosine of input and output per block, averaged over the batch's tokens."""
        found: list[float] = []

        def measure(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            found.append(self.distance(before[self.batch.real], handed_on(block, output)[self.batch.real]))

        handles = [block.register_forward_hook(measure, with_kwargs=True) for block in self.layers]
        try:
            self.answers()
        finally:
            for handle in handles:
                handle.remove()
        return found

    @staticmethod
    def distance(ours: Float[Tensor, "tokens hidden"], theirs: Float[Tensor, "tokens hidden"]) -> float:
        """1 - cosine, averaged over tokens."""
        return float((1 - nn.functional.cosine_similarity(ours, theirs, dim=-1)).mean())

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
        match method:
            case "greedy":
                asked = self.greedy(influence, keep, progress)
            case "published":
                asked = published_layers(len(influence), keep)
            case _:
                asked = found.pop(method)
        return {method: asked, **found}

    def cost(self, kept: Sequence[int]) -> float:
        """How far the teacher with these blocks alone is from itself whole, a token."""
        with only(self.teacher, kept):
            answers = self.answers()
        return float(_mean_kl(answers, self.whole)) if self.speaks else self.distance(answers, self.whole)

    def greedy(self, influence: Sequence[float], keep: int, progress: Progress) -> tuple[int, ...]:
        """Remove the least missed block again and again until `keep` are left."""
        kept = list(range(len(influence)))
        with working(progress, "choosing layers", len(kept) - keep, "layers left out"):
            while len(kept) > keep:
                shortlist = sorted(kept, key=lambda layer: influence[layer])[:GREEDY_SHORTLIST]
                costs = {gone: self.cost([layer for layer in kept if layer != gone]) for gone in shortlist}
                kept.remove(min(costs, key=costs.__getitem__))
                lowest = min(costs.values())
                progress.advance(1, f"KL {lowest:.2f} nats" if self.speaks else f"distance {lowest:.3f}")
        return tuple(kept)


def _mean_kl(student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"]) -> Tensor:
    parts = zip(student.split(256), teacher.split(256), strict=True)
    return torch.cat([forward_kl(student_part, teacher_part) for student_part, teacher_part in parts]).mean()
