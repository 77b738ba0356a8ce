"""A stage: how much of what is judged by was trained on, too. Always, as every other number rests on it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.files import fingerprint_files
from stillhouse.core.progress import working
from stillhouse.data.overlap import SHORTEST, WORDS, overlaps
from stillhouse.data.packing import PackedRows
from stillhouse.data.rowset import PaddedRows, RowSet
from stillhouse.evaluation.tasks.judge import texts_of_tasks
from stillhouse.evaluation.tasks.suite import files_of

HELD_OUT = "held out"


def contamination(shop: Workshop, *, made_from: list[Any]) -> dict[str, Any]:
    """How many texts of the held-out data, and of each task, have a run of words in common with the training data."""
    tasks = shop.recipe.evaluation.tasks or ()

    def work() -> dict[str, Any]:
        rows, tokenizer = shop.parts.learnt, shop.parts.tokenizer
        held_out = [[text] for text in texts_of(shop.parts.data.held_out, tokenizer)]
        sets = {HELD_OUT: held_out, **texts_of_tasks(tasks)}
        with working(shop.progress, "looking for what was trained on", num_texts(rows), "documents") as progress:

            def read() -> Iterator[str]:
                for text in texts_of(rows, tokenizer):
                    yield text
                    progress.advance(1)

            found = [asdict(one) for one in overlaps(sets, read())]
        shop.run.forget("report")
        return {"words": WORDS, "shortest": SHORTEST, "sets": found}

    asked = [list(tasks), fingerprint_files(files_of(tasks))] if tasks else []
    title = "what is judged by is looked for in training"
    return shop.once("contamination", title, made_from=made_from, work=work, asked=asked)


def texts_of(rows: RowSet, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Every row in words again; a long text that was cut comes in pieces."""
    return (str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in _ids(rows))


def num_texts(rows: RowSet) -> int:
    """How many there are."""
    return len(rows.examples) if isinstance(rows, PackedRows) else len(rows.ids) if isinstance(rows, PaddedRows) else 0


def _ids(rows: RowSet) -> Iterable[Sequence[int]]:
    match rows:
        case PackedRows():
            return (example.ids for example in rows.examples)
        case PaddedRows():
            return rows.ids
    return []
