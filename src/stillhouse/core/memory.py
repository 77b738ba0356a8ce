"""How it is told that memory has run out: every device and library has words of its own for it."""

import errno

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
"""CUDA, MPS and XPU; torch on a CPU, on Linux and on Windows; cuBLAS and its kin; C++."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that there was no room in memory, whoever raised it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):  # numpy's own is one
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
