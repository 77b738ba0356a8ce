"""Real recipes: those that we publish, and whatever else may be written in their place."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, parse_recipe, read_recipe, to_yaml
from stillhouse.core.errors import RecipeError

from .conftest import recipe_values

PUBLISHED = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml")
    if not is_of_retrieval(read_recipe(path)) and not is_of_stories(read_recipe(path))
)
"""All but those of retrievers and stories, which are read into recipes of their own."""


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_published_recipe_is_read_and_its_resolved_form_reads_back_equal(path, tmp_path):
    recipe = load_recipe(Recipe, path)
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(Recipe, tmp_path / "recipe.yaml") == recipe


def keys_of(values: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested values, as a path."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    inner = [key for name, value in pairs for key in keys_of(value, (*prefix, name))]
    return [*([prefix] if prefix else []), *inner]


def full_values(**changes: Any) -> dict[str, Any]:
    """A recipe with every default written out, as plain values."""
    resolved = parse_recipe(Recipe, recipe_values(Path("teacher"), {"run": "runs/x", **changes}))
    return yaml.safe_load(to_yaml(resolved))


BASES = [
    full_values(),
    full_values(student={"kind": "from_config", "changes": {"num_hidden_layers": 1}}),
    full_values(student={"kind": "checkpoint", "model": "x"}, objectives=[{"name": "jsd", "beta": 0.5}]),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(data=st.data(), base=st.sampled_from(BASES), value=VALUES)
def test_whatever_stands_in_the_place_of_a_value_only_a_recipe_or_its_faults_come_out(data, base, value):
    values = yaml.safe_load(yaml.safe_dump(base))
    *parents, last = data.draw(st.sampled_from(keys_of(values)))
    here = values
    for name in parents:
        here = here[name]
    here[last] = value
    with contextlib.suppress(RecipeError):
        assert isinstance(parse_recipe(Recipe, values), Recipe)


def test_a_pair_of_layers_that_is_none_is_a_fault_where_it_stands():
    values = full_values() | {"objectives": [{"name": "hidden_mse", "layers": [[]]}]}
    with pytest.raises(RecipeError, match=r"objectives.0.layers.0.0: it must be given"):
        parse_recipe(Recipe, values)


@settings(deadline=None, max_examples=30)
@given(number=st.integers(-(10**400), 10**400) | st.floats())
@pytest.mark.parametrize("name", ["beta", "weight", "temperature", "alpha", "skew"])
@pytest.mark.parametrize("objective", ["jsd", "alpha_beta", "skewed_forward_kl"])
def test_no_number_of_an_objective_is_beyond_refusing(objective, name, number):
    values = recipe_values(Path("teacher"), {"run": "runs/x", "objectives": [{"name": objective, name: number}]})
    with contextlib.suppress(RecipeError):
        assert isinstance(parse_recipe(Recipe, values), Recipe)
