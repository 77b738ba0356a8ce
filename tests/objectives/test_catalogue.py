"""The catalogue: what a recipe may ask for, and what it is told when it asks for something else."""

import inspect

import pytest
import torch
from torch.testing import assert_close

from stillhouse.objectives import (
    CATALOGUE,
    FEATURES,
    POLICIES,
    PREFERENCES,
    RANKINGS,
    SPANS,
    alpha_beta,
    decoupled_kd,
    divergences,
    dual_space,
    features,
    jsd,
    layer_pairs,
    multi_head_relation_kl,
    names,
    next_token,
    objective,
    policy,
    preference,
    ranking,
    relations,
    responses,
    spans,
    supervised,
    tempered,
)

from .cases import random_logits

STUDENT, TEACHER, TARGETS = random_logits(0, 2, 3, 7), random_logits(1, 2, 3, 7), torch.tensor([[0, 6, 3], [2, 2, 5]])


def public_objectives(module, first_argument):
    """Functions of a module, defined there, whose first argument has this name."""
    functions = {name: inspect.unwrap(value) for name, value in vars(module).items() if inspect.isroutine(value)}
    return {
        name
        for name, function in functions.items()
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and next(iter(inspect.signature(function).parameters), None) == first_argument
        and function.__name__ == name  # not a second name for it
    }


FEATURE_FUNCTIONS = {"embedding_mse": "hidden_mse", "embedding_cosine": "hidden_cosine"}
HARD_LABELS = ("next_token", "masked_token", "hard_label")


def test_every_objective_of_logits_is_in_the_catalogue_under_its_own_name():
    defined = set().union(
        *(public_objectives(module, "student_logits") for module in (divergences, responses, supervised))
    )
    assert set(CATALOGUE) == (defined - {"cross_entropy"}) | set(HARD_LABELS)
    assert len(CATALOGUE) == 16
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.function.__name__ == ("cross_entropy" if name in HARD_LABELS else name)


def test_every_objective_of_features_is_in_the_catalogue_under_its_own_name():
    firsts = ("student_states", "student_scores", "student_lower")
    defined = set().union(*(public_objectives(module, first) for module in (features, relations) for first in firsts))
    assert set(FEATURES) == defined | public_objectives(dual_space, "student_logits") | set(FEATURE_FUNCTIONS)
    assert len(FEATURES) == 14
    for name, entry in FEATURES.items():
        assert entry.name == name
        assert entry.function.__name__ == FEATURE_FUNCTIONS.get(name, name)


def test_every_objective_across_tokenizers_is_in_the_catalogue_under_its_own_name():
    assert set(SPANS) == public_objectives(spans, "student")
    assert len(SPANS) == 4
    for name, entry in SPANS.items():
        assert (entry.name, entry.function.__name__) == (name, name)
        required = [
            argument.name
            for argument in inspect.signature(entry.function).parameters.values()
            if argument.default is argument.empty
        ]
        assert required == ["student", "teacher", "num_outcomes"]
        assert "arXiv:" in entry.source


def test_every_policy_gradient_is_in_the_catalogue_under_its_own_name():
    assert set(POLICIES) == public_objectives(policy, "draws")
    assert len(POLICIES) == 2
    for name, entry in POLICIES.items():
        assert (entry.name, entry.function.__name__) == (name, name)
        arguments = inspect.signature(entry.function).parameters.values()
        assert [argument.name for argument in arguments if argument.default is argument.empty] == ["draws"]


def test_every_objective_of_pairs_is_in_the_catalogue_under_its_own_name():
    assert set(PREFERENCES) == public_objectives(preference, "pairs")
    assert len(PREFERENCES) == 3
    for name, entry in PREFERENCES.items():
        assert (entry.name, entry.function.__name__) == (name, name)
        assert entry.reads_rewards == (name != "dpo")
        assert "arXiv:" in entry.source


