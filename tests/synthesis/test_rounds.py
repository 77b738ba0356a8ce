"""Asking on until enough is kept: a bound, the same again after a kill, and nothing asked twice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.config import parse_recipe
from stillhouse.core.progress import Silent
from stillhouse.synthesis.config import ContinueConfig, QuestionsConfig, SelfInstructConfig
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rounds import SURPLUS, next_size, until_kept, without_surplus

from .scripted import Killed, ask_of


def records_of(marks):
    return [Record(text=str(number), dropped="" if is_kept else "bad") for number, is_kept in enumerate(marks)]


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 30), st.integers(0, 150))
def test_as_many_are_kept_as_were_asked_for_unless_the_bound_comes_first(marks, kept, more):
    most, sizes_seen = min(kept + more, len(marks)), []

    def make(sizes):
        sizes_seen.append(list(sizes))
        return records_of(marks[: sum(sizes)]), sum(sizes)

    found = until_kept(make, kept=kept, most=most)
    asked, num_kept = len(found), sum(not record.dropped for record in found)
    assert asked <= most and num_kept == min(kept, sum(marks[:asked]))
    assert num_kept == kept or asked == most
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(sizes_seen))
    assert len(sizes_seen) <= 40, "it comes to an end"


def test_what_is_kept_beyond_the_number_is_dropped_and_said():
    found = without_surplus(records_of([True, False, True, True]), 2)
    assert [record.dropped for record in found] == ["", "bad", "", SURPLUS]


def test_the_next_round_follows_the_share_that_was_kept():
    assert next_size(10, share=0.5, room=100, before=50) == 22  # 10 % to spare
    assert next_size(10, share=0.0, room=100, before=30) == 60, "never more than twice the round before"
    assert next_size(10, share=0.5, room=7, before=50) == 7
    assert next_size(1, share=1.0, room=9, before=1) == 2


TEXTS = {"kind": "continue", "kept": 6, "most": 90, "sampling": {"max_new_tokens": 5}, "seed": 3}


def program(wanted, ask):
    def make(sizes):
        texts = wanted.in_rounds(None, sizes)(ask)
        return [one if int(one.text) % 3 == 0 else one.drop("bad") for one in texts], len(texts)

    return until_kept(make, kept=wanted.kept, most=wanted.asked_at_most)


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@given(there_are=st.integers(0, 20), kept=st.integers(1, 30))
def test_a_source_that_dries_up_ends_it_with_what_there_is(there_are, kept):
    def make(sizes):
        questions = min(there_are, sum(sizes))
        return records_of([n % 2 == 0 for n in range(questions)]), questions

    said = Said()
    found = until_kept(make, kept=kept, most=100, progress=said)
    num_kept = sum(not record.dropped for record in found)
    assert num_kept == min(kept, -(-there_are // 2))
    is_short = f"{num_kept} of {kept} records are kept: there are no more than {there_are} questions"
    assert (num_kept < kept) == any(line.startswith(is_short) for line in said.lines)


def number_in(request):
    return str(int(request.key, 16) % 1000)


def test_a_kill_changes_nothing_and_nothing_is_asked_twice(tmp_path):
    wanted = parse_recipe(ContinueConfig, TEXTS, source="x")
    ask, writer = ask_of(tmp_path, number_in, name="whole")
    whole = program(wanted, ask)
    assert sum(not record.dropped for record in whole) == 6 and len(writer.asked) == len(whole) > 6
    for most in range(1, len(whole), 5):
        ask, first = ask_of(tmp_path, number_in, name=f"killed{most}", most=most)
        with pytest.raises(Killed):
            program(wanted, ask)
        ask, second = ask_of(tmp_path, number_in, name=f"killed{most}")
        assert program(wanted, ask) == whole
        assert len(first.asked) + len(second.asked) == len(whole)


def test_a_file_of_questions_is_taken_from_the_top_and_ends(tmp_path):
    (tmp_path / "questions.txt").write_text("\n".join(f"why {n}?" for n in range(7)))
    values = {"kind": "questions", "path": str(tmp_path / "questions.txt"), "kept": 9}
    wanted = parse_recipe(QuestionsConfig, values, source="x")
    ask, _ = ask_of(tmp_path, number_in)
    asked = wanted.in_rounds(None, [2, 3])(ask)
    assert [record.question for record in asked] == [f"why {n}?" for n in range(5)]
    assert len(wanted.in_rounds(None, [2, 30])(ask)) == 7


def test_rounds_of_self_instruct_go_on_with_one_list_until_it_dries_up(tmp_path):
    (tmp_path / "tasks.txt").write_text("sing of the old sea\n")
    letters = iter("bcdfghjkl")
    known = {}

    def say(request):
        letter = known.setdefault(request.key, next(letters, "b"))
        return f"1. {' '.join(f'{letter}{word}' for word in ('ax', 'ex', 'ix', 'ox'))}"

    values = {"kind": "self_instruct", "path": str(tmp_path / "tasks.txt"), "kept": 20, "at_once": 1, "batch_size": 1}
    wanted = parse_recipe(SelfInstructConfig, values, source="x")
    ask, writer = ask_of(tmp_path, say)
    first = wanted.in_rounds(None, [3])(ask)
    asked = len(writer.asked)
    found = wanted.in_rounds(None, [3, 20])(ask)
    assert found[:3] == first and asked == 3, "the rounds before are asked again in the same words"
    assert len({record.question for record in found}) == len(found) == 9, "and nothing of them comes twice"
    assert first[2].question in " ".join(writer.asked[3].messages[0]["content"].split("\n")), (
        "they are shown as its own"
    )
