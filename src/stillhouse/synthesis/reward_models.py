"""Rewards that a model gives: one trained for it, or two whose difference is one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.core.files import append_line, fingerprint, read_lines
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.data.rewards import RewardForm, form_of, read_answer
from stillhouse.models.anatomy import most_tokens, understood
from stillhouse.models.answer_logprobs import Answered, answer_logprobs
from stillhouse.models.isolation import evaluating
from stillhouse.models.load import LoadedModel, pad_id_of, vocabulary_fingerprint
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.synthesis.records import Record, Reward

CHUNK_RECORDS = 128
"""Answers that are scored, and written down, in one go: a kill costs at most these."""

TextForm = RewardForm


class ModelReward:
    """A sequence-classification model with one output.

    With `chat` it reads the conversation in its own chat template, with `plain` what was said before and the answer as a
    pair of texts. What is longer than it reads loses its beginning (of a pair the longer text its end); `cut` counts these.
    """

    name = "reward_model"

    def __init__(self, loaded: LoadedModel, *, form: TextForm | None = None, batch_size: int = 16) -> None:
        self.loaded, self.batch_size = loaded, batch_size
        self.form: TextForm = form_of(loaded.tokenizer, form, source=loaded.source, key="form")
        self.most = most_tokens(loaded.model)
        self.cut = 0

    @property
    def counts(self) -> dict[str, float]:
        """What the report says beside the scores."""
        return {"cut": self.cut}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number an answer."""
        read = [self._read(record) for record in records]
        order = sorted(range(len(read)), key=lambda row: len(read[row]["input_ids"]))
        found = [math.nan] * len(read)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, value in zip(rows, self._scores([read[row] for row in rows]), strict=True):
                found[row] = value
        return found

    def _read(self, record: Record) -> dict[str, list[int]]:
        """What the model reads of one record."""
        messages = record.messages or ({"role": "assistant", "content": record.text},)
        read = self._columns(messages)
        is_long = self.most is not None and len(read["input_ids"]) > self.most
        self.cut += is_long
        if is_long and self.form == "plain":
            return self._columns(messages, truncation=True, max_length=self.most)
        return {name: values[-self.most :] for name, values in read.items()} if is_long and self.most else read

    def _columns(self, messages: Sequence[Mapping[str, str]], **options: Any) -> dict[str, list[int]]:
        found = read_answer(self.loaded.tokenizer, messages, form=self.form, **options)
        return {name: list(values) for name, values in found.items()}

    @torch.no_grad()
    def _scores(self, rows: Sequence[dict[str, list[int]]]) -> list[float]:
        model, width = self.loaded.model, max(len(row["input_ids"]) for row in rows)

        def padded(name: str, padding: int) -> torch.Tensor:
            values = [row[name] + [padding] * (width - len(row[name])) for row in rows]
            return torch.tensor(values, device=model.device)

        segments = padded("token_type_ids", 0) if all("token_type_ids" in row for row in rows) else None
        lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=model.device)
        arguments = understood(
            model,
            input_ids=padded("input_ids", pad_id_of(self.loaded.tokenizer)),
            attention_mask=(torch.arange(width, device=model.device)[None] < lengths[:, None]).long(),
            token_type_ids=segments,
            use_cache=False,
        )
        with evaluating(model):
            logits: torch.Tensor = model(**arguments).logits
        return [float(value) for value in logits[:, 0].double().tolist()]


