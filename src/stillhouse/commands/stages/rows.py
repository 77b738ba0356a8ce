"""What an arm learns from, row by row: the data, the teacher's answers, or what the student says while it trains."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stillhouse.commands.sources import ROLLOUTS, rollout_log, told_to
from stillhouse.commands.stages.weighing import reads_pairs, weighed_rows
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.results import Role
from stillhouse.data.rowset import RowSet
from stillhouse.models.generate import Engine
from stillhouse.models.together import sample_together
from stillhouse.models.vllm_engine import VllmEngine
from stillhouse.training.replay import ReplayRows
from stillhouse.training.rollouts import AskedRows, Rollout
from stillhouse.training.sources import OfflineConfig, ReplayConfig, TeacherSourceConfig, share_of
from stillhouse.training.watch import Watch


def rows_of_arm(
    shop: Workshop, arm: Role, student: PreTrainedModel, *, checkpoints: Path, watch: Watch | None
) -> RowSet:
    """What this arm learns from: where student or teacher answers, a control gets the data's own answers."""
    source, parts, is_student = shop.recipe.source, shop.parts, arm == "student"
    if is_student and reads_pairs(shop.recipe):
        return weighed_rows(shop)
    if isinstance(source, OfflineConfig | TeacherSourceConfig):
        return parts.learnt if is_student else parts.data.train
    tell = told_to() if watch is None else _heard(shop, watch, checkpoints)
    answering: dict[str, Any] = {
        "student_share": source.share if is_student else 0.0,
        "sampling": source.sampling,
        "seed": shop.recipe.training.seed,
        "stop_ids": parts.stop_ids(student),
        "vocab_size": parts.num_answers,
        "max_tokens": shop.recipe.data.sequence_tokens,
        "batch_size": source.batch_size,
        "tell": tell,
        "write": _writer(shop, student) if is_student else None,
    }
    if is_student and isinstance(source, ReplayConfig):
        return ReplayRows(
            parts.asked,
            student,
            held_out=parts.data.held_out,
            capacity=source.capacity,
            fresh_share=share_of(source.fresh_share),
            share_step=source.share_step,
            tolerance_nats=source.tolerance_nats,
            check_every_steps=source.check_every_steps,
            **answering,
        )
    return AskedRows(parts.answered if is_student else parts.asked, student, **answering)


def _heard(shop: Workshop, watch: Watch, checkpoints: Path) -> Callable[[Rollout], None]:
    """Who hears the answers of this process: of several, the first writes down those of all when the step is done."""
    if shop.rank > 0:
        return watch.hear
    log = rollout_log(shop.run.path / ROLLOUTS, checkpoints, shop.parts.tokenizer)
    if shop.num_ranks == 1:
        return told_to(log, watch.hear)
    watch.tell = log
    return watch.hear


def _writer(shop: Workshop, student: PreTrainedModel) -> Engine | None:
    """Who writes the student's answers, where that is not the student alone in this process."""
    source = shop.recipe.source
    assert not isinstance(source, OfflineConfig | TeacherSourceConfig)
    if source.engine == "vllm":
        most_tokens, folder = shop.recipe.data.sequence_tokens, shop.run.path / "student_before"
        engine = VllmEngine(folder, student, max_tokens=most_tokens, batch_size=source.batch_size)
        return partial(engine, student)
    if source.way is None:
        return None
    return partial(sample_together, student, shop.parts.teacher.model, way=source.way)
