"""stillhouse distils a large language model into a small one and proves, with numbers, how much the small one kept."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stillhouse.commands.any_models import evaluate_models
    from stillhouse.commands.api import distill, distill_retriever, distill_stories
    from stillhouse.commands.sweep import sweep

__all__ = ["distill", "distill_retriever", "distill_stories", "evaluate_models", "sweep"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: `import stillhouse` alone takes no time."""
    if name in __all__:
        homes = {"evaluate_models": "any_models", "sweep": "sweep"}
        return getattr(importlib.import_module(f"stillhouse.commands.{homes.get(name, 'api')}"), name)
    raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
