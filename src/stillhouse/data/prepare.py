"""The front door: from what a recipe says about the data to the rows that a task trains on and is judged by."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import counting
from stillhouse.core.task import Task
from stillhouse.data.asked import Asked, KeptAsked, ask_chat, ask_to_go_on, keep_asked, packed
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import Conversation, FileCounts, each_conversation
from stillhouse.data.config import (
    ChatDataConfig,
    ClassificationDataConfig,
    DataConfig,
    LabelledDataConfig,
    MaskedTextDataConfig,
    PreferencesDataConfig,
    RagDataConfig,
    RegressionDataConfig,
    ReplayConfig,
    RewardsDataConfig,
    SentencesDataConfig,
    TagsDataConfig,
    TeacherContextConfig,
    TextDataConfig,
)
from stillhouse.data.context import ContextReader, ContextRows, Views, read_style, views_of
from stillhouse.data.examples import Example
from stillhouse.data.heard import Heard, ask_conversations, ask_texts
from stillhouse.data.kept import keep
from stillhouse.data.labelled import LabelledRow, each_labelled, label_ids, label_names, labelled_rows
from stillhouse.data.masking import FixedMaskRows, MaskedRows, masked_pieces, masking_for
from stillhouse.data.paired import Pair, PairedRows, share_compared
from stillhouse.data.paired_text import PairedChatReader, PairedTextReader
from stillhouse.data.preference_forms import Preference, each_preference
from stillhouse.data.preferences import PreferenceReader, PreferenceRows
from stillhouse.data.rewards import RewardReader, RewardRows, form_of
from stillhouse.data.rowset import RowSet
from stillhouse.data.sampling import rows_beside
from stillhouse.data.sentences import ScoredPairs, Sentence, each_sentence, read_pairs, scored_pairs, sentence_rows
from stillhouse.data.split import (
    DOCUMENTS_HINT,
    AnyRow,
    Known,
    Side,
    Texts,
    sides_given,
    sides_held_out,
)
from stillhouse.data.tables import each_record, split_documents
from stillhouse.data.tags import TaggedRow, each_tagged, tagged_rows
from stillhouse.data.text import Row, each_row, to_example
from stillhouse.models.load import pad_id_of

HELD_OUT_ANSWERS = "held_out.jsonl"
"""Beside the conversations to train on, where kind rag writes those that nobody does."""

_HELD_OUT_SEED = 0
"""Students of every seed are judged by the same masks."""


@dataclass(frozen=True)
class Prepared:
    """Rows to train on, rows that nobody trains on, and what their answers are called."""

    task: Task
    train: RowSet
    held_out: RowSet
    num_train_documents: int
    """Rows as the files have them, each once; of long texts the row sets may hold several pieces."""
    num_held_out_documents: int
    held_out_documents: Sequence[int] = ()
    """To which document each held-out row belongs, where long ones were cut; empty where every row is one."""
    labels: tuple[str, ...] = ()
    """Names of classes or tags, in the order of their numbers; empty where the answer is none of several."""
    asked: Sequence[Asked] = ()
    """For text and conversations: the rows to train on as prompts, with their answers."""
    held_out_asked: Sequence[Asked] = ()
    """The same of those held out, where teacher and student read the same tokens."""
    context: "HeldOutContext | None" = None
    """What is held out where the teacher reads more than the student."""
    pairs: tuple[ScoredPairs, ...] = ()
    """For sentences: sets of pairs to judge by."""
    notes: tuple[str, ...] = ()
    """What was found in the files that a user may want to know, a line each."""


@dataclass(frozen=True)
class HeldOutContext:
    """What tells whether a student has learnt a context: held-out documents under each of its styles, and unrelated ones."""

    styles: tuple[str, ...]
    views: Sequence[Views]
    elsewhere: tuple[Example, ...] = ()
    """Held-out conversations about other things; empty where there is no replay."""


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    path: Path | None = None,
    seed: int = 0,
    answers: Sequence[str] = (),
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    answer_tokens: int = 0,
    rewritten: Path | None = None,
) -> Prepared:
    """Read, split and tokenise what `config` names; `path` takes the place of its own, as where text was synthesised. With a
    `teacher_tokenizer`, texts and conversations become `PairedRows`: the `tokenizer` is then the student's own. Behind a
    context of the teacher's there is room for answers of `answer_tokens`, which are yet to be written. Conversations that were
    `rewritten` take the place of those to train on.

    Only masks depend on the seed. Classes and tags are numbered as among the `answers`, a model's own, if all are there; else
    in the order of their names.

    Raises:
        DataError: for a file that is missing, empty or wrong, naming the line, and where too little is left on a side.
        ModelError: if the tokenizer cannot serve the task.
    """
    path = path or config.path
    if isinstance(config, RagDataConfig) and path is not None:
        # Questions were answered, and written where both sides lie beside each other.
        config = config.model_copy(update={"held_out_path": path.with_name(HELD_OUT_ANSWERS)})
    if path is None:
        raise DataError("data.path is not given. Name a file or a folder.")
    match config:
        case TextDataConfig():
            if teacher_tokenizer is not None:
                return _paired_text(config, tokenizer, teacher_tokenizer, path)
            return _text(config, tokenizer, path)
        case ChatDataConfig():
            if teacher_tokenizer is not None:
                return _paired_chat(config, tokenizer, teacher_tokenizer, chat_sides(config, path, rewritten=rewritten))
            if config.teacher_context is not None:
                return _chat_in_context(config, config.teacher_context, tokenizer, path, answer_tokens)
            return _chat(config, tokenizer, chat_sides(config, path, rewritten=rewritten))
        case RewardsDataConfig():
            return _rewards(config, tokenizer, path)
        case PreferencesDataConfig():
            return _preferences(config, tokenizer, path)
        case MaskedTextDataConfig():
            return _masked_text(config, tokenizer, path, seed)
        case ClassificationDataConfig():
            return _classification(config, tokenizer, path, answers)
        case RegressionDataConfig():
            return _regression(config, tokenizer, path)
        case TagsDataConfig():
            return _tags(config, tokenizer, path, answers)
        case SentencesDataConfig():
            return _sentences(config, tokenizer, path)


def _two_sides(
    config: DataConfig,
    path: Path,
    each: Callable[..., Iterator[AnyRow]],
    *,
    spread_over: Callable[[AnyRow], Any] | None = None,
) -> tuple[Side[AnyRow], Side[AnyRow]]:
    """Rows to train on and rows held out, which share no text; they are read one after the other, whenever a side is gone
    through."""
    read = partial(each, path)
    if config.judges_all:
        alone = Side(read, Known(read()).is_first)
        return alone, alone
    if config.held_out_path is None:
        hint = DOCUMENTS_HINT if config.kind in ("text", "masked_text") else ""
        return sides_held_out(read, share=config.held_out, spread_over=spread_over, hint=hint)
    key = "data.held_out_path"
    return sides_given(read, partial(each, config.held_out_path, key=key), key=key)


def _labelled_sides(config: LabelledDataConfig, path: Path) -> tuple[Side[LabelledRow], Side[LabelledRow]]:
    """Spread over the labels: where they come in turn, every tenth row of a file might be of one class."""
    return _two_sides(config, path, partial(each_labelled, config=config), spread_over=lambda row: row.label)


def _text(config: TextDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Prepared:
    def asked(rows: Side[Row]) -> KeptAsked:
        each = ((row, to_example(row, tokenizer)) for row in rows)
        found = keep_asked(ask_to_go_on(*one, max_tokens=config.sequence_tokens) for one in each)
        if not found:
            start = next(iter(rows)).text[:20]
            raise DataError(
                f"the texts, such as {start!r}, are too short to predict anything. Give longer ones, or more."
            )
        return found

    train, held_out = _two_sides(config, path, each_row)
    told, judged = asked(train), asked(held_out)
    rows, held = (packed(side, row_tokens=config.sequence_tokens) for side in (told, judged))
    return Prepared(config.task, rows, held, len(train), len(held_out), asked=told, held_out_asked=judged)


ChatSides = tuple[Side[Conversation], Side[Conversation]]


def chat_sides(
    config: ChatDataConfig, path: Path, *, rewritten: Path | None = None, notes: Sequence[str] = ()
) -> ChatSides:
    """Conversations to train on and conversations held out, with these columns as notes; those that were rewritten are only
    trained on."""
    train, held_out = _two_sides(config, path, partial(each_conversation, notes=notes))
    if rewritten is None:
        return train, held_out
    anew, _ = sides_given(partial(each_conversation, rewritten), lambda: held_out, key="history")
    return anew, held_out


def _chat(config: ChatDataConfig, tokenizer: PreTrainedTokenizerBase, both: ChatSides) -> Prepared:
    has_messages = any(not one.segments for side in both for one in side)
    reader = ChatReader(tokenizer, weight=config.weight, thinking=config.thinking, needs_template=has_messages)
    files = FileCounts()

    def asked(rows: Side[Conversation], side: str) -> KeptAsked:
        before = reader.dropped.copy()
        each = reader.each_learnt(map(files.count, rows))
        found = keep_asked(ask_chat(*one, max_tokens=config.sequence_tokens) for one in each)
        if not found:
            why = "; ".join(f"{count:,} have {reason}" for reason, count in (reader.dropped - before).items())
            raise DataError(
                f"none of the {len(rows):,} conversations {side} has a token to learn: {why}. Mend data.path."
            )
        return found

    told, judged = asked(both[0], "to train on"), asked(both[1], "held out")
    rows, held = (packed(side, row_tokens=config.sequence_tokens) for side in (told, judged))
    notes = (*files.notes, *_left_out(reader))
    counts = len(both[0]), len(both[1])
    return Prepared(config.task, rows, held, *counts, notes=notes, asked=told, held_out_asked=judged)


def _chat_in_context(
    config: ChatDataConfig,
    wanted: TeacherContextConfig,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    answer_tokens: int,
) -> Prepared:
    reader, judging = (
        _context_reader(config, wanted, tokenizer) for _ in range(2)
    )  # what is judged twice is counted once
    train, held_out = chat_sides(config, path, notes=reader.columns)
    others, elsewhere = _replayed(config, wanted.replay, Texts(chain(train, held_out)))
    files = FileCounts()
    told = keep(
        reader.asked(map(files.count, train), rows=wanted.rows, seed=wanted.seed, answer_tokens=answer_tokens), of=Asked
    )
    judged = keep(reader.asked(map(files.count, held_out), rows="one", seed=wanted.seed), of=Asked)
    _refuse_to_tell_nothing(reader, told, judged, (len(train), len(held_out)))
    drawn = _drawn(keep(reader.alike(map(files.count, others)), of=Asked), len(told), wanted)
    asked = keep(chain(told, drawn), of=Asked)
    context = HeldOutContext(
        tuple(style.name for style in reader.styles),
        keep(views_of(judging.asked(held_out, rows="all", seed=wanted.seed)), of=Views),
        tuple(view.student for view in views_of(judging.alike(map(files.count, elsewhere)))),
    )
    views = (keep(views_of(side), of=Views) for side in (asked, judged))
    learnt, held = (ContextRows(side, row_tokens=config.sequence_tokens) for side in views)
    counts = len(train) + len(asked) - len(told), len(held_out)
    notes = (*files.notes, *_left_out(reader.reader), *_notes_in_context(reader, asked, context))
    return Prepared(config.task, learnt, held, *counts, notes=notes, asked=asked, context=context)


def _context_reader(
    config: ChatDataConfig, wanted: TeacherContextConfig, tokenizer: PreTrainedTokenizerBase
) -> ContextReader:
    styles = [read_style(style, number=number) for number, style in enumerate(wanted.styles)]
    chats = ChatReader(tokenizer, weight=config.weight, thinking=config.thinking)
    return ContextReader(chats, styles, max_tokens=config.sequence_tokens)


def _refuse_to_tell_nothing(
    reader: ContextReader, told: Sequence[Asked], judged: Sequence[Asked], counts: tuple[int, int]
) -> None:
    if told and judged:
        return
    reasons = reader.reader.dropped + reader.left_out
    why = "; ".join(f"{count:,} have {reason}" for reason, count in reasons.items())
    raise DataError(
        f"of {counts[0]:,} conversations to train on and {counts[1]:,} held out, {len(told):,} and {len(judged):,} can be "
        f"shown to the teacher in its context: {why}. Raise data.sequence_tokens, or mend data.path."
    )


def _notes_in_context(reader: ContextReader, asked: Sequence[Asked], held_out: HeldOutContext) -> list[str]:
    """What could not be shown, how many rows are replayed, and how much more the teacher reads."""
    notes = [f"left out: {count:,} with {reason}" for reason, count in reader.left_out.items()]
    num_told = sum(one.told is not None and one.told.style is not None for one in asked)
    if num_told < len(asked):
        notes.append(f"replayed without context: {len(asked) - num_told:,} rows beside {num_told:,} with one")
    for number, name in enumerate(held_out.styles):
        more = [len(view.teacher.ids) - len(view.student.ids) for view in held_out.views if view.style == number]
        notes.append(f"style {name}: the teacher reads {sum(more) / max(1, len(more)):,.1f} tokens more a prompt")
    return notes


def _replayed(
    config: ChatDataConfig, replay: ReplayConfig | None, taken: "Texts"
) -> tuple[Iterable[Conversation], Iterable[Conversation]]:
    """Conversations about other things, to train on and held out; what is learnt or judged with the context is none."""
    if replay is None:
        return (), ()
    key, path = "data.teacher_context.replay.path", replay.path

    def read() -> Iterator[Conversation]:
        return (one for one in each_conversation(path, key=key) if one.text not in taken)

    return sides_held_out(read, share=config.held_out, hint=f", in {key}")


def _drawn(rows: Sequence[Asked], num_told: int, wanted: TeacherContextConfig) -> Iterator[Asked]:
    """So many of the rows, drawn by the seed, that they are the share of all that is asked for."""
    share = wanted.replay.share if wanted.replay else 0.0
    needed = rows_beside(num_told, share)
    if needed > len(rows):
        raise DataError(
            f"data.teacher_context.replay.share is {share:g}: beside {num_told:,} rows that is {needed:,}, but its path "
            f"has {len(rows):,} to train on. Give more, or lower the share."
        )
    return (rows[number] for number in sorted(Random(wanted.seed).sample(range(len(rows)), needed)))


def _left_out(reader: ChatReader | PairedChatReader) -> Iterator[str]:
    return (f"left out: {count:,} with {reason}" for reason, count in reader.dropped.items())


def _paired_text(
    config: TextDataConfig, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, path: Path
) -> Prepared:
    reader = PairedTextReader(tokenizer, teacher, max_tokens=config.sequence_tokens)
    train, held_out = _two_sides(config, path, each_row)
    judged = keep(reader.each_pair(held_out), of=Pair)
    return _paired(config, ask_texts(reader, train), judged, (len(train), len(held_out)))


def _paired_chat(
    config: ChatDataConfig, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, both: ChatSides
) -> Prepared:
    reader = PairedChatReader(
        tokenizer, teacher, max_tokens=config.sequence_tokens, weight=config.weight, thinking=config.thinking
    )
    train, held_out = both
    files = FileCounts()
    asked = ask_conversations(reader, map(files.count, train))
    judged = keep(reader.each_pair(map(files.count, held_out)), of=Pair)
    notes = [*files.notes, *_left_out(reader)]
    if reader.turns_apart:
        notes.append(
            f"{reader.turns_apart:,} turns are written differently by the two chat templates: what compares with the teacher "
            "leaves them out"
        )
    return _paired(config, asked, judged, (len(train), len(held_out)), notes)


def _paired(
    config: TextDataConfig | ChatDataConfig,
    train: Heard,
    held_out: Sequence[Pair],
    counts: tuple[int, int],
    notes: Sequence[str] = (),
) -> Prepared:
    """Rows of pairs; those to train on have something that can be compared."""
    if not train or not held_out:
        raise DataError(
            f"of {sum(counts):,} documents there is none in which both tokenizers cut anything to learn at the same "
            "place. Give other ones, or raise data.sequence_tokens."
        )
    compared, alone = share_compared(train.pairs)
    said = f"teacher and student compare {compared:.0%} of the student's tokens, {alone:.0%} one to one"
    learnt, judged = (PairedRows(pairs, row_tokens=config.sequence_tokens) for pairs in (train.pairs, held_out))
    return Prepared(config.task, learnt, judged, *counts, notes=(*notes, said), asked=train)


def _pairs(
    config: PreferencesDataConfig, path: Path, reader: PreferenceReader | RewardReader
) -> tuple[tuple[int, int], tuple[Sequence[Any], Sequence[Any]], tuple[str, ...]]:
    """How many pairs either side has, those of them that can be read, and why the others were left out."""
    of_file: dict[str, Counter[str]] = {}

    def each(path: Path, key: str = "data.path") -> Iterator[Preference]:
        left = of_file.setdefault(key, Counter())
        return each_preference(path, key=key, reads=config.reads, against=config.against, seed=config.seed, left=left)

    train, held_out = _two_sides(config, path, each)
    counts, sides = (len(train), len(held_out)), (reader.pairs(train), reader.pairs(held_out))
    left = sum([*of_file.values(), reader.dropped], Counter[str]())
    if not all(sides):
        why = "; ".join(f"{count:,} have {reason}" for reason, count in left.items())
        raise DataError(
            f"of {counts[0]:,} pairs to train on and {counts[1]:,} held out, {len(sides[0]):,} and {len(sides[1]):,} can "
            f"be read: {why}. Raise data.sequence_tokens, or give more pairs."
        )
    return counts, sides, tuple(f"left out: {count:,} with {reason}" for reason, count in left.items())


def _preferences(config: PreferencesDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Prepared:
    """Pairs of answers; those to the same prompt are on one side."""
    reader = PreferenceReader(tokenizer, max_tokens=config.sequence_tokens, needs_template=config.reads == "chat")
    counts, sides, notes = _pairs(config, path, reader)
    learnt, judged = (PreferenceRows(side) for side in sides)
    return Prepared(config.task, learnt, judged, *counts, notes=notes)


def _rewards(config: RewardsDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Prepared:
    """Pairs of answers for reward models; those to the same prompt are on one side."""
    form = form_of(tokenizer, config.form, source="teacher.model", key="data.form")
    reader = RewardReader(tokenizer, max_tokens=config.sequence_tokens, form=form)
    counts, sides, notes = _pairs(config, path, reader)
    learnt, judged = (RewardRows(side, pad_id=pad_id_of(tokenizer)) for side in sides)
    return Prepared(
        config.task,
        learnt,
        judged,
        *counts,
        held_out_documents=judged.prompt_numbers,
        labels=("first", "second"),
        notes=notes,
    )


def _masked_text(config: MaskedTextDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path, seed: int) -> Prepared:
    def each(path: Path, key: str = "data.path") -> Iterator[Row]:
        records = each_record(path, key=key, text_column=config.text, splitter=split_documents)
        return (Row(record.text(config.text, key="data.text")) for record in records)

    def pieces(rows: Iterable[Row]) -> tuple[Sequence[tuple[int, ...]], Sequence[int]]:
        return masked_pieces((row.text for row in rows), tokenizer, max_tokens=config.sequence_tokens)

    train, held_out = _two_sides(config, path, each)
    (train_ids, _), (held_out_ids, documents) = pieces(train), pieces(held_out)
    masking = masking_for(tokenizer, train_ids, share=config.mask_share, rarity_smoothing=config.rarity_smoothing)
    pad_id = pad_id_of(tokenizer)
    return Prepared(
        config.task,
        MaskedRows(train_ids, pad_id=pad_id, masking=masking, seed=seed),
        FixedMaskRows(held_out_ids, pad_id=pad_id, masking=masking, seed=_HELD_OUT_SEED),
        len(train),
        len(held_out),
        held_out_documents=documents,
    )


def _classification(
    config: ClassificationDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path, answers: Sequence[str]
) -> Prepared:
    train, held_out = _labelled_sides(config, path)
    names = label_names((str(row.label) for row in train), answers=answers)

    def rows_of(rows: Side[LabelledRow]) -> RowSet:
        labels = counting(label_ids((str(row.label) for row in rows), names), np.int64)
        return labelled_rows(rows, tokenizer, labels, max_tokens=config.sequence_tokens)

    return Prepared(config.task, rows_of(train), rows_of(held_out), len(train), len(held_out), labels=names)


def _regression(config: RegressionDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Prepared:
    def rows_of(rows: Side[LabelledRow]) -> RowSet:
        numbers = counting((row.label for row in rows), np.float32)
        return labelled_rows(rows, tokenizer, numbers, max_tokens=config.sequence_tokens)

    train, held_out = _labelled_sides(config, path)
    return Prepared(config.task, rows_of(train), rows_of(held_out), len(train), len(held_out))


def _tags(config: TagsDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path, answers: Sequence[str]) -> Prepared:
    def rows_of(rows: Side[TaggedRow]) -> RowSet:
        return tagged_rows(rows, tokenizer, names, max_tokens=config.sequence_tokens)

    train, held_out = _two_sides(config, path, partial(each_tagged, config=config))
    names = label_names((tag for row in train for tag in row.tags), answers=answers)
    return Prepared(config.task, rows_of(train), rows_of(held_out), len(train), len(held_out), labels=names)


def _sentences(config: SentencesDataConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Prepared:
    max_tokens = config.sequence_tokens
    train, held_out = _two_sides(config, path, partial(each_sentence, config=config))
    found = read_pairs(config)
    judged = Texts(Sentence(text) for pairs in found.values() for pair in pairs for text in (pair.first, pair.second))
    if not config.judges_all:
        train = train.without(judged, key="data.pairs_path")
    return Prepared(
        config.task,
        sentence_rows((row.text for row in train), tokenizer, max_tokens=max_tokens),
        sentence_rows((row.text for row in held_out), tokenizer, max_tokens=max_tokens),
        len(train),
        len(held_out),
        pairs=tuple(scored_pairs(name, pairs, tokenizer, max_tokens=max_tokens) for name, pairs in found.items()),
    )
