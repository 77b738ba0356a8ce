"""A story model in miniature: one batch of texts, ten steps, one round; and from what that took, what the whole takes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.plan.clock import STEPS, Clock, Timed
from stillhouse.commands.plan.forecast import by_stage, learning_seconds
from stillhouse.commands.stories.measuring import BATCH_SIZE
from stillhouse.commands.stories.pipeline import StoryPipeline, at_work
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.commands.stories.texts import examples_of
from stillhouse.core.memory import peak_bytes
from stillhouse.data.packing import PackedRows

WEIGHTS_COST = 8
"""A step of writing reads all weights once, which takes a CPU as long as so many texts of a batch."""


@dataclass(frozen=True)
class Rehearsed(Timed):
    """What a rehearsal of a story model found."""

    asked: int
    kept: int
    learnt: int
    held_out: int
    tokens: int
    """Of what is learnt, read once."""
    rows: int
    """It is packed into."""
    completions: int


def rehearse(recipe: StoryRecipe, folder: Path, _means: Means = BY_ITSELF) -> Rehearsed:
    """Every stage of the first round over one batch of texts, in `folder`."""
    clock = Clock()
    with at_work(_small(recipe, folder), clock) as pipeline:
        result = pipeline.report()
        stages, learnt = pipeline.run.stages(), pipeline.learnt(0)
        rows = _rows(pipeline)
    written = stages["synthesize"]
    return Rehearsed(
        works=[asdict(work) for work in clock.works],
        stages={name: done["seconds"] for name, done in stages.items()},
        peak_bytes=peak_bytes(),
        asked=written["asked"],
        kept=written["kept"],
        learnt=len(learnt),
        held_out=result.held_out,
        tokens=stages["train_0"]["tokens"],
        rows=rows,
        completions=result.completions,
    )


def _rows(pipeline: StoryPipeline) -> int:
    data = pipeline.recipe.data
    examples = examples_of(
        pipeline.learnt(0), pipeline.world, pipeline.tokenizer, max_tokens=data.sequence_tokens, seed=data.seed
    )
    return len(PackedRows(examples, row_tokens=data.sequence_tokens))


def _small(recipe: StoryRecipe, folder: Path) -> StoryRecipe:
    """The same on one batch, half of which is held out: what is learnt from it is nothing, but it takes as long."""
    at_once = recipe.training.rows_per_micro_batch
    # Its texts fill hardly more than one micro-batch: an epoch is a step.
    short = {"rows_per_step": at_once, "save_every_steps": 10**9, "epochs": float(STEPS)}
    number = min(recipe.data.number, recipe.data.batch_size)
    return recipe.model_copy(
        update={
            "run": folder / "run",
            "data": recipe.data.model_copy(update={"number": max(2, number), "held_out": 0.5}),
            "rounds": recipe.rounds.model_copy(update={"most": 0}),
            "training": recipe.training.model_copy(update=short),
        }
    )


# The whole.


@dataclass(frozen=True)
class Amount:
    """How much the whole comes to, if as much is kept as in the rehearsal."""

    recipe: StoryRecipe
    found: Rehearsed

    @property
    def kept_share(self) -> float:
        """Of the texts that are asked for."""
        return self.found.kept / self.found.asked

    @property
    def held_out(self) -> int:
        """Texts of the first round that nobody trains on."""
        return max(1, int(self.recipe.data.number * self.kept_share * self.recipe.data.held_out))

    @property
    def completions(self) -> int:
        """Held-out texts that are gone on from."""
        return min(self.recipe.evaluation.completions, self.held_out)

    def asked(self, number: int) -> int:
        """Texts that a round asks for."""
        return self.recipe.data.number if number == 0 else self.recipe.rounds.number

    def learnt(self, number: int) -> int:
        """Texts that a round learns from: its own, and those of the rounds before."""
        asked = sum(self.asked(one) for one in range(number + 1))
        return max(1, round(asked * self.kept_share) - self.held_out)

    def tokens(self, number: int) -> int:
        """Of what a round learns from."""
        return round(self.found.tokens / self.found.learnt * self.learnt(number))

    def steps(self, number: int) -> int:
        """That a round trains for."""
        schedule = self.recipe.training
        rows = math.ceil(self.found.rows * self.tokens(number) / self.found.tokens)
        return math.ceil(schedule.epochs * math.ceil(rows / schedule.rows_per_step))


def seconds_of(amount: Amount) -> dict[str, float]:
    """Seconds of each stage, if no round is left out."""
    found = amount.found
    first = by_stage(found, lambda work: _whole(work, amount, 0))
    ended = [name for name in first if name in ("train", "evaluate", "report")]
    seconds = {name: taken for name, taken in first.items() if name not in ended}
    for number in range(1, amount.recipe.rounds.most + 1):
        seconds |= _of_later(amount, number)
    return seconds | {name: first[name] for name in ended}


def _of_later(amount: Amount, number: int) -> dict[str, float]:
    """Seconds of a round behind the first. The teacher is loaded by then: what is between its pieces of writing is left out."""
    found = amount.found
    again = by_stage(found, partial(_whole, amount=amount, number=number))
    writing = sum(_whole(work, amount, number) for work in found.works if work["stage"] == "synthesize")
    learning = {f"{name}_{number}": again[f"{name}_0"] for name in ("train", "look")}
    return {f"synthesize_{number}": writing, **learning}


def _whole(work: Mapping[str, Any], amount: Amount, number: int) -> float:
    """One piece of work, as large as it will be in a round."""
    recipe, found = amount.recipe, amount.found
    if work["unit"] == "steps":
        schedule = recipe.training
        return learning_seconds(
            work,
            steps=amount.steps(number),
            times=schedule.rows_per_step / min(schedule.rows_per_micro_batch, found.rows),
            save_every=schedule.save_every_steps,
        )
    return float(work["seconds"]) * _times(work, amount, number)


def _times(work: Mapping[str, Any], amount: Amount, number: int) -> float:
    """As how many pieces like this one it takes."""
    recipe, found, texts = amount.recipe, amount.found, int(work["total"])
    students = 2 if recipe.rounds.most else 1
    match work["stage"], work["title"]:
        case "synthesize", _:
            whole = round(texts * amount.asked(number) / found.asked)
            size = recipe.data.batch_size
            return writing_cost(whole, batch_size=size) / writing_cost(texts, batch_size=size)
        case "evaluate", "the student goes on":  # so small a model takes as long for a few as for many
            return students * math.ceil(amount.completions / BATCH_SIZE) / math.ceil(found.completions / BATCH_SIZE)
        case "evaluate", "the teacher reads":  # who reads the originals, too
            return (1 + students) / 2 * amount.completions / found.completions
        case "evaluate", "held-out texts are predicted":
            return students * amount.held_out / found.held_out
        case "evaluate", _:
            return amount.completions / found.completions
        case "look_0", _:
            return amount.held_out / found.held_out
    return 1.0


def writing_cost(texts: int, *, batch_size: int) -> int:
    """What it takes to write texts, in texts of a large batch."""
    return texts + WEIGHTS_COST * math.ceil(texts / batch_size)
