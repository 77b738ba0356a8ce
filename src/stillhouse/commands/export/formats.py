"""Writing each format, and reading it back as something that can be asked: all by libraries that are kept for that."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.commands.export.gguf_file import STORED, read_gguf, write_gguf
from stillhouse.core.errors import ModelError
from stillhouse.models.load import LoadedModel, load_model
from stillhouse.synthesis.licence import licence_of

Ask = Callable[[Sequence[int]], NDArray[np.float32]]
"""What a model answers to the tokens of one text: logits of every position, or of the text."""

GRAPH, INPUTS, OUTPUT = "model.onnx", ("input_ids", "attention_mask"), "logits"
SECOND_TEXT = "token_type_ids"
"""What tells the second of a pair of texts from the first, where a model reads it."""


@dataclass(frozen=True)
class Format:
    """A format: what it takes, how it is written, and how it is read back."""

    name: str
    needs: Mapping[str, str]
    """Modules, and the packages that they come with."""
    extra: str
    quantise: tuple[str, ...]
    """What its weights can be; the first is the default."""
    write: Callable[[LoadedModel, Path, str], Sequence[str]]
    """Returns what one should know of what was written."""
    read: Callable[[LoadedModel, Path], Ask]
    serves: str
    is_timed: bool = True
    """Whether what reads it back here is what serves it there."""

    def check_installed(self) -> None:
        """Refuse to begin what will miss a library.

        Raises:
            ModelError: saying how to get it.
        """
        missing = [package for module, package in self.needs.items() if find_spec(module) is None]
        if missing:
            raise ModelError(
                f"--to {self.name} needs {', '.join(missing)}, which is not installed. Run "
                f"`pip install 'stillhouse[{self.extra}]'`."
            )


def asking(model: nn.Module) -> Ask:
    """A model of this process."""

    @torch.no_grad()
    def ask(ids: Sequence[int]) -> NDArray[np.float32]:
        row = torch.tensor([list(ids)], device=next(model.parameters()).device)
        found = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)

    return ask


# safetensors.

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _write_safetensors(loaded: LoadedModel, folder: Path, quantise: str) -> Sequence[str]:
    """A plain Hugging Face folder in another precision."""
    before = loaded.model.dtype
    _cast(loaded.model, DTYPES[quantise])
    try:
        loaded.model.save_pretrained(folder)
    finally:
        _cast(loaded.model, before)
    loaded.tokenizer.save_pretrained(folder)
    return ()


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """In place, as torch does it."""
    model.to(dtype)


def _read_safetensors(loaded: LoadedModel, folder: Path) -> Ask:
    named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype", "float32")
    return asking(load_model(str(folder), loaded.task, dtype=DTYPES[named]).model)


# ONNX.


class _LogitsOnly(nn.Module):
    """A model as one function of ids and mask. Nothing is cached: each call reads the whole text."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {SECOND_TEXT: token_type_ids}
        answered: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **types, **self.options
        ).logits
        return answered


@contextmanager
def _unheard() -> Iterator[None]:
    """What exporters warn of is their own: what came of it is measured here."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention as its formula, which every exporter can follow."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _write_graph(loaded: LoadedModel, file: Path) -> None:
    """The graph by torch's own exporter, for any number of texts of any length."""
    ids = torch.arange(14, device=loaded.model.device).reshape(2, 7) + 3
    given = (ids, torch.ones_like(ids), *([torch.zeros_like(ids)] if _reads_pairs(loaded) else []))
    names = [*INPUTS, SECOND_TEXT][: len(given)]
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with _plain_attention(loaded.model), _unheard():
        torch.onnx.export(
            _LogitsOnly(loaded.model),
            given,
            file,
            dynamo=True,
            verbose=False,
            external_data=True,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(names, axes),
        )


def _reads_pairs(loaded: LoadedModel) -> bool:
    """Whether a pair of texts is told apart by more than its tokens."""
    return SECOND_TEXT in loaded.tokenizer.model_input_names and getattr(loaded.model.config, "type_vocab_size", 0) > 1


