"""stillhouse distils a large language model into a small one and proves, with numbers, how much the small one kept."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stillhouse.commands.any_models import evaluate_models
    from stillhouse.commands.api import (
        distill,
        distill_retriever,
        distill_stories,
        doctor,
        evaluate,
        init,
        inspect,
        label,
        report,
        server_command,
        synthesize,
        tokenizers,
        train,
    )
    from stillhouse.commands.ask import ask
    from stillhouse.commands.distillation import Distillation
    from stillhouse.commands.export.command import export_student as export
    from stillhouse.commands.export.hub import push
    from stillhouse.commands.runs_report import report_runs
    from stillhouse.commands.shipped import shipped as recipes
    from stillhouse.commands.sweep import sweep
    from stillhouse.training.compute_loss import DistillationLoss

__all__ = [
    "Distillation",
    "DistillationLoss",
    "ask",
    "distill",
    "distill_retriever",
    "distill_stories",
    "doctor",
    "evaluate",
    "evaluate_models",
    "export",
    "init",
    "inspect",
    "label",
    "push",
    "recipes",
    "report",
    "report_runs",
    "server_command",
    "sweep",
    "synthesize",
    "tokenizers",
    "train",
]

_HOMES = {
    "Distillation": "commands.distillation",
    "DistillationLoss": "training.compute_loss",
    "ask": "commands.ask",
    "evaluate_models": "commands.any_models",
    "export": "commands.export.command:export_student",
    "push": "commands.export.hub",
    "recipes": "commands.shipped:shipped",
    "report_runs": "commands.runs_report",
    "sweep": "commands.sweep",
}
"""Where each is, and under which name where that is another; all others are in `commands.api`."""


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: `import stillhouse` alone takes no time."""
    if name not in __all__:
        raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
    module, _, own_name = _HOMES.get(name, "commands.api").partition(":")
    return getattr(importlib.import_module(f"stillhouse.{module}"), own_name or name)


def __dir__() -> list[str]:
    """For completion, in notebooks above all."""
    return [*globals(), *__all__]
