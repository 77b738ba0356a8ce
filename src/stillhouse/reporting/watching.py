"""The page of a run that goes on: where it stands, its curves, its alarms, its last samples."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from stillhouse.core.following import Followed
from stillhouse.core.life import Counted
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import CurvePanel, curve_panels, series, shown_terms, term_title, trend
from stillhouse.reporting.html import TEMPLATES, rendered
from stillhouse.reporting.samples import SamplesView, sample_views
from stillhouse.reporting.verdicts import SHORT_TITLES

PARTS = ("hero", "tiles", "alarms", "curves", "samples", "stages")


@dataclass(frozen=True)
class LiveTile:
    """One large figure."""

    name: str
    value: str
    unit: str
    label: str
    detail: str = ""


@dataclass(frozen=True)
class StageView:
    """A stage that has begun."""

    title: str
    state: str
    detail: str


@dataclass(frozen=True)
class Watched:
    """Everything on the page."""

    title: str
    teacher: str
    student: str
    state: str
    lead: str
    share: float | None
    """Of the work under way, in percent."""
    bar: str
    tiles: Sequence[LiveTile]
    alarms: Sequence[tuple[int, str]]
    panels: Sequence[CurvePanel]
    samples: SamplesView | None
    sampled: str
    stages: Sequence[StageView]
    has_report: bool


def watched(known: Followed, *, title: str, teacher: str, student: str, has_report: bool) -> Watched:
    """The page of what is known now."""
    work = known.now.work[-1] if known.now.work else None
    views = sample_views(known.samples)
    when = "after training" if known.sampled_step is None else f"after step {known.sampled_step:,}"
    return Watched(
        title=formatting.one_line(title),
        teacher=formatting.one_line(teacher),
        student=formatting.one_line(student),
        state=known.now.state,
        lead=_lead(known, work),
        share=None if work is None or not work.total else min(100.0, round(100 * work.done / work.total, 2)),
        bar=_bar(work),
        tiles=_tiles(known),
        alarms=[(int(alarm["step"]), formatting.one_line(str(alarm["says"]))) for alarm in reversed(known.alarms)],
        panels=curve_panels(known.curves),
        samples=SamplesView(views, "") if views else None,
        sampled=when,
        stages=_stages(known),
        has_report=has_report,
    )


def _lead(known: Followed, work: Counted | None) -> str:
    now = known.now
    match now.state:
        case "working" if work is not None:
            left = f": {formatting.duration(work.seconds_left)} left" if work.seconds_left else ""
            return f"{_sentence(work.title)}{left}."
        case "working":
            return f"{_sentence(now.detail or now.stage or 'The run has begun')}."
        case "ended":
            return "The run has ended." if not known.stages else "The run has ended, and everything is done."
    unfinished = [stage.name for stage in known.stages.values() if stage.seconds is None]
    if unfinished:
        return f"Stopped during {_words(unfinished[-1])}. The same command goes on from there."
    return "Nothing works here now."


def _sentence(words: str) -> str:
    clean = formatting.one_line(words)
    return clean[:1].upper() + clean[1:]


def _words(name: str) -> str:
    return formatting.one_line(name.replace("_", " "))


def _who(arm: str) -> str:
    titles: Mapping[str, str] = {str(role): title for role, title in SHORT_TITLES.items()}
    return titles.get(arm, _words(arm))


def _bar(work: Counted | None) -> str:
    if work is None:
        return ""
    unit = formatting.one_line(work.unit)
    speed = f", {formatting.significant(work.rate)} {unit or 'steps'}/s" if work.rate > 0 else ""
    return f"{formatting.count(work.done)} of {formatting.count(work.total)} {unit}".rstrip() + speed


def _tiles(known: Followed) -> list[LiveTile]:
    done = known.now.state != "working" and "student" in known.curves
    arm = "student" if done else known.arm
    steps = known.curves.get(arm, [])
    found: list[LiveTile] = []
    for name in [name for name in shown_terms({"": steps}) if name != "learning_rate"][:1]:
        smooth = [y for _, y in trend(series(steps, name))]
        if smooth:
            title, _, unit = term_title(name).partition(", ")
            first = f"{formatting.significant(smooth[0])} at first"
            value = formatting.significant(smooth[-1]) if abs(smooth[-1]) >= 1e-3 else formatting.short(smooth[-1])
            found.append(LiveTile("learning", value, unit, title, f"{_who(arm)}; {first}"))
    if speed := known.tokens_per_second:
        found.append(LiveTile("speed", formatting.significant(speed), "tokens/s", "learnt from, of late"))
    if steps and "tokens" in steps[-1]:
        value, _, prefix = formatting.count(steps[-1]["tokens"]).partition(" ")
        detail = f"in {formatting.count(steps[-1]['step'])} steps"
        found.append(LiveTile("read", value, prefix, "tokens learnt from", detail))
    memory = known.now.memory
    if memory.resident and known.now.state == "working":
        value, _, unit = formatting.si(memory.resident, "B").partition(" ")
        detail = f"{formatting.si(known.now.peak_bytes, 'B')} at most"
        gpu = f"; {formatting.si(memory.accelerator, 'B')} of the GPU's" if memory.accelerator else ""
        found.append(LiveTile("memory", value, unit, "held by the process", detail + gpu))
    return found


def _stages(known: Followed) -> list[StageView]:
    found: list[StageView] = []
    for stage in known.stages.values():
        if stage.borrowed_from:
            view = StageView(_words(stage.name), "done", f"taken over from {formatting.one_line(stage.borrowed_from)}")
        elif stage.seconds is not None:
            view = StageView(_words(stage.name), "done", formatting.duration(stage.seconds))
        else:
            is_on = known.now.state == "working"
            view = StageView(_words(stage.name), "on" if is_on else "stopped", "under way" if is_on else "stopped")
        found.append(view)
    return found


def render_watch(page: Watched) -> str:
    """The whole page."""
    return live_page("watch", page=page, parts=PARTS)


def watch_parts(page: Watched) -> dict[str, str]:
    """Each part of the page as it is now, and its title."""
    parts = {name: rendered("watch_parts.html.jinja", page=page, part=name) for name in PARTS}
    return {"title": page.title, **parts}


def live_page(name: str, **values: object) -> str:
    """A page whose own script talks with the server that it came from, and with nobody else."""
    from markupsafe import Markup

    script, digest = _script(name)
    return rendered(f"{name}.html.jinja", live_script=Markup(script), live_hash=Markup(digest), **values)


@cache
def _script(name: str) -> tuple[str, str]:
    script = (TEMPLATES / f"{name}.js").read_text(encoding="utf-8")
    return script, f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
