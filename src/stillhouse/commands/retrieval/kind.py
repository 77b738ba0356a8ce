"""Which recipes make a retriever, and whether what that takes is installed: without importing any of it."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from stillhouse.core.errors import ModelError

NEEDED = ("sentence_transformers", "bm25s", "Stemmer", "usearch", "ir_measures", "datasets", "bs4", "pypdf")
"""What a retriever is made with: the extra `retrieval`."""


def is_of_retrieval(values: Mapping[str, Any]) -> bool:
    """Whether plain values are a recipe of a retriever."""
    data = values.get("data")
    return isinstance(data, Mapping) and data.get("kind") == "retrieval"


def check_installed() -> None:
    """Refuse to begin what will miss a library.

    Raises:
        ModelError: saying how to get it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"data of kind retrieval needs {', '.join(missing)}, which is not installed. Run "
            "`pip install 'stillhouse[retrieval]'`."
        )
