"""How long work says how far it is. The terminal's live view and plain lines both stand behind this."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Told about stages and steps; shows them however it likes."""

    def stage(self, name: str, detail: str = "") -> None:
        """A named stage of the run begins."""

    def start(self, title: str, total: int, unit: str = "") -> None:
        """Work of `total` units begins; the time left is counted from here."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units are done; `note` is a short live figure such as `loss 1.23`."""

    def finish(self) -> None:
        """The work begun by `start` has ended."""

    def say(self, text: str) -> None:
        """One line that stays on the screen."""


@runtime_checkable
class Follows(Protocol):
    """A progress that also wants to know which run it shows, to read what is written there."""

    def follow(self, run: Path) -> None:
        """What comes now is this run's."""


class Silent:
    """Says nothing: the default of every library function."""

    def stage(self, name: str, detail: str = "") -> None: ...
    def start(self, title: str, total: int, unit: str = "") -> None: ...
    def advance(self, amount: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Inside:
    """For a run inside a stage of another: its stages are that stage's work, and are said, not announced."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.start, self.advance, self.finish, self.say = (
            progress.start,
            progress.advance,
            progress.finish,
            progress.say,
        )

    def stage(self, name: str, detail: str = "") -> None:
        """One line among those of the stage that it is inside of."""
        self._progress.say(detail or name)


SILENT = Silent()


@contextmanager
def working(progress: Progress, title: str, total: int, unit: str = "") -> Iterator[Progress]:
    """`start` on entry, `finish` on exit, whatever happens in between."""
    progress.start(title, total, unit)
    try:
        yield progress
    finally:
        progress.finish()
