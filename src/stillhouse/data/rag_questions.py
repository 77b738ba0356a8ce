"""Questions to answer from documents: JSON lines with a question, and what is known of its answer and of where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.faults import said
from stillhouse.core.lexical import says
from stillhouse.data.mixture import Question
from stillhouse.data.split import split_held_out, without_texts
from stillhouse.data.tables import Record, read_records

FORMATS = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class RagQuestion:
    """A row of the file."""

    question: str
    answers: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    """What the row calls the passages that tell: ids of passages or documents, or files."""
    gold: str = ""
    """Id of the one passage that does."""

    @property
    def text(self) -> str:
        """Questions that one passage tells go to one side: what is held out is about nothing that was learnt."""
        return self.gold or self.question


def read_rag_questions(path: Path, *, key: str = "data.path") -> list[RagQuestion]:
    """Rows of `question`, and where they are known `answers` (a text or a list) and `passages` (names, or a mapping to grades).

    Raises:
        DataError: naming file and line, for a row without a question or with something else in the place of these.
    """
    return [_question(record, key) for record in read_records(path, key=key, formats=FORMATS)]


def _question(record: Record, key: str) -> RagQuestion:
    question = record.text("question", key=key)
    answers = _texts(record, ("answers", "answer"))
    return RagQuestion(question.strip(), answers, _texts(record, ("passages", "passage")))


def _texts(record: Record, names: Sequence[str]) -> tuple[str, ...]:
    """What stands under the first of these names that the row has."""
    name = next((name for name in names if record.values.get(name)), None)
    if name is None:
        return ()
    value: Any = record.values[name]
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else None
    if found is None or not all(isinstance(one, str) and one.strip() for one in found):
        raise DataError(f"{record.where} has {said(value)} under {name!r}. Expected a text, or a list of texts.")
    return tuple(dict.fromkeys(one.strip() for one in found))


def with_gold(
    questions: Sequence[RagQuestion], names: Mapping[str, Sequence[str]], texts: Mapping[str, str], *, key: str
) -> list[RagQuestion]:
    """Each with the one passage that tells its answer: of those that it names, the first in which the words of an answer stand,
    or else the first. `names` are those of passages, documents and files.

    Raises:
        DataError: for a name that none has.
    """
    return [_with_gold(one, names, texts, key) for one in questions]


def _with_gold(one: RagQuestion, names: Mapping[str, Sequence[str]], texts: Mapping[str, str], key: str) -> RagQuestion:
    unknown = [name for name in one.named if name not in names]
    if unknown:
        raise DataError(
            f"the question {said(one.question)} of {key} names the passage {unknown[0]!r}, but no document has that id or file "
            "name. Mend or remove it."
        )
    ids = [id for name in one.named for id in names[name]]
    telling = (id for id in ids if any(says(texts[id], answer) for answer in one.answers))
    return RagQuestion(one.question, one.answers, one.named, next(telling, ids[0] if ids else ""))


def two_sides(
    questions: Sequence[RagQuestion], *, share: float, held_out: Sequence[RagQuestion] | None = None
) -> list[Question]:
    """All of them, each to be learnt from or held out: by a share of the passages that they are about, or by a file of its own.

    Raises:
        DataError: if a side is left empty.
    """
    if held_out is None:
        learnt, judged = split_held_out(questions, share=share, hint=" of questions about different passages")
    else:
        judged = list(dict.fromkeys(held_out))
        learnt = without_texts(questions, (one.text for one in judged), key="data.held_out_path")
    return [
        Question(one.question, one.answers, one.gold, held_out=side is judged)
        for side in (learnt, judged)
        for one in side
    ]
