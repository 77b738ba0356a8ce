import re
from dataclasses import replace

import pytest

from stillhouse.core.results import Comparison, EvaluationResult, Interval
from stillhouse.reporting.evidence import Budgeted, Setting, break_even_lines, loss_of, tokens_for
from stillhouse.reporting.runs import Group, RunEntry
from stillhouse.reporting.sweeps import FittedLaw, write_sweep

BUDGETS = (10_000.0, 20_000.0, 40_000.0)


def run_of(result: EvaluationResult, *, gain: float, bits: float = 1.0, half_width: float = 0.01) -> EvaluationResult:
    """The same result with bits per byte of student and control, and by how much the student is ahead."""

    def changed(model):
        value = {"student": bits, "control_hard_labels": bits + gain}.get(model.role)
        if value is None:
            return model
        interval = Interval(value, value - half_width, value + half_width)
        return replace(model, metrics={**model.metrics, "bits_per_byte": interval})

    ours = ("bits_per_byte", "control_hard_labels")
    others = [row for row in result.comparisons if (row.metric, row.other) != ours]
    behind = Interval(-gain, -gain - half_width, -gain + half_width)
    comparisons = [*others, Comparison("bits_per_byte", "control_hard_labels", behind)]
    return replace(result, models=[changed(model) for model in result.models], comparisons=comparisons)


def setting_of(result, gains, *, seeds=1, bits=(1.2, 1.1, 1.0)) -> Setting:
    budgets = []
    for number, (tokens, gain, loss) in enumerate(zip(BUDGETS, gains, bits, strict=True)):
        runs = [
            RunEntry(f"{number} {seed}", run_of(result, gain=gain + 0.001 * seed, bits=loss)) for seed in range(seeds)
        ]
        budgets.append(Budgeted(tokens, Group("ABC"[number], f"run {number}", runs)))
    return Setting("keep 4", budgets)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.3, 0.2, 0.1), "ahead at every budget tried"),
        ((-0.3, -0.2, -0.1), "behind at every budget tried"),
        ((0.001, 0.002, -0.001), "no difference was shown at any budget"),
        ((0.3, 0.1, 0.001), "ahead up to 20,000 tokens; at 40,000 no gain is shown"),
        ((0.3, 0.1, -0.1), "at 40,000 it is behind"),
        ((-0.1, 0.1, 0.3), "no break-even can be named"),
    ],
)
def test_the_break_even_is_what_the_paired_gains_say(result, gains, words):
    (line,) = break_even_lines(setting_of(result, gains), "bits_per_byte")
    assert words in line
    assert "One seed each" in line
    assert "against training on the text alone" in line


def test_several_seeds_are_counted_and_no_control_is_said(result):
    (line,) = break_even_lines(setting_of(result, (0.3, 0.2, 0.1), seeds=3), "bits_per_byte")
    assert "Each budget has 3 seeds" in line
    alone = replace(result, models=[model for model in result.models if model.role == "student"], comparisons=[])
    setting = Setting("", [Budgeted(1e4, Group("A", "a", [RunEntry("a", alone)]))])
    assert break_even_lines(setting, "bits_per_byte") == [
        "The recipe: no control was trained, so nothing can be said of a break-even."
    ]
    assert loss_of([setting]) == "bits_per_byte"


def test_how_many_times_as_many_tokens_is_read_between_budgets_and_never_beyond():
    curve = [(1e4, 2.0), (1e6, 1.0)]
    assert tokens_for(1.5, curve) == pytest.approx(1e5)
    assert tokens_for(2.5, curve) is None
    assert tokens_for(0.5, curve) is None
    assert tokens_for(1.0, [(1e4, 1.0), (1e5, 1.0)]) is None  # a curve that does not fall reaches nothing


def test_what_it_reaches_early_the_control_reaches_later(result):
    (line,) = break_even_lines(setting_of(result, (0.15, 0.1, 0.05)), "bits_per_byte")
    assert "What it reaches with 10,000 tokens, the control reaches with about 20,000" in line


def test_a_sweep_is_written_as_a_page_and_as_markdown(result, tmp_path):
    setting = setting_of(result, (0.3, 0.1, 0.0))
    runs = [entry for one in setting.budgets for entry in one.group.entries]
    one = Interval(1.0, 0.9, 1.1)
    laws = [
        FittedLaw("<keep> 4", "student", "", one, one, one, {"80,000": one}, is_open=True),
        FittedLaw("keep 4", "control_hard_labels", "there are 3"),
    ]
    write_sweep(tmp_path, settings=[setting], runs=runs, laws=laws, planned=4)
    page, words = ((tmp_path / name).read_text(encoding="utf-8") for name in ("sweep.html", "sweep.md"))
    for text in (page, words):
        assert "So far 3 of 4 runs." in text.replace("\\", "")
        assert "no law is fitted, as there are 3" in text
    assert "<keep>" not in page
    assert "the points do not bound the exponent" in page
    assert not re.search("nan|None", re.sub("<(style|script)>.*?</.*?>", "", page, flags=re.S))
