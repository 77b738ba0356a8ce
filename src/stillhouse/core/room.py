"""How much memory this process has taken at most, and how much there is."""

import os
import resource
import sys
from pathlib import Path

import torch

_IN_BYTES = 1 if sys.platform == "darwin" else 1024


def peak_bytes() -> int:
    """The most that this process has held so far: on its GPU, if it has one, else altogether."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _IN_BYTES


def free_bytes() -> int:
    """What models may take: of the GPU, if there is one, else of the machine's memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
