"""`stillhouse chat`: teacher and student answer the same lines, side by side."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from stillhouse.commands.arena import VOTES, Arena
from stillhouse.commands.local_server import LATER, listen, serve
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.speakers import Parting, Speaker, Teller, Words, in_turn, partings
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.config import load_recipe, parse_recipe, read_recipe
from stillhouse.core.errors import DataError, ModelError, RunError, StillhouseError
from stillhouse.core.faults import nearest, said
from stillhouse.core.run import RunFolder
from stillhouse.data.chat_template import Owner
from stillhouse.models.generate import Sampling
from stillhouse.models.load import (
    check_serves,
    check_weights,
    display_name,
    load_causal_lm,
    load_config,
    vocabulary_fingerprint,
)
from stillhouse.reporting.formatting import clean, count, one_line, percent, significant
from stillhouse.teachers import RemoteTeacherConfig

COMMANDS = ("/diff", "/system", "/reset", "/help", "/quit")
HELP = """/diff          where the two part along the student's last answer; /diff teacher: along the teacher's
/system TEXT   give both this system prompt, and begin anew; without TEXT, none
/reset         begin anew
/quit          end; so does Ctrl-D. Ctrl-C stops an answer"""
PARTINGS_SHOWN = 12
FRAMES_PER_SECOND = 12
STYLES: Mapping[Owner, str] = {"teacher": "bold", "student": "bold dark_orange3"}


def chat(
    run: str | None,
    *,
    teacher: str | None = None,
    student: str | None = None,
    system: str = "",
    seed: int = 0,
    web: bool = False,
    port: int = 8472,
    votes: str | None = None,
    **sampling: Any,
) -> None:
    """Ask the teacher and the student of a run, or two models by name, whatever comes in, until it ends: here, or with
    `web` in a browser, where votes can be cast, which go to the file `votes`.

    Raises:
        StillhouseError: for a run without a student, models that write no text, or options that make no sense; where lines
            come from a pipe, also for a line that cannot be answered.
    """
    wanted = parse_recipe(Sampling, sampling, source="the command line")
    sources = _sources(run, teacher, student)
    for source in sources.values():
        check_weights(source)
        check_serves(load_config(source), "causal_lm", source=source)
    if web:
        listening = listen(LATER, port=port)  # before a model is loaded
        listening.server_close()
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    view = SideBySide(Console(highlight=False)) if is_terminal else Plain()
    speakers: list[Speaker] = []
    kind = Teller if _tells_stories(run) else Speaker
    for role, source in sources.items():
        print(f"loading the {role}, {display_name(source)}", file=sys.stderr)
        speakers.append(kind(role, load_causal_lm(source)))
    if web:
        file = Path(votes) if votes else (Path(run) if run else Path()) / VOTES
        arena = Arena(speakers, sampling=wanted, seed=seed, system=system, votes=file)
        serve(arena, port=port, what=f"teacher and student in a browser; votes go to {file}")
        return
    Talk(speakers, view, sampling=wanted, seed=seed, system=system).go_on(is_terminal=is_terminal)


def _sources(run: str | None, teacher: str | None, student: str | None) -> dict[Owner, str]:
    """The two models: those that are named, else the run's."""
    if teacher is not None and student is not None:
        return {"teacher": teacher, "student": student}
    if run is None:
        raise RunError("chat needs a run folder, or both --teacher and --student. Name one: stillhouse chat RUN")
    folder = RunFolder(Path(run))
    if not folder.recipe.is_file():
        raise RunError(f"{run!r} is no run folder: it has no recipe.yaml. Name another, or --teacher and --student.")
    recipe: Recipe | StoryRecipe = (
        load_recipe(StoryRecipe, folder.recipe) if _tells_stories(run) else load_recipe(Recipe, folder.recipe)
    )
    if isinstance(recipe, Recipe) and recipe.task != "causal_lm":
        raise ModelError(
            f"the student of {run!r} learns data of kind {recipe.data.kind!r} and writes no text. Name a run whose data is of "
            "kind chat, text or stories."
        )
    if student is None and not folder.student.is_dir():
        raise RunError(f"{run!r} has no student yet. First: stillhouse train {folder.recipe}")
    if teacher is None and isinstance(recipe.teacher, RemoteTeacherConfig):
        raise ModelError(
            f"the teacher of {run!r} is behind an API, and chat shows models of this machine. Name one for the student to "
            "answer "
            f"beside, such as what it was before training: --teacher {folder.path / 'student_before'}"
        )
    return {"teacher": teacher or recipe.teacher.model, "student": student or str(folder.student)}


