"""The laws of an adapter: it starts as nothing, changes only itself, and is one with the model once merged."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Wanted
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.models.adapters import adapter_off, load_adapter, merge_adapter, save_adapter, trainable_count
from stillhouse.models.signals import factored_logits, read_signals
from stillhouse.students.build import student_from_layers
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter, chosen_modules, frozen_hash, heads_of

KINDS = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}
HEADS = {"llama": ["lm_head"], "gpt2": ["lm_head"], "qwen3": ["lm_head"], "phi": ["lm_head"], "gemma2": ["lm_head"]}
EMBEDDINGS = {"llama": ["embed_tokens"], "gpt2": ["wte", "c_attn"], "qwen3": ["embed_tokens", "lm_head"]}


@pytest.fixture
def batch(build_example):
    return to_batch([[build_example(0, 9)], [build_example(1, 5), build_example(2, 4)]])


def adapted(model, *, seed=0, **settings):
    return add_adapter(model, LoraConfig(**{"rank": 4, "alpha": 8.0, **settings}), seed=seed)


def moved(model):
    """The adapter somewhere else than at its start, as training would leave it."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch.ids[:1]).logits


# What it starts as


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["all-linear", "everything"])
def test_an_adapter_starts_as_nothing(build_model, batch, family, kind, targets):
    model = build_model(family, layers=2)
    before = logits(model, batch)
    names = sorted({name.rpartition(".")[2] for name in chosen_modules(model, "all-linear")})
    names += [name for name in ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out") if chooses(model, name)]
    adapted(model, targets="all-linear" if targets == "all-linear" else tuple(names), **KINDS[kind])
    assert torch.equal(logits(model, batch), before)


def chooses(model, name):
    try:
        return bool(chosen_modules(model, [name]))
    except ModelError:
        return False


def test_the_seed_decides_the_start(build_model):
    def start(seed):
        model = adapted(build_model(layers=2), seed=seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_only_the_adapter_learns(build_model):
    model = adapted(build_model(layers=2), targets=("q_proj",), rank=4)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * 2
    assert all(".lora_" in name and "q_proj" in name for name in learning)
    assert trainable_count(model) == 2 * 4 * (32 + 32)  # two layers, from 32 to 4 and from 4 to 32


# Off


@pytest.mark.parametrize("kind", KINDS)
def test_off_it_is_the_base_and_on_again_it_is_not(build_model, batch, kind):
    model = build_model(layers=2)
    before = logits(model, batch)
    moved(adapted(model, targets=("q_proj", "lm_head", "embed_tokens"), **KINDS[kind]))
    with_it, learning = logits(model, batch), [parameter.requires_grad for parameter in model.parameters()]
    with adapter_off(model):
        assert torch.equal(logits(model, batch), before)
        assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert torch.equal(logits(model, batch), with_it)
    assert not torch.equal(with_it, before)


# The head that is never run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "targets"), [*HEADS.items(), *EMBEDDINGS.items()])
def test_the_head_that_is_read_is_the_head_that_peft_runs(build_model, batch, family, targets, kind):
    model = moved(adapted(build_model(family, layers=2), targets=tuple(targets), **KINDS[kind]))
    weights = torch.randn(9, 300, generator=torch.Generator().manual_seed(1))

    def gradients(answer):
        model.zero_grad()
        (answer[0] * weights).sum().backward()
        return answer, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    alone = to_batch([[_first(batch)]])
    own, expected = gradients(model(input_ids=alone.ids).logits)
    ours, found = gradients(factored_logits(model, alone).dense())
    assert_close(ours, own, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # A gradient of an embedding reaches 2,000 here: what is small in it is the difference of large float32 numbers.
        assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6 * float(expected[name].abs().max()), msg=name)


def _first(batch):
    ids = batch.ids[0].tolist()
    return Example(tuple(ids), (0.0,) + (1.0,) * (len(ids) - 1))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_model_that_peft_has_wrapped_is_read_like_its_inside(build_model, batch):
    torch.manual_seed(0)
    wrapped = get_peft_model(build_model("qwen3", layers=2), PeftConfig(target_modules=["q_proj", "lm_head"], r=4))
    moved(wrapped)
    expected = read_signals(wrapped.get_base_model(), batch, Wanted(logits=True)).logits
    assert torch.equal(factored_logits(wrapped, batch).dense(), expected.dense())


# Merged, and on disk


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("all",), ("embed_tokens", "q_proj"), ("lm_head",)])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_merged_it_answers_as_before_as_a_plain_folder(build_model, batch, tmp_path, family, targets, kind):
    chosen = "all-linear" if targets == ("all",) else targets
    model = moved(adapted(build_model(family, layers=2), targets=chosen, **KINDS[kind]))
    expected = logits(model, batch)
    names = set(build_model(family, layers=2).state_dict())
    merged = merge_adapter(model)
    assert set(merged.state_dict()) == names
    merged.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    for found in (merged, read):
        assert_close(logits(found, batch), expected, rtol=1e-5, atol=1e-5)


