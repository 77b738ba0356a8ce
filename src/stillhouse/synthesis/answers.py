"""The teacher answers the prompts of the data, before a student learns from its answers: sequence-level distillation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.files import json_line, read_lines, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.rouge import rouge_l
from stillhouse.data.asked import Asked
from stillhouse.models.beams import beam_search
from stillhouse.models.generate import sample, stop_ids_of
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
    asked = [_as_the_teacher_reads(one.at_last) for one in asked]
    order = sorted(range(len(asked)), key=lambda row: len(asked[row].prompt))
    rows = {start: order[start : start + answering.batch_size] for start in range(0, len(order), answering.batch_size)}
    parts = {start: folder / "parts" / f"{start:07d}.jsonl" for start in rows}
    missing = {
        start: [_Question(row, asked[row].prompt, asked[row].reference) for row in rows[start]]
        for start, part in parts.items()
        if not part.exists()
    }
    with working(progress, "the teacher answers", len(asked), "prompts"):
        progress.advance(sum(len(rows[start]) for start in rows if start not in missing))
        write = partial(_answered, answering, ends, vocab_size, max_tokens, len(asked))
        for start, said in hands(write, missing):
            write_atomic(parts[start], write_lines(said))
            progress.advance(len(rows[start]))
    found = [answer for part in parts.values() for answer in read_answers(part)]
    found.sort(
        key=lambda answer: answer.row
    )  # stable: answers to one prompt stay in the order in which they were drawn
    write_atomic(folder / ANSWERS, write_lines(found))
    return outcome_of(found, prompts=len(asked))


def outcome_of(answers: Sequence[Answer], *, prompts: int) -> AnswersOutcome:
    """How much was said to so many prompts."""
    return AnswersOutcome(
        prompts=prompts,
        answers=len(answers),
        tokens=sum(answer.tokens for answer in answers),
        unfinished=sum(not answer.finished for answer in answers),
        repeats=sum(answer.times - 1 for answer in answers),
    )


def _as_the_teacher_reads(asked: Asked) -> Asked:
    if asked.across is not None:
        return asked.across.theirs.at_last
    return replace(asked, prompt=asked.told.prompt) if asked.told else asked


def read_answers(file: Path) -> list[Answer]:
    """What `write_answers` wrote."""
    return [Answer(**line) for line in read_lines(file)]


def answered_by(asked: Sequence[Asked], answers: Sequence[Answer]) -> list[Asked]:
    """The same prompts, with these answers in the place of the data's own."""
    of_row: dict[int, list[Answer]] = {}
    for answer in answers:
        of_row.setdefault(answer.row, []).append(answer)
    return [
        one.taught((said.ids, said.finished, float(said.times)) for said in of_row.get(row, ()))
        for row, one in enumerate(asked)
    ]


def write_lines(answers: Sequence[Answer]) -> str:
    """A line each, as `answers.jsonl` has them."""
    return "".join(json_line(asdict(answer)) for answer in answers)


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
    model: PreTrainedModel,
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
    model: PreTrainedModel, batch: Sequence[_Question], answering: Answering, limits: _Limits, num_asked: int
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
    model: PreTrainedModel, batch: Sequence[_Question], answering: Answering, limits: _Limits
) -> list[list[list[int]]]:
    """The best answer to each prompt, or the nearest to the data's."""
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
