"""The teacher answers the prompts of the data, before a student learns from its answers: sequence-level distillation."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.files import atomic_path, each_line, json_line, write_atomic
from stillhouse.core.numbers import Numbers, counting
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.rouge import rouge_l
from stillhouse.core.sorting import ranked
from stillhouse.data.asked import Asked
from stillhouse.data.kept import Made, keep, seen, those
from stillhouse.models.beams import beam_search
from stillhouse.models.generate import Speaker, sample, stop_ids_of
from stillhouse.teachers.answering import Answering
from stillhouse.teachers.hands import Advance, Hands, OwnHands

ANSWERS = "answers.jsonl"
"""What the teacher said, an answer a line."""


@dataclass(frozen=True)
class AnswersOutcome:
    """How much the teacher said."""

    prompts: int
    answers: int
    tokens: int
    unfinished: int
    """Cut off at a limit: their end is not learnt as an end."""
    repeats: int
    """Drawn again to the same prompt: such an answer is written once, and counts for as many as it is."""


@dataclass(frozen=True)
class Answer:
    """What the teacher said in a row, as `answers.jsonl` has it."""

    row: int
    prompt: str
    answer: str
    tokens: int
    finished: bool
    times: int
    """How often it was drawn."""
    ids: list[int]
    """Its end included, where it is finished."""


def write_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    *,
    folder: Path,
    answering: Answering,
    stop_ids: set[int],
    vocab_size: int,
    max_tokens: int,
    progress: Progress = SILENT,
) -> AnswersOutcome:
    """Write `answers.jsonl` in `folder`: the model's last answer in each conversation, or to each prompt, in their order.
    Where the teacher reads more than the student, or reads it in other tokens, it answers to that; so `stop_ids` and
    `vocab_size` are the model's.

    They are kept batch by batch as they come, the shortest prompts first; started again after a kill, it goes on behind the
    last whole batch and ends with the same file, byte for byte.
    """
    return write_answers_by(
        OwnHands(model, tokenizer),
        asked,
        folder=folder,
        answering=answering,
        ends=stop_ids,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        progress=progress,
    )


def write_answers_by(
    hands: Hands,
    asked: Sequence[Asked],
    *,
    folder: Path,
    answering: Answering,
    ends: set[int],
    vocab_size: int,
    max_tokens: int,
    progress: Progress = SILENT,
) -> AnswersOutcome:
    """The same by whoever holds the model. Answers end with what the model ends texts with, and with `ends`."""
    told = seen(asked, lambda one: _as_the_teacher_reads(one.at_last))
    shortest_first = ranked(counting(len(one.prompt) for one in told))
    starts = range(0, len(told), answering.batch_size)

    def part(start: int) -> Path:
        return folder / "parts" / f"{start:07d}.jsonl"

    missing = [start for start in starts if not part(start).exists()]
    questions = _Questions(told, shortest_first, missing, size=answering.batch_size)
    with working(progress, "the teacher answers", len(told), "prompts"):
        progress.advance(len(told) - sum(map(questions.num_rows, missing)))
        write = partial(_answered, answering, ends, vocab_size, max_tokens, len(told))
        for start, said in hands(write, questions):
            write_atomic(part(start), write_lines(said))
            progress.advance(questions.num_rows(start))
    found = keep((answer for start in starts for answer in each_answer(part(start))), of=Answer)
    # Answers to one prompt stay in the order in which they were drawn.
    write_answer_lines(folder / ANSWERS, those(found, ranked(counting(answer.row for answer in found))))
    return outcome_of(found, prompts=len(told))


class _Questions(Mapping[int, "list[_Question]"]):
    """Batches of what is asked, by their numbers, each put together when it is somebody's turn to write it."""

    def __init__(self, told: Sequence[Asked], order: Numbers, starts: Sequence[int], *, size: int) -> None:
        """Those that begin with one of these `starts` in the order, which are of this `size`."""
        self._told, self._order, self._starts, self._size = told, order, starts, size

    def __getitem__(self, start: int) -> "list[_Question]":
        asked = ((row, self._told[row]) for row in self._order[start : start + self._size])
        return [_Question(row, one.prompt, one.reference) for row, one in asked]

    def __iter__(self) -> Iterator[int]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def num_rows(self, start: int) -> int:
        """Of a batch: only the last may have fewer."""
        return min(self._size, len(self._order) - start)


def outcome_of(answers: Iterable[Answer], *, prompts: int) -> AnswersOutcome:
    """How much was said to so many prompts."""
    sums = Counter[str]()
    for answer in answers:
        sums.update(answers=1, tokens=answer.tokens, unfinished=int(not answer.finished), repeats=answer.times - 1)
    return AnswersOutcome(prompts, **{name: sums[name] for name in ("answers", "tokens", "unfinished", "repeats")})


def _as_the_teacher_reads(asked: Asked) -> Asked:
    if asked.across is not None:
        return asked.across.theirs.at_last
    return replace(asked, prompt=asked.told.prompt) if asked.told else asked


