"""Let a teacher answer prompts until there is enough text, and keep what is fit to learn from."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import read_json, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.models.generate import Sampling, generate, stop_ids_of
from stillhouse.synthesis.records import Ask, asking

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

    def answered(asked: Sequence[str], number: int) -> list[dict[str, Any]]:
        part = folder / "parts" / f"{number:05d}.json"
        if part.exists():
            known: list[dict[str, Any]] = read_json(part, mend="Remove it, and it is written again.")
            progress.advance(sum(answer["tokens"] for answer in known))
            return known
        answers = _answers(model, tokenizer, asked, sampling, seed=seed * 100_003 + number, progress=progress)
        write_atomic(part, json.dumps(answers, ensure_ascii=False))
        return answers

    with working(progress, "the teacher writes", num_tokens, "tokens"):
        records = _until_enough(answered, prompts, num_tokens, sampling=sampling, batch_size=batch_size)
    return _finish(records, folder)


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

    def answered(asked: Sequence[str], number: int) -> list[dict[str, Any]]:
        return _asked(ask, asked, sampling, seed=f"{seed}, prompts {number}")

    return _finish(_until_enough(answered, prompts, num_tokens, sampling=sampling, batch_size=batch_size), folder)


def _until_enough(
    answered: Callable[[Sequence[str], int], list[dict[str, Any]]],
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
        wanted = _answers_wanted(records, num_tokens - kept_tokens, sampling=sampling, batch_size=batch_size)
        asked = prompts[len(records) : len(records) + wanted]
        if kept_tokens >= num_tokens or not asked:
            break
        records += answered(asked, number)
        _drop_repeats(records)
        kept_tokens = sum(record["tokens"] for record in records if record["dropped"] is None)
    if kept_tokens < num_tokens:
        raise DataError(
            f"{len(prompts)} prompts gave {kept_tokens:,} tokens of the {num_tokens:,} asked for. "
            "Add words to synthesis.slots, or lower synthesis.tokens."
        )
    return records


def _answers_wanted(
    records: Sequence[dict[str, Any]], missing_tokens: int, *, sampling: Sampling, batch_size: int
) -> int:
    """A whole batch, or as many answers as are likely to give the tokens still missing."""
    mean_tokens = sum(record["tokens"] for record in records) / len(records) if records else sampling.max_new_tokens
    return min(batch_size, max(1, math.ceil(missing_tokens / max(1, mean_tokens))))


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    rendered = [as_prompt(tokenizer, prompt) for prompt in prompts]
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in rendered]
    stops = stop_ids_of(model)
    written = generate(model, ids, sampling=sampling, seed=seed, advance=progress.advance)
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What `synthesize` would begin with: answers to the first prompts, each with the reason to drop it, if there is one."""
    records = _answers(model, tokenizer, prompts, sampling, seed=seed * 100_003, progress=SILENT)
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
