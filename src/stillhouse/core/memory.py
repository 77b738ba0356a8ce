"""Memory: what this process holds and has held at most, what is free, and how it is told that there is none left."""

import ctypes
import errno
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_IN_BYTES = 1 if sys.platform == "darwin" else 1024
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
"""CUDA, MPS and XPU; torch on a CPU, on Linux and on Windows; cuBLAS and its kin; C++."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_before = 0
"""The most that this process had held when it last counted anew."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a process holds."""

    resident: int
    accelerator: int = 0


def memory_now() -> Memory:
    """This process's memory, and what torch has taken of an accelerator, if it was imported at all."""
    torch: Any = sys.modules.get("torch")
    has_cuda = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return Memory(psutil.Process().memory_info().rss, torch.cuda.memory_reserved() if has_cuda else 0)


def peak_bytes() -> int:
    """The most that this process has held so far: on its GPU, if it has one, else altogether."""
    return max(_before, peak_since())


def peak_since() -> int:
    """The most that was held since `count_anew` succeeded."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return 1024 * int(found.group(1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _IN_BYTES  # never anew


def count_anew() -> bool:
    """Have `peak_since` begin at what is held now, when what is no longer needed was given back; False where the system does
    not let us."""
    import torch

    global _before
    held = peak_bytes()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # of glibc: else what was freed before would hide what is taken now
            _RESET.write_text("5", encoding="ascii")  # "5" lets the peak begin anew: proc(5)
        except (OSError, AttributeError):
            return False
    _before = held
    return True


def free_bytes() -> int:
    """What models may take: of the GPU, if there is one, else of the machine's memory."""
    import torch

    return int(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that there was no room in memory, whoever raised it: every device and library has words of its
    own for it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):  # numpy's own is one
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
