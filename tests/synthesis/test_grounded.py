"""The teacher answers over the whole context; what does not stand up to it is dropped with its reason, and kept."""

from dataclasses import replace

import pytest

from stillhouse.data.grounded import ABSTENTION, Context, ContextPassage, Template, prompt_of
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.grounded import Checks, answer_grounded, grounded_records, over_refusals
from stillhouse.synthesis.traces import Answers
from stillhouse.teachers.writer import Reply

TEMPLATE = Template()
PASSAGES = (
    ContextPassage("oslo", "Bo was born in Oslo in 1901.", 1.0, 1),
    ContextPassage("rome", "Ada was born in Rome, by the river Tiber.", 0.5, 2),
)
TOLD = Context(
    "Where was Ada born?", PASSAGES, "distractors", ("Rome",), "rome", 2, True, template=TEMPLATE.fingerprint
)
UNTOLD = replace(TOLD, passages=PASSAGES[:1], mix="removed", gold_at=None, answer_in_context=False)
UNKNOWN = replace(TOLD, answers=(), gold="", gold_at=None, mix="retrieved", answer_in_context=None)

CHECKS = Checks()


def answered(*said: str, context: Context = TOLD, checks: Checks = CHECKS, asked: list | None = None):
    replies = iter(said)

    def ask(requests, **_options):
        if asked is not None:
            asked.extend(requests)
        return [Reply(next(replies), True, 1, 1) for _ in requests]

    samples = max(1, len(said))
    sampling = Sampling(temperature=float(samples > 1))
    return answer_grounded(
        ask,
        grounded_records([context], TEMPLATE, by_data=False),
        {context.hash: context},
        writer="teacher",
        answers=Answers(sampling=sampling, samples=samples),
        template=TEMPLATE,
        checks=checks,
    )


def test_the_teacher_reads_the_whole_context():
    asked: list = []
    (record,) = answered("Rome [2]", asked=asked)
    assert [message["content"] for message in asked[0].messages] == [prompt_of(TOLD, TEMPLATE)]
    assert all(passage.text in asked[0].messages[0]["content"] for passage in PASSAGES)
    assert record.answer == "Rome [2]" and not record.dropped


@pytest.mark.parametrize(
    ("said", "context", "checks", "reason"),
    [
        ("Rome [2]", TOLD, Checks(citing="asked"), ""),
        ("Rome", TOLD, Checks(citing="asked"), "citations: the answer cites nothing"),
        ("Rome [3]", TOLD, Checks(), "citations: the answer cites a passage that is not there ([3] of 2)"),
        (ABSTENTION, TOLD, Checks(), "over_refusal: the teacher over-refused"),
        (ABSTENTION, UNKNOWN, Checks(), ""),
        (
            'As it says, "born in great Rome" [2]',
            TOLD,
            Checks(precision=0),
            "quotes: the answer quotes what no passage",
        ),
        ("My cousin lives near Rome happily today [2]", TOLD, Checks(), "precision: the answer's words are not in"),
        ("born in Oslo [1]", TOLD, Checks(), "right_answer: the answer is not the right one"),
        ("born in Oslo [1]", TOLD, Checks(recall=0), ""),
        ("born in Oslo [1]", UNKNOWN, Checks(), ""),
        ("", TOLD, Checks(), "an empty answer"),
    ],
)
def test_what_does_not_stand_up_is_dropped_with_its_reason(said, context, checks, reason):
    (record,) = answered(said, context=context, checks=checks)
    assert record.dropped.startswith(reason) and bool(record.dropped) is bool(reason)


def test_over_refusals_are_counted():
    assert over_refusals(answered(ABSTENTION)) == 1
    assert over_refusals(answered("Rome [2]")) == 0


def test_where_nothing_tells_nobody_is_asked_and_an_abstention_is_learnt():
    asked: list = []
    (record,) = answered(context=UNTOLD, asked=asked)
    assert not asked and record.answer == ABSTENTION and not record.dropped


def test_held_out_answers_are_the_datas_own():
    asked: list = []
    (record,) = answered(context=replace(TOLD, held_out=True), asked=asked)
    assert not asked and record.answer == "Rome [2]"


def test_a_citation_is_added_by_words_and_said_to_be():
    (record,) = answered("Rome")
    assert record.answer == "Rome [2]" and record.lineage["citation"] == "added by words"
    (record,) = answered("by the river", context=UNKNOWN)
    assert record.answer == "by the river [2]"
    (record,) = answered("Rome", checks=Checks(citing="none"))
    assert record.answer == "Rome"


def test_of_samples_that_agree_the_first_is_learnt_and_those_that_scatter_are_not():
    alike = answered("Rome [2]", "Rome [2]", "Rome [2]")
    assert [bool(record.dropped) for record in alike] == [False, True, True]
    scattered = answered("Rome [2]", "born by the river Tiber [2]")
    assert all(record.dropped.startswith("agreement:") for record in scattered)
