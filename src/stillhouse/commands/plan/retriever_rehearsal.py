"""A retriever in miniature: every stage over few questions and passages; and from what that took, what the whole takes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.plan.clock import Clock, Timed, few_steps
from stillhouse.commands.plan.excerpt import spread
from stillhouse.commands.plan.forecast import by_stage, learning_seconds
from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.pipeline import SCALE_QUESTIONS, at_work
from stillhouse.commands.retrieval.recipe import BiEncoderConfig, FittedImitationConfig, RetrievalRecipe
from stillhouse.core.files import json_line
from stillhouse.core.memory import peak_bytes
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.retrieval.documents import Passage
from stillhouse.retrieval.questions import Question
from stillhouse.retrieval.score_store import BLOCK_PAIRS
from stillhouse.training.trainer import Schedule

HELD_OUT, PASSAGES = 8, 64
"""Few, and yet passages enough that candidates can be chosen from them."""

WHOLE = 10**6
"""Words of a passage: more than any has, so that none is cut again."""


# How much there is.


@dataclass(frozen=True)
class Amount:
    """What there is to embed, to score and to learn from."""

    passages: int
    train: int
    """Questions to learn from."""
    held_out: int
    imitated: int
    """Texts that the student learns to embed before it ranks."""
    answers: float = 1.0
    """Passages that answer a question."""


def amount_of(parts: RetrievalParts) -> Amount:
    """Counted, once questions are there."""
    train, held_out = parts.train_and_held_out
    imitated = 0 if parts.recipe.imitation is None else len(set(parts.texts.values())) + len({q.text for q in train})
    answers = sum(len(one.relevant) for one in train) / len(train)
    return Amount(len(parts.corpus.passages), len(train), len(held_out), imitated, answers)


def reckoned(parts: RetrievalParts, found: "Rehearsed") -> Amount:
    """Where questions have yet to be asked: as many as are kept, if all goes on as it began."""
    wanted, passages = parts.recipe.synthesis, len(parts.corpus.passages)
    assert wanted is not None, "somebody asks"
    kept = max(2, round(wanted.number * found.kept))
    held_out = max(1, int(kept * parts.recipe.data.held_out))
    train = kept - held_out
    imitated = 0 if parts.recipe.imitation is None else passages + train
    return Amount(passages, train, held_out, imitated, found.few.answers)


def pairs_to_score(recipe: RetrievalRecipe, amount: Amount) -> float:
    """Of the questions to learn from: their answers and candidates."""
    return amount.train * min(amount.passages, amount.answers + recipe.negatives.depth)


def pairs_to_measure(recipe: RetrievalRecipe, amount: Amount) -> float:
    """Of the held-out questions, where a cross-encoder reads what was found for them."""
    return amount.held_out * min(amount.passages, recipe.evaluation.rerank_depth)


def steps_of(schedule: Schedule, rows: int) -> int:
    """That training makes of so many rows."""
    return math.ceil(schedule.epochs * math.ceil(rows / schedule.rows_per_step))


def imitating(recipe: RetrievalRecipe) -> Schedule | None:
    """How the student is trained to imitate; None where nothing of it is trained."""
    wanted = recipe.imitation
    return None if wanted is None or isinstance(wanted, FittedImitationConfig) else wanted.training


# In miniature.


@dataclass(frozen=True)
class Rehearsed(Timed):
    """What a rehearsal of a retriever found."""

    few: Amount
    """What it had."""
    kept: float
    """Share of the questions that were asked for; 1 where none had to be."""


def rehearsed_of(values: Mapping[str, Any]) -> Rehearsed:
    """What a process has left."""
    return Rehearsed(**{**values, "few": Amount(**values["few"])})


def rehearse(recipe: RetrievalRecipe, folder: Path, _means: Means = BY_ITSELF) -> Rehearsed:
    """Every stage over few questions and passages, in `folder`."""
    clock = Clock()
    whole = RetrievalParts(recipe, RunFolder(recipe.run), SILENT)
    small = _small(recipe, folder, whole)
    with at_work(small, clock) as pipeline:
        pipeline.report()
        few, stages = amount_of(pipeline.parts), pipeline.run.stages()
    _ = whole  # whose passages the run itself holds in memory, too
    asked = 0 if small.synthesis is None else small.synthesis.number
    return Rehearsed(
        works=[asdict(work) for work in clock.works],
        stages={name: done["seconds"] for name, done in stages.items()},
        peak_bytes=peak_bytes(),
        few=few,
        kept=(few.train + few.held_out) / asked if asked else 1.0,
    )


def _small(recipe: RetrievalRecipe, folder: Path, whole: RetrievalParts) -> RetrievalRecipe:
    """The same over few questions, and the passages that answer them with others beside."""
    rows = max(recipe.training.rows_per_micro_batch, HELD_OUT)
    train, held_out = ([], []) if recipe.synthesis is not None else whole.train_and_held_out
    learnt, judged = spread(train, rows), spread(held_out, HELD_OUT)
    asked = [*learnt, *judged]
    passages = _passages(asked, whole, most=max(PASSAGES, recipe.evaluation.rerank_depth, 2 * recipe.negatives.depth))
    _write(asked, passages, folder)
    changes: dict[str, Any] = {
        "run": folder / "run",
        "data": recipe.data.model_copy(
            update={
                "path": None,
                "documents": folder / "passages.jsonl",
                "questions": None if recipe.synthesis else folder / "questions.jsonl",
                "passage_words": WHOLE,
                "held_out": _share(len(judged) or HELD_OUT, of=len(asked) or rows + HELD_OUT),
                "held_out_split": None,
            }
        ),
    }
    of_all = len(train)
    if (wanted := recipe.synthesis) is not None:
        number = min(wanted.number, math.ceil((rows + HELD_OUT) / wanted.batch_size) * wanted.batch_size)
        changes["synthesis"] = wanted.model_copy(update={"number": number})
        of_all = round(wanted.number * (1 - recipe.data.held_out))
    changes["training"] = _short(recipe.training, rows, of_all=of_all)
    if (schedule := imitating(recipe)) is not None:
        short = _short(schedule, len(passages) + rows, of_all=len(whole.texts) + of_all)
        assert recipe.imitation is not None, "somebody is imitated"
        changes["imitation"] = recipe.imitation.model_copy(update={"training": short})
    return recipe.model_copy(update=changes)


def _share(number: int, *, of: int) -> float:
    """Of which as many are held out: the half keeps a rounding from taking one away."""
    return (number + 0.5) / of


def _short(schedule: Schedule, rows: int, *, of_all: int) -> Schedule:
    """A few steps of one micro-batch each."""
    steps = few_steps(steps_of(schedule, of_all))
    at_once = schedule.rows_per_micro_batch
    epochs = (steps - 0.5) / math.ceil(rows / at_once)
    return schedule.model_copy(update={"rows_per_step": at_once, "save_every_steps": 10**9, "epochs": epochs})


def _passages(asked: Sequence[Question], whole: RetrievalParts, *, most: int) -> list[Passage]:
    """What answers the questions, and others that are spread over all."""
    wanted = {name for one in asked for name in one.relevant}
    others = [passage.id for passage in whole.corpus.passages if passage.id not in wanted]
    wanted |= set(spread(others, max(0, most - len(wanted))))
    return [passage for passage in whole.corpus.passages if passage.id in wanted]


def _write(asked: Sequence[Question], passages: Sequence[Passage], folder: Path) -> None:
    """As data that is read again; passages go by their number, as ids of a run's own say how they were cut."""
    names = {passage.id: f"p{number}" for number, passage in enumerate(passages)}
    rows = ({"_id": names[one.id], "title": one.title, "text": one.text} for one in passages)
    _write_lines(folder / "passages.jsonl", rows)
    questions = (
        {
            "_id": one.id,
            "question": one.text,
            "passages": {names[name]: grade for name, grade in one.relevant.items() if grade > 0},
            "answer": one.answer,
        }
        for one in asked
    )
    _write_lines(folder / "questions.jsonl", questions)


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(map(json_line, rows)), encoding="utf-8")


