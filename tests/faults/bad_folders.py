"""Models and stores that cannot be: what is done to a good one, and words of what is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Break = Callable[[Path], object]
DEEP = "[" * 100_000


def without(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def having(name: str, content: bytes | str) -> Break:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def as_folder(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def leading_nowhere(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/no/such/file")

    return change


def cut(name: str, share: float) -> Break:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def setting(name: str, **values: Any) -> Break:
    def change(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **values}))

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(shard: str) -> Break:
    """Weights of which an index says that they lie in this file."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        target = (folder / shard).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "model.safetensors", target)
        (folder / "other.safetensors").write_bytes(target.read_bytes())

    return change


CONFIG = "has no configuration that can be loaded"
TOKENIZER = "has no tokenizer that can be loaded"
WEIGHTS = "cannot be loaded as a causal language model"

MODELS: dict[str, tuple[Break, str]] = {
    "no configuration": (without("config.json"), "has no config.json"),
    "a configuration of nothing": (having("config.json", b""), CONFIG),
    "a configuration of an open brace": (having("config.json", "{"), CONFIG),
    "a configuration that is a list": (having("config.json", "[]"), CONFIG),
    "a configuration that is null": (having("config.json", "null"), CONFIG),
    "a configuration that is a word": (having("config.json", '"llama"'), CONFIG),
    "a configuration in another encoding": (having("config.json", b"\xff\xfe{\x00}\x00"), CONFIG),
    "a configuration of great depth": (having("config.json", DEEP), CONFIG),
    "a configuration that is a folder": (as_folder("config.json"), CONFIG),
    "a configuration that leads nowhere": (leading_nowhere("config.json"), "has no config.json"),
    "a configuration of no model": (having("config.json", "{}"), CONFIG),
    "a family that nobody knows": (setting("config.json", model_type="nope"), CONFIG),
    "a family that is a number": (setting("config.json", model_type=5), CONFIG),
    "a family that is a list": (setting("config.json", model_type=["llama"]), CONFIG),
    "layers that are a word": (setting("config.json", num_hidden_layers="four"), CONFIG),
    "layers that are null": (setting("config.json", num_hidden_layers=None), ""),
    "layers below 0": (setting("config.json", num_hidden_layers=-1), "num_hidden_layers is -1"),
    "heads of nothing": (setting("config.json", num_attention_heads=0), ""),
    "a width that is a list": (setting("config.json", hidden_size=[32]), CONFIG),
    "code of its own": (setting("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}), "custom code"),
    "another family's configuration": (setting("config.json", model_type="t5"), ""),
    "more layers than weights": (setting("config.json", num_hidden_layers=6), "no fitting weights for 18 parts"),
    "a wider model than its weights": (setting("config.json", intermediate_size=32), "no fitting weights"),
    "a vocabulary of nothing": (setting("config.json", vocab_size=0), ""),
    "no weights": (without("model.safetensors"), "has no weights in safetensors"),
    "pickled weights": (pickled, "Pickled ones can run code and are not read: save the model again"),
    "weights of nothing": (having("model.safetensors", b""), WEIGHTS),
    "weights of zeros": (having("model.safetensors", bytes(100)), WEIGHTS),
    "weights of text": (having("model.safetensors", "<html>404</html>" * 9), WEIGHTS),
    "a header without end": (having("model.safetensors", b"\xff" * 16), WEIGHTS),
    "half of the weights": (cut("model.safetensors", 0.5), WEIGHTS),
    "nearly all of the weights": (cut("model.safetensors", 0.999), WEIGHTS),
    "weights that are a folder": (as_folder("model.safetensors"), ""),
    "weights that lead nowhere": (leading_nowhere("model.safetensors"), ""),
    "weights of a pointer": (
        having("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        WEIGHTS,
    ),
    "weights elsewhere": (sharded("../outside.safetensors"), "outside of the folder"),
    "weights somewhere else": (sharded("/tmp/stillhouse-test-outside.safetensors"), "outside of the folder"),
    "an index that is a list": (having("model.safetensors.index.json", "[]"), "index"),
    "an index that is none": (having("model.safetensors.index.json", "{"), "index"),
    "an index of numbers": (having("model.safetensors.index.json", '{"weight_map": {"a": 5}}'), "index"),
    "no tokenizer": (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], TOKENIZER),
    "a tokenizer of nothing": (having("tokenizer.json", b""), TOKENIZER),
    "a tokenizer of an open brace": (having("tokenizer.json", "{"), TOKENIZER),
    "a tokenizer that is a list": (having("tokenizer.json", "[]"), TOKENIZER),
    "a tokenizer that is null": (having("tokenizer.json", "null"), TOKENIZER),
    "a tokenizer without a model": (having("tokenizer.json", '{"version": "1.0"}'), TOKENIZER),
    "a tokenizer that is a folder": (as_folder("tokenizer.json"), TOKENIZER),
    "half a tokenizer": (cut("tokenizer.json", 0.5), TOKENIZER),
    "settings of a tokenizer that are a list": (having("tokenizer_config.json", "[]"), TOKENIZER),
    "settings of a tokenizer that are none": (having("tokenizer_config.json", "{"), TOKENIZER),
    "a tokenizer class that is a number": (setting("tokenizer_config.json", tokenizer_class=5), TOKENIZER),
}
"""What is done to a teacher's folder."""

PATHS: dict[str, tuple[str, str]] = {
    "no name": ("", "neither an existing folder"),
    "a zero byte": ("a\0b", "neither an existing folder"),
    "a name without end": ("/" + "x" * 5000, "neither an existing folder"),
    "a hub id without end": ("x" * 300 + "/y", ""),
    "a device": ("/dev/null", "is a file"),
    "a home that nobody has": ("~nobody-at-all/model", ""),
    "a folder of devices": ("/proc/self", "has no config.json"),
    "an address": ("https://example.org/model", "neither an existing folder"),
    "a shell's words": ("$(rm -rf /)", "has no configuration"),
    "a hub id that leads up": ("../..", "has no config.json"),
}
"""What is given for a model."""