def _write_onnx(loaded: LoadedModel, folder: Path, quantise: str) -> Sequence[str]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if quantise == "float32":
        _write_graph(loaded, folder / GRAPH)
    else:
        whole = folder / "whole"
        whole.mkdir()
        _write_graph(loaded, whole / GRAPH)
        with _unheard():
            quantize_dynamic(whole / GRAPH, folder / GRAPH, weight_type=QuantType.QInt8)
        shutil.rmtree(whole)
    _save_beside(loaded, folder)
    return ()


def _save_beside(loaded: LoadedModel, folder: Path) -> None:
    """What reads texts, and what the classes are called."""
    loaded.model.config.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def _as_arrays(ids: Sequence[int], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """One text, of which all is read and nothing is a second one."""
    row = np.asarray([list(ids)], dtype=np.int64)
    given = {INPUTS[0]: row, INPUTS[1]: np.ones_like(row), SECOND_TEXT: np.zeros_like(row)}
    return {name: given[name] for name in names}


def _read_onnx(_loaded: LoadedModel, folder: Path) -> Ask:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda ids: np.asarray(session.run([OUTPUT], _as_arrays(ids, names))[0][0], dtype=np.float32)


# OpenVINO, by way of ONNX.


def _write_openvino(loaded: LoadedModel, folder: Path, quantise: str) -> Sequence[str]:
    import openvino

    whole = folder / "whole"
    whole.mkdir()
    _write_graph(loaded, whole / GRAPH)
    model = openvino.convert_model(whole / GRAPH)
    if quantise in ("int8", "int4"):
        model = _compressed(model, quantise)
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=quantise == "float16")
    del model  # which still reads the graph
    shutil.rmtree(whole)
    _save_beside(loaded, folder)
    return ()


def _compressed(model: Any, quantise: str) -> Any:
    import nncf

    modes = {"int8": nncf.CompressWeightsMode.INT8_ASYM, "int4": nncf.CompressWeightsMode.INT4_ASYM}
    groups = {"group_size": 64, "all_layers": False} if quantise == "int4" else {}
    return nncf.compress_weights(model, mode=modes[quantise], **groups)


def _read_openvino(_loaded: LoadedModel, folder: Path) -> Ask:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(folder / "openvino_model.xml", "CPU", settings)
    names = [one.get_any_name() for one in compiled.inputs]
    return lambda ids: np.asarray(next(iter(compiled(_as_arrays(ids, names)).values()))[0], dtype=np.float32)


# GGUF.


def _write_gguf(loaded: LoadedModel, folder: Path, quantise: str) -> Sequence[str]:
    name = called(Path(loaded.source))
    licence = str(licence_of(loaded.source)["licence"])
    return write_gguf(loaded, folder / f"{name}-{quantise.upper()}.gguf", quantise=quantise, name=name, licence=licence)


def called(student: Path) -> str:
    """A run's student is called as the run is."""
    whole = student.expanduser().resolve()
    return whole.parent.name if whole.name == "student" else whole.name


def _read_gguf(loaded: LoadedModel, folder: Path) -> Ask:
    return asking(read_gguf(loaded, next(folder.glob("*.gguf"))))


FORMATS = {
    one.name: one
    for one in (
        Format(
            "safetensors",
            {},
            "",
            ("bfloat16", "float16", "float32"),
            _write_safetensors,
            _read_safetensors,
            "AutoModel...from_pretrained, vLLM, stillhouse serve",
        ),
        Format(
            "onnx",
            {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
            "onnx",
            ("float32", "int8"),
            _write_onnx,
            _read_onnx,
            "onnxruntime",
        ),
        Format(
            "openvino",
            {"onnx": "onnx", "onnxscript": "onnxscript", "openvino": "openvino", "nncf": "nncf"},
            "openvino",
            ("float32", "float16", "int8", "int4"),
            _write_openvino,
            _read_openvino,
            "OpenVINO's runtime",
        ),
        Format(
            "gguf",
            {},  # the library comes with stillhouse
            "",
            tuple(STORED),
            _write_gguf,
            _read_gguf,
            "llama.cpp, Ollama, LM Studio, stillhouse serve",
            is_timed=False,
        ),
    )
}
