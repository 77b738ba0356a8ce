"""Tables read back as they were written, and a fault is said with its file and line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.data.tables import read_records, split_documents, split_lines
from stillhouse.data.text import Row, read_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=12)
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


@settings(deadline=None)
@given(rows=ROWS, suffix=st.sampled_from(["", ".gz"]))
def test_csv_reads_back_as_it_was_written(tmp_path_factory, rows, suffix):
    content = io.StringIO(newline="")
    csv.writer(content).writerows([("text", "label"), *rows])
    file = tmp_path_factory.mktemp("data") / f"rows.csv{suffix}"
    encoded = content.getvalue().encode()
    file.write_bytes(gzip.compress(encoded) if suffix else encoded)
    assert [tuple(record.values.values()) for record in read_records(file)] == rows


@settings(deadline=None)
@given(rows=ROWS, suffix=st.sampled_from(["", ".gz"]))
def test_json_lines_read_back_as_they_were_written(tmp_path_factory, rows, suffix):
    lines = "".join(json.dumps({"text": one, "label": other}, ensure_ascii=False) + "\n" for one, other in rows)
    file = tmp_path_factory.mktemp("data") / f"rows.jsonl{suffix}"
    file.write_bytes(gzip.compress(lines.encode()) if suffix else lines.encode())
    assert [(record.values["text"], record.values["label"]) for record in read_records(file)] == rows


def test_a_quotation_mark_in_a_tsv_file_is_one(write):
    file = write("rows.tsv", 'label\ttext\npos\t"a" fine, "film\nneg\tno "good"\n')
    assert [record.text("text", key="data.text") for record in read_records(file)] == ['"a" fine, "film', 'no "good"']


def test_a_row_knows_the_line_on_which_it_begins(write):
    file = write("rows.csv", 'text,label\n"one\n\ntwo",a\n\nthree,b\n')
    assert [record.where.rpartition(", ")[2] for record in read_records(file)] == ["line 2", "line 6"]


def test_a_folder_is_read_in_the_order_of_its_names(write):
    write("many/b.csv", "text\nsecond\n")
    write("many/a.jsonl.gz", [{"text": "first"}])
    folder = write("many/deep/c.tsv", "text\nthird\n").parent.parent
    write("many/notes.md", "no data")
    assert [record.values["text"] for record in read_records(folder)] == ["first", "second", "third"]


def test_a_text_file_is_split_as_its_kind_asks(write):
    file = write("some.txt", "one\ntwo\n<|endoftext|>\n\nthree\n")
    documents, lines = (read_records(file, splitter=splitter) for splitter in (split_documents, split_lines))
    assert [record.values["text"] for record in documents] == ["one\ntwo", "three"]
    assert [record.values["text"] for record in lines] == ["one", "two", "<|endoftext|>", "three"]


def test_texts_to_learn_may_be_gzipped_too(write):
    assert read_rows(write("some.jsonl.gz", [{"text": "a"}])) == [Row("a")]
    assert read_rows(write("some.txt.gz", "a<|endoftext|>b")) == [Row("a"), Row("b")]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.csv", "text,label\na,b\nc\n", "rows.csv, line 3 has 1 columns, but the first line names 2"),
        ("rows.csv", 'text,label\na,b\n"c,d\n', "rows.csv, line 3 cannot be read: unexpected end of data"),
        ("rows.csv", "text,text\na,b\n", 'rows.csv, line 1 is ["text", "text"]. Expected the names of the columns'),
        ("rows.csv", "text,label\n", "holds no rows. Give it at least two."),
        ("rows.jsonl", '{"text": "a"}\n{"text"\n', "rows.jsonl, line 2 is not JSON"),
        (
            "rows.jsonl",
            '{"text": "a"}\n\n[1]\n',
            'rows.jsonl, line 3 has [1]. Expected an object such as {"text": ...}',
        ),
        ("rows.parquet", "", "rows.parquet' ends in '.parquet'. Known: .jsonl, .csv, .tsv, or a folder."),
    ],
)
def test_a_bad_file_is_refused_and_the_line_is_named(write, name, content, message):
    with pytest.raises(DataError) as caught:
        read_records(write(name, content))
    assert message in str(caught.value)


def test_a_file_that_only_claims_to_be_gzipped_is_refused(tmp_path):
    (tmp_path / "rows.csv.gz").write_text("text\na\n")
    with pytest.raises(DataError, match="rows.csv.gz cannot be read as UTF-8 text"):
        read_records(tmp_path / "rows.csv.gz")


def test_a_file_that_is_missing_is_named_by_its_key(tmp_path):
    with pytest.raises(DataError, match="data.held_out_path '.*none.csv': there is no such file or folder."):
        read_records(tmp_path / "none.csv", key="data.held_out_path")


@pytest.mark.parametrize(
    "read, value, message",
    [
        ("text", "  ", "line 1 has \"  \" under 'x'. Expected a text that is not empty: mend or remove it."),
        ("text", 3, "line 1 has 3 under 'x'. Expected a text"),
        ("text", "\ud800", "Expected a text"),
        ("label", True, "line 1 has true under 'x'. Expected text or a whole number"),
        ("label", 1.5, "Expected text or a whole number"),
        ("number", "abc", "line 1 has \"abc\" under 'x'. Expected a finite number"),
        ("number", "nan", "Expected a finite number"),
        ("number", False, "Expected a finite number"),
        ("texts", "a b", "Expected a list of texts"),
        ("texts", [], "Expected a list of texts"),
        ("texts", ["a", ""], "Expected a list of texts, none of them empty"),
        ("labels", [1, None], "Expected a list of texts or whole numbers"),
    ],
)
def test_a_value_that_is_not_what_its_column_holds_is_refused(write, read, value, message):
    (record,) = read_records(write("rows.jsonl", [{"x": value}]))
    with pytest.raises(DataError) as caught:
        getattr(record, read)("x", key="data.x")
    assert message in str(caught.value)


def test_a_column_that_is_not_there_is_refused_and_the_nearest_is_named(write):
    (record,) = read_records(write("rows.csv", "text,category\na,b\n"))
    with pytest.raises(DataError, match="line 2 has no 'categry', which data.label names. Did you mean 'category'?"):
        record.label("categry", key="data.label")


def test_values_are_read_as_what_they_are(write):
    (record,) = read_records(write("rows.jsonl", [{"n": 7, "s": "2.5", "w": ["a", "b"], "t": [0, 1]}]))
    assert record.label("n", key="") == "7"
    assert (record.number("n", key=""), record.number("s", key="")) == (7.0, 2.5)
    assert record.texts("w", key="") == ("a", "b")
    assert record.labels("t", key="") == ("0", "1")
