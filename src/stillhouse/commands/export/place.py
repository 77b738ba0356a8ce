"""What is to leave the house: a run's student, or a model's folder."""

from pathlib import Path

from stillhouse.core.errors import StillhouseError
from stillhouse.core.run import RunFolder

MERGED, HUB = "merged-lora", "hub"
"""What `--to` also takes beside a format's name."""


def place_of(source: str) -> tuple[Path, Path | None]:
    """The student's folder, and the run that it is of, if it is.

    Raises:
        StillhouseError: if there is no student yet, or neither.
    """
    path = Path(source)
    if (path / "recipe.yaml").exists():
        student = RunFolder(path).student
        if not student.exists():
            raise StillhouseError(f"{source} has no student yet. First: stillhouse distill {path / 'recipe.yaml'}")
        return student, path
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise StillhouseError(
            f"{source} is an adapter, and this format takes a whole model. First: stillhouse export {source} --to {MERGED}"
        )
    if not (path / "config.json").exists():
        raise StillhouseError(f"{source} is neither a run folder nor a folder with a Hugging Face model.")
    return path, None
