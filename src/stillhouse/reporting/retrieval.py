"""What is said of a retriever: its report, its model card, and the lines in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.results import Interval
from stillhouse.core.retrieval_results import AGREEMENT, QUALITY, RetrievalResult, RetrieverResult
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import curve_panels
from stillhouse.reporting.html import rendered, write_whole
from stillhouse.reporting.page import Page
from stillhouse.reporting.plans import plan_view
from stillhouse.reporting.sections import RecipeView, Shown
from stillhouse.reporting.shapes import Cell, Facts, Prose, Row, Table
from stillhouse.reporting.verdicts import Finding, Outcome

HEADLINE = "ndcg@10"
OTHERS: Mapping[str, str] = {
    "bm25": "BM25",
    "student_before": "the student before training",
    "student_imitating": "the student after imitation alone",
}
"""What a retriever has to be better than, and how it is called in a sentence."""


@dataclass(frozen=True)
class RetrievalAccount:
    """Everything that a report of a retriever is made from."""

    title: str
    result: RetrievalResult
    teacher: str
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    scales: Mapping[str, Any]
    mining: Mapping[str, Any]
    recipe_yaml: str
    stages: Sequence[Mapping[str, Any]]
    documents: Mapping[str, int]
    plan: Mapping[str, Any]
    """By how much it was wrong, where there was one."""


def write_retrieval_report(path: Path, account: RetrievalAccount) -> None:
    """`report.html`, whole or not at all."""
    write_whole(path, rendered("report.html.jinja", page=retrieval_page(account)))


def retrieval_page(account: RetrievalAccount) -> Page:
    """The whole page."""
    return Page(
        title=formatting.one_line(account.title),
        teacher=formatting.one_line(account.teacher),
        student=account.title,
        lead=lead_of(account.result),
        findings=findings_of(account.result),
        figures=(),
        tiles=(),
        sections=list(_sections(account)),
    )


def lead_of(result: RetrievalResult) -> str:
    """The one sentence to remember."""
    student = result.of("student").metrics[HEADLINE]
    share = formatting.interval_text(result.shares[HEADLINE], "share")
    of = f"{formatting.count(result.questions)} held-out questions over {formatting.count(result.passages)} passages"
    return f"On {of}, the student reaches nDCG@10 of {_written(student)}: {share} of its teacher's."


def findings_of(result: RetrievalResult) -> list[Finding]:
    """What was gained over BM25 and over the student before training, by nDCG@10."""
    return [
        Finding(_outcome(one.difference), _beside(one.difference, OTHERS[one.other]))
        for one in result.differences
        if one.metric == HEADLINE and one.other in OTHERS
    ]


def _outcome(difference: Interval) -> Outcome:
    if difference.low > 0:
        return "gain"
    return "worse" if difference.high < 0 else "none"


def _beside(difference: Interval, other: str) -> str:
    words = {"gain": "better than", "worse": "worse than", "none": "not shown to differ from"}[_outcome(difference)]
    return f"The student's nDCG@10 is {words} that of {other}: by {_written(difference)}, over the same questions."


def _written(interval: Interval) -> str:
    """To three places, with its bounds."""
    value, low, high = (formatting.number(one, 3) for one in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _sections(account: RetrievalAccount) -> Iterator[Shown]:
    def shown(name: str, title: str, link: str, view: object, template: str = "prose") -> Shown:
        return Shown(name, title, link, f"sections/{template}.html.jinja", view)

    yield shown(
        "quality", "Quality", "Quality", Prose(tables=[quality_table(account.result)], notes=_quality_notes(account))
    )
    yield shown(
        "agreement",
        "Beside the teacher's ranking",
        "Agreement",
        Prose(tables=[agreement_table(account.result)], notes=AGREEMENT_NOTES),
    )
    yield shown("cost", "Cost", "Cost", Prose(tables=[cost_table(account.result)], notes=COST_NOTES))
    if panels := curve_panels(account.curves):
        yield shown("training", "Training", "Training", panels, "training")
    yield shown("scales", "Scales, before training", "Scales", scales_view(account.scales))
    yield shown("data", "Documents, questions, negatives", "Data", data_facts(account), "data")
    yield shown("recipe", "Recipe", "Recipe", RecipeView("", formatting.clean(account.recipe_yaml)), "recipe")
    if (view := plan_view(account.plan)) is not None:
        yield shown("plan", "What was planned", "Plan", view)


def quality_table(result: RetrievalResult) -> Table:
    """Every retriever by every measure of quality."""
    best = {name: max(one.metrics[name].value for one in result.retrievers) for name in QUALITY}
    return Table(
        caption=f"{formatting.count(result.questions)} held-out questions, 95 % intervals over questions. Higher is better.",
        corner="retriever",
        columns=[(title, "") for title in QUALITY.values()],
        rows=[
            _row(one, [_cell(one.metrics[name], is_best=one.metrics[name].value == best[name]) for name in QUALITY])
            for one in result.retrievers
        ],
    )


def agreement_table(result: RetrievalResult) -> Table:
    """How much each retriever finds as the teacher does."""
    below = {"margin_error": "lower is better"}
    return Table(
        caption="Against the teacher's own ranking of the same passages, whatever is relevant.",
        corner="retriever",
        columns=[(title, below.get(name, "")) for name, title in AGREEMENT.items()],
        rows=[
            _row(one, [_cell(one.agreement[name]) if name in one.agreement else Cell("-") for name in AGREEMENT])
            for one in result.retrievers
            if one.agreement
        ],
    )


AGREEMENT_NOTES = (
    "Top 10 in common: the share of the teacher's first ten that the retriever has among its own. Rank-biased overlap: the "
    "same at every depth, the first ranks counting most (persistence 0.9). Spearman: of the ranks that both give the teacher's "
    "first twenty. Margin error: how far the margins between these are from the teacher's, once scaled to fit; 0 is the "
    "teacher, 1 no margins.",
)
COST_NOTES = (
    "Queries are timed one at a time, embedding and search together; passages one at a time, embedding alone: the median of "
    "three rounds, and the slowest and fastest. The size is that of embeddings, and of the approximate search's graph where "
    "there is one.",
)


def cost_table(result: RetrievalResult) -> Table:
    """What each retriever costs to ask and to keep."""
    return Table(
        caption="On the machine that the run was made on.",
        corner="retriever",
        columns=[("queries a second", ""), ("passages a second", ""), ("index", ""), ("parameters", "")],
        rows=[_row(one, _costs(one)) for one in result.retrievers],
    )


def _costs(one: RetrieverResult) -> list[Cell]:
    speeds = [
        Cell("-")
        if found is None
        else Cell(
            formatting.significant(found.value),
            f"{formatting.significant(found.low)} to {formatting.significant(found.high)}",
        )
        for found in (one.queries_per_second, one.passages_per_second)
    ]
    size = Cell("-" if one.index_bytes is None else formatting.si(one.index_bytes, "B"))
    return [*speeds, size, Cell("-" if one.parameters is None else formatting.si(one.parameters))]


def _row(one: RetrieverResult, cells: Sequence[Cell]) -> Row:
    role = one.name if one.name in ("teacher", "student", "student_before") else "control_hard_labels"
    return Row(one.title, formatting.one_line(one.detail), role, cells)


def _cell(interval: Interval, *, is_best: bool = False) -> Cell:
    low, high = formatting.number(interval.low, 3), formatting.number(interval.high, 3)
    return Cell(formatting.number(interval.value, 3), f"[{low}, {high}]", is_best=is_best)


def _quality_notes(account: RetrievalAccount) -> list[str]:
    same = (
        "A passage with the question's own id was taken out of what was found."
        if account.result.ignores_same_id
        else ("A passage with the question's own id counts like any other.")
    )
    return [f"nDCG with grades, MAP and recall by trec_eval's own code; MRR stops at rank 10. {same}"]


def scales_view(scales: Mapping[str, Any]) -> Prose:
    """Both sides' scores before training, and what was advised."""
    sides = {"teacher": scales["teacher"], "student before training": scales["student"]}
    columns = ("deviation", "reach", "margin", "temperature", "candidates", "proposed")
    titles = {"candidates": "chosen between", "proposed": "proposed temperature"}
    rows = [
        Row(name, "", name.partition(" ")[0], [Cell(formatting.short(float(side[column]))) for column in columns])
        for name, side in sides.items()
    ]
    table = Table(
        caption=f"Scores of the same candidates; the teacher's are {scales['output']}.",
        corner="side",
        columns=[(titles.get(column, column), "") for column in columns],
        rows=rows,
    )
    advice = scales["advice"] or ["Scales and temperatures fit each other."]
    return Prose(lines=advice, tables=[table], notes=[SCALES_NOTE])


