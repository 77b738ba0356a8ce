"""How much memory work needs at its peak."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(model: PreTrainedModel, work: Callable[[], object]) -> int | None:
    """Do the work. The weights, and the most that it took beside them: on an accelerator as torch counts it, on Linux as the
    system does for the whole process. None where neither tells.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in {*model.parameters(), *model.buffers()})
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        work()
        return weights + torch.cuda.max_memory_allocated(model.device) - before
    resident = _resident_now()
    work()
    most = None if resident is None else _kilobytes("VmHWM")
    return None if resident is None or most is None else weights + max(0, 1024 * (most - resident))


def _resident_now() -> int | None:
    """What the process has in memory, in KiB, after what it no longer needs is given back; its peak is counted from here."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # of glibc: else what was freed before would hide what is taken now
        RESET.write_text("5", encoding="ascii")  # "5" lets the peak begin anew: proc(5)
    except (OSError, AttributeError):
        return None
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None
