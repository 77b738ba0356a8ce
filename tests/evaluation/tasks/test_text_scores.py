"""Scores of texts are the libraries' own, at the whole set and at any draw of it."""

from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from stillhouse.evaluation.tasks.config import GenerationConfig
from stillhouse.evaluation.tasks.text_scores import bleu, chrf, rouge, text_statistics

TEXTS = ["the fox ran over the hill", "a girl found a red key", "", "the old man went out to sea again today"]
REFERENCES = [
    ["the small fox ran over a hill", "a fox ran over the hill"],
    ["a girl found a key in the garden"],
    ["the robot sang"],
    ["the old man went out to sea every day", "an old man went to sea"],
]
DRAWS = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1], [0, 3, 0, 1]])


def repeated(values, draw):
    return [value for value, count in zip(values, draw, strict=True) for _ in range(int(count))]


def streams(references):
    return [[own[n] if n < len(own) else None for own in references] for n in range(2)]


@pytest.mark.parametrize(("ours", "theirs"), [(bleu, BLEU), (chrf, CHRF)])
def test_bleu_and_chrf_are_sacrebleus_at_any_draw(ours, theirs):
    statistic, _ = ours(TEXTS, REFERENCES)
    for draw, found in zip(DRAWS, statistic(DRAWS), strict=True):
        texts, references = repeated(TEXTS, draw), repeated(REFERENCES, draw)
        assert found == pytest.approx(theirs().corpus_score(texts, streams(references)).score / 100)


@pytest.mark.parametrize(("ours", "theirs"), [(bleu, BLEU), (chrf, CHRF)])
def test_a_signature_is_the_one_that_the_library_gives(ours, theirs):
    made = theirs()
    made.corpus_score(TEXTS, streams(REFERENCES))
    assert ours(TEXTS, REFERENCES)[1].split(" ", 1)[1] == str(made.get_signature())


def test_rouge_is_the_mean_of_the_librarys():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score_multi(own, text) for own, text in zip(REFERENCES, TEXTS, strict=True)]
    for name, statistic in rouge(TEXTS, REFERENCES).items():
        key = "rougeL" if name == "rougel" else name
        expected = np.array([score[key].fmeasure for score in scores])
        assert statistic(DRAWS) == pytest.approx(DRAWS @ expected / DRAWS.sum(-1))


def test_the_reference_itself_is_worth_everything():
    task = GenerationConfig(path=Path("x.jsonl"), metrics=("bleu", "chrf", "rouge", "exact_match", "f1"))
    texts = [own[0] for own in REFERENCES]
    found, notes = text_statistics(task, texts, [[text] for text in texts])
    whole = np.ones((1, len(texts)))
    assert {name: round(float(one(whole)[0]), 9) for name, one in found.items()} == dict.fromkeys(found, 1.0)
    assert [*found] == ["bleu", "chrf", "rouge1", "rouge2", "rougel", "exact_match", "f1"]
    assert any(note.startswith("BLEU nrefs:1") for note in notes)
