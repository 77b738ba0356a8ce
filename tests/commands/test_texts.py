"""Text files become rows, rows become two sides that share no text."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.data.text import Row, read_rows, split_held_out

TEXT = st.text(min_size=1, max_size=12)


@settings(deadline=None)
@given(records=st.lists(st.tuples(st.none() | TEXT | st.just(""), TEXT, st.booleans()), min_size=1, max_size=6))
def test_json_lines_read_back_as_they_were_written(tmp_path_factory, records):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [Row(text) if prompt is None else Row(text, prompt, finished) for prompt, text, finished in records]
    lines = [
        {"text": text} if prompt is None else {"prompt": prompt, "completion": text, "finished": finished}
        for prompt, text, finished in records
    ]
    file.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8", newline=""
    )
    assert read_rows(file) == rows


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_from_windows_read_like_others(tmp_path, newline, encoding):
    lines = newline.join(json.dumps({"text": text}) for text in ("a\u2028b", "c"))
    (tmp_path / "rows.jsonl").write_bytes(lines.encode(encoding))
    assert read_rows(tmp_path / "rows.jsonl") == [Row("a\u2028b"), Row("c")]


def test_a_text_file_is_cut_at_its_separators_and_nowhere_else(tmp_path):
    (tmp_path / "rows.txt").write_text("one\n\ntwo\n<|endoftext|>\n  three  \n<|endoftext|>\n\n<|endoftext|>")
    assert read_rows(tmp_path / "rows.txt") == [Row("one\n\ntwo"), Row("three")]


def test_a_folder_is_read_in_the_order_of_its_names_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}')
    (tmp_path / "deep" / "c.txt").write_text("third")
    (tmp_path / "notes.md").write_text("not data")
    assert [row.text for row in read_rows(tmp_path)] == ["first", "second", "third"]


ROWS = st.lists(
    st.builds(Row, st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.sampled_from(["", "p", "q"])), max_size=60
)


@settings(deadline=None)
@given(rows=ROWS, share=st.floats(0.02, 0.5))
def test_no_text_is_on_both_sides_and_none_is_lost(rows, share):
    try:
        train, held_out = split_held_out(rows, share=share)
    except DataError:
        assert len({row.text for row in rows}) * Fraction(str(share)) < 1
        return
    assert not {row.text for row in train} & {row.text for row in held_out}
    assert {*train, *held_out} == set(rows)
    assert len(train) + len(held_out) == len(set(rows))


@settings(deadline=None)
@given(number=st.integers(2, 300), percent=st.integers(1, 50))
def test_the_share_held_out_is_the_share_asked_for(number, percent):
    rows = [Row(str(index)) for index in range(number)]
    if number * percent < 100:
        with pytest.raises(DataError, match=f"{number} different texts are too few to hold {percent}% of them out"):
            split_held_out(rows, share=percent / 100)
    else:
        assert len(split_held_out(rows, share=percent / 100)[1]) == number * percent // 100


def test_the_texts_held_out_are_spread_evenly_and_more_text_does_not_move_them():
    rows = [Row(str(index)) for index in range(100)]
    assert [row.text for row in split_held_out(rows, share=0.1)[1]] == [str(index) for index in range(9, 100, 10)]
    assert split_held_out(rows[:50], share=0.1)[1] == split_held_out(rows, share=0.1)[1][:5]
