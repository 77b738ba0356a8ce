"""A model comes back from wherever it lies, whole, and says what it said before."""

import json

import gguf
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.models import load
from stillhouse.models.load import (
    display_name,
    load_causal_lm,
    load_config,
    load_tokenizer,
    source_fingerprint,
    unpacked_gguf,
    vocabulary_fingerprint,
    waits_for_unpacking,
    without_weights,
)

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name):
    """The name of a Qwen 2 weight in a GGUF file."""
    if not name.startswith("model.layers."):
        return name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm")
    _, _, layer, part = name.split(".", 3)
    part, _, kind = part.rpartition(".")
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def _write_tokenizer(writer, tokenizer):
    parts = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in parts["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def gguf_model(build_model, tokenizer):
    return build_model("qwen2", vocab=len(tokenizer))


@pytest.fixture(scope="module")
def gguf_file(gguf_model, tokenizer, tmp_path_factory):
    """A tiny Qwen 2 in a GGUF file, every weight in float32."""
    file, config = tmp_path_factory.mktemp("gguf") / "tiny.gguf", gguf_model.config
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer, tokenizer)
    for name, weight in gguf_model.state_dict().items():
        if name != "lm_head.weight":  # tied to the embeddings
            writer.add_tensor(_gguf_name(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@torch.no_grad()
def test_a_gguf_file_loads_to_the_model_and_tokenizer_that_it_was_made_from(gguf_file, gguf_model, tokenizer, cache):
    loaded = load_causal_lm(str(gguf_file))
    text = "the old man found a key in the garden<|end|>"
    ids = tokenizer(text)["input_ids"]
    assert loaded.tokenizer(text)["input_ids"] == ids
    assert_close(loaded.model(torch.tensor([ids])).logits, gguf_model(torch.tensor([ids])).logits)
    assert loaded.model.dtype == torch.float32 and not loaded.model.training
    assert loaded.tokenizer.get_vocab().items() >= tokenizer.get_vocab().items()  # Qwen's adds a token of its own


def test_a_gguf_file_is_unpacked_once(gguf_file, cache, monkeypatch):
    assert waits_for_unpacking(str(gguf_file))
    folder = unpacked_gguf(gguf_file)
    assert not waits_for_unpacking(str(gguf_file))
    assert not waits_for_unpacking(folder)
    monkeypatch.setattr("stillhouse.models.load._unpack", lambda *_: pytest.fail("it was unpacked a second time"))
    assert unpacked_gguf(gguf_file) == folder
    assert [path.name for path in (cache / "unpacked").iterdir()] == [folder.rpartition("/")[2]]


def test_of_a_gguf_file_tokenizer_and_configuration_are_kept_without_the_weights(gguf_file, tokenizer, cache):
    folder = without_weights(str(gguf_file))
    assert waits_for_unpacking(str(gguf_file))
    assert not list(cache.rglob("*.safetensors"))
    assert load_tokenizer(folder).get_vocab().items() >= tokenizer.get_vocab().items()
    assert load_config(folder).vocab_size == len(tokenizer)
    assert without_weights(str(gguf_file)) == folder
    unpacked_gguf(gguf_file)
    assert without_weights(str(gguf_file)) == str(gguf_file)  # what is unpacked needs no second copy


def test_a_changed_gguf_file_is_unpacked_again(gguf_file, cache, tmp_path):
    copy = tmp_path / gguf_file.name
    copy.write_bytes(gguf_file.read_bytes() + b"\0")
    assert unpacked_gguf(copy) != unpacked_gguf(gguf_file)


def test_a_model_from_a_gguf_file_can_be_saved_and_loaded_by_transformers_alone(gguf_file, cache, tmp_path):
    from transformers import AutoModelForCausalLM

    loaded = load_causal_lm(str(gguf_file)).model
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.tensor([[2, 3, 4, 5]])
    assert torch.equal(again(ids).logits, loaded(ids).logits)


def test_what_only_calls_itself_gguf_is_refused_and_leaves_nothing_in_the_cache(cache, tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="broken.gguf' cannot be read as GGUF"):
        load_causal_lm(str(file))
    assert not list((cache / "unpacked").glob("broken*"))


@torch.no_grad()
def test_a_folder_loads_to_the_model_that_was_saved_there(any_family, build_model, tokenizer, tmp_path):
    model = build_model(any_family, vocab=len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, ids = load_causal_lm(str(tmp_path)), torch.tensor([[2, 3, 4, 5]])
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights.pop(name), weight) for name, weight in model.state_dict().items()) and not weights
    assert_close(loaded.model(ids).logits, model(ids).logits)
    assert not loaded.model.training


def test_the_fingerprint_of_a_folder_changes_with_its_weights_alone(build_model, tokenizer, tmp_path):
    def fingerprint(name, seed):
        build_model(vocab=len(tokenizer), seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / name / "README.md").write_text(name)
        return source_fingerprint(str(tmp_path / name))

    assert fingerprint("one", 0) == fingerprint("two", 0) != fingerprint("three", 1)


def test_the_fingerprint_covers_the_folders_of_a_models_modules_and_no_others(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "path": "0_Static", "type": "StaticEmbedding"}]))
    for name in ("0_Static", "checkpoint-5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("1")
    before = source_fingerprint(str(tmp_path))
    (tmp_path / "checkpoint-5" / "model.safetensors").write_text("2")
    assert source_fingerprint(str(tmp_path)) == before
    (tmp_path / "0_Static" / "model.safetensors").write_text("2")
    assert source_fingerprint(str(tmp_path)) != before


def test_the_fingerprint_of_a_hub_id_changes_with_its_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--malt--barley"

    def fingerprint(commit):
        (repository / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        return source_fingerprint("malt/barley")

    unknown = source_fingerprint("malt/barley")
    assert fingerprint("a" * 40) == fingerprint("a" * 40) != fingerprint("b" * 40)
    assert unknown not in (fingerprint("a" * 40), source_fingerprint("malt/rye"))


def test_vocabularies_of_equal_size_and_other_order_differ(tokenizer):
    class Swapped:
        def get_vocab(self):
            vocab = tokenizer.get_vocab()
            return vocab | {"a": vocab["b"], "b": vocab["a"]}

    fingerprint = getattr(vocabulary_fingerprint, "__wrapped__", vocabulary_fingerprint)  # the stand-in has no type
    assert fingerprint(Swapped()) != fingerprint(tokenizer)


def test_a_local_model_is_called_by_its_own_name_and_a_hub_id_stays_whole(tmp_path):
    assert display_name(str(tmp_path / "missing" / "model")) == str(tmp_path / "missing" / "model")
    (tmp_path / "small.gguf").touch()
    assert display_name(str(tmp_path / "small.gguf")) == "small.gguf"
    assert display_name("owner/name") == "owner/name"


def test_a_model_is_loaded_to_where_models_run(teacher_folder, monkeypatch):
    monkeypatch.setattr(load, "device", lambda: torch.device("meta"))
    assert load_causal_lm(str(teacher_folder)).model.device.type == "meta"


def test_a_hub_that_cannot_be_reached_is_said_with_the_mend(monkeypatch):
    def unreachable(*_args, **_options):
        raise OSError("no connection") from LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="cannot be reached. Name a folder, or run `hf download org/model`"):
        load.load_config("org/model")
