"""The report, the card and the terminal say of a retriever what was measured."""

import pytest

from stillhouse.core.results import Interval
from stillhouse.core.retrieval_results import AGREEMENT, QUALITY, Difference, RetrievalResult, RetrieverResult
from stillhouse.reporting.retrieval import (
    RetrievalAccount,
    findings_of,
    retrieval_lines,
    write_retrieval_card,
    write_retrieval_report,
)


def around(value: float) -> Interval:
    return Interval(value, value - 0.1, value + 0.1)


@pytest.fixture
def result() -> RetrievalResult:
    retrievers = [
        RetrieverResult(
            name,
            f"the {name}",
            "<b>detail</b>",
            dict.fromkeys(QUALITY, around(value)),
            dict.fromkeys(AGREEMENT, around(0.5)) if name != "teacher" else {},
            around(20.0),
        )
        for name, value in (("teacher", 0.8), ("student", 0.7), ("student_before", 0.4), ("bm25", 0.65))
    ]
    differences = [Difference("ndcg@10", "student_before", around(0.3)), Difference("ndcg@10", "bm25", around(0.05))]
    return RetrievalResult(40, 1_000, False, retrievers, differences, dict.fromkeys(QUALITY, around(0.88)))


@pytest.fixture
def account(result) -> RetrievalAccount:
    side = dict.fromkeys(("deviation", "reach", "margin", "temperature", "candidates", "proposed"), 1.0)
    return RetrievalAccount(
        plan={},
        title="mine",
        result=result,
        teacher="cross",
        curves={"student": [{"step": n, "tokens": n, "margin_mse": 1 / n, "loss": 1 / n} for n in (1, 2, 3)]},
        scales={"teacher": side, "student": side, "output": "logits", "advice": ["scale 60 would fit."]},
        mining={"candidates": 90, "taken_for_answers": 2, "filled_up": 1},
        recipe_yaml="run: runs/mine\n",
        stages=[{"name": "train", "seconds": 3.0}],
        documents={"documents": 5, "empty": 1, "duplicates": 0, "questions": 30},
    )


def test_the_report_has_every_section_and_escapes_what_is_not_ours(account, tmp_path):
    write_retrieval_report(tmp_path / "report.html", account)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in (
        "Quality",
        "Beside the teacher",
        "Cost",
        "Training",
        "scale 60 would fit",
        "run: runs/mine",
        "margin MSE",
    ):
        assert said in page
    assert "<b>detail</b>" not in page


def test_a_gain_is_claimed_only_where_the_interval_leaves_no_other(result):
    assert [finding.outcome for finding in findings_of(result)] == ["gain", "none"]
    lines = retrieval_lines(result)
    assert "88 % [78, 98] of its teacher's" in lines[6]
    assert len(lines) == 9


def test_the_card_has_a_table_and_the_recipe(account, tmp_path):
    write_retrieval_card(tmp_path / "README.md", account)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    assert "| the student | 0.700 [0.600, 0.800] |" in card and "run: runs/mine" in card
