"""What the parts of a recipe are known by: hashes of the files and settings that they are made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import Config
from stillhouse.core.files import fingerprint, fingerprint_files
from stillhouse.core.objects import files_of
from stillhouse.models.load import source_fingerprint, vocabulary_fingerprint
from stillhouse.students.config import CheckpointConfig, FromConfigConfig


def student_fingerprint(recipe: Recipe) -> str:
    """Hash of the student's recipe, and of the files beside the teacher's that it is made from."""
    files = ""
    match recipe.student:
        case CheckpointConfig(model=source) | FromConfigConfig(config=str(source)):
            files = source_fingerprint(source)
    return fingerprint([plain(recipe.student), files])


def data_fingerprint(
    recipe: Recipe, path: Path, *, teacher: str, read_by: Sequence[PreTrainedTokenizerBase] = ()
) -> str:
    """Hash of the data and of everything that turns it into tokens: the teacher, and those tokenizers that are not its own."""
    replay = recipe.replay
    sources = dict.fromkeys((path, *recipe.data.sources, *([] if replay is None else [replay.path])))
    files = [file for path in sources for file in files_of(path)]
    return fingerprint(
        [
            fingerprint_files(files),
            recipe.data.model_dump(mode="json"),
            teacher,
            *([] if recipe.history is None else [plain(recipe.history)]),
            *([] if replay is None else [plain(replay)]),
            *(said for one in read_by for said in (vocabulary_fingerprint(one), one.chat_template)),
        ]
    )


def plain(part: Any) -> Any:
    """A configuration as plain values, for hashing."""
    if isinstance(part, Config):
        return part.model_dump(mode="json")
    return [plain(member) for member in part] if isinstance(part, list | tuple) else part
