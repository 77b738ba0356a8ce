"""Alarms of a run, and what its training had to give up: said once, in the terminal and in `events.jsonl`, and read again."""

from collections.abc import Callable, Mapping
from typing import Any

from stillhouse.core.files import read_lines
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.training.alarms import alarms
from stillhouse.training.rescue import ROWS_AT_ONCE, SKIPPED, Tell

LogLine = Callable[[Mapping[str, float]], None]


def alarming(log_line: LogLine, run: RunFolder, progress: Progress, *, arm: str, most_tokens: int) -> LogLine:
    """The same log, which looks at every step of this arm and says what has gone wrong since the step before."""
    lines = [line for line in run.metric_lines() if line.get("arm") == arm]
    steps = [{name: value for name, value in line.items() if name != "arm"} for line in lines]
    before = alarms(steps, most_tokens=most_tokens).keys()

    def log(line: Mapping[str, float]) -> None:
        nonlocal before
        log_line(line)
        steps.append(dict(line))
        found = alarms(steps, most_tokens=most_tokens)
        for name in found.keys() - before:
            sound(run, progress, {"step": int(line["step"]), "alarm": name, "says": found[name]})
        before = found.keys()

    return log


def sound(run: RunFolder, progress: Progress, alarm: Mapping[str, Any]) -> None:
    """A step that is done again after a kill is not told of again."""
    if dict(alarm) not in alarms_of(run):
        run.event("alarm", **alarm)
        progress.say(f"alarm in step {alarm['step']}: {alarm['says']}")


def alarms_of(run: RunFolder) -> list[dict[str, Any]]:
    """All that were said: `step`, `alarm`, and what it `says`."""
    lines = read_lines(run.path / "events.jsonl")
    return [{name: line[name] for name in ("step", "alarm", "says")} for line in lines if line["event"] == "alarm"]


def telling(run: RunFolder, progress: Progress, *, arm: str) -> Tell:
    """Who is told that this arm's micro-batches were halved, or a step of it skipped; once, also if it is done again."""

    def tell(event: str, says: str, /, **details: Any) -> None:
        if not any(line["event"] == event and line.get("says") == says for line in _of_arm(run, arm)):
            run.event(event, arm=arm, **details, says=says)
            progress.say(says)

    return tell


def given_up(run: RunFolder, arm: str) -> dict[str, Any]:
    """What a stage's record says of it; nothing where all went as the recipe says."""
    lines = _of_arm(run, arm)
    rows = [line["rows_at_once"] for line in lines if line["event"] == "halved"]
    skipped = sorted({line["step"] for line in lines if line["event"] == "skipped"})
    return ({ROWS_AT_ONCE: min(rows)} if rows else {}) | ({SKIPPED: skipped} if skipped else {})


def _of_arm(run: RunFolder, arm: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(run.path / "events.jsonl") if line.get("arm") == arm]
