"""`stillhouse watch`: a run in a browser while it goes on. Reads the run folder, and writes nothing."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.commands.local_server import Reply, as_json, serve
from stillhouse.core.config import read_recipe
from stillhouse.core.errors import RunError, StillhouseError
from stillhouse.core.following import Follower
from stillhouse.core.run import RunFolder
from stillhouse.reporting.watching import render_watch, watch_parts, watched


def show(run: str, *, port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        StillhouseError: if there is no such run, or no such port.
    """
    folder = RunFolder(Path(run))
    if not folder.recipe.is_file():
        raise RunError(f"{run!r} is no run folder: it has no recipe.yaml. Name the folder that a recipe's `run` names.")
    serve(Watching(folder), port=port, what=f"watching {run}")


class Watching:
    """The pages of a run: `/` is all of it, `/now` what a page that is open asks for."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.follower, self.lock = folder, Follower(folder.path), threading.Lock()

    def get(self, path: str) -> Reply | None:
        match path:
            case "/":
                return Reply(render_watch(self._known()).encode())
            case "/now":
                return as_json(watch_parts(self._known()))
            case "/report.html" if self.folder.report.is_file():
                return Reply(self.folder.report.read_bytes())
        return None

    def post(self, path: str, body: Mapping[str, Any]) -> Reply | None:
        return None

    def _known(self) -> Any:
        teacher, student = _models(self.folder)
        with self.lock:
            return watched(
                self.follower.look(),
                title=self.folder.path.resolve().name,
                teacher=teacher,
                student=student,
                has_report=self.folder.report.is_file(),
            )


def _models(folder: RunFolder) -> tuple[str, str]:
    """How teacher and student are called in the recipe."""
    try:
        recipe = read_recipe(folder.recipe, [])
    except StillhouseError:
        return "", ""
    teacher, student = (recipe.get(who) or {} for who in ("teacher", "student"))
    asked = [f"{name} {student[name]}" for name in ("keep", "layers") if student.get(name)]
    asked += [_called(str(student["model"]))] if student.get("model") else []
    return _called(str(teacher.get("model", ""))), ", ".join(
        [str(student.get("kind", "")).replace("_", " "), *asked]
    ).strip(", ")


def _called(name: str) -> str:
    """A hub id is a name; of a path, only its end is."""
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") or Path(name).exists() else name
