"""The training loop: transformers' own, with a loss that asks each objective what it reads."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from stillhouse.core.alignment import CommonOutcomes
from stillhouse.core.batch import as_batch
from stillhouse.core.config import Config, Seed
from stillhouse.core.errors import ModelError
from stillhouse.core.files import flush_folder, remove, write_atomic
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import Pooling
from stillhouse.data.epochs import TellEpoch
from stillhouse.data.rowset import DealtRows, RowSet
from stillhouse.kernels.terms import Term
from stillhouse.models.adapters import WEIGHTS, adapter_config, adapter_weights, load_adapter, save_adapter
from stillhouse.models.compiled import BACKEND, compiler_at_work, compiling
from stillhouse.models.precision import Precision, computing_in
from stillhouse.models.recompute import recomputing
from stillhouse.models.signals import unwrapped
from stillhouse.objectives import Pace
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training import zero
from stillhouse.training.loss import NO_PROJECTIONS, distillation_loss
from stillhouse.training.mixing import MixedRows
from stillhouse.training.odd_batch import keep_batch
from stillhouse.training.order import ByLength, Dealt
from stillhouse.training.rescue import HalvingTrainer, OddSteps, Tell, tell_nobody
from stillhouse.training.sharding import (
    Held,
    Sharded,
    TeacherHeld,
    fill,
    gathered,
    hollow,
    is_sharded,
    shard,
    take,
    take_optimizer,
    whole_optimizer,
    whole_student,
    whole_tensors,
)
from stillhouse.training.terms import MAY_BE_NONE, UNITS, AnyTerm, Paces, Scheduled, counts_apart, scheduled, unit_of
from stillhouse.training.watch import Inspector, Watch

LogLine = Callable[[Mapping[str, float]], None]

PACES = "paces"
"""Under which the trainer's own state, and so a checkpoint, keeps where adaptive ramps stand."""


ROWS_FILE = "rows_{}.json"
"""In a checkpoint, what the rows of a process remember."""


class Schedule(Config):
    """How long, how fast, and how often to save."""

    epochs: PositiveFloat = 1.0
    """How often each document is seen."""
    learning_rate: PositiveFloat = 2e-4
    """The highest; it rises over the warm-up and falls along a cosine to 0."""
    rows_per_step: PositiveInt = 8
    """Packed rows that each optimiser step sees, over all micro-batches of one process."""
    rows_per_micro_batch: PositiveInt = 8
    """Packed rows run at once; less takes less memory and gives the same gradient. If left out, as many up to 8 as divide
    `rows_per_step`."""
    gradient_checkpointing: bool = False
    """Keep of each layer its input alone, and compute the layer once more for its gradient: the same gradient, in less memory
    and for one forward pass more."""
    precision: Precision = "float32"
    """What layers compute in, the student's and those of a teacher that is asked while it learns. In bfloat16 weights,
    optimiser, heads and losses stay in float32, and so does what the student writes."""
    compile: bool = False
    """Let torch compile layers, the student's and those of a teacher that is asked while it learns, into code of their own for
    this machine: minutes at first, the same gradient within rounding. Needs a C++ compiler; where there is a GPU, Triton."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.0
    max_gradient_norm: PositiveFloat = 1.0
    """A longer gradient is shortened to this."""
    save_every_steps: PositiveInt = 50
    """A kill costs at most this many steps."""
    odd_steps: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradient is infinite or no number: it stops the run, or it is skipped, and nothing
    is learnt from it. Either way what it read is kept in `checkpoints`."""
    skip_at_most: PositiveInt = 5
    """Of `skip`: so many steps of a training; one more stops it."""
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _as_many_rows_at_once_as_divide_a_step(cls, values: Any) -> Any:
        """A resolved recipe says how many that were."""
        rows = values.get("rows_per_step") if isinstance(values, dict) else None
        if not isinstance(rows, int) or rows < 1:
            return values
        usual = cls.model_fields["rows_per_micro_batch"].default
        return {"rows_per_micro_batch": math.gcd(rows, usual), **values}

    @model_validator(mode="after")
    def _micro_batches_fill_a_step(self) -> "Schedule":
        if self.rows_per_step % self.rows_per_micro_batch:
            raise ValueError(
                f"rows_per_micro_batch is {self.rows_per_micro_batch}, which does not divide rows_per_step "
                f"({self.rows_per_step}). Choose one that does."
            )
        return self


