"""Tokenizers made for one set of texts: trained on them, or a teacher's cut down to the tokens that they use.

A small model spends much of itself on its vocabulary: 49,152 tokens at width 128 are 6.3 million numbers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stillhouse.core.errors import DataError, ModelError
from stillhouse.models.anatomy import text_config

END = "<|endoftext|>"
BYTES = 256


def train_tokenizer(texts: Iterable[str], *, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size` tokens, fewer where the texts give no more: any text can be written in it.

    Raises:
        DataError: for a size that does not hold every byte and the end of a text.
    """
    if size <= BYTES:
        raise DataError(
            f"tokenizer.size is {size}, but {BYTES} bytes and the end of a text need {BYTES + 1}. Raise it."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


@dataclass(frozen=True)
class Trimmed:
    """A tokenizer with fewer tokens."""

    tokenizer: PreTrainedTokenizerFast
    kept: tuple[int, ...]
    """The number that each of its tokens has in the whole one."""


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Trimmed:
    """The tokenizer with the tokens that these texts use, whatever those are merged from, every byte, and the special ones.

    It cuts these texts as the whole one does. Others it may cut finer, and it can write all that the whole one can: a merge
    that is left out is one that these texts never make.

    Raises:
        ModelError: if it does not merge pairs (BPE), so that fewer tokens would cut texts in other places.
    """
    state = _state_of(tokenizer)
    model, vocabulary = state["model"], state["model"]["vocab"]
    names = {number: name for name, number in vocabulary.items()}
    used = {names[number] for text in texts for number in _ids(tokenizer, text) if number in names}
    added = {token["content"] for token in state["added_tokens"]}
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    wanted = {*_with_origins(used, merges), *_bytes_of(vocabulary), *(added & vocabulary.keys())}
    ordered = sorted(wanted, key=lambda name: vocabulary[name])
    outside = sorted(
        (token for token in state["added_tokens"] if token["content"] not in vocabulary), key=lambda t: t["id"]
    )
    kept = (*(vocabulary[name] for name in ordered), *(token["id"] for token in outside))
    number_of = {before: after for after, before in enumerate(kept)}
    model["vocab"] = {name: place for place, name in enumerate(ordered)}
    model["merges"] = [list(pair) for pair in merges if {*pair, "".join(pair)} <= wanted]
    for token in state["added_tokens"]:
        token["id"] = number_of[token["id"]]
    _renumber(state.get("post_processor"), number_of)
    cut = Tokenizer.from_str(json.dumps(state))
    return Trimmed(_like(tokenizer, cut), kept)


def _state_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = {} if backend is None else json.loads(backend.to_str())
    if state.get("model", {}).get("type") != "BPE":
        raise ModelError(
            f"tokenizer.kind trimmed needs a teacher whose tokenizer merges pairs (BPE), and {type(tokenizer).__name__} does "
            "not. Use tokenizer: {kind: trained}."
        )
    return dict(state)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _with_origins(used: set[str], merges: Sequence[tuple[str, ...]]) -> set[str]:
    """These tokens and all that they, or their parts, can be merged from."""
    found = set(used)
    # A merge is learnt after those that make its parts, so that one pass from the last to the first finds all.
    for pair in reversed(merges):
        if "".join(pair) in found:
            found.update(pair)
    return found


def _bytes_of(vocabulary: Mapping[str, int]) -> set[str]:
    """The tokens by which every text can be written: single characters of a byte-level alphabet, and `<0x0A>`."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spelt = {f"<0x{number:02X}>" for number in range(BYTES)}
    return (alphabet | spelt) & vocabulary.keys()


def _renumber(processor: Any, number_of: Mapping[int, int]) -> None:
    """Special tokens that are put around texts are named by their numbers, too."""
    for one in (processor or {}).get("processors", [processor] if processor else []):
        for token in one.get("special_tokens", {}).values() if isinstance(one.get("special_tokens"), dict) else ():
            token["ids"] = [number_of[number] for number in token["ids"]]


def _like(tokenizer: PreTrainedTokenizerBase, cut: Tokenizer) -> PreTrainedTokenizerFast:
    """With the same special tokens and the same chat template; what ends a text pads, where nothing else does."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    made = PreTrainedTokenizerFast(tokenizer_object=cut, **{"pad_token": special.get("eos_token"), **special})
    made.chat_template = tokenizer.chat_template
    return made


@torch.no_grad()
def trim_model(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """The model, changed in place, with the rows of these tokens alone in embedding and head: its logits for them are what
    they were.

    Raises:
        ModelError: if its head is not made of one row a token.
    """
    rows = torch.tensor(kept, device=model.device)
    whole: Any = model
    embedding, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(f"{type(model).__name__} has a head that cannot be cut. Use tokenizer: {{kind: trained}}.")
    weights = {"input": embedding.weight[rows].clone(), "head": head.weight[rows].clone()}
    whole.resize_token_embeddings(len(kept), mean_resizing=False)
    whole.get_input_embeddings().weight.copy_(weights["input"])
    whole.get_output_embeddings().weight.copy_(weights["head"])
    number_of = {before: after for after, before in enumerate(kept)}
    settings = text_config(model)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        number = getattr(settings, name, None)
        setattr(settings, name, number_of.get(number) if isinstance(number, int) else None)
    return model
