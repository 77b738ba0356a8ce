"""Report, card and terminal of every kind of model: its own metrics, its three figures, and no word of another kind."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from rich.console import Console

from stillhouse.core.results import HEADLINE, METRICS, Comparison, HeldOut, Interval, Retention, SpeedUp
from stillhouse.reporting.advice import advise
from stillhouse.reporting.card import render_card
from stillhouse.reporting.charts import curve_panels, term_title, term_words
from stillhouse.reporting.figures import headline_figures
from stillhouse.reporting.html import render_report
from stillhouse.reporting.terminal import results_table
from stillhouse.reporting.verdicts import headline, kept, lead, speed_up

CAUSAL_WORDS = (
    "perplexity",
    "bits per byte",
    "decode",
    "prefill",
    "tokens/s",
    "next-token",
    "beginning",
    "text-generation",
)


class Words(HTMLParser):
    """What a page says, without its markup and its typesetting."""

    def __init__(self, page):
        super().__init__()
        self.said, self.is_style = [], False
        self.feed(page)

    @property
    def text(self):
        text = re.sub(r"\s+", " ", " ".join(self.said))
        return text.translate({0xA0: " ", 0x2212: "-", 0x2019: "'"})

    def handle_starttag(self, tag, attrs):
        self.is_style = tag == "style"

    def handle_endtag(self, tag):
        self.is_style = False

    def handle_data(self, data):
        if not self.is_style:
            self.said.append(data)


def page_of(inputs, result, **changes):
    bare = {"layers": None, "data": {"train_documents": 9600}, "curves": {}, "recipe_yaml": ""}
    return Words(render_report(**{**inputs, **bare, "result": result, **changes})).text


def card_of(result, layers=None):
    return render_card(
        student_name="mini-3",
        result=result,
        teacher={"model": "org/mini"},
        recipe_yaml="seed: 1",
        layers=layers,
        data={},
        licence="mit",
    )


def layers_by(distance):
    """Half the layers, chosen by this distance from the teacher."""
    distances = {"start_kl_nats": None, "start_cosine_distance": None, distance: 0.121}
    alternatives = {"uniform": 0.204, "block_influence": 0.333}
    return {"method": "greedy", "kept": [0, 2, 4], "teacher_layers": 6, "alternatives": alternatives, **distances}


def shown(result, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(result))
    return console.file.getvalue()


def test_the_report_shows_every_metric_of_the_task_and_the_three_figures(inputs, of_task, task):
    page = page_of(inputs, of_task(task))
    for name in of_task(task).model("student").metrics:
        assert METRICS[name].title in page
        assert METRICS[name].meaning in page
    for words in ("kept", "saved 23 % of the parameters", "faster +61 %", "time saved 37.9 % [36.7, 39.0]"):
        assert words in page
    assert f"of the teacher's {METRICS[HEADLINE[task]].title}" in page


def test_no_word_of_a_causal_language_model_is_said_of_another(inputs, of_task, task):
    result = of_task(task)
    for text in (page_of(inputs, result), card_of(result), shown(result)):
        assert not [word for word in CAUSAL_WORDS if word in text.lower()]


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("masked_lm", "640 held-out documents, 81,920 tokens, 12,300 of them judged"),
        ("sequence_classification", "640 held-out documents, 81,920 tokens"),
        ("sentence_embedding", "1,200 held-out sentences, 18,920 tokens, 640 scored pairs beside them"),
    ],
)
def test_what_was_held_out_is_called_what_it_is(inputs, of_task, of, said):
    result = of_task(of)
    assert said in page_of(inputs, result)
    assert said in card_of(result)
    assert f"640 held-out {'pairs of sentences' if of == 'sentence_embedding' else 'documents'}" in shown(result)


def test_the_terminal_puts_the_three_figures_first(of_task, task):
    text = shown(of_task(task))
    places = [text.index(line) for line in ("kept   9", "saved  23 %", "faster +61 %", "The student has 77 %")]
    assert places == sorted(places)
    assert "one document" not in text
    assert "ms" in text


def test_the_figures_are_written_with_their_intervals_and_both_definitions_of_speed(of_task):
    texts = [figure.text for figure in headline_figures(of_task("sequence_classification"))]
    assert texts == [
        "97.1 % [96.2, 98.0] of the teacher's accuracy; 89 % against 91 %",
        "23 % of the parameters; 17.4 M left of 22.7 M; 49 % saved without embeddings",
        "+61 % [58, 64] throughput on held-out texts, at batch 1; time saved 37.9 % [36.7, 39.0]",
    ]


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Interval(1.01, 0.97, 1.05), "at batch 1: no difference shown"),
        (Interval(0.8, 0.75, 0.85), "-20 % [-25, -15] throughput on held-out texts, at batch 1; time saved -25"),
    ],
)
def test_a_student_that_is_not_faster_is_not_called_so(of_task, ratio, said):
    result = replace(of_task("regression"), speeds=[SpeedUp("student", "document", ratio)])
    assert said in headline_figures(result)[-1].text


def test_what_was_saved_is_of_all_parameters_and_of_those_that_layers_have(of_task):
    result = of_task("regression")
    costs = {"teacher": (100, 60), "student": (70, 30)}
    models = [
        replace(
            model,
            cost=replace(model.cost, parameters=whole, parameters_without_embeddings=layers, disk_bytes=4 * whole),
        )
        for role, (whole, layers) in costs.items()
        for model in [result.model(role)]
    ]
    (saved,) = (figure for figure in headline_figures(replace(result, models=models)) if figure.name == "saved")
    assert saved.text == "30 % of the parameters; 70 left of 100; 50 % saved without embeddings"


@pytest.mark.parametrize("old", [True, False])
def test_a_speed_that_is_not_a_number_was_not_measured(result, of_task, old):
    nan = Interval(*[float("nan")] * 3)
    if old:  # before repeats were paired
        models = [replace(m, cost=replace(m.cost, decode_tokens_per_second=nan)) for m in result.models]
        timed = replace(result, models=models)
    else:
        timed = replace(of_task("regression"), speeds=[SpeedUp("student", "document", nan)])
    assert speed_up(timed) is None
    assert "faster" not in [figure.name for figure in headline_figures(timed)]
    assert "was not timed against it" in kept(timed)


def test_what_was_not_measured_is_not_a_figure(of_task):
    result = replace(of_task("regression"), speeds=[], retentions=[])
    assert [figure.name for figure in headline_figures(result)] == ["saved"]
    assert headline_figures(replace(result, models=[])) == []
    assert "keeps" not in kept(result)
    assert "has a Spearman correlation of 0.84 [0.82, 0.87] (its teacher 0.86)" in kept(result)


def test_the_first_sentence_says_what_share_was_kept_and_what_the_control_would_keep(of_task):
    text = lead(of_task("sequence_classification"))
    assert "keeps 97.1 % [96.2, 98.0] of its teacher's accuracy (89 % against 91 %); trained without" in text
    assert text.endswith("it would keep 94.4 %.")


def test_a_finding_speaks_of_the_tasks_own_answers(of_task):
    assert "it would be right on 86 % of hidden tokens" in headline(of_task("masked_lm"))
    assert "it would have a macro-F1 of 85 %" in headline(of_task("token_classification"))
    text = headline(of_task("sentence_embedding"))
    assert "no gain from the teacher's signals was shown: 0.009 [-0.003, 0.021] includes 0" in text
    assert (
        "On Spearman with teacher, cosine with teacher, and CKA with teacher, the teacher's signals did gain." in text
    )


def test_a_control_that_beats_the_student_is_said_to(of_task, task):
    result = of_task(task)
    better = "lower" if METRICS[HEADLINE[task]].better == "lower" else "higher"
    assert better == "higher"
    worse = Comparison(HEADLINE[task], "control_hard_labels", Interval(-0.03, -0.05, -0.01))
    others = [row for row in result.comparisons if (row.metric, row.other) != (worse.metric, worse.other)]
    assert "the student is worse than this control by" in headline(replace(result, comparisons=[*others, worse]))


def test_a_share_is_shown_for_language_models_too(inputs, result):
    measured = [
        replace(model, metrics={**model.metrics, "accuracy": Interval(0.4, 0.38, 0.42)}) for model in result.models
    ]
    kept_share = Retention("student", "accuracy", Interval(0.93, 0.91, 0.95))
    speed = SpeedUp("student", "decode", Interval(1.66, 1.6, 1.7))
    full = replace(result, models=measured, retentions=[kept_share], speeds=[speed])
    page = page_of(inputs, full)
    assert "kept 93 % of the teacher" in page
    assert "throughput in writing, at batch 1" in page
    assert "agrees with its teacher on 71.3 % of tokens" in kept(full)  # the headline is still its likeness


@pytest.mark.parametrize(
    ("of", "tag"),
    [
        ("masked_lm", "fill-mask"),
        ("sequence_classification", "text-classification"),
        ("token_classification", "token-classification"),
        ("sentence_embedding", "sentence-similarity"),
    ],
)
def test_the_hub_is_told_what_the_model_does(of_task, of, tag):
    card = card_of(of_task(of))
    assert yaml.safe_load(card.split("---\n", 2)[1])["pipeline_tag"] == tag
    assert "| kept | **9" in card
    assert "a document, ms" in card


def test_the_hub_is_told_which_library_reads_the_model(of_task, task):
    library = yaml.safe_load(card_of(of_task(task)).split("---\n", 2)[1])["library_name"]
    assert library == ("sentence-transformers" if task == "sentence_embedding" else "transformers")


COSINE, CKA = "cosine with teacher: 1,200 held-out sentences", "CKA with teacher: the first 1,000 held-out sentences"


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (HeldOut(1200, 18_920, answers=640), f"640 held-out pairs of sentences ({COSINE}; {CKA}, each left out once)"),
        (HeldOut(1200, 18_920), f"1,200 held-out sentences ({CKA}, each left out once)"),
        (
            HeldOut(90, 900),
            "90 held-out sentences (CKA with teacher: 90 held-out sentences, each left out once)",
        ),
    ],
)
def test_each_interval_of_embeddings_is_over_what_it_is_said_to_be(inputs, of_task, held_out, said):
    result = replace(of_task("sentence_embedding"), held_out=held_out)
    assert f"95 % intervals over {said}." in " ".join(shown(result).split())
    assert f"Paired over the same {said}; positive" in card_of(result)
    assert f"paired over the same {said}. Positive" in page_of(inputs, result)


def test_what_was_not_measured_has_no_interval_over_anything(of_task):
    result = of_task("sentence_embedding")
    plain = [replace(model, metrics={"spearman": model.metrics["spearman"]}) for model in result.models]
    assert "intervals over 640 held-out pairs of sentences." in shown(replace(result, models=plain, comparisons=[]))


@pytest.mark.parametrize("held_out", [HeldOut(1200, 18_920, answers=40), HeldOut(40, 600, answers=640)])
def test_few_pairs_or_few_sentences_are_a_limit(of_task, held_out):
    result = of_task("sentence_embedding")
    assert "the intervals are wide" not in card_of(result)
    assert "the intervals are wide" in card_of(replace(result, held_out=held_out))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("masked_token", "masked-token loss, nats"),
        ("forward_kl", "forward KL to the teacher, nats"),
        ("skewed_reverse_kl", "skewed reverse KL, nats"),
        ("multi_head_relation_kl", "multi head relation KL, nats"),
        ("jsd", "JSD, nats"),
        ("hidden_mse", "hidden MSE"),
        ("hidden_cosine", "hidden states, 1 - cosine"),
        ("forward_kl_2", "forward kl 2, nats"),
        ("total_variation", "total variation"),
        ("my_own", "my own"),
    ],
)
def test_a_logged_term_is_named_with_its_unit_where_it_has_one(name, title):
    assert term_title(name).lower() == title.lower()


def test_terms_of_any_objective_are_drawn_before_what_all_runs_log():
    names = ("loss", "gradient_norm", "hidden_cosine", "learning_rate", "masked_token")
    lines = [{"step": step, **dict.fromkeys(names, 1 / step)} for step in range(1, 9)]
    panels = [panel.name for panel in curve_panels({"student": lines})]
    assert panels == ["hidden_cosine", "masked_token", "loss", "gradient_norm", "learning_rate"]


def test_advice_reads_whatever_was_trained_on(of_task):
    lines = [{"step": step, "hidden_mse": 100 - step, "loss": 1.0, "gradient_norm": 1.0} for step in range(60)]
    found = advise(of_task("sentence_embedding"), curves={"student": lines}, data={}, stages=[])
    assert any("hidden MSE went from" in advice.reason for advice in found if advice.title == "Train longer")
    assert any("640 held-out pairs of sentences" in advice.reason for advice in found)
    assert term_words("forward_kl") == "forward KL"


def test_of_sentences_no_control_is_asked_for_as_there_can_be_none(of_task):
    result = of_task("sentence_embedding")
    alone = replace(result, models=[model for model in result.models if not model.role.startswith("control")])
    assert "control" not in headline(alone) + lead(alone)
    assert re.search(r"; before training it kept \d+(\.\d)? %\.$", lead(alone))
    assert not any("control" in found.title for found in advise(alone, curves={}, data={}, stages=[]))


@pytest.mark.parametrize(
    ("of", "distance", "unit", "other_unit"),
    [
        ("sequence_classification", "start_cosine_distance", "cosine distance", "nats"),
        ("masked_lm", "start_kl_nats", "nats", "cosine distance"),
    ],
)
def test_layers_are_chosen_by_what_report_and_card_say_they_were(inputs, of_task, of, distance, unit, other_unit):
    layers = layers_by(distance)
    card = card_of(of_task(of), layers).split("## Layers kept")[1].split("##")[0]
    page = page_of(inputs, of_task(of), layers=layers).split("Layers kept")[1].split("Data and labels")[0]
    for text in (card, page):
        assert f"left the student at 0.121 {unit} from its teacher" in text
        assert other_unit not in text
    assert f"left it at: uniform 0.204 {unit}, block influence 0.333 {unit}." in card
    assert re.search(f"greedy\\s+0.121 {unit}\\s+uniform\\s+0.204 {unit}\\s+block influence\\s+0.333 {unit}", page)
    measure = "KL" if unit == "nats" else unit
    assert f"Before any training, {measure} from the teacher for each way of choosing" in page


def test_alternatives_of_an_unknown_distance_are_not_shown(inputs, of_task):
    layers = {**layers_by("start_kl_nats"), "start_kl_nats": None}
    assert "0.204" not in card_of(of_task("regression"), layers) + page_of(inputs, of_task("regression"), layers=layers)
