"""stillhouse distils a large language model into a small one and proves, with numbers, how much the small one kept."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stillhouse.commands.api import distill, distill_retriever

__all__ = ["distill", "distill_retriever"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: `import stillhouse` alone takes no time."""
    if name in __all__:
        from stillhouse.commands import api

        return getattr(api, name)
    raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
