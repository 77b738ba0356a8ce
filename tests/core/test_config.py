"""Recipes in general: what is read, what is refused, and in which words."""

import contextlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from stillhouse.core.config import Config, differences, load_recipe, parse_recipe, to_yaml
from stillhouse.core.errors import RecipeError


class Kettle(Config):
    """One of two."""

    kind: Literal["kettle"] = "kettle"
    litres: PositiveFloat
    """What it holds."""


class Column(Config):
    kind: Literal["column"] = "column"
    plates: PositiveInt | tuple[PositiveInt, ...] = 4


class Still(Config):
    """A recipe of every shape that a real one has."""

    name: str
    """What it is called,
    in a word."""
    heat: PositiveFloat = 1.0
    body: Annotated[Kettle | Column, Field(discriminator="kind")] = Column()
    herbs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    runs: tuple[Kettle, ...] = ()
    store: Path | None = None


@pytest.fixture
def read(tmp_path):
    """Read a recipe from its text."""

    def read_text(text: str, *overrides: str) -> Still:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(Still, path, overrides)

    return read_text


def faults(values: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(Still, values)
    return caught.value.faults


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"nam": "a", "name": "b"}, "nam: there is no such key. Did you mean 'name'?"),
        ({"name": "a", "zzz": 1}, "zzz: there is no such key. Known: name, heat, body, herbs, runs, store."),
        (
            {"name": "a", "body": {"kind": "column", "plate": 3}},
            "body.plate: there is no such key. Did you mean 'plates'?",
        ),
        (
            {"name": "a", "runs": [{"litres": 1, "litre": 1}]},
            "runs.0.litre: there is no such key. Did you mean 'litres'?",
        ),
        ({}, "name: it must be given. What it is called, in a word."),
        ({"name": "a", "body": {"kind": "kettle"}}, "body.litres: it must be given. What it holds."),
        ({"name": "a", "heat": "hot"}, 'heat: "hot" came, but it should be a number.'),
        ({"name": "a", "heat": True}, "heat: true came, but it should be a number."),
        ({"name": "a", "heat": -2}, "heat: -2 came, but it should be greater than 0."),
        ({"name": "a", "heat": math.inf}, "heat: Infinity came, but it should be a finite number."),
        ({"name": 5}, "name: 5 came, but it should be text."),
        ({"name": None}, "name: null came, but it should be text."),
        ({"name": "a", "body": 5}, "body: 5 came, but it should be a mapping of keys to values."),
        ({"name": "a", "body": {"kind": "colum"}}, "body.kind: 'colum' is not known. Did you mean 'column'?"),
        ({"name": "a", "body": {"kind": 7}}, "body.kind: '7' is not known. Known: kettle, column."),
        ({"name": "a", "body": {"plates": 7}}, "body.kind: it must be given."),
        ({"name": "a", "herbs": {"mint": "x"}}, 'herbs.mint: "x" came, but it should be a list.'),
        ({"name": "a", "herbs": {"mint": ["x", 5]}}, "herbs.mint.1: 5 came, but it should be text."),
        ({"name": "a", "runs": [{"litres": 1}, 5]}, "runs.1: 5 came, but it should be a mapping of keys to values."),
        (
            {"name": "a", "body": {"kind": "column", "plates": "x"}},
            'body.plates: "x" came, but it should be a whole number, or a list.',
        ),
        (
            {"name": "a", "body": {"kind": "column", "plates": 0}},
            "body.plates: 0 came, but it should be greater than 0.",
        ),
        (
            {"name": "a", "body": {"kind": "column", "plates": [1, 0]}},
            "body.plates.1: 0 came, but it should be greater than 0.",
        ),
        ({"name": "a", "heat": "x" * 99}, f'heat: "{"x" * 56}... came, but it should be a number.'),
    ],
)
def test_a_fault_names_its_key_what_came_and_what_should_have(values, fault):
    assert faults(values) == [fault]


def test_all_faults_come_at_once():
    found = faults({"nam": "a", "heat": "x", "body": {"kind": "kettle"}, "herbs": {"mint": 3}})
    assert [fault.split(":")[0] for fault in found] == ["name", "heat", "body.litres", "herbs.mint", "nam"]