# The whole.


def seconds_of(recipe: RetrievalRecipe, found: Rehearsed, whole: Amount) -> dict[str, float]:
    """Seconds of each stage."""
    return by_stage(found, lambda work: _whole(work, recipe, found.few, whole))


def _whole(work: Mapping[str, Any], recipe: RetrievalRecipe, few: Amount, whole: Amount) -> float:
    """One piece of work, as large as it will be."""
    imitates = work["stage"] == "imitate"
    if work["unit"] == "steps":
        schedule = imitating(recipe) if imitates else recipe.training
        assert schedule is not None, "it is trained"
        rows, of_few = (whole.imitated, few.imitated) if imitates else (whole.train, few.train)
        times = schedule.rows_per_step / min(schedule.rows_per_micro_batch, of_few)
        steps = steps_of(schedule, rows)
        return learning_seconds(work, steps=steps, times=times, save_every=schedule.save_every_steps)
    return float(work["seconds"]) * _times(work, recipe, few, whole)


def _times(work: Mapping[str, Any], recipe: RetrievalRecipe, few: Amount, whole: Amount) -> float:
    """As how many pieces like this one it takes."""
    match work["stage"], work["unit"]:
        case _, "passages":
            return whole.passages / few.passages
        case "imitate", "texts":
            return whole.imitated / few.imitated
        case "synthesize", "texts":
            assert recipe.synthesis is not None, "somebody asks"
            return recipe.synthesis.number / float(work["total"])
        case "scales", "pairs":
            return _read_for_scales(recipe, whole) / _read_for_scales(recipe, few)
        case "evaluate", "pairs":
            return pairs_to_measure(recipe, whole) / pairs_to_measure(recipe, few)
        case "evaluate", "questions":
            return whole.held_out / few.held_out
        case _, "pairs":
            return _read_to_score(recipe, whole) / _read_to_score(recipe, few)
    return 1.0


def _read_for_scales(recipe: RetrievalRecipe, amount: Amount) -> float:
    """Texts that the student reads: each pair, or, where it embeds, each question and each passage once."""
    questions = min(SCALE_QUESTIONS, amount.train)
    pairs = questions * (recipe.negatives.number + 1)
    return pairs if recipe.reranks else questions + min(amount.passages, pairs)


def _read_to_score(recipe: RetrievalRecipe, amount: Amount) -> float:
    """The same of a teacher, which embeds each passage once for each block of pairs."""
    pairs = pairs_to_score(recipe, amount)
    if not isinstance(recipe.teacher, BiEncoderConfig):
        return pairs
    return amount.train + pairs / BLOCK_PAIRS * min(amount.passages, BLOCK_PAIRS)
