"""Prompts from templates: every filling once, in an order that the seed alone decides."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.synthesis import filled_templates
from stillhouse.synthesis.config import PromptSynthesisConfig

TEMPLATES = ("Write about a {hero}.", "A {hero} meets a {hero} {place}.", "Tell a story.")
SLOTS = {"hero": ("fox", "queen", "baker"), "place": ("by the sea", "at night")}


@given(
    heroes=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5),
    places=st.lists(st.text("xyz", min_size=1, max_size=3), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_every_filling_is_there_once(heroes, places, seed):
    prompts = filled_templates(["{hero} {place} {hero}"], {"hero": heroes, "place": places}, seed=seed)
    assert len(prompts) == len(set(prompts))
    assert set(prompts) == {f"{hero} {place} {hero}" for hero, place in itertools.product(heroes, places)}


def test_all_templates_are_filled():
    assert len(filled_templates(TEMPLATES, SLOTS, seed=0)) == 3 + 3 * 2 + 1


def test_the_seed_alone_decides_the_order():
    first, again, other = (filled_templates(TEMPLATES, SLOTS, seed=seed) for seed in (4, 4, 5))
    assert first == again != other
    assert sorted(first) == sorted(other)


def test_templates_are_mixed():
    prompts = filled_templates(["one {n}", "two {n}"], {"n": [str(number) for number in range(50)]}, seed=0)
    assert 30 < sum(a[:3] != b[:3] for a, b in itertools.pairwise(prompts)) < 70


def test_braces_can_be_written_twice_to_stand_for_themselves():
    assert filled_templates(["a {{set}} of {n}"], {"n": ["foxes"]}, seed=0) == ["a {set} of foxes"]


@pytest.mark.parametrize("template", ["A {villain}.", "A {hero} and {}.", "A {hero.name}."])
def test_a_slot_that_there_is_not_is_refused_by_name(template):
    with pytest.raises(ValueError, match="but the slots are \\['hero', 'place'\\]") as refusal:
        filled_templates([template], SLOTS, seed=0)
    assert template in str(refusal.value)


def test_a_recipe_with_an_unknown_slot_is_refused_while_it_is_read():
    values = {"templates": ["A {heroe} wakes."], "slots": {"hero": ["fox"]}, "tokens": 10}
    with pytest.raises(RecipeError, match="names \\['heroe'\\], but the slots are \\['hero'\\]"):
        parse_recipe(PromptSynthesisConfig, values)
