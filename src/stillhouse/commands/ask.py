"""`stillhouse rag ask`: a run's student answers a question from its documents, and names its sources."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieving import Finder, opened_finder
from stillhouse.commands.stages.grounded_answers import ANSWER_TOKENS, retrieved_contexts
from stillhouse.commands.stages.grounding import INDEX
from stillhouse.core.citations import abstains, citations
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import DataError, RunError
from stillhouse.core.run import RunFolder
from stillhouse.data.config import RagDataConfig
from stillhouse.data.grounded import Context, prompt_of, written_question
from stillhouse.data.mixture import Mixture, Question
from stillhouse.evaluation.grounded import LocalAnswerer
from stillhouse.models.load import load_causal_lm
from stillhouse.reporting.formatting import clean, one_line
from stillhouse.synthesis.config import GroundedConfig

Who = Literal["student", "teacher"]
SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class Answered:
    """An answer with what it was answered from."""

    text: str
    context: Context
    abstains: bool
    sources: tuple[int, ...]
    """Numbers of the passages that it cites, among those that are there."""
    strange: tuple[int, ...]
    """Numbers that it cites and that are not there."""
    retrieve_milliseconds: float
    answer_milliseconds: float


def show(run: str, question: str, *, who: Who = "student") -> None:
    """Print the answer and its sources.

    Raises:
        StillhouseError: for a run that answers from no documents or has no student yet, and for a question that is empty or too
            long to be answered.
    """
    _show(*_asked(run, question, who, say=lambda text: print(text, file=sys.stderr)))


def ask(run: str | Path, question: str, *, who: Who = "student") -> Answered:
    """Ask a run whose data is of kind rag: its answer, with the passages that it was given and those that it cites.

    Raises:
        StillhouseError: for a run that answers from no documents or has no student yet, and for a question that is empty or too
            long to be answered.
    """
    return _asked(str(run), question, who, say=lambda _text: None)[0]


def _asked(run: str, question: str, who: Who, *, say: Callable[[str], None]) -> tuple[Answered, Finder]:
    folder, recipe = _opened(run)
    assert isinstance(recipe.data, RagDataConfig)
    if not question.strip():
        raise DataError("the question is empty. Ask something.")
    if who == "teacher" and recipe.teacher.kind == "remote":
        raise RunError(
            f"the teacher of {run!r} is behind an API, and only models of this machine are asked. Leave --who out."
        )
    finder = opened_finder(recipe.data.retriever, folder.path / INDEX, candidates=recipe.data.candidates)
    model = str(folder.student) if who == "student" else recipe.teacher.model
    say(f"loading the {who}")
    loaded = load_causal_lm(model)
    limit = (
        recipe.synthesis.answers.sampling.max_new_tokens
        if isinstance(recipe.synthesis, GroundedConfig)
        else ANSWER_TOKENS
    )
    speaker = LocalAnswerer(loaded.model, loaded.tokenizer, max_new_tokens=limit)
    alone = who == "student" and recipe.data.student_reads == "question"
    return answer(question.strip(), finder, speaker, recipe.data, question_alone=alone), finder


def _opened(run: str) -> tuple[RunFolder, Recipe]:
    folder = RunFolder(Path(run))
    if not folder.recipe.is_file():
        raise RunError(f"{run!r} is no run folder: it has no recipe.yaml. Name one that a recipe of kind rag made.")
    recipe = load_recipe(Recipe, folder.recipe)
    if not isinstance(recipe.data, RagDataConfig):
        raise RunError(
            f"{run!r} learnt data of kind {recipe.data.kind!r} and answers from no documents. Name a run whose data is of kind "
            "rag."
        )
    if not folder.student.is_dir() or not (folder.path / INDEX).is_dir():
        raise RunError(f"{run!r} has no student and index yet. First: stillhouse distill {folder.recipe}")
    return folder, recipe


def answer(
    question: str, finder: Finder, speaker: LocalAnswerer, data: RagDataConfig, *, question_alone: bool = False
) -> Answered:
    """Find passages, and answer over them as in training: the same template, count and cut.

    Raises:
        DataError: if nothing is left for passages and answer beside so long a question.
    """
    started = time.perf_counter()
    mixture = Mixture({"retrieved": 1.0}, data.passages, data.passage_characters, data.seed, finder.name)
    (context,) = retrieved_contexts(finder, [Question(question)], mixture, data)
    found = time.perf_counter()
    context, prompt = _that_fits(context, speaker, data, question_alone=question_alone)
    (text,) = speaker.answer([prompt])
    cited = citations(text)
    return Answered(
        text,
        context,
        abstains(text, abstention=data.template.abstention),
        tuple(number for number in cited if 1 <= number <= len(context.passages)),
        tuple(number for number in cited if not 1 <= number <= len(context.passages)),
        1000 * (found - started),
        1000 * (time.perf_counter() - found),
    )


def _that_fits(
    context: Context, speaker: LocalAnswerer, data: RagDataConfig, *, question_alone: bool
) -> tuple[Context, str]:
    """The context with as many of its passages as there is room for, the best first."""
    room = data.sequence_tokens - speaker.max_new_tokens
    while True:
        prompt = written_question(context, data.template) if question_alone else prompt_of(context, data.template)
        needed = len(speaker.ids(prompt))
        if needed <= room:
            return context, prompt
        if question_alone or not context.passages:
            raise DataError(
                f"the question is too long: with its instruction it has {needed:,} tokens, and {room:,} fit beside an answer "
                f"of {speaker.max_new_tokens} into data.sequence_tokens ({data.sequence_tokens:,}). Ask a shorter one."
            )
        context = replace(context, passages=context.passages[:-1])


def _show(found: Answered, finder: Finder) -> None:
    console = Console(highlight=False)
    console.print(clean(found.text) or "(nothing)", markup=False, soft_wrap=True)
    told = found.sources if not found.abstains else ()
    for number in told:
        passage = finder.passages[found.context.passages[number - 1].id]
        source = passage.source or passage.id
        text = one_line(passage.text)[:SHOWN_CHARACTERS]
        console.print(f"  [{number}] {source}: {text}", markup=False, soft_wrap=True)
    if not told and not found.abstains and found.context.passages:
        console.print("  (no source is cited; what was read:)", markup=False)
        for number, read in enumerate(found.context.passages, start=1):
            source = finder.passages[read.id].source or read.id
            console.print(f"  [{number}] {source}", markup=False, soft_wrap=True)
    for number in found.strange:
        console.print(f"  [{number}] is cited, and there is no such passage", markup=False)
    print(
        f"passages found in {found.retrieve_milliseconds:.0f} ms, answered in {found.answer_milliseconds:.0f} ms",
        file=sys.stderr,
    )
