"""Look into the wheel and the sdist of dist/, and use what the wheel holds from a folder of its own, away from this clone."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Say what was found; fail on the first thing that is missing."""
    wheel, sdist = only("*.whl"), only("*.tar.gz")
    check_names(wheel.name, zipfile.ZipFile(wheel).namelist(), expected_in_wheel())
    with tarfile.open(sdist) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    recipes = {f"recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    check_names(
        sdist.name, inside, recipes | {"pyproject.toml", "src/stillhouse/py.typed", "tests/conftest.py", "Makefile"}
    )
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        for arguments in (["--version"], ["recipes"], ["recipes", "chat"], ["completion", "bash"]):
            use(folder, arguments)
    print(f"{wheel.name} and {sdist.name} hold what they should, and the wheel answers")
    return 0


def only(pattern: str) -> Path:
    """The one file of this kind."""
    found = sorted((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"dist/{pattern}: one file was expected, and there are {len(found)}. Run make dist.")
    return found[0]


def expected_in_wheel() -> set[str]:
    """Everything below src/stillhouse, and the recipes."""
    package = ROOT / "src" / "stillhouse"
    code = {f"stillhouse/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    recipes = {f"stillhouse/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    return {name for name in code if "__pycache__" not in name} | recipes


def check_names(name: str, inside: list[str], expected: set[str]) -> None:
    """Refuse an archive that lacks something, and a wheel with tests in it."""
    missing = sorted(expected - set(inside))
    if missing:
        raise SystemExit(f"{name} lacks {', '.join(missing[:5])}")
    if name.endswith(".whl") and any(entry.startswith("tests/") for entry in inside):
        raise SystemExit(f"{name} has tests in it")


def use(folder: str, arguments: list[str]) -> None:
    """A command of the unpacked wheel, which must not find the clone."""
    environment = {**os.environ, "PYTHONPATH": folder}
    command = [sys.executable, "-P", "-m", "stillhouse", *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode or not ended.stdout:
        raise SystemExit(f"stillhouse {' '.join(arguments)} from the wheel: {ended.stderr or 'it said nothing'}")


if __name__ == "__main__":
    raise SystemExit(main())