def test_the_message_names_the_file_and_counts_the_faults(read, tmp_path):
    with pytest.raises(RecipeError) as caught:
        read("nam: a\nheat: x")
    assert str(caught.value).splitlines()[0] == f"{tmp_path / 'recipe.yaml'} has 3 faults:"
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "0.0002", "2.0e-4", "+.0002", "200e-6"])
def test_every_way_to_write_a_number_is_one(read, text):
    assert read(f"name: a\nheat: {text}").heat == 0.0002


@pytest.mark.parametrize("text", ["no", "on", "1:30", "2024-05-01", "1_000", "0777", "e5", "=", "1e", "."])
def test_what_only_looks_odd_is_text(read, text):
    assert read(f"name: {text}").name == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a recipe is a mapping of keys to values, and this is null."),
        ("[name, a]", 'a recipe is a mapping of keys to values, and this is ["name", "a"].'),
        ("name", 'a recipe is a mapping of keys to values, and this is "name".'),
        ("name: a\nheat: [1", "line 2: not YAML: expected ',' or ']', but got '<stream end>'."),
        ("name: a\n\theat: 1", "line 2: not YAML: found character '\\t' that cannot start any token."),
        ("name: a\nheat: 1\nname: b", "line 3: not YAML: the key 'name' is said twice."),
        ("name: a\nherbs:\n  x: [y]\n  x: [z]", "line 4: not YAML: the key 'x' is said twice."),
        ("name: a\nherbs: {5: [x]}", "line 2: not YAML: the key '5' is no word; put it in quotes if it should be one."),
        ("{[a]: b}", "line 1: not YAML: the key of several parts is no word; put it in quotes if it should be one."),
        ("name: !!int abc", "not YAML: ValueError: invalid literal for int() with base 10: 'abc'."),
        ("name: !!python/object:os.system x", "could not determine a constructor for the tag"),
        ("name: a\nherbs: &h {x: *h}", "its values contain themselves, or are nested without end."),
        ('name: "\\ud800"', "it holds what is no text: unexpected end of hex escape at line 1 column 17."),
        ("name: \x07", "not YAML: unacceptable character #x0007: special characters are not allowed"),
    ],
)
def test_what_is_no_recipe_is_said_with_its_line(read, text, fault):
    with pytest.raises(RecipeError) as caught:
        read(text)
    (found,) = caught.value.faults
    assert fault in found


def test_a_missing_file_an_unreadable_one_and_a_folder_are_refused(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\u00e9".encode("latin-1"))
    for path, fault in [
        (tmp_path / "none.yaml", "there is no such file."),
        (latin, "it cannot be read: 'utf-8' codec can't decode"),
        (tmp_path, f"it is a folder. A run's recipe is the file {tmp_path / 'recipe.yaml'}."),
    ]:
        with pytest.raises(RecipeError) as caught:
            load_recipe(Still, path)
        assert str(caught.value).startswith(f"{path} has a fault:\n  {fault}")


def test_a_key_that_is_merged_in_may_be_said_again(read):
    recipe = read("name: a\nruns: [&k {kind: kettle, litres: 1}, {<<: *k, litres: 2}, {<<: *k}]")
    assert [kettle.litres for kettle in recipe.runs] == [1, 2, 1]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("heat=2e-4", {"heat": 2e-4}),
        ("name=", {"name": None}),
        ("name=a=b", {"name": "a=b"}),
        ("name=[x", {"name": "[x"}),
        ("body.plates=9", {"body": {"kind": "column", "plates": 9}}),
        ("body={kind: kettle, litres: 2}", {"body": {"kind": "kettle", "litres": 2}}),
        ("herbs.mint=[x, y]", {"herbs": {"mint": ["x", "y"]}}),
        ("runs.1.litres=5", {"runs": [{"litres": 1}, {"litres": 5}]}),
        ("runs.0={litres: 3}", {"runs": [{"litres": 3}, {"litres": 2}]}),
    ],
)
def test_an_override_is_as_if_the_file_said_it(read, override, expected):
    values = {"name": "a", "body": {"kind": "column"}, "runs": [{"litres": 1}, {"litres": 2}]}
    text = to_text(values)
    if expected == {"name": None}:
        with pytest.raises(RecipeError, match="name: null came"):
            read(text, override)
    else:
        assert read(text, override) == parse_recipe(Still, values | expected)


