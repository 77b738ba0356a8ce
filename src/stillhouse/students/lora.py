"""A student that carries a low-rank adapter: everything else of it stays as it is."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stillhouse.core.errors import ModelError
from stillhouse.core.faults import nearest
from stillhouse.core.task import Task
from stillhouse.models.adapters import ADAPTER, adapter_config
from stillhouse.models.anatomy import task_of
from stillhouse.models.load import LABELLED_TASKS
from stillhouse.students.config import ALL_LINEAR, LoraConfig

PEFT_TASKS: dict[Task, str] = {
    "causal_lm": "CAUSAL_LM",
    "sequence_classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "reward": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "sentence_embedding": "FEATURE_EXTRACTION",
}
"""What peft calls our tasks; it has no name for a masked language model."""


def add_adapter(model: PreTrainedModel, wanted: LoraConfig, *, seed: int) -> PreTrainedModel:
    """Put an adapter into `model`, in place, and freeze all else. At its start it changes nothing, to the bit.

    The head of a classifier is made for its data, so it learns whole beside the adapter and is kept with it.

    Raises:
        ModelError: if `wanted` names parts that the model does not have, or its head together with dropout.
    """
    heads = heads_of(model)
    chosen = chosen_modules(model, wanted.targets, heads=heads)
    _refuse_dropout_before_head(model, wanted, chosen)
    config = PeftConfig(
        r=wanted.rank,
        lora_alpha=wanted.alpha,  # type: ignore[arg-type]  # it only divides it
        lora_dropout=wanted.dropout,
        target_modules=chosen,
        modules_to_save=heads or None,
        use_dora=wanted.dora,
        use_rslora=wanted.rslora,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in chosen),
        task_type=PEFT_TASKS.get(task_of(model)),
    )
    torch.manual_seed(seed)
    with _at_peace():
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    if getattr(model, "is_quantized", False):
        model._hf_peft_config_loaded = True  # by which the Trainer knows that not the 4-bit weights are to learn
    config.target_modules = sorted(config.target_modules or ())  # a set's order differs from run to run
    return model


@contextmanager
def _at_peace() -> Iterator[None]:
    """Without what peft warns of and then does right, or we do: ties are undone where adapters are merged, and each layer finds
    out by itself which way its weight lies.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True.*")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to.*")
        yield


def heads_of(model: PreTrainedModel) -> list[str]:
    """The parts of a classifier that lie beside its body."""
    if task_of(model) not in LABELLED_TASKS:
        return []
    parts = model.named_children()
    return [name for name, part in parts if name != model.base_model_prefix and any(True for _ in part.parameters())]


def chosen_modules(model: PreTrainedModel, targets: str | Sequence[str], *, heads: Sequence[str] = ()) -> list[str]:
    """Full names of the layers that get an adapter: `all-linear` leaves the head out, as peft does.

    Raises:
        ModelError: naming the layers that there are, if a target is none of them.
    """
    able = {name: module for name, module in model.named_modules() if isinstance(module, _ABLE)}
    able = {name: module for name, module in able.items() if name.partition(".")[0] not in heads}
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings()
        return [name for name, module in able.items() if module is not head and not isinstance(module, nn.Embedding)]
    found: list[str] = []
    for target in [targets] if isinstance(targets, str) else targets:
        matching = [name for name in able if name == target or name.endswith(f".{target}")]
        if not matching:
            names = list(dict.fromkeys(name.rpartition(".")[2] for name in able))
            raise ModelError(
                f"student.lora.targets names {target!r}, which {type(model).__name__} has no linear layer or embedding of."
                f"{nearest(target, names)} There are: {', '.join(names)}; or {ALL_LINEAR}."
            )
        found += matching
    return sorted(set(found), key=list(able).index)


_ABLE = (nn.Linear, Conv1D, nn.Embedding)


def _refuse_dropout_before_head(model: PreTrainedModel, wanted: LoraConfig, chosen: Sequence[str]) -> None:
    head = model.get_output_embeddings()
    if wanted.dropout and any(model.get_submodule(name) is head for name in chosen):
        raise ModelError(
            f"student.lora.dropout is {wanted.dropout}, but targets name the head, whose product is never built while the "
            "student learns, so nothing can be dropped before it. Set dropout to 0, or leave the head out of targets."
        )


def check_bitsandbytes(wanted: LoraConfig) -> None:
    """Refuse 4-bit weights where the library for them is missing.

    Raises:
        ModelError: naming it.
    """
    if wanted.quantize == "4bit" and find_spec("bitsandbytes") is None:
        raise ModelError(
            "student.lora.quantize is 4bit, which needs the package bitsandbytes, and that is not installed. "
            "Install it (pip install bitsandbytes), or say none."
        )


@torch.no_grad()
def frozen_hash(model: PreTrainedModel) -> str:
    """Hash of every bit of the parameters and buffers that do not learn."""
    assert adapter_config(model) is not None, "without an adapter, everything learns"
    digest = hashlib.sha256()
    frozen = [pair for pair in model.named_parameters() if not pair[1].requires_grad]
    for name, tensor in sorted([*frozen, *model.named_buffers()]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
