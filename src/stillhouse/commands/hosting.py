"""A teacher that vLLM runs while it writes and labels: what a recipe must not ask of it."""

from collections.abc import Iterator, Sequence

from stillhouse.core.task import Task
from stillhouse.data.config import DataConfig
from stillhouse.labelling.config import LabelsConfig, SparseConfig
from stillhouse.objectives import Objective, objective
from stillhouse.teachers import RemoteWriterConfig
from stillhouse.teachers.hosted import is_hosted
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.sources import SourceConfig, answering_of

MEND = "leave teacher.engine out"


def hosting_faults(
    teacher: object,
    *,
    data: DataConfig,
    task: Task,
    writes: bool,
    labels: LabelsConfig | None,
    source: SourceConfig,
    objectives: Sequence[ObjectiveConfig],
) -> Iterator[str]:
    """One sentence a fault; `writes` is whether the teacher writes the data, or into it."""
    if not is_hosted(teacher):
        return
    if task != "causal_lm" or data.kind == "preferences":
        yield (
            f"teacher.engine is vllm, which writes and tells likely tokens, and data of kind {data.kind!r} asks for neither. "
            f"{MEND.capitalize()}."
        )
        return
    yield from _labels_faults(labels)
    for chosen in objectives:
        yield from _objective_faults(chosen, labels)
    answering = answering_of(source)
    if answering is not None and answering.method != "sample":
        yield f"source.method is {answering.method}, but vLLM only draws answers. Use method: sample, or {MEND}."
    if labels is None and answering is None and not writes:
        yield (
            "teacher.engine is vllm, but the teacher writes and labels nothing before the student learns. Give labels "
            f"{{signal: sparse}}, or {MEND}."
        )


def _labels_faults(labels: LabelsConfig | None) -> Iterator[str]:
    if labels is None:
        return
    if not isinstance(labels, SparseConfig):
        yield (
            f"labels.signal is {labels.signal}, but vLLM tells the likeliest tokens alone. Use labels: {{signal: sparse}}, or "
            f"{MEND}."
        )
    elif labels.temperatures not in (None, (1.0,)):
        yield (
            "labels.temperatures names others than 1, and vLLM tells what all other tokens add up to at temperature 1 alone. "
            f"Leave temperatures out, or {MEND}."
        )


def _objective_faults(chosen: ObjectiveConfig, labels: LabelsConfig | None) -> Iterator[str]:
    entry = objective(chosen.name)
    if not isinstance(entry, Objective):
        yield (
            f"{chosen.name} looks inside the teacher, or reads it in tokens of its own, and vLLM shows neither. Use forward_kl "
            f"with labels: {{signal: sparse}}, or {MEND}."
        )
    elif entry.reads_teacher and labels is None:
        yield (
            f"{chosen.name} compares with the teacher's logits in each step, and vLLM tells likely tokens of texts that are "
            f"there beforehand. Store these (labels: {{signal: sparse}}), or {MEND}."
        )
    elif entry.reads_teacher and chosen.temperature != 1.0:
        yield (
            f"{chosen.name} has another temperature than 1, and vLLM tells what all other tokens add up to at temperature 1 "
            f"alone. Leave temperature out, or {MEND}."
        )


def teacher_writes(synthesis: object, history: object) -> bool:
    """Whether the recipe's own teacher writes the data, or into it."""
    by_another = isinstance(getattr(synthesis, "writer", None), RemoteWriterConfig)
    return history is not None or (synthesis is not None and not by_another)
