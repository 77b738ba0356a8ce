"""Documents of every format become passages: none lost, none twice, each with an id that stays."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.retrieval import Passage, read_corpus
from stillhouse.retrieval.documents import cut, id_of, same_text, words_in

SENTENCES = " ".join(f"Sentence {n} says something about number {n}." for n in range(40))


def write_pdf(path, text: str) -> None:
    """The smallest PDF with one line of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    start = len(content)
    content += f"xref\n0 6\n0000000000 65535 f \n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    path.write_bytes(content.encode())


def test_a_folder_of_every_format_becomes_passages(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("Plain words.")
    (tmp_path / "deep" / "b.md").write_text("# Head\n\nMarked words.")
    (tmp_path / "c.html").write_text(
        "<html><head><title>Page</title><style>p {}</style></head><body><script>no()</script><p>Shown words.</p></body></html>"
    )
    write_pdf(tmp_path / "d.pdf", "Printed words.")
    (tmp_path / "e.jsonl").write_text(json.dumps({"_id": "row", "title": "Row", "text": "Kept words."}) + "\n")
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    corpus = read_corpus(tmp_path)
    found = {passage.source.partition(",")[0].rpartition("/")[2]: passage for passage in corpus.passages}
    assert {name: found[name].text for name in sorted(found)} == {
        "a.txt": "Plain words.",
        "b.md": "# Head\n\nMarked words.",
        "c.html": "Shown words.",
        "d.pdf": "Printed words.",
        "e.jsonl": "Kept words.",
    }
    assert found["c.html"].title == "Page" and found["c.html"].whole == "Page\nShown words."
    assert found["e.jsonl"].id == "row"
    assert corpus.num_documents == 5


def test_ids_do_not_depend_on_order_name_or_neighbours(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCES)
    before = read_corpus(tmp_path / "a.txt", words=30)
    (tmp_path / "0.txt").write_text("Something before.")
    (tmp_path / "a.txt").rename(tmp_path / "z.txt")
    after = read_corpus(tmp_path, words=30)
    assert {passage.id for passage in before.passages} < {passage.id for passage in after.passages}


def test_an_empty_document_is_named_and_not_indexed(tmp_path):
    (tmp_path / "full.txt").write_text("Words.")
    (tmp_path / "empty.txt").write_text(" \n")
    corpus = read_corpus(tmp_path)
    assert corpus.empty == ("empty.txt",)
    assert [passage.text for passage in corpus.passages] == ["Words."]


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"data.documents .* has no text in it"):
        read_corpus(tmp_path)


def test_the_same_passage_twice_is_kept_once_unless_ids_keep_it_apart(tmp_path):
    (tmp_path / "a.txt").write_text("The same words.")
    (tmp_path / "b.txt").write_text("The  same\nwords.")
    corpus = read_corpus(tmp_path)
    assert len(corpus.passages) == 1 and corpus.num_duplicates == 1
    rows = [{"_id": name, "text": "The same words."} for name in "xy"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = read_corpus(tmp_path / "rows.jsonl")
    assert [passage.id for passage in named.passages] == ["x", "y"]
    assert same_text(named.passages) == {"x": ["x", "y"], "y": ["x", "y"]}


def test_an_id_that_comes_twice_is_refused(tmp_path):
    rows = [{"_id": "x", "text": text} for text in ("One.", "Two.")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="has the id 'x'"):
        read_corpus(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.pdf", b"%PDF-1.4 nothing", "cannot be read as PDF"),
        ("latin.txt", b"caf\xe9 au lait", "cannot be read as UTF-8"),
        ("rows.jsonl", b'{"body": "x"}\n', "has no 'text'"),
        ("rows.jsonl", b'{"text": 3}\n', "has 3 under 'text'"),
        ("words.docx", b"PK", "ends in '.docx'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_corpus(tmp_path / name)


def test_ten_megabytes_in_one_document_are_many_passages(tmp_path):
    sentence = "The fox ran over the hill and saw a red house. "
    (tmp_path / "large.txt").write_text("".join(f"{n} {sentence}" for n in range(10_000_000 // 55)))
    corpus = read_corpus(tmp_path / "large.txt", words=150)
    assert len(corpus.passages) > 12_000
    assert all(words_in(passage.text) <= 180 for passage in corpus.passages[::100])


def test_a_saved_data_set_is_read_row_by_row(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"_id": ["x", "y"], "title": ["One", ""], "text": ["A fox.", "A boat."]})
    rows.save_to_disk(tmp_path / "rows")
    DatasetDict({"first": rows, "second": rows.select([0])}).save_to_disk(tmp_path / "splits")
    corpus = read_corpus(tmp_path / "rows")
    assert [(one.id, one.title, one.text) for one in corpus.passages] == [("x", "One", "A fox."), ("y", "", "A boat.")]
    with pytest.raises(DataError, match=r"has several splits. Name one: .*splits@first, .*splits@second"):
        read_corpus(tmp_path / "splits")
    assert len(read_corpus(Path(f"{tmp_path / 'splits'}@second")).passages) == 1
    with pytest.raises(DataError, match="has no split 'third'"):
        read_corpus(Path(f"{tmp_path / 'splits'}@third"))
    Dataset.from_dict({"body": ["A fox."]}).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="row 0 has no 'text'"):
        read_corpus(tmp_path / "other")


def test_a_data_set_that_cannot_be_fetched_is_one_line(monkeypatch):
    def unreachable(name):
        raise ConnectionError("the hub cannot be reached\nat all")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"'someone/pages': there is no such file .* loaded: the hub cannot be reached$"
    ):
        read_corpus(Path("someone/pages"))


@pytest.mark.parametrize("unit", ["nostopatallhere ", "字", "\n \n", "x" * 50, "? "])
def test_what_has_no_sentences_is_cut_in_no_more_time(unit):
    started = time.monotonic()
    passages = list(cut(unit * (400_000 // len(unit.encode())), words=150))
    assert time.monotonic() - started < 10
    assert all(words_in(passage) <= 180 for passage in passages)


def test_scripts_without_spaces_are_cut_at_their_own_sentence_ends():
    text = "狐狸跑过山坡。女孩在花园里找到一把钥匙。机器人学会了唱歌。"
    assert list(cut(text, words=14)) == ["狐狸跑过山坡。", "女孩在花园里找到一把钥匙。", "机器人学会了唱歌。"]
    assert "".join(cut(text, words=5)) == text


@given(st.text(alphabet="ab .!?\n。字", max_size=300), st.integers(1, 20))
def test_cutting_keeps_every_word_in_order_and_bounds_the_length(text, words):
    passages = list(cut(text, words=words))
    joined = "".join("".join(passage.split()) for passage in passages)
    assert joined == "".join(text.split())
    assert all(passage.strip() for passage in passages)
    assert all(words_in(passage) <= words * 1.2 + 1 for passage in passages)


def test_an_id_is_of_the_words_alone():
    assert id_of("a  b\n") == id_of("a b") != id_of("a c")
    assert Passage("i", "text").whole == "text"
