"""The page on measuring says what is measured, by how much of it, and what the code calls it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import numpy as np

from stillhouse.commands.recipe import HARD_OBJECTIVE
from stillhouse.core.measures import MEASURES, TaskKind
from stillhouse.core.results import FLOPS_CONTEXT, HEADLINE, METRICS
from stillhouse.core.task import Task
from stillhouse.data.config import (
    ChatDataConfig,
    ClassificationDataConfig,
    MaskedTextDataConfig,
    PreferencesDataConfig,
    RegressionDataConfig,
    RewardsDataConfig,
    SentencesDataConfig,
    TagsDataConfig,
    TextDataConfig,
)
from stillhouse.evaluation.answers import Choices, Estimates, choice_statistics, estimate_statistics
from stillhouse.evaluation.cost import DECODE_TOKENS, DOCUMENT_REPEATS, DOCUMENTS, PREFILL_TOKENS, REPEATS
from stillhouse.evaluation.embeddings import (
    MOST_COMPARED,
    ScoredBatches,
    cosine_statistics,
    geometry_statistics,
    pair_statistics,
)
from stillhouse.evaluation.intervals import DEVIATIONS, RESAMPLES
from stillhouse.evaluation.language import DocumentSums, language_statistics
from stillhouse.evaluation.preferences import PairCounts
from stillhouse.evaluation.rewards import reward_statistics
from stillhouse.evaluation.statistics import BINS

PAGES = Path(__file__).parents[2] / "docs"
PAGE = (PAGES / "how-we-measure.md").read_text(encoding="utf-8")
SAID = " ".join(PAGE.split())
DATA = [
    config(path=Path("data"))
    for config in (
        TextDataConfig,
        ChatDataConfig,
        PreferencesDataConfig,
        MaskedTextDataConfig,
        ClassificationDataConfig,
        RegressionDataConfig,
        RewardsDataConfig,
        TagsDataConfig,
        SentencesDataConfig,
    )
]


def measured(task: Task) -> list[str]:
    """The metrics that an evaluation of two documents or pairs gives, in its order."""
    places, numbers = np.arange(2), np.array([0.2, 0.7])
    match task:
        case "causal_lm":
            return [*language_statistics(DocumentSums(*[numbers] * 6))]
        case "regression":
            return [*estimate_statistics(Estimates(*[numbers] * 3))]
        case "reward":
            return [*reward_statistics(numbers, numbers, PairCounts(places, np.ones((2, 2))))]
        case "sentence_embedding":
            pairs, embeddings = [ScoredBatches("set", [], [], [1.0, 2.0])], np.eye(2)
            beside = cosine_statistics(embeddings, embeddings) | geometry_statistics(embeddings, embeddings)
            return [*pair_statistics([numbers], [numbers], pairs), *beside]
        case _:
            choices = Choices(places, places, places, *[numbers] * 4)
            return [*choice_statistics(choices, task=task, tags=["O", "B-PER"])]


def titles(names: Iterable[str]) -> str:
    return ", ".join(METRICS[name].title for name in names)


def under(heading: str) -> str:
    """What stands under a heading up to the next."""
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def table() -> list[list[str]]:
    """The rows of the table of metrics, cell by cell."""
    lines = [line for line in under("What is measured").splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_the_table_has_each_kind_of_data_with_what_an_evaluation_of_it_gives():
    wanted = [[f"`{data.kind}`", titles(measured(data.task)), titles([HEADLINE[data.task]])] for data in DATA]
    pairs, own = next(row for row in wanted if row[0] == "`preferences`"), titles(["preference_accuracy"])
    pairs[1:] = [f"{pairs[1]}, {own}", own]  # beside what is measured of any text
    assert [[kind, metrics, kept] for kind, _, metrics, kept, _ in table()] == wanted
    assert list(dict.fromkeys(data.task for data in DATA)) == [*HEADLINE]


def test_the_table_says_what_a_control_learns():
    learnt = [HARD_OBJECTIVE[data.task] for data in DATA]
    wanted = ["nothing: there is no control" if name is None else f"`{name}`" for name in learnt]
    assert [row[-1] for row in table()] == wanted


def test_every_metric_is_explained():
    explained = {name.casefold() for name in re.findall(r"\*\*(.+?)\*\*", under("What each number is"))}
    assert {metric.title.casefold() for metric in (METRICS | MEASURES).values()} <= explained


def test_every_kind_of_task_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", (PAGES / "evaluation.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == ["kind", *get_args(TaskKind)]


def test_the_page_counts_as_the_code_counts():
    for phrase in (
        f"prefill reads {PREFILL_TOKENS} tokens",
        f"decode writes {DECODE_TOKENS} tokens",
        f"Median of {REPEATS} repeats",
        f"{DOCUMENTS} held-out documents, each alone and without padding, {DOCUMENT_REPEATS} repeats",
        f"behind {FLOPS_CONTEXT} tokens",
        f"same {DECODE_TOKENS} tokens",
        f"first {MOST_COMPARED:,} held-out sentences",
        f"resampled: {RESAMPLES:,} times",
        f"{DEVIATIONS} standard errors",
        f"{BINS} bins",
    ):
        assert phrase in SAID, phrase
