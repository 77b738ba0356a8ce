"""Conversations as prompts with their answers, in files: what `ask_in_turn` says of each, however many there are."""

import json
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.data.asked import Asked, Followup, ask_in_turn, before_last
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.shelf import Opened, ReadOneByOne, Shelf, Shelving


class AskedChats(ReadOneByOne[Asked]):
    """What is learnt on a shelf, piece by piece, and all else of each conversation a line of a file: each is put together when
    it is asked for."""

    def __init__(self, pieces: Shelf, lines: Opened, places: NDArray[np.int64]) -> None:
        self.pieces, self._lines, self._places = pieces, lines, places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> Asked:
        """One conversation, from both."""
        (first, start), (last, end) = self._places[number - 1] if number else (0, 0), self._places[number]
        values = json.loads(self._lines.at(int(start), int(end - start)))
        return _read(values, tuple(self.pieces[int(first) : int(last)]))


def ask_chats_in_turn(conversations: Iterable[Conversation], reader: ChatReader, *, max_tokens: int) -> AskedChats:
    """Tokenise the conversations, each of which is read once. One with nothing to learn is left out, and counted."""
    pieces, lines, found, end = Shelving(), TemporaryFile(), bytearray(), 0  # noqa: SIM115 - `Opened` closes it
    for conversation, read in reader.each_learnt(conversations):
        asked = ask_in_turn(read, max_tokens=max_tokens)
        for piece in asked.answered:
            pieces.add(piece)
        end += lines.write(json.dumps([*_values(asked), before_last(conversation, read)]).encode())
        found += np.array((len(pieces), end), np.int64).tobytes()
    lines.flush()
    return AskedChats(pieces.shelf(), Opened(lines), np.frombuffer(found, np.int64).reshape(-1, 2))


def _values(asked: Asked) -> Iterator[Any]:
    """All but what is learnt, and the messages."""
    yield from (asked.prompt, asked.weights, asked.calls_tools, asked.behind, asked.reference)
    yield [(one.closing, one.prompt) for one in asked.followups]


def _read(values: list[Any], answered: tuple[Any, ...]) -> Asked:
    prompt, weights, calls_tools, behind, reference, followups, messages = values
    return Asked(
        tuple(prompt),
        answered,
        followups=tuple(Followup(tuple(closing), tuple(prompt)) for closing, prompt in followups),
        weights=tuple(weights),
        calls_tools=calls_tools,
        behind=tuple(behind),
        reference=tuple(reference),
        messages=tuple(messages),
    )
