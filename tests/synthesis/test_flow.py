"""From a source to what is learnt: what the teacher reads, what the student sees, and a kill at any reply."""

import json
from functools import partial
from random import Random

import pytest

from stillhouse.core.errors import DataError
from stillhouse.core.files import read_lines
from stillhouse.models.generate import Sampling
from stillhouse.synthesis import Answers, Further, converse, write_synthetic
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.sources import magpie_questions, self_instruct_questions
from stillhouse.synthesis.traces import EXPLAIN, as_the_teacher_reads, final_answer

from .scripted import Killed, Scripted, ask_of, prompt_of

SAMPLING = Sampling(max_new_tokens=5)
QUESTION = Record(lineage={"source": "test", "reference": "4"}).say("user", "2 + 2?")


def asked(*questions):
    return lambda ask: [Record(lineage={"source": "test"}).say("user", text) for text in questions]


def run(folder, say, source, **options):
    ask, writer = ask_of(folder, say)
    return converse(ask, source, writer="scripted", **{"answers": Answers(SAMPLING), **options}), writer


def test_the_teacher_alone_reads_system_prompts_and_the_student_sees_question_and_answer(tmp_path):
    (record,), writer = run(tmp_path, lambda request: " so ", asked("why?"), answers=Answers(SAMPLING, system="S"))
    assert [m["role"] for m in writer.asked[0].messages] == ["system", "user"]
    assert record.messages == ({"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"})
    assert record.lineage["teacher"] == "scripted" and record.lineage["answer"]["system"] == "S"


def test_explanations_are_asked_for_under_several_system_prompts():
    read = [as_the_teacher_reads(QUESTION, Answers(trace="explain"), seed=str(n))[0]["content"] for n in range(30)]
    assert set(read) == set(EXPLAIN)


@pytest.mark.parametrize(
    ("learn", "reply", "seen", "dropped"),
    [
        ("all", "two and two\nAnswer: 4", "two and two\nAnswer: 4", ""),
        ("answer", "two and two\n**Answer:** 4", "4", ""),
        ("answer", "Answer: 3? no.\nanswer: 4", "4", ""),
        ("answer", "two and two", "two and two", "a chain of thought without a marked answer"),
        ("all", "  ", "", "an empty answer"),
    ],
)
def test_of_a_chain_of_thought_the_student_sees_what_the_rule_says(tmp_path, learn, reply, seen, dropped):
    answers = Answers(SAMPLING, trace="think", learn=learn)
    (record,), writer = run(tmp_path, lambda request: reply, asked("2 + 2?"), answers=answers)
    assert "'Answer:'" in prompt_of(writer.asked[0]) and record.question == "2 + 2?"
    assert (record.answer, record.dropped) == (seen, dropped)
    if learn == "answer" and not dropped:
        assert record.lineage["answer"]["trace_text"] == reply


def test_what_stands_behind_the_last_marker_is_the_answer():
    assert final_answer("Answer: 1\nRESULT: 2", "Result:") == "2"
    assert final_answer("none") is None and final_answer("Answer:") is None


def test_a_passage_and_a_demonstration_are_the_teachers_alone():
    passage = Record(lineage={"passage": "Ada sang."}).say("user", "Who sang?")
    system, user = as_the_teacher_reads(passage, Answers())
    assert "do not mention it" in system["content"] and user["content"].startswith("Ada sang.")
    shown = Record(lineage={**passage.lineage, "student_reads_passage": True}).say("user", "Ada sang. Who?")
    assert as_the_teacher_reads(shown, Answers()) == list(shown.messages)
    (told,) = as_the_teacher_reads(QUESTION, Answers(demonstrate=True))
    assert "\n\n4\n\n" in told["content"]
    assert as_the_teacher_reads(QUESTION, Answers(demonstrate=True), turn=1) == list(QUESTION.messages)
    assert as_the_teacher_reads(QUESTION, Answers()) == list(QUESTION.messages)


@pytest.mark.parametrize("user", ["opening", "played"])
def test_a_simulated_user_goes_on_and_one_without_a_question_ends_a_whole_conversation(tmp_path, tokenizer, user):
    def say(request):
        if request.prefix is not None or prompt_of(request).startswith("Here is a conversation"):
            ended = "b?" in str(request.prefix or prompt_of(request))
            return "" if ended else "and then?"
        return f"answer {len(request.messages)}"

    records, _ = run(
        tmp_path,
        say,
        asked("a?", "b?"),
        tokenizer=tokenizer,
        further=Further(turns=1, user=user, sampling=SAMPLING),
        answers=Answers(SAMPLING, samples=2),
    )
    said = [[message["content"] for message in record.messages] for record in records]
    assert said == [["b?", "answer 1"], *[["a?", "answer 1", "and then?", "answer 3"]] * 2]
    assert [record.lineage["answer"]["sample"] for record in records[1:]] == [0, 1]


