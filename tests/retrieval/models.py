"""Tiny random models with a tokenizer of whole words, made in the test."""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from .cases import TEXTS

WORDS = sorted({word for text in TEXTS for word in text.lower().replace(".", " .").split()})
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCAB)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **named)


def _config(layers: int, hidden: int) -> BertConfig:
    return BertConfig(
        vocab_size=len(VOCAB),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        num_labels=1,
    )


def save_bi_encoder(folder: Path, *, layers: int = 2, hidden: int = 16, seed: int = 0, normalizes: bool = True) -> Path:
    torch.manual_seed(seed)
    BertModel(_config(layers, hidden), add_pooling_layer=False).save_pretrained(folder / "body")
    word_tokenizer().save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"))
    modules: list[Any] = [body, Pooling(hidden)]
    model = SentenceTransformer(modules=[*modules, Normalize()] if normalizes else modules, device="cpu")
    model.similarity_fn_name = "cosine" if normalizes else "dot"
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def save_cross_encoder(folder: Path, *, layers: int = 2, hidden: int = 16, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(_config(layers, hidden))
    model.classifier.weight.data *= 30  # logits as far apart as a trained one's
    model.save_pretrained(folder / "cross")
    word_tokenizer().save_pretrained(folder / "cross")
    return folder / "cross"


def load_cross_encoder(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu")
