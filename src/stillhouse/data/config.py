"""What a recipe can say about the data."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.core.config import Config


class TextDataConfig(Config):
    """Texts, each learnt whole or after a prompt."""

    kind: Literal["text"] = "text"
    path: Path | None = None
    """A `.jsonl` or `.txt` file, or a folder of them. May be left out where the recipe synthesises its text."""
    sequence_tokens: Annotated[int, Field(ge=8)] = 256
    """Length of a packed row; longer documents are cut."""
    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the documents that nobody trains on and everybody is judged by."""
