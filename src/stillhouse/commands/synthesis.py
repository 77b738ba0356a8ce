"""Data from nothing: a recipe's `synthesis` as a program that asks its teacher, and what the data card says of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.parts import Parts
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.remote import remote_teacher
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import fingerprint_files, json_line, write_atomic
from stillhouse.core.progress import SILENT, Progress
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.load import display_name, load_tokenizer
from stillhouse.retrieval.embed import load_embedder
from stillhouse.synthesis import Written, converse, write_synthetic
from stillhouse.synthesis.choosing import Chosen, check_choice
from stillhouse.synthesis.config import (
    ContinueConfig,
    ConversationSynthesisConfig,
    GroundedConfig,
    QuestionsConfig,
    TeacherWriterConfig,
)
from stillhouse.synthesis.diversity import Embed, before_and_after
from stillhouse.synthesis.filters import NamedFilter, account_of, build_filters, run_filters
from stillhouse.synthesis.flow import PREFERENCES, SYNTHETIC, write_texts
from stillhouse.synthesis.licence import licence_of, said_about_outputs
from stillhouse.synthesis.records import Ask, Record, Source
from stillhouse.synthesis.rewards import Tools, reward_fingerprint
from stillhouse.synthesis.rounds import dried_up, until_kept
from stillhouse.synthesis.run import LEDGER, said_of_reasons
from stillhouse.teachers.remote import RemoteWriter
from stillhouse.teachers.remote_config import RemoteTeacherConfig, RemoteWriterConfig
from stillhouse.teachers.writer import LocalWriter, SpreadWriter, Writer

DataFreeConfig = ConversationSynthesisConfig | ContinueConfig
"""All ways but the templates of kind prompts."""

Asks = TypeVar("Asks", ConversationSynthesisConfig | ContinueConfig, GroundedConfig)


def check_synthesis(recipe: Recipe) -> None:
    """Find what is wrong with the files and models that are named and the teacher's chat template, before a weight is read.

    Raises:
        StillhouseError: naming the key of the recipe.
    """
    if not isinstance(recipe.synthesis, DataFreeConfig):
        return
    wanted = by_whom(recipe, recipe.synthesis)
    tokenizer = _tokenizer_of(recipe, wanted)
    wanted.source(tokenizer)
    build_filters(wanted.used_filters, tokenizer=tokenizer)
    if isinstance(wanted, ConversationSynthesisConfig):
        if tokenizer is not None:
            _check_template(tokenizer, wanted)
        elif wanted.turns and wanted.user.kind == "opening":
            raise ModelError(
                f"synthesis.user.kind is opening, but nobody knows the template of who writes. Name {tokenizer_key(recipe)}, "
                "or use "
                "kind played."
            )
        if wanted.choose is not None:
            check_choice(wanted.choose)


def by_whom(recipe: Recipe, wanted: Asks) -> Asks:
    """The same, with a teacher behind an API named as the one who writes, where no other is."""
    is_teachers = isinstance(recipe.teacher, RemoteTeacherConfig) and isinstance(wanted.writer, TeacherWriterConfig)
    return wanted.model_copy(update={"writer": recipe.teacher}) if is_teachers else wanted


def tokenizer_key(recipe: Recipe) -> str:
    """Where a recipe names the tokenizer of whoever writes behind an API."""
    own = isinstance(getattr(recipe.synthesis, "writer", None), RemoteWriterConfig)
    return "synthesis.writer.tokenizer" if own else "teacher.tokenizer"


def _tokenizer_of(recipe: Recipe, wanted: DataFreeConfig | GroundedConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of whoever writes; None where that is not known."""
    if not isinstance(wanted.writer, RemoteWriterConfig):
        return load_tokenizer(recipe.teacher.model)
    return load_tokenizer(wanted.writer.tokenizer) if wanted.writer.tokenizer else None


def _check_template(tokenizer: PreTrainedTokenizerBase, wanted: ConversationSynthesisConfig) -> None:
    if not tokenizer.chat_template:
        raise ModelError(
            f"synthesis of kind {wanted.kind} asks the teacher in conversations, and it has no chat template. Name a teacher "
            "that has one, or let it go on from texts with kind continue."
        )
    told = [{"role": "system", "content": "?"}] if wanted.answers.system or wanted.answers.trace == "explain" else []
    try:
        ChatTemplate(tokenizer).prompt([*told, {"role": "user", "content": "?"}])
    except DataError as error:
        hint = " Leave synthesis.answers.system out, and trace explain." if told else ""
        raise ModelError(f"synthesis.answers: {error}{hint}") from None


