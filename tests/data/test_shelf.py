"""Texts that lie in files are the texts that memory would have held."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.data.asked import ask_to_go_on
from stillhouse.data.asked_texts import ask_texts_to_go_on
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.shelf import Shelving, lengths_of, open_shelf, write_shelf
from stillhouse.data.split import sides_given, sides_held_out, split_held_out, without_texts
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


def on_shelf(examples):
    filled = Shelving()
    for example in examples:
        filled.add(example)
    return filled.shelf()


@given(given=EXAMPLES)
def test_a_shelf_gives_back_what_was_put_on_it(given):
    examples = [Example(*map(tuple, zip(*tokens, strict=True)), size, part) for tokens, size, part in given]
    shelf = on_shelf(examples)
    assert [*shelf] == examples == shelf[:] and shelf[1:] == examples[1:] and shelf[-2:] == examples[-2:]
    assert lengths_of(shelf).tolist() == lengths_of(examples).tolist()
    mine, theirs = PackedRows(shelf, row_tokens=16), PackedRows(examples, row_tokens=16)
    assert [*mine] == [*theirs] and mine.lengths == theirs.lengths


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
    found = ask_texts_to_go_on(rows, tokenizer, max_tokens=16)
    expected = [ask_to_go_on(row, to_example(row, tokenizer), max_tokens=16) for row in rows]
    assert [*found] == expected == found[:]
    assert [*found.pieces] == [piece for one in expected for piece in one.answered]