def as_many_steps(schedule: Schedule, num_rows: int, *, on: int) -> Schedule:
    """The schedule for `on` rows that makes as many steps as this one makes on `num_rows`."""
    of_these, of_those = (math.ceil(rows / schedule.rows_per_step) for rows in (num_rows, on))
    steps = math.ceil(schedule.epochs * of_these)
    # Half a step below: an epoch that a share of is counted in rounds its steps up.
    return schedule.model_copy(update={"epochs": (steps - 0.5) / of_those})


class Pupil(nn.Module):
    """A student with its projections, so that both are trained as one model; only the student is ever exported."""

    def __init__(self, student: PreTrainedModel, projections: Projections) -> None:
        super().__init__()
        self.module, self.projections = student, projections
        self.config, self._keys_to_ignore_on_save = student.config, student._keys_to_ignore_on_save

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the student says."""
        return self.module(*args, **kwargs)


class DistillationTrainer(HalvingTrainer):
    """A transformers Trainer whose loss is a weighted sum of objectives.

    Each term is divided once, by what it counts (weighted targets, tokens, documents, spans) summed over all micro-batches
    and ranks of an optimiser step, so that accumulation and data parallelism give the gradient of one large batch. With
    `replay_terms`, rows that are replayed learn these alone, and each is divided by what these rows count.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        terms: Sequence[AnyTerm | Scheduled],
        teacher: Teacher | None,
        vocab_size: int,
        pooling: Pooling | None = None,
        projections: Projections | None = None,
        common: CommonOutcomes | None = None,
        log_line: LogLine | None = None,
        watch: Watch | None = None,
        replay_terms: Sequence[Term] = (),
        inspect: Inspector | None = None,
        skip_at_most: int = 0,
        tell: Tell = tell_nobody,
        held: Held = "whole",
        teacher_held: TeacherHeld = "whole",
        precision: Precision = "float32",
        compiler: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.projections, self.precision, self.compiler = projections or NO_PROJECTIONS, precision, compiler
        pupil = Pupil(model, self.projections) if len(self.projections.maps) else model
        is_alone = kwargs["args"].world_size == 1
        self.is_sharded = held == "sharded" and not is_alone
        self.zero_stage = None if is_alone else zero.STAGES.get(held)
        # What has an adapter in it is put together again in a copy of it: it is no plain model of its class.
        self.adapted = hollow(model) if self._has_parts and adapter_config(model) is not None else None
        if self.is_sharded:
            shard(pupil, num_ranks=kwargs["args"].world_size, precision=precision)
        if teacher_held == "sharded" and isinstance(teacher, LocalTeacher) and kwargs["args"].world_size > 1:
            shard(teacher.model, num_ranks=kwargs["args"].world_size, precision=precision)
        self._rows: RowSet = kwargs.pop("train_dataset")
        dealt = DealtRows(self._rows)
        super().__init__(model=pupil, train_dataset=dealt, data_collator=dealt.collate, **kwargs)
        # The loss below is already divided over the whole step: the Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.terms, self.teacher, self.vocab_size, self.pooling = scheduled(terms), teacher, vocab_size, pooling
        self.common = None if common is None else common.to(self.args.device)
        self.log_line, self.watch, self.inspect = log_line, watch, inspect
        self.replay_terms = tuple(replay_terms)
        # Since the last log: each term's, and the counts of what learns the terms and of what learns the replay's.
        self._sums = torch.zeros(self._num_terms + 2 * len(UNITS), dtype=torch.float64)
        self.read, self.tell = [], tell
        self.odd_steps = OddSteps(self._odd_numbers, self._keep_step, skip_at_most, tell)
        if self.zero_stage is not None:
            self.odd_steps.norm, self.odd_steps.forget = self._norm_of_parts, self._forget_parts
        self.add_callback(self.odd_steps)

    @property
    def _num_terms(self) -> int:
        return len(self.terms) + len(self.replay_terms)

    def terms_now(self) -> list[AnyTerm]:
        """The terms as they are at this step."""
        progress = self._share_done(self.state.global_step)
        return [term.at(progress, paces) for term, paces in zip(self.terms, self._paces(), strict=True)]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        at_once, ranks = self._train_batch_size, self.args.world_size
        in_step: Any = {
            "rows_per_step": at_once * self.args.gradient_accumulation_steps * ranks,
            "seed": self.args.seed,
        }
        rows = self._rows
        order = rows.order(**in_step) if isinstance(rows, MixedRows) else ByLength(rows.lengths, **in_step)
        return order if ranks == 1 else Dealt(order, rows_together=at_once * ranks)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The Trainer's own warm-up spends its first step at 0: a training of one step would learn nothing."""
        warmup = self.args.get_warmup_steps(num_training_steps)
        chosen: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(chosen, partial(rate_share, warmup=warmup, total=num_training_steps))
        return self.lr_scheduler

    def _share_done(self, steps: int) -> float:
        return steps / max(self.state.max_steps, 1)

    def _paces(self) -> list[Paces]:
        """Where each term's adaptive ramps stand."""
        state: Any = self.state
        kept = state.stateful_callbacks.get(PACES, [{}] * len(self.terms))
        return [{name: Pace(**pace) for name, pace in paces.items()} for paces in kept]

    def _numbers(self) -> dict[str, float]:
        """What each number that moves was in the step that has just been done."""
        progress = self._share_done(self.state.global_step - 1)
        terms = zip(_names([term.term for term in self.terms]), self.terms, self._paces(), strict=True)
        of_terms = {
            f"{name}_{number}": value
            for name, term, paces in terms
            for number, value in term.numbers(progress, paces).items()
        }
        return of_terms | self._rows.numbers()

    def _move_on(self, means: Mapping[str, float]) -> None:
        """Let adaptive ramps follow what the step has just shown, if anything of the term: the same means on every rank."""
        progress = self._share_done(self.state.global_step)
        steps = zip(self.terms, self._paces(), _names([term.term for term in self.terms]), strict=True)
        paces = [
            term.after(before, value=means[name], progress=progress) if name in means else before
            for term, before, name in steps
        ]
        state: Any = self.state
        state.stateful_callbacks[PACES] = [{name: asdict(pace) for name, pace in found.items()} for found in paces]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of one step. Loaders read ahead; what depends on the student's weights is made now, and not before."""
        collated, done = list(islice(epoch_iterator, num_batches)), self.state.global_step
        writes = self._rows.run_the_student
        with self._all_weights(wanted=writes), self._all_weights_of_the_teacher(wanted=writes):
            batches = self._rows.at_step(collated, step=done + 1, progress=self._share_done(done))
        self.read = batches
        return super().get_batch_samples(iter(batches), num_batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """How many of each unit this step's terms are divided by, and how many its replay terms [2, units]: all micro-batches,
        all ranks."""
        batches = [as_batch(batch) for batch in batch_samples]
        counts = torch.stack([counts_apart(batch, apart=bool(self.replay_terms)) for batch in batches]).sum(0)
        self._sums[self._num_terms :] += counts.flatten()
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts.to(device))
        learnt = ([term.term for term in self.terms], self.replay_terms)
        for own, terms in zip(counts, learnt, strict=True):
            units = {unit_of(term) for term in terms} - MAY_BE_NONE
            if own[UNITS.index("token")] > 0 and any(own[UNITS.index(unit)] == 0 for unit in units):
                raise ModelError("no token of this batch carries weight, so there is nothing to learn from it.")
        return counts

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The step's share of the loss from this micro-batch."""
        batch = as_batch(inputs)
        if self.watch is not None and batch.real.any():
            self.watch.read(batch)
        with computing_in(self.precision), compiling(self.compiler):
            loss, term_sums = zero.loss_of(
                model,
                distillation_loss,
                batch,
                teacher=self.teacher,
                terms=self.terms_now(),
                vocab_size=self.vocab_size,
                pooling=self.pooling,
                projections=self.projections,
                counts=None if num_items_in_batch is None else num_items_in_batch[0],
                replay_terms=self.replay_terms,
                replay_counts=None if num_items_in_batch is None else num_items_in_batch[1],
                common=self.common,
                overhear=None if self.watch is None else self.watch.compare,
            )
        self._sums[: self._num_terms] += term_sums.cpu().double()
        # Ranks are averaged where they should be summed: one factor mends it.
        return loss * self.args.world_size

    def summed(self) -> Any:
        """The sums of the step so far, and what its watch has read."""
        return self._sums.clone(), None if self.watch is None else self.watch.copy()

    def restore_sums(self, sums: Any) -> None:
        """Go back to what `summed` gave."""
        before, watch = sums
        self._sums.copy_(before)
        if self.watch is not None:
            self.watch.restore(watch)

    def _step_means(self) -> tuple[dict[str, float], dict[str, float], Tensor]:
        """Each term's mean since the last line, over all ranks, the same of replayed rows, and what was counted [2, units]."""
        sums = self._sums.clone()
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device)).cpu()
        counts = sums[self._num_terms :].reshape(2, len(UNITS))
        means = self._means(sums[: len(self.terms)], counts[0])
        return means, self._replay_means(sums[len(self.terms) : self._num_terms], counts[1]), counts

    def _odd_numbers(self) -> dict[str, float]:
        means, replayed, _ = self._step_means()
        return means | replayed

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also write each term's mean since the last line, over all ranks, in nats a token for most, and what moves."""
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        means, replayed, counts = self._step_means()
        self._sums.zero_()
        if self.odd_steps.skipped_now:  # which has no numbers
            return
        super().log({**logs, **means, **replayed}, start_time)
        rates = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "gradient_norm": logs["grad_norm"]}
        found, watched = self.inspected(), {} if self.watch is None else self.watch.numbers()
        if self.log_line is not None and self.is_world_process_zero():
            line = {"step": self.state.global_step, "tokens": self._tokens(counts.sum(0))}
            self.log_line({**line, **means, **replayed, **self._numbers(), **watched, **found, **rates})
        self._move_on(means)

    def _keep_step(self, step: int) -> str:
        """Write down what this step has read, and say where."""
        file = Path(str(self.args.output_dir)) / f"odd_step_{step}_{self.args.process_index}.safetensors"
        keep_batch(self.read, file)
        return str(file)

    def inspected(self) -> Mapping[str, float]:
        """What whoever looks at the student finds now: the first process looks, and others lend it their weights."""
        if self.inspect is None:
            return {}
        pupil: Any = self.model
        with self._all_weights(wanted=True), self._all_weights_of_the_teacher(wanted=True):
            if not self.is_world_process_zero() or self.log_line is None:
                return {}
            return self.inspect(unwrapped(pupil), step=self.state.global_step, steps=self.state.max_steps)

    def _all_weights(self, *, wanted: bool) -> AbstractContextManager[None]:
        """Where the student may be run outside of a step."""
        pupil: Any = self.model
        if wanted and self.zero_stage == 3:
            return zero.gathered(self.steps)
        return gathered(pupil) if wanted and self.is_sharded else nullcontext()

    def _all_weights_of_the_teacher(self, *, wanted: bool) -> AbstractContextManager[None]:
        """Where it may help to write."""
        if not wanted or not isinstance(self.teacher, LocalTeacher) or not is_sharded(self.teacher.model):
            return nullcontext()
        return gathered(self.teacher.model)

    def _wrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """A student whose weights are shared sees to its gradients itself."""
        if self.zero_stage is not None:
            return self.steps.model
        if self.is_sharded:
            return model if isinstance(model, Sharded) else Sharded(model)
        return super()._wrap_model(model, *args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """DeepSpeed takes weights and optimiser apart together: they are as a checkpoint has left them by now."""
        own: torch.optim.Optimizer = super().create_optimizer(model)
        if self.zero_stage is not None:
            pupil: Any = self.model
            self.steps = zero.part(pupil, own, stage=self.zero_stage, max_norm=self.args.max_grad_norm)
            self.optimizer = self.steps
            self.accelerator.backward = self.steps.backward
        chosen: Any = self.optimizer
        return chosen

    def _norm_of_parts(self, _model: nn.Module) -> float:
        return float(self.steps.gradient_norm())

    def _forget_parts(self, _model: nn.Module) -> None:
        self.steps.is_odd = True

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.zero_stage is not None:
            return self.steps.gradient_norm()  # it is shortened in the step
        norm: Any = super()._clip_grad_norm(model)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # each process knows of its own part

    def _means(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        terms = [scheduled_term.term for scheduled_term in self.terms]
        found = zip(_names(terms), sums.tolist(), (float(counts[UNITS.index(unit_of(t))]) for t in terms), strict=True)
        return {name: total / count for name, total, count in found if count}

    def _replay_means(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        pairs = zip(_names(self.replay_terms), sums.tolist(), strict=True)
        targets = float(counts[UNITS.index("target")])
        return {f"replay_{name}": total / targets for name, total in pairs if targets}

    def _tokens(self, counts: Tensor) -> float:
        """What this step learnt from: weighted targets, or all tokens where nothing is to be predicted."""
        targets, tokens = counts.tolist()[:2]
        return float(targets or tokens)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As one process would, also where several share the weights."""
        if not self._has_parts:
            super().save_model(output_dir, _internal_call)
            return
        assert output_dir is not None
        pupil: Any = self.model
        student, keeps = unwrapped(pupil), self.args.should_save
        has_adapter = adapter_config(student) is not None
        own = adapter_weights(student) if has_adapter else student.state_dict(keep_vars=True)
        state = whole_tensors(own, keeps=keeps)
        maps = whole_tensors(self.projections.state_dict(keep_vars=True), keeps=keeps)
        if not keeps:
            return
        if has_adapter:
            save_adapter(student, Path(output_dir), weights=state)
        else:
            student.save_pretrained(output_dir, state_dict=state)
        if maps:
            self.projections.save(Path(output_dir), maps=list(maps.values()))

    @property
    def _has_parts(self) -> bool:
        """Whether this process has a part of the student's weights alone."""
        return self.is_sharded or self.zero_stage == 3

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded and self.zero_stage is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        chosen: Any = self.optimizer
        keeps = self.args.should_save
        state = (
            whole_optimizer(chosen, keeps=keeps) if self.is_sharded else zero.whole_optimizer(self.steps, keeps=keeps)
        )
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            pace: Any = self.lr_scheduler
            torch.save(pace.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or (not self.is_sharded and self.zero_stage is None):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        pace: Any = self.lr_scheduler
        kept = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        if self.is_sharded:
            take_optimizer(optimizer, kept)
        else:
            zero.take_optimizer(self.steps, kept)
        pace.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The student as a plain folder, or what it learns of an adapter alone, and its projections beside it."""
        pupil: Any = self.model
        student = unwrapped(pupil)
        if not isinstance(pupil, Pupil) and adapter_config(student) is None:
            super()._save(output_dir, state_dict)
            return
        assert output_dir is not None
        folder = Path(output_dir)
        if not self.args.should_save:
            return
        if adapter_config(student) is None:
            student.save_pretrained(folder)
        else:
            save_adapter(student, folder)
        if isinstance(pupil, Pupil):
            pupil.projections.save(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        """Also what the rows of each process remember. The Trainer's own state is written after it."""
        super()._save_rng_state(output_dir)
        if state := self._rows.state():
            write_atomic(self._rows_file(output_dir), json.dumps(state))
        flush_folder(
            Path(output_dir)
        )  # so that a state, which is written next, says also after a power cut that all is there

    def _rows_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / ROWS_FILE.format(self.args.process_index)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        own = self._rows_file(resume_from_checkpoint)
        rows = (
            own if own.exists() else own.with_name(ROWS_FILE.format(0))
        )  # all remember the same, and there may be more now
        if rows.exists():
            self._rows.restore(json.loads(rows.read_text(encoding="utf-8")))
        pupil: Any = self.model
        student = unwrapped(pupil)
        if self.is_sharded and adapter_config(student) is not None:
            take(adapter_weights(student), load_file(Path(resume_from_checkpoint) / WEIGHTS))
        elif self.is_sharded:
            take(student.state_dict(), load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME))
        elif adapter_config(student) is None:
            super()._load_from_checkpoint(resume_from_checkpoint, student if isinstance(pupil, Pupil) else model)
        else:
            load_adapter(student, Path(resume_from_checkpoint))
        if isinstance(pupil, Pupil):
            take(pupil.projections.state_dict(), Projections.load(Path(resume_from_checkpoint)).state_dict())

    def learnt(self, kind: type[PreTrainedModel]) -> PreTrainedModel:
        """The student as it is now, its weights in one place: of several processes that share them, the first has them all."""
        pupil: Any = self.model
        student = unwrapped(pupil)
        if not self._has_parts:
            return student
        maps = whole_tensors(self.projections.state_dict(keep_vars=True), keeps=True)
        for place, (name, weights) in enumerate(maps.items()):
            assert name == f"maps.{place}"
            self.projections.maps[place] = nn.Parameter(weights)
        keeps = self.is_world_process_zero()
        if self.adapted is None:
            return whole_student(student, kind, keeps=keeps)
        state = whole_tensors(student.state_dict(keep_vars=True), keeps=keeps)
        return fill(self.adapted, state) if keeps else student


def rate_share(step: int, *, warmup: int, total: int) -> float:
    """The learning rate in a step, as a share of the highest: it rises from the first step on, then falls along a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def _names(terms: Sequence[AnyTerm]) -> list[str]:
    """What each term is logged as: its name, and from the second of that name on its number too."""
    names = [term.name for term in terms]
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def train(
    student: PreTrainedModel,
    rows: RowSet,
    *,
    terms: Sequence[AnyTerm | Scheduled],
    teacher: Teacher | None,
    vocab_size: int,
    schedule: Schedule,
    checkpoints: Path,
    pooling: Pooling | None = None,
    projections: Projections | None = None,
    common: CommonOutcomes | None = None,
    log_line: LogLine | None = None,
    watch: Watch | None = None,
    replay_terms: Sequence[Term] = (),
    inspect: Inspector | None = None,
    report_to: Sequence[str] = (),
    tell: Tell = tell_nobody,
    progress: Progress = SILENT,
    title: str = "the student learns",
    held: Held = "whole",
    teacher_held: TeacherHeld = "whole",
) -> PreTrainedModel:
    """Train `student` (and its `projections`, where there are any) in place and return it. Started again after a kill, it
    goes on from the last whole checkpoint in `checkpoints` and, on CPU, ends with the same weights bit for bit. Objectives
    across tokenizers need what both vocabularies have in `common`. What a `watch` counts is logged beside the terms, and so is
    what whoever may `inspect` the student finds, before the first step too. Rows that `MixedRows` replay learn the terms, too,
    or `replay_terms` in their place, where there are any. What is logged goes to the trackers of `report_to`, too. Where memory
    runs out, micro-batches are halved, and `tell` is told; of a skipped step, too. Processes that train together may each hold
    a part of the student alone (`sharded`): the first of them then returns the whole, in place of what was given. So they may
    of the teacher, which is not put together again.
    """
    kind = type(student)
    trainer = DistillationTrainer(
        model=student,
        args=_arguments(schedule, checkpoints, report_to=report_to, title=title),
        train_dataset=rows,
        terms=terms,
        teacher=teacher if any(term.term.reads_teacher for term in scheduled(terms)) else None,
        vocab_size=vocab_size,
        pooling=pooling,
        projections=projections,
        common=common,
        log_line=log_line,
        watch=watch,
        replay_terms=replay_terms,
        inspect=inspect,
        skip_at_most=schedule.skip_at_most if schedule.odd_steps == "skip" else 0,
        tell=tell,
        held=held,
        teacher_held=teacher_held,
        precision=schedule.precision,
        compiler=BACKEND if schedule.compile else None,
        callbacks=[TellEpoch(rows), _Steps(progress, title)],
    )
    at_first = _AtFirst(trainer)
    trainer.add_callback(at_first)
    trainer.remove_callback(PrinterCallback)
    try:
        with (
            recomputing(student, wanted=schedule.gradient_checkpointing),
            compiler_at_work(wanted=schedule.compile),
        ):
            trainer.train(resume_from_checkpoint=latest_checkpoint(checkpoints))
        learnt = trainer.learnt(kind)
    finally:
        for knows_the_trainer in (at_first, trainer.odd_steps):
            trainer.remove_callback(knows_the_trainer)  # the two would keep the student's memory from being freed
        del trainer.odd_steps
        progress.finish()
    return learnt.eval()


def _arguments(
    schedule: Schedule, checkpoints: Path, *, report_to: Sequence[str] = (), title: str | None = None
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=schedule.rows_per_micro_batch,
        gradient_accumulation_steps=schedule.rows_per_step // schedule.rows_per_micro_batch,
        warmup_steps=schedule.warmup_share,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_gradient_norm,
        save_steps=schedule.save_every_steps,
        save_total_limit=2,
        logging_steps=1,
        seed=schedule.seed,
        data_seed=schedule.seed,
        ddp_find_unused_parameters=False,  # heads and projections serve outside the forward pass, where none would be found
        dataloader_pin_memory=torch.accelerator.is_available(),  # asked for without one, it warns in every epoch
        remove_unused_columns=False,
        report_to=list(report_to) or "none",
        run_name=title,
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
    """The Trainer writes its state last. A disk may have lost the ends of files even so, which their own formats tell."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    zipped = [file for suffix in ("*.pt", "*.pth") for file in checkpoint.glob(suffix)]
    return isinstance(state, dict) and all(zipfile.is_zipfile(file) for file in zipped)


class _AtFirst(TrainerCallback):
    """Logs what is found of the student before it has learnt anything."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and (found := self.trainer.inspected()) and self.trainer.log_line is not None:
            self.trainer.log_line({"step": 0, "tokens": 0.0, **found})


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
