"""Texts as prompts with their answers, on shelves: what `ask_to_go_on` says of each, however many there are."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from stillhouse.data.asked import Asked, ask_to_go_on
from stillhouse.data.shelf import ReadOneByOne, Shelf, Shelving
from stillhouse.data.text import Row, to_example


class AskedTexts(ReadOneByOne[Asked]):
    """Whole documents on one shelf, their pieces on another: each text is put together when it is asked for."""

    def __init__(self, documents: Shelf, pieces: Shelf, places: NDArray[np.int64]) -> None:
        self.documents, self.pieces, self._places = documents, pieces, places

    def __len__(self) -> int:
        return len(self.documents)

    def read(self, number: int) -> Asked:
        """One text, from both shelves."""
        ids, (given, end) = self.documents[number].ids, self._places[number].tolist()
        start = int(self._places[number - 1, 1]) if number else 0
        return Asked(ids[:given], tuple(self.pieces[start:end]), reference=ids[given:])


def ask_texts_to_go_on(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> AskedTexts:
    """Tokenise the texts, each of which is read once. One with nothing to predict is left out."""
    documents, pieces, found = Shelving(), Shelving(), bytearray()
    for row in rows:
        document = to_example(row, tokenizer)
        asked = ask_to_go_on(row, document, max_tokens=max_tokens)
        if asked.answered:
            documents.add(document)
            for piece in asked.answered:
                pieces.add(piece)
            found += np.array((len(asked.prompt), len(pieces)), np.int64).tobytes()
    return AskedTexts(documents.shelf(), pieces.shelf(), np.frombuffer(found, np.int64).reshape(-1, 2))
