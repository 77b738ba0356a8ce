"""Write a student down: a plain Hugging Face folder that needs nothing of ours."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.signals import Pooling
from stillhouse.models.anatomy import text_config
from stillhouse.models.sentence_folder import Embedding, write_embedding


def save_student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    pooling: Pooling | None = None,
    normalizes: bool = False,
) -> None:
    """Write model and tokenizer; with `pooling`, also what lets `SentenceTransformer(folder)` give the same embeddings."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling is not None:
        embedding = Embedding(pooling, normalizes)
        write_embedding(
            folder, embedding, width=text_config(model).hidden_size, max_tokens=_max_tokens(model, tokenizer)
        )


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest text that the model has positions for, if its tokenizer does not stop before."""
    config = text_config(model)
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    if hasattr(getattr(model.base_model, "embeddings", None), "padding_idx"):
        positions -= config.pad_token_id + 1  # RoBERTa and its kin count on from there
    return int(min(positions, tokenizer.model_max_length))
