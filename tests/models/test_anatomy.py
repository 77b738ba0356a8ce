"""Where a model keeps its layers, and how many parameters it has."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import (
    layers_of,
    layers_prefix,
    num_layers,
    parameter_count,
    task_of,
    text_config,
    understood,
)
from stillhouse.models.load import AUTO_CLASSES, PROBLEM_TYPES, untrained


def test_the_layers_are_those_that_hidden_states_pass_through_in_order(any_family, build_model):
    model, passed = build_model(any_family), []
    layers = layers_of(model)
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: passed.append(number))
    model(torch.tensor([[2, 3, 4]]))
    assert passed == list(range(text_config(model).num_hidden_layers)) == list(range(4))


def test_the_prefix_names_every_weight_of_the_layers_and_no_other(any_family, build_model):
    model = build_model(any_family)
    prefix, inside = layers_prefix(model), {id(parameter) for parameter in layers_of(model).parameters()}
    named = {id(parameter) for name, parameter in model.named_parameters() if name.startswith(prefix)}
    assert named == inside


def test_as_many_experts_as_layers_are_not_taken_for_the_layers(build_model):
    model = build_model("mixtral", layers=4, num_local_experts=4, num_key_value_heads=2)
    assert len(layers_of(model)) == 4
    assert layers_prefix(model) == "model.layers."


def test_two_stacks_are_refused_and_the_ways_out_are_named(build_model):
    settings = {"vocab_size": 300, "d_model": 32, "d_ff": 64, "num_heads": 4, "d_kv": 8, "num_layers": 3}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **settings))
    with pytest.raises(ModelError, match="T5ForConditionalGeneration has 2 stacks of 3 equal blocks") as refusal:
        layers_of(model)
    assert "kind: checkpoint" in str(refusal.value)


def test_tied_parameters_count_once(build_model):
    tied, untied = (build_model("llama", tie_word_embeddings=tie) for tie in (True, False))
    assert parameter_count(untied) - parameter_count(tied) == 300 * 32
    assert parameter_count(tied) == sum(len(p.flatten()) for p in {id(p): p for p in tied.parameters()}.values())


TABLES = ("embed_tokens.", "wte.", "wpe.", "embed_in.", "word_embeddings.", "lm_head.", "embed_out.")


def test_without_embeddings_every_weight_but_the_tables_and_the_head_is_left(any_family, build_model):
    model = build_model(any_family)
    left = [p.numel() for name, p in model.named_parameters() if not any(table in name for table in TABLES)]
    assert parameter_count(model, embeddings=False) == sum(left) < parameter_count(model)


def test_only_arguments_that_a_family_understands_are_given(build_model):
    given = {"position_ids": 1, "logits_to_keep": 1, "nonsense": 2, "attention_mask": None}
    assert understood(build_model("llama"), **given) == {"position_ids": 1, "logits_to_keep": 1}
    assert understood(build_model("bloom"), **given) == {"logits_to_keep": 1}


ENCODERS = {
    "bert": "encoder.layer.",
    "distilbert": "transformer.layer.",
    "roberta": "encoder.layer.",
    "xlm-roberta": "encoder.layer.",
    "mpnet": "encoder.layer.",
    "electra": "encoder.layer.",
    "deberta-v2": "encoder.layer.",
    "modernbert": "layers.",
}
TASKS = sorted(AUTO_CLASSES.keys() - {"causal_lm"})


@pytest.fixture(params=ENCODERS)
def encoder_family(request):
    return request.param


def _encoder(family, task):
    width = {"hidden_dim" if family == "distilbert" else "intermediate_size": 64}
    config = AutoConfig.for_model(
        family, vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, pad_token_id=1, **width
    )
    config.problem_type = PROBLEM_TYPES.get(task)
    return untrained(config, task, dtype=torch.float32)


@pytest.mark.parametrize("task", TASKS)
def test_an_encoder_has_its_layers_under_every_head(encoder_family, task):
    model, passed = _encoder(encoder_family, task), []
    prefix = layers_prefix(model)
    assert prefix.removeprefix(f"{model.base_model_prefix}.") == ENCODERS[encoder_family]
    for number, layer in enumerate(layers_of(model)):
        layer.register_forward_hook(lambda *_, number=number: passed.append(number))
    model(input_ids=torch.tensor([[2, 3, 4]]))
    assert passed == list(range(num_layers(model))) == list(range(num_layers(model.config))) == [0, 1, 2]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_shows_its_task(encoder_family, task):
    # Nothing in a model's files tells a reward from any other number.
    assert task_of(_encoder(encoder_family, task)) == ("regression" if task == "reward" else task)


def test_every_decoder_is_seen_to_predict_next_tokens(any_family, build_model):
    assert task_of(build_model(any_family)) == "causal_lm"


ENCODER_TABLES = (
    "_embeddings.weight",
    ".tok_embeddings.weight",
    "relative_attention_bias.weight",
    ".rel_embeddings.weight",
)
VOCABULARY_HEADS = (".decoder.weight", ".decoder.bias", "predictions.bias", "lm_head.bias", "vocab_projector.bias")
VOCABULARY_HEADS += ("generator_lm_head.bias",)


@pytest.mark.parametrize("task", TASKS)
def test_without_embeddings_an_encoder_keeps_its_layers_and_small_heads(encoder_family, task):
    model = _encoder(encoder_family, task)
    tables = ENCODER_TABLES + VOCABULARY_HEADS
    left = [p.numel() for name, p in model.named_parameters() if not f".{name}".endswith(tables)]
    assert parameter_count(model, embeddings=False) == sum(left) < parameter_count(model)
