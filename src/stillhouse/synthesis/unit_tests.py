"""Run code that a model wrote against tests, in a process of its own.

The process has a time limit, limits on memory, files and new processes, an empty folder, an almost empty environment, and
Python's isolated mode. That keeps accidents in; it is no prison for code that wants to get out. Run what you do not trust in a
container or a virtual machine.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from tempfile import TemporaryDirectory

RUNNER = """
import os, sys
limits, word = sys.stdin.readline().split(), sys.stdin.readline()
try:
    import resource
except ImportError:
    resource = None
for name, value in zip(("CPU", "AS", "FSIZE", "NPROC", "CORE"), map(int, limits)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    except (AttributeError, ValueError, OSError):
        pass
program, said = sys.stdin.read(), os.dup(1)
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1), os.dup2(quiet, 2)
sys.stdin = open(os.devnull)
exec(compile(program, "answer.py", "exec"), {"__name__": "__main__"})
os.write(said, word.encode())
"""
"""The word is told only after the last test: an answer that ends the process early has not passed."""

FENCED = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)```", re.DOTALL)


def code_of(answer: str) -> str:
    """The program in an answer: its first fenced block of Python, or of no language; all of it where nothing is fenced."""
    blocks = [
        block for language, block in FENCED.findall(answer) if language.lower() in ("", "python", "py", "python3")
    ]
    return str(blocks[0]) if blocks else answer


def passes(code: str, tests: Sequence[str], *, seconds: float, memory_mb: int = 1024) -> bool:
    """Whether the code runs, and every test after it, within the limits."""
    word = secrets.token_hex(16)
    limits = [max(1, round(seconds + 1)), memory_mb * 2**20, 2**20, 0, 0]
    program = "\n".join([code, *tests])
    told = f"{' '.join(map(str, limits))}\n{word}\n{program}".encode(errors="replace")
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(told, timeout=seconds)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.communicate()
    return said.decode(errors="replace").strip() == word


def all_pass(programs: Sequence[tuple[str, Sequence[str]]], *, seconds: float, memory_mb: int = 1024) -> list[bool]:
    """The same of several programs, as many at once as there are cores."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda one: passes(one[0], one[1], seconds=seconds, memory_mb=memory_mb), programs))
