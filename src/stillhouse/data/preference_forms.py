"""Pairs of answers in the forms that people keep them in: which one was chosen over which other."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from stillhouse.core.errors import DataError
from stillhouse.core.faults import said
from stillhouse.data.chat_forms import FORMATS, Conversation, conversation, tools_of
from stillhouse.data.tables import Record, each_record, is_whole
from stillhouse.data.text import Row

Reads = Literal["chat", "text"]
Against = Literal["random", "worst"]

PROMPTS = ("prompt", "messages", "question", "instruction")
"""What a column with the prompt is called: the first of them that a row has."""
PAIRS = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
LISTS = ("completions", "responses", "answers")
"""What a column with several answers is called."""
ANSWERS, SCORES = ("response", "content", "completion", "text"), ("overall_score", "score", "rating")
"""What an answer of a list, and its score, are called."""
PAIR_SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)

_SPEAKERS = re.compile(r"\n\n(Human|Assistant):")
_EXPECTED = (
    "Expected 'prompt' (a text or messages) with 'chosen' and 'rejected'; 'chosen' and 'rejected' as whole conversations; or a "
    "prompt with 'completions', a list of answers with scores"
)

Scores = tuple[float, float]
Told = Conversation | Row


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt, and what each is worth, where the data says so."""

    text: str
    """The prompt, as JSON: pairs that share it are on one side."""
    chosen: Told
    rejected: Told
    scores: Scores | None = None
    where: str = field(default="it", compare=False)


@dataclass(frozen=True)
class _Left:
    """A row that is no pair, and why."""

    reason: str


@dataclass(frozen=True)
class _Pair:
    """A prompt, and two answers as the file has them."""

    prompt: Any
    chosen: Any
    rejected: Any
    scores: Scores | None = None


def read_preferences(
    path: Path, *, key: str = "data.path", reads: Reads = "chat", against: Against = "random", seed: int = 0
) -> tuple[list[Preference], Counter[str]]:
    """The pairs of a file or folder, and how many rows are none, by reason: those whose answers are the same or tie, those
    whose scores contradict them, and those that differ in more than the last answer.

    Raises:
        DataError: naming file and line, for a row in no form that is known.
    """
    left: Counter[str] = Counter()
    found = list(each_preference(path, key=key, reads=reads, against=against, seed=seed, left=left))
    return found, left


def each_preference(
    path: Path, *, key: str = "data.path", reads: Reads, against: Against, seed: int, left: Counter[str]
) -> Iterator[Preference]:
    """The pairs one after the other: more of them than memory holds. In the end `left` says why rows were left out."""
    left.clear()
    is_empty = True
    for record in each_record(path, key=key, formats=FORMATS):
        read = _read(record, reads, against, seed)
        if isinstance(read, _Left):
            left[read.reason] += 1
        else:
            is_empty = False
            yield read
    if is_empty:
        why = "; ".join(f"{count:,} have {reason}" for reason, count in left.items())
        raise DataError(f"none of the rows of {key} {str(path)!r} is a pair of answers: {why}. Give others.")


def _read(record: Record, reads: Reads, against: Against, seed: int) -> Preference | _Left:
    pair = _pair_of(record, reads, against, seed)
    if isinstance(pair, _Left):
        return pair
    if pair.scores is not None and pair.scores[0] == pair.scores[1]:
        return _Left("scores that tie")
    if pair.scores is not None and pair.scores[0] < pair.scores[1]:
        return _Left("scores that say the opposite")
    if pair.chosen == pair.rejected:
        return _Left("the same answer twice")
    return _as_texts(record, pair) if reads == "text" else _as_conversations(record, pair)


def _pair_of(record: Record, reads: Reads, against: Against, seed: int) -> _Pair | _Left:
    values = record.values
    listed = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    if listed is not None:
        return _best_of(record, listed, against, seed)
    names = next((names for names in PAIRS if set(names) <= values.keys()), None)
    if names is None:
        keys = ", ".join(repr(name) for name in values)
        raise DataError(f"{record.where} has the keys {keys}, which are no pair of answers. {_EXPECTED}.")
    chosen, rejected = (_turns_of(values[name]) for name in names)
    scores = _scores_of(record)
    if _is_whole_talk(chosen) and _is_whole_talk(rejected):
        return _split(chosen, rejected, scores)
    prompt = _prompt_of(record)
    if prompt is None and reads == "text" and isinstance(chosen, str) and isinstance(rejected, str):
        return _split_texts(chosen, rejected, scores)
    if prompt is None:
        raise DataError(f"{record.where} has two answers and no prompt. {_EXPECTED}.")
    return _Pair(prompt, _answer(chosen, record), _answer(rejected, record), scores)


