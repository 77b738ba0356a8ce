"""The page that every report is: what stands at its top, then its sections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.dial import Dial, dial
from stillhouse.reporting.figures import Figure, headline_figures
from stillhouse.reporting.quality import Tile, tiles
from stillhouse.reporting.sections import Shown, sections_of
from stillhouse.reporting.verdicts import Finding, findings, lead


@dataclass(frozen=True)
class Page:
    """Everything on the page, top to bottom."""

    title: str
    teacher: str
    student: str
    lead: str
    findings: Sequence[Finding]
    figures: Sequence[Figure]
    tiles: Sequence[Tile]
    sections: Sequence[Shown]
    dial: Dial | None = None
    kind: str = "Distillation report"
    """What stands above the title."""
    others: str = "Against the controls"
    """What the findings are about, for whoever hears the page."""


def page_of(account: Account) -> Page:
    """The whole page."""
    result = account.result
    names = {model.role: formatting.one_line(model.name) for model in result.models}
    page = Page(
        title=formatting.one_line(account.title),
        teacher=names.get("teacher", ""),
        student=names.get("student", ""),
        lead=lead(result),
        findings=findings(result),
        figures=headline_figures(result),
        tiles=tiles(result),
        dial=dial(result),
        sections=sections_of(account),
    )
    strangers = replace(page, kind="Two models beside each other", others="Against other models")
    return page if result.made_here else strangers
