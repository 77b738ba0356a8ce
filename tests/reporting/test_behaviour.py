"""The section on behaviour: escaped, with blind spots, and with nothing where nobody was asked."""

from dataclasses import replace

from stillhouse.core.behaviour_results import KINDS
from stillhouse.core.measures import Scored
from stillhouse.core.tasks import TasksFound
from stillhouse.evaluation.behaviour.judge import judgement
from stillhouse.evaluation.behaviour.measures import Answer, Prompt
from stillhouse.evaluation.behaviour.suite import behaviour_of
from stillhouse.reporting.card import render_card
from stillhouse.reporting.html import render_report
from stillhouse.reporting.summary import summary_of

from .conftest import RECIPE, make_result
from .test_measures import HALF, task

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


def test_card_and_summary_say_what_suites_found():
    tasks = TasksFound(
        [task("BBQ", scored=[Scored(role, {"bias_ambiguous": HALF}) for role in ("teacher", "student")])]
    )
    result = replace(behaviour(), suites={**behaviour().suites, "tasks": tasks.to_dict()})
    card = render_card(
        student_name="s", result=result, teacher={}, recipe_yaml=RECIPE, layers=None, data={}, licence=None
    )
    summary = summary_of(title="s", result=result)
    for text in (card, summary):
        assert "Everyone was asked 12 prompts" in text
        assert "BBQ, bias, not told: student 0.50 \\[0.40, 0.60\\], teacher" in text
        assert "<script>" not in text
    assert "Some were looked for: BBQ." in card and "Refusals were counted by their words alone" in card
    plain = render_card(
        student_name="s", result=make_result(), teacher={}, recipe_yaml="", layers=None, data={}, licence=None
    )
    assert "What else was asked" not in plain and "They were not measured." in plain
