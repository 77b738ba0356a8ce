"""A run as it grows: its numbers, its events and its samples, each line read once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillhouse.core.life import Now, now_of
from stillhouse.core.results import Role, Sample

WINDOW = 50
"""Steps that the tokens of a step are counted over."""
SAMPLES = 3
ANSWERS = "held_out_answers.jsonl"
"""What teacher and student said to held-out prompts while the student learnt, where a recipe asks for that."""


class Tail:
    """The lines of a `.jsonl` file that have come since one last looked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._read_bytes, self._rest = 0, 0, b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """New whole lines, and whether these are all: the file is written anew where a killed run goes on."""
        try:
            with self.path.open("rb") as file:
                stat = self.path.stat()
                is_new = stat.st_ino != self._file or stat.st_size < self._read_bytes
                if is_new:
                    self._file, self._read_bytes, self._rest = stat.st_ino, 0, b""
                file.seek(self._read_bytes)
                found = file.read()
        except OSError:
            return [], False
        self._read_bytes += len(found)
        *whole, self._rest = (self._rest + found).split(b"\n")
        return [line for line in map(_object, whole) if line], is_new


def _object(line: bytes) -> dict[str, Any]:
    """Who looks on shows what can be read, and leaves it to others to complain."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass
class Stage:
    """A stage that has begun."""

    name: str
    seconds: float | None = None
    """How long it took; None where it has not ended."""
    borrowed_from: str = ""


@dataclass
class Followed:
    """What is known of a run now."""

    now: Now = field(default_factory=Now)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The training steps of each arm."""
    arm: str = ""
    """Whose step came last."""
    num_steps: int = 0
    """Steps that were read in all."""
    stages: dict[str, Stage] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    samples: Sequence[Sample] = ()
    sampled_step: int | None = None
    """After which step the samples were written; None for those of the evaluation."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of the arm that learns; None where none does."""
        steps = self.curves.get(self.arm, [])
        if not self.now.work or self.now.work[0].unit != "steps":
            return None
        return tokens_per_step(steps) * self.now.work[0].rate or None


def tokens_per_step(steps: Sequence[Mapping[str, float]]) -> float:
    """Of late; 0 where it is not known."""
    last = steps[-WINDOW:]
    if len(last) < 2 or last[-1]["step"] == last[0]["step"]:
        return float(last[0].get("tokens", 0.0)) if last else 0.0
    return float((last[-1]["tokens"] - last[0]["tokens"]) / (last[-1]["step"] - last[0]["step"]))


class Follower:
    """Looks at a run folder, as often as one likes."""

    def __init__(self, run: Path) -> None:
        self.run, self.known = run, Followed()
        self._metrics, self._events = Tail(run / "metrics.jsonl"), Tail(run / "events.jsonl")
        self._answers = Tail(run / ANSWERS)
        self._said: list[dict[str, Any]] = []
        self._evaluated_ns = 0

    def look(self) -> Followed:
        """What is known now: only what is new is read."""
        self.known.now = now_of(self.run)
        self._count()
        self._hear()
        self._listen()
        return self.known

    def _count(self) -> None:
        lines, is_new = self._metrics.read()
        if is_new:
            self.known.curves = {}
        for line in lines:
            if isinstance(line.get("arm"), str) and "step" in line:
                self.known.arm = line["arm"]
                self.known.num_steps += 1
                self.known.curves.setdefault(line["arm"], []).append(
                    {name: value for name, value in line.items() if name != "arm"}
                )

    def _hear(self) -> None:
        lines, is_new = self._events.read()
        if is_new:
            self.known.stages, self.known.alarms = {}, []
        for line in lines:
            match line:
                case {"event": "started" | "resumed", "stage": str(name)}:
                    self.known.stages[name] = Stage(name)
                case {"event": "finished", "stage": str(name), "seconds": float() | int() as seconds}:
                    self.known.stages[name] = Stage(name, seconds)
                case {"event": "borrowed", "stage": str(name), "lender": str(lender)}:
                    self.known.stages[name] = Stage(name, 0.0, lender)
                case {"event": "alarm", "step": _, "says": _}:
                    self.known.alarms.append(line)

    def _listen(self) -> None:
        lines, is_new = self._answers.read()
        self._said = [] if is_new else self._said
        self._said += [line for line in lines if line.get("who") in ("teacher", "student")]
        if lines:
            self.known.samples, self.known.sampled_step = samples_of(self._said)
        evaluated = self.run / "stages" / "evaluate.json"
        try:
            changed_ns = evaluated.stat().st_mtime_ns
            if changed_ns != self._evaluated_ns:
                self._evaluated_ns = changed_ns
                samples = json.loads(evaluated.read_text(encoding="utf-8"))["result"]["samples"]
                self.known.samples = [Sample(one["prompt"], one["continuations"]) for one in samples[:SAMPLES]]
                self.known.sampled_step = None
        except (OSError, ValueError, KeyError, TypeError):
            return


def samples_of(said: Sequence[Mapping[str, Any]]) -> tuple[list[Sample], int | None]:
    """The answers of the last step in which the student was asked, each beside the teacher's to the same prompt."""
    theirs = {line["asked"]: line["answer"] for line in said if line["who"] == "teacher"}
    ours = [line for line in said if line["who"] == "student"]
    last = ours[-1]["step"] if ours else None
    found: list[Sample] = []
    for line in [line for line in ours if line["step"] == last and line["asked"] in theirs][:SAMPLES]:
        written: dict[Role, str] = {"teacher": theirs[line["asked"]], "student": line["answer"]}
        found.append(Sample(line["asked"], written))
    return found, last
