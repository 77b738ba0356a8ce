"""One arm of the comparison, the student or a control: from its first step to its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stillhouse.commands.adapters import ADAPTER_FOLDER, named
from stillhouse.commands.alarm_log import LogLine, alarming, given_up, telling
from stillhouse.commands.curve_watch import Together, curve_watch
from stillhouse.commands.launch.config import share_of
from stillhouse.commands.parts.replay import mixed, replay_terms
from stillhouse.commands.parts.students import adapter_base, in_full, save, start
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.replays import account_of, said_of
from stillhouse.commands.reward_watch import reward_watch
from stillhouse.commands.stages.rows import rows_of_arm
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.files import atomic_path, remove
from stillhouse.core.protocols import Teacher
from stillhouse.core.results import Role
from stillhouse.data.rowset import RowSet
from stillhouse.kernels.terms import Term
from stillhouse.models.adapters import adapter_config, merge_adapter, save_adapter, trainable_count
from stillhouse.models.anatomy import multiplied_parameters, parameter_count
from stillhouse.objectives import objective
from stillhouse.students.config import FromLayersConfig
from stillhouse.students.distilbert import freeze_position_embeddings
from stillhouse.students.lora import frozen_hash
from stillhouse.students.projections import Projections
from stillhouse.training import train
from stillhouse.training.mixing import MixedRows
from stillhouse.training.rescue import tell_nobody
from stillhouse.training.sources import OfflineConfig, TeacherSourceConfig
from stillhouse.training.terms import Scheduled
from stillhouse.training.trainer import Schedule, as_many_steps
from stillhouse.training.watch import Inspector, Watch


def train_arm(
    shop: Workshop,
    arm: Role,
    student: PreTrainedModel,
    terms: Sequence[Term | Scheduled],
    *,
    teacher: Teacher | None,
    projections: Projections | None = None,
) -> dict[str, Any]:
    """Train this arm, save it, and say what it took."""
    checkpoints = shop.run.path / "checkpoints" / arm
    if _keeps_positions(shop.recipe) and not arm.startswith(
        "control_from_scratch"
    ):  # whose positions nobody has learnt yet
        freeze_position_embeddings(student)
    frozen = frozen_hash(student) if adapter_config(student) else None
    log_line, watch = _watched(shop, arm, checkpoints)
    rows = _with_replay(shop, rows_of_arm(shop, arm, student, checkpoints=checkpoints, watch=watch))
    told = _told_of_replay(shop, rows)
    trained = train(
        student,
        rows,
        terms=terms,
        teacher=teacher,
        vocab_size=shop.parts.num_answers,
        schedule=_schedule(shop, arm),
        checkpoints=checkpoints,
        pooling=shop.parts.pooling,
        projections=projections,
        common=shop.parts.common,
        log_line=log_line,
        watch=watch,
        replay_terms=replay_terms(shop.recipe),
        inspect=_inspector(shop, arm, checkpoints),
        report_to=shop.recipe.report_to,
        tell=telling(shop.run, shop.progress, arm=arm) if shop.rank == 0 else tell_nobody,
        progress=shop.progress,
        title=arm.replace("_", " ") + " learns",
        held=shop.held,
        teacher_held=shop.teacher_held,
    )
    if shop.rank > 0:
        return {}  # one of them keeps what all have made
    assert frozen is None or frozen == frozen_hash(trained), "what is frozen has changed"
    trained = in_full(shop.parts, trained)
    account = _save_adapter(shop, trained, arm)
    save(shop.parts, trained, arm)
    _forget(checkpoints)
    return {**_last_step(shop, arm), **account, **told, **given_up(shop.run, arm)}


def _keeps_positions(recipe: Recipe) -> bool:
    return isinstance(recipe.student, FromLayersConfig) and recipe.student.freeze_position_embeddings


def _watched(shop: Workshop, arm: Role, checkpoints: Path) -> tuple[LogLine, Watch | None]:
    """Where its numbers go; a student that writes its own answers is listened to, and its alarms are said."""
    source = shop.recipe.source
    is_listened_to = arm == "student" and not isinstance(source, OfflineConfig | TeacherSourceConfig)
    if shop.rank > 0:
        return _unheard, Watch() if is_listened_to else None
    log_line = shop.metrics.arm(arm, checkpoints)
    if not is_listened_to:
        return log_line, None
    assert not isinstance(source, OfflineConfig | TeacherSourceConfig)
    most_tokens = source.sampling.max_new_tokens
    return alarming(log_line, shop.run, shop.progress, arm=arm, most_tokens=most_tokens), Watch()


def _unheard(_line: Mapping[str, float]) -> None:
    """Of several processes, the first alone writes numbers down."""


def _with_replay(shop: Workshop, rows: RowSet) -> RowSet:
    return mixed(rows, shop.recipe, shop.parts.replayed)


def _told_of_replay(shop: Workshop, rows: RowSet) -> Mapping[str, Any]:
    if not isinstance(rows, MixedRows):
        return {}
    account = account_of(rows)
    shop.progress.say(said_of(account))
    return {"replay": account}


def _inspector(shop: Workshop, arm: Role, checkpoints: Path) -> Inspector | None:
    """Whoever looks at this arm while it learns."""
    reward, curves = shop.recipe.watched_reward, shop.recipe.evaluation.curves
    found: list[Inspector | None] = []
    if arm == "student" and reward is not None:
        found.append(reward_watch(reward, shop.parts, shop.run, shop.progress, checkpoints=checkpoints))
    if curves is not None:
        found.append(curve_watch(curves, shop.parts))
    looking = [one for one in found if one is not None]
    return Together(looking) if looking else None


def _schedule(shop: Workshop, arm: Role) -> Schedule:
    """The recipe's, for as many steps as the student makes: the teacher may have answered a prompt more than once."""
    schedule = _same_tokens(shop, arm)
    if arm.endswith("_flops"):
        schedule = schedule.model_copy(update={"epochs": schedule.epochs * flops_factor(shop)})
    return schedule if shop.num_ranks == 1 else share_of(schedule, shop.num_ranks)


