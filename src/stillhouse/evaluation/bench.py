"""What a suite is, and what it is given."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Role
from stillhouse.core.suites import SuiteResult
from stillhouse.core.task import Task
from stillhouse.data.examples import Example
from stillhouse.evaluation.asking import Question
from stillhouse.evaluation.compare import Contestant


@dataclass(frozen=True)
class Bench:
    """Who is judged, on what, and where a suite may keep what it has done so far. One contestant is the teacher, one the
    student."""

    contestants: Sequence[Contestant]
    task: Task
    tokenizer: PreTrainedTokenizerBase
    """Of every model but the teacher."""
    teacher_tokenizer: PreTrainedTokenizerBase
    """The same one, or another that cuts text into other tokens."""
    folder: Path
    """Outlives a kill; a suite keeps its files in a folder of its name, and need not begin anew."""
    questions: Sequence[Question] = ()
    """Held-out prompts of a language model: conversations up to their last answer, prompts, or how texts begin."""
    examples: Sequence[Example] = ()
    """Held-out documents of a language model, in the student's tokens."""
    teacher_reads: Sequence[Example] | None = None
    """The same as the teacher reads them, one by one: in tokens of its own, or with its context. None where it is the same."""
    batches: Sequence[Batch] = ()
    """Held-out rows of any other model."""
    progress: Progress = SILENT

    @cached_property
    def models(self) -> dict[Role, PreTrainedModel]:
        """Every model by its role."""
        return {contestant.role: contestant.model for contestant in self.contestants}

    def reads_with(self, role: Role) -> PreTrainedTokenizerBase:
        """The tokenizer of the model in this role."""
        return self.teacher_tokenizer if role == "teacher" else self.tokenizer


def _nothing(_settings: Any) -> Sequence[Path]:
    return ()


def _anything(_settings: Any) -> None:
    """No settings of such a suite can be wrong."""


@dataclass(frozen=True)
class Suite:
    """One kind of measurement."""

    title: str
    """What the terminal says while it runs."""
    tasks: Collection[Task]
    """What models it is about."""
    measure: Callable[[Bench, Any], SuiteResult]
    """The work: what is to be judged, and the section of the recipe's evaluation that has the suite's name, or None."""
    files: Callable[[Any], Sequence[Path]] = _nothing
    """Files that its settings name: where one has changed, what was measured is stale."""
    check: Callable[[Any], None] = _anything
    """Raises what is wrong with its settings and their files, before any model is loaded."""
