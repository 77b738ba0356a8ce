"""Who says whether an answer is borne out: what it is shown, what it says where all is wrong, and replies that tell nothing."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from pydantic import ValidationError

from stillhouse.core.errors import StillhouseError
from stillhouse.core.grounded_results import GROUNDED_METRICS
from stillhouse.data.grounded import ABSTENTION, Context, ContextPassage, Template
from stillhouse.evaluation.grounded import Asking, judge_grounded
from stillhouse.evaluation.support import (
    AskedSupport,
    EmbeddedSupport,
    FunctionSupport,
    GroundingConfig,
    Shown,
    SupportJudgeConfig,
    beside_others,
    read_support,
    sentences,
    shown_of,
    supported,
)
from stillhouse.reporting.grounded import grounded_view
from stillhouse.teachers.writer import Reply

TEMPLATE = Template()
NAMES = {"Ada": "Rome", "Bo": "Oslo", "Cy": "Lima", "Di": "Cairo"}
CONTEXTS = [
    Context(
        f"Where was {name} born?",
        (ContextPassage(name, f"{name} was born in {city}."), ContextPassage(f"{name} too", f"{name} likes tea.")),
        "distractors",
        (city,),
        name,
        1,
        True,
        template=TEMPLATE.fingerprint,
    )
    for name, city in NAMES.items()
]


def of_words(texts):
    """Each text as the words that it has: nothing in common is a cosine of 0."""
    vocabulary = sorted({word.strip(".?").lower() for context in CONTEXTS for word in (*context.text.split(), "zinc")})
    rows = [[float(word in text.lower().replace(".", "").split()) for word in vocabulary] for text in texts]
    return np.array(rows, dtype=np.float32) + 1e-9


def test_an_answer_stands_beside_the_passages_that_it_cites_or_else_all_and_an_abstention_beside_none():
    said = ["Rome [1]", "Oslo", ABSTENTION, "Cairo [7]"]
    cited, all_of_them, nothing, strange = shown_of(said, CONTEXTS, TEMPLATE)
    assert cited == Shown("Where was Ada born?", ("Ada was born in Rome.",), "Rome")
    assert len(all_of_them.passages) == len(strange.passages) == 2
    assert nothing is None
    others = beside_others([cited, None, None, strange], CONTEXTS)
    assert [len(several) for several in others] == [3, 3]
    assert all(one.answer == "Rome" and "Ada" not in one.passages[0] for one in others[0])
    assert all(len(one.passages) == 1 for one in others[0])  # as many as it was shown


def test_what_is_said_in_the_passages_words_is_near_and_what_is_not_is_not():
    support = EmbeddedSupport(of_words, "words")
    right = [f"{name} was born in {city} [1]" for name, city in NAMES.items()]
    strange = ["Zinc [1]."] * len(CONTEXTS)
    scores, account = supported(support, {"teacher": right, "student": strange}, CONTEXTS, TEMPLATE)
    assert scores == {"teacher": [1.0] * 4, "student": [0.0] * 4}
    assert account.asked == 8 and account.untold == 0
    assert account.error is not None and account.error.value == 0
    # It is blind to a name in the wrong place: what the passage is about is all that it sees.
    wrong = replace(CONTEXTS[0], passages=(ContextPassage("Ada", "Ada was born in Rome."),))
    assert support.shares([Shown(wrong.question, ("Ada was not born in Rome.",), "Ada was born in Rome.")]) == [1.0]


@dataclass
class Judge:
    """Replies that are known."""

    replies: list[str]
    read: list[str] = field(default_factory=list)

    def __call__(self, requests, *, title):
        self.read += [request.messages[0]["content"] for request in requests]
        return [
            Reply(self.replies[number % len(self.replies)], True, 1, 1)
            for number in range(len(self.read) - len(requests), len(self.read))
        ]


def test_a_judge_that_says_yes_to_everything_is_found_out():
    judge = Judge(["All of it.\nSupported: yes"])
    said = {"teacher": ["Rome [1]", "Oslo", "Lima", ABSTENTION], "student": [ABSTENTION] * 4}
    scores, account = supported(AskedSupport(judge, "a judge"), said, CONTEXTS, TEMPLATE)
    assert scores["teacher"] == [1.0, 1.0, 1.0, None] and scores["student"] == [None] * 4
    assert account.error is not None and account.error.value == 1
    assert "[1] Ada was born in Rome." in judge.read[0] and "[Answer]\nRome\n" in judge.read[0]
    assert "Ada" not in judge.read[3].partition("[Question]")[0]  # the same answer beside what it has not read


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("Supported: yes", 1.0),
        ("It is there.\n**Supported: Partly**", 0.5),
        ("- supported: no.", 0.0),
        ("yes", None),
        ("Supported: yes\nSupported: no", None),
        ("", None),
    ],
)
def test_a_reply_is_read_by_its_one_line_or_not_at_all(said, worth):
    assert read_support(said) == worth


def test_replies_that_tell_nothing_are_counted_and_make_no_number():
    said = {"teacher": ["Rome", "Oslo", "Lima", "Cairo"], "student": ["Rome", "Oslo", "Lima", "Cairo"]}
    scores, account = supported(AskedSupport(Judge(["Hm."]), "a judge"), said, CONTEXTS, TEMPLATE)
    assert set(scores["student"]) == {None} and account.untold == account.asked == 8 and account.error is None


def test_a_function_says_a_share_or_nothing_and_anything_else_is_refused():
    def follows(question, passages, answer):
        return None if answer == "Oslo" else float(any(answer in passage for passage in passages))

    said = {"teacher": ["Rome [1]", "Oslo", "Paris", "Cairo"]}
    scores, account = supported(FunctionSupport(follows, "nli:follows"), said, CONTEXTS, TEMPLATE)
    assert scores["teacher"] == [1.0, None, 0.0, 1.0] and account.untold == 1
    with pytest.raises(StillhouseError, match=r"nli:follows returned 3 .*from 0 to 1"):
        FunctionSupport(lambda **_: 3, "nli:follows").shares([Shown("?", ("a",), "b")])


def test_what_is_named_wrongly_is_refused_in_the_recipes_words():
    with pytest.raises(ValidationError, match="neither sentence_model nor judge"):
        GroundingConfig()
    with pytest.raises(ValidationError, match=r"no \{passages\}"):
        SupportJudgeConfig(by={"kind": "local", "model": "x"}, prompt="{question} {answer}")
    with pytest.raises(ValidationError, match="names no function"):
        SupportJudgeConfig(by={"kind": "function", "name": "nli"})


@dataclass(frozen=True)
class Scripted:
    """One answer to everything."""

    words: str

    def answer(self, prompts):
        return [self.words] * len(prompts)


def test_the_report_says_who_said_so_and_what_that_is_worth():
    judge = AskedSupport(Judge(["Supported: yes", "Hm."]), "tiny-judge")
    said = {"teacher": Scripted("Rome [1]"), "student": Scripted("Oslo")}
    found = judge_grounded(said, Asking(CONTEXTS, TEMPLATE), supports=[judge, EmbeddedSupport(of_words, "minilm")])
    assert {"judged_support", "embedded_support"} <= found.reading("student").metrics.keys()
    assert "judged_support" not in found.reading("student", "shuffled").metrics
    from dataclasses import asdict

    view = grounded_view({"result": asdict(found), "mixture": {"distractors": 4}, "notes": {}, "over_refusals": 0})
    assert view is not None
    notes = " ".join(view.notes)
    assert "by tiny-judge" in notes and "all of them wrongly" in notes and "4 got no reply" in notes
    assert GROUNDED_METRICS["judged_support"].title in [title for table in view.tables for title, _ in table.columns]


def test_sentences_without_a_word_are_none():
    assert sentences("One. Two!\n[1]. ...") == ["One.", "Two!", "[1]."]
