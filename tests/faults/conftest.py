"""A run that nothing disturbs, to hold the others beside; and the table of what was tried, where all of it was."""

import os
from pathlib import Path

import pytest

from . import harness
from .harness import shared

recipe, texts_file = shared.recipe, shared.texts_file
kind_recipe, save_teacher = shared.kind_recipe, shared.save_teacher


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> harness.Run:
    """The tiny recipe, run from beginning to end in a process of its own. Look, do not touch."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = harness.Run(shared.write_recipe(folder, teacher_folder), folder / "run")
    assert run.suffer("count") == 0, run.said
    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The numbers of the README's table."""
    if "STILLHOUSE_FAULTS" not in os.environ or not harness.TALLY:
        return
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    write(f"{'fault':44s} {'tried':>9s} {'survived':>9s} {'lost':>6s} {'twice':>6s} {'tracebacks':>10s}")
    for fault, count in harness.TALLY.items():
        figures = [count[name] for name in ("tried", "survived", "lost", "twice", "tracebacks")]
        write(f"{fault:44s} {figures[0]:9,} {figures[1]:9,} {figures[2]:6,} {figures[3]:6,} {figures[4]:10,}")
