"""Questions and their passages, as people and as BEIR write them down."""

import json

import pytest

from stillhouse.core.errors import DataError
from stillhouse.retrieval.documents import read_corpus
from stillhouse.retrieval.questions import Question, is_beir, read_beir, read_questions, write_beir

from .cases import PASSAGES


@pytest.fixture
def folder(tmp_path):
    asked = [Question("q0", "which animal ran", {"p0": 2, "p4": 1}), Question("q1", "who went out to sea", {"p3": 1})]
    write_beir(tmp_path / "set", PASSAGES, asked)
    return tmp_path / "set"


def test_beir_goes_out_and_comes_in_again_with_its_grades(folder):
    assert is_beir(folder)
    found = read_beir(folder)
    assert [(one.id, one.text, dict(one.relevant)) for one in found.questions] == [
        ("q0", "which animal ran", {"p0": 2, "p4": 1}),
        ("q1", "who went out to sea", {"p3": 1}),
    ]
    assert [passage.id for passage in found.corpus.passages] == [passage.id for passage in PASSAGES]
    assert found.questions[0].best == "p0"
    assert read_beir(folder, split="test").questions == found.questions


def test_a_question_that_nothing_answers_is_left_out_and_counted(folder):
    lines = (folder / "qrels" / "test.tsv").read_text().replace("q1\tp3\t1", "q1\tp3\t0")
    (folder / "qrels" / "test.tsv").write_text(lines)
    assert read_beir(folder).num_unanswered == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q0\tnowhere\t1", "names the passage 'nowhere'"),
        ("nobody\tp0\t1", "names the question 'nobody'"),
        ("q0 p0 1", "a grade, by tabs"),
    ],
)
def test_a_wrong_line_of_the_qrels_is_named(folder, line, said):
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=said):
        read_beir(folder)


def test_questions_may_name_files_documents_and_passages(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("One two three. Four five six.")
    (tmp_path / "docs" / "b.jsonl").write_text(json.dumps({"_id": "d", "text": "Seven eight. Nine ten."}) + "\n")
    corpus = read_corpus(tmp_path / "docs", words=3)
    rows = [
        {"question": "of a file", "passages": ["a.txt"]},
        {"question": "of a document", "passages": "d"},
        {"question": "graded", "passages": {"d#0": 2}},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_questions(tmp_path / "asked.jsonl", corpus).questions
    assert [sorted(corpus.by_id[one].text for one in question.relevant) for question in found] == [
        ["Four five six.", "One two three."],
        ["Nine ten.", "Seven eight."],
        ["Seven eight."],
    ]
    assert dict(found[2].relevant) == {"d#0": 2}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x"}, "under 'passages'"),
        ({"question": "x", "passages": {"a.txt": 0}}, "grades of 1 or more"),
        ({"question": " ", "passages": ["a.txt"]}, "a text that is not empty"),
        ({"question": "x", "passages": ["c.txt"]}, "no document has that id or file name"),
    ],
)
def test_a_wrong_question_is_named(tmp_path, row, said):
    (tmp_path / "a.txt").write_text("One two three.")
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said):
        read_questions(tmp_path / "asked.jsonl", read_corpus(tmp_path / "a.txt"))
