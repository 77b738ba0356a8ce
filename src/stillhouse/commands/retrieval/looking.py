"""Before anything is loaded or made: what a retriever would learn, and what would be asked about its documents."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console

from stillhouse.commands.retrieval.asking import asker, questions_of
from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.pipeline import RetrievalPipeline
from stillhouse.commands.retrieval.recipe import QuestionSynthesisConfig, RetrievalRecipe
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.models.load import display_name
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.formatting import clean, count, duration, percent
from stillhouse.retrieval.documents import words_in
from stillhouse.retrieval.mining import answers_of, positives_of
from stillhouse.retrieval.questions import Question
from stillhouse.synthesis import write_synthetic

WORDS_SHOWN = 40
TRIED = 5
"""Questions that a dry run asks for."""


def show(recipe_path: str, overrides: Sequence[str], *, num_examples: int) -> None:
    """Print what documents and questions come to, and the first questions with what words alone find for them.

    Raises:
        StillhouseError: for whatever is wrong with recipe, documents or questions.
    """
    recipe = load_recipe(RetrievalRecipe, Path(recipe_path), overrides)
    parts = RetrievalParts(recipe, RunFolder(recipe.run), SILENT)
    console = Console(highlight=False)
    for line in _corpus_lines(parts):
        console.print(line, markup=False, soft_wrap=True)
    if recipe.synthesis is not None and not parts.asked.exists():
        raise RecipeError(
            [f"synthesis: {parts.asked} is not written yet. First: stillhouse synthesize {recipe_path}"],
            source=recipe_path,
        )
    for line in [*_question_lines(parts), *_example_lines(parts, num_examples)]:
        console.print(line, markup=False, soft_wrap=True)


def _corpus_lines(parts: RetrievalParts) -> Iterator[str]:
    corpus = parts.corpus
    yield f"{count(corpus.num_documents)} documents, {count(len(corpus.passages))} passages"
    lengths = sorted(words_in(passage.whole) for passage in corpus.passages)
    yield f"  words a passage: shortest {lengths[0]}, median {lengths[len(lengths) // 2]}, longest {count(lengths[-1])}"
    if corpus.empty:
        yield f"  {count(len(corpus.empty))} without text, left out, such as {clean(corpus.empty[0])}"
    if corpus.num_duplicates:
        yield f"  {count(corpus.num_duplicates)} passages say what another one says, and are kept once"


def _question_lines(parts: RetrievalParts) -> Iterator[str]:
    train, held_out = parts.train_and_held_out
    for name, questions in {"train": train, "held out": held_out}.items():
        answers = sum(len(one.relevant) for one in questions) / len(questions)
        yield f"{name:<10}{count(len(questions))} questions, {answers:.1f} passages answer each"
    found = parts.bm25.search([one.text for one in held_out], 10)
    first = sum(any(hit.id in one.relevant for hit in hits) for one, hits in zip(held_out, found, strict=True))
    share = percent(first / len(held_out), 0)
    yield f"{'':<10}words alone (BM25) find an answer among the first ten for {share} of the held out"


def _example_lines(parts: RetrievalParts, number: int) -> Iterator[str]:
    shown = parts.train_and_held_out[0][:number]
    for nth, question in enumerate(shown, start=1):
        yield f"\nexample {nth}: {clean(question.text)}"
        best = positives_of(question)
        more = f" (and {len(best) - 1} more; the teacher chooses)" if len(best) > 1 else ""
        yield f"  answered by {best[0]}{more}: {_shortened(parts.texts[best[0]])}"
        for one in _found_instead(parts, question):
            yield f"  not by {one}: {_shortened(parts.texts[one])}"


def _found_instead(parts: RetrievalParts, question: Question) -> list[str]:
    """What BM25 finds first that does not answer: candidates for negatives, where the recipe takes them from there."""
    answers = answers_of(question, parts.copies)
    return [hit.id for hit in parts.bm25.search([question.text], 10)[0] if hit.id not in answers][:2]


def _shortened(text: str) -> str:
    words = text.split()
    return clean(" ".join(words[:WORDS_SHOWN]) + (" ..." if len(words) > WORDS_SHOWN else ""))


def dry_run(recipe_path: str, overrides: Sequence[str]) -> None:
    """Ask a few of the questions, print them whole with what becomes of each, and what all would take; nothing is kept.

    Raises:
        StillhouseError: as the run itself, before anything is loaded.
    """
    recipe = load_recipe(RetrievalRecipe, Path(recipe_path), overrides)
    if recipe.synthesis is None:
        raise RecipeError(
            ["synthesis: it must be given for --dry-run, or there is nothing to try."], source=recipe_path
        )
    pipeline = RetrievalPipeline(recipe, RunFolder(recipe.run), terminal_progress())
    pipeline.check()
    console = Console(highlight=False)
    for line in _tried(pipeline.parts, recipe.synthesis):
        console.print(clean(line), markup=False, soft_wrap=True)


def _tried(parts: RetrievalParts, wanted: QuestionSynthesisConfig) -> Iterator[str]:
    few = wanted.model_copy(update={"number": min(TRIED, wanted.number)})
    writer = asker(parts, wanted)
    with TemporaryDirectory() as folder:
        started = monotonic()
        make = partial(questions_of, parts=parts, wanted=few)
        made = write_synthetic(make, writer, folder=Path(folder), fewest=0, progress=parts.progress)
        seconds = monotonic() - started
    for nth, record in enumerate(made.records, start=1):
        yield f"example {nth}: {f'dropped: {record.dropped}' if record.dropped else 'kept'}"
        yield f"  passage: {_shortened(str(record.lineage['passage']))}"
        yield f"  question: {record.question}"
    kept = sum(not record.dropped for record in made.records)
    whole = seconds * wanted.number / max(1, len(made.records))
    yield f"tried: {len(made.records)} of {count(wanted.number)} questions by {display_name(wanted.model)}, {kept} kept"
    yield f"the whole: about {duration(whole)}, at the pace of these few"
    yield "nothing of this was written into the run folder."
