"""What a filter is, and how a list of them goes over records."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.config import Config
from stillhouse.core.files import fingerprint
from stillhouse.synthesis.records import Filter, Record


@dataclass(frozen=True)
class NamedFilter:
    """A filter with what a report says of it."""

    name: str
    explanation: str
    """One sentence, with the settings: what it drops."""
    reasons: Filter

    def __call__(self, records: Sequence[Record]) -> Sequence[str]:
        """For each record the reason to drop it, or an empty text. What stands before ` (` is the same for all alike, what
        follows is of this record alone.
        """
        return self.reasons(records)


class FilterSettings(Config):
    """What all filters' settings have in common."""

    name: str

    @abstractmethod
    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """The filter. The tokenizer is the writer's, where that is known.

        Raises:
            StillhouseError: for what the user can mend.
        """


@dataclass(frozen=True)
class Turn:
    """One thing that was said, by the name under which a reason speaks of it."""

    name: str
    text: str


def turns(record: Record) -> list[Turn]:
    """All that was written, the oldest first: questions and answers, or a text. A system prompt is nobody's writing."""
    if not record.messages:
        return [Turn("text", record.text)]
    names = {"user": "question", "assistant": "answer"}
    return [Turn(names[m["role"]], m["content"]) for m in record.messages if m["role"] in names]


def answers(record: Record) -> list[Turn]:
    """What the assistant said; nothing where nobody has answered yet."""
    return [turn for turn in turns(record) if turn.name == "answer"]


def asked_as(record: Record) -> str:
    """The same for several answers that were drawn to one question, which are no duplicates of each other."""
    answer = record.lineage.get("answer")
    if not isinstance(answer, Mapping) or "sample" not in answer:
        return ""
    rest = {name: value for name, value in record.lineage.items() if name != "answer"}
    return fingerprint([[dict(message) for message in record.messages[:-1]], rest])


def quoted(text: str, most_characters: int = 60) -> str:
    """The beginning of a text as one line, for a reason."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= most_characters else line[:most_characters].rstrip() + " ..."}"'


def each(reason_of: Callable[[Record], str]) -> Filter:
    """A filter that looks at one record at a time."""
    return lambda records: [reason_of(record) for record in records]


def run_filters(records: Sequence[Record], filters: Sequence[NamedFilter]) -> list[Record]:
    """All records in their order, those that a filter dropped with its name and its reason: `length: answer too short (4
    words, 8 wanted)`. A filter does not see what another has dropped before it.
    """
    found = list(records)
    for one in filters:
        places = [place for place, record in enumerate(found) if not record.dropped]
        reasons = one([found[place] for place in places])
        for place, reason in zip(places, reasons, strict=True):
            if reason:
                found[place] = found[place].drop(f"{one.name}: {reason}")
    return found


@dataclass(frozen=True)
class Dropped:
    """How many records one filter dropped for one reason, and one of them."""

    filter: str
    explanation: str
    """What the filter drops, with its settings; empty where it is none of those that are told of."""
    reason: str
    """Empty for a filter that dropped nothing."""
    count: int
    detail: str = ""
    """What the reason was for the example alone."""
    example: str = ""


def count_dropped(records: Sequence[Record], filters: Sequence[NamedFilter] = ()) -> list[Dropped]:
    """A line for each filter and reason, in the order of the filters; one that dropped nothing is told too."""
    explained = {one.name: one.explanation for one in filters}
    found: dict[str, dict[str, list[Record]]] = {name: {} for name in explained}
    for record in records:
        if record.dropped:
            name, reason, _ = split_reason(record.dropped)
            found.setdefault(name, {}).setdefault(reason, []).append(record)
    return [line for name, reasons in found.items() for line in _lines(name, explained.get(name, ""), reasons)]


def split_reason(dropped: str) -> tuple[str, str, str]:
    """The filter's name, the reason that many share, and what is of one record alone; the last may be empty."""
    name, mark, rest = dropped.partition(": ")
    if not mark:
        name, rest = dropped, dropped
    reason, _, detail = rest.partition(" (")
    return name, reason, detail.removesuffix(")")


def _lines(name: str, explanation: str, reasons: Mapping[str, Sequence[Record]]) -> Iterator[Dropped]:
    for reason, records in reasons.items():
        detail = split_reason(records[0].dropped)[2]
        yield Dropped(name, explanation, reason, len(records), detail, _blamed(records[0], reason))
    if not reasons:
        yield Dropped(name, explanation, "", 0)


def _blamed(record: Record, reason: str) -> str:
    """The text that a reason speaks of."""
    said = turns(record)
    wanted = "answer" if "answer" in reason and record.answer else "question"
    return next((turn.text for turn in said if turn.name == wanted), said[-1].text if said else "")


def account_of(records: Sequence[Record], filters: Sequence[NamedFilter] = ()) -> dict[str, Any]:
    """What became of all records, as plain values: the `counts` and `dropped` of `card.json`."""
    counts = {
        "asked": len(records),
        "answered": sum(bool(record.answer) for record in records),
        "kept": sum(not record.dropped for record in records),
    }
    return {"counts": counts, "dropped": [asdict(line) for line in count_dropped(records, filters)]}