def each_answer(file: Path) -> Iterator[Answer]:
    """What `write_answers` wrote."""
    return (Answer(**line) for line in each_line(file))


def read_answers(file: Path) -> list[Answer]:
    """All of it."""
    return list(each_answer(file))


def answered_by(asked: Sequence[Asked], answers: Iterable[Answer]) -> Sequence[Asked]:
    """The same prompts, with these answers in the place of the data's own."""
    said = keep(answers, of=Answer)
    rows = np.fromiter((answer.row for answer in said), np.int64, len(said))
    order = np.argsort(rows, kind="stable")
    ends = np.searchsorted(rows[order], np.arange(len(asked) + 1))

    def taught(row: int) -> Asked:
        own = (said[int(number)] for number in order[ends[row] : ends[row + 1]])
        return asked[row].taught((one.ids, one.finished, float(one.times)) for one in own)

    return Made(len(asked), taught)


def write_lines(answers: Iterable[Answer]) -> str:
    """A line each, as `answers.jsonl` has them."""
    return "".join(json_line(asdict(answer)) for answer in answers)


def write_answer_lines(file: Path, answers: Iterable[Answer]) -> None:
    """The same into a file, one after the other."""
    with atomic_path(file) as part, part.open("w", encoding="utf-8") as lines:
        lines.writelines(json_line(asdict(answer)) for answer in answers)


@dataclass(frozen=True)
class _Question:
    """What the teacher is asked in a row, and what the data answers."""

    row: int
    prompt: tuple[int, ...]
    reference: tuple[int, ...]


def _answered(
    answering: Answering,
    ends: set[int],
    vocab_size: int,
    max_tokens: int,
    num_asked: int,
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[_Question],
    _: Advance,
) -> list[Answer]:
    """What the model says to these, of all that are asked."""
    limits = _Limits(stop_ids_of(model) | ends, vocab_size, max_tokens)
    said = (
        _drawn(model, batch, answering, limits, num_asked)
        if answering.method == "sample"
        else _searched(model, batch, answering, limits)
    )
    return [
        Answer(
            one.row,
            prompt=str(tokenizer.decode(list(one.prompt))),
            answer=str(tokenizer.decode(list(ids[:-1] if ids[-1] in limits.stop_ids else ids))),
            tokens=len(ids),
            finished=ids[-1] in limits.stop_ids,
            times=times,
            ids=list(ids),
        )
        for one, answers in zip(batch, said, strict=True)
        for ids, times in Counter(map(tuple, answers)).items()
    ]


@dataclass(frozen=True)
class _Limits:
    """What ends an answer, and what it is made of."""

    stop_ids: set[int]
    vocab_size: int
    max_tokens: int


def _drawn(
    model: Speaker, batch: Sequence[_Question], answering: Answering, limits: _Limits, num_asked: int
) -> list[list[list[int]]]:
    """Some answers to each prompt. The first is the same however many are drawn."""
    samples = answering.samples or 1
    found = sample(
        model,
        [one.prompt for one in batch for _ in range(samples)],
        sampling=answering.sampling,
        seed=answering.seed,
        numbers=[number * num_asked + one.row for one in batch for number in range(samples)],
        stop_ids=limits.stop_ids,
        vocab_size=limits.vocab_size,
        max_tokens=limits.max_tokens,
        batch_size=answering.batch_size,
    )
    tokens = [one.tokens for one in found]
    return [tokens[start : start + samples] for start in range(0, len(tokens), samples)]


def _searched(
    model: Speaker, batch: Sequence[_Question], answering: Answering, limits: _Limits
) -> list[list[list[int]]]:
    """The best answer to each prompt, or the nearest to the data's."""
    assert isinstance(model, PreTrainedModel), "a recipe asks no other engine for beams"
    assert answering.beams is not None and answering.length_penalty is not None
    found = beam_search(
        model,
        [one.prompt for one in batch],
        beams=answering.beams,
        length_penalty=answering.length_penalty,
        max_new_tokens=answering.sampling.max_new_tokens,
        stop_ids=limits.stop_ids,
        vocab_size=limits.vocab_size,
        max_tokens=limits.max_tokens,
        batch_size=answering.batch_size,
    )
    if answering.method == "beam":
        return [best[:1] for best in found]
    return [[nearest(best, one.reference, stop_ids=limits.stop_ids)] for one, best in zip(batch, found, strict=True)]


def nearest(answers: Sequence[list[int]], reference: Sequence[int], *, stop_ids: set[int]) -> list[int]:
    """The answer with the highest ROUGE-L to the reference, over tokens and without ends; of equals the first.

    Kim and Rush take smoothed BLEU. ROUGE-L needs no smoothing where an answer is short, and no words: tokens of any language
    serve.
    """
    words = [token for token in reference if token not in stop_ids]
    return max(answers, key=lambda answer: rouge_l([token for token in answer if token not in stop_ids], words))
