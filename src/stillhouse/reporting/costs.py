"""What the report shows of cost."""

from collections.abc import Callable, Sequence

from stillhouse.core.results import FLOPS_CONTEXT, Cost, EvaluationResult, Interval, ModelResult
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table, model_row
from stillhouse.reporting.verdicts import models_in_order

CostColumn = tuple[str, str, Callable[[Cost], float | Interval | None], str]
"""Title, what stands below it, the number, and the unit in which a plain number is written."""

COST_COLUMNS: Sequence[CostColumn] = (
    ("parameters", "", lambda cost: cost.parameters, ""),
    ("without embeddings", "", lambda cost: cost.parameters_without_embeddings, ""),
    ("on disk", "", lambda cost: cost.disk_bytes, "B"),
    ("FLOPs a token", f"behind {FLOPS_CONTEXT}", lambda cost: cost.flops_per_token, ""),
    ("peak memory", "weights and work", lambda cost: cost.peak_bytes, "B"),
    ("prefill", "tokens/s, higher is better", lambda cost: cost.prefill_tokens_per_second, ""),
    ("decode", "tokens/s, higher is better", lambda cost: cost.decode_tokens_per_second, ""),
    ("one token", "ms, median", lambda cost: cost.token_milliseconds, ""),
    ("slow token", "ms, 95th percentile", lambda cost: cost.slow_token_milliseconds, ""),
    ("one document", "ms, lower is better", lambda cost: cost.document_milliseconds, ""),
)


def cost_view(result: EvaluationResult) -> Prose:
    """The whole section."""
    return Prose(tables=[cost_table(result)])


def cost_table(result: EvaluationResult) -> Table:
    """What each model costs to keep and to run: the columns that were measured."""
    models = models_in_order(result)
    columns = [column for column in COST_COLUMNS if any(column[2](model.cost) is not None for model in models)]
    most = {column[0]: max((_plain(column[2](model.cost)) for model in models), default=0.0) for column in columns}

    def row(model: ModelResult) -> Row:
        return model_row(model, [_cost_cell(model.cost, column, most[column[0]]) for column in columns])

    return Table(
        caption="Cost on the machine named under environment; bars compare the models in each column.",
        corner="model",
        columns=[(title, below) for title, below, _, _ in columns],
        rows=[row(model) for model in models],
    )


def _plain(found: float | Interval | None) -> float:
    return found.value if isinstance(found, Interval) else float(found or 0)


def _cost_cell(cost: Cost, column: CostColumn, most: float) -> Cell:
    _, _, value, unit = column
    found = value(cost)
    if found is None:
        return Cell("-")
    share = _plain(found) / most if most > 0 else 0.0
    bar = round(100 * min(1.0, max(0.0, share)), 1) if share == share else None
    if isinstance(found, Interval):
        return Cell(formatting.value_text(found, ""), formatting.bounds_text(found, ""), bar=bar)
    return Cell(formatting.si(found, unit), bar=bar)
