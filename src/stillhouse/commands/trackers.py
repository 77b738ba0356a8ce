"""Where a run's curves go beside `metrics.jsonl`: the trackers that transformers' Trainer knows."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from stillhouse.core.errors import RecipeError

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]

PACKAGES: Mapping[Tracker, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
}
"""What a tracker needs: any one of these packages."""


def check_trackers(names: Sequence[Tracker], *, run: Path) -> None:
    """Refuse a tracker that is not installed, and give TensorBoard a place that outlives the checkpoints.

    Raises:
        RecipeError: naming the package.
    """
    missing = [name for name in names if not any(find_spec(package) for package in PACKAGES[name])]
    if missing:
        faults = [
            f"report_to: {name} is not installed. pip install {PACKAGES[name][0]}, or leave it out." for name in missing
        ]
        raise RecipeError(faults, source="the recipe")
    if "tensorboard" in names:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run / "tensorboard"))
