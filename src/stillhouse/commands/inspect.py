"""`stillhouse inspect`: what a student would learn of the data, token by token, before any model is loaded."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from stillhouse.commands.checks import tokenizer_source
from stillhouse.commands.parts import Parts
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.batch import LabelledBatch, TaggedBatch, as_batch
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.data.context import ContextRows
from stillhouse.data.examples import Example
from stillhouse.data.masking import MaskedRows
from stillhouse.data.packing import PackedRows
from stillhouse.data.preferences import PreferenceRows
from stillhouse.data.rowset import PaddedRows, RowSet
from stillhouse.models.load import display_name
from stillhouse.reporting.formatting import clean, count, percent

LEARNT, READ = "bold green", "dim"
BRACKETS = ("[[", "]]")
"""Around what is learnt, where there is no colour."""


@dataclass(frozen=True)
class Shown:
    """One document or a piece of it: what is read, and what is learnt of it."""

    document: str
    ids: tuple[int, ...]
    learnt: tuple[bool, ...]
    answer: str = ""
    """What is to be said about the whole of it."""
    teacher_ids: tuple[int, ...] = ()
    """What the teacher reads in its place, where that is more."""
    teacher_learnt: tuple[bool, ...] = ()
    rejected: "Shown | None" = None
    """The other answer to the same prompt, where this is a chosen one."""


def show(recipe_path: str, overrides: Sequence[str], *, num_examples: int) -> None:
    """Print the counts of both sides, and the first examples of what is trained on.

    Raises:
        StillhouseError: for whatever is wrong with recipe, tokenizer or data.
    """
    if num_examples < 0:
        raise RecipeError([f"--examples {num_examples}: it should be 0 or more."], source=recipe_path)
    values = read_recipe(Path(recipe_path), overrides)
    if is_of_stories(values):
        looking = importlib.import_module("stillhouse.commands.stories.looking")
        looking.show(recipe_path, overrides, num_examples=num_examples)
        return
    if is_of_retrieval(values):
        check_installed()
        looking = importlib.import_module("stillhouse.commands.retrieval.looking")
        looking.show(recipe_path, overrides, num_examples=num_examples)
        return
    recipe = load_recipe(Recipe, Path(recipe_path), overrides)
    parts = Parts(recipe, RunFolder(recipe.run), SILENT)
    if not parts.data_path.exists() and (recipe.data.path is None or parts.answers_first):
        raise RecipeError(
            [f"synthesis: {parts.data_path} is not written yet. First: stillhouse synthesize {recipe_path}"],
            source=recipe_path,
        )
    console = Console(highlight=False)
    for line in _summary(parts):
        console.print(line, markup=False, soft_wrap=True)
    for number, shown in zip(range(1, num_examples + 1), pieces_of(parts.data.train, parts), strict=False):
        show_one(console, shown, number, parts.tokenizer)


def _summary(parts: Parts) -> Iterator[str]:
    data, wanted = parts.data, parts.recipe.data
    yield f"data of kind {wanted.kind}, as the tokenizer of {display_name(tokenizer_source(parts.recipe))} reads it"
    yield from (f"  {clean(note)}" for note in data.notes)
    yield from (f"  {clean(note)}" for note in (parts.replayed.notes if parts.replayed else ()))
    if parts.recipe.history is not None and not parts.rewritten.exists():
        yield "  history: these are the data's own answers, in the place of which the teacher's will stand"
    sides = {"train": (data.train, data.num_train_documents), "held out": (data.held_out, data.num_held_out_documents)}
    for name, (rows, num_documents) in sides.items():
        pieces = list(pieces_of(rows, parts))
        num_tokens = sum(len(piece.ids) for piece in pieces)
        unit = "pairs, the chosen side of them" if isinstance(rows, PreferenceRows) else "documents"
        yield f"{name:<10}{count(num_documents)} {unit}, {count(num_tokens)} tokens{share_of(pieces)}"
        yield f"{'':<10}{lengths_of(pieces)}"
        yield from (f"{'':<10}{line}" for line in _losses(rows, pieces, num_documents, parts))


def share_of(pieces: Sequence[Shown]) -> str:
    """How much is learnt, token by token; nothing for data that is judged as a whole."""
    learnt, read = (sum(counted) for counted in zip(*((sum(p.learnt), len(p.ids)) for p in pieces), strict=True))
    return f", {percent(learnt / read, 1)} supervised ({count(learnt)})" if learnt else ", none supervised one by one"


def lengths_of(pieces: Sequence[Shown]) -> str:
    """Lengths of whole documents: a piece begins with the last token of the one before."""
    whole: dict[str, int] = {}
    for piece in pieces:
        whole[piece.document] = whole.get(piece.document, 1) + len(piece.ids) - 1
    lengths = sorted(whole.values())
    quantiles = [lengths[round(share * (len(lengths) - 1))] for share in (0, 0.25, 0.5, 0.75, 0.95, 1)]
    names = ("shortest", "25 %", "median", "75 %", "95 %", "longest")
    return "tokens a document: " + ", ".join(f"{n} {count(q)}" for n, q in zip(names, quantiles, strict=True))


def _losses(rows: RowSet, pieces: Sequence[Shown], num_documents: int, parts: Parts) -> Iterator[str]:
    """What is cut, and what is left out."""
    limit = parts.recipe.data.sequence_tokens
    if isinstance(rows, PreferenceRows):
        if len(rows) < num_documents:
            yield f"{count(num_documents - len(rows))} pairs left out, both answers of each"
    elif isinstance(rows, PackedRows):
        kept = len({piece.document for piece in pieces})
        cut = len({example.part_of for example in rows.examples if example.part_of})
        if cut:
            yield f"{count(cut)} longer than data.sequence_tokens ({limit}): cut into pieces, which do not see each other"
        if kept < num_documents:
            or_no_room = ", or no room for the context" if isinstance(rows, ContextRows) else ""
            yield f"{count(num_documents - kept)} left out: nothing to learn, or the same tokens as another{or_no_room}"
    elif not isinstance(rows, MaskedRows):
        full = sum(len(piece.ids) >= limit for piece in pieces)
        if full:
            yield f"{count(full)} as long as data.sequence_tokens ({limit}): what was longer is cut off"


def pieces_of(rows: RowSet, parts: Parts) -> Iterator[Shown]:
    """Documents in the order of the files, or of their rows."""
    if isinstance(rows, ContextRows):
        for view in rows.views:
            told = (view.teacher.ids, learnt_of(view.teacher)) if view.style is not None else ((), ())
            yield Shown(view.student.document, view.student.ids, learnt_of(view.student), "", *told)
        return
    if isinstance(rows, PreferenceRows):
        for number, pair in enumerate(rows.pairs):
            names = ["", ""] if pair.scores is None else [f"score {score:g}" for score in pair.scores]
            chosen, rejected = (
                Shown(str(number), side.ids, learnt_of(side), name)
                for side, name in zip(pair.sides, names, strict=True)
            )
            yield replace(chosen, rejected=rejected)
        return
    if isinstance(rows, PackedRows):
        for example in rows.examples:
            yield Shown(example.document, example.ids, learnt_of(example))
        return
    assert isinstance(rows, PaddedRows)
    for number in range(len(rows)):
        batch = as_batch(rows.collate([rows[number]]))
        ids = tuple(batch.ids[0][batch.real[0]].tolist())
        learnt = tuple((batch.weights[0][batch.real[0]] > 0).tolist())
        yield Shown(str(number), ids, learnt, _answer(batch, parts))


def learnt_of(example: Example) -> tuple[bool, ...]:
    """Which of its tokens are learnt."""
    return (False, *(weight > 0 for weight in example.weights[1:]))


def _answer(batch: object, parts: Parts) -> str:
    labels = parts.data.labels
    if isinstance(batch, LabelledBatch):
        label = batch.labels[0].item()
        return labels[int(label)] if labels else f"{label:g}"
    if isinstance(batch, TaggedBatch):
        targets = batch.targets.tolist()
        return " ".join(labels[tag] for tag in targets) if labels else str(parts.tokenizer.decode(targets))
    return ""


def show_one(console: Console, shown: Shown, number: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """What is read and what is learnt, told apart by colour, or by brackets where there is none."""
    colours = console.color_system is not None and not console.no_color
    console.print()
    _show_title(console, f"example {number}{', chosen' if shown.rejected else ''}", shown, colours=colours)
    _show_tokens(console, shown.ids, shown.learnt, tokenizer, colours=colours)
    if shown.rejected is not None:
        _show_title(console, f"example {number}, rejected", shown.rejected, colours=colours)
        _show_tokens(console, shown.rejected.ids, shown.rejected.learnt, tokenizer, colours=colours)
    elif shown.answer:
        console.print(Text(f"answer: {clean(shown.answer)}", style=LEARNT if colours else ""), soft_wrap=True)
    if shown.teacher_ids:
        title = f"the teacher reads in its place: {len(shown.teacher_ids)} tokens"
        console.print(title, style="bold" if colours else None, markup=False)
        _show_tokens(console, shown.teacher_ids, shown.teacher_learnt, tokenizer, colours=colours)


def _show_title(console: Console, name: str, shown: Shown, *, colours: bool) -> None:
    """What it is, how long, and what a pair's answer scored."""
    title = f"{name}: {len(shown.ids)} tokens" + (f", {sum(shown.learnt)} supervised" if any(shown.learnt) else "")
    if "chosen" in name or "rejected" in name:
        title += f", {shown.answer}" if shown.answer else ""
    console.print(title, style="bold" if colours else None, markup=False)


def _show_tokens(
    console: Console,
    ids: Sequence[int],
    learnt: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
    *,
    colours: bool,
) -> None:
    written = Text()
    for is_learnt, run in groupby(zip(learnt, ids, strict=True), key=lambda pair: pair[0]):
        text = clean(str(tokenizer.decode([token for _, token in run], clean_up_tokenization_spaces=False)))
        if colours:
            written.append(text, style=LEARNT if is_learnt else READ)
        else:
            written.append(f"{BRACKETS[0]}{text}{BRACKETS[1]}" if is_learnt else text)
    console.print(written, soft_wrap=True)