def test_every_objective_of_rankings_is_in_the_catalogue_under_its_own_name():
    firsts = ("student_scores", "batch_scores")
    assert set(RANKINGS) == set().union(*(public_objectives(ranking, first) for first in firsts))
    assert len(RANKINGS) == 4
    for name, entry in RANKINGS.items():
        assert (entry.name, entry.function.__name__) == (name, name)
        assert entry.reads_teacher == (name != "info_nce")
        assert "arXiv:" in entry.source


def test_no_name_is_in_two_families():
    assert names() == (*CATALOGUE, *FEATURES, *SPANS, *POLICIES, *PREFERENCES, *RANKINGS)
    assert len(set(names())) == len(names())
    assert all(objective(name).name == name for name in names())


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_objective_reads_exactly_the_signals_that_its_function_takes(name):
    arguments = inspect.signature(CATALOGUE[name].function).parameters
    required = {argument.name for argument in arguments.values() if argument.default is argument.empty}
    assert required == {"student_logits", *CATALOGUE[name].reads}


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_objective_takes_the_student_before_the_teacher(name):
    arguments = list(inspect.signature(FEATURES[name].function).parameters)
    sides = [argument.split("_")[0] for argument in arguments if argument.startswith(("student", "teacher"))]
    assert sides == sorted(sides)
    assert sides.count("student") == sides.count("teacher") == (2 if FEATURES[name].reads == "flow" else 1)
    assert ("allowed" in arguments) == FEATURES[name].reads.endswith("relations")


@pytest.mark.parametrize("name", names())
def test_what_is_said_of_an_objective_is_one_line(name):
    entry = objective(name)
    for line in (entry.summary, entry.cost, entry.source):
        assert line.endswith(".")
        assert "\n" not in line
    assert len(entry.summary) < 100


@pytest.mark.parametrize("name", names())
def test_parameters_leave_the_source_as_it_was(name):
    entry = objective(name)
    assert objective(name, **entry.parameters).source == entry.source


def test_only_objectives_of_hard_answers_and_of_pairs_do_without_a_teacher():
    without = [name for name in names() if not objective(name).reads_teacher]
    assert without == [*HARD_LABELS, "squared_error", *PREFERENCES, "info_nce"]


@pytest.mark.parametrize("name", FEATURES)
def test_layers_are_paired_by_the_usual_map_where_none_is_given(name):
    depths = {"student_layers": 3, "teacher_layers": 7}
    usual = layer_pairs(FEATURES[name].default_layers, **depths)
    assert FEATURES[name].pairs(None, **depths) == usual
    assert FEATURES[name].pairs([(1, 2), (3, 5)], **depths) == ((1, 2), (3, 5))


def test_what_lies_between_layers_needs_two_pairs():
    with pytest.raises(ValueError, match="final matches 1 of a student's 3 layers, but at least 2 must be"):
        FEATURES["flow_mse"].pairs("final", student_layers=3, teacher_layers=7)


def test_attention_is_not_looked_for_in_embeddings():
    with pytest.raises(ValueError, match="0 is the embeddings, which have no attention"):
        FEATURES["attention_kl"].pairs("embeddings", student_layers=3, teacher_layers=7)


def test_only_what_compares_number_by_number_is_projected():
    projected = {name for name, entry in FEATURES.items() if entry.projects}
    mse_of_states = {"hidden_mse", "hidden_cosine", "normalized_mse", "flow_mse", "embedding_mse", "embedding_cosine"}
    assert projected == mse_of_states


def test_only_attention_needs_a_block():
    needing = {name for name, entry in FEATURES.items() if entry.lowest_layer == 1}
    assert needing == {"attention_mse", "attention_kl", "value_relation_kl", "multi_head_relation_kl"}


def test_what_reads_a_token_counts_tokens():
    by_document = {name for name, entry in FEATURES.items() if entry.unit == "document"}
    assert by_document == {"gram_mse", "flow_mse", "linear_cka", "embedding_mse", "embedding_cosine"}


