"""The YAML that recipes are written in: version 1.2's idea of what is a number, and no key said twice."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9]\d*)|0o[0-7]+|0x[\da-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.\d+|\d+\.\d*)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
"""What is no text, as YAML 1.2 has it: `2e-4` is a number, while `no`, `1:30` and `2024-05-01` are what they look like."""


MOST_VALUES = 100_000
"""Of a recipe. Aliases of aliases make billions of them in a few lines."""


class _Loader(yaml.SafeLoader):
    """No key said twice, and every key a word."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own, filled below

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        said: set[str] = set()
        for key, _ in node.value:
            _check_key(key, said)
            said.add(str(key.value))
        return node


def _check_key(key: yaml.Node, said: set[str]) -> None:
    if key.tag == "tag:yaml.org,2002:merge":
        return
    if key.tag != "tag:yaml.org,2002:str":
        shown = repr(key.value) if isinstance(key.value, str) else "of several parts"
        problem = f"the key {shown} is no word; put it in quotes if it should be one"
    elif key.value in said:
        problem = f"the key {key.value!r} is said twice"
    else:
        return
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would not read as the text that it is."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as above


def _quoted_where_needed(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """PyYAML would break a line at Unicode's own line separators, and lose them when it reads it back."""
    style = '"' if any(separator in text for separator in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted_where_needed)

for _dialect in (_Loader, _Dumper):
    for _name, (_pattern, _first) in _SCALARS.items():
        _dialect.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def to_yaml(values: Any) -> str:
    """The YAML that `from_yaml` reads as these plain values."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def from_yaml(text: str) -> Any:
    """Plain values.

    Raises:
        yaml.YAMLError: if it is not YAML, or uses a tag that its value does not fit.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
        size = _size(values, {})
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:  # such as `!!int abc`
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values, once its aliases (*name) are followed")
    return values


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values these are where each alias is written out, without writing it out; a long text counts for several."""
    if not isinstance(value, dict | list):
        return 1 + (len(value) // 1000 if isinstance(value, str) else 0)
    if id(value) not in known:
        known[id(value)] = 0  # what contains itself is found by whoever writes it out
        members = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(member, known) for member in members)
    return known[id(value)]


def with_values(text: str, changes: Mapping[str, Any]) -> str:
    """The same text, comments and all, with dotted keys set to other plain values. A key that its mapping lacks is added to
    it; the mapping itself must be there. What is replaced is a scalar or written in braces.

    Raises:
        KeyError: for a key whose parent is not there.
    """
    for key, value in changes.items():
        text = _with_value(text, key.split("."), value)
    return text


def _with_value(text: str, path: list[str], value: Any) -> str:
    *parents, last = path
    here = yaml.compose(text, Loader=_Loader)
    for name in parents:
        here = _inside(here)[name]
    assert isinstance(here, yaml.MappingNode), path
    inside = _inside(here)
    if last in inside:
        old = inside[last]
        # The marks of a block end where the next key begins, behind comments that are not its own.
        assert isinstance(old, yaml.ScalarNode) or old.flow_style, path
        return text[: old.start_mark.index] + _in_one_line(value) + text[old.end_mark.index :]
    if here.flow_style:
        end = here.end_mark.index - 1
        return f"{text[:end]}{', ' if inside else ''}{last}: {_in_one_line(value)}{text[end:]}"
    if not parents:
        return f"{text.rstrip()}\n\n{last}: {_in_one_line(value)}\n"
    start, margin = here.start_mark.index, " " * here.start_mark.column
    return f"{text[:start]}{last}: {_in_one_line(value)}\n{margin}{text[start:]}"


def _inside(mapping: Any) -> dict[str, Any]:
    return {key.value: value for key, value in mapping.value}


def _in_one_line(value: Any) -> str:
    dumped = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6)
    return dumped.removesuffix("...\n").strip()


def problem(error: yaml.YAMLError) -> str:
    """What a parser found wrong, in one line, with the number of the line in the text where it is known."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return f"{where}not YAML: {' '.join(str(getattr(error, 'problem', None) or error).split())}"
