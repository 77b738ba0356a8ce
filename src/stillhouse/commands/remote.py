"""A teacher behind an API: what a recipe must not ask of it, and how it is asked within one budget in all stages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.files import read_lines
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.data.config import DataConfig
from stillhouse.labelling.config import LabelsConfig, SparseConfig
from stillhouse.objectives import Objective, objective
from stillhouse.students.config import FromConfigConfig, FromLayersConfig, StudentConfig
from stillhouse.teachers.remote import RemoteWriter
from stillhouse.teachers.remote_config import RemoteTeacherConfig
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.sources import SourceConfig, TeacherSourceConfig

SCORES = "scores.jsonl"
"""In the run folder: what the server told of given texts, a text a line."""
QUESTIONS, GROUNDED = "data/questions.jsonl", "beside/grounded.jsonl"
"""What it asked about passages, and answered over them to be compared with."""
LEDGERS = ("data/ledger.jsonl", QUESTIONS, "answers/ledger.jsonl", "beside/ledger.jsonl", GROUNDED, SCORES)
"""In the run folder: all that the teacher was paid for. Each has the tokens and the cost of each line."""


def student_faults(student: StudentConfig) -> Iterator[str]:
    """Why this student cannot be made without a teacher that is loaded."""
    ways = "{kind: checkpoint, model: ...}, or {kind: from_config, config: ..., tokenizer: ...}"
    if isinstance(student, FromLayersConfig):
        yield (
            "student.kind is from_layers, which keeps layers of its teacher, and a teacher behind an API shows none. Use "
            f"student: {ways}."
        )
    if isinstance(student, FromConfigConfig) and student.config is None:
        yield (
            "student.config is left out, which means the teacher's own, and nobody knows that of a teacher behind an API. Name "
            f"one: student: {ways}."
        )


def objective_faults(
    teacher: RemoteTeacherConfig, labels: LabelsConfig | None, objectives: Sequence[ObjectiveConfig]
) -> Iterator[str]:
    """Why an objective reads what no API tells."""
    for chosen in objectives:
        entry = objective(chosen.name)
        if not isinstance(entry, Objective):
            yield (
                f"{chosen.name} looks inside the teacher, or reads it in tokens of its own, and a teacher behind an API tells "
                "neither. Learn its texts with next_token; or, where student and teacher have the same tokenizer, what its "
                "server tells of likely tokens: forward_kl with labels: {signal: sparse}."
            )
        elif entry.reads_teacher and labels is None:
            yield (
                f"{chosen.name} compares with the teacher's logits, and an API has none to be asked in each step. Learn its "
                "texts "
                "with next_token; or, where its server tells how likely tokens are, store that first: labels: {signal: sparse}."
            )
        elif entry.reads_teacher and chosen.temperature != 1.0:
            yield (
                f"{chosen.name} has temperature {_shown(chosen.temperature)}, but a server tells the teacher at temperature 1 "
                "alone. Leave temperature out."
            )


def _shown(temperature: Any) -> str:
    return f"{temperature:g}" if isinstance(temperature, float) else "that changes"


def labels_faults(
    teacher: RemoteTeacherConfig, labels: LabelsConfig | None, source: SourceConfig, *, replays: bool
) -> Iterator[str]:
    """Why nothing can be stored of what the server tells."""
    if labels is None:
        return
    if not isinstance(labels, SparseConfig):
        yield (
            f"labels.signal is {labels.signal}, but an API tells at most the likeliest tokens. Use labels: {{signal: sparse}}."
        )
        return
    if labels.temperatures not in (None, (1.0,)):
        yield "labels.temperatures names others than 1, and a server tells the teacher at temperature 1 alone. Leave it out."
    if teacher.tokenizer is None:
        yield (
            "labels keep what the server tells of tokens, but nobody knows which tokens it means. Name the model's tokenizer: "
            "teacher.tokenizer."
        )
    if teacher.scores_by is not None:
        return
    if not isinstance(source, TeacherSourceConfig) or replays:
        yield (
            "labels are to be stored of texts that are given, but teacher.scores_by does not say how the server scores them. "
            "vLLM "
            "does it by prompt_logprobs, some servers by echo. A server that only tells of its own answers (llama.cpp, OpenAI) "
            "can label these: source: {kind: teacher, sampling: {temperature: 1.0}}, without replay of other texts."
        )
    elif source.sampling.temperature != 1 or source.sampling.top_k is not None or source.sampling.top_p < 1:
        yield (
            "source.sampling cuts or bends what the teacher's answers are drawn from, and servers differ in whether the "
            "log-probabilities that they tell are those before or after. To label answers, draw at temperature 1, without "
            "top_k "
            "and top_p."
        )


def asking_faults(data: DataConfig, source: SourceConfig) -> Iterator[str]:
    """Why a teacher behind an API cannot be asked for this."""
    if data.kind not in ("chat", "rag", "text"):
        yield (
            f"teacher.kind is remote, and of data of kind {data.kind!r} an API tells nothing that could be learnt. Use data "
            "of kind chat, rag or text."
        )
    if getattr(data, "teacher_context", None) is not None:
        yield (
            "data.teacher_context compares with a teacher that reads more than its student, and an API shows nothing to "
            "compare "
            "with. Let the teacher write under a system prompt that the student does not read: synthesis.answers.system."
        )
    if source.kind not in ("offline", "teacher"):
        yield (
            f"source.kind is {source.kind}: the student writes while it trains, and the teacher would have to be asked about "
            "each "
            "step. Use source: {kind: teacher}, whose answers are written once, or leave source out."
        )
    if isinstance(source, TeacherSourceConfig) and source.method != "sample":
        yield f"source.method is {source.method}, but an API only draws answers. Use method: sample."


def remote_teacher(config: RemoteTeacherConfig, run: RunFolder, progress: Progress, *, ledger: str) -> RemoteWriter:
    """The teacher, for the stage that keeps this ledger: it has been told what the others cost, for one budget is for all."""
    writer = RemoteWriter(config, say=progress.say)
    tokens, cost = spent_elsewhere(run.path, ledger)
    writer.already_spent(tokens=tokens, cost=cost)
    return writer


def spent(ledger: Path) -> tuple[int, float]:
    """Tokens and money of all that one ledger has."""
    lines = read_lines(ledger)
    kinds = ("tokens", "prompt_tokens", "lost_tokens")
    return sum(line.get(kind, 0) for line in lines for kind in kinds), sum(line["cost"] for line in lines)


def spent_elsewhere(run: Path, ledger: str) -> tuple[int, float]:
    """What the run's other ledgers have cost: one budget is for all of them."""
    others = [spent(run / name) for name in LEDGERS if name != ledger]
    return sum(tokens for tokens, _ in others), sum(cost for _, cost in others)
