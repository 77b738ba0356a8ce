"""The training loop: transformers' own, with a loss that asks each objective what it reads."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from stillhouse.core.batch import Batch
from stillhouse.core.config import Config, Seed
from stillhouse.core.errors import ModelError
from stillhouse.core.files import remove
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.protocols import Teacher
from stillhouse.data.examples import Example
from stillhouse.data.packing import as_tensors, pack, to_batch
from stillhouse.kernels.chunked import Term, chunked_losses
from stillhouse.models.forward import factored_logits

LogLine = Callable[[Mapping[str, float]], None]


class Schedule(Config):
    """How long, how fast, and how often to save."""

    epochs: PositiveFloat = 1.0
    """How often each document is seen."""
    learning_rate: PositiveFloat = 2e-4
    """The highest; it rises over the warm-up and falls along a cosine to 0."""
    rows_per_step: PositiveInt = 8
    """Packed rows that each optimiser step sees, over all micro-batches of one process."""
    rows_per_micro_batch: PositiveInt = 8
    """Packed rows run at once; less takes less memory and gives the same gradient."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.0
    max_gradient_norm: PositiveFloat = 1.0
    """A longer gradient is shortened to this."""
    save_every_steps: PositiveInt = 50
    """A kill costs at most this many steps."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _micro_batches_fill_a_step(self) -> "Schedule":
        if self.rows_per_step % self.rows_per_micro_batch:
            raise ValueError(
                f"rows_per_micro_batch is {self.rows_per_micro_batch}, which does not divide rows_per_step "
                f"({self.rows_per_step}). Choose one that does."
            )
        return self


class PackedRows(Dataset[list[Example]]):
    """Examples packed into rows of `row_tokens`; one item is the examples of one row."""

    def __init__(self, examples: Sequence[Example], *, row_tokens: int) -> None:
        self.examples, self.row_tokens = examples, row_tokens
        self.rows = pack([len(example.ids) for example in examples], row_tokens=row_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.examples[number] for number in self.rows[index]]

    def collate(self, rows: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        """Rows as tensors [batch, row_tokens]."""
        return as_tensors(to_batch(rows, row_tokens=self.row_tokens))


class DistillationTrainer(Trainer):
    """A transformers Trainer whose loss is a weighted sum of objectives.

    Each term is divided once, by the token weight summed over all micro-batches and ranks of an optimiser step, so that
    accumulation and data parallelism give the gradient of one large batch.
    """

    def __init__(
        self,
        *,
        terms: Sequence[Term],
        teacher: Teacher | None,
        vocab_size: int,
        log_line: LogLine | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # The loss below is already divided over the whole step: the Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.terms, self.teacher, self.vocab_size = tuple(terms), teacher, vocab_size
        self.log_line = log_line
        self._sums = torch.zeros(len(self.terms) + 1)  # of each term, and of the weights, since the last log

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """The weight that this step's loss is divided by: all micro-batches, all ranks."""
        total = sum((batch["weights"][:, 1:].sum() for batch in batch_samples), torch.zeros(()))
        if self.args.world_size > 1:
            total = self.accelerator.gather(total.to(device)).sum()
        if total == 0:
            raise ModelError("no token of this batch carries weight, so there is nothing to learn from it.")
        return total.to(device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The step's share of the loss from this micro-batch."""
        batch = Batch(**inputs)
        sums, term_sums = distillation_loss(
            model, batch, teacher=self.teacher, terms=self.terms, vocab_size=self.vocab_size
        )
        self._sums += torch.cat([term_sums.cpu(), batch.total_weight[None].cpu()])
        # Ranks are averaged where they should be summed: one factor mends it.
        return sums / num_items_in_batch * self.args.world_size

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also write each term's mean since the last line, over all ranks, in nats a token.

        Raises:
            ModelError: if a number of this step is none, before anything of it is saved.
        """
        super().log(logs, start_time)
        if "loss" in logs:
            *term_sums, weight = self.accelerator.reduce(self._sums.to(self.args.device)).tolist()
            means = {name: value / weight for name, value in zip(_names(self.terms), term_sums, strict=True)}
            self._sums.zero_()
            _refuse_nan({**means, "gradient_norm": logs["grad_norm"]}, step=self.state.global_step)
            rates = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "gradient_norm": logs["grad_norm"]}
            if self.log_line is not None and self.is_world_process_zero():
                self.log_line({"step": self.state.global_step, "tokens": weight, **means, **rates})


def _names(terms: Sequence[Term]) -> list[str]:
    """What each term is logged as: its name, and from the second of that name on its number too."""
    names = [term.name for term in terms]
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def _refuse_nan(numbers: Mapping[str, float], *, step: int) -> None:
    if any(math.isnan(value) for value in numbers.values()):
        found = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        raise ModelError(
            f"step {step} went astray ({found}): the student's weights are no numbers any more. Lower training.learning_rate, "
            "or look for odd values in the student's or the teacher's weights; training goes on from the last checkpoint."
        )


def distillation_loss(
    student: nn.Module, batch: Batch, *, teacher: Teacher | None, terms: Sequence[Term], vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Sum over the batch's tokens of the weighted terms, and each term's own sum [terms]; nothing is divided.

    Both heads are cut to `vocab_size`, the tokenizer's: what pads a head beyond it is no token.
    """
    judged = batch.predicts
    said = None if teacher is None else teacher.signals(batch).at(judged).first(vocab_size)
    answer = factored_logits(student, batch).at(judged).first(vocab_size)
    return chunked_losses(
        answer, said, terms=terms, target_ids=batch.targets, token_weights=batch.target_weights.to(answer.hidden.device)
    )


def train(
    student: PreTrainedModel,
    examples: Sequence[Example],
    *,
    terms: Sequence[Term],
    teacher: Teacher | None,
    vocab_size: int,
    schedule: Schedule,
    row_tokens: int,
    checkpoints: Path,
    log_line: LogLine | None = None,
    progress: Progress = SILENT,
    title: str = "the student learns",
) -> PreTrainedModel:
    """Train `student` in place and return it. Started again after a kill, it goes on from the last whole checkpoint in
    `checkpoints` and, on CPU, ends with the same weights bit for bit.
    """
    rows = PackedRows(examples, row_tokens=row_tokens)
    trainer = DistillationTrainer(
        model=student,
        args=_arguments(schedule, checkpoints),
        train_dataset=rows,
        data_collator=rows.collate,
        terms=terms,
        teacher=teacher if any(term.reads_teacher for term in terms) else None,
        vocab_size=vocab_size,
        log_line=log_line,
        callbacks=[_Steps(progress, title)],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=latest_checkpoint(checkpoints))
    finally:
        progress.finish()
    return student.eval()


def _arguments(schedule: Schedule, checkpoints: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=schedule.rows_per_micro_batch,
        gradient_accumulation_steps=schedule.rows_per_step // schedule.rows_per_micro_batch,
        warmup_steps=schedule.warmup_share,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_gradient_norm,
        lr_scheduler_type="cosine",
        save_steps=schedule.save_every_steps,
        save_total_limit=2,
        logging_steps=1,
        seed=schedule.seed,
        data_seed=schedule.seed,
        dataloader_pin_memory=torch.accelerator.is_available(),  # asked for without one, it warns in every epoch
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def latest_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; what a kill left unfinished is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for checkpoint in found:
        if _is_whole(checkpoint):
            return str(checkpoint)
        remove(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes its state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return True


class _Steps(TrainerCallback):
    """Tells the progress how many steps are done and what the loss is."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start(self.title, state.max_steps, "steps")
        self.progress.advance(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.progress.advance(args.logging_steps, f"loss {logs['loss']:.3f}")
