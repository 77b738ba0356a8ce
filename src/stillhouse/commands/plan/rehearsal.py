"""Ten steps of a recipe of one teacher and one student: every stage in miniature, with a clock beside it."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.commands.launch.config import share_of
from stillhouse.commands.means import Means
from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.students import calibration_batch
from stillhouse.commands.pipeline import at_work
from stillhouse.commands.plan.clock import STEPS, Clock, Timed, few_steps
from stillhouse.commands.plan.excerpt import excerpt
from stillhouse.commands.recipe import Recipe
from stillhouse.core.memory import peak_bytes
from stillhouse.core.progress import Silent
from stillhouse.core.run import RunFolder
from stillhouse.models.anatomy import num_layers
from stillhouse.models.load import load_config, without_weights
from stillhouse.students.config import FromLayersConfig
from stillhouse.students.layer_choice import trials, uniform_layers
from stillhouse.synthesis.config import PromptSynthesisConfig

FEWEST_MICRO_BATCHES, MICRO_BATCHES, TOKENS = 2, 4, 4096
"""To learn from: as many as come to so many tokens, if there are as many; the ten steps read them again and again."""
RECORDS = 16
"""That the teacher writes, where it writes any."""
TRIALS = 3
"""Of a choice of layers that are timed."""


@dataclass(frozen=True)
class Rehearsed(Timed):
    """What a rehearsal of one teacher and one student found."""

    rows: int
    documents: int
    held_out: int
    tokens: int
    """Of all rows to train on, read once."""
    longest: int
    """Tokens of the longest of them."""
    micro_batches: int
    """That a step of the rehearsal had."""
    one_layer_seconds: float
    all_layers_seconds: float
    """To try what the teacher says with one of its layers, and with all of them; 0 where none are chosen so."""
    label_bytes: float | None
    """A token of text, where labels are stored."""


def rehearse(recipe: Recipe, folder: Path, means: Means) -> Rehearsed:
    """Every stage of a small copy of the recipe, in `folder`; arms are trained by as many processes as they will be."""
    clock = Clock()
    whole = Parts(recipe, RunFolder(recipe.run), Silent())
    rows_at_once = _rows_at_once(recipe, means)
    small = _small(recipe, folder, whole, rows_at_once)
    if recipe.synthesis is not None:
        with at_work(small, clock) as pipeline:
            pipeline.synthesize()
    parts = Parts(small, RunFolder(small.run), Silent())
    rows = parts.data.train
    steps_an_epoch = math.ceil(len(rows) / small.training.rows_per_step)
    schedule = small.training.model_copy(update={"epochs": (_steps_wanted(whole, rows_at_once) - 0.5) / steps_an_epoch})
    timed = small.model_copy(update={"run": folder / "timed", "training": schedule})
    one_layer = all_layers = 0.0
    cluster = means.cluster if means.teacher_held == "on_ray" else None
    with at_work(
        timed,
        clock,
        lenders=[small.run],
        launch=means.launch,
        cluster=cluster,
        teacher_held=means.teacher_held,
    ) as pipeline:
        if _is_greedy(recipe):
            one_layer, all_layers = _trials(pipeline.parts)
        pipeline.report()
        stages = pipeline.run.stages()
    written = RunFolder(small.run).stages() if recipe.synthesis is not None else {}
    _ = whole  # whose rows the run itself holds in memory, too
    return Rehearsed(
        works=[asdict(work) for work in clock.works],
        stages={name: done["seconds"] for name, done in {**stages, **written}.items()},
        rows=len(rows),
        documents=parts.data.num_train_documents,
        held_out=parts.data.num_held_out_documents,
        tokens=sum(rows.lengths),
        longest=max(rows.lengths),
        micro_batches=1,
        one_layer_seconds=one_layer,
        all_layers_seconds=all_layers,
        label_bytes=stages.get("label", {}).get("bytes_per_token"),
        peak_bytes=max([peak_bytes(), *(done.get("peak_bytes", 0) for done in stages.values())]),
    )


def _rows_at_once(recipe: Recipe, means: Means) -> int:
    """Of all processes together, a micro-batch each."""
    ranks = means.num_ranks or 1
    return ranks * share_of(recipe.training, ranks).rows_per_micro_batch


def _steps_wanted(whole: Parts, rows_at_once: int) -> int:
    """Of one micro-batch each."""
    recipe = whole.recipe
    if recipe.data.path is None or whole.answers_first:
        return STEPS
    schedule = recipe.training
    return few_steps(math.ceil(schedule.epochs * len(whole.data.train) / rows_at_once))


def _is_greedy(recipe: Recipe) -> bool:
    student = recipe.student
    return isinstance(student, FromLayersConfig) and isinstance(student.keep, int) and student.choose == "greedy"


def _small(recipe: Recipe, folder: Path, whole: Parts, rows_at_once: int) -> Recipe:
    """The same on little data, step by step a micro-batch; layers that would be chosen by trying are taken as they come."""
    at_once = min(rows_at_once, recipe.training.rows_per_micro_batch)
    schedule = recipe.training.model_copy(
        update={"rows_per_step": rows_at_once, "rows_per_micro_batch": at_once, "save_every_steps": 10**9}
    )
    changes: dict[str, Any] = {"run": folder / "written", "training": schedule, "report_to": ()}
    if recipe.data.path is not None:
        rows = _rows_wanted(whole, rows_at_once)
        changes["data"] = recipe.data.model_copy(update={"path": excerpt(recipe.data.path, folder, rows=rows)})
    if recipe.synthesis is not None:
        changes["synthesis"] = _few_records(recipe)
    if _is_greedy(recipe):
        student = recipe.student
        assert isinstance(student, FromLayersConfig) and isinstance(student.keep, int)
        total = _teacher_layers(recipe)
        changes["student"] = student.model_copy(update={"keep": uniform_layers(total, student.keep)})
    return recipe.model_copy(update=changes)


def _teacher_layers(recipe: Recipe) -> int:
    return num_layers(load_config(without_weights(recipe.teacher.model)))


def _rows_wanted(whole: Parts, at_once: int) -> int:
    """Rows of the file that fill a few micro-batches, and leave some to be held out."""
    recipe, data = whole.recipe, whole.data
    per_row = data.num_train_documents / max(1, len(data.train))
    number = min(MICRO_BATCHES, max(FEWEST_MICRO_BATCHES, TOKENS // (at_once * recipe.data.sequence_tokens)))
    wanted = math.ceil(number * at_once * per_row)
    share = recipe.data.held_out if recipe.data.held_out_path is None else 0.0
    return math.ceil(max(wanted, 2) / (1 - share)) + math.ceil(1 / share if share else 0)


def _few_records(recipe: Recipe) -> Any:
    wanted = recipe.synthesis
    if isinstance(wanted, PromptSynthesisConfig):
        enough = RECORDS * wanted.sampling.max_new_tokens
        return wanted.model_copy(update={"tokens": min(wanted.tokens, enough)})
    assert wanted is not None
    name = "number" if getattr(wanted, "kept", None) is None else "kept"
    known = getattr(wanted, name)
    return wanted.model_copy(update={name: RECORDS if known is None else min(RECORDS, known)})


def _trials(parts: Parts) -> tuple[float, float]:
    """Seconds to try one layer, and all: each is one reading of the calibration text."""
    student = parts.recipe.student
    assert isinstance(student, FromLayersConfig)
    cost = trials(parts.teacher.model, calibration_batch(parts, student.calibration_tokens))
    layers = range(_teacher_layers(parts.recipe))
    _ = cost(layers)  # the first time is slower
    return _seconds(lambda: cost([0])), _seconds(lambda: cost(layers))


def _seconds(work: Callable[[], object]) -> float:
    """Of some work, on average."""
    started = time.perf_counter()
    for _ in range(TRIALS):
        work()
    return (time.perf_counter() - started) / TRIALS