def test_questions_are_cleaned_before_they_are_answered_and_what_is_dropped_stays_with_its_reason(tmp_path):
    def clean(records):
        return [r if r.dropped or "bad" not in r.question else r.drop("keywords: bad (here)") for r in records]

    ask, writer = ask_of(tmp_path, lambda request: "so")
    make = partial(
        converse, source=asked("good", "bad", "good too"), writer="w", answers=Answers(SAMPLING), clean=clean
    )
    made = write_synthetic(lambda _: make(ask), writer, folder=tmp_path / "data", about={"x": 1})
    assert len(writer.asked) == 2
    assert [row["messages"][0]["content"] for row in read_lines(tmp_path / "data" / "synthetic.jsonl")] == [
        "good",
        "good too",
    ]
    assert [row["dropped"] for row in read_lines(tmp_path / "data" / "dropped.jsonl")] == ["keywords: bad (here)"]
    assert made.dropped == {"keywords: bad": 1} and made.card["x"] == 1
    assert json.loads((tmp_path / "data" / "card.json").read_text())["counts"]["kept"] == made.kept == 2


def test_an_answer_that_was_cut_off_has_no_end_to_learn(tmp_path):
    writer = Scripted(lambda request: ("so", False))
    write_synthetic(
        partial(converse, source=asked("a", "b"), writer="w", answers=Answers(SAMPLING)), writer, folder=tmp_path
    )
    rows = read_lines(tmp_path / "synthetic.jsonl")
    assert all(row["messages"][-1]["finished"] is False for row in rows)


def test_too_little_that_is_kept_is_said_with_the_reasons(tmp_path):
    make = partial(converse, source=asked("a", "b"), writer="w", answers=Answers(SAMPLING))
    with pytest.raises(DataError, match=r"0 of 2 records are kept.*an empty answer 2"):
        write_synthetic(make, Scripted(lambda request: ""), folder=tmp_path)


# Killed at any instant.

WORDS = [f"{letter}{letter}a" for letter in "bcdfghjklmnpqrst"]


def babble(request):
    """Different for each request, and the same each time."""
    draw = Random(request.key)
    if request.prefix is None and "numbered list" in prompt_of(request):
        return "\n".join(f"{n}. {' '.join(draw.sample(WORDS, 4))}" for n in range(1, 4))
    return " ".join(draw.sample(WORDS, 3)), draw.random() < 0.9


def whole_program(tokenizer):
    """Tasks that grow from their own, answers, two further turns, several samples."""

    def source(ask):
        tasks = self_instruct_questions(
            ask, seeds=["seed one", "seed two"], number=6, at_once=3, requests_per_round=2, sampling=SAMPLING
        )
        return [*tasks, *magpie_questions(ask, tokenizer=tokenizer, number=4, sampling=SAMPLING)]

    return partial(
        converse,
        source=source,
        writer="scripted",
        answers=Answers(SAMPLING, samples=2),
        tokenizer=tokenizer,
        further=Further(turns=1, sampling=SAMPLING),
    )


FILES = ("synthetic.jsonl", "dropped.jsonl")


@pytest.mark.parametrize("instant", range(20))
def test_a_kill_at_20_random_instants_gives_the_same_set_and_pays_for_nothing_twice(tokenizer, tmp_path, instant):
    make = whole_program(tokenizer)
    whole = Scripted(babble)
    made = write_synthetic(make, whole, folder=tmp_path / "whole")
    draw = Random(instant)
    total, kills = len(whole.asked), 0
    first = Scripted(babble, most=draw.randrange(total))
    with pytest.raises(Killed):
        write_synthetic(make, first, folder=tmp_path / "killed")
    paid = len(first.asked)
    while True:  # killed again and again, and answered in another order
        more = Scripted(babble, most=draw.randint(1, 12), backwards=draw.random() < 0.5)
        try:
            again = write_synthetic(make, more, folder=tmp_path / "killed")
        except Killed:
            kills, paid = kills + 1, paid + len(more.asked)
            continue
        paid += len(more.asked)
        break
    assert paid == total
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {**again.card, "seconds": 0} == {**made.card, "seconds": 0}
    assert again.card["cost"]["money"] == 0.5 * total


def test_a_line_that_a_kill_cut_off_is_asked_for_again(tokenizer, tmp_path):
    make = whole_program(tokenizer)
    write_synthetic(make, Scripted(babble), folder=tmp_path / "whole")
    with pytest.raises(Killed):
        write_synthetic(make, Scripted(babble, most=7), folder=tmp_path / "killed")
    ledger = tmp_path / "killed" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    write_synthetic(make, Scripted(babble), folder=tmp_path / "killed")
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
