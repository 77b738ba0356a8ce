"""Where a model keeps its layers, and how many parameters it has."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import decoder_config, decoder_layers, layers_prefix, parameter_count, understood


def test_the_layers_are_those_that_hidden_states_pass_through_in_order(any_family, build_model):
    model, passed = build_model(any_family), []
    layers = decoder_layers(model)
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: passed.append(number))
    model(torch.tensor([[2, 3, 4]]))
    assert passed == list(range(decoder_config(model).num_hidden_layers)) == list(range(4))


def test_the_prefix_names_every_weight_of_the_layers_and_no_other(any_family, build_model):
    model = build_model(any_family)
    prefix, inside = layers_prefix(model), {id(parameter) for parameter in decoder_layers(model).parameters()}
    named = {id(parameter) for name, parameter in model.named_parameters() if name.startswith(prefix)}
    assert named == inside


def test_as_many_experts_as_layers_are_not_taken_for_the_layers(build_model):
    model = build_model("mixtral", layers=4, num_local_experts=4, num_key_value_heads=2)
    assert len(decoder_layers(model)) == 4
    assert layers_prefix(model) == "model.layers."


def test_two_stacks_are_refused_and_the_ways_out_are_named(build_model):
    settings = {"vocab_size": 300, "d_model": 32, "d_ff": 64, "num_heads": 4, "d_kv": 8, "num_layers": 3}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **settings))
    with pytest.raises(ModelError, match="T5ForConditionalGeneration has 2 stacks of 3 equal blocks") as refusal:
        decoder_layers(model)
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
