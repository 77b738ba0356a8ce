"""Every model on every task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from stillhouse.core.errors import DataError
from stillhouse.core.measures import TaskResult
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Role
from stillhouse.evaluation.tasks.choosing import Weighed, bbq, group_gaps, minimal_pairs, multiple_choice, weighed
from stillhouse.evaluation.tasks.config import (
    AnswersConfig,
    BbqConfig,
    FileTaskConfig,
    GenerationConfig,
    GroupGapsConfig,
    LmEvalConfig,
    MinimalPairsConfig,
    MultipleChoiceConfig,
)
from stillhouse.evaluation.tasks.harness import check_harness, harness_results
from stillhouse.evaluation.tasks.rows import KEY, Choice, Prompted, read_choices, read_prompted, texts_in
from stillhouse.evaluation.tasks.speakers import Speaker
from stillhouse.evaluation.tasks.text_scores import check_libraries
from stillhouse.evaluation.tasks.writing import answers, class_of, expected, generation

Task = FileTaskConfig | LmEvalConfig
Rows = list[Choice] | list[Prompted]

_CHOOSING: Mapping[type, Callable[[Weighed], TaskResult]] = {
    MultipleChoiceConfig: multiple_choice,
    MinimalPairsConfig: minimal_pairs,
    BbqConfig: bbq,
    GroupGapsConfig: group_gaps,
}


def _anew(_task: Task, work: Callable[[], list[TaskResult]]) -> list[TaskResult]:
    return work()


def judge_tasks(
    tasks: Sequence[Task],
    speakers: Mapping[Role, Speaker],
    *,
    remember: Callable[[Task, Callable[[], list[TaskResult]]], list[TaskResult]] = _anew,
    progress: Progress = SILENT,
) -> list[TaskResult]:
    """What every model makes of the same questions; beside the teacher, where it is among them.

    Models may have other tokenizers: what is compared is text, and log-probabilities of the same text. `remember` gives what
    was found of a task before, or does the work.

    Raises:
        StillhouseError: naming what is wrong with a file, or which library is missing.
    """
    check_tasks(tasks)
    return [result for task in tasks for result in remember(task, partial(list, _judge(task, speakers, progress)))]


def check_tasks(tasks: Sequence[Task]) -> None:
    """Read every file and look for every library, before any model is asked.

    Raises:
        StillhouseError: as `judge_tasks`.
    """
    titles = [task.title for task in tasks if not isinstance(task, LmEvalConfig)]
    if len(set(titles)) < len(titles):
        twice = max(titles, key=titles.count)
        raise DataError(f"{KEY} has two that are called {twice!r}. Give one of them a name.")
    for task in tasks:
        if isinstance(task, LmEvalConfig):
            check_harness()
            continue
        if isinstance(task, GenerationConfig):
            check_libraries(task)
        read(task)


def read(task: FileTaskConfig) -> Rows:
    """The questions of a task.

    Raises:
        DataError: naming file and row.
    """
    if isinstance(task, AnswersConfig):
        return _of_known_classes(task, read_prompted(task))
    return read_prompted(task) if isinstance(task, GenerationConfig) else read_choices(task)


def _of_known_classes(task: AnswersConfig, rows: list[Prompted]) -> list[Prompted]:
    for number, row in enumerate(rows, start=1):
        named = {class_of(task, one) for one in expected(task, row)}
        if task.classes is not None and (None in named or len(named) > 1):
            raise DataError(
                f"{KEY}: question {number} of {task.title} has the right answer {row.references[0]!r}, which is not one of "
                f"the classes: {', '.join(task.classes)}. Mend evaluation.tasks.classes or the file."
            )
    return rows


def texts_of_tasks(tasks: Sequence[Task]) -> dict[str, list[list[str]]]:
    """The texts of every question of each task: what nobody should have been trained on."""
    return {task.title: texts_in(task) for task in tasks if not isinstance(task, LmEvalConfig)}


def _judge(task: Task, speakers: Mapping[Role, Speaker], progress: Progress) -> Iterator[TaskResult]:
    if isinstance(task, LmEvalConfig):
        yield from harness_results(task, speakers, progress=progress)
        return
    if isinstance(task, AnswersConfig | GenerationConfig):
        yield _written(task, speakers, progress)
        return
    questions, form = read_choices(task), getattr(task, "form", "text")
    found: dict[Role, list[list[float] | None]] = {}
    with working(progress, f"weighing answers: {task.title}", len(questions) * len(speakers), "questions"):
        for role, speaker in speakers.items():
            found[role] = speaker.weigh(questions, form=form)
            progress.advance(len(questions))
    weighing = weighed(task.title, questions, found)
    if not weighing.questions:
        raise DataError(f"{KEY}: every question of {task.title} is longer than a model reads. Shorten them.")
    yield _CHOOSING[type(task)](weighing)


def _written(
    task: AnswersConfig | GenerationConfig, speakers: Mapping[Role, Speaker], progress: Progress
) -> TaskResult:
    rows = read_prompted(task)
    said = {}
    with working(progress, f"answering: {task.title}", len(rows) * len(speakers), "prompts"):
        for role, speaker in speakers.items():
            prompts = [row.prompt for row in rows]
            said[role] = speaker.write(prompts, form=task.form, max_new_tokens=task.max_new_tokens)
            progress.advance(len(rows))
    if not any(all(own[place] for own in said.values()) for place in range(len(rows))):
        raise DataError(
            f"{KEY}: no model has room for a prompt of {task.title} and {task.max_new_tokens} more tokens. Lower "
            "max_new_tokens, or shorten the prompts."
        )
    return answers(task, rows, said) if isinstance(task, AnswersConfig) else generation(task, rows, said)
