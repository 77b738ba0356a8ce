"""Keys stay in the environment: a recipe must not hold one, and nothing that is shown or kept may."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = re.compile(
    r"(^|[_-])(api[_-]?key|key|token|secret|password|authori[sz]ation|bearer|credentials?)$", re.IGNORECASE
)
_LIKE_A_KEY = re.compile(r"\b(sk|pk|rk|gsk|hf|xai|AIza|ghp|nvapi)[-_][\w-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")

HIDDEN = "[hidden]"


def hidden(text: str, key: str | None = None) -> str:
    """The text without this key, and without whatever looks like one."""
    if key:
        text = text.replace(key, HIDDEN)
    return _USER_IN_URL.sub(f"{HIDDEN}@", _LIKE_A_KEY.sub(HIDDEN, text))


def keys_in(values: Any, path: str = "") -> Iterator[str]:
    """Where in plain values something stands that is a key, or is called like one; never what stands there."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            # A name that itself looks like a key is not to be repeated.
            place = f"{path}{'.' if path else ''}{hidden(str(name))}"
            called_so = str(name) not in _ALLOWED and _NAMES.search(str(name)) and isinstance(value, str)
            if called_so or hidden(str(name)) != str(name):
                yield place
            else:
                yield from keys_in(value, place)
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from keys_in(value, f"{path}.{number}")
    elif isinstance(values, str) and hidden(values) != values:
        yield path


_ALLOWED = ("stop_token", "eos_token", "bos_token", "pad_token")
"""Names that end like a key's and are none."""
