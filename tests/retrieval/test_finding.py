"""What a generator's recipe names as its retriever finds the same when its index is opened again."""

import pytest

from stillhouse.commands.retrieving import check_retriever, finder_of, is_cross_encoder, model_of, opened_finder
from stillhouse.core.errors import ModelError
from stillhouse.retrieval import Corpus, Passage
from stillhouse.retrieval.teachers import CrossEncoderTeacher

from .models import save_bi_encoder, save_cross_encoder

CORPUS = Corpus(
    tuple(
        Passage(f"p{number}", text, "file.txt") for number, text in enumerate(["the fox ran", "a girl sang", "the sea"])
    )
)


@pytest.mark.parametrize("kind", ["bm25", "model", "run", "cross"])
def test_an_index_that_is_opened_again_finds_the_same(kind, tmp_path):
    source = kind
    if kind == "cross":
        source = str(save_cross_encoder(tmp_path))
    elif kind != "bm25":
        (tmp_path / "run").mkdir()
        model = save_bi_encoder(tmp_path).rename(tmp_path / "run" / "student")
        source = str(model if kind == "model" else tmp_path / "run")
        assert model_of(source) == str(model)
    check_retriever(source, key="data.retriever")
    made = finder_of(source, CORPUS, tmp_path / "index")
    opened = opened_finder(source, tmp_path / "index")
    queries = ["who ran", "the sea"]
    assert opened.retriever.search(queries, 2) == made.retriever.search(queries, 2)
    assert opened.passages == made.passages == CORPUS.by_id
    assert made.retriever.search(["the sea"], 1)[0][0].id == "p2" or kind != "bm25"
    assert is_cross_encoder(source) == (kind == "cross")
    if kind == "cross":
        query = "fox, girl, sea"  # by their words all three are found
        (hits,) = made.retriever.search([query], 3)
        scores = CrossEncoderTeacher(source).scores([(query, passage.whole) for passage in CORPUS.passages])
        by_hand = sorted(zip(scores.tolist(), CORPUS.by_id, strict=True), reverse=True)
        assert [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits] == [(id, score) for score, id in by_hand]


def test_a_model_that_tells_classes_apart_is_no_cross_encoder(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}'
    )
    with pytest.raises(ModelError, match="data.teacher_retriever is .* tells 2 classes apart"):
        check_retriever(str(tmp_path), key="data.teacher_retriever")


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr("stillhouse.commands.retrieving.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"data.retriever is 'bm25', which needs bm25s.*stillhouse\[retrieval\]"):
        check_retriever("bm25", key="data.retriever")
