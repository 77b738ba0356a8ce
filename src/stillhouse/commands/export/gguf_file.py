"""A student as one GGUF file, which llama.cpp, Ollama and LM Studio read: by the library that llama.cpp's own converter writes
with, for the few families whose layout is known here."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Stored
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import head_width, num_heads, num_key_heads, num_layers
from stillhouse.models.load import LoadedModel

FAMILIES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""What llama.cpp calls each; Mistral's layout is Llama's."""
STORED = {
    "q8_0": Stored.Q8_0,
    "q5_1": Stored.Q5_1,
    "q5_0": Stored.Q5_0,
    "q4_1": Stored.Q4_1,
    "q4_0": Stored.Q4_0,
    "bf16": Stored.BF16,
    "f16": Stored.F16,
    "f32": Stored.F32,
}
FILE_TYPES = {
    name: getattr(gguf.LlamaFileType, f"MOSTLY_{name.upper()}", gguf.LlamaFileType.ALL_F32) for name in STORED
}
ROW = 32
"""Numbers that share a scale: a row of weights is cut into such blocks."""

_LETTERS_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    ("ByteLevel", False): "gpt-2",
    ("Digits ByteLevel", False): "smollm",
    (_LETTERS_NUMBERS % "{1,3}", True): "llama-bpe",
    (_LETTERS_NUMBERS % "{1,3}", False): "smaug-bpe",
    (_LETTERS_NUMBERS % "", False): "qwen2",
    (_TEKKEN, True): "tekken",
}
"""How a tokenizer cuts a text before it merges, and whether it takes a whole word that it knows without merging; and the name
under which llama.cpp has the same."""

HARD_TEXT = (
    "Line one.\n\n  Line two:\tI've 3 33 333 apples, she'LL have 4.5 %!\r\n   ... 'quoted' --- über naïve coöperate "
    "Ünïcode на русском 我想在 apple 工作 😶\u200d🌫️ ```def f(x):\n    return x**2```  end "
)
"""What tokenizers disagree on: numbers, spaces, contractions, other scripts, signs that are several bytes."""
CONVERTER = "llama.cpp's own converter knows more: `python convert_hf_to_gguf.py STUDENT` in a checkout of llama.cpp."


def check_gguf(loaded: LoadedModel) -> None:
    """Refuse a model that cannot be said in GGUF here, before anything is written.

    Raises:
        ModelError: saying why, and who may know more.
    """
    config = loaded.model.config
    rope = _rope(config)
    reasons = {
        f"its task is {loaded.task}, and GGUF is for models that write": loaded.task != "causal_lm",
        f"its family is {config.model_type}, and known are {', '.join(FAMILIES)}": config.model_type not in FAMILIES,
        "its projections have biases that this family has not in llama.cpp": (
            config.model_type != "qwen2"
            and any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))
        ),
        f"its attention reads a window of {getattr(config, 'sliding_window', None)} tokens": _window(config)
        is not None,
        f"its positions are scaled as {rope}": rope not in ("default", "llama3", "linear")
        or (rope != "default" and FAMILIES.get(config.model_type) != gguf.MODEL_ARCH.LLAMA),
        f"its activation is {getattr(config, 'hidden_act', None)}": getattr(config, "hidden_act", "silu") != "silu",
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ModelError(f"--to gguf cannot write this model: {found[0]}. {CONVERTER}")
    cut_of(loaded.tokenizer)


def write_gguf(loaded: LoadedModel, file: Path, *, quantise: str, name: str, licence: str) -> list[str]:
    """Write the file, and return what one should know of it.

    Raises:
        ModelError: for a model or a tokenizer that cannot be said in GGUF here.
    """
    check_gguf(loaded)
    arch = FAMILIES[loaded.model.config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch], use_temp_file=True)
    try:
        _say_what_it_is(writer, loaded, name=name, licence=licence, quantise=quantise)
        _say_shape(writer, loaded.model.config)
        _say_vocabulary(writer, loaded)
        coarse = _add_weights(writer, loaded.model, arch, STORED[quantise])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return coarse