@contextmanager
def writing(
    parts: Parts, wanted: DataFreeConfig | GroundedConfig, *, ledger: str = f"data/{LEDGER}"
) -> Iterator[Writer]:
    """Who writes for as long as this lasts, and in which ledger of the run it is kept."""
    if isinstance(wanted.writer, RemoteWriterConfig):
        yield remote_writer(parts, wanted.writer, ledger=ledger)
        return
    about: dict[str, Any] = {
        "name": display_name(parts.recipe.teacher.model),
        "fingerprint": parts.teacher_fingerprint,
        "batch_size": wanted.batch_size,
    }
    if parts.cluster is None:
        yield LocalWriter(parts.voice, **about)
        return
    with parts.hands() as hands:
        yield SpreadWriter(hands, parts.teacher_tokenizer, **about)


def remote_writer(parts: Parts, wanted: RemoteWriterConfig, *, ledger: str = f"data/{LEDGER}") -> Writer:
    """Whoever writes behind an API."""
    if isinstance(wanted, RemoteTeacherConfig):
        return remote_teacher(wanted, parts.run, parts.progress, ledger=ledger)
    return RemoteWriter(wanted, say=parts.progress.say)


@dataclass
class Program:
    """What asks: the source, the answers to it, and what is kept of both; and what is to be told of that."""

    wanted: DataFreeConfig
    writer: Writer
    folder: Path
    number: int | None = None
    """In the place of the recipe's."""
    progress: Progress = SILENT
    chosen: Chosen = field(default_factory=lambda: Chosen([]))
    """What the choice came to, once it was made."""
    filters: list[NamedFilter] = field(init=False)
    embed: Embed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.filters = build_filters(self.wanted.used_filters, tokenizer=self.writer.tokenizer)
        # Now, for one that is not there should be missed before anything is written.
        if self.wanted.spread_by is not None:
            self.embed = load_embedder(self.wanted.spread_by).documents

    def __call__(self, ask: Ask) -> list[Record]:
        """All records, dropped ones with their reason, kept ones with the filters that they passed."""
        passed = {"filters": [one.name for one in self.filters]}
        wanted = self.wanted
        if wanted.kept is None or self.number is not None:
            records, questions = self._made(ask, wanted.source(self.writer.tokenizer, number=self.number))
            if questions < (self.number or number_of(wanted)):
                self.progress.say(dried_up(questions))
        else:
            records = until_kept(
                lambda sizes: self._made(ask, wanted.in_rounds(self.writer.tokenizer, sizes)),
                kept=wanted.kept,
                most=wanted.asked_at_most,
                progress=self.progress,
            )
        return [r if r.dropped else replace(r, lineage={**r.lineage, **passed}) for r in records]

    def _made(self, ask: Ask, source: Source) -> tuple[list[Record], int]:
        """All records, and of how many questions they are."""
        given = source(ask)
        return self._answered(ask, lambda _ask: given), len(given)

    def _answered(self, ask: Ask, source: Source) -> list[Record]:
        wanted, writer = self.wanted, self.writer
        clean = partial(run_filters, filters=self.filters)
        if not isinstance(wanted, ConversationSynthesisConfig):
            return write_texts(ask, source, writer=writer.name, clean=clean)
        return converse(
            ask,
            source,
            writer=writer.name,
            answers=wanted.answering(),
            tokenizer=writer.tokenizer,
            further=wanted.further(),
            clean=clean,
            choose=partial(self._choose, wanted, ask),
        )

    def _choose(self, wanted: ConversationSynthesisConfig, ask: Ask, records: Sequence[Record]) -> Sequence[Record]:
        if wanted.choose is None:
            return records
        tools = Tools(ask=ask, writer=self.writer, folder=self.folder, progress=self.progress)
        self.chosen = wanted.choose.build(tools)(records)
        if wanted.choose.kind == "pairs":
            write_atomic(self.folder / PREFERENCES, "".join(map(json_line, self.chosen.pairs)))
        return self.chosen.records

    def account(self, records: Sequence[Record]) -> dict[str, Any]:
        """What became of all records, and how varied they are, for the card."""
        kept = [record for record in records if not record.dropped]
        said = [record for record in records if record.question or record.text]
        found = account_of(records, self.filters)
        if kept:
            by = display_name(self.wanted.spread_by or "")
            found["diversity"] = before_and_after(_questions(said), _questions(kept), embed=self.embed, embed_name=by)
        return {**found, **({"reward": self.chosen.report} if self.chosen.report else {})}


