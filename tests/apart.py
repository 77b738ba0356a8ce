"""Processes beside that of the tests, which need not import everything anew; and whether there is time for all of them."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext

import pytest

FULL = os.environ.get("STILLHOUSE_FAULTS") == "full"
"""`make faults`: all of it, and the numbers printed. Otherwise the short form, which the suite has time for."""
AT_LENGTH = pytest.mark.skipif(not FULL, reason="takes its time: make faults")


def processes() -> ForkServerContext:
    """Processes that have already imported what a start spends nearly all of its time on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["stillhouse.commands.run", "stillhouse.commands.stages.reporting", "stillhouse.commands.stories.run"]
    )
    return context
