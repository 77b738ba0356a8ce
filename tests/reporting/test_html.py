import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from stillhouse.core.departures import Choice, Departure, Departures, TokenDeparture
from stillhouse.core.results import Interval, Retention, Sample
from stillhouse.reporting.charts import axis_over, curve_panels, dot_panel, layer_strip, ranges, round_values, trend
from stillhouse.reporting.departures import level_of, visible
from stillhouse.reporting.dial import dial
from stillhouse.reporting.html import TEMPLATES, render_report, typeset, write_report

HOSTILE = (
    "<script>alert('x')</script> \"quoted\" & {{ 7 * 7 }} \x1b[31m <img src=https://evil.example/x.png onerror=f()>"
)
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and balance of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def ids(self):
        return [value for _, name, value in self.attributes if name == "id"]


def test_a_complete_report_holds_every_section(inputs):
    page = Page(render_report(**inputs))
    for section in (
        "quality",
        "cost",
        "training",
        "layers",
        "data",
        "samples",
        "recipe",
        "environment",
        "time",
        "next",
    ):
        assert section in page.ids()


@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ({"curves": {}}, "training"),
        ({"layers": None}, "layers"),
        ({"stages": []}, "time"),
        ({"recipe_yaml": ""}, "recipe"),
    ],
)
def test_a_section_without_content_is_left_out_with_its_link(inputs, missing, section):
    page = render_report(**{**inputs, **missing})
    assert section not in Page(page).ids()
    assert f"#{section}" not in page


def test_the_least_that_can_be_reported_still_renders(inputs):
    bare = replace(inputs["result"], models=[], comparisons=[], samples=[], machine={})
    everything_missing = {"curves": {}, "layers": None, "data": {}, "stages": [], "recipe_yaml": "", "result": bare}
    page = Page(render_report(**{**inputs, **everything_missing}))
    assert "No student was measured." in " ".join(page.words)


def test_partial_mappings_render(inputs):
    partial = {
        "curves": {
            "student": [{"step": 1, "loss": 2.0}],
            "other arm": [{"step": 1}, {"loss": float("nan"), "step": 2}],
        },
        "layers": {"method": "explicit", "kept": [0, 2], "teacher_layers": 3, "scores": [0.3, None, None]},
        "data": {"train_documents": 5, "labels": {"signal": "logits"}},
        "stages": [{"name": "train"}],
    }
    assert "layer 1: dropped" in render_report(**{**inputs, **partial})


def test_values_that_are_no_numbers_render(inputs):
    result = inputs["result"]
    wild = {"perplexity": Interval(float("inf"), 5.0, float("inf")), "forward_kl": Interval(*[float("nan")] * 3)}
    models = [replace(model, metrics={**model.metrics, **wild}) for model in result.models]
    page = render_report(**{**inputs, "result": replace(result, models=models)})
    assert "infinite" in page
    assert "nan%" not in page


def test_what_a_model_wrote_is_text_and_nothing_else(inputs):
    result = inputs["result"]
    sample = Sample(HOSTILE, {"teacher": HOSTILE, "student": HOSTILE + "</p></div>", "student_before": ""})
    models = [replace(model, name=HOSTILE) for model in result.models]
    choices = (Choice(HOSTILE, 0.5), Choice("</i><script>f()</script>", 0.1))
    tokens = [TokenDeparture(HOSTILE), TokenDeparture(HOSTILE, 7.0, choices, choices)]
    departures = Departures(
        9, [Departure(0, 7.0, 0.0, tokens), Departure(1, 1.0, 0.5, (), HOSTILE, {HOSTILE: HOSTILE})]
    )
    hostile = replace(result, models=models, samples=[sample], machine={HOSTILE: HOSTILE}, departures=departures)
    layers = {**inputs["layers"], "method": HOSTILE, "alternatives": {HOSTILE: 2.0}}
    data = {"synthesised": {"documents": 1, "dropped": {HOSTILE: 3}}, "labels": {"signal": HOSTILE}}
    curves = {HOSTILE: [{"step": step, HOSTILE: 1.0 / step} for step in range(1, 30)]}
    page = Page(
        render_report(
            title=HOSTILE,
            result=hostile,
            curves=curves,
            recipe_yaml=HOSTILE,
            layers=layers,
            data=data,
            stages=[{"name": HOSTILE, "seconds": 2}, {"name": "b", "seconds": 1}],
        )
    )
    assert not {"img", "iframe", "object", "link"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert any(name == "data-c" and "<script>f()" in value for _, name, value in page.attributes)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert any("<script>alert('x')</script>" in words for words in page.words)
    assert any("{{ 7 * 7 }}" in words for words in page.words)


def test_the_page_fetches_nothing_and_forbids_it(inputs):
    text = render_report(**inputs)
    page = Page(text)
    for _, name, value in page.attributes:
        if name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"url\(|@import|http-equiv=.refresh", text)
    assert "default-src 'none'" in text


