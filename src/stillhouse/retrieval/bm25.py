"""BM25 over passages, by bm25s: what every retriever is measured beside, and a source of hard negatives."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from stillhouse.core.files import read_json, write_atomic
from stillhouse.retrieval.documents import WITHOUT_SPACES, Language, Passage
from stillhouse.retrieval.hits import Hit, as_hits, best, check_queries

_FREQUENT = frozenset(STOPWORDS_EN)
_TOKENS = re.compile(rf"[{WITHOUT_SPACES}]|[^\W{WITHOUT_SPACES}]+")


class Bm25:
    """Passages by the words that they share with a query."""

    def __init__(self, ids: Sequence[str], index: bm25s.BM25, *, language: Language) -> None:
        self.ids, self._index, self._language = list(ids), index, language
        self._stem = Stemmer.Stemmer("english").stemWords if language == "english" else list

    @classmethod
    def build(cls, passages: Iterable[Passage], *, language: Language = "english") -> "Bm25":
        """Index titles and texts, with the usual k1 = 1.5 and b = 0.75."""
        listed = list(passages)
        made = cls([passage.id for passage in listed], bm25s.BM25(), language=language)
        made._index.index([made.tokens(passage.whole) for passage in listed], show_progress=False)
        return made

    def tokens(self, text: str) -> list[str]:
        """The words that count, in order. Each character of a script without spaces is one."""
        words = _TOKENS.findall(text.lower())
        kept = [word for word in words if word not in _FREQUENT] if self._language == "english" else words
        return list(self._stem(kept))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` passages for each query. One that has no word of the query in it is not found."""
        check_queries(queries, k)
        return [self._search(self.tokens(query), k) for query in queries]

    def _search(self, words: list[str], k: int) -> list[Hit]:
        known = [word for word in words if word in self._index.vocab_dict]
        if not known:
            return []
        scores = np.asarray(self._index.get_scores(known), dtype=np.float32)
        places = [place for place in best(scores, k) if scores[place] > 0]
        return as_hits([self.ids[place] for place in places], scores[places].tolist())

    def save(self, folder: Path) -> None:
        """Keep it in a folder, to be opened by `open`."""
        self._index.save(folder, show_progress=False)
        write_atomic(folder / "ids.json", json.dumps({"language": self._language, "ids": self.ids}))

    @classmethod
    def open(cls, folder: Path) -> "Bm25":
        """What `save` kept, by memory map."""
        kept: dict[str, Any] = read_json(folder / "ids.json", mend="Remove the folder, and it is made again.")
        return cls(kept["ids"], bm25s.BM25.load(folder, mmap=True), language=kept["language"])