def to_text(values: dict[str, Any]) -> str:
    return json.dumps(values)


def test_the_last_of_two_overrides_wins(read):
    assert read("name: a", "heat=2", "heat=3").heat == 3


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("heat", "'heat' is no override: write key=value."),
        ("=3", "'=3' is no override: write key=value."),
        ("runs.2.litres=3", "runs.2.litres: '2' is no place in a list of 2."),
        ("runs.last=3", "runs.last: 'last' is no place in a list of 2."),
        ("runs.-1=3", "runs.-1: '-1' is no place in a list of 2."),
        ("runs.\u00b2=3", "runs.\u00b2: '\u00b2' is no place in a list of 2."),
        ("name.first=3", "name.first: 'name' is \"a\", which has no keys."),
        ("runs.0.litres.x=3", "runs.0.litres.x: 'litres' is 1, which has no keys."),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(read, override, fault):
    with pytest.raises(RecipeError) as caught:
        read(to_text({"name": "a", "runs": [{"litres": 1}, {"litres": 2}]}), override)
    assert str(caught.value) == f"the command line has a fault:\n  {fault}"


def test_an_override_of_an_unknown_key_is_refused_like_one_in_the_file(read):
    with pytest.raises(RecipeError, match="heet: there is no such key. Did you mean 'heat'?"):
        read("name: a", "heet=3")


# A zero byte is refused: see tests/faults.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["2e-4", "no", "5", "~", ""]
)


@settings(deadline=None)
@given(
    name=NAMES,
    heat=st.floats(1e-300, 1e300),
    body=st.builds(Kettle, litres=st.floats(0.5, 9))
    | st.builds(Column, plates=st.integers(1) | st.lists(st.integers(1, 99)).map(tuple)),
    herbs=st.dictionaries(NAMES, st.lists(NAMES).map(tuple), max_size=3),
    store=st.none() | NAMES.map(Path),
)
def test_a_recipe_written_out_reads_back_equal(tmp_path_factory, name, heat, body, herbs, store):
    recipe = Still(name=name, heat=heat, body=body, herbs=herbs, store=store)
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(Still, path) == recipe
    assert differences(load_recipe(Still, path), recipe) == []


def test_what_is_written_out_has_every_default():
    assert to_yaml(Still(name="a")).splitlines() == [
        "name: a",
        "heat: 1.0",
        "body:",
        "  kind: column",
        "  plates: 4",
        "herbs: {}",
        "runs: []",
        "store: null",
    ]


def test_differences_name_the_dotted_key_and_both_values():
    one = Still(name="a", herbs={"mint": ("x",)})
    other = Still(name="b", body=Kettle(litres=2), herbs={"mint": ("y",)})
    assert differences(one, other) == [
        "name: 'a' became 'b'",
        "body.kind: 'column' became 'kettle'",
        "body.plates: 4 became None",
        "herbs.mint: ['x'] became ['y']",
        "body.litres: None became 2.0",
    ]
    assert differences(one, other, ignoring=["name"])[0].startswith("body.kind")


def test_nothing_changes_a_recipe_once_it_is_read():
    with pytest.raises(ValidationError):
        Still(name="a").name = "b"  # type: ignore[misc]


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates() | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(Still.model_fields)) | st.text(max_size=4), inner, max_size=4)
        | st.dictionaries(SCALARS, inner, max_size=2)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(values=VALUES)
def test_whatever_a_file_holds_only_a_recipe_or_its_faults_come_out(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(RecipeError):
        assert isinstance(load_recipe(Still, path), Still)


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from("name: heat body[]{},&*!|>-#'\"\n0e.~<<%@?\t"), max_size=30),
    override=st.text(max_size=12),
)
def test_whatever_text_and_override_come_only_a_recipe_or_its_faults_come_out(tmp_path_factory, text, override):
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(RecipeError):
        assert isinstance(load_recipe(Still, path, [override]), Still)
