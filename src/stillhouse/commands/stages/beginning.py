"""A stage: the student before training."""

from dataclasses import asdict
from typing import Any

from stillhouse.commands.parts.students import new_student, save
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.commands.stages.writing import write
from stillhouse.students.config import FromLayersConfig


def make_student(shop: Workshop) -> dict[str, Any]:
    """The student before training, saved."""
    write(shop)

    def work() -> dict[str, Any]:
        student, choice = new_student(shop.parts)
        save(shop.parts, student, "student_before")
        return {"layers": None if choice is None else asdict(choice)}

    made_from = [shop.parts.data_fingerprint, shop.parts.student_fingerprint, *_drawn_with(shop.recipe)]
    makes = [shop.run.path / "student_before"]
    return shop.once("student", "the student is made", made_from=made_from, work=work, makes=makes)


def _drawn_with(recipe: Recipe) -> list[int]:
    """The seed, where weights of the student may be drawn: some of a teacher's layers are what they are."""
    return [] if isinstance(recipe.student, FromLayersConfig) else [recipe.training.seed]