def test_only_our_own_script_may_run(inputs):
    text = render_report(**inputs)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


def make_departures(documents, *, text=" 日本語<&", tokens=160):
    choices = [Choice(text, 0.25)] * 3
    told = [TokenDeparture(text, 0.1 * place, choices, choices) for place in range(tokens)]
    examples = [Departure(number, 9.0 - number / 10_000, 0.25, told) for number in range(documents)]
    return Departures(documents, examples)


def test_ten_thousand_examples_are_bounded_and_what_is_left_out_is_said(inputs, tmp_path):
    result = replace(inputs["result"], departures=make_departures(10_000, tokens=4))
    write_report(tmp_path / "report.html", **{**inputs, "result": result})
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = page.count('<article class="departure"')
    assert 0 < shown < 10_000
    assert f"Shown: {shown:,} of {10_000:,} held-out documents" in page
    assert f"{10_000 - shown:,} in which it is nearer are left out" in page


def test_examples_are_whole_without_a_script(inputs):
    page = Page(render_report(**{**inputs, "result": replace(inputs["result"], departures=make_departures(2))}))
    assert ("form", "hidden", None) in page.attributes  # it needs the script, and appears with it
    assert sum(name == "data-c" for _, name, _ in page.attributes) == 2 * 160
    assert "16" in page.words  # the farthest tokens are told in a table too
    assert "日本語<&" in " ".join(page.words)


def test_the_dial_shows_what_is_kept_and_where_the_others_stand(result):
    shares = {"student": (0.86, 0.84, 0.88), "student_before": (0.31, 0.3, 0.32)}
    kept = [Retention(role, "top1_agreement", Interval(*share)) for role, share in shares.items()]
    found = dial(replace(result, retentions=kept))
    assert found.description == "Student 86 % [84, 88] of the teacher's top-1 agreement; before training 31.0 %."
    assert [mark.role for mark in found.marks] == ["student_before"]
    assert dial(result).label == "of tokens answered as the teacher does"  # where no share was measured
    assert dial(replace(result, models=[])) is None
    for share in (-0.5, 0.0, 1.0, 1.7, float("inf"), float("nan")):
        one = replace(result, retentions=[Retention("student", "top1_agreement", Interval(share, share, share))])
        assert "nan" not in dial(one).reached


def test_tokens_are_tinted_by_how_far_apart_the_two_are():
    assert [level_of(nats) for nats in (0.0, 0.1, 0.49, 0.5, 3.0, 6.0, 60.0)] == [0, 1, 1, 2, 4, 5, 5]
    assert [visible(text) for text in (" the", "\n", " ", "", "\u202e")] == [
        "the",
        "\u21b5",
        "\u2423",
        "(nothing)",
        "\ufffd",
    ]


def test_every_link_has_its_target(inputs):
    page = Page(render_report(**inputs))
    targets = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert targets <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))


def test_charts_have_words_and_tables_have_captions_and_scopes(inputs):
    page = Page(render_report(**inputs))
    num_images = sum((name, value) == ("role", "img") for _, name, value in page.attributes)
    assert num_images == 1 + 4 + 4 + 1  # dial, metrics, curves, layers
    assert page.tags.count("caption") == page.tags.count("table")
    assert [name for tag, name, _ in page.attributes if tag == "th"].count("scope") == page.tags.count("th")
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert any(
        "top-1 agreement, higher is better: teacher 100 %; student 71.3 % [69.5, 73.1]" in label for label in labels
    )


