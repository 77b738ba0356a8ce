"""Which recipes make a story model: without importing any of what that takes."""

from collections.abc import Mapping
from typing import Any


def is_of_stories(values: Mapping[str, Any]) -> bool:
    """Whether plain values are a recipe of kind stories."""
    data = values.get("data")
    return isinstance(data, Mapping) and data.get("kind") == "stories"
