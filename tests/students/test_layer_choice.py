"""Which layers are kept: measured on text, and the measurement is true."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import ModelError
from stillhouse.data.packing import to_batch
from stillhouse.models.anatomy import layers_of
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import forward_kl
from stillhouse.students.build import student_from_layers
from stillhouse.students.layer_choice import (
    PUBLISHED_LAYERS,
    check_keep,
    choose_layers,
    kl_when_kept,
    most_influential,
    published_layers,
    uniform_layers,
)
from stillhouse.students.skipping import only


@pytest.fixture(scope="module")
def batch(build_example):
    return to_batch([[build_example(1, 24)], [build_example(2, 16)]])


@torch.no_grad()
def _kl_of_built(teacher, batch, kept):
    models = student_from_layers(teacher, kept), teacher
    ours, theirs = (factored_logits(model, batch).at(batch.predicts).dense() for model in models)
    return float(forward_kl(ours, theirs).mean())


@given(total=st.integers(1, 60), data=st.data())
def test_uniform_layers_are_distinct_in_order_and_have_the_first_and_the_last(total, data):
    keep = data.draw(st.integers(1, total))
    kept = uniform_layers(total, keep)
    assert len(kept) == keep
    assert list(kept) == sorted(set(kept))
    assert kept[0] == 0 and kept[-1] < total
    if keep > 1:
        assert kept[-1] == total - 1
        gaps = [after - before for before, after in itertools.pairwise(kept)]
        assert max(gaps) - min(gaps) <= 1


@given(influence=st.lists(st.floats(0, 2), min_size=1, max_size=20), data=st.data())
def test_no_layer_left_out_changes_more_than_one_kept(influence, data):
    kept = most_influential(influence, data.draw(st.integers(1, len(influence))))
    left_out = [value for layer, value in enumerate(influence) if layer not in kept]
    assert list(kept) == sorted(set(kept))
    assert min(influence[layer] for layer in kept) >= max(left_out, default=0)


@torch.no_grad()
def test_influence_is_one_minus_the_cosine_of_what_a_layer_gets_and_gives(family, build_model, batch):
    teacher, states = build_model(family), []
    layers = layers_of(teacher)
    layers[0].register_forward_pre_hook(
        lambda _l, args, kwargs: states.append((args or [*kwargs.values()])[0]), with_kwargs=True
    )
    for layer in layers:
        layer.register_forward_hook(lambda _layer, _inputs, output: states.append(output))
    choice = choose_layers(teacher, batch, keep=4)
    real, found = batch.documents >= 0, []
    for before, after in itertools.pairwise(states[-5:]):
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        found.append(float((1 - cosine)[real].mean()))
    assert choice.influence == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("method", ["uniform", "block_influence", "greedy"])
def test_what_a_choice_says_of_itself_and_of_the_others_is_true(build_model, batch, method):
    teacher = build_model(layers=6)
    choice = choose_layers(teacher, batch, keep=3, method=method)
    assert choice.start_kl_nats == pytest.approx(_kl_of_built(teacher, batch, choice.kept), rel=1e-5)
    assert choice.calibration_tokens == int(batch.total_weight)
    kept = {"uniform": uniform_layers(6, 3), "block_influence": most_influential(choice.influence, 3)}
    for name, kl in choice.alternatives.items():
        if name in kept:
            assert kl == pytest.approx(_kl_of_built(teacher, batch, kept[name]), rel=1e-5)
    assert {choice.method, *choice.alternatives} == {method, "uniform", "block_influence"}


@pytest.mark.parametrize("seed", range(6))
def test_the_default_choice_is_never_worse_than_the_simple_ones(build_model, batch, seed):
    teacher = build_model(layers=8, seed=seed)
    choice = choose_layers(teacher, batch, keep=4)
    assert choice.start_kl_nats <= min(choice.alternatives.values())


def test_greedy_gives_way_to_a_simple_choice_that_is_better(build_model, batch, monkeypatch):
    teacher = build_model(layers=6)
    by_influence = choose_layers(teacher, batch, keep=3, method="block_influence")
    monkeypatch.setattr("stillhouse.students.layer_choice._Probe.greedy", lambda *_: (0, 1, 5))
    choice = choose_layers(teacher, batch, keep=3)
    best = min(
        [*by_influence.alternatives.items(), ("block_influence", by_influence.start_kl_nats)], key=lambda x: x[1]
    )
    assert best[1] < choice.alternatives["greedy"]
    assert (choice.method, choice.start_kl_nats) == (best[0], pytest.approx(best[1]))


def test_leaving_one_layer_out_greedily_finds_the_best_of_all(build_model, batch):
    teacher = build_model(layers=5)
    ways = [tuple(layer for layer in range(5) if layer != gone) for gone in range(5)]
    best = min(_kl_of_built(teacher, batch, kept) for kept in ways)
    assert choose_layers(teacher, batch, keep=4).start_kl_nats == pytest.approx(best, rel=1e-5)


def test_keeping_all_costs_nothing(build_model, batch):
    choice = choose_layers(build_model(), batch, keep=4)
    assert choice.kept == (0, 1, 2, 3)
    assert choice.start_kl_nats == 0


def test_an_explicit_list_is_taken_as_it_is_in_order(build_model, batch):
    choice = choose_layers(build_model(), batch, keep=(3, 0))
    assert (choice.method, choice.kept, choice.alternatives) == ("explicit", (0, 3), {})


def test_padding_and_prompts_do_not_count_in_the_measurement(build_model, build_example):
    teacher, examples = build_model(), [build_example(1, 20, prompt=12), build_example(2, 9)]
    narrow = to_batch([[example] for example in examples])
    wide = to_batch([[example] for example in examples], row_tokens=60)
    choices = [choose_layers(teacher, some, keep=2) for some in (narrow, wide)]
    assert choices[0].kept == choices[1].kept
    assert choices[0].start_kl_nats == pytest.approx(choices[1].start_kl_nats, rel=1e-4)
    assert choices[0].influence == pytest.approx(choices[1].influence, abs=1e-5)
    assert choices[0].calibration_tokens == 8 + 8


def test_choosing_leaves_the_teacher_untouched(family, build_model, batch):
    teacher = build_model(family)
    blocks, weights = list(layers_of(teacher)), {k: v.clone() for k, v in teacher.state_dict().items()}
    before = teacher(batch.ids).logits
    choose_layers(teacher, batch, keep=2)
    assert all(now is then for now, then in zip(layers_of(teacher), blocks, strict=True))
    assert all(torch.equal(weights[name], weight) for name, weight in teacher.state_dict().items())
    assert torch.equal(teacher(batch.ids).logits, before)
    assert not any(block._forward_hooks for block in blocks)


def test_an_error_while_layers_are_left_out_puts_them_back(build_model):
    teacher = build_model()
    layers = layers_of(teacher)
    blocks = list(layers)
    with pytest.raises(KeyboardInterrupt), only(teacher, (0,)):
        assert layers[1] is not blocks[1]
        raise KeyboardInterrupt
    assert list(layers) == blocks


def test_a_layer_left_out_has_no_parameters_and_hides_none(build_model):
    teacher = build_model()
    layers = layers_of(teacher)
    one = sum(parameter.numel() for parameter in layers[0].parameters())
    with only(teacher, (0, 2)):
        assert sum(parameter.numel() for parameter in layers.parameters()) == 2 * one


def test_layers_that_hand_on_more_than_hidden_states_are_refused(build_model, batch):
    with pytest.raises(ModelError, match="BloomBlock hands on more than hidden states"):
        choose_layers(build_model("bloom"), batch, keep=2)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (5, "student.keep is 5, but the teacher has 4 layers"),
        (0, "student.keep is 0"),
        ((0, 4), "the teacher's layers are 0 to 3"),
        ((-1, 2), "the teacher's layers are 0 to 3"),
        ((1, 1), "each once"),
        ((), "at least one"),
    ],
)
def test_what_cannot_be_kept_is_refused(build_model, batch, keep, said):
    with pytest.raises(ModelError, match=said):
        choose_layers(build_model(), batch, keep=keep)


def test_the_same_text_gives_the_same_choice(build_model, batch):
    assert choose_layers(build_model(), batch, keep=2) == choose_layers(build_model(), batch, keep=2)


def test_the_kl_of_a_list_is_that_of_the_student_built_from_it(build_model, batch):
    teacher = build_model()
    assert kl_when_kept(teacher, batch, (1, 3)) == pytest.approx(_kl_of_built(teacher, batch, (1, 3)), rel=1e-5)


@pytest.mark.parametrize(
    ("total", "keep", "kept"),
    [
        (12, 6, (0, 2, 4, 7, 9, 11)),  # DistilBERT, DistilGPT2
        (12, 3, (0, 6, 11)),  # distilbart-*-12-3
        (12, 4, (0, 4, 8, 11)),
        (12, 9, (0, 1, 2, 4, 5, 7, 9, 10, 11)),
        (16, 4, (0, 5, 10, 15)),  # distill-pegasus-*-16-4
        (6, 3, (0, 2, 5)),
        (12, 12, tuple(range(12))),
        (5, 5, (0, 1, 2, 3, 4)),
    ],
)
def test_published_layers_are_those_of_the_well_known_students(total, keep, kept):
    assert published_layers(total, keep) == kept


def test_published_layers_are_distinct_in_order_and_as_many_as_asked_for():
    for total, ways in PUBLISHED_LAYERS.items():
        for keep, kept in ways.items():
            assert list(kept) == sorted(set(kept)) and len(kept) == keep and kept[0] == 0 and kept[-1] < total


@pytest.mark.parametrize(("total", "keep"), [(12, 5), (24, 6), (4, 1)])
def test_what_nobody_published_is_refused_and_what_there_is_is_named(total, keep):
    with pytest.raises(ModelError, match=f"no published student keeps {keep} of {total} layers") as refusal:
        check_keep(keep, total, method="published")
    assert "12 to 1, 2, 3, 4, 6, 9" in str(refusal.value)
    check_keep(keep, total, method="uniform")


def test_published_layers_are_measured_beside_the_others(build_model, batch):
    teacher = build_model(layers=6)
    choice = choose_layers(teacher, batch, keep=3, method="published")
    assert (choice.method, choice.kept) == ("published", (0, 2, 5))
    assert choice.start_kl_nats == pytest.approx(_kl_of_built(teacher, batch, (0, 2, 5)), rel=1e-5)
    assert choice.alternatives.keys() == {"uniform", "block_influence"}


def test_packed_documents_are_measured_as_each_alone(build_model, build_example):
    examples = [build_example(1, 24), build_example(2, 16)]
    packed, apart = to_batch([examples]), to_batch([[example] for example in examples])
    choices = [choose_layers(build_model(), rows, keep=2) for rows in (packed, apart)]
    assert choices[0] == choices[1]
