"""Two stages: the student learns from its teacher, and the controls learn without."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transformers import PreTrainedModel

from stillhouse.commands.adapters import ADAPTER_FOLDER
from stillhouse.commands.labels import spoken_temperature
from stillhouse.commands.parts.matching import projections, terms_of
from stillhouse.commands.parts.students import start
from stillhouse.commands.recipe import HARD_OBJECTIVE, Recipe
from stillhouse.commands.stages.answering import answer
from stillhouse.commands.stages.arms import train_arm
from stillhouse.commands.stages.beginning import make_student
from stillhouse.commands.stages.labelling import label, store_files
from stillhouse.commands.stages.teaching import faculty_of, teacher_on_ray
from stillhouse.commands.stages.weighing import weigh
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.protocols import Teacher
from stillhouse.core.results import Role
from stillhouse.kernels.terms import Term
from stillhouse.labelling.config import SparseConfig
from stillhouse.models.anatomy import num_layers
from stillhouse.students.build import randomised
from stillhouse.students.projections import FILE_NAME as PROJECTIONS
from stillhouse.teachers import LocalTeacher, SelfTeacher, SelfTeacherConfig, StoredTeacher
from stillhouse.training.sources import OfflineConfig

CONTROL_ROLES: Mapping[str, tuple[Role, ...]] = {
    "none": (),
    "hard_labels": ("control_hard_labels",),
    "from_scratch": ("control_from_scratch",),
    "both": ("control_hard_labels", "control_from_scratch"),
}
SAME_FLOPS: Mapping[Role, Role] = {
    "control_hard_labels": "control_hard_labels_flops",
    "control_from_scratch": "control_from_scratch_flops",
}
"""The same control with the FLOPs of the student and its teacher, in the place of the student's tokens."""


def control_roles(recipe: Recipe) -> tuple[Role, ...]:
    """Which controls are trained: on as many tokens as the student, on as many FLOPs, or both."""
    roles, budget = CONTROL_ROLES[recipe.control], recipe.evaluation.control_budget
    same_tokens = roles if budget != "flops" else ()
    return (*same_tokens, *(SAME_FLOPS[role] for role in roles if budget != "tokens"))


def train(shop: Workshop) -> dict[str, Any]:
    """The student, trained by the recipe's objectives, and the projections that it was trained with."""
    answer(shop)
    makes = [shop.run.student, *(shop.run.path / name for name in made_beside_the_student(shop))]
    if not shop.run.is_done("train", makes=makes):  # labels have served once it is done, and may be gone
        label(shop)
        weigh(shop)
    make_student(shop)

    def work() -> dict[str, Any]:
        shop.parts.let_go_of_vllm()
        if shop.launch is None:
            return learn(shop)
        shop.parts.let_go_of_the_teacher()  # the processes have their own
        with faculty_of(shop, num_asking=shop.launch.num_ranks) as faculty:
            return shop.launch(shop, "student", faculty)

    made_from = [*_arms_are_made_from(shop), shop.recipe.objectives, shop.recipe.labels]
    return shop.once("train", "the student learns", made_from=made_from, work=work, makes=makes)


def learn(shop: Workshop) -> dict[str, Any]:
    """The student learns in this process, or in this and others; what it took."""
    student = start(shop.parts)
    terms = terms_of(shop.parts, student_layers=num_layers(student))
    maps = projections(shop.parts, student, terms)
    with _teacher(shop, student) as teacher:
        done = train_arm(shop, "student", student, terms, teacher=teacher, projections=maps)
    beside = [ADAPTER_FOLDER] if "adapter" in done else []
    if maps.maps and shop.rank == 0:
        maps.save(shop.run.path)
        beside.append(PROJECTIONS)
    return {**done, "beside": beside} if beside else done


def made_beside_the_student(shop: Workshop) -> list[str]:
    """Names of files that were written with the student when it was trained."""
    return list(shop.run.stages().get("train", {}).get("beside", ()))


def _arms_are_made_from(shop: Workshop) -> list[Any]:
    source = [] if isinstance(shop.recipe.source, OfflineConfig) else [shop.recipe.source]
    return [shop.parts.learnt_fingerprint, shop.parts.student_fingerprint, shop.recipe.training, *source]


def _teacher(shop: Workshop, student: PreTrainedModel) -> AbstractContextManager[Teacher | None]:
    return teacher_on_ray(shop) if shop.teacher_held == "on_ray" else nullcontext(_signals(shop, student))


def _signals(shop: Workshop, student: PreTrainedModel) -> Teacher | None:
    """Whoever says what the student is to match: a new kind of teacher has its case here."""
    labels = shop.recipe.labels
    if labels is None and isinstance(shop.recipe.teacher, SelfTeacherConfig):
        return SelfTeacher(student)
    if labels is None and shop.parts.remote is not None:
        return None  # all that it said are texts
    if labels is None:
        return LocalTeacher(shop.parts.teacher.model)
    return StoredTeacher(
        shop.run.labels,
        made_from=shop.parts.learnt_fingerprint,
        temperature=spoken_temperature(shop.recipe.objectives),
        tail=labels.tail if isinstance(labels, SparseConfig) else "bucket",
        files=store_files(shop),
    )


def train_controls(shop: Workshop) -> None:
    """The same architecture on the same texts and steps, without the teacher's signals."""
    for role in control_roles(shop.recipe):
        _train_control(shop, role)


def _train_control(shop: Workshop, role: Role) -> None:
    def work() -> dict[str, Any]:
        return learn_without_teacher(shop, role) if shop.launch is None else shop.launch(shop, role)

    title, makes = "the control learns without the teacher", [shop.run.path / role]
    made_from = _arms_are_made_from(shop)
    if role in SAME_FLOPS.values():  # how long it trains depends on who teaches, and how
        made_from += [shop.recipe.objectives, shop.recipe.labels]
    shop.once(role, title, made_from=made_from, work=work, makes=makes)


def learn_without_teacher(shop: Workshop, role: Role) -> dict[str, Any]:
    """A control learns in this process, or in this and others; what it took."""
    hard = HARD_OBJECTIVE[shop.recipe.task]
    assert hard is not None, "a recipe whose data has nothing to learn from has no control"
    student = start(shop.parts)
    if role.startswith("control_from_scratch"):
        student = randomised(student, seed=shop.recipe.training.seed)
    return train_arm(shop, role, student, [Term(hard)], teacher=None)
