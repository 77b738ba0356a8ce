"""`stillhouse init`: four questions, and the shipped recipe that answers them, with everything filled in."""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.prompt import Prompt

from stillhouse.commands.estimate import Shape, estimate, matmul_speed, shape_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.shipped import named
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import ModelError, StillhouseError
from stillhouse.core.faults import nearest
from stillhouse.core.files import write_atomic
from stillhouse.core.yaml_text import from_yaml, with_values
from stillhouse.models.load import check_exists
from stillhouse.reporting.formatting import count, duration
from stillhouse.students.config import FromLayersConfig
from stillhouse.synthesis.config import PromptSynthesisConfig

CHOICES: dict[str, dict[str, str]] = {
    "nothing": {"chat": "data_free", "text": "demo"},
    "texts": {"text": "language_model", "encoder": "distilbert", "embeddings": "sentences"},
    "chats": {"chat": "chat", "answers": "sequence_level", "adapter": "lora"},
    "rows": {"classes": "classifier", "number": "regression", "tags": "tags"},
    "pairs": {"chat": "dpo", "reward": "reward_model"},
    "documents": {"chat": "documents", "rag": "rag", "retriever": "retriever"},
}
"""What one has, what should come out, and the recipe for that."""

HAVE = {
    "nothing": "the teacher writes the data",
    "texts": "plain text, or sentences",
    "chats": "conversations, or prompts with answers",
    "rows": "texts with labels",
    "pairs": "pairs of answers, one of them better",
    "documents": "files to answer from",
}
OUT = {
    "chat": "a model that answers",
    "text": "a model that writes such text",
    "encoder": "a small encoder, for tasks to come",
    "embeddings": "a model that embeds sentences",
    "answers": "a model that answers as its teacher writes, not as the data does",
    "adapter": "the teacher itself with a LoRA adapter",
    "classes": "a text classifier",
    "number": "a model that estimates a number",
    "tags": "a tagger of words",
    "reward": "a small reward model",
    "rag": "a model that answers from passages, with sources",
    "retriever": "a retriever with its index",
}
FILLED_IN = ("teacher.model", "student.model", "data.path", "data.documents", "data.questions", "synthesis.path")
"""Keys that a recipe's own command gives, and that are written in the file now."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FEWEST_RECORDS = 32
"""Records below which nothing is worth training on."""
QUESTIONS_ASKED = 500
"""That a teacher asks of documents where nobody has questions."""


@dataclass(frozen=True)
class Wish:
    """What was answered."""

    teacher: str
    have: str
    out: str
    seconds: float
    data: str = ""
    questions: str = ""
    student: str = ""

    @property
    def recipe(self) -> str:
        """The shipped recipe that this is built on."""
        return CHOICES[self.have][self.out]


def show(file: str, answers: dict[str, str], *, force: bool) -> None:
    """Ask what the flags do not say, and write the recipe.

    Raises:
        StillhouseError: for an answer that is none, a file that is in the way, or a teacher that is not there.
    """
    wish, notes = write_recipe(Path(file), answers, force=force)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{file} is written, from the recipe {wish.recipe}.", markup=False)
    for note in notes:
        console.print(f"- {note}", markup=False)
    console.print(f"\nnext: stillhouse doctor {file}\n      stillhouse distill {file}", markup=False)


def write_recipe(path: Path, answers: dict[str, str], *, force: bool) -> tuple[Wish, list[str]]:
    """The same without a word: what was wished, and what else there is to say.

    Raises:
        StillhouseError: as `show`.
    """
    if path.exists() and not force:
        raise StillhouseError(f"{path} is there already. Name another file, or say --force to write over it.")
    wish = _asked(answers)
    text, notes = written(wish, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return wish, notes


# The questions.


def _asked(answers: dict[str, str]) -> Wish:
    """What flags say, and a question for each that they do not."""
    teacher = answers["teacher"] or _ask("--teacher", "What is the teacher? A hub id, a folder, or a GGUF file")
    if teacher.startswith(("http://", "https://")):
        raise StillhouseError(
            f"the teacher {teacher!r} is behind an API. A recipe for that has a server, a key and a budget to fill in: "
            "stillhouse recipes remote > my.yaml"
        )
    check_exists(teacher)
    have = _one_of("--have", "What have you got?", answers["have"], HAVE)
    data = answers["data"]
    if have != "nothing" and not data:
        data = _ask("--data", "In which folder?" if have == "documents" else "In which file?")
    if have == "nothing" and data:
        raise StillhouseError(f"--have nothing, and yet --data {data}: leave one of the two out.")
    if data and not Path(data).exists():
        raise StillhouseError(f"--data {data}: there is no such file or folder.")
    out = _one_of("--out", "What should come out?", answers["out"], {name: OUT[name] for name in CHOICES[have]})
    seconds = _seconds(answers["time"] or _ask("--time", "How long may it take? Such as 30m, 2h or 1d"))
    return Wish(teacher, have, out, seconds, data, answers["questions"], answers["student"])


def _ask(flag: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise StillhouseError(f"{flag} is missing, and nobody can be asked here. {question}: {flag} ...")
    while True:
        answer = Prompt.ask(question).strip()
        if answer:
            return answer


def _one_of(flag: str, question: str, said: str, known: dict[str, str]) -> str:
    if len(known) == 1 and not said:
        return next(iter(known))
    if not said and sys.stdin.isatty():
        Console(highlight=False).print("\n".join(f"  {name:<11}{words}" for name, words in known.items()))
        return Prompt.ask(question, choices=list(known))
    if not said:
        raise StillhouseError(f"{flag} is missing, and nobody can be asked here. One of: {', '.join(known)}.")
    if said not in known:
        raise StillhouseError(f"{flag} {said}: there is no such choice here.{nearest(said, list(known))}")
    return said


def _seconds(said: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\w*\s*", said.lower())
    if found is None or float(found[1]) == 0:
        raise StillhouseError(f"--time {said}: it should be a number with s, m, h or d behind it, such as 30m or 2h.")
    return float(found[1]) * UNITS[found[2]]


# The recipe.


def written(wish: Wish, path: Path) -> tuple[str, list[str]]:
    """The recipe's text, and what else there is to say.

    Raises:
        StillhouseError: if something is missing for it.
    """
    text = named(wish.recipe).path.read_text(encoding="utf-8")
    text = _with_commands(text, wish.recipe, path)
    values = from_yaml(text)
    changes = {"run": f"runs/{path.stem}", **_models(values, wish), **_data(values, wish)}
    text = with_values(text, changes)
    if is_of_retrieval(values):
        check_installed()
        from stillhouse.commands.retrieval.recipe import RetrievalRecipe  # what it imports may not be there

        parse_recipe(RetrievalRecipe, from_yaml(text), source=str(path))
        return text, ["how long it takes is not estimated for a retriever; each stage shows the time it has left"]
    recipe = parse_recipe(Recipe, from_yaml(text), source=str(path))
    try:
        shape = shape_of(recipe.teacher.model, recipe)
    except ModelError as error:
        return text, [f"the teacher could not be looked at, so its depth and speed are the recipe's guess: {error}"]
    text = _with_depth(text, recipe, shape)
    recipe = parse_recipe(Recipe, from_yaml(text), source=str(path))
    return _within(text, recipe, shape, wish.seconds)


def _with_commands(text: str, name: str, path: Path) -> str:
    """The commands of the opening comment, as this file is run: what else they say is written in it."""
    shown = re.compile(rf"^(#     stillhouse \w+) recipes/{name}\.yaml(.*)$", re.MULTILINE)
    filled = re.compile(rf" ({'|'.join(map(re.escape, FILLED_IN))})=\S+")
    text = shown.sub(lambda found: f"{found[1]} {path}{filled.sub('', found[2])}", text)
    return text.replace(f"runs/{name}", f"runs/{path.stem}")


def _models(values: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """Who teaches, and who learns where that is a model of its own."""
    student = values["student"]
    changes = {} if values["teacher"].get("kind") == "self" else {"teacher.model": wish.teacher}
    if student.get("kind") == "checkpoint":
        changes["student.model"] = wish.student or wish.teacher
    elif "model" in student and wish.student:  # a retriever
        changes["student.model"] = wish.student
    elif wish.student:
        raise StillhouseError(
            f"--student {wish.student}: here the student is made of the teacher's layers. Leave it out."
        )
    return changes


def _data(values: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """Where the data is."""
    data, writes = values["data"], values.get("synthesis") or {}
    if wish.questions and "documents" not in data:
        raise StillhouseError(f"--questions {wish.questions}: it is for --out rag and --out retriever. Leave it out.")
    if data.get("kind") == "retrieval":
        if not wish.questions:
            raise StillhouseError(
                '--out retriever needs --questions FILE, rows of {"question": ..., "passages": [...]}. Without any, a language '
                "model can ask them: docs/rag.md says how."
            )
        return {"data.documents": wish.data, "data.questions": wish.questions}
    if "documents" in data and wish.questions:
        return {"data.documents": wish.data, "data.path": wish.questions}
    if "documents" in data:
        return {"data.documents": wish.data, "data.path": None, "synthesis.number": QUESTIONS_ASKED}
    if "path" in data:
        return {"data.path": wish.data}
    return {"synthesis.path": wish.data} if "path" in writes else {}


def _with_depth(text: str, recipe: Recipe, shape: Shape) -> str:
    """Half of this teacher's layers, rows no longer than it reads, and what it is in the comment before it."""
    said = f"# {shape.layers} layers, {count(shape.parameters / 1e6)} million parameters."
    text = re.sub(r"^#[^\n]*\n(?=teacher:)", f"{said}\n", text, flags=re.MULTILINE)
    if shape.most_tokens is not None and recipe.data.sequence_tokens > shape.most_tokens:
        text = with_values(text, {"data.sequence_tokens": shape.most_tokens})
    student = recipe.student
    if isinstance(student, FromLayersConfig) and isinstance(student.keep, int) and student.choose == "greedy":
        return with_values(text, {"student.keep": max(1, shape.layers // 2)})
    return text


def _within(text: str, recipe: Recipe, shape: Shape, seconds: float) -> tuple[str, list[str]]:
    """As much of it as the time is good for, and what that rests on."""
    told = estimate(recipe, shape, speed=matmul_speed())
    if told is None:
        return text, ["how long it takes is not estimated for this recipe; each stage shows the time it has left"]
    writes = recipe.data.path is None
    key, most, unit = _what_may_change(recipe)
    fits = min(most, told.units_in(seconds))
    if writes:
        fits = float(math.floor(fits))
    fewest = FEWEST_RECORDS if writes else 0.01
    if fits < fewest:
        raise StillhouseError(
            f"--time {duration(seconds)} is too short: an estimate for this machine and this teacher is "
            f"{duration(told.total(fewest))} for as little as {fewest:g} {unit}. Give it more time, or take a smaller teacher."
        )
    fits = fits if fits >= 100 or writes else float(f"{fits:.2g}")
    fits = min(most, fits)
    basis = (
        f"about {duration(told.total(fits))} for {fits:g} {unit}: an estimate by counted operations and this machine's matrix "
        f"products ({told.speed / 1e9:,.0f} billion operations a second just now)"
    )
    value = int(fits) if writes else fits
    text = with_values(text, {key: value})
    return f"{text.rstrip()}\n\n# {basis[0].upper()}{basis[1:]}.\n", [basis]


def _what_may_change(recipe: Recipe) -> tuple[str, float, str]:
    """What a budget can change: its key, how much of it the recipe itself takes, and what it counts."""
    wanted = recipe.synthesis
    if recipe.data.path is not None or wanted is None:
        return "training.epochs", recipe.training.epochs, "epochs"
    if isinstance(wanted, PromptSynthesisConfig):
        return "synthesis.tokens", float(wanted.tokens), "tokens of text"
    kept = getattr(wanted, "kept", None)
    number = kept if kept is not None else getattr(wanted, "number", None)
    return f"synthesis.{'number' if kept is None else 'kept'}", float(number or 0), "conversations"
