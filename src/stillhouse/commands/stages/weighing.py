"""A stage: how likely each of two answers is, where an objective reads pairs."""

from pathlib import Path
from typing import Any

from stillhouse.commands.preferences import weighed_by
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.beginning import make_student
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.data.preferences import PreferenceRows
from stillhouse.labelling import load_weighed, save_weighed
from stillhouse.labelling.answers import FILE_NAME
from stillhouse.models.load import source_fingerprint


def weigh(shop: Workshop) -> dict[str, Any]:
    """What the student before training gives each of two answers, and the teacher, where an objective reads pairs."""
    make_student(shop)
    if not reads_pairs(shop.recipe):
        return {}

    def work() -> dict[str, Any]:
        weighed = weighed_by(shop.parts)
        save_weighed(weighed, _file(shop))
        return {"pairs": len(weighed.reference_logprobs)}

    reads_rewards = any(chosen.reads_rewards for chosen in shop.recipe.objectives)
    teacher = shop.recipe.teacher.reference if reads_rewards else None
    made_from = [
        shop.parts.data_fingerprint,
        shop.parts.student_fingerprint,
        None if teacher is None else source_fingerprint(teacher),
    ]
    return shop.once("weigh", "answers are weighed", made_from=made_from, work=work, makes=[_file(shop)])


def reads_pairs(recipe: Recipe) -> bool:
    """Whether an objective compares two answers."""
    return any(chosen.reads_pairs for chosen in recipe.objectives)


def weighed_rows(shop: Workshop) -> PreferenceRows:
    """The pairs to train on, with what this stage found of them."""
    rows = shop.parts.data.train
    assert isinstance(rows, PreferenceRows)
    return rows.with_weighed(load_weighed(_file(shop)))


def _file(shop: Workshop) -> Path:
    return shop.run.path / FILE_NAME
