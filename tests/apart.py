"""Processes beside that of the tests, which need not import everything anew."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def processes() -> ForkServerContext:
    """Processes that have already imported what a start spends nearly all of its time on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stillhouse.commands.run", "stillhouse.commands.stages.reporting"])
    return context