def _say_what_it_is(writer: gguf.GGUFWriter, loaded: LoadedModel, *, name: str, licence: str, quantise: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(loaded.model.num_parameters(), 0, 0, 0))
    if licence:
        writer.add_license(licence)
    writer.add_file_type(FILE_TYPES[quantise])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _say_shape(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_block_count(num_layers(config))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(num_heads(config))
    writer.add_head_count_kv(num_key_heads(config))
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_rope_dimension_count(head_width(config))
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _rope(config: PretrainedConfig) -> str:
    return str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))


def _window(config: PretrainedConfig) -> int | None:
    """How many tokens back attention reads, if that is less than all."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    window = getattr(config, "sliding_window", None)
    return window if window is not None and window < config.max_position_embeddings else None


# The vocabulary.


def cut_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The name that llama.cpp has for how this tokenizer cuts texts.

    Raises:
        ModelError: for a tokenizer that is no byte-level BPE, or cuts in a way that is not known here.
    """
    state = _state_of(tokenizer)
    model = state.get("model", {})
    normalizer = (state.get("normalizer") or {}).get("type")
    if (
        model.get("type") != "BPE"
        or model.get("byte_fallback")
        or not model.get("merges")
        or normalizer not in (None, "NFC")
    ):
        raise ModelError(
            f"--to gguf takes byte-level BPE tokenizers, and {type(tokenizer).__name__} is none. {CONVERTER}"
        )
    found = CUTS.get((_cut(state.get("pre_tokenizer") or {}), bool(model.get("ignore_merges"))))
    if found is None:
        raise ModelError(f"--to gguf does not know how this tokenizer cuts a text into words. {CONVERTER}")
    return found


def _state_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else dict(json.loads(backend.to_str()))


