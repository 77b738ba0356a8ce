"""A conversation as its template writes it, and where in that text the assistant speaks.

A template is a program, so nobody can read off where its turns are; but it can be asked. Marks around what each message says
come out of it where that message is. The text between two marks is then held against what the template writes where an
answer is due: what that writes is the prompt's, the rest is what a model has to say itself, its end of turn included.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.memory import ran_out_of_memory

Message = Mapping[str, Any]
Span = tuple[int, int]
Owner = Literal["teacher", "student"]
"""Whose template it is, for what is said about it."""

MARK, CUT = "\U0010fff0", "\U0010fff1"
"""Begins and ends a mark, and ends a token: code points of private use, which no conversation may hold."""

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")

_MARKS = re.compile(MARK + r"(\d+)([a-d])" + MARK)
_THOUGHT = re.compile(r"\s*(?:.*</think>\s*)?", re.DOTALL)
_TAG = r"[<\[]\W*(?:start_|end_)?think(?:ing)?\W*[>\]]"
_EMPTY_THOUGHT = re.compile(rf"{_TAG}\s*{_TAG}\s*", re.IGNORECASE)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ANYONE: Message = {"role": "user", "content": "x"}

# Some templates write today's date, and what was labelled today must be the same text tomorrow. It is the date that Llama 3's
# template falls back on.
_A_DATE = {"%Y": "2024", "%m": "07", "%d": "26", "%b": "Jul", "%B": "July", "%y": "24", "%A": "Friday", "%a": "Fri"}
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace({code!r}, {value!r})" for code, value in _A_DATE.items())
    + " }}{% endmacro %}{{ '' }}"
)


@dataclass(frozen=True)
class Turn:
    """Where one turn of the assistant stands in the text: what a model would write there, and its end of turn."""

    spans: tuple[Span, ...]
    said_until: int
    """Where its end of turn begins."""


@dataclass(frozen=True)
class Written:
    """A conversation as its template writes it, and its assistant turns in their order."""

    text: str
    turns: tuple[Turn, ...]


class ChatTemplate:
    """The template of a tokenizer. Template-inserted empty thinking blocks belong to the prompt unless `thinking` is asked for.

    Raises:
        ModelError: if the tokenizer has no template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, thinking: bool = False, owner: Owner = "teacher") -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"data.kind chat needs a chat template, and the {owner}'s tokenizer has none. Put one beside it as "
                f"chat_template.jinja, name a {owner} that has one, or write the prompts out and use data.kind text."
            )
        self.tokenizer, self.thinking, self.owner = tokenizer, thinking, owner
        one = any_special(tokenizer)
        self._one_special, self._special = re.compile(one), re.compile(f"(?:{one})+")
        self._openings: dict[tuple[Any, ...], str] = {}
        self._closings: dict[bool, str] = {}

    def write(self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, where: str = "it") -> Written:
        """The whole conversation.

        Raises:
            DataError: if the template refuses it, leaves out what someone says, or writes something else where a turn is
                marked, so that nobody can tell its turns.
        """
        text, generated = self._render(messages, tools, where=where)
        for everyone in (True, False):
            marked = [_marked(m, n) if everyone or _speaks(m) else m for n, m in enumerate(messages)]
            found, _ = self._render(marked, tools, where=where)
            if _MARKS.sub("", found) == text:
                places = _places(found)
                _refuse_gaps(marked, found, where=where, owner=self.owner)
                if generated is None:
                    _refuse_nesting(messages, places, where=where, owner=self.owner)
                conversation = _Conversation(self, messages, marked, tools, text, places)
                turns = tuple(conversation.turn(n) for n in range(len(messages)) if _speaks(messages[n]))
                return Written(text, turns if generated is None else tuple(_within(turn, generated) for turn in turns))
        raise DataError(
            f"{where}: its chat template writes other things around a turn when that turn's text changes, so its turns cannot "
            "be told apart. Mark them in the template with {% generation %}, or use another template."
        )

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, *, where: str, prompt: bool = False
    ) -> tuple[str, list[Span] | None]:
        """What the template writes, and which of it it calls generated itself, if it does."""
        try:
            template = self.tokenizer.get_chat_template(None, list(tools) if tools else None)
            says_itself = bool(_GENERATION.search(template))
            options: dict[str, Any] = {
                **self.tokenizer.special_tokens_map,
                "tools": list(tools) if tools else None,
                "chat_template": _FIXED_DATE + template if "strftime_now" in template else template,
                "return_assistant_tokens_mask": says_itself,
                "add_generation_prompt": prompt,
            }
            render: Callable[..., Any] = render_jinja_template  # which says that it returns a string
            texts, spans = render([[dict(message) for message in messages]], **options)
        except Exception as error:  # a template is a program, and may fail as any does
            if ran_out_of_memory(error):
                raise
            words = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"{where}: the {self.owner}'s chat template refuses it: {words}. Mend or remove it, or use another template."
            ) from None
        return str(texts[0]), list(spans[0]) if says_itself else None

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, where: str = "it") -> str:
        """What the template writes up to where an answer is due.

        Raises:
            DataError: if the template refuses the messages.
        """
        return self._render(messages, tools, where=where, prompt=True)[0]

    def try_render(self, messages: Sequence[Message], tools: Sequence[Any] | None, *, prompt: bool = False) -> str:
        """What the template writes; nothing where it refuses."""
        try:
            return self._render(messages, tools, where="", prompt=prompt)[0]
        except DataError:
            return ""

    def opening(self, key: tuple[Any, ...], gap: str, look: Callable[[], str]) -> str:
        """What stands between a message and the answer that is due: known from messages like it if it begins the gap."""
        known = self._openings.get(key)
        if not known or not gap.startswith(known):
            self._openings[key] = known = look()
        return known

    def closing(self, has_calls: bool, tail: str, look: Callable[[], str]) -> str:
        """The end of turn in the text behind what was said: known from turns like it if it is there."""
        known = self._closings.get(has_calls)
        if not known or known not in tail:
            self._closings[has_calls] = known = look()
        return known

    def last_special(self, text: str) -> str:
        """The last special tokens in a text, as many as stand side by side; nothing if there is none."""
        return next(iter(self._special.findall(text)[::-1]), "")

    def first_special(self, text: str) -> str:
        """The first special token in a text, alone; nothing if there is none."""
        found = self._one_special.search(text)
        return found[0] if found else ""


