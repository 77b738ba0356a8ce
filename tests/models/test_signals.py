"""What a model says: its own logits in factors, and each document read as if it stood alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.data.packing import to_batch
from stillhouse.models.signals import factored_logits

LEAKY = {"bloom", "gpt_oss", "lfm2", "qwen3_5_text"}


@torch.no_grad()
def test_the_factors_multiply_out_to_the_models_own_logits(any_family, build_model, build_example):
    model, example = build_model(any_family), build_example(0, 20)
    own = model(input_ids=torch.tensor([example.ids])).logits
    assert_close(factored_logits(model, to_batch([[example]])).dense(), own, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "setting", "value", "factor"),
    [
        ("granite", "logits_scaling", 8.0, 1 / 8),
        ("cohere", "logit_scale", 3.0, 3.0),
        ("gemma2", "final_logit_softcapping", 2.0, None),
    ],
)
@torch.no_grad()
def test_what_a_family_does_after_its_head_is_part_of_the_factors(
    build_model, build_example, family, setting, value, factor
):
    plain = {"granite": 1.0, "cohere": 1.0, "gemma2": None}[family]
    batch = to_batch([[build_example(0, 12)]])
    bare = factored_logits(build_model(family, **{setting: plain}), batch).dense()
    changed = factored_logits(build_model(family, **{setting: value}), batch).dense()
    assert_close(changed, bare * factor if factor else value * (bare / value).tanh())


def _build_falcon(build_model, multiplier):
    """Small in every number that it has; at its own a forward pass takes seconds."""
    mamba = {"d_ssm": 32, "n_heads": 4, "d_head": 8, "d_state": 8, "chunk_size": 8}
    small = {f"mamba_{name}": value for name, value in mamba.items()}
    return build_model("falcon_h1", lm_head_multiplier=multiplier, num_key_value_heads=2, **small)


def test_a_head_that_does_more_than_the_factors_hold_is_refused(build_model, build_example):
    model = _build_falcon(build_model, 2.0)
    with pytest.raises(ModelError, match="makes its logits from its hidden states in a way that stillhouse does not"):
        factored_logits(model, to_batch([[build_example(0, 12)]]))


def test_a_head_is_held_against_its_model_in_low_precision_too(build_model, build_example):
    batch = to_batch([[build_example(0, 12)]])
    factored_logits(build_model("gemma2").to(torch.bfloat16), batch)
    with pytest.raises(ModelError, match="FalconH1ForCausalLM"):
        factored_logits(_build_falcon(build_model, 1.5).to(torch.bfloat16), batch)


@torch.no_grad()
def test_the_head_multiplies_nothing(any_family, build_model, build_example):
    model, batch, widths = build_model(any_family), to_batch([[build_example(0, 12)]]), []
    factored_logits(model, batch)  # its head is known from now on
    model.get_output_embeddings().register_forward_hook(lambda _head, _inputs, output: widths.append(output.shape[-1]))
    factored_logits(model, batch)
    assert widths == [1]
    assert model(input_ids=batch.ids).logits.shape[-1] > 1  # and afterwards it does again


def _gradients(model, batches, directions):
    """Of a fixed random number a hidden state, summed over everything that these batches hold."""
    model.zero_grad()
    for batch, direction in zip(batches, directions, strict=True):
        (factored_logits(model, batch).hidden[batch.documents >= 0] * direction).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_documents_that_share_a_row_are_read_as_if_each_stood_alone(any_family, build_model, build_example):
    model = build_model(any_family).double()
    first, second, third = build_example(1, 13), build_example(2, 20), build_example(3, 11)
    rows = [[first, second], [third, first]]
    packed = to_batch(rows, row_tokens=40)
    hidden = factored_logits(model, packed).hidden
    for number, row in enumerate(rows):
        for document, example in enumerate(row):
            alone = factored_logits(model, to_batch([[example]])).hidden[0]
            assert_close(hidden[number, packed.documents[number] == document], alone, rtol=1e-5, atol=1e-5)


def test_documents_that_share_a_row_give_the_gradients_of_documents_apart(any_family, build_model, build_example):
    model = build_model(any_family).double()
    examples = [build_example(1, 13), build_example(2, 20), build_example(3, 11)]
    random = torch.Generator().manual_seed(0)
    directions = [torch.randn(len(e.ids), 32, generator=random, dtype=torch.float64) for e in examples]
    packed = _gradients(model, [to_batch([examples[:2], examples[2:]], row_tokens=40)], [torch.cat(directions)])
    apart = _gradients(model, [to_batch([[example]]) for example in examples], directions)
    assert packed.keys() == apart.keys()
    for name in packed:
        assert_close(packed[name], apart[name], rtol=1e-4, atol=1e-4 * float(apart[name].abs().max()), msg=name)


@torch.no_grad()
def test_padding_changes_nothing_whatever_stands_in_it(any_family, build_model, build_example):
    model, rows = build_model(any_family), [[build_example(1, 9), build_example(2, 12)], [build_example(3, 14)]]
    narrow, wide = to_batch(rows), to_batch(rows, row_tokens=48)
    real = narrow.documents >= 0
    expected = factored_logits(model, narrow).hidden[real]
    assert_close(factored_logits(model, wide).hidden[wide.documents >= 0], expected, rtol=1e-4, atol=1e-5)
    before = factored_logits(model, wide).hidden[wide.documents >= 0]
    wide.ids[wide.documents < 0] = torch.randint(300, wide.ids[wide.documents < 0].shape)
    assert_close(factored_logits(model, wide).hidden[wide.documents >= 0], before, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_family_is_run_packed_unless_documents_would_leak(any_family, build_model, build_example):
    model, rows_seen = build_model(any_family), []
    packed = to_batch([[build_example(1, 9), build_example(2, 12)], [build_example(3, 14)]])
    factored_logits(model, packed)  # the trial is over
    model.base_model.register_forward_hook(lambda _model, _inputs, output: rows_seen.append(len(output[0])))
    factored_logits(model, packed)
    assert rows_seen == [3 if any_family in LEAKY else 2]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3))
def test_hidden_states_of_documents_run_apart_return_to_their_places(build_model, build_example, lengths):
    rows = [[build_example(7 * i + j, n) for j, n in enumerate(row)] for i, row in enumerate(lengths)]
    batch, bloom = to_batch(rows, row_tokens=40), build_model("bloom", layers=1)
    with torch.no_grad():
        hidden = factored_logits(bloom, batch).hidden
        for number, row in enumerate(rows):
            for document, example in enumerate(row):
                alone = factored_logits(bloom, to_batch([[example]])).hidden[0]
                assert_close(hidden[number, batch.documents[number] == document], alone, rtol=1e-3, atol=1e-4)
    if max(map(len, rows)) > 1:
        assert (hidden[batch.documents < 0] == 0).all()


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_finding_out_about_a_model_leaves_it_as_it_was(build_model, build_example, family):
    model = build_model(family).train()
    model.base_model.get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    factored_logits(model, to_batch([[build_example(1, 9), build_example(2, 12)]]))
    drawn = torch.rand(())
    torch.manual_seed(5)
    assert torch.rand(()) == drawn
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_dropout_does_not_hide_that_a_family_keeps_documents_apart(build_model, build_example):
    model, rows_seen = build_model("gpt2", attn_pdrop=0.5, embd_pdrop=0.5, resid_pdrop=0.5).train(), []
    batch = to_batch([[build_example(1, 9), build_example(2, 12)]])
    factored_logits(model, batch)
    model.base_model.register_forward_hook(lambda _model, _inputs, output: rows_seen.append(len(output[0])))
    factored_logits(model, batch)
    assert rows_seen == [1]


def test_a_wrapped_model_is_called_as_a_whole(build_model, build_example):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.module(*args, **kwargs)

    model, batch = build_model(), to_batch([[build_example(0, 12)]])
    wrapper = Wrapper(model)
    factored_logits(wrapper, batch)
    assert wrapper.calls == 4  # two of them to find out whether it keeps documents apart, one what its head does
    assert torch.equal(factored_logits(wrapper, batch).dense(), factored_logits(model, batch).dense())
    assert wrapper.calls == 5


@pytest.mark.parametrize("rows", [1, 2])
def test_models_are_called_as_often_whether_documents_share_rows_or_not(build_model, build_example, rows):
    """So that the ranks of a parallel run, which wait for each other at every call, wait for the same."""
    model, calls = build_model("bloom"), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    examples = [build_example(1, 9), build_example(2, 12)]
    factored_logits(model, to_batch([examples] if rows == 1 else [[example] for example in examples]))
    assert len(calls) == 4  # two to find out about documents, one about the head
