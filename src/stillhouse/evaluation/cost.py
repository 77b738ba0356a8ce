"""What a model costs to keep and to run, measured here."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch, LabelledBatch
from stillhouse.core.files import fingerprint, size_on_disk
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import FLOPS_CONTEXT, Cost, Interval, Role, SpeedUp, Work
from stillhouse.evaluation.intervals import median_interval, spread
from stillhouse.evaluation.memory import peak_bytes
from stillhouse.models.anatomy import most_tokens, parameter_count, understood
from stillhouse.models.flops import forward_flops
from stillhouse.models.generate import Sampling, generate

PREFILL_TOKENS = 256
DECODE_TOKENS = 24
REPEATS = 5
DOCUMENTS = 12
DOCUMENT_REPEATS = 21  # odd: the median is one of them

Name = TypeVar("Name", bound=Hashable)
WORKS: Sequence[Work] = get_args(Work)


@dataclass(frozen=True)
class Timing:
    """How fast one model did each kind of work, [repeats, pieces]: in tokens a second, or in documents a second."""

    rates: Mapping[Work, NDArray[np.float64]]
    token_seconds: NDArray[np.float64] | None = None
    """What each token took that was written: [repeats, tokens]."""
    peak_bytes: int | None = None
    """The most memory that was needed."""

    def token_milliseconds(self, share: float) -> Interval | None:
        """The time that this share of the tokens is faster than: over all, and in the fastest and the slowest repeat."""
        if self.token_seconds is None:
            return None
        repeats = 1000 * np.quantile(self.token_seconds, share, axis=-1)
        return Interval(
            float(1000 * np.quantile(self.token_seconds, share)), float(repeats.min()), float(repeats.max())
        )

    def tokens_per_second(self, work: Work) -> Interval | None:
        """Median, slowest and fastest repeat."""
        return spread(self._repeats(work)) if work in self.rates else None

    def milliseconds(self, work: Work) -> Interval | None:
        """Median, fastest and slowest repeat of the time that the median document takes."""
        return spread([1000 / rate for rate in self._repeats(work)]) if work in self.rates else None

    def _repeats(self, work: Work) -> list[float]:
        return [float(rate) for rate in np.median(self.rates[work], axis=-1)]


def costs(
    models: Mapping[Name, PreTrainedModel], folders: Mapping[Name, Path], timings: Mapping[Name, Timing]
) -> dict[Name, Cost]:
    """What was timed, and the sizes beside it."""
    return {
        name: Cost(
            parameters=parameter_count(model),
            parameters_without_embeddings=parameter_count(model, embeddings=False),
            disk_bytes=sum(size_on_disk(file) for file in folders[name].glob("*.safetensors")),
            prefill_tokens_per_second=timings[name].tokens_per_second("prefill"),
            decode_tokens_per_second=timings[name].tokens_per_second("decode"),
            document_milliseconds=timings[name].milliseconds("document"),
            flops_per_token=forward_flops(model, context_tokens=FLOPS_CONTEXT),
            token_milliseconds=timings[name].token_milliseconds(0.5),
            slow_token_milliseconds=timings[name].token_milliseconds(0.95),
            peak_bytes=timings[name].peak_bytes,
        )
        for name, model in models.items()
    }


def stand_ins(models: Mapping[Name, PreTrainedModel]) -> dict[Name, Name]:
    """Who is timed in whose place: models of one build, such as a student, its start and its controls, take the same time
    whatever their weights are. The teacher always stands for itself, so that one beside itself shows what chance makes of it.
    """
    builds = {name: name if name == "teacher" else _build(model) for name, model in models.items()}
    return {name: next(other for other in models if builds[other] == builds[name]) for name in models}


def _build(model: PreTrainedModel) -> str:
    """Hash of everything but the weights' values."""
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    shapes = [(name, tuple(one.shape), str(one.dtype), str(one.device)) for name, one in model.named_parameters()]
    return fingerprint([type(model).__name__, config, shapes])


def time_language_models(models: Mapping[Name, PreTrainedModel], *, progress: Progress = SILENT) -> dict[Name, Timing]:
    """Reading and writing at batch 1, after a warm-up.

    The models take turns, so that a busy moment of the machine falls on all alike; models of one build are one of them.
    """
    by_name = stand_ins(models)
    timed = _time_in_turns({name: models[name] for name in dict.fromkeys(by_name.values())}, progress)
    return {name: timed[by_name[name]] for name in models}