def _tells_stories(run: str | None) -> bool:
    """Whether it is of kind stories, whose student goes on from what it is given."""
    file = None if run is None else RunFolder(Path(run)).recipe
    return file is not None and file.is_file() and is_of_stories(read_recipe(file))


class Talk:
    """A conversation with two sides, each of which remembers its own answers."""

    def __init__(
        self, speakers: Sequence[Speaker], view: "Plain | SideBySide", *, sampling: Sampling, seed: int, system: str
    ) -> None:
        self.speakers, self.view, self.sampling, self.seed = speakers, view, sampling, seed
        self.num_turns = 0
        self._begin(system)
        for speaker in speakers:
            if speaker.template is None:
                view.say(f"the {speaker.role} {speaker.why_alone}: it goes on from each line alone")

    def go_on(self, *, is_terminal: bool) -> None:
        """Answer until there is nothing more to answer. In a terminal, a line that cannot be answered is no end."""
        if is_terminal:
            self.view.say("/help says what else there is")
        lines = _typed() if is_terminal else _piped()
        for line in lines:
            try:
                if not self.answer(line):
                    break
            except KeyboardInterrupt:
                self.view.say("stopped")
            except StillhouseError as error:
                if not is_terminal:
                    raise
                self.view.say(str(error))

    def answer(self, line: str) -> bool:
        """Do what a line says, or ask it; False where it says to end."""
        name, _, rest = line.partition(" ")
        match name:
            case "/quit":
                return False
            case "/help":
                self.view.say(HELP)
            case "/reset":
                self._begin(self.system)
            case "/system":
                self._begin(rest.strip())
            case "/diff":
                self._show_partings(rest.strip() or "student")
            case _ if name.startswith("/"):
                raise DataError(f"there is no command {name!r}.{nearest(name, COMMANDS)}")
            case _:
                self._ask(line)
        return True

    def _begin(self, system: str) -> None:
        mute = [speaker.role for speaker in self.speakers if speaker.template is None]
        if system and mute:
            raise DataError(
                f"the {mute[0]} goes on from each line alone, so it can be given no system prompt. Leave it out."
            )
        self.system = system
        for speaker in self.speakers:
            speaker.forget(system=system)

    def _ask(self, question: str) -> None:
        prompts = [speaker.prompt(question) for speaker in self.speakers]  # all of them before anyone speaks
        self.num_turns += 1
        seed = f"{self.seed}, turn {self.num_turns}"
        voices = [
            speaker.speak(prompt, sampling=self.sampling, seed=seed)
            for speaker, prompt in zip(self.speakers, prompts, strict=True)
        ]
        self.view.exchange(question, self.speakers, in_turn(voices))
        for speaker in self.speakers:
            speaker.remember(question)

    def _show_partings(self, role: str) -> None:
        teacher, student = self.speakers
        spoken = {speaker.role: speaker for speaker in self.speakers}
        if role not in spoken:
            raise DataError(f"/diff {role}: whose answer is that?{nearest(role, list(spoken))}")
        if vocabulary_fingerprint(teacher.tokenizer) != vocabulary_fingerprint(student.tokenizer):
            raise DataError(
                "teacher and student read a text in other tokens, so /diff cannot compare them token by token."
            )
        along = next(speaker for speaker in self.speakers if speaker.role == role)
        if not along.said:
            raise DataError("/diff: nothing is said yet. Ask something first.")
        found = partings(
            teacher.model,
            student.model,
            along.asked,
            along.said,
            vocab_size=min(len(teacher.tokenizer), len(student.tokenizer)),
        )
        self.view.show_partings(along, found)


def _typed() -> Iterator[str]:
    """Lines from a keyboard, with what is usual for editing them where there is it."""
    with suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ").strip()
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        if line:
            yield line


def _piped() -> Iterator[str]:
    yield from (line.strip() for line in sys.stdin if line.strip())


def _account(speaker: Speaker) -> str:
    """How much was said, how fast, and why it ended."""
    number = len(speaker.said)
    speed = f", {significant(number / speaker.seconds)} tokens/s" if speaker.seconds > 0 and number else ""
    return f"{count(number)} tokens{speed}" + ("" if speaker.is_finished else ", cut off")