def signals_for(entry):
    """(student, teacher, targets) as this objective wants them."""
    if "target_values" in entry.reads:
        return STUDENT[..., :1], None, TARGETS.double()
    return STUDENT, TEACHER, TARGETS


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_bound_objective_is_called_the_same_way(name):
    entry = CATALOGUE[name]
    student, teacher, targets = signals_for(entry)
    offered = {"teacher_logits": teacher, "target_ids": targets, "target_values": targets}
    read = {signal: offered[signal] for signal in entry.reads}
    assert_close(entry.bind()(student, teacher, targets), entry.function(student, **read))


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_signal_that_is_not_read_may_be_absent(name):
    entry = CATALOGUE[name]
    student, teacher, targets = signals_for(entry)
    alone = entry.bind()(
        student, teacher if entry.reads_teacher else None, targets if entry.reads - {"teacher_logits"} else None
    )
    assert_close(alone, entry.bind()(student, teacher, targets))


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_signal_that_is_read_may_not_be_absent(name):
    with pytest.raises(AssertionError, match=f"{name} reads"):
        CATALOGUE[name].bind()(STUDENT, None, None)


def test_bind_applies_temperature_and_parameters():
    bound = CATALOGUE["jsd"].bind(temperature=2.0, beta=0.1)
    assert_close(bound(STUDENT, TEACHER, TARGETS), tempered(jsd, 2.0)(STUDENT, TEACHER, beta=0.1))
    assert not torch.allclose(bound(STUDENT, TEACHER, TARGETS), CATALOGUE["jsd"].bind(2.0)(STUDENT, TEACHER, TARGETS))


def test_bind_leaves_the_catalogue_as_it_was():
    CATALOGUE["jsd"].bind(beta=0.1)
    assert CATALOGUE["jsd"].parameters == {"beta": 0.5}
    with pytest.raises(TypeError):
        CATALOGUE["jsd"] = CATALOGUE["forward_kl"]  # type: ignore[index]


def test_parameters_are_those_of_the_function_with_its_defaults():
    assert CATALOGUE["forward_kl"].parameters == {}
    assert CATALOGUE["skewed_forward_kl"].parameters == {"alpha": 0.1}
    assert CATALOGUE["alpha_beta"].parameters == {"alpha": 0.5, "beta": 0.5}


def test_objective_looks_up_by_name_and_replaces_defaults():
    assert objective("next_token").bind()(STUDENT, None, TARGETS).equal(next_token(STUDENT, TARGETS))
    found = objective("alpha_beta", alpha=0.2)
    assert found.parameters == {"alpha": 0.2, "beta": 0.5}
    bound = found.bind(beta=0.7)
    assert_close(bound(STUDENT, TEACHER, None), alpha_beta(STUDENT, TEACHER, alpha=0.2, beta=0.7))


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("foward_kl", "forward_kl"), ("JSD", "jsd"), ("next_tokens", "next_token"), ("hiden_mse", "hidden_mse")],
)
def test_an_unknown_objective_is_refused_and_the_nearest_named(wrong, nearest):
    with pytest.raises(ValueError, match=f"no objective '{wrong}'. Did you mean '{nearest}'?"):
        objective(wrong)


def test_an_unknown_parameter_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match=r"jsd has no parameter 'alpha'. It has beta \(default 0.5\)"):
        objective("jsd", alpha=0.1)
    with pytest.raises(ValueError, match=r"forward_kl has no parameter 'beta'\. It has none"):
        CATALOGUE["forward_kl"].bind(beta=0.1)