def _time_in_turns(models: Mapping[Name, PreTrainedModel], progress: Progress) -> dict[Name, Timing]:
    prefill_tokens = min(PREFILL_TOKENS, *(most_tokens(model) or PREFILL_TOKENS for model in models.values()))
    rates: dict[Name, dict[Work, list[float]]] = {name: {"prefill": [], "decode": []} for name in models}
    took: dict[Name, list[list[float]]] = {name: [] for name in models}
    peaks = {}
    for repeat in range(REPEATS + 1):
        for name, model in models.items():
            clock = Clock()

            def once(model: PreTrainedModel = model, clock: Clock = clock) -> tuple[float, float]:
                read = _rate(prefill_tokens, partial(_prefill, model))
                return read, _rate(DECODE_TOKENS, partial(_decode, model, clock=clock))

            if repeat == 0:  # the warm-up
                peaks[name] = peak_bytes(model, once)
            else:
                prefill, decode = once()
                rates[name]["prefill"].append(prefill)
                rates[name]["decode"].append(decode)
                took[name].append(clock.seconds)
            progress.advance(1)
    return {
        name: Timing(
            {work: np.array(found)[:, None] for work, found in rates[name].items()}, np.array(took[name]), peaks[name]
        )
        for name in models
    }


class Clock:
    """Notes when each token is written."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, _num_tokens: int = 0) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """From one note to the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def _rate(tokens: int, work: Callable[[int], object]) -> float:
    started = time.perf_counter()
    work(tokens)
    _wait()
    return tokens / (time.perf_counter() - started)


@torch.no_grad()
def _prefill(model: PreTrainedModel, tokens: int) -> None:
    model(input_ids=torch.ones(1, tokens, dtype=torch.long, device=model.device), use_cache=False)


def _decode(model: PreTrainedModel, tokens: int, *, clock: Clock) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=tokens)
    clock()
    generate(model, [[1]], sampling=greedy, seed=0, stop_ids=set(), advance=clock)


def time_encoders(
    models: Mapping[Name, PreTrainedModel],
    batches: Sequence[Batch],
    *,
    own_batches: Mapping[Name, Sequence[Batch]] | None = None,
    progress: Progress = SILENT,
) -> dict[Name, Timing]:
    """Held-out documents, one at a time and without padding, read by each model in turn, after a warm-up.

    Of each repeat the median document counts, so that one interruption does not. Models of one build that read the same are
    timed as one.
    """
    by_name = stand_ins(models) if not own_batches else {name: name for name in models}
    whole, models = models, {name: models[name] for name in dict.fromkeys(by_name.values())}
    documents = {name: _sampled((own_batches or {}).get(name, batches)) for name in models}
    num_documents = len(_sampled(batches))
    seconds = {name: np.zeros((DOCUMENT_REPEATS + 1, num_documents)) for name in models}
    for repeat in range(DOCUMENT_REPEATS + 1):
        for number in range(num_documents):
            for name in _taking_turns(list(models), repeat + number):
                seconds[name][repeat, number] = _seconds(models[name], documents[name][number])
        progress.advance(len(models))
    return {name: Timing({"document": 1 / seconds[by_name[name]][1:]}) for name in whole}


def _taking_turns(names: list[Name], turn: int) -> list[Name]:
    """Whoever runs first, or after the largest, does so as often as the others."""
    first = turn % len(names)
    return names[first:] + names[:first]


def _sampled(batches: Sequence[Batch]) -> list[dict[str, torch.Tensor]]:
    """Documents from all over the held-out ones, always the same, each as a model's arguments at batch 1."""
    rows = [(batch, row) for batch in batches for row in range(len(batch.ids))]
    step = max(1, len(rows) // DOCUMENTS)
    return [_alone(batch, row) for batch, row in rows[::step][:DOCUMENTS]]


def _alone(batch: Batch, row: int) -> dict[str, torch.Tensor]:
    real = batch.real[row]
    arguments = {"input_ids": batch.ids[row][real][None]}
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    if isinstance(batch, LabelledBatch) and batch.segments is not None:
        arguments["token_type_ids"] = batch.segments[row][real][None]
    return arguments


@torch.no_grad()
def _seconds(model: PreTrainedModel, document: Mapping[str, torch.Tensor]) -> float:
    arguments = understood(model, **{name: tensor.to(model.device) for name, tensor in document.items()})
    started = time.perf_counter()
    model(**arguments)
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    """Until all that was asked of an accelerator is done: it answers before it has."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def speed_ups(timings: Mapping[Role, Timing]) -> list[SpeedUp]:
    """How many times as fast as the teacher each model is: the median over repeats in which the two took turns. Nothing of a
    teacher that is not here.

    Of a language model's two kinds of work, writing comes first: it takes most of the time.
    """
    if "teacher" not in timings:
        return []
    teacher = timings["teacher"].rates
    works: list[Work] = [work for work in WORKS if work in teacher]
    return [
        SpeedUp(role, work, median_interval(np.median(timing.rates[work] / teacher[work], axis=-1)))
        for role, timing in timings.items()
        if role != "teacher"
        for work in works
    ]