@dataclass(frozen=True)
class _Conversation:
    """One conversation under the eyes of its template."""

    template: ChatTemplate
    messages: Sequence[Message]
    marked: Sequence[Message]
    tools: Sequence[Any] | None
    text: str
    places: Mapping[int, Span]
    """The first and the last mark of each message that has any."""

    def turn(self, number: int) -> Turn:
        """Where this message is what a model would write."""
        start, said = self._start(number), self.places[number][0]
        said_until, end = self._end(number)
        content = self.messages[number]["content"]
        if self.template.thinking or _EMPTY_THOUGHT.match(content.lstrip()):
            return Turn(((start, end),), said_until)
        said -= len(shared([self.text[:said][::-1], _leading_space(content)[::-1]]))
        inserted = _EMPTY_THOUGHT.search(self.text, self._floor(number), said)
        if inserted is None:
            return Turn(((start, end),), said_until)
        # The prompt may open a thought that the template closes here.
        spans = ((start, inserted.start()), (max(start, inserted.end()), end))
        return Turn(tuple(span for span in spans if span[0] < span[1]), said_until)

    def _start(self, number: int) -> int:
        """Where the prompt ends and the answer begins."""
        said, before = self.places[number][0], self.places.get(number - 1)
        if before is not None and before[1] <= said:
            gap = self.text[before[1] : said]
            previous = self.messages[number - 1]
            key = (previous["role"], bool(previous.get("tool_calls")), bool(self.tools))
            due = self.template.opening(key, gap, lambda: self._due(number))
            if due:
                return before[1] + len(shared([gap, due]))
        header, floor = self._header(), self._floor(number)
        place = self.text.rfind(header, floor, said) if header else -1
        return said if place < 0 else place + len(header)

    def _due(self, number: int) -> str:
        """What the template writes behind the message before, where this answer is due."""
        found = self.template.try_render(self.marked[:number], self.tools, prompt=True)
        return _behind_last_mark(found, number - 1)

    def _header(self) -> str:
        """What the template writes where an answer is due, whatever came before."""
        alone, due = (self.template.try_render([_ANYONE], None, prompt=prompt) for prompt in (False, True))
        return due[len(shared([alone, due])) :]

    def _floor(self, number: int) -> int:
        return max((last for other, (_, last) in self.places.items() if other < number), default=0)

    def _end(self, number: int) -> Span:
        """Where the end of turn begins and ends."""
        last = self.places[number][1]
        limit = min((first for first, _ in self.places.values() if first >= last and first > 0), default=len(self.text))
        tail = self.text[last:limit]
        has_calls = bool(self.messages[number].get("tool_calls"))
        closing = self.template.closing(has_calls, tail, lambda: self._closes(number, tail))
        place = tail.find(closing)
        return last + place, last + place + len(closing)

    def _closes(self, number: int, tail: str) -> str:
        """The end of turn: the last special tokens that what follows this answer has both where the conversation ends and where
        it goes on, the first if a last turn ends otherwise than all others; plain text where there are none."""
        template, until = self.template, list(self.marked[: number + 1])
        renders = (template.try_render(chat, self.tools) for chat in (until, [*until, _ANYONE]))
        alone, going_on = (_behind_last_mark(found, number) for found in renders)
        seen = [shared([alone, going_on])]
        if self.messages[number].get("tool_calls"):  # whose own tokens may be special
            seen.append(shared([alone, tail]))
        found = next((end for end in map(template.last_special, seen) if end and end in tail), "")
        plain = shared([alone, tail])
        return found or template.first_special(tail) or plain.rstrip() or plain


