"""Texts that lie in files are the texts that memory would have held."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import Numbers
from stillhouse.core.objects import Objects
from stillhouse.data.asked import Asked, ask_chat, ask_to_go_on, keep_asked, packed
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.config import ChatDataConfig
from stillhouse.data.context import Views
from stillhouse.data.examples import Example
from stillhouse.data.kept import HasSizes, joined, keep, lengths_of, sizes_of, those
from stillhouse.data.labelled import LabelledRow
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import Pair, PairedRows
from stillhouse.data.preferences import AnswerPair
from stillhouse.data.prepare import chat_sides, prepare
from stillhouse.data.rewards import RewardPair, ScoredAnswer
from stillhouse.data.shelf import on_shelf, open_shelf, put_shelf, shelf_at, write_shelf
from stillhouse.data.split import Known, sides_given, sides_held_out, split_held_out, without_texts
from stillhouse.data.text import Row, each_row, to_example

WEIGHTS = st.floats(0, 2) | st.just(0.1)
EXAMPLES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 2**31 - 1), WEIGHTS), min_size=1, max_size=9),
        st.integers(0, 2**40),
        st.sampled_from(["", "0123456789abcdef0123456789abcdef"]),
    ),
    max_size=8,
)
ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "p"]), st.booleans()), max_size=30)


@given(given=EXAMPLES)
def test_a_shelf_gives_back_what_was_put_on_it(given):
    examples = [Example(*map(tuple, zip(*tokens, strict=True)), size, part) for tokens, size, part in given]
    shelf = on_shelf(examples)
    assert [*shelf] == examples == shelf[:] and shelf[1:] == examples[1:] and shelf[-2:] == examples[-2:]
    assert [*lengths_of(shelf)] == [*lengths_of(examples)]
    mine, theirs = PackedRows(shelf, row_tokens=16), PackedRows(examples, row_tokens=16)
    assert [*mine] == [*theirs] and mine.lengths == theirs.lengths


MEMBERS = (
    Pair(Example((1, 2), (0.0, 0.1), 3, "k"), Example((4,), (1.0,)), (0, -1), (0,)),
    Views(Example((1,), (0.0,)), Example((1, 2**31 - 1, 3), (0.0, 1e-9, 1.0)), style=1),
    AnswerPair(Example((1,), (1.0,)), Example((2, 3), (0.0, 1.0)), scores=(0.1, -3.4e38)),
    RewardPair(ScoredAnswer((1, 2), (0, 1), 1), ScoredAnswer((3,), None, 0), "what?\u2028"),
    Row("the fox 🦊", "say", finished=False),
    Conversation("{}", (1.0,), "file, line 1", parts=(None, ((0, 2),)), unfinished=frozenset({1})),
    Asked((1,), (Example((1, 2), (0.0, 1.0)),), messages=({"role": "user", "content": "a"},), behind=(7,)),
)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: type(member).__name__)
def test_members_of_any_type_are_read_as_they_were_put_down(member):
    kept = keep([member] * 3, of=type(member))
    assert [*kept] == [member] * 3 == kept[:] and those(kept, Numbers.of(np.array([2])))[0] == member
    assert joined(kept, [member])[3] == member and len(joined(kept, kept)) == 6
    if isinstance(member, HasSizes):
        assert [*sizes_of(kept)] == [*sizes_of([member] * 3)] == [[*member.sizes]] * 3


def test_nothing_is_kept_of_nothing():
    rows = PairedRows(keep([], of=Pair), row_tokens=8)
    assert [*rows] == [] == rows.lengths and [*lengths_of(rows.teacher_examples)] == []


def test_a_shelf_with_a_name_is_read_by_others(build_example, tmp_path):
    examples = [build_example(seed, 5) for seed in range(3)]
    write_shelf(examples, tmp_path / "texts")
    assert [*open_shelf(tmp_path / "texts")] == examples


@given(rows=ROWS, share=st.sampled_from([0.1, 0.25, 0.5, 0.123456789012345]))
def test_rows_are_split_as_if_all_were_in_memory(rows, share):
    rows = [Row(*row) for row in rows]
    try:
        expected = split_held_out(rows, share=share)
    except DataError as error:
        with pytest.raises(DataError) as found:
            sides_held_out(lambda: iter(rows), share=share)
        assert str(found.value) == str(error)
        return
    sides = sides_held_out(lambda: iter(rows), share=share)
    assert tuple([*side] for side in sides) == expected
    assert [len(side) for side in sides] == [len(side) for side in expected]


@given(rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", 2.5, -1.0])), max_size=30))
def test_rows_are_spread_over_their_labels_as_if_all_were_in_memory(rows):
    """Classes have names, and what is predicted by number has none of them."""
    for kind in (str, float):
        labelled = [LabelledRow(text, None, label) for text, label in rows if isinstance(label, kind)]
        if len({row.text for row in labelled}) > 4:
            expected = split_held_out(labelled, share=0.25, spread_over=lambda row: row.label)
            sides = sides_held_out(lambda rows=labelled: iter(rows), share=0.25, spread_over=lambda row: row.label)
            assert tuple([*side] for side in sides) == expected


@given(rows=ROWS, judged=ROWS)
def test_what_another_file_holds_out_is_left_out_as_if_all_were_in_memory(rows, judged):
    rows, judged = ([Row(*row) for row in side] for side in (rows, judged))
    unique = list(dict.fromkeys(judged))
    try:
        expected = without_texts(rows, (row.text for row in unique), key="k")
    except DataError:
        with pytest.raises(DataError, match="every text"):
            sides_given(lambda: iter(rows), lambda: iter(judged), key="k")
        return
    train, held_out = sides_given(lambda: iter(rows), lambda: iter(judged), key="k")
    assert ([*train], [*held_out]) == (expected, unique)


def test_texts_are_asked_as_if_all_were_in_memory(tokenizer, tmp_path):
    file = tmp_path / "texts.jsonl"
    texts = ["the fox ran over the hill " * n for n in range(1, 9)]
    lines = [{"text": text} for text in texts] + [{"prompt": "the", "completion": text} for text in texts]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = [*each_row(file)]
    expected = [ask_to_go_on(row, to_example(row, tokenizer), max_tokens=16) for row in rows]
    found = keep_asked(iter(expected))
    assert [*found] == expected == found[:]
    assert [*found.pieces] == [piece for one in expected for piece in one.answered]


@pytest.mark.parametrize("weight", ["assistant", "last"])
def test_conversations_on_shelves_are_those_that_memory_would_have_held(tokenizer, tmp_path, weight):
    said = [
        [("user", f"who ran {n % 7}?"), ("assistant", "the fox " * (1 + n % 30)), ("user", "why?"), ("assistant", "so")]
        for n in range(30)
    ]
    rows = [{"messages": [{"role": role, "content": text} for role, text in one]} for one in said]
    rows += [
        {"messages": rows[0]["messages"][:1]},
        rows[3],
        {"messages": [*rows[5]["messages"][:3], rows[0]["messages"][1]]},
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ChatDataConfig(path=file, sequence_tokens=32, weight=weight)
    train, held_out = chat_sides(config, file)
    found, reader = prepare(config, tokenizer), ChatReader(tokenizer, weight=weight)
    for asked, rows_of, side in ((found.asked, found.train, train), (found.held_out_asked, found.held_out, held_out)):
        expected = [ask_chat(one, read, max_tokens=32) for one, read in reader.learnt([*side])]
        assert [*asked] == expected and any(one.followups for one in expected) == (weight == "assistant")
        assert [*rows_of] == [*packed(expected, row_tokens=32)]
    assert (found.num_train_documents, found.num_held_out_documents) == (len(train), len(held_out))
    assert found.notes[0] == f"chats.jsonl: {next(iter(train)).form}, 32 rows" and "left out: 1 with" in found.notes[1]


def test_equal_rows_are_one_wherever_they_stand():
    rows = [Conversation("a", (1.0,), where=f"file, line {n}", unfinished=frozenset({n % 2, 9})) for n in range(4)]
    assert [*Known(rows).is_first] == [True, True, False, False]


def test_a_shelf_of_objects_is_read_in_pieces_by_whoever_shares_no_disk(build_example, tmp_path, monkeypatch):
    examples, asked = [build_example(seed, 50) for seed in range(40)], []
    objects = Objects(f"file://{tmp_path}/there", key="labels.store")
    put_shelf(examples, objects)
    monkeypatch.setattr("stillhouse.data.shelf.PIECE_BYTES", (40 + 12 * 50) * 10)
    monkeypatch.setattr(Objects, "part", lambda *call, part=Objects.part: asked.append(call[1:]) or part(*call))
    shelf = shelf_at(objects)
    asked.clear()  # whoever checks types looks at one of them
    assert shelf[7:27] == examples[7:27]
    assert 1 <= len(asked) <= 2, "twenty examples, ten at once, and some that are there already"