@pytest.mark.parametrize("signal", ["student_logits", "teacher_logits"])
def test_a_signal_is_no_parameter(signal):
    with pytest.raises(ValueError, match=f"no parameter '{signal}'"):
        CATALOGUE["jsd"].bind(**{signal: 1.0})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("jsd", {"beta": 1.0}, "beta is 1.0"),
        ("skewed_forward_kl", {"alpha": 1.0}, "skewed_forward_kl needs"),
        ("skewed_reverse_kl", {"alpha": -0.5}, "skewed_reverse_kl needs"),
        ("alpha_beta", {"alpha": float("nan")}, "alpha is nan"),
        ("jsd", {"beta": "half"}, "jsd's beta must be a number, but it is 'half'"),
        ("jsd", {"beta": True}, "jsd's beta must be a number, but it is True"),
        ("taid", {"t": 1.5}, "taid needs 0 <= t <= 1, but t is 1.5"),
        ("adaptive_kl", {"mu": 0}, "adaptive_kl needs 0 < mu < 1, but mu is 0"),
        ("decoupled_kd", {"alpha": 0, "beta": 0}, "not both 0, but alpha is 0 and beta 0"),
        ("decoupled_kd", {"beta": -1.0}, "beta -1.0"),
        ("decoupled_kd", {"alpha": float("inf")}, "alpha is inf"),
        ("multi_head_relation_kl", {"relation_heads": 0}, "must be 1 or more, but it is 0"),
        ("multi_head_relation_kl", {"relation_heads": 1.5}, "must be a whole number, but it is 1.5"),
        ("multi_head_relation_kl", {"relation_heads": float("nan")}, "must be a whole number, but it is nan"),
        ("multi_head_relation_kl", {"relation_heads": float("inf")}, "must be a whole number, but it is inf"),
        ("multi_head_relation_kl", {"heads": 2}, r"no parameter 'heads'. It has relation_heads \(default 32\)"),
    ],
)
def test_a_parameter_out_of_range_is_refused_before_any_batch(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        objective(name).bind(**parameters)
    with pytest.raises(ValueError, match=message):
        objective(name, **parameters)


def test_a_temperature_out_of_range_is_refused_before_any_batch():
    with pytest.raises(ValueError, match="positive and finite, but it is 0"):
        CATALOGUE["jsd"].bind(temperature=0)


@pytest.mark.parametrize("temperature", [2.0, 0.0])
@pytest.mark.parametrize("name", [*HARD_LABELS, "squared_error"])
def test_a_temperature_on_hard_labels_is_refused(name, temperature):
    with pytest.raises(ValueError, match=f"{name} compares with hard targets.*temperature is {temperature}"):
        CATALOGUE[name].bind(temperature=temperature)


@pytest.mark.parametrize("name", ["logit_mse", "centred_logit_mse"])
def test_a_temperature_that_would_change_nothing_is_refused(name):
    function = CATALOGUE[name].function
    assert_close(tempered(function, 3.0)(STUDENT, TEACHER), function(STUDENT, TEACHER))
    with pytest.raises(ValueError, match=rf"{name} compares logits themselves.*temperature is 3\.0\. Remove it"):
        CATALOGUE[name].bind(temperature=3.0)


@pytest.mark.parametrize("name", [name for name, entry in FEATURES.items() if not entry.is_dual])
def test_a_temperature_on_features_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} compares no answers.*temperature is 2"):
        FEATURES[name].bind(temperature=2)


def test_temperature_reaches_an_objective_that_reads_teacher_and_targets():
    bound = objective("decoupled_kd").bind(temperature=2.0, beta=3.0)
    softened = decoupled_kd(STUDENT / 2, TEACHER / 2, TARGETS, beta=3.0)
    assert_close(bound(STUDENT, TEACHER, TARGETS), 4 * softened)


def test_a_whole_number_may_come_as_a_decimal():
    states, allowed = random_logits(0, 1, 2, 3, 6), torch.ones(1, 3, 3, dtype=torch.bool)
    found = objective("multi_head_relation_kl", relation_heads=4.0)
    assert found.parameters == {"relation_heads": 4}
    expected = multi_head_relation_kl(states, 2 * states, allowed, relation_heads=4)
    assert_close(found.bind()(states, 2 * states, allowed), expected)
