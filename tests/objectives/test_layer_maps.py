"""Which layer is matched with which: the published maps, one numbering, and what is refused."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import hidden_mse, layer_pairs

from .cases import random_logits

DEPTHS = st.integers(1, 40).flatmap(lambda student: st.tuples(st.just(student), st.integers(student, 60)))


@given(DEPTHS)
def test_a_uniform_map_takes_every_student_layer_up_the_teacher_and_the_last_to_the_last(depths):
    student_layers, teacher_layers = depths
    ours, theirs = zip(
        *layer_pairs("uniform", student_layers=student_layers, teacher_layers=teacher_layers), strict=True
    )
    assert ours == tuple(range(1, student_layers + 1))
    assert theirs[-1] == teacher_layers
    assert theirs[0] >= 1
    assert all(lower < upper for lower, upper in pairwise(theirs))
    # Nearest to i * teacher_layers / student_layers, in whole numbers.
    assert all(abs(theirs[i - 1] * student_layers - i * teacher_layers) <= student_layers / 2 for i in ours)


@pytest.mark.parametrize("student_layers", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_both_of_tinyberts_index_bases_name_the_layers_of_the_uniform_map(student_layers, step):
    # TinyBERT keeps attentions of blocks 0, 1, ... and states of embeddings, block 0, block 1, ... in two lists.
    blocks = range(student_layers * step)
    attention_of = [f"block {block}" for block in blocks]
    states_of = ["embeddings", *(f"block {block}" for block in blocks)]
    by_attention = [(i + 1, attention_of[i * step + step - 1]) for i in range(student_layers)]
    by_states = [(i, states_of[i * step]) for i in range(student_layers + 1)]
    assert by_attention == by_states[1:]
    # Ours: layer n is block n - 1, and layer 0 the embeddings.
    depths = {"student_layers": student_layers, "teacher_layers": student_layers * step}
    uniform = [(ours, f"block {theirs - 1}") for ours, theirs in layer_pairs("uniform", **depths)]
    assert uniform == by_attention
    assert by_states[0] == (0, "embeddings")
    assert layer_pairs("embeddings", **depths) == ((0, 0),)


def test_skip_is_the_map_of_patient_distillation():
    pairs = layer_pairs("skip", student_layers=6, teacher_layers=12)
    assert pairs == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    assert pairs == layer_pairs("uniform", student_layers=6, teacher_layers=12)[:-1]
    assert layer_pairs("skip", student_layers=3, teacher_layers=12) == ((1, 4), (2, 8))
    assert layer_pairs("skip", student_layers=3, teacher_layers=7) == ((1, 2), (2, 4))


def test_last_takes_the_topmost_layers_of_the_teacher():
    assert layer_pairs("last", student_layers=3, teacher_layers=12) == ((1, 10), (2, 11), (3, 12))


def test_final_is_the_last_pair_whichever_side_is_deeper():
    assert layer_pairs("final", student_layers=3, teacher_layers=12) == ((3, 12),)
    assert layer_pairs("final", student_layers=12, teacher_layers=3) == ((12, 3),)


def test_models_of_one_depth_are_matched_layer_by_layer():
    identity = tuple((layer, layer) for layer in range(1, 5))
    assert layer_pairs("uniform", student_layers=4, teacher_layers=4) == identity
    assert layer_pairs("last", student_layers=4, teacher_layers=4) == identity


def test_pairs_that_are_given_come_back_in_order():
    assert layer_pairs([[3, 7], (0, 0)], student_layers=3, teacher_layers=7) == ((0, 0), (3, 7))
    assert layer_pairs([(1, 2), (1, 4)], student_layers=3, teacher_layers=7) == ((1, 2), (1, 4))


@pytest.mark.parametrize("student_layer", range(4))
def test_a_change_of_one_layer_is_seen_by_its_own_pair_alone(student_layer):
    depths = {"student_layers": 3, "teacher_layers": 6}
    pairs = layer_pairs([(0, 0), *layer_pairs("uniform", **depths)], **depths)
    teacher = [random_logits(layer, 5, 4) for layer in range(7)]
    student = {ours: teacher[theirs] for ours, theirs in pairs}
    values = torch.stack([hidden_mse(student[ours], teacher[theirs]).sum() for ours, theirs in pairs])
    assert_close(values, torch.zeros(4, dtype=torch.float64))
    student[student_layer] = student[student_layer] + 1
    values = torch.stack([hidden_mse(student[ours], teacher[theirs]).sum() for ours, theirs in pairs])
    assert values.nonzero().flatten().tolist() == [student_layer]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("unifrom", r"there is no map 'unifrom'. Known: uniform, skip, last, final, embeddings; or give pairs"),
        ([(4, 1)], r"in \[4, 1\], the student's layer must be from 0 to 3, but it is 4"),
        ([(1, 2), (2, 8)], r"in \[2, 8\], the teacher's layer must be from 0 to 7, but it is 8"),
        ([(-1, -1)], r"in \[-1, -1\], the student's layer must be from 0 to 3, but it is -1"),
        ([(1, 2, 3)], r"a pair is \[student, teacher\], but \[1, 2, 3\] came"),
        ([(1, 2), (1, 2)], "names a pair twice"),
        ([], "what is given matches 0 of a student's 3 layers, but at least 1 must be"),
    ],
)
def test_a_map_that_names_no_layers_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        layer_pairs(layers, student_layers=3, teacher_layers=7)


@pytest.mark.parametrize("layers", ["embeddings", [(0, 0)], [(0, 3)]])
def test_embeddings_have_no_attention(layers):
    with pytest.raises(
        ValueError, match=r"must be from 1 to 3, but it is 0. 0 is the embeddings, which have no attention"
    ):
        layer_pairs(layers, student_layers=3, teacher_layers=7, lowest=1)


@pytest.mark.parametrize("layers", ["uniform", "skip", "last"])
def test_a_student_deeper_than_its_teacher_needs_pairs(layers):
    with pytest.raises(
        ValueError, match=f"{layers} spreads .* student has 7 and the teacher 3. Use final, or give pairs"
    ):
        layer_pairs(layers, student_layers=7, teacher_layers=3)


def test_skip_needs_a_layer_below_the_last():
    with pytest.raises(ValueError, match="skip matches 0 of a student's 1 layers"):
        layer_pairs("skip", student_layers=1, teacher_layers=7)
