"""A student that DeepSpeed shares among processes: its ZeRO, which parts gradients and optimiser (stage 2), or weights too (3).

In stage 3 a weight is whole for as long as the module that it is registered with is at work. The losses here multiply a head
outside of its own module, so what DeepSpeed runs is the loss itself: a module whose forward pass reads the student and ends in
a number. The head, and what is trained beside the student, belong to that module, and stay whole until the backward pass ends.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from stillhouse.core.errors import ModelError
from stillhouse.models.signals import unwrapped

Stage = Literal[2, 3]
STAGES: Mapping[str, Stage] = {"zero2": 2, "zero3": 3}
"""By what `Held` calls them."""

SAME_EVERYWHERE = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_reuse_distance": 0,
}
"""Weights are gathered by a module when it begins, and let go when it ends. What is kept or fetched ahead follows from what a
process has run before, of which one may have had more than another: they would wait for each other for ever."""

NO_DEEPSPEED = "DeepSpeed is not installed here. `DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed` does it."


class Learning(nn.Module):
    """What DeepSpeed runs: any loss of the model that it holds."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, loss: Callable[[nn.Module], Any]) -> Any:
        """What the loss says of it."""
        return loss(self.module)


class Zero(nn.Module):
    """Around a model that DeepSpeed has taken apart, what a Trainer asks of data parallelism."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.module = engine

    def forward(self, loss: Callable[[nn.Module], Any]) -> Any:
        """What the loss says of the model."""
        return self.module(loss)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """A step's gradients are not all there yet: they are shared even so, and added up where they belong."""
        self.module.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.module.set_gradient_accumulation_boundary(True)


class Steps(torch.optim.Optimizer):
    """The optimiser as a Trainer sees it: DeepSpeed's step, with this one's rates, for its part of the weights."""

    def __init__(
        self,
        own: torch.optim.Optimizer,
        groups: list[dict[str, Any]],
        weights: list[list[nn.Parameter]],
        engine: Any,
    ) -> None:
        # Not as torch begins one: it would take the weights for its own.
        self.own, self.weights, self.engine, self.model = own, weights, engine, Zero(engine)
        self.groups = groups
        self.is_odd = False

    @property
    def has_parts(self) -> bool:
        """Whether weights are parted, too."""
        return any(is_part(weight) for group in self.weights for weight in group)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Where rates are set: also of a group without weights, as of an adapter, which DeepSpeed leaves out and one process
        has."""
        return self.groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """What the optimiser began with."""
        return self.own.defaults

    def backward(self, loss: Tensor) -> None:
        """The backward pass of a loss, and what comes of it. By hooks, processes would see its end at different places."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step, if anything is to be learnt from its gradients."""
        if self.is_odd:
            self.zero_grad()  # the next would be added to it
        else:
            self.engine.step()
        self.is_odd = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.engine.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is put together by `whole_optimizer`."""
        return {}

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing, as it is taken apart by `take_optimizer`."""

    def gradient_norm(self) -> Tensor:
        """Of what all processes have, before it is shortened."""
        if not self.has_parts:
            norm: Tensor = torch.as_tensor(self.engine.optimizer.scaled_global_norm())
            return torch.where(norm < 0, torch.full_like(norm, torch.inf), norm)  # its word for what is no number
        from deepspeed.utils import safe_get_local_grad

        squares = [safe_get_local_grad(weight).square().sum() for group in self.weights for weight in group]
        total = torch.stack(squares).sum()
        distributed.all_reduce(total)
        return total.sqrt()


def part(pupil: nn.Module, own: torch.optim.Optimizer, *, stage: Stage, max_norm: float) -> Steps:
    """Let all processes share a model, or a student with what is trained beside it, in place, and what `own` keeps of it. All
    of them call this at once, with the same weights.

    Raises:
        ModelError: if DeepSpeed is not installed.
    """
    deepspeed = _deepspeed()
    groups = list(own.param_groups)
    weights = [list(group["params"]) for group in groups]
    learning = Learning(pupil)
    engine, *_ = deepspeed.initialize(model=learning, optimizer=own, config=_settings(stage, max_norm))
    engine.set_gradient_accumulation_boundary(True)
    if stage == 3:
        _keep_no_trace(engine.optimizer.parameter_offload.get_param_coordinator())
    for module, weight in [*((learning, weight) for weight in _used_by_losses(pupil)), *_without_module(pupil)]:
        deepspeed.zero.register_external_parameter(module, weight)
    return Steps(own, groups, weights, engine)


def _keep_no_trace(coordinator: Any) -> None:
    """Let a pass end without a word to the others. DeepSpeed notes which modules ran, and processes compare their notes until
    they have seen one pass twice: who has had another, as without rows, would compare alone, and wait for ever."""
    coordinator.reset_step = coordinator._clean_inflight_param_registry


def _deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError:
        raise ModelError(NO_DEEPSPEED) from None
    if not torch.accelerator.is_available():
        # Processes on the processor talk by gloo, as without DeepSpeed: its own way is compiled first, for a minute or more.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(stage: Stage, max_norm: float) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # counted for its own log alone
        "gradient_accumulation_steps": 1,  # a step's losses are divided already
        "gradient_clipping": max_norm,
        "zero_allow_untested_optimizer": True,  # torch's own, as without DeepSpeed
        "zero_optimization": {"stage": stage, **(SAME_EVERYWHERE if stage == 3 else {})},
        "steps_per_print": 10**9,
    }


