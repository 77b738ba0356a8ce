"""What an answer over passages is worth, by hand; everyone over the same questions; and no difference between equals."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pytest

from stillhouse.core.grounded_results import GROUNDED_METRICS, grounded_result
from stillhouse.data.grounded import ABSTENTION, Context, ContextPassage, Template
from stillhouse.evaluation.grounded import Asking, Timed, judge_grounded, judge_pairs, scores_of, statistics_of
from stillhouse.evaluation.intervals import bootstrapped
from stillhouse.reporting.grounded import grounded_lines, grounded_view

TEMPLATE = Template()
PASSAGES = (
    ContextPassage("oslo", "Bo was born in Oslo in 1901.", 1.0, 1),
    ContextPassage("rome", "Ada was born in Rome, by the river Tiber.", 0.5, 2),
)
TOLD = Context(
    "Where was Ada born?", PASSAGES, "distractors", ("Rome",), "rome", 2, True, template=TEMPLATE.fingerprint
)
UNTOLD = replace(TOLD, passages=PASSAGES[:1], mix="removed", gold_at=None, answer_in_context=False)


def scores(answer: str, context: Context = TOLD) -> dict[str, float]:
    return scores_of(answer, context, TEMPLATE, teacher_said="Rome [2]")


def test_a_right_answer_with_its_source_has_everything():
    found = scores("Rome [2]")
    for name in ("token_f1", "exact_match", "token_recall", "rouge_l", "teacher_f1", "k_precision"):
        assert found[name] == 1
    assert found["citation_precision"] == found["citation_recall"] == found["answered"] == 1
    assert found["unsupported"] == found["over_refusal"] == 0
    assert "abstention_recall" not in found and "abstention_precision" not in found


def test_a_wrong_name_of_the_passages_is_borne_out_and_wrong():
    found = scores("Oslo [1]")
    assert found["token_f1"] == found["citation_precision"] == found["citation_recall"] == 0
    assert found["k_precision"] == 1 and found["unsupported"] == 0  # words are blind to that


def test_what_no_passage_has_is_unsupported():
    assert scores("It was Paris.")["unsupported"] == 1
    assert scores("Rome in 1850 [2]")["unsupported"] == 1
    assert scores("Rome in 1901 [2]")["unsupported"] == 0


def test_an_abstention_where_the_passages_tell_is_a_wrong_answer_and_has_no_words_to_judge():
    found = scores(ABSTENTION)
    assert found["token_f1"] == found["answered"] == found["abstention_precision"] == 0
    assert found["over_refusal"] == 1
    assert not found.keys() & {"k_precision", "unsupported", "citation_recall", "citation_precision"}


def test_an_abstention_where_they_do_not_is_right_and_an_answer_there_is_not():
    assert scores(ABSTENTION, UNTOLD)["abstention_recall"] == scores(ABSTENTION, UNTOLD)["abstention_precision"] == 1
    found = scores("Rome", UNTOLD)
    assert found["abstention_recall"] == 0 and "token_f1" not in found and "over_refusal" not in found


def test_where_passages_contradict_each_other_both_answers_are_right_together_and_neither_alone():
    context = replace(
        TOLD,
        mix="contradiction",
        second_answer="Lima",
        passages=(*PASSAGES, ContextPassage("c", "Ada was born in Lima.")),
    )
    assert scores("The passages disagree: Rome [2], or Lima [3].", context)["both_told"] == 1
    assert scores("Rome [2]", context)["both_told"] == scores(ABSTENTION, context)["both_told"] == 0
    assert "token_f1" not in scores("Rome [2]", context) and "both_told" not in scores("Rome [2]")


def test_of_two_citations_one_that_tells_is_half_precise():
    assert scores("Rome [1][2]")["citation_precision"] == 0.5
    assert scores("Rome [1][2]")["citation_recall"] == 1
    assert "citation_precision" not in scores("Rome") and scores("Rome")["citation_recall"] == 0


def test_every_score_has_its_place_among_the_metrics():
    two = replace(TOLD, mix="contradiction", second_answer="Lima")
    found = {
        name
        for context in (TOLD, UNTOLD, two)
        for answer in ("Rome [2]", ABSTENTION)
        for name in scores(answer, context)
    }
    assert found | {"embedded_support", "judged_support"} == GROUNDED_METRICS.keys()


def test_a_mean_is_over_the_answers_that_have_the_score_and_groups_are_drawn_together():
    statistics = statistics_of([{"f1": 1.0}, {"f1": 0.0}, {"f1": 1.0}, {}], ["a", "a", "b", "c"])
    (found,) = bootstrapped(statistics, set_sizes=[3]).values()
    assert found.value == pytest.approx(2 / 3)
    assert set(found.drawn.round(6)) <= {0.5, 1.0, round(2 / 3, 6), 0.6, 0.75, round(3 / 4, 6), 0.666667}


@dataclass(frozen=True)
class Scripted:
    """Answers that are known; it tells what it was asked."""

    words: str
    asked: list[str]

    def answer(self, prompts: Sequence[str]) -> list[str]:
        self.asked.extend(prompts)
        return [self.words] * len(prompts)


def test_everyone_reads_the_same_and_equal_models_do_not_differ():
    contexts = [replace(TOLD, question=f"{TOLD.question} ({number})", gold=f"{number}") for number in range(4)]
    asking = Asking([*contexts, UNTOLD], TEMPLATE)
    said = {role: Scripted("Rome [2]", []) for role in ("teacher", "student", "student_before")}
    found = judge_grounded(said, asking)
    assert said["student"].asked == said["teacher"].asked
    assert said["student_before"].asked == said["teacher"].asked[:5]  # once, and over its passages
    assert (found.questions, found.told, found.untold) == (5, 4, 1)
    assert found.comparisons
    assert all(one.difference.low == one.difference.high == 0 for one in found.comparisons)
    assert found.kept["student"]["token_f1"].value == 1
    assert TEMPLATE.nothing in "".join(said["student"].asked[5:])
    plain = asdict(found)
    assert json.dumps(asdict(grounded_result(json.loads(json.dumps(plain))))) == json.dumps(plain)
    account = {"result": plain, "mixture": {"distractors": 4, "removed": 1}, "notes": {}, "over_refusals": 2}
    assert any("over-refused 2 times" in line for line in grounded_lines(account))
    view = grounded_view(account)
    assert view is not None and len(view.tables) == 5
    assert grounded_view(None) is None


def test_a_student_of_questions_alone_reads_no_passages():
    said = {role: Scripted("Rome", []) for role in ("teacher", "student")}
    judge_grounded(said, Asking([TOLD], TEMPLATE, frozenset({"student"})))
    assert said["student"].asked == [f"Question: {TOLD.question}"]
    assert PASSAGES[1].text in said["teacher"].asked[0]


def test_who_says_less_is_done_sooner_and_is_timed_as_if_it_said_as_much():
    short, long = Timed(100.0, 20.0, 3), Timed(300.0, 90.0, 10)
    assert short.as_long_as(long) == 100 + 10 * 9
    assert long.as_long_as(long) == 390
    assert Timed(100.0, 0.0, 1).as_long_as(long) == 100


def test_a_pair_is_wrong_where_its_retriever_did_not_find_the_answer():
    said = {role: Scripted("Rome", []) for role in ("teacher", "student")}
    retrieved = {
        "good": Asking([replace(TOLD, mix="retrieved")] * 2, TEMPLATE),
        "bad": Asking([replace(UNTOLD, mix="retrieved")] * 2, TEMPLATE),
    }
    found = judge_pairs(said, retrieved)
    assert [(one.retriever, one.role) for one in found] == [
        ("good", "teacher"), ("good", "student"), ("bad", "teacher"), ("bad", "student"),
    ]  # fmt: skip
    assert [one.found.value for one in found] == [1, 1, 0, 0]
    said = {role: Scripted(ABSTENTION, []) for role in ("teacher", "student")}
    assert judge_pairs(said, retrieved)[2].metrics["token_f1"].value == 0
