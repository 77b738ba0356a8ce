"""A GGUF file says what the student says: read back whole, its weights where llama.cpp looks for them, its tokens the same."""

import json

import pytest
import torch
from gguf import GGMLQuantizationType as Stored
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from stillhouse.commands.export.command import export
from stillhouse.commands.export.formats import FORMATS, called
from stillhouse.commands.export.gguf_file import CUTS, STORED, _kind, check_gguf, check_tokens, cut_of, write_gguf
from stillhouse.core.errors import ModelError
from stillhouse.models.load import LoadedModel
from stillhouse.models.own_tokenizers import train_tokenizer

TEXTS = ["one fox ran over the hill and the other fox did not", "one hill, two foxes; the hill ran not"]
TOKENIZER = train_tokenizer(TEXTS, size=300)
UNUSED = 3
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
"""Scales every band of frequencies within the few tokens of a test."""


def loaded(tmp_path, kind=LlamaConfig, **changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = kind(vocab_size=len(TOKENIZER) + UNUSED, **{**shape, **heads, "initializer_range": 0.2, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for weights in model.parameters():
        if weights.ndim == 1:
            torch.nn.init.normal_(weights, mean=1.0, std=0.2)
    (tmp_path / "mine" / "student").mkdir(parents=True)
    return LoadedModel(model, TOKENIZER, str(tmp_path / "mine" / "student"), tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "quantise"),
    [
        (LlamaConfig, {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 16}, "f32"),
        (Qwen2Config, {}, "q8_0"),
        (Qwen3Config, {"head_dim": 16}, "f32"),
    ],
)
def test_what_is_read_back_says_the_same(tmp_path, kind, changes, quantise):
    texts = [list(TOKENIZER(text)["input_ids"]) for text in TEXTS]
    model = loaded(tmp_path, kind, **changes)
    checked = export(model, FORMATS["gguf"], tmp_path / "out", quantise=quantise, texts=texts)
    file = tmp_path / "out" / f"mine-{quantise.upper()}.gguf"
    weights = {one.name: one.tensor_type for one in GGUFReader(file).tensors}
    assert ("output.weight" in weights) != model.model.config.tie_word_embeddings
    if quantise == "f32":
        assert checked.distance < 1e-9 and not checked.notes
    else:  # rows of 48 make no whole blocks of 32
        assert 0 < checked.distance < 0.01
        assert weights["blk.0.ffn_down.weight"] == Stored.F16 and weights["blk.0.ffn_up.weight"] == Stored.Q8_0
        assert "2 matrices, such as model.layers.0.mlp.down_proj.weight" in checked.notes[0]
        assert json.loads((tmp_path / "out" / "export.json").read_text())["notes"] == list(checked.notes)


def test_the_head_of_the_file_names_what_a_reader_needs(tmp_path):
    TOKENIZER.chat_template = "{{ messages[0].content }}"
    file = tmp_path / "mine.gguf"
    write_gguf(loaded(tmp_path), file, quantise="q4_0", name="mine", licence="apache-2.0")
    fields = GGUFReader(file).fields
    said = {name: fields[name].contents() for name in fields if name not in ("tokenizer.ggml.token_type",)}
    assert (said["general.name"], said["general.license"]) == ("mine", "apache-2.0")
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert said["tokenizer.chat_template"] == TOKENIZER.chat_template
    assert said["tokenizer.ggml.eos_token_id"] == TOKENIZER.eos_token_id and not said["tokenizer.ggml.add_bos_token"]
    assert said["llama.context_length"] == 64 and said["llama.rope.freq_base"] == 10000
    assert len(said["tokenizer.ggml.tokens"]) == len(TOKENIZER) + UNUSED


def test_how_each_tensor_is_kept():
    def kept(place, shape, stored, *, is_tied=False):
        return _kind(place, shape, stored, is_tied=is_tied)

    assert kept("blk.0.attn_norm.weight", (64,), Stored.Q4_0) == Stored.F32
    assert kept("blk.0.ffn_up.weight", (48, 64), Stored.Q4_0) == Stored.Q4_0
    assert kept("blk.0.ffn_down.weight", (64, 48), Stored.Q4_0) == Stored.F16
    assert kept("output.weight", (300, 64), Stored.Q4_0) == Stored.Q8_0
    assert kept("token_embd.weight", (300, 64), Stored.Q4_0, is_tied=True) == Stored.Q8_0
    assert kept("token_embd.weight", (300, 64), Stored.Q4_0) == Stored.Q4_0
    assert kept("blk.0.ffn_down.weight", (64, 48), Stored.BF16) == Stored.BF16
    assert set(STORED) == set(FORMATS["gguf"].quantise)


def tokenizer(pre, *, normalizer=None, ignore_merges=False):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "ab", "Ġ3"])}
    made = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "3")], ignore_merges=ignore_merges))
    made.pre_tokenizer, made.normalizer = pre, normalizer
    return PreTrainedTokenizerFast(tokenizer_object=made)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def after(pattern):
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), whole])


def test_how_a_tokenizer_cuts_has_a_name_in_llama_cpp_or_is_refused():
    assert cut_of(tokenizer(BYTES)) == "gpt-2"
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
    assert cut_of(tokenizer(digits)) == "smollm"
    for (pattern, ignores), name in CUTS.items():
        if "Byte" not in pattern:
            assert cut_of(tokenizer(after(pattern), normalizer=normalizers.NFC(), ignore_merges=ignores)) == name
    for other in (after(r"\w+"), pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Whitespace()):
        with pytest.raises(ModelError, match="does not know how this tokenizer cuts"):
            cut_of(tokenizer(other))
    with pytest.raises(ModelError, match="byte-level BPE"):
        cut_of(tokenizer(BYTES, normalizer=normalizers.Lowercase()))


def test_a_tokenizer_that_reads_otherwise_is_refused_unless_it_only_cuts_otherwise():
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
    check_tokens(tokenizer(digits), tokenizer(BYTES))
    with pytest.raises(ModelError, match="its tokenizer reads"):
        check_tokens(tokenizer(BYTES), tokenizer(BYTES, normalizer=normalizers.Lowercase()))


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        (LlamaConfig, {"attention_bias": True}, "biases"),
        (LlamaConfig, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        (Qwen2Config, {"rope_parameters": LLAMA3}, "llama3"),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8}, "window of 8 tokens"),
        (LlamaConfig, {"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused_before_it_is_written(tmp_path, kind, changes, why):
    with pytest.raises(ModelError, match=rf"{why}.*convert_hf_to_gguf\.py"):
        check_gguf(loaded(tmp_path, kind, **changes))


def test_a_runs_student_is_called_as_the_run(tmp_path):
    assert called(tmp_path / "mine" / "student") == "mine" and called(tmp_path / "other") == "other"
