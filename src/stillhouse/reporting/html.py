"""`report.html`: one file for people, readable offline, on a telephone and on paper."""

import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from stillhouse.core.results import EvaluationResult
from stillhouse.reporting.account import Account
from stillhouse.reporting.page import page_of
from stillhouse.reporting.verdicts import SHORT_TITLES

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    result: EvaluationResult,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    recipe_yaml: str,
    layers: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    command: str = "",
) -> None:
    """Write the report of one run to `path`, whole or not at all.

    `curves` maps an arm, such as `student` or `control_hard_labels`, to its metrics lines. Under `written`, `data` may hold
    what `data/card.json` says of text that a teacher wrote. Sections for which nothing was given are left out. A `command`
    is shown where no recipe makes the same again. Whatever a model
    wrote is shown as text and can neither run nor fetch anything.
    """
    page = render_report(
        title=title,
        result=result,
        curves=curves,
        recipe_yaml=recipe_yaml,
        layers=layers,
        data=data,
        stages=stages,
        command=command,
    )
    write_whole(Path(path), page)


def render_report(
    *,
    title: str,
    result: EvaluationResult,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    recipe_yaml: str,
    layers: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    command: str = "",
) -> str:
    """The report as one string of HTML."""
    page = page_of(Account(title, result, curves, recipe_yaml, layers, data, stages, command))
    return rendered("report.html.jinja", page=page)


def rendered(template: str, **values: object) -> str:
    """One of our templates, with everything in it escaped that is not markup of ours. Only our own script can run."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Any:
    """All of our templates, each compiled once."""
    # jinja2 is imported here so that the terminal's half of this package stays quick to import.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    script = (TEMPLATES / "sift.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    environment.globals.update(script=Markup(script), script_hash=Markup(f"sha256-{digest}"), short_titles=SHORT_TITLES)
    return environment


def typeset(text: str) -> str:
    """Our own ASCII numbers with true minus, multiplication and quotation marks, and spaces that do not break."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "\u2212", text)
    text = text.replace("'", "\u2019")
    text = re.sub(r"(?<=\d)x\b", "\u00d7", text)
    text = re.sub(r"(?<=\d)-(?=\d)", "\u2013", text)
    return re.sub(r"(?<=\d) (?=%|\[|[kMGBT]?B\b|[kMBT]\b|s\b|min\b|h\b)|(?<=,) (?=[\d\u2212.]+\])", "\u00a0", text)


def write_whole(path: Path, text: str) -> None:
    """Write a file by way of a neighbour, so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        neighbour.write_text(text, encoding="utf-8")
        os.replace(neighbour, path)
    finally:
        neighbour.unlink(missing_ok=True)
