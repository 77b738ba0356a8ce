"""The door: quick to answer, and in the user's own words when something is wrong."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from safetensors import SafetensorError

from stillhouse import __version__
from stillhouse.cli import VERBS, main
from stillhouse.core.errors import DataError

from .conftest import stillhouse

SHOW_HELP = """
import sys
import time
from stillhouse.cli import main
try:
    main(["--help"])
finally:
    heavy = {"torch", "pydantic", "transformers", "yaml", "numpy", "rich"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", [["--examples", "1", "data.nonsense=1"], ["data.nonsense=1", "--examples", "1"]])
def test_overrides_may_stand_before_and_after_an_option(order, recipe):
    said = stillhouse("inspect", recipe(), *order)
    assert said.code == 2 and "data.nonsense: there is no such key" in said.err


@pytest.mark.parametrize("arguments", [["distill", "recipe.yaml", "--fast"], ["tokenizers", "a", "b", "c"]])
def test_what_no_verb_knows_is_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "unrecognized arguments" in capsys.readouterr().err


def test_help_takes_less_than_half_a_second_of_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = run("-m", "stillhouse", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert all(verb in shown.stdout for verb in VERBS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_imports_nothing_heavy():
    shown = run("-c", SHOW_HELP)
    assert "usage: stillhouse" in shown.stdout
    assert shown.stderr == "[]\n"


def test_the_version_is_that_of_the_package():
    assert run("-m", "stillhouse", "--version").stdout == f"stillhouse {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert VERBS[verb].summary.capitalize() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"), [(["distil", "r.yaml"], "invalid choice: 'distil'"), ([], "VERB"), (["train"], "RECIPE")]
)
def test_a_command_line_that_is_none_ends_with_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


DISK_FULL = "stillhouse: the disk is full. Free some space; the same command goes on from here.\n"
FORBIDDEN = "may not be written or read by this user. Change its permissions, or name run=FOLDER.\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("data.path 'x': nothing."), "stillhouse: data.path 'x': nothing.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DISK_FULL),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), DISK_FULL.replace("full", "full (/runs/x)")),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), DISK_FULL),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"), DISK_FULL),
        (RuntimeError("basic_ios::clear: iostream error"), DISK_FULL),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), DISK_FULL),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/x"),
            f"stillhouse: /runs/x {FORBIDDEN}",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/x"),
            f"stillhouse: /runs/x {FORBIDDEN}",
        ),
        (
            SafetensorError("I/O error: Read-only file system (os error 30)"),
            f"stillhouse: a file of this run {FORBIDDEN}",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(monkeypatch, error, said):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("stillhouse.commands.run.run", fail)
    ended = stillhouse("distill", "recipe.yaml")
    assert (ended.code, ended.out, ended.err) == (2, "", said)


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("shapes do not match"), FileNotFoundError(2, "gone", "x")]
)
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("stillhouse.commands.run.run", fail)
    with pytest.raises(type(error)):
        stillhouse("distill", "recipe.yaml")


def test_a_users_own_settings_of_libraries_stay(monkeypatch, finished):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    stillhouse("distill", finished.recipe)
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["GOMP_SPINCOUNT"] == "2000"


def test_what_a_scheduler_sends_before_it_kills_ends_a_command_as_ctrl_c_does(monkeypatch):
    undone = []

    def terminated(*_args, **_options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            undone.append("put in order")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("stillhouse.commands.run.run", terminated)
    ended = stillhouse("distill", "recipe.yaml")
    assert (ended.code, ended.out) == (143, "")
    assert ended.err == "\nstopped. The same command goes on from here.\n"
    assert undone == ["put in order"]
    assert signal.getsignal(signal.SIGTERM) == before