def _questions(records: Sequence[Record]) -> list[Record]:
    """A record a question, however many answers it has."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        asked = next((m["content"] for m in record.messages if m["role"] == "user"), record.text)
        found.setdefault((str(record.lineage.get("seed")), asked), record)
    return list(found.values())


def number_of(wanted: DataFreeConfig) -> int:
    """How many questions there will be, or at most; of a file that is the lines it has, if it has not more."""
    if not isinstance(wanted, QuestionsConfig):
        return wanted.asked_at_most
    known = len(wanted.source(None, number=None)(_nobody))
    return known if wanted.kept is None else min(known, wanted.asked_at_most)


def _nobody(_requests: Sequence[Any], **_options: Any) -> list[Any]:
    raise AssertionError("questions that are known are not asked for")


def written_by(parts: Parts, wanted: DataFreeConfig | GroundedConfig) -> str:
    """The fingerprint of whoever writes, who is not loaded for it."""
    if isinstance(wanted.writer, RemoteWriterConfig):
        return remote_writer(parts, wanted.writer).fingerprint
    return parts.teacher_fingerprint


def made_from(parts: Parts, wanted: DataFreeConfig) -> list[Any]:
    """What the data depends on."""
    wanted = by_whom(parts.recipe, wanted)
    files = [
        file
        for path in wanted.sources
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    reward = getattr(getattr(wanted, "choose", None), "reward", None)
    scored_by = [] if reward is None else [reward_fingerprint(reward)]
    by = written_by(parts, wanted)
    settings = wanted.model_dump(mode="json", exclude={"writer"})  # a larger budget makes no other data
    return [by, settings, fingerprint_files(files), *scored_by]


def write_data(parts: Parts, wanted: DataFreeConfig, *, progress: Progress) -> dict[str, Any]:
    """The stage: all of it, and what a report says of it."""
    wanted = by_whom(parts.recipe, wanted)
    number = number_of(wanted) if wanted.kept is None else None
    with writing(parts, wanted) as writer:
        program = Program(wanted, writer, parts.run.data, progress=progress)
        made = write_synthetic(
            program,
            writer,
            folder=parts.run.data,
            about=about(parts.recipe.teacher.model, writer, wanted, number=number),
            finish=program.account,
            progress=progress,
        )
    for line in said_of(made):
        progress.say(line)
    progress.say(f"in {parts.run.data / SYNTHETIC}")
    return {"documents": made.kept, "tokens": None, "dropped": dict(made.dropped)}  # what all took is in the card


def about(model: str, writer: Writer, wanted: DataFreeConfig | GroundedConfig, *, number: int | None) -> dict[str, Any]:
    """Who writes, how it is drawn, where the questions come from, and the licence: the head of the card."""
    remote = wanted.writer if isinstance(wanted.writer, RemoteWriterConfig) else None
    licence = licence_of(model if remote is None else remote.tokenizer or "")
    unnamed = "not named in its files" if remote is None else "not known here: ask who runs the model"
    settings = wanted.model_dump(mode="json", exclude={"filters", "choose", "batch_size", "writer"})
    answers = settings.pop("answers", None)
    return {
        "written_by": {
            "model": writer.name,
            "fingerprint": writer.fingerprint,
            **({"at": remote.base_url} if remote else {}),
            "questions_drawn": settings.pop("sampling"),
            **({"answers_drawn": answers.pop("sampling"), "answers": answers} if answers else {}),
        },
        "source": {**settings, **({} if number is None else {"questions": number})},
        "licence": {
            "named": licence["licence"] or unnamed,
            "link": licence["link"],
            "about_training_on_its_outputs": said_about_outputs(licence),
        },
    }


def said_of(made: Written) -> list[str]:
    """What a user wants to know at the end."""
    card: Mapping[str, Any] = made.card
    cost = card.get("cost")
    money = f", cost {cost['money']:,.4f} {cost['currency']}".rstrip() if cost else ""
    lines = [f"{made.kept:,} kept of {len(made.records):,}; {card['tokens']:,} tokens written{money}"]
    if made.dropped:
        lines.append(f"dropped: {said_of_reasons(made.dropped)}")
    licence = card["licence"]
    return [*lines, f"the teacher's licence: {licence['named']}; {licence['about_training_on_its_outputs']}"]
