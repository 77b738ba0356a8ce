"""One record a question: the same passages for teacher and student, or an error; and what each kind of context promises."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stillhouse.core.citations import abstains, citations, quotes, untrue_quotes, without_citations
from stillhouse.core.errors import StaleError
from stillhouse.core.files import read_lines
from stillhouse.core.lexical import says
from stillhouse.data.grounded import (
    ABSTENTION,
    CONTRADICTED,
    Template,
    cut,
    fixed_answer,
    gold_answer,
    prompt_of,
    read_contexts,
    refuse_other_contexts,
    shuffled,
    without_passages,
    write_contexts,
)
from stillhouse.data.mixture import Mixture, Question, mix

CITIES = {"Ada": "Rome", "Bo": "Oslo", "Cy": "Lima", "Di": "Cairo", "Ed": "Quito", "Flo": "Delhi"}
TEXTS = {name: f"{name} was born in {city}, where the river is wide and slow." for name, city in CITIES.items()}
TEXTS["copy"] = f"{TEXTS['Ada']} Indeed."
QUESTIONS = [Question(f"Where was {name} born?", (city,), name) for name, city in CITIES.items()]


@dataclass(frozen=True)
class Hit:
    id: str
    score: float
    rank: int


def hits(*ids: str) -> list[Hit]:
    return [Hit(one, 1.0 / rank, rank) for rank, one in enumerate(ids, start=1)]


FOUND = [hits(name, *(other for other in TEXTS if other != name)) for name in CITIES]
TEMPLATE = Template()


def made(kind: str, question: Question = QUESTIONS[0], found=FOUND[0], **settings):
    mixture = Mixture(shares={kind: 1.0}, **{"passages": 3, **settings})
    (context,) = mix([question], [found], TEXTS, mixture=mixture, template=TEMPLATE).contexts
    return context


@settings(deadline=None, max_examples=30)
@given(
    shares=st.dictionaries(
        st.sampled_from(["distractors", "retrieved", "removed", "contradiction", "none"]),
        st.floats(0.01, 1),
        min_size=1,
    ),
    count=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_each_kind_has_its_share_to_a_question(shares, count, seed):
    questions = [replace(QUESTIONS[number % 6], text=f"{number}?") for number in range(count)]
    found = [FOUND[number % 6] for number in range(count)]
    mixed = mix(questions, found, TEXTS, mixture=Mixture(shares=shares, seed=seed), template=TEMPLATE)
    if not mixed.notes:
        kinds = Counter(context.mix for context in mixed.contexts)
        assert all(abs(kinds[kind] - count * share / sum(shares.values())) < 1 for kind, share in shares.items())
    again = mix(questions, found, TEXTS, mixture=Mixture(shares=shares, seed=seed), template=TEMPLATE)
    assert [one.hash for one in again.contexts] == [one.hash for one in mixed.contexts]


def test_hard_distractors_come_from_behind_the_gold_passage_and_are_not_its_like():
    context = made("distractors", found=hits("Bo", "Ada", "copy", "Cy", "Di"))
    assert {one.id for one in context.passages} == {"Ada", "Cy", "Di"}
    assert context.passages[context.gold_at - 1].id == "Ada"
    assert context.answer_in_context is True
    assert {made("distractors", seed=seed).gold_at for seed in range(20)} == {1, 2, 3}


def test_a_gold_passage_that_was_not_found_is_put_there_and_few_distractors_are_made_up_from_before():
    assert {one.id for one in made("distractors", found=hits("Bo", "Cy")).passages} == {"Ada", "Bo", "Cy"}
    context = made("distractors", found=hits("Bo", "copy", "Cy", "Ada"))
    assert {one.id for one in context.passages} == {"Ada", "Bo", "Cy"}


def test_what_is_retrieved_stays_in_its_order():
    context = made("retrieved", found=hits("Bo", "Ada", "Cy", "Di"))
    assert [(one.id, one.rank) for one in context.passages] == [("Bo", 1), ("Ada", 2), ("Cy", 3)]
    assert context.gold_at == 2


def test_where_the_gold_passage_is_removed_nothing_tells_and_the_answer_is_an_abstention():
    context = made("removed", found=hits("Ada", "copy", "Bo", "Cy"))
    assert {one.id for one in context.passages} == {"Bo", "Cy"}
    assert not context.gold_present and context.answer_in_context is False
    assert fixed_answer(context, TEMPLATE) == gold_answer(context, TEMPLATE) == ABSTENTION


def test_without_a_passage_the_answer_is_an_abstention():
    context = made("none")
    assert context.passages == () and fixed_answer(context, TEMPLATE) == ABSTENTION
    assert TEMPLATE.nothing in prompt_of(context, TEMPLATE)


def test_retrieval_that_missed_the_answer_makes_an_abstention_too():
    assert fixed_answer(made("retrieved", found=hits("Bo", "Cy")), TEMPLATE) == ABSTENTION


def test_a_contradiction_names_both_answers_with_their_passages():
    mixed = mix(QUESTIONS, FOUND, TEXTS, mixture=Mixture(shares={"contradiction": 1}, passages=3), template=TEMPLATE)
    assert not mixed.notes
    for context in mixed.contexts:
        answer = fixed_answer(context, TEMPLATE)
        assert context.second_answer != context.answers[0]
        assert citations(answer) == sorted(citations(answer))
        for number in citations(answer):
            passage = context.passages[number - 1]
            told = context.second_answer if passage.id.endswith(CONTRADICTED) else context.answers[0]
            assert says(passage.text, told) and f"{told} [{number}]" in answer


def test_a_kind_that_a_question_cannot_have_is_counted():
    mixed = mix([Question("Who?")], [FOUND[0]], TEXTS, mixture=Mixture(shares={"distractors": 1}), template=TEMPLATE)
    assert mixed.contexts[0].mix == "retrieved" and mixed.contexts[0].answer_in_context is None
    assert mixed.notes == {"distractors: no gold passage is known; answered over what was retrieved": 1}


def test_a_right_answer_cites_the_passage_that_says_it():
    context = made("retrieved", found=hits("Bo", "Ada"))
    assert gold_answer(context, TEMPLATE) == "Rome [2]"


def test_a_context_comes_back_from_disk_and_a_changed_one_is_refused(tmp_path):
    file, contexts = tmp_path / "contexts.jsonl", [made("distractors"), made("none"), made("contradiction")]
    write_contexts(contexts, file)
    assert read_contexts(file) == contexts
    file.write_text(file.read_text(encoding="utf-8").replace("Rome", "Roma", 1), encoding="utf-8")
    with pytest.raises(StaleError, match="line 1.*not what was answered"):
        read_contexts(file)


def test_a_retrieval_that_was_run_again_is_refused():
    context = made("retrieved", found=hits("Bo", "Ada", "Cy"))
    row = {"context": context.hash, "prompt": prompt_of(context, TEMPLATE)}
    refuse_other_contexts([row], [context], TEMPLATE)
    for other in (
        made("retrieved", found=hits("Ada", "Bo", "Cy")),  # another order
        made("retrieved", found=hits("Bo", "Ada", "Cy"), passage_characters=40),  # another cut
        replace(context, retriever="another"),
    ):
        with pytest.raises(StaleError, match="retrieved again"):
            refuse_other_contexts([row], [other], TEMPLATE)
    with pytest.raises(StaleError, match="does not show the passages"):
        refuse_other_contexts([{**row, "prompt": row["prompt"][:-1]}], [context], TEMPLATE)
    with pytest.raises(StaleError, match="another template"):
        prompt_of(context, Template(nothing="none"))


def test_ablations_keep_the_question_and_all_that_is_known_of_the_passages():
    context = made("distractors")
    assert without_passages(context).passages == () and without_passages(context).answer_in_context is False
    other = shuffled(context, seed=3)
    assert sorted(one.id for one in other.passages) == sorted(one.id for one in context.passages)
    assert other.passages[other.gold_at - 1].id == "Ada"
    assert other.hash != context.hash or other == context


def test_a_passage_is_cut_at_white_space_and_text_without_any_anywhere():
    assert cut("the river is wide", characters=12) == "the river is"
    assert cut("the river is wide", characters=11) == "the river"
    assert cut("東京都の人口", characters=3) == "東京都"
    assert cut("short", characters=10) == "short"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"passage": "[{number}]"}, "without {text}"),
        ({"question": "?"}, "without {question}"),
        ({"question": "{question} {x}"}, "other braces"),
        ({"abstention": " . "}, "is empty"),
    ],
)
def test_a_template_that_shows_too_little_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        Template(**changes)


# Strings.


@pytest.mark.parametrize(
    ("answer", "cited", "rest"),
    [
        ("Rome [2].", [2], "Rome."),
        ("Rome [1][3] or [1, 2]", [1, 3, 2], "Rome or"),
        ("Rome", [], "Rome"),
        ("a[i] and [x]", [], "a[i] and [x]"),
    ],
)
def test_citations_by_hand(answer, cited, rest):
    assert citations(answer) == cited
    assert without_citations(answer) == rest


def test_quotes_must_stand_in_the_context():
    text = "The river is wide and slow."
    assert quotes('“river is wide” and "Rome"') == ["river is wide"]
    assert untrue_quotes('It says "the River is wide" and "the river is deep".', text) == ["the river is deep"]


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        (ABSTENTION, True),
        ("The passages don’t mention where she was born.", True),
        ("The provided text does not contain that information.", True),
        ("I don't know.", True),
        ("It cannot be determined from the passages.", True),
        ("There is no information about this.", True),
        ("This is not mentioned in the passages.", True),
        ("", True),
        ("[1]", False),
        ("Rome [1].", False),
        ("She could not swim, and was born in Rome.", False),
        ("No, it was Rome.", False),
        ("Not Oslo but Rome", False),
    ],
)
def test_abstentions_by_hand(answer, is_one):
    assert abstains(answer, abstention=ABSTENTION) is is_one


def test_an_abstention_of_ones_own_is_known_in_any_language():
    assert abstains("Das steht nicht in den Texten.", abstention="Das steht nicht in den Texten")
    assert not abstains("Das steht nicht in den Texten.")


def test_a_record_is_written_with_its_hash(tmp_path):
    write_contexts([made("none")], tmp_path / "contexts.jsonl")
    (line,) = read_lines(tmp_path / "contexts.jsonl")
    assert line["hash"] == made("none").hash
