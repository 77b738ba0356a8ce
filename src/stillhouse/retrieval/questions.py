"""Questions and the passages that answer them: in BEIR's folder form, or JSON lines beside any documents."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.core.faults import said
from stillhouse.core.files import atomic_path, json_line
from stillhouse.data.tables import Record, files_in, records_in
from stillhouse.retrieval.documents import Corpus, Passage, read_corpus


@dataclass(frozen=True)
class Question:
    """What somebody asks, and how well each passage answers it: 1 or more; what is not named, 0."""

    id: str
    text: str
    relevant: Mapping[str, int]
    where: str = ""
    answer: str = ""
    """What is to be said, where that is known."""

    def __hash__(self) -> int:
        return hash((self.id, self.text))

    @property
    def best(self) -> str:
        """The passage that answers best; of several, the first that was named."""
        return max(self.relevant, key=lambda one: self.relevant[one])


@dataclass(frozen=True)
class Collection:
    """A corpus with questions."""

    corpus: Corpus
    questions: tuple[Question, ...]
    num_unanswered: int = 0
    """Questions left out because no passage answers them."""


def is_beir(path: Path) -> bool:
    """Whether a folder has BEIR's files in it."""
    return (path / "corpus.jsonl").exists() and (path / "queries.jsonl").exists() and (path / "qrels").is_dir()


def read_beir(folder: Path, *, split: str | None = None, words: int | None = None) -> Collection:
    """A folder of `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, whose grades stay as they are; one split of it, or all.

    Raises:
        DataError: naming the file and line of what is wrong.
    """
    corpus = read_corpus(folder / "corpus.jsonl", words=words, key="data.path")
    texts = {_id_of(record): record for record in records_in(folder / "queries.jsonl")}
    files = sorted((folder / "qrels").glob("*.tsv")) if split is None else [folder / "qrels" / f"{split}.tsv"]
    named = _Names(corpus)
    grades: dict[str, dict[str, int]] = {}
    for file in files:
        if not file.exists():
            raise DataError(
                f"{file} is not there, though the split {split!r} was asked for. Name another, or leave it out."
            )
        for query, passages, grade in _qrels(file, named):
            if query not in texts:
                raise DataError(
                    f"{file} names the question {query!r}, which queries.jsonl has none of. Mend or remove it."
                )
            for one in passages:
                grades.setdefault(query, {})[one] = grade
    asked = [
        Question(name, record.text("text", key="queries.jsonl"), grades[name], record.where)
        for name, record in texts.items()
        if any(grade > 0 for grade in grades.get(name, {}).values())
    ]
    return _collected(corpus, asked, num_unanswered=len(grades) - len(asked))


def read_questions(path: Path, corpus: Corpus, *, key: str = "data.questions") -> Collection:
    """JSON lines of `question` and `passages`: ids of passages or documents, or the files that they were cut from.

    A document's name stands for all of its passages. Instead of a list, `passages` may be a mapping from names to grades.

    Raises:
        DataError: naming the file and line of what is wrong.
    """
    named = _Names(corpus)
    records = [record for file in files_in(path, key=key, formats=(".jsonl",)) for record in records_in(file)]
    questions = [_question(record, number, named, key) for number, record in enumerate(records)]
    return _collected(corpus, questions, num_unanswered=0)


def _collected(corpus: Corpus, questions: Sequence[Question], *, num_unanswered: int) -> Collection:
    if not questions:
        raise DataError("no question has a passage that answers it. Check data.questions, or the qrels.")
    return Collection(corpus, tuple(questions), num_unanswered)


class _Names:
    """Passages by what a user may call them: their own id, their document's, or its file."""

    def __init__(self, corpus: Corpus) -> None:
        self.by_name: dict[str, list[str]] = {}
        for passage in corpus.passages:
            for name in {passage.id, passage.id.partition("#")[0], passage.source}:
                self.by_name.setdefault(name, []).append(passage.id)

    def passages(self, name: str, *, where: str) -> list[str]:
        found = self.by_name.get(name)
        if found is None:
            raise DataError(
                f"{where} names the passage {name!r}, but no document has that id or file name. Mend or remove it."
            )
        return found


def _question(record: Record, number: int, named: _Names, key: str) -> Question:
    wanted = record.values.get("passages")
    if isinstance(wanted, str):
        wanted = [wanted]
    if isinstance(wanted, list):
        wanted = dict.fromkeys(wanted, 1)
    if not isinstance(wanted, dict) or not wanted or not all(_is_grade(grade) for grade in wanted.values()):
        raise DataError(
            f"{record.where} has {said(record.values.get('passages'))} under 'passages'. Expected a list of ids or file names, "
            "or a mapping from them to grades of 1 or more."
        )
    relevant = {
        one: int(grade) for name, grade in wanted.items() for one in named.passages(str(name), where=record.where)
    }
    name = str(record.values.get("_id", record.values.get("id", number)))
    answer = record.values.get("answer")
    text = record.text("question", key=key)
    return Question(name, text, relevant, record.where, answer if isinstance(answer, str) else "")


def _is_grade(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _id_of(record: Record) -> str:
    found = record.values.get("_id", record.values.get("id"))
    if found is None:
        raise DataError(f"{record.where} has no '_id', by which the qrels name a question. Add one.")
    return str(found)


def _qrels(file: Path, named: _Names) -> Iterable[tuple[str, list[str], int]]:
    with file.open(encoding="utf-8", newline="") as lines:
        for number, cells in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            where = f"{file}, line {number}"
            if number == 1 and cells and not cells[-1].lstrip("-").isdecimal():
                continue  # a header
            if len(cells) != 3 or not cells[2].lstrip("-").isdecimal():
                raise DataError(
                    f"{where} is {said(cells)}. Expected a question's id, a passage's id and a grade, by tabs."
                )
            yield cells[0], named.passages(cells[1], where=where), int(cells[2])


def write_beir(
    folder: Path, passages: Iterable[Passage], questions: Iterable[Question], *, split: str = "test"
) -> None:
    """Keep passages and questions in BEIR's form: whole, or not at all."""
    asked = list(questions)
    with atomic_path(folder) as part:
        (part / "qrels").mkdir(parents=True)
        rows = ({"_id": one.id, "title": one.title, "text": one.text} for one in passages)
        (part / "corpus.jsonl").write_text("".join(map(json_line, rows)), encoding="utf-8")
        rows = ({"_id": one.id, "text": one.text} for one in asked)
        (part / "queries.jsonl").write_text("".join(map(json_line, rows)), encoding="utf-8")
        lines = [f"{one.id}\t{passage}\t{grade}" for one in asked for passage, grade in one.relevant.items()]
        (part / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines, ""]), encoding="utf-8"
        )


def questions_lines(questions: Iterable[Question]) -> str:
    """The same questions as JSON lines that `read_questions` reads."""
    rows = ({"_id": one.id, "question": one.text, "passages": dict(one.relevant)} for one in questions)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