class ImplicitReward:
    """What an RLHF-trained model was trained to prefer: `beta * (log pi_tuned - log pi_reference)` of the whole answer, its end
    of turn included where it came to one. Both read the conversation in the tuned model's chat template.

    Raises:
        ModelError: unless both have one vocabulary.

    Source: Rafailov et al., 2023, arXiv:2305.18290, equation 5, without the part that depends on the prompt alone.
    """

    name = "implicit"

    def __init__(self, tuned: LoadedModel, reference: LoadedModel, *, beta: float = 0.1, batch_size: int = 8) -> None:
        if vocabulary_fingerprint(tuned.tokenizer) != vocabulary_fingerprint(reference.tokenizer):
            raise ModelError(
                f"the implicit reward compares token by token, but {tuned.source!r} and {reference.source!r} have different "
                "tokenizers. Name as reference the model that the tuned one was trained from."
            )
        self.tuned, self.reference, self.beta, self.batch_size = tuned, reference, beta, batch_size

    @property
    def counts(self) -> dict[str, float]:
        """Nothing beside the scores."""
        return {}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number an answer, in units of beta nats; NaN where the conversation is longer than a model reads."""
        rows = [in_tokens(self.tuned.tokenizer, record) for record in records]
        bounds = [most for one in (self.tuned, self.reference) if (most := most_tokens(one.model)) is not None]
        fits = [n for n, row in enumerate(rows) if all(len(row.prompt) + len(row.answer) <= most for most in bounds)]
        ours, theirs = (
            answer_logprobs(one.model, [rows[n] for n in fits], batch_size=self.batch_size)
            for one in (self.tuned, self.reference)
        )
        found = [math.nan] * len(rows)
        for number, tuned, reference in zip(fits, ours, theirs, strict=True):
            found[number] = self.beta * (tuned - reference)
        return found


def in_tokens(tokenizer: PreTrainedTokenizerBase, record: Record) -> Answered:
    """The record as a model reads it: all before the last answer, and that answer with its end, where it has one."""
    if record.messages and not tokenizer.chat_template:
        raise ModelError(
            "the implicit reward needs a chat template for conversations. Name a tuned model that has one."
        )
    before = [dict(message) for message in record.messages[:-1]]
    shown = str(tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)) if before else ""
    prompt = list(tokenizer(shown, add_special_tokens=False)["input_ids"]) or [beginning_of(tokenizer)]
    answer = list(tokenizer(record.answer, add_special_tokens=False)["input_ids"])
    end = end_of_turn(tokenizer) if record.messages else tokenizer.eos_token_id
    return Answered(tuple(prompt), (*answer, *([end] if record.finished and isinstance(end, int) else [])))


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before a text of which nothing is written yet."""
    found = next((n for n in (tokenizer.bos_token_id, tokenizer.eos_token_id) if n is not None), None)
    if found is None:
        raise ModelError(
            "the tokenizer has no token that a text could begin with, so its first token has no probability."
        )
    return int(found)


@dataclass(frozen=True)
class Remembered:
    """The same reward, which writes each score down when it comes: nothing is scored twice. Killed at any instant, the same
    answers in the same order get the same scores.
    """

    reward: Callable[[Sequence[Record]], Sequence[float]]
    file: Path
    made_from: str
    """Hash of all that the scores depend on beside the record."""
    progress: Progress = SILENT

    @property
    def name(self) -> str:
        """That of the reward."""
        return str(getattr(self.reward, "name", "reward"))

    @property
    def counts(self) -> dict[str, float]:
        """Those of the reward."""
        return dict(getattr(self.reward, "counts", {}))

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number an answer."""
        known = {line["key"]: line["score"] for line in read_lines(self.file)}
        keys = [self._key(record) for record in records]
        with working(self.progress, "answers are scored", len(records), "answers"):
            for start in range(0, len(records), CHUNK_RECORDS):
                part = slice(start, start + CHUNK_RECORDS)
                if any(key not in known for key in keys[part]):  # as a whole: a score's last digit knows its batch
                    scores = self.reward(records[part])
                    for key, score in zip(keys[part], scores, strict=True):
                        if key not in known:
                            known[key] = None if math.isnan(score) else float(score)
                            append_line(self.file, {"key": key, "score": known[key]})
                self.progress.advance(len(keys[part]))
        return [math.nan if known[key] is None else float(known[key]) for key in keys]

    def _key(self, record: Record) -> str:
        return fingerprint([self.made_from, list(map(dict, record.messages)), record.text, record.finished])


def remembered(reward: Reward, *, folder: Path | None, made_from: Sequence[Any], progress: Progress = SILENT) -> Reward:
    """The reward with a memory in `folder`; without a folder the reward itself."""
    if folder is None:
        return reward
    folder.mkdir(parents=True, exist_ok=True)
    return Remembered(reward, folder / "rewards.jsonl", fingerprint(list(made_from)), progress)
