"""How much memory work needs at its peak."""

from collections.abc import Callable

from transformers import PreTrainedModel

from stillhouse.core.memory import count_anew, peak_since


def peak_bytes(model: PreTrainedModel, work: Callable[[], object]) -> int | None:
    """Do the work. The weights, and the most that it took beside them: on an accelerator as torch counts it, on Linux as the
    system does for the whole process. None where neither tells.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in {*model.parameters(), *model.buffers()})
    tells = count_anew()
    before = peak_since()
    work()
    return weights + peak_since() - before if tells else None