def _used_by_losses(pupil: nn.Module) -> list[nn.Parameter]:
    """The weights that losses multiply themselves: the head's, and what is trained beside the student."""
    student = unwrapped(pupil)
    head, within = student.get_output_embeddings(), {id(weight) for weight in student.parameters()}
    beside = [weight for weight in pupil.parameters() if id(weight) not in within]
    return beside if head is None else [*head.parameters(), *beside]


def _without_module(pupil: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Weights that lie in a dictionary, which is never at work itself, and the module that looks them up: peft keeps an
    adapter of embeddings so."""
    for module in pupil.modules():
        for kept in module.children():
            if isinstance(kept, nn.ParameterDict):
                yield from ((module, weight) for weight in kept.parameters())


def loss_of(model: nn.Module, loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a loss says of a model, as a part of DeepSpeed's own forward pass where that has it."""
    if isinstance(model, Zero):
        return model(lambda inner: loss(inner, *args, **kwargs))
    return loss(model, *args, **kwargs)


def is_part(weight: Any) -> bool:
    """Whether this process has a part of this weight alone (stage 3)."""
    return hasattr(weight, "ds_id")


def is_shared(model: nn.Module) -> bool:
    """Whether DeepSpeed sees to its gradients, in the order that they come in: it must be the same in all processes."""
    return any(is_part(weight) or hasattr(weight, "_hp_mapping") for weight in model.parameters())


def whole(weight: Tensor) -> Tensor:
    """All of a weight that processes share. All of them call this at once."""
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([weight]):
        return weight.detach().clone()


@contextmanager
def gathered(steps: Steps) -> Iterator[None]:
    """Within the block each process has all weights, and may run the model as often as it likes, whatever others do."""
    from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

    with unwrap_model_for_generation(steps.engine):
        yield


def whole_optimizer(steps: Steps, *, keeps: bool) -> dict[str, Any]:
    """The state as one process would have it, for a process that `keeps` it. All processes call this at once."""
    from deepspeed.utils import safe_get_full_optimizer_state

    state: dict[int, dict[str, Tensor]] = {}
    begun = [found for found in steps.own.state.values() if "step" in found]
    weights = [weight for group in steps.weights for weight in group]
    _link(steps)
    for number, weight in enumerate(weights if begun else []):
        state[number] = {"step": begun[0]["step"].detach().cpu().clone()}
        for name in [name for name in begun[0] if name != "step"]:
            full = safe_get_full_optimizer_state(weight, name)
            if keeps:
                state[number][name] = full.detach().cpu().clone()
    return {"state": state, "param_groups": _numbered(steps)} if keeps else {}


def _numbered(steps: Steps) -> list[dict[str, Any]]:
    first, groups = 0, []
    for group, weights in zip(steps.param_groups, steps.weights, strict=True):
        settings = {name: value for name, value in group.items() if name != "params"}
        groups.append({**settings, "params": list(range(first, first + len(weights)))})
        first += len(weights)
    return groups


def take_optimizer(steps: Steps, found: Mapping[str, Any]) -> None:
    """Give an optimizer whose weights are shared the state that one process had."""
    for group, kept in zip(steps.param_groups, found["param_groups"], strict=True):
        group.update({name: value for name, value in kept.items() if name != "params"})
    if not found["state"]:
        return
    one = next(iter(found["state"].values()))
    names = [name for name in one if name != "step"]
    for own in _flat(steps):
        steps.own.state[own] = {"step": one["step"].clone(), **{name: torch.zeros_like(own) for name in names}}
    weights = [weight for group in steps.weights for weight in group]
    if steps.has_parts:
        _take_parts(weights, found["state"], names)
        return
    from deepspeed.utils import safe_set_full_optimizer_state

    _link(steps)
    for number, weight in enumerate(weights):
        for name in names:
            safe_set_full_optimizer_state(weight, found["state"][number][name].to(weight.device), name)


def _flat(steps: Steps) -> list[Tensor]:
    """What the optimiser really steps: a tensor of all that this process has of a group of weights."""
    zero = steps.engine.optimizer
    found: list[Tensor] = zero.fp32_partitioned_groups_flat if steps.has_parts else zero.single_partition_of_fp32_groups
    return found


def _link(steps: Steps) -> None:
    """Stage 2 looks for a weight's state where it was after the first group's first step, and finds none of the others'."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    if not steps.has_parts:
        for own, group in zip(_flat(steps), filter(None, steps.weights), strict=True):
            lazy_init_hp_params_optimizer_state(group, own, steps.own.state)


def _take_parts(weights: list[nn.Parameter], state: Mapping[int, Mapping[str, Tensor]], names: list[str]) -> None:
    from deepspeed.utils import safe_set_local_optimizer_state

    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    for number, weight in enumerate(weights):
        size = weight.ds_tensor.numel()  # type: ignore[attr-defined]
        for name in names:
            flat = state[number][name].flatten().to(weight.device)
            padded = nn.functional.pad(flat, (0, size * num_ranks - len(flat)))
            safe_set_local_optimizer_state(weight, padded[size * rank : size * (rank + 1)], name)