def test_a_file_with_two_thousand_long_samples_stays_under_three_megabytes(inputs, tmp_path):
    text = "\"<&' 日本語 " * 400
    samples = [
        Sample(text, dict.fromkeys(("teacher", "student", "student_before", "control_hard_labels"), text))
    ] * 2000
    curve = [{"step": step, "tokens": 10 * step, "loss": 1 / step, "forward_kl": 2 / step} for step in range(1, 20_000)]
    path = tmp_path / "deep" / "report.html"
    write_report(
        path,
        **{
            **inputs,
            "result": replace(inputs["result"], samples=samples),
            "curves": {"student": curve, "control_hard_labels": curve},
            "recipe_yaml": "x: <\n" * 200_000,
        },
    )
    assert path.stat().st_size < 3_000_000
    page = path.read_text(encoding="utf-8")
    assert "of 2,000 samples" in page
    assert "more characters" in page
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_unicode_and_lone_surrogates_are_written(inputs, tmp_path):
    sample = Sample("日本語 \ud800", {"teacher": "مرحبا \u202e", "student": "👩‍🔬"})
    write_report(tmp_path / "report.html", **{**inputs, "result": replace(inputs["result"], samples=[sample])})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "日本語 \ufffd" in page
    assert "مرحبا \ufffd" in page


def test_a_report_that_shows_no_gain_says_so_in_words(inputs, with_difference):
    result = with_difference("top1_agreement", "control_hard_labels", Interval(-0.03, -0.05, -0.01))
    words = " ".join(Page(render_report(**{**inputs, "result": result})).words)
    assert "worse than this control" in words
    assert "Decide which metric counts" in words


def test_text_shared_with_the_teacher_ends_at_a_word(inputs):
    sample = Sample(
        "p", {"teacher": "the cat sat down", "student": "the cat sang", "student_before": "the cat sat down"}
    )
    page = render_report(**{**inputs, "result": replace(inputs["result"], samples=[sample])})
    assert "<mark>the cat </mark>sang" in page
    assert "<mark>the cat sat down</mark></p>" in page


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.912, 1.544), (1e-7, 2e-4), (9e4, 1.2e6)])
def test_ticks_are_few_round_and_inside(low, high):
    axis = axis_over([low, high])
    values = round_values(axis.low, axis.high, 4)
    assert 2 <= len(values) <= 7
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_a_model_far_beyond_the_others_becomes_an_arrow(result):
    beyond = {dot.role: dot.beyond for dot in dot_panel(result, "forward_kl").dots}
    assert beyond == {"teacher": "", "student": "", "control_hard_labels": "", "student_before": "right"}
    assert all(0 <= dot.low <= dot.at <= dot.high <= 100 for dot in dot_panel(result, "top1_agreement").dots)


def test_a_trend_of_a_line_is_the_line():
    line = [(float(x), 3.0 * x + 1) for x in range(200)]
    assert [y for _, y in trend(line)] == pytest.approx([y for _, y in line])


def test_terms_come_first_and_the_learning_rate_last(inputs):
    assert [panel.name for panel in curve_panels(inputs["curves"])] == [
        "forward_kl",
        "next_token",
        "loss",
        "learning_rate",
    ]


def test_only_the_first_values_of_a_curve_are_cut_off():
    falling = [9.0, 5.0, *[1.0 + 0.001 * step for step in range(60)]]
    peak = [1.2, 1.3, 9.0, 0.8, 0.7, 0.6]
    notes = {
        name: curve_panels({"student": [{"step": step, "forward_kl": y} for step, y in enumerate(values)]})[0].note
        for name, values in {"falling": falling, "peak": peak}.items()
    }
    assert notes == {"falling": "the first values lie above the chart", "peak": ""}


def test_layers_are_listed_in_runs():
    assert ranges([8, 0, 1, 2, 3, 5, 7]) == "0-3, 5, 7-8"
    assert ranges([]) == ""
    assert [cell.is_kept for cell in layer_strip(4, [0, 3], None)] == [True, False, False, True]


def test_typesetting_touches_numbers_and_quotation_marks_only():
    assert typeset("it's -1.5, 1.7x, 0-3, top-1") == "it\u2019s \u22121.5, 1.7\u00d7, 0\u20133, top-1"


def _palettes():
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    found = [
        dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    light, dark, paper = found
    return {"light": light, "dark": {**light, **dark}, "print": {**light, **paper}}


def _luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one, two):
    low, high = sorted((_luminance(one), _luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_colours_meet_wcag_contrast(mode):
    palette = _palettes()[mode]
    for ground in ("paper", "card", "wash"):
        for text in ("ink", "muted", "copper", "gain", "none", "worse"):
            assert _contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for level in range(1, 6):
        assert _contrast(palette["ink"], palette[f"heat{level}"]) >= 4.5, level
    for graphic in ("teacher", "student", "hard", "scratch", "before", "other"):
        assert _contrast(palette[graphic], palette["card"]) >= 3, graphic
