"""Let a teacher answer in whole conversations: every turn of the assistant anew, behind its own former ones."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import json_line, read_json, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.data.chat_forms import Conversation, as_row
from stillhouse.data.chat_template import ChatTemplate, Message
from stillhouse.models.generate import Continuation, Sampling, Speaker, sample, stop_ids_of
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.synthesis.records import Ask, asking, is_plain
from stillhouse.teachers.hands import Advance, Hands, OwnHands

Said = tuple[str, int, bool]
"""A text, its number of tokens, and whether it came to its end."""


@dataclass(frozen=True)
class HistoryOutcome:
    """What was written, and what was left as it was, by reason."""

    conversations: int
    turns: int
    tokens: int
    cut_off: int
    """Turns that a limit ended: their ends are not learnt."""
    kept: dict[str, int]


def rewrite(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    file: Path,
    max_tokens: int,
    sampling: Sampling,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = SILENT,
) -> HistoryOutcome:
    """Write `file`, a conversation a line in the order given: the turns of the assistant by the model, in order, those of all
    others as they were. What a turn counts for stays.

    A conversation is left as it was where tools answer in it, as they answer what was called; where its prompt and an answer
    would not fit in `max_tokens`; and where the model has nothing to say. What is drawn depends on the seed, on the
    conversation's place and on the turn. Batches are kept as they come: started again after a kill, it goes on behind the last
    whole one and ends with the same file, byte for byte.
    """
    return rewrite_by(
        OwnHands(model, tokenizer),
        conversations,
        file=file,
        max_tokens=max_tokens,
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


def rewrite_by(
    hands: Hands,
    conversations: Sequence[Conversation],
    *,
    file: Path,
    max_tokens: int,
    sampling: Sampling,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = SILENT,
) -> HistoryOutcome:
    """The same by whoever holds the model."""
    starts = range(0, len(conversations), batch_size)
    parts = {start: file.parent / "parts" / f"{file.stem}-{start:07d}.json" for start in starts}
    batches = {
        start: _Batch(start, conversations[start : start + batch_size])
        for start, part in parts.items()
        if not part.exists()
    }
    with working(progress, "the teacher answers", len(conversations), "conversations"):
        progress.advance(len(conversations) - sum(len(batch.conversations) for batch in batches.values()))
        for start, said in hands(partial(_write, max_tokens, sampling, seed), batches):
            write_atomic(parts[start], json.dumps(said, ensure_ascii=False))
            progress.advance(len(said))
    records = [
        record for part in parts.values() for record in read_json(part, mend="Remove it, and it is written again.")
    ]
    write_atomic(file, "".join(json_line(record["row"]) for record in records))
    return _outcome(records)


@dataclass(frozen=True)
class _Batch:
    """Conversations that are written together, and which of all the first of them is."""

    first: int
    conversations: Sequence[Conversation]


def _write(
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    batch: _Batch,
    _: Advance,
) -> list[dict[str, Any]]:
    author = _Local(model, tokenizer, max_tokens=max_tokens, sampling=sampling, seed=seed)
    return author.write(batch.conversations, first=batch.first)


def rewrite_asking(
    ask: Ask,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    file: Path,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
) -> HistoryOutcome:
    """The same by whoever is asked in words, as a teacher behind an API. What fits is counted in the student's tokens, and who
    asks keeps the replies. A conversation with tools, or with turns that are no plain text, is left as it was.

    Raises:
        StillhouseError: as the writer does.
    """
    author = _Asking(ask, tokenizer, max_tokens=max_tokens, sampling=sampling, seed=seed)
    records = author.write(conversations, first=0)
    write_atomic(file, "".join(json_line(record["row"]) for record in records))
    return _outcome(records)


def _outcome(records: Sequence[dict[str, Any]]) -> HistoryOutcome:
    turns, tokens, cut_off = (sum(record[name] for record in records) for name in ("turns", "tokens", "cut_off"))
    kept = Counter(record["kept"] for record in records if record["kept"])
    return HistoryOutcome(len(records), turns, tokens, cut_off, dict(kept))


class _Author:
    """Whoever answers in conversations, a turn of all of them at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, sampling: Sampling, seed: int) -> None:
        self.tokenizer, self.sampling, self.seed = tokenizer, sampling, seed
        self.template, self.max_tokens = ChatTemplate(tokenizer), max_tokens

    def write(self, conversations: Sequence[Conversation], *, first: int) -> list[dict[str, Any]]:
        """A record each: its row, and what was done with it."""
        dialogues = [_Dialogue(one) for one in conversations]
        for turn in itertools.count():
            prompts = {n: self._prompt(one) for n, one in enumerate(dialogues) if one.is_asking}
            asked = {number: ids for number, ids in prompts.items() if ids}
            if not asked:
                break
            said = self._say(dialogues, asked, turn=turn, first=first)
            for number, (text, num_tokens, finished) in zip(asked, said, strict=True):
                dialogues[number].take(text, num_tokens=num_tokens, finished=finished)
        return [one.record for one in dialogues]

    def _say(
        self, dialogues: Sequence["_Dialogue"], asked: Mapping[int, list[int]], *, turn: int, first: int
    ) -> list[Said]:
        """To each that is asked, by its number."""
        raise NotImplementedError

    def _prompt(self, dialogue: "_Dialogue") -> list[int]:
        """What the model reads where it is to answer next; nothing where the conversation is left as it was."""
        conversation = dialogue.conversation
        try:
            text = self.template.prompt(dialogue.messages, conversation.tools or None, where=conversation.where)
        except DataError:
            dialogue.kept = "turns before which the chat template has no place for an answer"
            return []
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) >= self.max_tokens:
            dialogue.kept = "no room for an answer in data.sequence_tokens"
            return []
        return ids


