"""Load a causal language model and its tokenizer from a hub id, a folder, or a GGUF file."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and where they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    folder: Path
    """Where its weights lie unpacked; does not exist for a hub id."""


def load_causal_lm(source: str, *, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load what `source` names, in evaluation mode.

    A GGUF file is unpacked once into a folder of the cache (`STILLHOUSE_CACHE`, or `~/.cache/stillhouse`), which loads
    fifty times faster. Weights are read from safetensors only, and no code that comes with a model is run.

    Raises:
        ModelError: if it is not there, or is no causal language model that this version of transformers knows.
    """
    check_exists(source)
    place = unpacked_gguf(Path(source).expanduser()) if source.endswith(".gguf") else _expanded(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source!r} cannot be loaded as a causal language model: {_first_line(error)}") from error
    return LoadedModel(model.eval(), tokenizer, source, Path(place))


def check_exists(source: str) -> None:
    """Refuse a path that leads nowhere, before anything else is done. A hub id is left for the hub to answer.

    Raises:
        ModelError: naming the path.
    """
    looks_local = source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") != 1
    if looks_local and not Path(source).expanduser().exists():
        raise ModelError(
            f"the model {source!r} is neither an existing folder or GGUF file, nor a hub id such as owner/name."
        )


def _expanded(source: str) -> str:
    path = Path(source).expanduser()
    return str(path) if path.exists() else source


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def source_fingerprint(source: str) -> str:
    """Hash of the files that `source` names, without loading them; for a hub id, of the id itself."""
    path = Path(source).expanduser()
    if path.is_file():
        return fingerprint_files([path])
    if path.is_dir():
        return fingerprint_files(
            file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".jinja", ".model")
        )
    return fingerprint(source)


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal only if every id means the same token: two vocabularies of equal size can still differ."""
    return fingerprint(sorted(tokenizer.get_vocab().items()))


def cache_folder() -> Path:
    """Where unpacked models are kept: `STILLHOUSE_CACHE`, or `~/.cache/stillhouse`."""
    return Path(os.environ.get("STILLHOUSE_CACHE") or "~/.cache/stillhouse").expanduser()


def unpacked_gguf(file: Path) -> str:
    """The folder with this GGUF file's model in float32, made the first time.

    Raises:
        ModelError: if the file is not GGUF or its architecture is not known.
    """
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    folder = cache_folder() / "unpacked" / f"{file.stem}-{digest}-transformers{transformers.__version__}"
    if not folder.exists():
        with atomic_path(folder) as part:
            _unpack(file, part)
    return str(folder)


def _unpack(file: Path, folder: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # the reader raises whatever its parser meets
        raise ModelError(f"{str(file)!r} cannot be read as GGUF: {_first_line(error)}") from error
    # The weights are dense now; transformers would refuse to save a model that still calls itself quantised.
    model.config.__dict__.pop("quantization_config", None)
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__.pop("is_quantized", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "unpacked_from.json").write_text(json.dumps({"file": file.name}), encoding="utf-8")
