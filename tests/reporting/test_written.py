"""What is said of data that a teacher wrote, in the report, the card and the terminal."""

import io
from copy import deepcopy

import pytest
from rich.console import Console

from stillhouse.reporting import written_summary
from stillhouse.reporting.card import render_card
from stillhouse.reporting.html import render_report
from stillhouse.reporting.written import written_lines, written_view

HOSTILE = "<script>alert('x')</script> {{ 7 * 7 }} | \x1b[31m"
CARD = {
    "written_by": {"model": "SmolLM2-135M-Instruct", "sampling": {"temperature": 1.0}, "reviewed": False},
    "source": {"kind": "topics", "number": 500, "roots": ["animals", "plants"], "note": ""},
    "counts": {"asked": 500, "answered": 460, "kept": 371},
    "dropped": [
        {
            "filter": "length",
            "explanation": "Keeps questions of 4 to 150 words.",
            "reason": "question too short",
            "count": 40,
            "detail": "2 words, 4 wanted",
            "example": "Why so?",
        },
        {"filter": "length", "explanation": "", "reason": "answer too short", "count": 9, "detail": "", "example": ""},
        {"filter": "unfinished", "explanation": "Drops what was cut off.", "reason": "", "count": 0, "example": ""},
        {
            "filter": "refusals",
            "explanation": "Drops answers that refuse.",
            "reason": "answer refuses",
            "count": 80,
            "detail": 'it begins like "I\'m sorry"',
            "example": "I'm sorry, but I can't. " * 40,
        },
    ],
    "diversity": {
        "before": {
            "texts": 500,
            "words": 4210,
            "distinct": {"1": 0.183, "2": 0.61, "3": 0.83},
            "near_duplicates": 0.081,
            "spread": {"value": 0.912, "low": 0.903, "high": 0.921},
            "spread_by": "runs of characters",
            "coverage": {"topic": {"different": 40, "effective": 36.2, "records": 500}},
        },
        "after": {
            "texts": 371,
            "words": 4210,
            "distinct": {"1": 0.21, "2": 0.68, "3": None},
            "near_duplicates": 0.0,
            "spread": None,
            "spread_by": "runs of characters",
            "coverage": {"topic": {"different": 39, "effective": 37.0, "records": 371}},
        },
    },
    "tokens": 81_234,
    "seconds": 192.3,
    "cost": {"money": 0.42, "currency": "USD"},
    "licence": {"teacher": "apache-2.0", "outputs": "no terms"},
}


@pytest.fixture
def card():
    return deepcopy(CARD)


def page_of(inputs, card):
    return render_report(**{**inputs, "data": {**inputs["data"], "written": card}})


def model_card(inputs, card):
    names = ("result", "recipe_yaml", "layers")
    given = {name: inputs[name] for name in names}
    data = {**inputs["data"], "written": card}
    return render_card(student_name="fox", teacher={"model": "a/b"}, licence="mit", data=data, **given)


def test_the_report_has_a_section_with_a_link(inputs, card):
    page = page_of(inputs, card)
    assert 'id="written"' in page
    assert 'href="#written"' in page
    for text in ("question too short", "this one: 2 words, 4 wanted", "Why so?", "81,234", "0.42", "apache-2.0"):
        assert text in page


def test_without_a_card_there_is_no_section(inputs):
    for nothing in (None, {}):
        page = page_of(inputs, nothing)
        assert 'id="written"' not in page
        assert 'href="#written"' not in page
    assert "How the data was written" not in model_card(inputs, None)


def test_the_funnel_goes_down_to_what_is_kept(card):
    view = written_view(card)
    assert [row.title for row in view.funnel] == ["asked", "after length", "after refusals", "kept"]
    assert [row.cells[0].value for row in view.funnel] == ["500", "451, 49 dropped", "371, 80 dropped", "371"]
    bars = [row.cells[0].bar for row in view.funnel]
    assert bars == sorted(bars, reverse=True)
    assert view.sentence == (
        "Of 500 questions or texts by SmolLM2-135M-Instruct, 460 were answered and 371 were kept (74 %)."
    )


def test_a_filter_that_dropped_nothing_is_told_too(card):
    view = written_view(card)
    assert [(one.name, one.count, len(one.reasons)) for one in view.dropped] == [
        ("length", "49", 2),
        ("unfinished", "0", 0),
        ("refusals", "80", 1),
    ]
    assert "more characters" in view.dropped[2].reasons[0][2]


def test_diversity_is_shown_before_and_after(card):
    table = written_view(card).diversity
    assert [title for title, _ in table.columns][-2:] == ["near-duplicates", "topics covered"]
    before, after = ([cell.value for cell in row.cells] for row in table.rows)
    assert before == ["500", "18.3 %", "61.0 %", "83.0 %", "0.912", "8.1 %", "40"]
    assert after == ["371", "21.0 %", "68.0 %", "-", "-", "0.0 %", "39"]


@pytest.mark.parametrize("missing", list(CARD))
def test_whatever_is_missing_is_left_out(inputs, card, missing):
    del card[missing]
    page_of(inputs, card)
    model_card(inputs, card)
    written_lines(card)
    card[missing] = None
    page_of(inputs, card)
    model_card(inputs, card)
    written_lines(card)


def test_no_price_is_no_fact(card):
    card["cost"] = None
    took = next(group for group in written_view(card).facts if group.title == "What it took")
    assert [name for name, _ in took.items] == ["tokens written", "time"]


def test_what_a_model_wrote_is_text_and_nothing_else(inputs, card):
    card["dropped"][0].update(filter=HOSTILE, explanation=HOSTILE, reason=HOSTILE, detail=HOSTILE, example=HOSTILE)
    card["source"] = {HOSTILE: HOSTILE}
    card["written_by"]["model"] = HOSTILE
    page = page_of(inputs, card)
    assert page.count("<script") == 1 and "<script>alert" not in page  # ours alone
    assert "49" in page and "\x1b" not in page
    lines = model_card(inputs, card).split("\n")
    assert not any("<script" in line.replace("\\<", "") for line in lines)
    assert not any("\x1b" in line for line in [*lines, *written_lines(card)])


def test_the_model_card_has_a_table_of_filters(inputs, card):
    text = model_card(inputs, card)
    assert "## How the data was written" in text
    assert "| length | 49 | Keeps questions of 4 to 150 words. |" in text
    assert "| before | 500 | 18.3 % | 61.0 % | 83.0 % | 0.912 [0.903, 0.921] | 8.1 % | 40 [36.2] |" in text


def test_the_terminal_says_it_in_a_few_lines(card):
    stream = io.StringIO()
    Console(file=stream, width=200).print(written_summary(card))
    text = stream.getvalue()
    assert "371 were kept (74 %)" in text
    assert "refusals: 80 dropped. Drops answers that refuse. Such as: \"I'm sorry, but I can't." in text
    assert "unfinished" not in text
    assert "before the filters: texts 500, distinct-1 18.3 %" in text
    assert "cost 0.42 USD" in text
