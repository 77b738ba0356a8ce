"""Negatives are hard, none of them answers, and every question has as many."""

import pytest

from stillhouse.retrieval import Passage
from stillhouse.retrieval.documents import same_text
from stillhouse.retrieval.hits import as_hits
from stillhouse.retrieval.mining import Candidates, FalseNegatives, candidates_of, choose_negatives, positives_of
from stillhouse.retrieval.questions import Question

PASSAGES = [*(Passage(f"p{n}", f"text {n}") for n in range(10)), Passage("copy", "text 0")]
COPIES = same_text(PASSAGES)
IDS = [passage.id for passage in PASSAGES]
ASKED = [Question("q", "what", {"p0": 2, "p1": 1})]


def hits(*ids):
    return as_hits(ids, [1.0] * len(ids))


def test_candidates_come_in_turn_without_what_answers_or_copies_of_it():
    found = {"bm25": [hits("p0", "p2", "p3", "copy")], "student": [hits("p4", "p2", "p1", "p5")]}
    (candidates,) = candidates_of(ASKED, found, same_text=COPIES, depth=10)
    assert candidates.passages == ("p4", "p2", "p3", "p5")
    (fewer,) = candidates_of(ASKED, found, same_text=COPIES, depth=2)
    assert fewer.passages == ("p4", "p2")


def chosen(filters, *, number=2, pick="hardest", **scores):
    (candidates,) = candidates_of(ASKED, {"bm25": [hits("p2", "p3", "p4")]}, same_text=COPIES, depth=10)
    known = {("q", "p0"): 10.0, ("q", "p2"): 9.0, ("q", "p3"): 5.0, ("q", "p4"): -3.0}
    known |= {("q", name): score for name, score in scores.items()}
    rows, account = choose_negatives(
        [candidates], known, number=number, filters=filters, corpus=IDS, same_text=COPIES, pick=pick
    )
    return rows[0][1], account


def test_the_positive_is_the_best_graded_and_comes_first():
    assert chosen(FalseNegatives())[0] == ("p0", "p2", "p3")


def test_of_several_that_answer_alike_the_teacher_says_which_is_the_positive():
    asked = Question("q", "what", {"p0": 1, "p1": 2, "p2": 2})
    scores = {("q", "p0"): 9.0, ("q", "p1"): 1.0, ("q", "p2"): 5.0, ("q", "p3"): 0.0}
    rows, _ = choose_negatives(
        [Candidates(asked, ("p3",))], scores, number=1, filters=FalseNegatives(), corpus=IDS, same_text=COPIES
    )
    assert rows[0][1] == ("p2", "p3")
    assert positives_of(asked) == ("p1", "p2")


@pytest.mark.parametrize(
    "filters",
    [FalseNegatives(margin=2.0), FalseNegatives(relative_margin=0.2), FalseNegatives(max_score=8.0)],
)
def test_what_the_teacher_takes_for_an_answer_is_no_negative(filters):
    passages, account = chosen(filters)
    assert passages == ("p0", "p3", "p4")
    assert account.taken_for_answers == 1


def test_a_relative_margin_means_the_same_for_scores_below_nought():
    """A share of a negative score would otherwise move the limit up."""
    passages, _ = chosen(FalseNegatives(relative_margin=0.1), number=1, p0=-4.0, p2=-4.2, p3=-9.0)
    assert passages == ("p0", "p3")


def test_a_percentile_is_of_the_positives():
    assert FalseNegatives(percentile=50).limit(10.0, [1.0, 2.0, 3.0]) == 2.0


def test_where_too_few_are_left_others_fill_up_that_do_not_answer():
    passages, account = chosen(FalseNegatives(), number=6)
    assert len(passages) == 7 and len(set(passages)) == 7
    assert account.filled_up == 3
    assert not {"p1", "copy"} & set(passages)
    assert chosen(FalseNegatives(), number=6)[0] == passages


def test_drawn_at_random_they_depend_on_the_question_and_the_seed_alone():
    assert chosen(FalseNegatives(), number=3, pick="random") == chosen(FalseNegatives(), number=3, pick="random")
