"""What becomes of a step in which memory runs out, or whose loss or gradient is no number."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from stillhouse.core.batch import PreferenceBatch, RankedBatch, as_batch
from stillhouse.core.errors import ModelError
from stillhouse.core.memory import ran_out_of_memory

ROWS_AT_ONCE = "rows_at_once"
SKIPPED = "skipped_steps"
"""Under which the trainer's own state, and so a checkpoint, keeps what has become of former steps."""

Inputs = Mapping[str, Tensor]


@runtime_checkable
class Tell(Protocol):
    """Told of what a user should know, while it happens."""

    def __call__(self, event: str, says: str, /, **details: Any) -> None:
        """What happened, a sentence about it, and its figures."""


def tell_nobody(event: str, says: str, /, **details: Any) -> None:
    """The default of every library function."""


def rows_together(inputs: Inputs) -> int:
    """How many rows of a batch are judged side by side, and so cannot be parted: of a pair of answers both."""
    batch = as_batch(inputs)
    if isinstance(batch, RankedBatch):
        return len(batch.ids) // len(batch.labels)
    return 2 if isinstance(batch, PreferenceBatch) else 1


def pieces(inputs: Inputs, rows_at_once: int) -> Iterator[dict[str, Tensor]]:
    """The batch in pieces of at most so many rows, each as wide as it is."""
    rows = len(inputs["ids"])
    for start in range(0, rows, rows_at_once):
        ends = (start, min(start + rows_at_once, rows))
        yield {name: tensor[slice(*(end * len(tensor) // rows for end in ends))] for name, tensor in inputs.items()}


class HalvingTrainer(Trainer):
    """A Trainer that runs a micro-batch in halves where memory runs out, and then keeps to that size.

    A step's loss is a sum over its rows, divided by what the whole step counts, so pieces give the gradient of the whole.
    What a step has done before memory ran out is done again in pieces: half of a backward pass cannot be taken back.
    """

    tell: Tell
    read: Sequence[dict[str, Tensor]]
    """The micro-batches of this step."""

    def summed(self) -> Any:
        """What `compute_loss` adds to, copied."""
        return None

    def restore_sums(self, sums: Any) -> None:
        """Go back to what `summed` gave."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The micro-batch's loss; its gradient is added to the others'."""
        number = next(place for place, batch in enumerate(self.read) if batch is inputs)
        if number == 0:
            self._at_first = (self.summed(), _chance())
        again = self.read[number : number + 1]
        while True:
            try:
                losses = [self._in_pieces(model, batch, num_items_in_batch) for batch in again]
                return losses[-1]
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
            # Here, and not above: an error holds on to the frames that it came through, and to all that they hold.
            self._halve(inputs)
            sums, chance = self._at_first
            self.restore_sums(sums)
            _restore_chance(chance)
            model.zero_grad()
            again = self.read[: number + 1]

    def _in_pieces(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any) -> Tensor:
        losses = [
            super(HalvingTrainer, self).training_step(model, piece, num_items_in_batch)
            for piece in pieces(inputs, self.rows_at_once or len(inputs["ids"]))
        ]
        return torch.stack(losses).sum()

    @property
    def rows_at_once(self) -> int | None:
        """How many rows memory has room for; None where it has had room for all so far."""
        state: Any = self.state
        kept: list[int] | None = state.stateful_callbacks.get(ROWS_AT_ONCE)
        return kept[0] if kept else None

    def _halve(self, inputs: Inputs) -> None:
        clear_device_cache(garbage_collection=True)
        together, rows = rows_together(inputs), min(self.rows_at_once or len(inputs["ids"]), len(inputs["ids"]))
        half = rows // together // 2 * together
        step = self.state.global_step + 1
        if half == 0 or self.args.world_size > 1:
            why = f"with {rows} rows at once, which cannot be halved"
            if self.args.world_size > 1:
                why, half = f"with {rows} rows at once, and several processes cannot halve them on the way", rows // 2
            mend = f"training.rows_per_micro_batch to {half}" if half else "data.sequence_tokens"
            raise ModelError(f"memory ran out in step {step} {why}. Lower {mend}; training goes on from here.")
        state: Any = self.state
        state.stateful_callbacks[ROWS_AT_ONCE] = [half]
        self.tell(
            "halved",
            f"memory ran out in step {step} with {rows} rows at once: from here on {half} are run at once, with the same "
            "gradient",
            step=step,
            rows_at_once=half,
        )


def _chance() -> tuple[Tensor, Tensor | None]:
    """Where random numbers stand, here and on this process's GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore_chance(states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])


@dataclass
class OddSteps(TrainerCallback):
    """Looks at every step before it changes the student: what is no number stops the run, or is stepped over.

    A step that is stepped over leaves weights and optimiser as they were; the learning rate goes on.
    """

    numbers: Callable[[], Mapping[str, float]]
    """The step's terms so far."""
    keep: Callable[[int], str | None] = field(default=lambda _step: None)
    """Writes down what the step has read, and says where."""
    skip_at_most: int = 0
    """So many steps of a run; one more stops it."""
    tell: Tell = tell_nobody
    norm: Callable[[nn.Module], float] = field(default=lambda model: gradient_norm(model))
    """How long the gradient is."""
    forget: Callable[[nn.Module], None] = field(default=lambda model: model.zero_grad(set_to_none=True))
    """Lets go of it: an optimiser passes over what has none."""
    skipped_now: bool = False
    """Whether this was the last step's fate."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are whole, and nothing has been learnt from them.

        Raises:
            ModelError: if a number is none and no more steps may be skipped.
        """
        model = kwargs["model"]
        numbers = {**self.numbers(), "gradient_norm": self.norm(model)}
        self.skipped_now = not all(math.isfinite(value) for value in numbers.values())
        if not self.skipped_now:
            return
        step, file = state.global_step + 1, self.keep(state.global_step + 1)
        before: list[int] = state.stateful_callbacks.get(SKIPPED, [])
        if len(before) >= self.skip_at_most:
            refuse_odd(numbers, step=step, file=file, skipped=len(before))
        self.forget(model)
        state.stateful_callbacks[SKIPPED] = [*before, step]
        where = f"; what it read is in {file}" if file else ""
        says = f"step {step} was skipped, for its numbers are none ({_shown(numbers)}){where}"
        self.tell("skipped", says, step=step, file=file)


def gradient_norm(model: nn.Module) -> float:
    """Of all that the model has gradients of."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # of a model that is sharded


def _shown(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())


def refuse_odd(numbers: Mapping[str, float], *, step: int, file: str | None = None, skipped: int = 0) -> None:
    """Stop a run of which a step has no numbers.

    Raises:
        ModelError: in every case.
    """
    where = f" What it read is in {file}." if file else ""
    before = f", after {skipped} that were skipped" if skipped else ""
    raise ModelError(
        f"step {step} went astray ({_shown(numbers)}){before}: it is no number, and nothing was learnt from it.{where} Lower "
        "training.learning_rate, or look for odd values in the student's or the teacher's weights; "
        "training.odd_steps=skip passes over a few such steps. Training goes on from the last checkpoint."
    )