def any_special(tokenizer: PreTrainedTokenizerBase) -> str:
    """A pattern for one special token, the longest that there is at a place."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = {*special, *([str(tokenizer.eos_token)] if tokenizer.eos_token else [])}
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return "|".join(map(re.escape, longest_first)) or "(?!)"


def shared(texts: Sequence[str]) -> str:
    """How all of these begin."""
    first, last = min(texts, default=""), max(texts, default="")
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _leading_space(content: str) -> str:
    """The white space before what is said, as `_marked` sees it."""
    thought = _THOUGHT.match(content)
    assert thought is not None, "it matches nothing"
    return thought[0][len(thought[0].rstrip()) :]


def _speaks(message: Message) -> bool:
    return bool(message["role"] == "assistant")


def _marked(message: Message, number: int) -> Message:
    """The message with marks around what it says (a, b), inside of white space and behind a thought, both of which templates
    drop; and before the first and behind the last name of the tools that it calls (c, d)."""
    begin, end, call, called = (f"{MARK}{number}{kind}{MARK}" for kind in "abcd")
    content = message["content"]
    thought = _THOUGHT.match(content) if _speaks(message) else re.match(r"\s*", content)
    assert thought is not None, "both match nothing"
    said = content[thought.end() :].rstrip()
    if said:
        content = thought[0] + begin + said + end + content[thought.end() + len(said) :]
    if not message.get("tool_calls"):
        return {**message, "content": content}
    calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
    calls[0]["function"]["name"] = call + calls[0]["function"]["name"]
    calls[-1]["function"]["name"] += called
    return {**message, "content": content, "tool_calls": calls}


def _places(found: str) -> dict[int, Span]:
    """Of each message, where its first and its last mark stand in the text without marks. A mark that comes again does not
    count: some templates write a tool's name before its answer, too."""
    places: dict[int, Span] = {}
    seen: set[str] = set()
    removed = 0
    for match in _MARKS.finditer(found):
        place, number = match.start() - removed, int(match[1])
        if match[0] not in seen:
            places[number] = (places[number][0] if number in places else place, place)
        seen.add(match[0])
        removed += len(match[0])
    return places


def _refuse_gaps(marked: Sequence[Message], found: str, *, where: str, owner: Owner) -> None:
    """Refuse what a template drops in silence: the model would learn to answer what it has not read, or to say nothing."""
    present = {(int(match[1]), match[2]) for match in _MARKS.finditer(found)}
    for number, message in enumerate(marked):
        calls = bool(message.get("tool_calls"))
        if calls and (number, "c") not in present:
            what = "the tool calls"
        elif not calls and ((MARK in message["content"]) or _speaks(message)) and (number, "a") not in present:
            what = "the text"
        else:
            continue
        raise DataError(
            f"{where}: the {owner}'s chat template leaves out {what} of message {number + 1} (role {message['role']}). Remove "
            "the message or the row, or use another template."
        )


def _refuse_nesting(messages: Sequence[Message], places: Mapping[int, Span], *, where: str, owner: Owner) -> None:
    """Refuse a template that writes others' words into a turn of the assistant: they must not be learnt as its own."""
    for number, (first, last) in places.items():
        inside = [other for other, span in places.items() if other != number and first < span[1] and span[0] < last]
        if _speaks(messages[number]) and inside:
            raise DataError(
                f"{where}: the {owner}'s chat template writes message {inside[0] + 1} (role {messages[inside[0]]['role']}) "
                f"into message {number + 1}, which is the assistant's, so nobody can tell what it said. Mark that in the "
                "template with {% generation %}, or use another template."
            )


def _behind_last_mark(found: str, number: int) -> str:
    """What stands behind the last mark of a message, without marks; nothing if there is none."""
    firsts = {match[0]: match.end() for match in reversed(list(_MARKS.finditer(found))) if int(match[1]) == number}
    return _MARKS.sub("", found[max(firsts.values()) :]) if firsts else ""


def _within(turn: Turn, generated: Sequence[Span]) -> Turn:
    """What of a turn the template itself calls generated."""
    starts = [start for start, _ in generated]
    spans: list[Span] = []
    for start, end in turn.spans:
        first = max(0, bisect_right(starts, start) - 1)
        clipped = ((max(start, low), min(end, high)) for low, high in generated[first:] if low < end)
        spans += [(low, high) for low, high in clipped if low < high]
    return Turn(tuple(spans), turn.said_until)
