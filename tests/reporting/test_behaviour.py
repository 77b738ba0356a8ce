"""The section on behaviour: escaped, with blind spots, and with nothing where nobody was asked."""

from dataclasses import replace

from stillhouse.core.behaviour_results import KINDS
from stillhouse.evaluation.behaviour.judge import judgement
from stillhouse.evaluation.behaviour.measures import Answer, Prompt
from stillhouse.evaluation.behaviour.suite import behaviour_of
from stillhouse.reporting.html import render_report

from .conftest import RECIPE, make_result

EVIL = "<script>alert('you')</script> <img src=x onerror=alert(1)>"
REFUSAL = "I'm sorry, but I can't help with that."


def page(result):
    return render_report(title="t", result=result, curves={}, recipe_yaml=RECIPE, layers=None, data={}, stages=[])


def behaviour():
    prompts = [Prompt(f"What does {EVIL} number {n} do?", label="safe") for n in range(12)]
    teacher = [Answer(f"It does {n} things. {EVIL}") for n in range(12)]
    student = [Answer(f"{REFUSAL} {EVIL}")] * 12
    found = behaviour_of(
        prompts,
        {"teacher": teacher, "teacher_again": teacher, "student": student},
        source=EVIL,
        labelled=[(REFUSAL, True), ("Yes.", False)],
        judge=EVIL,
        judgements=[judgement("student", [("A", "B")] * 6 + [(None, None)] * 6)],
        notes=[EVIL],
    )
    return replace(make_result(), suites={"behaviour": found.to_dict()})


def test_what_models_write_harms_nobody():
    shown = page(behaviour())
    assert "<script>alert" not in shown and "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_every_number_stands_beside_what_it_cannot_tell():
    shown = page(behaviour())
    for name in ("refusal", "over_refusal", "loops"):
        assert KINDS[name].title in shown
        assert KINDS[name].blind_spot.split(",")[0] in shown
    for said in ("teacher, asked again", "by length alone", "only the student", "McNemar", "told apart", "6 of 12"):
        assert said in shown


def test_nobody_asked_nothing_shown():
    assert 'id="behaviour"' not in page(make_result())
