"""Write a student down: a plain Hugging Face folder that needs nothing of ours."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.signals import Pooling
from stillhouse.models.anatomy import most_tokens, text_config
from stillhouse.models.sentence_folder import Embedding, write_embedding


def save_student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    pooling: Pooling | None = None,
    normalizes: bool = False,
    max_tokens: int | None = None,
) -> None:
    """Write model and tokenizer; with `pooling`, also what lets `SentenceTransformer(folder)` give the same embeddings, of
    the first `max_tokens` of a text, or of as many as the model can read.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling is not None:
        longest = _longest(model, tokenizer)
        write_embedding(
            folder,
            Embedding(pooling, normalizes),
            width=text_config(model).hidden_size,
            max_tokens=longest if max_tokens is None else min(max_tokens, longest),
        )


def _longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest text that the model has positions for, if its tokenizer does not stop before."""
    return int(min(most_tokens(model) or tokenizer.model_max_length, tokenizer.model_max_length))
