"""Let a teacher answer prompts until there is enough text, and keep what is fit to learn from."""

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import read_json, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.models.generate import Sampling, Speaker, generate, stop_ids_of
from stillhouse.synthesis.records import Ask, asking
from stillhouse.teachers.hands import Advance, Hands, OwnHands, unheard

SHORTEST_TOKENS = 16
"""A shorter answer is a refusal or an accident, not a text."""


@dataclass(frozen=True)
class SynthesisOutcome:
    """What was written and what was dropped, by reason."""

    documents: int
    tokens: int
    dropped: dict[str, int]


def synthesize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: Sequence[str],
    folder: Path,
    num_tokens: int,
    sampling: Sampling,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SynthesisOutcome:
    """Write `documents.jsonl` in `folder`: answers to the first prompts that give `num_tokens` tokens to learn.

    Answers are kept batch by batch as they come; started again after a kill, it goes on behind the last whole batch and
    ends with the same file, byte for byte.

    Raises:
        DataError: if the prompts are used up first.
    """
    return synthesize_by(
        OwnHands(model, tokenizer),
        tokenizer,
        prompts=prompts,
        folder=folder,
        num_tokens=num_tokens,
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


def synthesize_by(
    hands: Hands,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: Sequence[str],
    folder: Path,
    num_tokens: int,
    sampling: Sampling,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SynthesisOutcome:
    """The same by whoever holds the model. Where many can write at once they are given the batches that will be asked for if
    answers stay as long as they were: the file is the same, and of what is written a few batches may not be needed."""

    parts = folder / "parts"

    def answered(turn: _Turn) -> list[dict[str, Any]]:
        part, ahead, heard = parts / turn.file, parts / turn.file_ahead, 0

        def hear(num_tokens: int) -> None:
            nonlocal heard
            heard += num_tokens
            progress.advance(num_tokens)

        if not part.exists() and ahead.exists() and turn.wanted == batch_size:
            os.replace(ahead, part)
        if not part.exists():
            likely = turn.behind(batch_size) if hands.at_once > 1 else []
            behind = [one for one in likely if len(one.among(prompts)) == batch_size]
            files = {turn: part} | {one: parts / one.file_ahead for one in behind}
            turns = {one.number: one for one, file in files.items() if not file.exists()}
            batches = {number: _Batch(number, one.among(prompts)) for number, one in turns.items()}
            for number, said in hands(partial(_write, sampling, seed), batches, advance=hear):
                write_atomic(files[turns[number]], json.dumps(said, ensure_ascii=False))
        known: list[dict[str, Any]] = read_json(part, mend="Remove it, and it is written again.")
        progress.advance(sum(answer["tokens"] for answer in known) - heard)
        return known

    with working(progress, "the teacher writes", num_tokens, "tokens"):
        records = _until_enough(answered, prompts, num_tokens, sampling=sampling, batch_size=batch_size)
    for unneeded in parts.glob(AHEAD.format("*", "*")):
        unneeded.unlink()
    return _finish(records, folder)


AHEAD = "{}-from-{}.json"
"""A whole batch that was written before it was asked for: its number, and the first of its prompts."""


@dataclass(frozen=True)
class _Turn:
    """A batch that is asked for: its number, and the prompts that it takes of all."""

    number: int
    first: int
    wanted: int
    likely: int
    """Whole batches that it will take from here, if answers stay as long as they were."""

    @property
    def file(self) -> str:
        """Where the answers are kept."""
        return f"{self.number:05d}.json"

    @property
    def file_ahead(self) -> str:
        """Where they wait if they came before they were asked for."""
        return AHEAD.format(f"{self.number:05d}", self.first)

    def among(self, prompts: Sequence[str]) -> Sequence[str]:
        """Those that are asked."""
        return prompts[self.first : self.first + self.wanted]

    def behind(self, batch_size: int) -> list["_Turn"]:
        """The whole batches that are likely to come after this one."""
        further = range(1, self.likely) if self.wanted == batch_size else ()
        return [replace(self, number=self.number + n, first=self.first + n * batch_size) for n in further]


@dataclass(frozen=True)
class _Batch:
    """Prompts that are answered together, and the batch's number, on which the draws depend."""

    number: int
    prompts: Sequence[str]


def _write(
    sampling: Sampling,
    seed: int,
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    batch: _Batch,
    advance: Advance,
) -> list[dict[str, Any]]:
    drawn_by = seed * 100_003 + batch.number
    return _answers(model, tokenizer, batch.prompts, sampling, seed=drawn_by, advance=advance)


def synthesize_asking(
    ask: Ask,
    *,
    prompts: Sequence[str],
    folder: Path,
    num_tokens: int,
    sampling: Sampling,
    batch_size: int = 64,
    seed: int = 0,
) -> SynthesisOutcome:
    """The same by whoever is asked in words, as a teacher behind an API, which counts the tokens. Who asks keeps the replies.

    Raises:
        StillhouseError: as the writer does, and if the prompts are used up first.
    """

    def answered(turn: _Turn) -> list[dict[str, Any]]:
        return _asked(ask, turn.among(prompts), sampling, seed=f"{seed}, prompts {turn.number}")

    return _finish(_until_enough(answered, prompts, num_tokens, sampling=sampling, batch_size=batch_size), folder)


def _until_enough(
    answered: Callable[[_Turn], list[dict[str, Any]]],
    prompts: Sequence[str],
    num_tokens: int,
    *,
    sampling: Sampling,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Batch by batch, each with its number, until so many tokens are kept."""
    records: list[dict[str, Any]] = []
    kept_tokens = 0
    for number in itertools.count():
        if kept_tokens >= num_tokens or len(records) >= len(prompts):
            break
        likely = max(1, num_tokens - kept_tokens) / _mean_tokens(records, sampling)
        wanted = min(batch_size, max(1, math.ceil(likely)))
        records += answered(_Turn(number, len(records), wanted, math.floor(likely / batch_size)))
        _drop_repeats(records)
        kept_tokens = sum(record["tokens"] for record in records if record["dropped"] is None)
    if kept_tokens < num_tokens:
        raise DataError(
            f"{len(prompts)} prompts gave {kept_tokens:,} tokens of the {num_tokens:,} asked for. "
            "Add words to synthesis.slots, or lower synthesis.tokens."
        )
    return records


def _mean_tokens(records: Sequence[dict[str, Any]], sampling: Sampling) -> float:
    """Of an answer; before there is one, the most that it may have."""
    return max(1, sum(record["tokens"] for record in records) / len(records) if records else sampling.max_new_tokens)


def _answers(
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    seed: int,
    advance: Advance = unheard,
) -> list[dict[str, Any]]:
    rendered = [as_prompt(tokenizer, prompt) for prompt in prompts]
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in rendered]
    stops = stop_ids_of(model)
    written = generate(model, ids, sampling=sampling, seed=seed, advance=advance)
    return [_decoded(tokenizer, p, tokens, stops) for p, tokens in zip(rendered, written, strict=True)]


def _asked(ask: Ask, prompts: Sequence[str], sampling: Sampling, *, seed: str) -> list[dict[str, Any]]:
    requests = [
        asking(f"{seed}, {place}", [{"role": "user", "content": prompt}], sampling=sampling)
        for place, prompt in enumerate(prompts)
    ]
    replies = ask(requests, title="the teacher writes")
    return [
        _record(prompt, reply.text, finished=reply.finished, num_tokens=reply.tokens)
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def as_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt in the teacher's chat template, up to where the answer begins; itself if there is no template."""
    if not tokenizer.chat_template:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def first_answers(
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What `synthesize` would begin with: answers to the first prompts, each with the reason to drop it, if there is one."""
    records = _answers(model, tokenizer, prompts, sampling, seed=seed * 100_003)
    _drop_repeats(records)
    return records


def first_answers_asking(
    ask: Ask, prompts: Sequence[str], sampling: Sampling, *, seed: int = 0
) -> list[dict[str, Any]]:
    """The same of `synthesize_asking`."""
    records = _asked(ask, prompts, sampling, seed=f"{seed}, prompts 0")
    _drop_repeats(records)
    return records


def _decoded(tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: list[int], stops: set[int]) -> dict[str, Any]:
    finished = bool(tokens) and tokens[-1] in stops
    text = str(tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=False))
    return _record(prompt, text, finished=finished, num_tokens=len(tokens))


def _record(prompt: str, text: str, *, finished: bool, num_tokens: int) -> dict[str, Any]:
    dropped = "too short" if num_tokens < SHORTEST_TOKENS or not text.strip() else None
    return {"prompt": prompt, "completion": text, "finished": finished, "tokens": num_tokens, "dropped": dropped}


def _drop_repeats(records: Sequence[dict[str, Any]]) -> None:
    """An answer given twice is kept once."""
    seen: set[str] = set()
    for record in records:
        if record["dropped"] is None and record["completion"] in seen:
            record["dropped"] = "duplicate"
        seen.add(record["completion"])


def _finish(records: Sequence[dict[str, Any]], folder: Path) -> SynthesisOutcome:
    """Put the kept answers into one file."""
    kept = [record for record in records if record["dropped"] is None]
    lines = [{name: record[name] for name in ("prompt", "completion", "finished")} for record in kept]
    write_atomic(folder / "documents.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    dropped = Counter(record["dropped"] for record in records if record["dropped"] is not None)
    return SynthesisOutcome(len(kept), sum(record["tokens"] for record in kept), dict(dropped))