def by_peft(auto_class, folder):
    """As anybody would read it; peft warns of tied weights, and of nothing that matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(auto_class.from_pretrained(folder / "base"), str(folder / "adapter"))


@pytest.mark.parametrize("kind", KINDS)
def test_merged_gpt2_answers_as_before_with_its_turned_weights(build_model, batch, kind):
    model = moved(adapted(build_model("gpt2", layers=2), targets=("c_attn", "c_fc", "wte"), **KINDS[kind]))
    expected = logits(model, batch)
    assert_close(logits(merge_adapter(model), batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_peft_reads_the_folder_with_the_adapter(build_model, batch, tmp_path, family):
    targets = {"gpt2": ("c_attn", "wte"), "llama": ("embed_tokens", "q_proj", "lm_head")}.get(family, "all-linear")
    model = build_model(family, layers=2)
    model.save_pretrained(tmp_path / "base")
    moved(adapted(model, targets=targets, dora=True))
    size = save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    read = by_peft(AutoModelForCausalLM, tmp_path)
    assert torch.equal(logits(read, batch), logits(model, batch))
    assert size == (tmp_path / "adapter/adapter_model.safetensors").stat().st_size
    assert size < (tmp_path / "base/model.safetensors").stat().st_size
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")


def test_an_adapter_that_is_read_back_is_the_same(build_model, tmp_path):
    one, other = moved(adapted(build_model(layers=2))), adapted(build_model(layers=2), seed=7)
    save_adapter(one, tmp_path)
    load_adapter(other, tmp_path)
    for (name, parameter), (_, found) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(parameter, found), name


def test_the_frozen_hash_sees_any_bit_that_changes_and_no_adapter(build_model):
    model = adapted(build_model(layers=2))
    before = frozen_hash(model)
    assert frozen_hash(moved(model)) == before
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nextafter(model.model.norm.weight[3], torch.tensor(torch.inf))
    assert frozen_hash(model) != before


# Students and tasks


def test_a_student_of_some_layers_can_carry_one(build_model, batch):
    teacher = build_model(layers=4)
    student = student_from_layers(teacher, (0, 3))
    before = logits(student, batch)
    assert torch.equal(logits(adapted(student), batch), before)
    assert trainable_count(student) == sum(p.numel() for n, p in student.named_parameters() if ".lora_" in n)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "deberta-v2"])
def test_the_head_of_a_classifier_learns_whole_and_travels_with_the_adapter(build_encoder, tmp_path, family):
    model = build_encoder(family, "sequence_classification", layers=2)
    model.save_pretrained(tmp_path / "base")
    ids = torch.arange(5, 14)[None]
    heads = heads_of(model)
    before = model(input_ids=ids).logits.detach()
    adapted(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    moved(model)
    with adapter_off(model):
        assert torch.equal(model(input_ids=ids).logits, before)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert heads and all(any(name.startswith(f"{head}.") for name in learning) for head in heads)
    save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    read = by_peft(AutoModelForSequenceClassification, tmp_path)
    expected = model(input_ids=ids).logits.detach()
    assert_close(read(input_ids=ids).logits.detach(), expected, rtol=1e-5, atol=1e-5)
    assert_close(merge_adapter(model)(input_ids=ids).logits.detach(), expected, rtol=1e-5, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_prj",), ["'q_prj'", "Did you mean", "q_proj", "embed_tokens", "all-linear"]),
        (("q_proj", "self_attn"), ["'self_attn'", "no linear layer or embedding"]),
        (("norm",), ["'norm'"]),
    ],
)
def test_targets_that_are_not_there_are_refused_with_those_that_are(build_model, targets, words):
    with pytest.raises(ModelError) as refusal:
        adapted(build_model(layers=2), targets=targets)
    for word in words:
        assert word in str(refusal.value)


def test_dropout_before_the_head_is_refused(build_model):
    with pytest.raises(ModelError, match=r"student.lora.dropout is 0.1, but targets name the head"):
        adapted(build_model(layers=2), targets=("lm_head",), dropout=0.1)
    adapted(build_model(layers=2), targets=("q_proj",), dropout=0.1)
