"""The few files that make a folder a sentence-transformers model: how token states become one embedding."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Pooling

POOLING_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
"""What sentence-transformers calls the ways of pooling that we have."""

OLD_POOLING_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""The switches that stood for these names before its version 6, which all folders still have."""


@dataclass(frozen=True)
class Embedding:
    """What is done with a model's last hidden states to make one embedding a text."""

    pooling: Pooling = "mean"
    normalizes: bool = False
    """Whether embeddings are scaled to length 1."""


def read_embedding(source: str) -> Embedding:
    """How a folder or hub id says that its embeddings are made; the plain mean where it says nothing.

    Raises:
        ModelError: if it pools in a way that we do not have, or does more than pooling and normalising.
    """
    modules = _read(source, "modules.json")
    if modules is None:
        return Embedding()
    paths = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    unknown = paths.keys() - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ModelError(
            f"{source!r} makes embeddings with {', '.join(sorted(unknown))} in its modules.json, and stillhouse knows only "
            "Transformer, Pooling and Normalize. Choose a model without it."
        )
    settings = _read(source, f"{paths['Pooling']}/config.json") if "Pooling" in paths else None
    return Embedding(_pooling(settings or {}, source=source), "Normalize" in paths)


def _read(source: str, name: str) -> Any:
    """A JSON file of a model, or None if it has no such file."""
    file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _pooling(settings: Mapping[str, Any], *, source: str) -> Pooling:
    modes: Sequence[str] = [name for switch, name in OLD_POOLING_NAMES.items() if settings.get(switch)] or ["mean"]
    if "pooling_mode" in settings:
        mode = settings["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else mode
    if len(modes) != 1 or modes[0] not in POOLING_NAMES:
        raise ModelError(
            f"{source!r} pools its token states by {' and '.join(modes)}, and stillhouse pools by one of "
            f"{', '.join(POOLING_NAMES)}. Choose another model."
        )
    return POOLING_NAMES[modes[0]]


def write_embedding(folder: Path, embedding: Embedding, *, width: int, max_tokens: int) -> None:
    """Add the files that let `SentenceTransformer(folder)` make the same embeddings from the model that lies there."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if embedding.normalizes else [])]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    chosen = {switch: POOLING_NAMES.get(name) == embedding.pooling for switch, name in OLD_POOLING_NAMES.items()}
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **chosen})
    if embedding.normalizes:
        (folder / "2_Normalize").mkdir(exist_ok=True)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