@dataclass(frozen=True)
class _Row:
    """A parting in words."""

    behind: str
    teachers: str
    students: str


def _rows(found: Sequence[Parting], tokenizer: PreTrainedTokenizerBase) -> list[_Row]:
    def choice(token: int, teacher: float, student: float) -> str:
        return f"{said(clean(str(tokenizer.decode([token]))))} (teacher {percent(teacher, 1)}, student {percent(student, 1)})"

    return [
        _Row(
            one_line(str(tokenizer.decode(list(parting.before)))),
            choice(parting.teachers.token, parting.teachers.teacher, parting.teachers.student),
            choice(parting.students.token, parting.students.teacher, parting.students.student),
        )
        for parting in found[:PARTINGS_SHOWN]
    ]


def _headline(along: Speaker, found: Sequence[Parting]) -> str:
    where = f"along the {along.role}'s answer of {count(len(along.said))} tokens"
    if not found:
        return f"teacher and student would say the same {where}"
    more = f", of which the first {PARTINGS_SHOWN}" if len(found) > PARTINGS_SHOWN else ""
    return f"they part at {count(len(found))} tokens {where}{more}:"


class Plain:
    """Plain lines, for pipes."""

    def say(self, text: str) -> None:
        print(clean(text), flush=True)

    def exchange(self, question: str, speakers: Sequence[Speaker], words: Words) -> None:
        """The question, and both answers when they are whole or stopped."""
        self.say(f"> {question}")
        with closing(words), suppress(KeyboardInterrupt):
            for _ in words:
                pass
        for speaker in speakers:
            self.say(f"[{speaker.role}] {_account(speaker)}\n{speaker.text}")

    def show_partings(self, along: Speaker, found: Sequence[Parting]) -> None:
        self.say(_headline(along, found))
        for row in _rows(found, along.tokenizer):
            self.say(f"...{row.behind} | teacher {row.teachers} | student {row.students}")


class SideBySide:
    """Two columns that grow as the answers come."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(Text(clean(text), style="dim"))

    def exchange(self, question: str, speakers: Sequence[Speaker], words: Words) -> None:
        """Both answers while they come; they stay when they are whole, or stopped."""
        lines = max(1, self.console.height - 4)
        with closing(words), Live(console=self.console, auto_refresh=False, transient=True) as live:
            frames = _Frames(lambda: live.update(self._columns(speakers, lines), refresh=True))
            with suppress(KeyboardInterrupt):
                for _ in words:
                    frames.maybe()
        self.console.print(self._columns(speakers))

    def _columns(self, speakers: Sequence[Speaker], lines: int | None = None) -> Table:
        """Who says what; only the last lines, where an answer is still under way and longer than the screen."""
        table = Table.grid(expand=True, padding=(0, 2, 0, 0))
        width = self.console.width // len(speakers) - 2
        cells = []
        for speaker in speakers:
            table.add_column(ratio=1)
            wrapped = Text(clean(speaker.text)).wrap(self.console, width)
            shown = wrapped if lines is None else wrapped[-lines:]
            cells.append(Text("\n").join(shown))
        table.add_row(*(Text(f"{s.role}  {one_line(s.name)}", style=STYLES[s.role], no_wrap=True) for s in speakers))
        table.add_row(*cells)
        table.add_row(*(Text(_account(speaker), style="dim") for speaker in speakers))
        return table

    def show_partings(self, along: Speaker, found: Sequence[Parting]) -> None:
        self.console.print(Text(_headline(along, found)))
        table = Table(box=None, pad_edge=False)
        for heading, justify in (("behind", "right"), ("the teacher goes on", "left"), ("the student goes on", "left")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for row in _rows(found, along.tokenizer):
            table.add_row(Text(row.behind, style="dim"), Text(row.teachers), Text(row.students))
        if found:
            self.console.print(table)


class _Frames:
    """Draws seldom enough not to cost what it shows."""

    def __init__(self, draw: Callable[[], None]) -> None:
        self._draw, self._last_seconds = draw, 0.0

    def maybe(self) -> None:
        now = time.monotonic()
        if now - self._last_seconds >= 1 / FRAMES_PER_SECOND:
            self._last_seconds = now
            self._draw()
