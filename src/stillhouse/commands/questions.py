"""What is held out, as questions: conversations up to their last answer, prompts, or how texts begin."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.held_out import held_out_examples
from stillhouse.data.asked import PROMPT_TOKENS
from stillhouse.data.config import ChatDataConfig, DataConfig
from stillhouse.data.examples import Example
from stillhouse.data.prepare import chat_sides
from stillhouse.evaluation.asking import Question


def held_out_questions(parts: Parts) -> list[Question]:
    """What a recipe holds out."""
    return questions_of(parts.recipe.data, parts.data_path, held_out_examples(parts), parts.tokenizer)


def questions_of(
    data: DataConfig, path: Path, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    """Each with what the data goes on with; not those conversations that tools answer in, or that are written in segments."""
    if isinstance(data, ChatDataConfig):
        return list(_conversations(data, path))
    return list(_beginnings(examples, tokenizer))


def _conversations(data: ChatDataConfig, path: Path) -> Iterator[Question]:
    for one in chat_sides(data, path)[1]:
        messages = [] if one.segments else one.messages
        last = next((n for n in reversed(range(len(messages))) if messages[n]["role"] == "assistant"), 0)
        plain = tuple({"role": m["role"], "content": m["content"]} for m in messages[:last])
        if plain and plain[-1]["role"] == "user" and all(m["role"] in ("system", "user", "assistant") for m in plain):
            yield Question(plain, reference=str(messages[last]["content"]))


def _beginnings(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    for example in examples:
        given = _prompt_tokens(example.weights)
        begins, goes_on = (str(tokenizer.decode(list(ids))) for ids in (example.ids[:given], example.ids[given:]))
        yield Question(prefix=begins, reference=goes_on)


def _prompt_tokens(weights: tuple[float, ...]) -> int:
    """Of a row with a prompt of its own, that; of any other text a few tokens, and at most half of it."""
    own = next((place for place, weight in enumerate(weights) if weight > 0), 0)
    return own if own > 1 else max(1, min(PROMPT_TOKENS, len(weights) // 2))
