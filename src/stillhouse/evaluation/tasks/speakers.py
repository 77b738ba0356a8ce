"""A model with the tokenizer that it reads by: how likely it finds an answer, and what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.data.text import start_ids
from stillhouse.evaluation.tasks.rows import Choice
from stillhouse.models.anatomy import most_tokens
from stillhouse.models.answer_logprobs import Answered, answer_logprobs
from stillhouse.models.generate import Sampling, sample, stop_ids_of
from stillhouse.models.tokenizers import end_of_turn

BATCH_ROWS = 16
"""Answers that are weighed, or written, at once."""


@dataclass(frozen=True)
class Speaker:
    """A model that can be asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def ids(self, text: str) -> list[int]:
        """A text in this model's tokens, without any that it adds."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def asked(self, prompt: str, form: str) -> str:
        """The prompt as this model is asked it."""
        if form == "text":
            return prompt
        if not self.tokenizer.chat_template:
            raise ModelError(
                "a task of evaluation.tasks has form: chat, but a model's tokenizer has no chat template. Use form: text."
            )
        turns = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def beginning(self, prompt: str) -> list[int]:
        """What a prompt begins with: all begin with what the tokenizer itself begins with, and nothing with a start."""
        first = list(self.tokenizer("a")["input_ids"])[:1]
        own = first if first and first[0] == self.tokenizer.bos_token_id else []
        start = own if prompt else start_ids(self.tokenizer)
        if not start and not prompt:
            raise ModelError(
                "a sentence is to be weighed from its first token on, but a model's tokenizer has neither a beginning nor an "
                "end of text to predict it from. Use multiple_choice with a prompt."
            )
        return start

    def answered(self, prompt: str, answer: str) -> Answered:
        """Prompt and answer in tokens. Both are cut as one text, so that a word is not cut where the prompt ends; a token
        that stands on both sides counts to the answer, and so does a space at the end of the prompt."""
        bare = prompt.rstrip(" ")
        given, whole = self.ids(bare), self.ids(prompt + answer)
        shared = _num_shared(given, whole[:-1])
        before = [*self.beginning(bare), *whole[:shared]] or start_ids(self.tokenizer)
        if not before:  # nothing predicts the first token
            before, shared = whole[:1], 1
        return Answered(tuple(before), tuple(whole[shared:]))

    def weigh(self, questions: Sequence[Choice], *, form: str = "text") -> list[list[float] | None]:
        """Log-probability of every choice, in nats; None for a question that is longer than the model reads."""
        rows = [[self.answered(self.asked(q.prompt, form), choice) for choice in q.choices] for q in questions]
        room = most_tokens(self.model)
        fits = [all(room is None or len(row.prompt) + len(row.answer) <= room for row in several) for several in rows]
        flat = [row for several, fit in zip(rows, fits, strict=True) if fit for row in several]
        found = iter(answer_logprobs(self.model, flat, batch_size=BATCH_ROWS))
        return [[next(found) for _ in several] if fit else None for several, fit in zip(rows, fits, strict=True)]

    def write(self, prompts: Sequence[str], *, form: str, max_new_tokens: int) -> list[tuple[str, bool] | None]:
        """What the model writes, greedily, and whether it came to an end; None after a prompt that it has no room for."""
        room = most_tokens(self.model)
        asked = [self.asked(prompt, form) for prompt in prompts]
        ids = [(self.beginning(prompt) if form == "text" else []) + self.ids(prompt) for prompt in asked]
        fits = [room is None or len(one) + max_new_tokens <= room for one in ids]
        stops = stop_ids_of(self.model)
        ends = (end_of_turn(self.tokenizer) if form == "chat" else None, self.tokenizer.eos_token_id)
        stops |= {end for end in ends if isinstance(end, int)}
        written = iter(
            sample(
                self.model,
                [one for one, fit in zip(ids, fits, strict=True) if fit],
                sampling=Sampling(temperature=0.0, max_new_tokens=max_new_tokens),
                seed=0,
                stop_ids=stops,
                vocab_size=len(self.tokenizer),
                batch_size=BATCH_ROWS,
            )
        )
        return [self._said(next(written).tokens, stops) if fit else None for fit in fits]

    def _said(self, tokens: Sequence[int], stops: set[int]) -> tuple[str, bool]:
        text = str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return text, bool(tokens) and tokens[-1] in stops


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
