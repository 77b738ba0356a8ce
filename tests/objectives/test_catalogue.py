"""The catalogue: what a recipe may ask for, and what it is told when it asks for something else."""

import inspect

import pytest
import torch
from torch.testing import assert_close

from stillhouse.objectives import (
    CATALOGUE,
    alpha_beta,
    divergences,
    jsd,
    names,
    next_token,
    objective,
    supervised,
    tempered,
)

from .cases import random_logits

STUDENT, TEACHER, TARGETS = random_logits(0, 2, 3, 7), random_logits(1, 2, 3, 7), torch.tensor([[0, 6, 3], [2, 2, 5]])


def public_objectives(module):
    """Functions of a module, defined there, that take the student's logits first."""
    functions = {name: inspect.unwrap(value) for name, value in vars(module).items() if inspect.isroutine(value)}
    return {
        name
        for name, function in functions.items()
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and next(iter(inspect.signature(function).parameters), None) == "student_logits"
    }


def test_every_objective_function_is_in_the_catalogue_under_its_own_name():
    defined = public_objectives(divergences) | public_objectives(supervised)
    assert set(names()) == set(CATALOGUE) == defined
    assert len(defined) == 8
    for name, entry in CATALOGUE.items():
        assert entry.name == entry.function.__name__ == name


@pytest.mark.parametrize("name", names())
def test_an_objective_reads_exactly_the_signals_that_its_function_takes(name):
    arguments = inspect.signature(CATALOGUE[name].function).parameters
    required = {argument.name for argument in arguments.values() if argument.default is argument.empty}
    assert required == {"student_logits", *CATALOGUE[name].reads}


@pytest.mark.parametrize("name", names())
def test_a_summary_is_one_sentence(name):
    summary = CATALOGUE[name].summary
    assert summary.endswith(".")
    assert "\n" not in summary


def test_only_the_hard_label_objective_does_without_a_teacher():
    assert [name for name in names() if not CATALOGUE[name].reads_teacher] == ["next_token"]


@pytest.mark.parametrize("name", names())
def test_every_bound_objective_is_called_the_same_way(name):
    entry = CATALOGUE[name]
    read = {"teacher_logits": TEACHER} if entry.reads_teacher else {"target_ids": TARGETS}
    assert_close(entry.bind()(STUDENT, TEACHER, TARGETS), entry.function(STUDENT, **read))


@pytest.mark.parametrize("name", names())
def test_a_signal_that_is_not_read_may_be_absent(name):
    entry = CATALOGUE[name]
    teacher, targets = (TEACHER, None) if entry.reads_teacher else (None, TARGETS)
    assert_close(entry.bind()(STUDENT, teacher, targets), entry.bind()(STUDENT, TEACHER, TARGETS))


@pytest.mark.parametrize("name", names())
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
    ("wrong", "nearest"), [("foward_kl", "forward_kl"), ("JSD", "jsd"), ("next_tokens", "next_token"), ("tvd", "jsd")]
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
    ],
)
def test_a_parameter_out_of_range_is_refused_before_any_batch(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        CATALOGUE[name].bind(**parameters)
    with pytest.raises(ValueError, match=message):
        objective(name, **parameters)


def test_a_temperature_out_of_range_is_refused_before_any_batch():
    with pytest.raises(ValueError, match="positive and finite, but it is 0"):
        CATALOGUE["jsd"].bind(temperature=0)


@pytest.mark.parametrize("temperature", [2.0, 0.0])
def test_a_temperature_on_hard_labels_is_refused(temperature):
    with pytest.raises(ValueError, match=f"next_token compares with hard targets.*temperature is {temperature}"):
        CATALOGUE["next_token"].bind(temperature=temperature)
