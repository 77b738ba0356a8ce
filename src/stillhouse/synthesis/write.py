"""Let a teacher answer prompts until there is enough text, and keep what is fit to learn from."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.models.generate import Sampling, generate, stop_ids_of

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
    records: list[dict[str, Any]] = []
    with working(progress, "the teacher writes", num_tokens, "tokens"):
        for number, start in enumerate(range(0, len(prompts), batch_size)):
            part = folder / "parts" / f"{number:05d}.json"
            if not part.exists():
                batch = _answers(
                    model, tokenizer, prompts[start : start + batch_size], sampling, seed=seed * 100_003 + number
                )
                write_atomic(part, json.dumps(batch, ensure_ascii=False))
            records += json.loads(part.read_text(encoding="utf-8"))
            kept_tokens = sum(record["tokens"] for record in records if record["dropped"] is None)
            progress.advance(sum(record["tokens"] for record in records[start:]), f"{len(records)} documents")
            if kept_tokens >= num_tokens:
                return _finish(records, folder)
    raise DataError(
        f"{len(prompts)} prompts gave {kept_tokens:,} tokens of the {num_tokens:,} asked for. "
        "Add words to synthesis.slots, or lower synthesis.tokens."
    )


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], sampling: Sampling, *, seed: int
) -> list[dict[str, Any]]:
    rendered = [as_prompt(tokenizer, prompt) for prompt in prompts]
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in rendered]
    stops = stop_ids_of(model)
    written = generate(model, ids, sampling=sampling, seed=seed)
    return [_record(tokenizer, p, tokens, stops) for p, tokens in zip(rendered, written, strict=True)]


def as_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt in the teacher's chat template, up to where the answer begins; itself if there is no template."""
    if not tokenizer.chat_template:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _record(tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: list[int], stops: set[int]) -> dict[str, Any]:
    finished = bool(tokens) and tokens[-1] in stops
    text = str(tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=False))
    dropped = "too short" if len(tokens) < SHORTEST_TOKENS or not text.strip() else None
    return {"prompt": prompt, "completion": text, "finished": finished, "tokens": len(tokens), "dropped": dropped}


def _finish(records: Sequence[dict[str, Any]], folder: Path) -> SynthesisOutcome:
    """Put the kept answers into one file; an answer given twice is kept once."""
    seen: set[str] = set()
    for record in records:
        if record["dropped"] is None and record["completion"] in seen:
            record["dropped"] = "duplicate"
        seen.add(record["completion"])
    kept = [record for record in records if record["dropped"] is None]
    lines = [{name: record[name] for name in ("prompt", "completion", "finished")} for record in kept]
    write_atomic(folder / "documents.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    dropped = Counter(record["dropped"] for record in records if record["dropped"] is not None)
    return SynthesisOutcome(len(kept), sum(record["tokens"] for record in kept), dict(dropped))