def flops_factor(shop: Workshop) -> float:
    """How many times the student's own FLOPs are spent on it: 1 without a teacher; with one, its forward counted, once where
    its labels are stored and else in every epoch.

    A forward takes 2 FLOPs a parameter and token, forward and backward together 6 (Kaplan et al., 2020, arXiv:2001.08361,
    section 2.1). What a teacher writes is not counted: both arms learn from it.
    """
    recipe, parts = shop.recipe, shop.parts
    if not any(objective(chosen.name).reads_teacher for chosen in recipe.objectives):
        return 1.0
    student, teacher = (multiplied_parameters(model) for model in (start(parts), parts.teacher.model))
    readings = recipe.training.epochs if recipe.labels is None else 1.0
    return 1.0 + 2 * teacher * readings / (6 * student * recipe.training.epochs)


def _same_tokens(shop: Workshop, arm: Role) -> Schedule:
    schedule = shop.recipe.training
    if arm == "student" or shop.recipe.source.kind != "teacher":
        return schedule
    of_these, of_those = (_with_replay(shop, rows) for rows in (shop.parts.learnt, shop.parts.data.train))
    return as_many_steps(schedule, len(of_these), on=len(of_those))


def _save_adapter(shop: Workshop, trained: PreTrainedModel, arm: Role) -> dict[str, Any]:
    """What an arm's adapter is, kept where it is the student's, and then merged into the weights that it was trained on."""
    if adapter_config(trained) is None:
        return {}
    account: dict[str, Any] = {
        "trainable_parameters": trainable_count(trained),
        "parameters": parameter_count(trained),
    }
    if arm == "student":
        base = adapter_base(shop.parts)
        with atomic_path(shop.run.path / ADAPTER_FOLDER) as part:
            account["disk_bytes"] = save_adapter(trained, part, base=base)
        account |= {"base": base, **named(shop.recipe.student.lora)}
    merge_adapter(trained)
    return {"adapter": account}


def _forget(checkpoints: Path) -> None:
    """They are several times the student's size, and of no use any more."""
    remove(checkpoints)
    if checkpoints.parent.is_dir() and not any(checkpoints.parent.iterdir()):
        remove(checkpoints.parent)


def _last_step(shop: Workshop, arm: Role) -> dict[str, Any]:
    last = [line for line in shop.run.metric_lines() if line.get("arm") == arm][-1]
    return {"steps": last["step"], "tokens": last["tokens"], "final_loss": last["loss"]}
