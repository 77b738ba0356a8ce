"""A tiny tokenizer of BERT's kind, and files to read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *["the", "a", "small", "old", "fox", "man", "girl", "robot", "bird", "boat", "sea", "hill", "house", "garden"],
    *["key", "door", "day", "ran", "saw", "sang", "found", "went", "opened", "over", "into", "and", "to", "in"],
    *["had", "red", "green", "again", "never", "always"],
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,"]


def make_bert_tokenizer(*, segments: bool = True) -> PreTrainedTokenizerFast:
    """WordPiece over a few words and all letters: a word that is not known is spelt. Without `segments` it is DistilBERT's."""
    pieces = [*SPECIALS, *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    wordpiece = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names,
    )


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return make_bert_tokenizer()


@pytest.fixture(scope="session")
def distilbert_tokenizer() -> PreTrainedTokenizerFast:
    return make_bert_tokenizer(segments=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write text as it is, or records as JSON lines; gzipped where the name says so."""

    def write_file(name: str, content: str | list[Any]) -> Path:
        lines = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
        return path

    return write_file
