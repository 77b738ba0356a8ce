"""A model whose weights several processes share: each holds a part of every tensor, and borrows the rest as it is needed.

This is torch's FSDP2. Each block is gathered for its own forward and backward pass. What is outside of the blocks, head and
embeddings above all, belongs to the root, which stays gathered from the forward pass to the end of the backward pass: that is
when the losses here multiply a head themselves, and so they find it whole, and its gradient is added up with the others.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from stillhouse.models.anatomy import few_ids, layers_of
from stillhouse.models.isolation import evaluating
from stillhouse.models.precision import Precision
from stillhouse.models.signals import unwrapped
from stillhouse.training.zero import is_part, whole

Held = Literal["whole", "sharded", "zero2", "zero3"]
"""Whether each of several processes holds a copy of the student, or a part of it; the last two are DeepSpeed's."""

TeacherHeld = Literal["whole", "sharded", "on_ray"]
"""Whether each of them holds the teacher, too, or a part of it; or actors of a Ray cluster do, and they ask these."""


class Sharded(nn.Module):
    """Around a model whose weights are shared, what a Trainer asks of data parallelism."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: Any = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model says."""
        with warnings.catch_warnings():
            # Nobody here writes over hidden states, which are views of what they were.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients add up here, and wait with being shared."""
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)


def shard(model: nn.Module, *, num_ranks: int, precision: Precision = "float32") -> None:
    """Let so many processes share the weights of the model, or of a student with what is trained beside it, in place. All of
    them call this at once, with the same weights. In bfloat16, weights are lent and used in that; what is kept, and what
    gradients are added up in, stays as it is.

    Raises:
        ModelError: if its blocks cannot be told.
    """
    student = unwrapped(model)
    mesh = init_device_mesh(student.device.type, (num_ranks,))
    is_mixed = precision == "bfloat16"
    policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32) if is_mixed else MixedPrecisionPolicy()
    blocks: list[Any] = list(layers_of(student))
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    root: Any = fully_shard(model, mesh=mesh, mp_policy=policy)
    # What comes next in the backward pass would be found from former passes otherwise, of which one process may have had more.
    # The root, which is there, stands for nothing.
    for unit, before in zip([root, *blocks], [root, root, *blocks], strict=False):
        unit.set_modules_to_backward_prefetch([before])
    with torch.no_grad(), evaluating(model):
        model(
            input_ids=few_ids(student)
        )  # the first pass must go through the root, which a student that writes does not
    reshard(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether processes share its weights."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or any(map(is_part, model.parameters()))


def reshard(model: nn.Module) -> None:
    """Let go of what other processes hold."""
    for module in _units(model):
        module.reshard()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block each process has all weights, and may run the model as often as it likes, whatever others do."""
    units = _units(model)
    blocks: list[Any] = list(layers_of(unwrapped(model)))
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True, recurse=False)
        reshard(model)


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def whole_tensors(tensors: Mapping[str, Tensor], *, keeps: bool) -> dict[str, Tensor]:
    """The same tensors, none of them shared, in memory of the processor; nothing where a process `keeps` none of them. What
    stands under two names stands there once. All processes call this at once."""
    made: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (isinstance(tensor, DTensor) or is_part(tensor)) and id(tensor) not in made:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else whole(tensor)
            made[id(tensor)] = full.cpu() if keeps else full.new_empty(())
        found[name] = made.get(id(tensor), tensor)
    return found if keeps else {}


def whole_student(student: PreTrainedModel, kind: type[PreTrainedModel], *, keeps: bool) -> PreTrainedModel:
    """A student of this class that nobody shares, with the same weights, for a process that `keeps` it; for others the student
    as it is. All processes call this at once."""
    state = whole_tensors(student.state_dict(keep_vars=True), keeps=keeps)
    if not keeps:
        return student
    found: Any = kind.from_pretrained(None, config=student.config, state_dict=state, dtype=student.dtype)
    found.generation_config = student.generation_config
    return found


def hollow(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with the same configuration, but for its weights, which `fill` gives it."""
    in_place: dict[int, Any] = {
        id(one): nn.Parameter(torch.empty_like(one, device="meta"), one.requires_grad) for one in model.parameters()
    }
    return deepcopy(model, {**in_place, id(model.config): model.config})


def fill(model: PreTrainedModel, state: Mapping[str, Tensor]) -> PreTrainedModel:
    """A hollow model with the weights of another; what was one weight under two names is so again."""
    made: dict[int, nn.Parameter] = {}
    for place, module in model.named_modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                whole = state[f"{place}.{name}" if place else name]
                module._parameters[name] = made.setdefault(id(weight), nn.Parameter(whole, weight.requires_grad))
    return model


def take(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Give a model that is shared, whose state this is, the weights of one that is not. A name that is not there is another's
    second name."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in whole:
                tensor.copy_(_as_shared(whole[name], tensor))


def _as_shared(whole: Tensor, like: Tensor) -> Tensor:
    here = whole.to(like.device, like.dtype)
    return distribute_tensor(here, like.device_mesh, like.placements) if isinstance(like, DTensor) else here


def whole_optimizer(optimizer: torch.optim.Optimizer, *, keeps: bool) -> dict[str, Any]:
    """An optimizer's state as one process would have it, for a process that `keeps` it. All processes call this at once."""
    found = optimizer.state_dict()
    state = {number: whole_tensors(of_one, keeps=keeps) for number, of_one in found["state"].items()}
    return {**found, "state": state}


def take_optimizer(optimizer: torch.optim.Optimizer, whole: Mapping[str, Any]) -> None:
    """Give an optimizer whose weights are shared the state that one process had."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        number: {
            name: _as_shared(value, weights[number]) if name != "step" and isinstance(value, Tensor) else value
            for name, value in of_one.items()
        }
        for number, of_one in whole["state"].items()
    }
    optimizer.load_state_dict({**whole, "state": state})
