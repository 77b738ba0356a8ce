"""Conversations to examples: the tokens of the text that the template writes, and which of them a model would write itself."""

import copy
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.chat_template import CUT, ChatTemplate, Owner, Span, Turn, Written, any_special
from stillhouse.data.examples import Example
from stillhouse.data.rowset import refuse_slow

ChatWeight = Literal["assistant", "last"]


@dataclass(frozen=True)
class ReadTurn:
    """A turn of the assistant that is learnt, in tokens."""

    said: str
    """Its text, without its end."""
    tokens: tuple[int, ...]
    """Which of the conversation's tokens say it, by their places among all."""
    characters: tuple[Span, ...]
    """The characters of what is said that each of them stands for."""
    closing: tuple[int, ...]
    """Which tokens end the turn."""
    weight: float = 1.0
    """What each of them counts for."""
    parts: tuple[Span, ...] | None = None
    """The characters of what is said that are learnt, where these are not all."""
    is_finished: bool = True
    """False where a limit cut it off: its end is not learnt."""
    message: int = 0
    """Which of the conversation's messages it is."""

    @property
    def unlearnt(self) -> list[int]:
        """The tokens that count for nothing all the same: what is not learnt as a whole is not learnt."""
        ends = [] if self.is_finished else list(self.closing)
        if self.parts is None:
            return ends
        inside = [any(start <= begin and end <= stop for start, stop in self.parts) for begin, end in self.characters]
        return [*(token for token, is_in in zip(self.tokens, inside, strict=True) if not is_in), *ends]

    @property
    def num_bytes(self) -> int:
        """Bytes of what is said and learnt; an end of turn is a token to predict and no byte."""
        parts = [(0, len(self.said))] if self.parts is None else self.parts
        return sum(len(self.said[start:stop].encode()) for start, stop in parts)


@dataclass(frozen=True)
class ReadConversation:
    """A conversation in tokens, and where in them its turns are that are learnt."""

    example: Example
    turns: tuple[ReadTurn, ...]
    calls_tools: bool = False
    """Whether someone other than people and models speaks in it, whose answers belong to what was said before."""