def _turns_of(value: Any) -> Any:
    """Messages where a text spells out who speaks, as that of HH-RLHF does; all else as it is."""
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return value
    parts = _SPEAKERS.split(value)[1:]
    turns = [
        {"role": "user" if speaker == "Human" else "assistant", "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _is_whole_talk(value: Any) -> bool:
    """Whether messages begin with a prompt, and are not an answer alone."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and not _is_assistants(value[0])


def _is_assistants(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role", message.get("from")) in ("assistant", "gpt", "model")


def _split(chosen: list[Any], rejected: list[Any], scores: Scores | None) -> _Pair | _Left:
    """Two conversations that begin alike, as the prompt that they share and an answer each."""
    most = min(len(chosen), len(rejected)) - 1
    shared = next((n for n in range(most) if chosen[n] != rejected[n]), most)
    ends = chosen[shared:], rejected[shared:]
    if any(len(end) > 1 or not _is_assistants(end[0]) for end in ends):
        return _Left("answers that are not both one last turn behind the same messages")
    return _Pair(chosen[:shared], ends[0][0], ends[1][0], scores)


def _split_texts(chosen: str, rejected: str, scores: Scores | None) -> _Pair | _Left:
    """Two texts that begin alike, cut before the white space that comes before the word in which they part."""
    most = min(len(chosen), len(rejected))
    same = next((n for n in range(most) if chosen[n] != rejected[n]), most)
    start = max(
        (place.start() for place in re.finditer(r"\s+", chosen[: same + 1]) if place.end() <= same + 1), default=0
    )
    if not chosen[:start].strip():
        return _Left("texts that share no beginning")
    return _Pair(chosen[:start], chosen[start:], rejected[start:], scores)


def _prompt_of(record: Record) -> Any:
    values = record.values
    given = values.get("input")
    if isinstance(given, Mapping) and "messages" in given:
        return given["messages"]
    found = next((values[name] for name in PROMPTS if values.get(name)), None)
    return _turns_of(found)


def _answer(value: Any, record: Record) -> Any:
    """A text, or a message of the assistant."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.strip():
        return value
    if _is_assistants(value):
        return value
    raise DataError(f"{record.where} answers {said(value)}. Expected a text, or one message of the assistant.")


def _scores_of(record: Record) -> Scores | None:
    """What both answers are worth; None where the row does not say so of both."""
    values = record.values
    names = next((names for names in PAIR_SCORES if all(values.get(name) is not None for name in names)), None)
    if names is None:
        return None
    first, second = (record.number(name, key="the form of data.kind preferences") for name in names)
    return first, second


def _best_of(record: Record, name: str, against: Against, seed: int) -> _Pair | _Left:
    """The best of several answers beside another one that is worth less."""
    prompt = _prompt_of(record)
    if prompt is None:
        raise DataError(f"{record.where} has several answers and no prompt. {_EXPECTED}.")
    answers = [_listed(one, record) for one in record.values[name]]
    scores = record.values.get("scores") or [_score_in(one) for one in record.values[name]]
    if not isinstance(scores, list):
        raise DataError(
            f"{record.where} has {said(scores)} under 'scores'. Expected a list, with a score for each answer."
        )
    rated = [(float(score), answer) for score, answer in zip(scores, answers, strict=False) if _is_score(score)]
    if len(scores) != len(answers) or not rated:
        raise DataError(
            f"{record.where} has {len(answers)} answers and {len(rated)} scores. Give each answer its score."
        )
    best = max(rated, key=lambda one: one[0])
    others = [one for one in rated if one[0] < best[0]]
    if not others:
        return _Left("scores that tie")
    least = min(one[0] for one in others)
    worst = [one for one in others if against == "random" or one[0] == least]
    other = Random(f"{seed}, {json.dumps([prompt, *answers], sort_keys=True)}").choice(worst)
    return _Pair(prompt, best[1], other[1], (best[0], other[0]))


def _is_score(score: Any) -> bool:
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return is_number and abs(score) <= sys.float_info.max  # NaN is not, either


def _listed(one: Any, record: Record) -> Any:
    if isinstance(one, Mapping) and not _is_assistants(one):
        one = next((one[name] for name in ANSWERS if name in one), one)
    return _answer(one, record)


def _score_in(one: Any) -> Any:
    found = (
        next((one[name] for name in SCORES if one.get(name) is not None), None) if isinstance(one, Mapping) else None
    )
    try:
        return float(found) if isinstance(found, str) else found
    except ValueError:
        return None


def _as_conversations(record: Record, pair: _Pair) -> Preference | _Left:
    """Messages of which the answer alone is learnt."""
    prompt = [{"role": "user", "content": pair.prompt}] if isinstance(pair.prompt, str) else pair.prompt
    if not isinstance(prompt, list) or not prompt or not all(isinstance(message, Mapping) for message in prompt):
        raise DataError(f"{record.where} has the prompt {said(pair.prompt)}. Expected a text, or a list of messages.")
    if _is_assistants(prompt[-1]):
        return _Left("a prompt that ends with an answer")
    system = record.values.get("system")
    if isinstance(system, str) and system.strip() and prompt[0].get("role", prompt[0].get("from")) != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    given = record.values.get("input")
    tools = tools_of(replace(record, values={**given, **record.values}) if isinstance(given, Mapping) else record)
    unlearnt = [{**message, "weight": 0} for message in prompt]
    chosen, rejected = (
        conversation([*unlearnt, _as_message(answer)], tools=tools, where=record.where)
        for answer in (pair.chosen, pair.rejected)
    )
    if chosen.text == rejected.text:
        return _Left("the same answer twice")
    text = json.dumps([chosen.messages[:-1], chosen.tools], ensure_ascii=False)
    return Preference(text, chosen, rejected, pair.scores, record.where)


def _as_message(answer: Any) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    return {key: value for key, value in answer.items() if key not in ("weight", "train", "training")}


def _as_texts(record: Record, pair: _Pair) -> Preference:
    """Texts as they stand."""
    for part in (pair.prompt, pair.chosen, pair.rejected):
        if not isinstance(part, str):
            raise DataError(
                f"{record.where} has messages, {said(part)}, but data.reads is text. Leave data.reads out, so that the chat "
                "template writes them out."
            )
        if not is_whole(part):
            raise DataError(f"{record.where} holds half a character: cut or mend it.")
    return Preference(
        json.dumps(pair.prompt),
        Row(pair.chosen, pair.prompt),
        Row(pair.rejected, pair.prompt),
        pair.scores,
        record.where,
    )
