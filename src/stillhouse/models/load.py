"""Load a causal language model and its tokenizer from a hub id, a folder, or a GGUF file."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stillhouse.core.errors import ModelError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files, sha256_of


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
    in a fraction of the time. Weights are read from safetensors only, and no code that comes with a model is run.

    Raises:
        ModelError: if it is not there, or is no causal language model that this version of transformers knows.
    """
    check_weights(source)
    place, config, tokenizer = _place(source), load_config(source), load_tokenizer(source)
    with _naming(source, "cannot be loaded as a causal language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model, found = loaded
    _refuse_random_parts(source, [*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])])
    return LoadedModel(model.eval(), tokenizer, source, Path(place))


def _refuse_random_parts(source: str, names: Sequence[str]) -> None:
    """Where weights are missing or of another shape, transformers goes on with random numbers."""
    if names:
        raise ModelError(
            f"{source!r} has no fitting weights for {len(names)} parts of the model that its config.json describes, such as "
            f"{min(names)}. Get a whole copy of it."
        )


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Only the tokenizer, without the weights.

    Raises:
        ModelError: as `load_causal_lm`.
    """
    with _naming(source, "has no tokenizer that can be loaded"):
        return AutoTokenizer.from_pretrained(_place(source), trust_remote_code=False)


def load_config(source: str) -> PretrainedConfig:
    """Only the configuration, without the weights.

    Raises:
        ModelError: as `load_causal_lm`.
    """
    with _naming(source, "has no configuration that can be loaded"):
        return AutoConfig.from_pretrained(_place(source), trust_remote_code=False)


@contextmanager
def _naming(source: str, fault: str) -> Iterator[None]:
    """Whatever a loader raises becomes one line about `source`."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{source!r} {fault}: {_one_line(error)}") from error


def _place(source: str) -> str:
    """What transformers can load from: a folder or a hub id."""
    check_exists(source)
    path = Path(source).expanduser()
    if path.is_file():
        return unpacked_gguf(path)
    return str(path) if path.exists() else source


def check_exists(source: str) -> None:
    """Refuse a path that leads nowhere or to no model, before anything else is done. A hub id is left for the hub to
    answer.

    Raises:
        ModelError: naming the path.
    """
    path = Path(source).expanduser()
    looks_local = source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") != 1
    if looks_local and not path.exists():
        raise ModelError(
            f"the model {source!r} is neither an existing folder or GGUF file, nor a hub id such as owner/name."
        )
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"the model {source!r} is a file. Name the folder that it lies in, or a GGUF file.")
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(f"the folder {source!r} has no config.json, so there is no Hugging Face model in it.")


def check_weights(source: str) -> None:
    """Refuse a path that leads nowhere, or to a folder without weights that can be read, before anything else is done.

    Raises:
        ModelError: naming the path.
    """
    check_exists(source)
    path = Path(source).expanduser()
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"the folder {source!r} has no weights in safetensors. Pickled ones can run code and are not read: save the model "
            "again with `model.save_pretrained(folder)`."
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def display_name(source: str) -> str:
    """What to call a model in front of people: a hub id as it is, a file or folder without the folders that it lies in."""
    path = Path(source).expanduser()
    return path.name if path.exists() else source


def source_fingerprint(source: str) -> str:
    """Hash of the files that `source` names, without loading them; for a hub id, of the id itself."""
    path = Path(source).expanduser()
    if path.is_file():
        return fingerprint_files([path])
    if path.is_dir():
        return fingerprint_files(
            file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt")
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
    folder = _unpacked_folder(file)
    if not folder.exists():
        with atomic_path(folder) as part:
            _unpack(file, part)
    return str(folder)


def waits_for_unpacking(source: str) -> bool:
    """Whether `source` is a GGUF file that nobody unpacked yet: its first loading takes a while longer."""
    path = Path(source).expanduser()
    return path.is_file() and not _unpacked_folder(path).exists()


def _unpacked_folder(file: Path) -> Path:
    digest = _sha256_once(file, file.stat().st_mtime_ns)[:16]
    return cache_folder() / "unpacked" / f"{file.stem}-{digest}-transformers{transformers.__version__}"


@cache
def _sha256_once(file: Path, _changed_ns: int) -> str:
    """The hash of gigabytes that configuration, tokenizer and weights are each asked for."""
    return sha256_of(file)


def _unpack(file: Path, folder: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # the reader raises whatever its parser meets
        raise ModelError(f"{str(file)!r} cannot be read as GGUF: {_one_line(error)}") from error
    # The weights are dense now; transformers would refuse to save a model that still calls itself quantised.
    model.config.__dict__.pop("quantization_config", None)
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__.pop("is_quantized", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "unpacked_from.json").write_text(json.dumps({"file": file.name}), encoding="utf-8")
