"""Who finds passages for a generator: BM25, a retriever that a run made, any model that embeds sentences, or a cross-encoder
that puts what BM25 finds into its own order."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from stillhouse.core.errors import ModelError
from stillhouse.core.files import atomic_path, fingerprint, json_line, read_lines, write_atomic
from stillhouse.models.load import load_config, source_fingerprint
from stillhouse.retrieval import Corpus, Passage, Retriever

# Whatever finds passages is imported where it is used: it comes with the extra `retrieval`, which other recipes do without.

BM25_NAME = "bm25"
NEEDED = {True: ("bm25s", "Stemmer"), False: ("bm25s", "Stemmer", "sentence_transformers", "usearch")}
"""Libraries, for BM25 and for others."""
PASSAGES = "passages.jsonl"
RERANKED = 30
"""How many of BM25's passages a cross-encoder reads for a question, where no more are asked for: each is a pass through it."""


@dataclass(frozen=True)
class Finder:
    """A retriever with the passages that it finds."""

    retriever: Retriever
    passages: Mapping[str, Passage]
    name: str
    """As a recipe names it."""
    fingerprint: str
    """Changes where what it finds may change."""

    @property
    def texts(self) -> dict[str, str]:
        """What each passage says, its title first."""
        return {id: passage.whole for id, passage in self.passages.items()}


def model_of(source: str) -> str:
    """What embeds, where a recipe names it or the run that made it."""
    student = Path(source).expanduser() / "student"
    return str(student) if student.is_dir() else source


def check_retriever(source: str, *, key: str) -> None:
    """Refuse a folder that holds nothing to retrieve with, and a library that is not there.

    Raises:
        ModelError: naming the key of the recipe.
    """
    missing = [name for name in NEEDED[source == BM25_NAME] if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{key} is {source!r}, which needs {', '.join(missing)}, and that is not installed. Run "
            "`pip install 'stillhouse[retrieval]'`."
        )
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if source != BM25_NAME and looks_like_path and not Path(model_of(source)).expanduser().exists():
        raise ModelError(
            f"{key} is {source!r}, but there is no such folder. Name the run of a retriever, a sentence-transformers model, or "
            "bm25."
        )
    if source != BM25_NAME:
        _check_one_number(source, key=key)


def _check_one_number(source: str, *, key: str) -> None:
    labels = _num_classes(source)
    if labels is not None and labels != 1:
        raise ModelError(
            f"{key} is {source!r}, which tells {labels} classes apart, and a cross-encoder gives one number. Name one with one "
            "label, or a model that embeds."
        )


def is_cross_encoder(source: str) -> bool:
    """Whether a model reads question and passage together, by the architecture that it names."""
    return source != BM25_NAME and _num_classes(source) is not None


def _num_classes(source: str) -> int | None:
    """Classes that a model tells apart; None for one that is no classifier, as whatever embeds."""
    model = model_of(source)
    folder = Path(model).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        return None  # a static model has no architecture
    config = load_config(model)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return config.num_labels if classifies else None


def retriever_fingerprint(source: str) -> str:
    """What a retriever's answers depend on, beside the passages."""
    return BM25_NAME if source == BM25_NAME else source_fingerprint(model_of(source))


def finder_of(source: str, corpus: Corpus, folder: Path, *, candidates: int = RERANKED) -> Finder:
    """The retriever over these passages, its index kept in `folder`; a cross-encoder reads so many `candidates` at least."""
    made_by = retriever_fingerprint(source)
    by_id = corpus.by_id
    kept = fingerprint([made_by, [asdict(passage) for passage in corpus.passages]])
    crosses = is_cross_encoder(source)
    if source == BM25_NAME or crosses:
        from stillhouse.retrieval.bm25 import Bm25

        found = Bm25.build(corpus.passages)
        with atomic_path(folder) as part:
            part.mkdir()
            write_atomic(part / PASSAGES, "".join(json_line(asdict(passage)) for passage in corpus.passages))
            found.save(part / BM25_NAME)
        finder = Finder(found, by_id, source, kept)
        return reranking(finder, candidates=candidates) if crosses else finder
    from stillhouse.retrieval.embed import load_embedder
    from stillhouse.retrieval.index import build_index

    embedder = load_embedder(model_of(source))
    index = build_index(embedder, corpus.passages)
    index.save(folder, made_by=made_by)
    return Finder(index, by_id, source, kept)


def opened_finder(source: str, folder: Path, *, candidates: int = RERANKED) -> Finder:
    """What `finder_of` kept."""
    passages = {values["id"]: Passage(**values) for values in read_lines(folder / PASSAGES)}
    crosses = is_cross_encoder(source)
    if source == BM25_NAME or crosses:
        from stillhouse.retrieval.bm25 import Bm25

        finder = Finder(Bm25.open(folder / BM25_NAME), passages, source, "")
        return reranking(finder, candidates=candidates) if crosses else finder
    from stillhouse.retrieval.embed import load_embedder
    from stillhouse.retrieval.index import open_index

    index = open_index(folder, load_embedder(model_of(source)), made_by=retriever_fingerprint(source))
    return Finder(index, passages, source, "")


def reranking(finder: Finder, *, candidates: int) -> Finder:
    """The same passages in the order of the cross-encoder that the finder is named after, which reads the best of them."""
    from stillhouse.retrieval.index import Reranked
    from stillhouse.retrieval.teachers import CrossEncoderTeacher

    teacher = CrossEncoderTeacher(model_of(finder.name))
    depth = max(RERANKED, candidates)
    return replace(finder, retriever=Reranked(finder.retriever, teacher.scores, finder.texts, depth=depth))