SCALES_NOTE = (
    "Of a question's candidates: standard deviation, highest less lowest, and the positive less the others; how many the "
    "softmax at the temperature in use really chooses between; and the temperature at which its entropy is half of what equal "
    "candidates have."
)


def data_facts(account: RetrievalAccount) -> list[Facts]:
    """What was learnt from."""
    of, mined = account.documents, account.mining
    sources = [
        ("documents", formatting.count(of["documents"])),
        ("without text", formatting.count(of["empty"])),
        ("passages", formatting.count(account.result.passages)),
        ("said twice, kept once", formatting.count(of["duplicates"])),
    ]
    asked = [
        ("learnt from", formatting.count(of["questions"])),
        ("held out", formatting.count(account.result.questions)),
        ("candidates scored", formatting.count(mined["candidates"])),
        ("taken for answers, left out", formatting.count(mined["taken_for_answers"])),
        ("filled up at random", formatting.count(mined["filled_up"])),
    ]
    times = [(str(one["name"]), formatting.duration(float(one["seconds"]))) for one in account.stages]
    return [Facts("Documents", sources), Facts("Questions and negatives", asked), Facts("Stages", times)]


def retrieval_lines(result: RetrievalResult) -> list[str]:
    """What the terminal says in the end."""
    widest = max(len(one.title) for one in result.retrievers)
    names = list(QUALITY)
    head = " " * widest + "".join(f"{QUALITY[name]:>24}" for name in names)
    rows = [
        f"{one.title:<{widest}}" + "".join(f"{_written(one.metrics[name]):>24}" for name in names)
        for one in result.retrievers
    ]
    return [head, *rows, "", lead_of(result), *(finding.text for finding in findings_of(result))]


def write_retrieval_card(path: Path, account: RetrievalAccount) -> None:
    """The student's model card, whole or not at all."""
    result = account.result
    rows = [
        f"| {one.title} | " + " | ".join(_written(one.metrics[name]) for name in QUALITY) + " |"
        for one in result.retrievers
    ]
    lines = [
        "---",
        "library_name: sentence-transformers",
        "tags: [sentence-transformers, distillation, retrieval, stillhouse]",
        "---",
        "",
        f"# {formatting.one_line(account.title)}",
        "",
        f"A retriever, distilled with stillhouse from {formatting.one_line(account.teacher)}. {lead_of(result)}",
        "",
        "| | " + " | ".join(QUALITY.values()) + " |",
        "|---" * (len(QUALITY) + 1) + "|",
        *rows,
        "",
        "95 % intervals over questions. How it does on other documents was not measured.",
        "",
        "```yaml",
        account.recipe_yaml.rstrip(),
        "```",
        "",
    ]
    write_whole(path, "\n".join(lines))