def _cut(pre: Mapping[str, Any]) -> str:
    """What is done to a text before anything is merged: the pattern if there is one, else the names of the steps."""
    steps = pre.get("pretokenizers", [pre])
    names = [step.get("type") for step in steps]
    last = steps[-1]
    if names[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return ""
    if names == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated" and not last.get("use_regex", True):
        return str(steps[0].get("pattern", {}).get("Regex", ""))
    if not last.get("use_regex", True) or (len(steps) > 1 and not steps[0].get("individual_digits")):
        return ""
    return " ".join(names)


def _say_vocabulary(writer: gguf.GGUFWriter, loaded: LoadedModel) -> None:
    """Tokens, merges, special ones and the chat template. Rows of the embeddings that no token has are named as unused."""
    tokenizer, size = loaded.tokenizer, int(loaded.model.config.vocab_size)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(names) >= size:
        raise ModelError(f"--to gguf: the tokenizer has {max(names) + 1} tokens, and the model's embeddings {size}.")
    added = tokenizer.added_tokens_decoder
    kinds = [
        gguf.TokenType.UNUSED
        if number not in names
        else gguf.TokenType.NORMAL
        if number not in added
        else gguf.TokenType.CONTROL
        if added[number].special
        else gguf.TokenType.USER_DEFINED
        for number in range(size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut_of(tokenizer))
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        tokenizer.save_pretrained(folder)
        special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
        special.add_special_token = _put_around(tokenizer)
        special.add_to_gguf(writer, quiet=True)


def _put_around(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Whether a text gets a beginning and an end of its own: asked of the tokenizer itself."""
    inner, whole = (list(tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
    first = whole[: len(whole) - len(inner)] == [tokenizer.bos_token_id]
    last = whole[len(inner) + first :] == [tokenizer.eos_token_id]
    if whole != [*([tokenizer.bos_token_id] if first else []), *inner, *([tokenizer.eos_token_id] if last else [])]:
        raise ModelError(f"--to gguf: the tokenizer puts more around a text than its beginning and end. {CONVERTER}")
    return {"bos": first, "eos": last}


# The weights.


def _add_weights(writer: gguf.GGUFWriter, model: PreTrainedModel, arch: gguf.MODEL_ARCH, stored: Stored) -> list[str]:
    config = model.config
    places = gguf.get_tensor_name_map(arch, num_layers(config))
    weights = model.state_dict()
    is_tied = bool(config.tie_word_embeddings)
    coarse: list[str] = []
    if _rope(config) != "default":
        writer.add_tensor("rope_freqs.weight", _slowed(model))
    for name, weight in weights.items():
        if is_tied and name == "lm_head.weight":
            continue
        place = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ModelError(f"--to gguf has no place for {name}. {CONVERTER}")
        numbers = _as_llama_cpp_turns(name, weight, config) if arch == gguf.MODEL_ARCH.LLAMA else weight
        kind = _kind(place, tuple(weight.shape), stored, is_tied=is_tied)
        if kind == Stored.F16 and stored not in (Stored.F16, Stored.F32):
            coarse.append(name)
        array: NDArray[np.float32] = numbers.detach().float().cpu().contiguous().numpy()
        writer.add_tensor(place, gguf.quants.quantize(array, kind), raw_dtype=kind)
    return _said(coarse, weights)


def _said(coarse: list[str], weights: Mapping[str, Tensor]) -> list[str]:
    if not coarse:
        return []
    width = weights[coarse[0]].shape[-1]
    why = f"their rows of {width} numbers are no multiple of {ROW}"
    return [f"{len(coarse)} matrices, such as {coarse[0]}, are kept in 16 bits: {why}"]


def _kind(place: str, shape: tuple[int, ...], stored: Stored, *, is_tied: bool) -> Stored:
    """How a tensor is kept: vectors whole, what makes logits not below 8 bits, and rows that make no whole blocks in 16."""
    if len(shape) == 1:
        return Stored.F32
    if stored in (Stored.F32, Stored.F16, Stored.BF16):
        return stored
    if shape[-1] % ROW:
        return Stored.F16
    makes_logits = place == "output.weight" or (is_tied and place == "token_embd.weight")
    return Stored.Q8_0 if makes_logits else stored


def _as_llama_cpp_turns(name: str, weight: Tensor, config: PretrainedConfig) -> Tensor:
    """llama.cpp turns neighbours, transformers halves: the rows of queries and keys are put in its order."""
    heads = {"q_proj": num_heads(config), "k_proj": num_key_heads(config)}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _slowed(model: PreTrainedModel) -> NDArray[np.float32]:
    """How much slower each pair of numbers turns than it would without scaling."""
    turns = model.base_model.get_buffer("rotary_emb.inv_freq").float().cpu()
    return np.asarray((_plain_turns(model.config) / turns).numpy(), dtype=np.float32)


def _plain_turns(config: PretrainedConfig) -> Tensor:
    width = head_width(config)
    return float(config.rope_parameters["rope_theta"]) ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)


# Reading it back.


def read_gguf(loaded: LoadedModel, file: Path) -> PreTrainedModel:
    """The model that transformers makes of the file, once the tokenizer it makes cuts texts as the original does.

    Raises:
        ModelError: if the two read a text differently.
    """
    check_tokens(loaded.tokenizer, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.head_dim = head_width(loaded.model.config)  # the reader knows it of Llama alone
    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32
        )
    if _rope(loaded.model.config) != "default":  # nor does it read how positions are scaled
        slowed = next(one.data for one in gguf.GGUFReader(file).tensors if one.name == "rope_freqs.weight")
        model.base_model.get_buffer("rotary_emb.inv_freq").copy_(_plain_turns(config) / torch.tensor(slowed))
    return model.to(loaded.model.device).eval()


def check_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> None:
    """Refuse a file whose tokenizer reads a text as other tokens. Of how texts are cut, transformers knows less of GGUF than
    llama.cpp does: where only that differs, the cut is the original's.

    Raises:
        ModelError: naming the text.
    """
    texts = [HARD_TEXT, "".join(map(str, ours.all_special_tokens)) + HARD_TEXT[:40]]
    before = [list(ours(text)["input_ids"]) for text in texts]
    if before == [list(theirs(text)["input_ids"]) for text in texts]:
        return
    theirs.backend_tokenizer.pre_tokenizer = ours.backend_tokenizer.pre_tokenizer
    for text, wanted in zip(texts, before, strict=True):
        found = list(theirs(text)["input_ids"])
        if found != wanted:
            raise ModelError(
                f"the export was written, read and refused: its tokenizer reads {text[:30]!r} as {found[:8]}, the original as "
                f"{wanted[:8]}. {CONVERTER}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the libraries log while they read and write is of no use to who waits."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