class _Local(_Author):
    """A model of this process."""

    def __init__(self, model: Speaker, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.model = model
        ends = end_of_turn(tokenizer)
        self.stop_ids = stop_ids_of(model) | ({ends} if isinstance(ends, int) else set())

    def _say(
        self, dialogues: Sequence["_Dialogue"], asked: Mapping[int, list[int]], *, turn: int, first: int
    ) -> list[Said]:
        said = sample(
            self.model,
            list(asked.values()),
            sampling=self.sampling,
            seed=f"{self.seed}, turn {turn}",
            numbers=[first + number for number in asked],
            stop_ids=self.stop_ids,
            vocab_size=len(self.tokenizer),
            max_tokens=self.max_tokens,
        )
        return [self._read(one) for one in said]

    def _read(self, said: Continuation) -> Said:
        finished = said.tokens[-1] in self.stop_ids
        text = str(self.tokenizer.decode(said.tokens[:-1] if finished else said.tokens))
        return text, len(said.tokens), finished


class _Asking(_Author):
    """Somebody who is asked in words."""

    def __init__(self, ask: Ask, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.ask = ask

    def _prompt(self, dialogue: "_Dialogue") -> list[int]:
        if dialogue.conversation.tools or not all(map(is_plain, dialogue.messages)):
            dialogue.kept = "tools, or turns that are no plain text, which an API is not asked with"
            return []
        return super()._prompt(dialogue)

    def _say(
        self, dialogues: Sequence["_Dialogue"], asked: Mapping[int, list[int]], *, turn: int, first: int
    ) -> list[Said]:
        requests = [
            asking(
                f"{self.seed}, turn {turn}, {first + number}",
                [{"role": m["role"], "content": m["content"]} for m in dialogues[number].messages],
                sampling=self._within(self.max_tokens - len(ids)),
            )
            for number, ids in asked.items()
        ]
        replies = self.ask(requests, title="the teacher answers in conversations")
        return [(reply.text, reply.tokens, reply.finished) for reply in replies]

    def _within(self, room: int) -> Sampling:
        most = min(self.sampling.max_new_tokens, room)
        return self.sampling.model_copy(update={"max_new_tokens": most})


class _Dialogue:
    """One conversation while its turns are written anew."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation, self.whole = conversation, conversation.messages
        self.kept = _reason_to_keep(conversation)
        self.messages: list[Message] = []
        self.unfinished: set[int] = set()
        self.num_tokens = self.num_turns = 0
        self._listen()

    @property
    def is_asking(self) -> bool:
        """Whether the assistant is to speak next."""
        return not self.kept and len(self.messages) < len(self.whole)

    def _listen(self) -> None:
        """Take what others say, up to where the assistant is to speak."""
        while len(self.messages) < len(self.whole) and self.whole[len(self.messages)]["role"] != "assistant":
            self.messages.append(self.whole[len(self.messages)])

    def take(self, text: str, *, num_tokens: int, finished: bool) -> None:
        """Take what the assistant says."""
        if not text.strip():
            self.kept = "an empty answer of the teacher"
            return
        if not finished:
            self.unfinished.add(len(self.messages))
        self.num_tokens, self.num_turns = self.num_tokens + num_tokens, self.num_turns + 1
        self.messages.append({"role": "assistant", "content": text})
        self._listen()

    @property
    def record(self) -> dict[str, Any]:
        """The row, and what was done with it."""
        if self.kept:
            return {"row": as_row(self.conversation), "turns": 0, "tokens": 0, "cut_off": 0, "kept": self.kept}
        row = as_row(self.conversation, messages=self.messages, unfinished=self.unfinished)
        return {
            "row": row,
            "turns": self.num_turns,
            "tokens": self.num_tokens,
            "cut_off": len(self.unfinished),
            "kept": "",
        }


def _reason_to_keep(conversation: Conversation) -> str:
    if conversation.segments:
        return "texts that are written out already"
    if any(message["role"] == "tool" or message.get("tool_calls") for message in conversation.messages):
        return "tool calls, whose answers belong to what was called"
    return "weight on parts of turns" if conversation.parts else ""
