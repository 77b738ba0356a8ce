import math
import re
from dataclasses import replace

import numpy as np
import pytest

from stillhouse.core.errors import DataError
from stillhouse.core.results import EvaluationResult, Interval
from stillhouse.reporting.pareto import Candidate, pareto_panel, undominated
from stillhouse.reporting.runs import RunEntry, render_runs
from stillhouse.reporting.seeds import combined


def shifted(result: EvaluationResult, by: float, *, speed: float = 1.0, name: str = "metrics") -> EvaluationResult:
    """The same result with another agreement, and a student that is faster or slower."""

    def changed(model):
        one = model.metrics["top1_agreement"]
        moved = Interval(one.value + by, one.low + by, one.high + by)
        rate = model.cost.decode_tokens_per_second
        cost = replace(model.cost, decode_tokens_per_second=Interval(speed * rate.value, rate.low, rate.high))
        return replace(model, metrics={**model.metrics, "top1_agreement": moved}, cost=cost)

    models = [changed(model) if model.role == "student" else model for model in result.models]
    return replace(result, models=models)


@pytest.mark.parametrize("num_runs", [1, 2, 10])
def test_any_number_of_runs_renders(result, num_runs):
    runs = [RunEntry(f"run <{n}>", shifted(result, 0.01 * n, speed=1 + n)) for n in range(num_runs)]
    page = render_runs(title="<b>runs</b>", runs=runs)
    assert page.count("run &lt;") >= num_runs
    assert "<b>runs</b>" not in page
    assert page.count('class="point') == (0 if num_runs == 1 else 2 * num_runs)
    assert not re.search("nan|None", re.sub("<(style|script)>.*?</.*?>", "", page, flags=re.S))


def test_more_runs_than_can_be_told_apart_are_bounded_and_said(result):
    page = render_runs(title="many", runs=[RunEntry(f"run {n}", result) for n in range(100)])
    assert "the first 60 of 100 runs" in page


def test_the_best_is_named_and_whether_it_is_sure(result):
    near, far = (
        render_runs(title="two", runs=[RunEntry("a", result), RunEntry("b", shifted(result, by))])
        for by in (0.001, 0.2)
    )
    assert "which of the two is better is open" in near
    assert "B (b) is best" in far
    assert "their intervals do not overlap" in far


def test_runs_that_differ_in_their_seed_alone_are_one_row(result):
    runs = [RunEntry(f"seed {n}", shifted(result, 0.01 * n), group="same") for n in range(3)]
    page = render_runs(title="seeds", runs=[*runs, RunEntry("other", result)])
    assert "seed 0 and 2 more seeds" in page
    assert page.count('<th scope="row">') == 2


def test_runs_of_different_kinds_have_to_have_something_in_common(result, of_task):
    with pytest.raises(DataError, match="no measure of quality in common"):
        render_runs(title="x", runs=[RunEntry("a", result), RunEntry("b", of_task("regression"))])
    with pytest.raises(DataError, match="no run to report on"):
        render_runs(title="x", runs=[])
    other = replace(result, held_out=replace(result.held_out, documents=1))
    assert "not all measured on the same text" in render_runs(
        title="x", runs=[RunEntry("a", result), RunEntry("b", other)]
    )


def test_the_frontier_holds_whoever_no_other_beats_on_both():
    def one(mark, quality, cost):
        return Candidate(mark, mark, "student", Interval(quality, quality, quality), cost)

    crowd = [one("a", 0.5, 1), one("b", 0.4, 2), one("c", 0.9, 3), one("d", 0.9, 4), one("e", 0.7, 3)]
    assert [found.mark for found in undominated(crowd, "higher")] == ["a", "c"]
    assert [found.mark for found in undominated(crowd, "lower")] == ["a", "b"]
    panel = pareto_panel(crowd, metric="accuracy", x_title="time", x_unit="ms")
    assert [point.mark for point in panel.points if point.is_best] == ["a", "c"]
    assert all(0 <= value <= 100 for point in panel.points for value in (point.x, point.y, point.low, point.high))
    assert pareto_panel(crowd[:1], metric="accuracy", x_title="time") is None
    wide = pareto_panel([*crowd, one("f", 0.1, 1000)], metric="accuracy", x_title="time", x_unit="ms")
    assert {point.mark: round(point.x) for point in wide.points}["c"] > 15  # on a logarithmic axis it is not squashed


def test_seeds_combined_cover_another_seed_at_their_rate():
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        on_these_documents = draws.normal(0, 1.0)  # what all seeds have in common
        values = on_these_documents + draws.normal(0, 0.5, size=3)
        found = combined([Interval(value, value - 1.96, value + 1.96) for value in values])
        hits += found.low <= 0 <= found.high
    assert 0.95 <= hits / 400 <= 1.0
    assert combined([Interval(1.0, 0.5, 2.0)]) == Interval(1.0, 0.5, 2.0)
    assert math.isclose(combined([Interval(1.0, 0.9, 1.1)] * 3).high, 1.1)
