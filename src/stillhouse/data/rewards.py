"""Pairs of answers as a reward model reads them: each answer whole, with what was said before it, for one number."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.data.kept import Kept, keep, lengths_of, seen, sizes_of
from stillhouse.data.preference_forms import Preference, Told
from stillhouse.data.rowset import PaddedRows, pad
from stillhouse.data.text import Row

RewardForm = Literal["chat", "plain"]

Read = Mapping[str, Sequence[int]]
"""A tokenizer's columns of one answer: `input_ids`, and where it tells texts apart `token_type_ids`."""


def form_of(tokenizer: PreTrainedTokenizerBase, form: RewardForm | None, *, source: str, key: str) -> RewardForm:
    """How answers are written out: as asked for, else by the chat template where there is one.

    Raises:
        ModelError: where a template is asked for and there is none.
    """
    if form == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"the reward model {source!r} has no chat template, but {key} is 'chat'. Say {key}: plain, or name a reward model "
            "that has one."
        )
    return form or ("chat" if tokenizer.chat_template else "plain")


def read_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, form: RewardForm, **options: Any
) -> Read:
    """What a reward model reads of a conversation that ends with the answer: its chat template, or what was said before and the
    answer as a pair of texts."""
    if form == "chat":
        written = str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False))
        return {"input_ids": tokenizer(written, add_special_tokens=False)["input_ids"]}
    before, answer = "\n".join(str(message["content"]) for message in messages[:-1]), str(messages[-1]["content"])
    texts = (before, answer) if tokenizer.sep_token is not None else (f"{before}\n{answer}",)
    return dict(tokenizer(*texts, **options))


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer with its prompt."""

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None
    """1 where the second of two texts stands; None where the tokenizer does not say."""
    answer_tokens: int
    """Of the answer alone."""


@dataclass(frozen=True)
class RewardPair:
    """Two answers to one prompt, of which one was chosen."""

    chosen: ScoredAnswer
    rejected: ScoredAnswer
    prompt: str
    """What pairs of one prompt share."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of either, with its prompt."""
        return len(self.chosen.ids), len(self.rejected.ids)

    @property
    def sides(self) -> tuple[ScoredAnswer, ScoredAnswer]:
        """The chosen one, then the rejected."""
        return self.chosen, self.rejected


class RewardReader:
    """Turns pairs into tokens, and counts those that are left out: nothing is cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, form: RewardForm) -> None:
        self.tokenizer, self.max_tokens, self.form = tokenizer, max_tokens, form
        self.dropped: Counter[str] = Counter()

    def pairs(self, rows: Iterable[Preference]) -> Kept[RewardPair]:
        """Those of them that can be learnt from."""
        return keep(self._learnt(rows), of=RewardPair)

    def _learnt(self, rows: Iterable[Preference]) -> Iterator[RewardPair]:
        for row in rows:
            pair = RewardPair(self._answer(row.chosen), self._answer(row.rejected), row.text)
            reason = self._reason(pair)
            if reason:
                self.dropped[reason] += 1
            else:
                yield pair

    def _answer(self, told: Told) -> ScoredAnswer:
        messages: Sequence[Mapping[str, Any]]
        if isinstance(told, Row):
            messages = [{"role": "user", "content": told.prompt}, {"role": "assistant", "content": told.text}]
        else:
            messages = told.messages
        read = read_answer(self.tokenizer, messages, form=self.form)
        answer = self.tokenizer(str(messages[-1]["content"]), add_special_tokens=False)["input_ids"]
        segments = read.get("token_type_ids")
        return ScoredAnswer(tuple(read["input_ids"]), None if segments is None else tuple(segments), len(answer))

    def _reason(self, pair: RewardPair) -> str:
        if pair.chosen.ids == pair.rejected.ids:
            return "two answers of the same tokens"
        if max(len(side.ids) for side in pair.sides) > self.max_tokens:
            return f"an answer that ends beyond data.sequence_tokens ({self.max_tokens}), so both are left out"
        return ""


class RewardRows(PaddedRows):
    """Pairs of answers, one a row: a batch has both answers of each, the chosen one first in every other pair only, so that
    whoever finds both equally good is right on half of them."""

    def __init__(self, pairs: Sequence[RewardPair], *, pad_id: int) -> None:
        self.pairs, sizes = pairs, sizes_of(pairs).each(lambda both: both.sum(axis=1, keepdims=True))
        super().__init__(seen(pairs, lambda pair: (*pair.chosen.ids, *pair.rejected.ids), sizes), pad_id=pad_id)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each pair's longer side."""
        return lengths_of(self.pairs)

    @property
    def prompt_numbers(self) -> tuple[int, ...]:
        """The number of each pair's prompt."""
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(pair.prompt for pair in self.pairs))}
        return tuple(numbers[pair.prompt] for pair in self.pairs)

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Pairs as tensors: [2 * pairs, seq] for tokens, and for each pair the place of its chosen answer."""
        places = [number % 2 for number in items]
        sides = [
            side
            for number, place in zip(items, places, strict=True)
            for side in self._in_order(self.pairs[number], place)
        ]
        tensors = {**self.frame([side.ids for side in sides]), "labels": torch.tensor(places)}
        tensors["label_weights"] = torch.ones(len(places))
        segments = [side.segments for side in sides if side.segments is not None]
        return {**tensors, "segments": pad(segments, value=0)} if len(segments) == len(sides) else tensors

    @staticmethod
    def _in_order(pair: RewardPair, place: int) -> tuple[ScoredAnswer, ScoredAnswer]:
        return (pair.rejected, pair.chosen) if place else (pair.chosen, pair.rejected)
