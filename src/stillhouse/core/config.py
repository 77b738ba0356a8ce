"""Recipes: strict, frozen, and frank about every fault at once."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from stillhouse.core.errors import RecipeError


class Config(BaseModel):
    """A part of a recipe. Unknown keys are refused, values are not bent into shape, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_recipe(kind: type[AnyConfig], path: Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a recipe and apply overrides such as `training.learning_rate=1e-4`.

    Raises:
        RecipeError: naming every fault, its key, its value, and the nearest key that exists.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    return parse_recipe(kind, values, source=str(path))


def parse_recipe(kind: type[AnyConfig], values: Mapping[str, Any], *, source: str = "the recipe") -> AnyConfig:
    """Check plain values against a configuration.

    Raises:
        RecipeError: naming every fault.
    """
    try:
        # By way of JSON: strict there still lets a list be a tuple and a string be a path, as YAML needs.
        return kind.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError([_fault(kind, details) for details in error.errors()], source=source) from None


def to_yaml(config: Config) -> str:
    """The configuration with every default written out, in the order of its definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def differences(one: Config, other: Config) -> list[str]:
    """The dotted keys in which two configurations differ, with both values."""
    first, second = _flat(one.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
    return [
        f"{key}: {first.get(key)!r} became {second.get(key)!r}"
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): values}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of numbers (`2e-4` is one), and no key said twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is said twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise RecipeError(["there is no such file."], source=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"it cannot be read: {error}"], source=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError([f"{where}not YAML: {getattr(error, 'problem', None) or error}"], source=str(path)) from None
    if not isinstance(values, dict):
        raise RecipeError([f"a recipe is a mapping of keys to values, and this is {_said(values)}."], source=str(path))
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
        value = yaml.load(text, Loader=_Loader)
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
        raise RecipeError([f"{key}: {name!r} is {_said(inner)}, which has no keys."], source="the command line")
    return inner


def _index(here: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(here):
        raise RecipeError([f"{key}: {name!r} is no place in a list of {len(here)}."], source="the command line")
    return int(name)


def _fault(kind: type[Config], details: ErrorDetails) -> str:
    """One line: the key as the user wrote it, what came, what was expected."""
    model, key = _locate(kind, details["loc"])
    match details["type"]:
        case "extra_forbidden":
            name = str(details["loc"][-1])
            return f"{key}: there is no such key.{_nearest(name, list(model.model_fields))}"
        case "missing":
            return f"{key}: it must be given. {_meaning(model, str(details['loc'][-1]))}".rstrip()
        case "union_tag_invalid":
            context = details["ctx"]
            known = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
            return f"{key}.kind: {context['tag']!r} is not known.{_nearest(context['tag'], known)}"
        case "union_tag_not_found":
            return f"{key}.kind: it must be given."
        case "value_error":
            return f"{key}: {details['ctx']['error']}" if key else str(details["ctx"]["error"])
    return f"{key}: {_said(details['input'])} came, but {_lower(details['msg'])}."


def _locate(kind: type[Config], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The model that owns the last name of a location, and the dotted key without the tags that unions add to it."""
    owner: type[BaseModel] = kind
    candidates: list[type[BaseModel]] = [kind]
    names: list[str] = []
    for name in location:
        tagged = [model for model in candidates if _tag(model) == name] if len(candidates) > 1 else []
        if tagged:
            candidates = tagged
            continue
        names.append(str(name))
        if isinstance(name, str) and candidates:
            owner = candidates[0]
            field = owner.model_fields.get(name)
            candidates = _models_in(field.annotation) if field else []
    return owner, ".".join(names)


def _tag(model: type[BaseModel]) -> Any:
    """The value of `kind` that picks this model from a union."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."


def _meaning(model: type[BaseModel], name: str) -> str:
    field = model.model_fields.get(name)
    return (field.description or "") if field else ""


def _said(value: Any) -> str:
    """A value as the user would know it again, however long it is."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _lower(message: str) -> str:
    """Pydantic's sentence as the second half of ours."""
    return message.replace("Input should", "it should").removesuffix(".")