class ChatReader:
    """Turns conversations into examples, by one tokenizer and its template; counts those that teach nothing.

    Without `needs_template`, it reads only what is written out already.

    Raises:
        ModelError: if the tokenizer has no template, or cannot say where its tokens stand in a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight: ChatWeight = "assistant",
        thinking: bool = False,
        owner: Owner = "teacher",
        needs_template: bool = True,
    ) -> None:
        refuse_slow(tokenizer, kind="chat")
        self.weight = weight
        self._template = ChatTemplate(tokenizer, thinking=thinking, owner=owner) if needs_template else None
        self._ending = re.compile(rf"(?:{any_special(tokenizer)})\s*$")
        self.dropped: Counter[str] = Counter()
        """How many conversations had nothing to learn, by reason."""
        self._tokens = _Tokens(tokenizer)

    def examples(self, conversations: Iterable[Conversation]) -> list[Example]:
        """Those of them that have something to learn.

        Raises:
            DataError: naming the row that the template refuses.
        """
        return [read.example for _, read in self.learnt(conversations)]

    def learnt(self, conversations: Iterable[Conversation]) -> list[tuple[Conversation, "ReadConversation"]]:
        """The same with where they are from, and with their turns."""
        return list(self.each_learnt(conversations))

    def each_learnt(self, conversations: Iterable[Conversation]) -> Iterator[tuple[Conversation, "ReadConversation"]]:
        """The same one after the other: more of them than memory holds."""
        for one in conversations:
            read = self.read(one)
            if any(read.example.weights[1:]):
                yield one, read
            else:
                self.dropped[_reason(one)] += 1

    def example(self, conversation: Conversation) -> Example:
        """One conversation whole, however long."""
        return self.read(conversation).example

    def read(self, conversation: Conversation) -> ReadConversation:
        """One conversation whole, and its turns."""
        written, weights = self._written(conversation)
        spans = [(span, w) for turn, w in zip(written.turns, weights, strict=True) if w for span in turn.spans]
        ids, places, token_weights = self._tokens.weighted(written.text, spans)
        turns = [
            _read_turn(written.text, turn, places, weight, conversation, number)
            for (number, turn), weight in zip(_numbered(written, conversation), weights, strict=True)
            if weight
        ]
        counts = list(token_weights)
        for turn in turns:
            for token in turn.unlearnt:
                counts[token] = 0.0
        example = Example(ids, tuple(counts), sum(turn.num_bytes for turn in turns))
        calls_tools = any(m["role"] == "tool" or m.get("tool_calls") for m in conversation.messages)
        return ReadConversation(example, tuple(turns), calls_tools)

    def _written(self, conversation: Conversation) -> tuple[Written, list[float]]:
        """The text, its turns, and what each of them counts for."""
        messages = conversation.messages
        if conversation.segments:
            written = self._as_written_out(conversation)
            weights = [1.0] * len(written.turns)
        else:
            assert self._template is not None, "messages need a template"
            written = self._template.write(messages, conversation.tools or None, where=conversation.where)
            weights = [
                w for w, message in zip(conversation.weights, messages, strict=True) if message["role"] == "assistant"
            ]
        if self.weight == "last":
            weights = [*[0.0] * (len(weights) - 1), *weights[-1:]]
        return written, weights

    def _as_written_out(self, conversation: Conversation) -> Written:
        """Segments as they stand: those that are learnt and follow one another are one turn."""
        text, turns = "", list[Turn]()
        for is_learnt, run in groupby(conversation.segments, key=lambda segment: segment[1]):
            start = len(text)
            text += "".join(part for part, _ in run)
            if is_learnt:
                end = self._ending.search(text, start)
                turns.append(Turn(((start, len(text)),), end.start() if end else len(text)))
        return Written(text, tuple(turns))


def _numbered(written: Written, conversation: Conversation) -> list[tuple[int, Turn]]:
    """Each turn, and the number of the message that it is."""
    numbers = [n for n, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    return list(zip(numbers or range(len(written.turns)), written.turns, strict=True))


def _read_turn(
    text: str, turn: Turn, places: Sequence[Span], weight: float, conversation: Conversation, number: int
) -> ReadTurn:
    """What is said in a turn, and which tokens say and end it."""
    said, tokens, characters, closing = "", list[int](), list[Span](), list[int]()
    for start, end in turn.spans:
        until = max(start, min(end, turn.said_until))
        offset = len(said) - start
        first, last = (bisect_left(places, border, key=lambda place: place[0]) for border in (start, end))
        for token in range(first, last):
            begin, stop = places[token]
            if begin < until:
                tokens.append(token)
                characters.append((begin + offset, min(stop, until) + offset))
            else:
                closing.append(token)
        said += text[start:until]
    parts = _parts_in(said, conversation, number)
    is_finished = number not in conversation.unfinished
    return ReadTurn(said, tuple(tokens), tuple(characters), tuple(closing), weight, parts, is_finished, number)


def _parts_in(said: str, conversation: Conversation, number: int) -> tuple[Span, ...] | None:
    """Where in what is said the parts of a message are that are learnt: a template may leave out white space around it."""
    parts = conversation.parts_of(number)
    if parts is None:
        return None
    content = str(conversation.messages[number]["content"])
    core = content.strip()
    if core not in said:
        raise DataError(
            f"{conversation.where}: the chat template writes message {number + 1} in other words than it has, so parts of it "
            "cannot be found again. Give one weight to the whole turn."
        )
    offset = said.index(core) - content.index(core)
    inside = ((max(0, start + offset), min(len(said), stop + offset)) for start, stop in parts)
    return tuple((start, stop) for start, stop in inside if start < stop)


def _reason(conversation: Conversation) -> str:
    if conversation.segments:
        return "no segment that is learnt, or none but its first token"
    if not any(message["role"] == "assistant" for message in conversation.messages):
        return "no turn of the assistant"
    if not any(conversation.weights):
        return "weight 0 for every turn of the assistant"
    return "no weight for the turn that counts, or no room for it between the template's generation tags"


class _Tokens:
    """A tokenizer that says where in a text each token stands, white space included, and can be made to end one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        # What follows tokenisation adds special tokens, which templates write themselves, and trims white space off places.
        backend.post_processor = None
        backend.no_truncation()
        backend.no_padding()
        backend.add_special_tokens([AddedToken(CUT, normalized=False, special=True)])
        self._backend, self._cut_id = backend, backend.token_to_id(CUT)
        self._headers: dict[str, list[int]] = {}
        self._special_ids = {id for id, token in backend.get_added_tokens_decoder().items() if token.special}

    def weighted(
        self, text: str, spans: Sequence[tuple[Span, float]]
    ) -> tuple[tuple[int, ...], tuple[Span, ...], tuple[float, ...]]:
        """Tokens of the text, where each stands in it, and the weight of each: that of the span in which it begins.

        The text is tokenised whole, so that tokens join as they do where a model reads it. Only where those of a prompt would
        be others than it has alone, as where one runs into the answer, it is cut: there a prompt ends, and no model could
        write the second half. The same where an end of turn is no special token, but text that joins with what follows.
        """
        ids, places = self._encode(text, [])
        ordered = sorted(spans)
        starts = [start for (start, _), _ in ordered]
        words = [place for token, place in zip(ids, places, strict=True) if token not in self._special_ids]
        crossed = {
            start for start in starts if _crosses(places, start) or not self._ends_alone(text, start, ids, places)
        }
        # A special token may take the white space behind it with it, and has ended all the same.
        crossed |= {end for (_, end), _ in ordered if _crosses(words, end)}
        if crossed:
            ids, places = self._encode(text, sorted(crossed))
        return tuple(ids), tuple(places), tuple(_weight_at(start, starts, ordered) for start, _ in places)

    def _ends_alone(self, text: str, start: int, ids: Sequence[int], places: Sequence[Span]) -> bool:
        """Whether a prompt that ends here has, behind its last special token, the tokens that it has alone."""
        end = bisect_right(places, start - 1, key=lambda place: place[0])
        first = next((place for place in range(end - 1, 0, -1) if ids[place] in self._special_ids), 0)
        header = text[places[first][0] : start] if places else ""
        if header not in self._headers:
            self._headers[header] = self._encode(header, [])[0]
        return self._headers[header] == list(ids[first:end])

    def _encode(self, text: str, cuts: Sequence[int]) -> tuple[list[int], list[Span]]:
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        encoding = self._backend.encode(CUT.join(pieces), add_special_tokens=False)
        ids: list[int] = []
        places: list[Span] = []
        num_cuts = 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == self._cut_id:
                num_cuts += 1
            else:
                ids.append(token)
                places.append((start - num_cuts, end - num_cuts))
        return ids, places


def _crosses(places: Sequence[Span], border: int) -> bool:
    """Whether a token begins before the border and ends behind it."""
    place = bisect_right(places, border - 1, key=lambda place: place[0])
    # A character of several tokens gives all of them its own place.
    return any(end > border for _, end in places[max(0, place - 4) : place])


def _weight_at(place: int, starts: Sequence[int], spans: Sequence[tuple[Span, float]]) -> float:
    number = bisect_right(starts, place) - 1
    if number < 0:
        return 0.0
    (_, end), weight = spans[number]
    return weight if place < end else 0.0
