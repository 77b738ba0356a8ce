"""What is wrong with a recipe, in the words of whoever wrote it."""

import ast
import difflib
import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def faults_of(kind: type[BaseModel], errors: Sequence[ErrorDetails], text: str) -> list[str]:
    """What pydantic found in the JSON `text`, a line a fault: the key as the user wrote it, what came, what was expected."""
    if errors[0]["type"] == "json_invalid":
        return [f"it holds what is no text: {errors[0]['ctx']['error']}."]
    values = json.loads(text)
    by_key: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for details in errors:
        by_key.setdefault(_key(values, details), []).append(details)
    # A list whose members are wrong is also too short, and no number where it might be one: its members say enough.
    inner = [key for key in by_key if not any(other != key and other[: len(key)] == key for other in by_key)]
    return [_fault(kind, shown(".".join(key)), by_key[key]) for key in inner]


def _key(values: Any, details: ErrorDetails) -> tuple[str, ...]:
    """Where a fault is, in the user's own keys: without the tags that unions add to a location."""
    names: list[str] = []
    for name in details["loc"]:
        if _leads_on(values, name):
            values = values[name]
            names.append(str(name))
    return (*names, str(details["loc"][-1])) if details["type"] == "missing" else tuple(names)


def _leads_on(values: Any, name: int | str) -> bool:
    if isinstance(values, dict):
        return name in values
    return isinstance(values, list) and isinstance(name, int) and name < len(values)


def _fault(kind: type[BaseModel], key: str, choices: Sequence[ErrorDetails]) -> str:
    details = choices[0]
    owner, name = _owner(kind, details["loc"]), str(details["loc"][-1] if details["loc"] else "")
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such key.{nearest(name, list(owner.model_fields))}"
        case "missing":
            return f"{key}: it must be given. {_meaning(owner, name)}".rstrip()
        case "union_tag_invalid":
            context = details["ctx"]
            known = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
            return f"{key}.{_tag_name(context)}: {context['tag']!r} is not known.{nearest(context['tag'], known)}"
        case "union_tag_not_found":
            return f"{key}.{_tag_name(details['ctx'])}: it must be given."
        case "value_error":
            return f"{key}: {details['ctx']['error']}" if key else str(details["ctx"]["error"])
    first, *others = dict.fromkeys(_expectation(choice) for choice in _nearest_choices(choices))
    expected = ", or ".join([first, *(other.removeprefix("be ") for other in others)])
    return f"{key}: {said(details['input'])} came, but it should {expected}."


_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "too_short")


def _nearest_choices(choices: Sequence[ErrorDetails]) -> Sequence[ErrorDetails]:
    """Of a union, those that a value of the right kind misses by its size; all of it where none is of the right kind."""
    return [choice for choice in choices if choice["type"] in _OUT_OF_RANGE] or choices


_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


def _expectation(details: ErrorDetails) -> str:
    """What should have come: the end of a sentence, after "it should"."""
    match details["type"]:
        case kind if kind in _KINDS:
            return f"be {_KINDS[kind]}"
        case "too_short":
            return f"have at least {details['ctx']['min_length']}"
        case "too_long":
            return f"have at most {details['ctx']['max_length']}"
    return details["msg"].partition(" should ")[2].removesuffix(".") or f"be otherwise: {details['msg']}"


def _owner(kind: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the last name of a location belongs to."""
    owner: type[BaseModel] = kind
    candidates: list[type[BaseModel]] = [kind]
    for name in location:
        tagged = [model for model in candidates if _tag(model) == name] if len(candidates) > 1 else []
        if tagged:
            candidates = tagged
        elif isinstance(name, str) and candidates:
            owner = candidates[0]
            field = owner.model_fields.get(name)
            candidates = _models_in(field.annotation if field else owner.__annotations__.get("__pydantic_extra__"))
    return owner


_TAGS = ("kind", "signal", "name")
"""The keys that pick one of several configurations."""


def _tag(model: type[BaseModel]) -> Any:
    """The value of such a key that picks this model from a union."""
    return next((model.model_fields[name].default for name in _TAGS if name in model.model_fields), None)


def _tag_name(context: Mapping[str, Any]) -> str:
    """The key that a union goes by: pydantic names it in quotes, or the function of ours that reads it."""
    return next((name for name in _TAGS if name in context["discriminator"]), _TAGS[0])


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def nearest(name: str, known: Sequence[str]) -> str:
    """` Did you mean ...?`, or all that is known where nothing is near: the end of a message about `name`."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."


def _meaning(model: type[BaseModel], name: str) -> str:
    """What stands under a field where it is declared. Read when it is asked for: pydantic would read all at every start."""
    owner = next((one for one in model.__mro__ if name in inspect.get_annotations(one)), None)
    for two in pairwise(_body_of(owner) if owner else []):
        match two:
            case ast.AnnAssign(target=ast.Name(id=declared)), ast.Expr(ast.Constant(str() as text)) if declared == name:
                return " ".join(text.split())
    return ""


def _body_of(kind: type) -> list[ast.stmt]:
    """What the source of a class says, where there is any."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, SyntaxError):  # typed into an interpreter, or shipped without its source
        return []
    return tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []


def shown(name: str) -> str:
    """A key or a name on one line, however long it is and whatever is in it."""
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
    return text if len(text) <= 200 else text[:197] + "..."


def said(value: Any) -> str:
    """A value as the user would know it again, however long it is."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
