"""What a run is put through, and how it is told that nothing came of it: nothing lost, nothing twice, the same student."""

import importlib.util
import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apart import processes

from stillhouse.core.files import read_lines


def _shared() -> Any:
    """The recipe and the command line of the commands' own tests, which no other folder can import."""
    file = Path(__file__).parents[1] / "commands" / "conftest.py"
    spec = importlib.util.spec_from_file_location("shared_with_commands", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = _shared()
stillhouse = shared.stillhouse

sys.path.append(str(Path(__file__).parent))  # where the fault's own process looks for what it is to do
import victim  # noqa: E402

SECONDS = 240
CODES = {"kill": -signal.SIGKILL, "terminate": 143, "interrupt": 130, "full": 2, "read_only": 2}
"""How a command ends by each fault."""
WORDS = {
    "terminate": "stopped. The same command goes on from here.",
    "interrupt": "stopped. The same command goes on from here.",
    "full": "the disk is full",
    "read_only": "may not be written or read by this user",
}

PLANTED = {
    name: f"hf_planted{number}notforanybody"
    for number, name in enumerate(["HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"])
}
"""Secrets in the environment of every process that suffers."""

Moment = tuple[Any, ...]
TALLY: dict[str, Counter[str]] = {}
"""What was tried, by fault: `tried`, `survived`, `lost` records and those kept `twice`."""


def tally(fault: str, **numbers: int) -> None:
    TALLY.setdefault(fault, Counter()).update({"tried": 1, **numbers})


@dataclass
class Run:
    """A run folder on its way through faults."""

    recipe: Path
    folder: Path
    verb: str = "distill"
    clock_jumps: bool = False
    """Whether the time of day is another whenever it is asked for."""
    faults: list[str] = field(default_factory=list)

    def suffer(self, what: str, moment: Moment = ()) -> int:
        """The command's exit code, with a fault at this moment; one that never struck leaves it 0."""
        said = self.folder.with_name(f"{self.folder.name}.said")
        arguments = (
            [self.verb, str(self.recipe), f"run={self.folder}"],
            str(self.folder),
            what,
            moment,
            str(said),
            PLANTED,
            self.clock_jumps,
        )
        process = processes().Process(target=victim.suffer, args=arguments)
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{what} at {moment}: it hangs")
        self.said = said.read_text() if said.exists() else ""
        code = process.exitcode
        assert "Traceback" not in self.said, f"{what} at {moment}: {self.said}"
        if code != 0:
            assert code == CODES.get(what), f"{what} at {moment}: it ended with {code}: {self.said}"
            assert WORDS.get(what, "") in self.said, f"{what} at {moment}: {self.said}"
            self.faults.append(what)
        return int(code)

    def must_suffer(self, what: str, moment: Moment) -> None:
        """The same of a fault that must strike."""
        assert self.suffer(what, moment) != 0, f"{what} at {moment} never struck"

    def finish(self) -> None:
        """The command once more, and nothing happens."""
        assert self.suffer("none") == 0, self.said


@dataclass(frozen=True)
class Losses:
    """Records that are not there, and those that are there twice."""

    lost: int
    twice: int


def numbers(run: Path) -> list[tuple[tuple[object, ...], list[object]]]:
    """Each line of the metrics, under what it is about."""
    lines = read_lines(run / "metrics.jsonl")
    keys = [(line["arm"], line["step"]) if "arm" in line else (line["evaluated"], line["metric"]) for line in lines]
    return [(key, list(line.values())) for key, line in zip(keys, lines, strict=True)]


def losses(run: Path, undisturbed: Path) -> Losses:
    """Of the data that was written, of all labels and of all numbers, beside a run that nothing disturbed."""
    lost = twice = 0
    for records in (_documents, _labels, numbers):
        here, there = (Counter(map(repr, records(folder))) for folder in (run, undisturbed))
        lost += (there - here).total()
        twice += (here - there).total()
    return Losses(lost, twice)


def _documents(run: Path) -> list[dict[str, Any]]:
    return read_lines(run / "data" / "documents.jsonl")


def _labels(run: Path) -> list[tuple[str, bytes]]:
    return [(file.name, file.read_bytes()) for file in sorted((run / "labels").glob("*.safetensors"))]


def assert_undisturbed(run: Path, undisturbed: Path) -> Losses:
    """Weights bit for bit, and nothing lost, twice or half written."""
    for weights in sorted(undisturbed.rglob("model.safetensors")):
        here = run / weights.relative_to(undisturbed)
        assert here.read_bytes() == weights.read_bytes(), here
    found = losses(run, undisturbed)
    assert found == Losses(0, 0), found
    assert not list(run.rglob("*.part"))
    assert (run / "report.html").exists() == (undisturbed / "report.html").exists()
    return found


def flip_a_bit(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut_short(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(chance.randrange(file.stat().st_size))


def move_the_clock(folder: Path, seconds: float) -> None:
    """As if all that is there had been written at another time."""
    for file in folder.rglob("*"):
        when = file.stat().st_mtime + seconds
        os.utime(file, (when, when))
