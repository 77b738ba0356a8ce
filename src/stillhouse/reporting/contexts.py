"""What the report, the card and the terminal say of a student that learnt what its teacher alone had read."""

from stillhouse.core.results import ContextResult, EvaluationResult, Kept, Reading, Role, StyleResult
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

METRICS = ("cross_entropy", "bits_per_byte", "forward_kl", "top1_agreement")
TITLES = {"loss": "gain kept, by loss", "kl": "gain kept, by KL"}


def context_view(result: EvaluationResult) -> Prose | None:
    """The whole section; None where teacher and student read the same."""
    found = result.context
    if found is None:
        return None
    tables = [_style_table(style) for style in found.styles]
    return Prose(
        context_lines(found),
        [*tables, *([_drift_table(found)] if found.drift else [])],
        intro="Everywhere else on this page, the teacher has read its context, and nobody else has.",
    )


def context_lines(found: ContextResult) -> list[str]:
    """A line a context, and one of what it cost elsewhere."""
    lines = [_style_line(style) for style in found.styles]
    drift = next((row for row in found.drift if row.role == "student"), None)
    if drift is not None:
        change = formatting.interval_text(drift.change, "share")
        kl = formatting.interval_text(drift.forward_kl, "nats")
        lines.append(
            f"On {formatting.count(found.elsewhere)} held-out conversations about other things, the student's bits per byte "
            f"changed by {change}, and it is {kl} a token from the teacher without any context."
        )
    return lines


def _style_line(style: StyleResult) -> str:
    name = formatting.one_line(style.name)
    saved, gain = formatting.interval_text(style.tokens_saved, ""), formatting.interval_text(style.gain, "nats")
    kept = {row.measure: row for row in style.kept if row.role == "student"}
    line = f"Context {name}: {saved} tokens less to read in each call. It lowers the teacher's loss by {gain} a token"
    if "loss" in kept:
        line += f", and the student, which does not read it, keeps {_share(kept['loss'])} of that."
    else:
        line += ", which is no gain that a student could keep."
    if "kl" in kept:
        way = "of the way from the teacher without the context to the one with it"
        line += f" By KL the student has gone {_share(kept['kl'])} {way}."
    return line


def _share(kept: Kept) -> str:
    return formatting.interval_text(kept.share, "share")


def _style_table(style: StyleResult) -> Table:
    """Every model with the context and without."""
    documents = formatting.count(style.documents)
    columns = [_column(name) for name in METRICS]
    return Table(
        caption=f"With and without context {formatting.one_line(style.name)}: {documents} held-out prompts, 95 % intervals.",
        corner="model",
        columns=[*columns, *((title, "teacher without: 0, with: 100 %") for title in TITLES.values())],
        rows=[_row(style, reading) for reading in sorted(style.readings, key=_place)],
    )


def _place(reading: Reading) -> tuple[int, bool]:
    return ROLE_ORDER.index(reading.role), not reading.reads_context


def _column(name: str) -> tuple[str, str]:
    metric = formatting.describe(name)
    unit = "" if metric.unit in ("share", "bits") else f"{metric.unit}, "
    return metric.title.replace("KL from teacher", "KL from teacher with it"), f"{unit}{metric.better} is better"


def _row(style: StyleResult, reading: Reading) -> Row:
    cells = [_cell(reading, name) for name in METRICS]
    shares = {row.measure: row for row in style.kept if row.role == reading.role and not reading.reads_context}
    cells += [
        Cell(formatting.value_text(shares[m].share, "share"), formatting.bounds_text(shares[m].share, "share"))
        if m in shares
        else Cell("-")
        for m in TITLES
    ]
    return Row(SHORT_TITLES[reading.role], _reads(reading.reads_context), reading.role, cells)


def _reads(reads_context: bool) -> str:
    return "reads the context" if reads_context else "does not read it"


def _cell(reading: Reading, name: str) -> Cell:
    interval, unit = reading.metrics[name], formatting.describe(name).unit
    return Cell(
        formatting.value_text(interval, unit if unit == "share" else ""), formatting.bounds_text(interval, unit)
    )


def _drift_table(found: ContextResult) -> Table:
    def cells(role: Role) -> list[Cell]:
        row = next(row for row in found.drift if row.role == role)
        shown = ((row.forward_kl, ""), (row.bits_per_byte, ""), (row.change, "share"))
        return [Cell(formatting.value_text(i, unit), formatting.bounds_text(i, unit)) for i, unit in shown]

    roles = sorted((row.role for row in found.drift), key=ROLE_ORDER.index)
    return Table(
        caption=f"Elsewhere: {formatting.count(found.elsewhere)} held-out conversations about other things, without context.",
        corner="model",
        columns=[
            ("KL from teacher without it", "nats, lower is better"),
            ("bits per byte", "lower is better"),
            ("change of bits per byte", "over before training; lower is better"),
        ],
        rows=[Row(SHORT_TITLES[role], "", role, cells(role)) for role in roles],
    )
