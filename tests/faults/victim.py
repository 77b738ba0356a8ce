"""The process that dies: what the harness runs beside itself. Nothing of pytest is in it.

A fault strikes from inside, when a file is about to be opened, renamed or removed (Python says so by audit events), so that it
strikes at the same place however busy the machine is; or from outside, at any time.
"""

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from little import LITTLE

from stillhouse.cli import main
from stillhouse.core.files import read_lines

STRUCK_AT = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
REFUSALS = {"full": errno.ENOSPC, "read_only": errno.EROFS}


class Striker:
    """Counts what is done to files below the run folder, and strikes when its moment has come."""

    def __init__(self, run: Path, what: str, moment: tuple[Any, ...]) -> None:
        self.run, self.what, self.moment = run, what, moment
        self.done, self.looking, self.struck = 0, False, False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in STRUCK_AT or self.looking or not self._is_ours(arguments):
            return
        self.looking = True
        try:
            self.done += 1
            if self.what in REFUSALS:
                self.struck = self.struck or self._has_come()
                if self.struck and (event != "open" or arguments[2] & _WRITING):
                    code = REFUSALS[self.what]
                    raise OSError(code, os.strerror(code), arguments[0])
            elif not self.struck and self._has_come():
                self.struck = True
                os.kill(os.getpid(), SIGNALS[self.what])
        finally:
            self.looking = False

    def _is_ours(self, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0]
        return isinstance(path, str | Path) and str(path).startswith(str(self.run)) and not str(path).endswith(".lock")

    def _has_come(self) -> bool:
        match self.moment:
            case ("operation", number):
                return self.done >= number
            case ("begun", stage):
                return any(line.get("stage") == stage for line in read_lines(self.run / "events.jsonl"))
            case ("resumed", stage):
                lines = read_lines(self.run / "events.jsonl")
                return any((line["event"], line.get("stage")) == ("resumed", stage) for line in lines)
            case ("written", name):
                return (self.run / name).exists()
            case ("learnt", arm, steps):
                return sum(line.get("arm") == arm for line in read_lines(self.run / "metrics.jsonl")) >= steps
        return False


def _jump_the_clock() -> None:
    """What says the time of day goes back by a day and on by a year, again and again."""
    now, jumps = time.time, [0.0]

    def jumping() -> float:
        jumps[0] = {0.0: -86_400.0, -86_400.0: 3.2e7}.get(jumps[0], 0.0)
        return now() + jumps[0]

    time.time = jumping


def suffer(
    arguments: list[str],
    run: str,
    what: str,
    moment: tuple[Any, ...],
    said: str,
    secrets: dict[str, str],
    clock_jumps: bool,
) -> None:
    """Run a command, with what it says in the file `said`; a fault strikes at its moment. It ends with the command's code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even where the tests run in the background
    os.environ.update(secrets)
    for module, constants in LITTLE.items():
        vars(importlib.import_module(f"stillhouse.evaluation.{module}")).update(constants)
    striker = Striker(Path(run), what, moment)
    if clock_jumps:
        _jump_the_clock()
    if moment and moment[0] == "seconds":
        threading.Timer(moment[1], os.kill, (os.getpid(), SIGNALS[what])).start()
    else:
        sys.addaudithook(striker)
    with Path(said).open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = _told(lambda: main(arguments), file)
        file.flush()
        if what == "count":
            Path(said).write_text(json.dumps(striker.done))
        os._exit(code)  # a timer that has not struck is not waited for


def _told(run: Callable[[], int], file: Any) -> int:
    """The command's exit code; 1 for a traceback, which is written down."""
    import traceback

    try:
        return run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc(file=file)
        return 1
