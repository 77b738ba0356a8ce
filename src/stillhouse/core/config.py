"""Recipes: strict, frozen, and frank about every fault at once."""

import copy
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.core import yaml_text
from stillhouse.core.errors import RecipeError
from stillhouse.core.faults import faults_of, said


class Config(BaseModel):
    """A part of a recipe. Unknown keys are refused, values are not bent into shape, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


AnyConfig = TypeVar("AnyConfig", bound=Config)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every library's random numbers can start from."""


def load_recipe(kind: type[AnyConfig], path: Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a recipe and apply overrides such as `training.learning_rate=1e-4`.

    Raises:
        RecipeError: naming every fault, its key, its value, and the nearest key that exists.
    """
    return parse_recipe(kind, read_recipe(path, overrides), source=str(path))


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe's plain values with overrides applied, before anybody has looked at what they say.

    Raises:
        RecipeError: if it is not there, is no mapping, or an override leads nowhere.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    return values


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values with overrides such as `data.label=stars` applied.

    Raises:
        RecipeError: for what is no override.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(changed, override)
    return changed


def parse_recipe(kind: type[AnyConfig], values: Mapping[str, Any], *, source: str = "the recipe") -> AnyConfig:
    """Check plain values against a configuration.

    Raises:
        RecipeError: naming every fault.
    """
    try:
        # By way of JSON: strict there still lets a list be a tuple and a string be a path, as YAML needs.
        text = json.dumps(values, default=str)
    except (ValueError, RecursionError):
        raise RecipeError(["its values contain themselves, or are nested without end."], source=source) from None
    if "\\u0000" in text and (empty := [key for key, value in _flat(values).items() if "\0" in f"{key}{value}"]):
        raise RecipeError([f"{empty[0]!a}: it holds a zero byte, which no name may. Remove it."], source=source)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(faults_of(kind, error.errors(), text), source=source) from None


def to_yaml(config: Config) -> str:
    """The configuration with every default written out, in the order of its definition."""
    return yaml_text.to_yaml(config.model_dump(mode="json"))


def differences(one: Config, other: Config, *, ignoring: Collection[str] = ()) -> list[str]:
    """The dotted keys in which two configurations differ, with both values; some, with all below them, may be left out."""
    first, second = _flat(one.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
    return [
        f"{key}: {first.get(key)!r} became {second.get(key)!r}"
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key) and not any(f"{key}.".startswith(f"{left}.") for left in ignoring)
    ]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): values}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml_text.from_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(["there is no such file."], source=str(path)) from None
    except IsADirectoryError:
        raise RecipeError(
            [f"it is a folder. A run's recipe is the file {path / 'recipe.yaml'}."], source=str(path)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"it cannot be read: {error}"], source=str(path)) from None
    except yaml.YAMLError as error:
        raise RecipeError([f"{yaml_text.problem(error)}."], source=str(path)) from None
    if not isinstance(values, dict):
        raise RecipeError([f"a recipe is a mapping of keys to values, and this is {said(values)}."], source=str(path))
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. A number in the path picks from a list: `objectives.0.weight=1`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError([f"{override!r} is no override: write key=value."], source="the command line")
    here: Any = values
    *parents, last = key.split(".")
    for name in parents:
        here = _step_into(here, name, key)
    try:
        value = yaml_text.from_yaml(text)
    except yaml.YAMLError:
        value = text
    if isinstance(here, list):
        here[_index(here, last, key)] = value
    else:
        here[last] = value


def _step_into(here: Any, name: str, key: str) -> Any:
    inner = here[_index(here, name, key)] if isinstance(here, list) else here.get(name)
    if inner is None and isinstance(here, dict):
        inner = here[name] = {}
    if not isinstance(inner, dict | list):
        raise RecipeError([f"{key}: {name!r} is {said(inner)}, which has no keys."], source="the command line")
    return inner


def _index(here: list[Any], name: str, key: str) -> int:
    if not name.isdecimal() or len(name) > 9 or int(name) >= len(here):
        raise RecipeError([f"{key}: {name!r} is no place in a list of {len(here)}."], source="the command line")
    return int(name)
