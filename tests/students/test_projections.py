"""Maps between widths: they learn, they are kept, and they never end up inside the student."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from stillhouse.students.projections import Projections
from stillhouse.students.save import save_student

WIDTHS = {"mse of layer 2.0": (8, 12), "cosine": (12, 12), "attention/relation": (12, 8)}


@pytest.fixture
def projections():
    return Projections(WIDTHS, seed=0)


def test_a_map_is_made_only_where_widths_differ(projections):
    assert sum(parameter.numel() for parameter in projections.parameters()) == 2 * 8 * 12
    states = torch.randn(3, 12)
    assert projections("cosine", states) is states


def test_a_map_is_linear_and_leads_to_the_teachers_width(projections):
    first, second = torch.randn(2, 3, 5, 8)
    assert projections("mse of layer 2.0", first).shape == (3, 5, 12)
    together = projections("mse of layer 2.0", 2 * first - second)
    apart = 2 * projections("mse of layer 2.0", first) - projections("mse of layer 2.0", second)
    assert_close(together, apart, rtol=0, atol=1e-5)


def test_a_map_into_a_wider_space_starts_out_keeping_lengths_and_angles(projections):
    states = torch.randn(5, 8)
    mapped = projections("mse of layer 2.0", states)
    assert_close(mapped @ mapped.T, states @ states.T, rtol=0, atol=1e-5)


def test_a_map_into_a_narrower_space_starts_out_with_orthonormal_rows(projections):
    rows = projections.maps[projections.numbers["attention/relation"]]
    assert_close(rows @ rows.T, torch.eye(8), rtol=0, atol=1e-5)


def test_the_seed_decides_the_maps():
    first, again, other = (
        torch.cat([p.flatten() for p in Projections(WIDTHS, seed=s).parameters()]) for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_states_keep_their_precision(projections):
    assert projections("mse of layer 2.0", torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_states_of_another_width_are_our_mistake(projections):
    with pytest.raises(AssertionError, match="cosine is made for states of width 12"):
        projections("cosine", torch.randn(2, 8))


def test_what_was_saved_is_loaded_bit_for_bit(projections, tmp_path):
    nn.init.normal_(projections.maps[0])
    projections.save(tmp_path)
    again = Projections.load(tmp_path)
    assert again.widths == WIDTHS
    states = torch.randn(4, 8)
    assert torch.equal(again("mse of layer 2.0", states), projections("mse of layer 2.0", states))
    assert torch.equal(again.maps[1], projections.maps[1])


def test_equal_widths_everywhere_need_no_map_and_are_saved_too(tmp_path):
    Projections({"cosine": (4, 4)}, seed=0).save(tmp_path)
    assert not list(Projections.load(tmp_path).parameters())


def test_maps_learn_with_the_student_and_stay_out_of_it(build_encoder, tokenizer, tmp_path):
    student, teacher = build_encoder("bert", "sentence_embedding", layers=1), torch.randn(1, 6, 48)
    projections = Projections({"mse": (32, 48)}, seed=0)
    ids, both = torch.arange(2, 8)[None], nn.ModuleList([student, projections])
    before = projections.maps[0].detach().clone()
    optimiser = torch.optim.SGD(both.parameters(), lr=0.1)
    (projections("mse", student(input_ids=ids).last_hidden_state) - teacher).square().mean().backward()
    assert projections.maps[0].grad.abs().min() > 0
    assert student.embeddings.word_embeddings.weight.grad[2:8].abs().min() > 0
    optimiser.step()
    assert not torch.equal(projections.maps[0], before)
    save_student(student, tokenizer, tmp_path, pooling="mean")
    projections.save(tmp_path)
    again, found = AutoModel.from_pretrained(tmp_path, output_loading_info=True, add_pooling_layer=False)
    assert not any(found.values())
    assert again.state_dict().keys() == student.state_dict().keys()
