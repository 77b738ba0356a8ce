"""What is measured on held-out text: by hand, at the teacher, and at chance."""

import math

import numpy as np
import pytest
import torch

from stillhouse.data.examples import Example, windows
from stillhouse.evaluation.compare import drawn_from, judgement
from stillhouse.evaluation.language import DocumentSums, language_statistics, measure, say

VOCAB = 300


def language_metrics(sums):
    return judgement({"student": language_statistics(sums)}, drawn_from(len(sums.tokens))).metrics("student")


def language_differences(ours, theirs):
    statistics = {"student": language_statistics(ours), "teacher": language_statistics(theirs)}
    rows = judgement(statistics, drawn_from(len(ours.tokens))).comparisons()
    return {row.metric: row.difference for row in rows}


@pytest.fixture
def examples(build_example):
    return [build_example(seed, tokens, prompt=1 + seed % 3) for seed, tokens in enumerate((5, 12, 30, 9, 17, 24))]


@pytest.fixture
def teacher(build_model):
    return build_model(seed=2)


def _measure(model, examples, teacher, *, vocab_size=VOCAB):
    return measure(model, examples, say(teacher, examples, vocab_size=vocab_size), vocab_size=vocab_size)


@torch.no_grad()
def test_the_sums_are_those_of_a_scalar_loop(build_model, examples, teacher):
    student = build_model(seed=1)
    sums = _measure(student, examples, teacher)
    for number, example in enumerate(examples):
        ours, theirs = (model(torch.tensor([example.ids])).logits[0].double() for model in (student, teacher))
        loss = kl = agreements = hits = tokens = 0.0
        for place in range(1, len(example.ids)):
            if example.weights[place] > 0:
                q, p = ours[place - 1].softmax(-1), theirs[place - 1].softmax(-1)
                loss -= math.log(q[example.ids[place]])
                kl += float((p * (p / q).log()).sum())
                agreements += float(q.argmax() == p.argmax())
                hits += float(q.argmax() == example.ids[place])
                tokens += 1
        assert sums.tokens[number] == tokens
        assert sums.bytes[number] == example.num_bytes
        assert sums.loss_nats[number] == pytest.approx(loss, rel=1e-5)
        assert sums.kl_nats[number] == pytest.approx(kl, rel=1e-5)
        assert sums.agreements[number] == agreements
        assert sums.hits[number] == hits


def test_the_teacher_measured_against_itself_is_at_no_distance(examples, teacher):
    sums = _measure(teacher, examples, teacher)
    metrics = language_metrics(sums)
    for name, value in {"forward_kl": 0.0, "top1_agreement": 1.0}.items():
        assert (metrics[name].value, metrics[name].low, metrics[name].high) == (value, value, value)
    assert metrics["perplexity"].value > 1
    for difference in language_differences(sums, sums).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_the_metrics_by_hand():
    sums = DocumentSums(
        *(np.array(row) for row in ([2.0, 3.0], [7.0, 9.0], [4.0, 6.0], [1.0, 0.5], [1.0, 3.0], [0.0, 2.0]))
    )
    metrics = language_metrics(sums)
    assert metrics["bits_per_byte"].value == pytest.approx(10 / math.log(2) / 16)
    assert metrics["perplexity"].value == pytest.approx(math.exp(10 / 5))
    assert metrics["forward_kl"].value == pytest.approx(1.5 / 5)
    assert metrics["top1_agreement"].value == pytest.approx(4 / 5)
    assert metrics["accuracy"].value == pytest.approx(2 / 5)
    theirs = ([5.0, 7.0], [1.5, 1.5], [0.0, 1.0], [0.0, 0.0])
    other = DocumentSums(sums.tokens, sums.bytes, *(np.array(row) for row in theirs))
    differences = language_differences(sums, other)
    assert differences["bits_per_byte"].value == pytest.approx(-2 / math.log(2) / 16)
    assert differences["forward_kl"].value == pytest.approx(-1.5 / 5)
    assert differences["top1_agreement"].value == pytest.approx(3 / 5)
    assert differences["accuracy"].value == pytest.approx(2 / 5)
    assert "perplexity" not in differences


def test_a_model_that_knows_nothing_is_at_chance(build_model, examples, teacher):
    nothing = build_model(seed=1)
    nothing.get_output_embeddings().weight.data.zero_()
    sums = _measure(nothing, examples, teacher)
    metrics = language_metrics(sums)
    assert metrics["perplexity"].value == pytest.approx(VOCAB, rel=1e-5)
    bits = math.log2(VOCAB) * sums.tokens.sum() / sums.bytes.sum()
    assert metrics["bits_per_byte"].value == pytest.approx(bits, rel=1e-5)
    assert metrics["forward_kl"].value < math.log(VOCAB)


def test_a_random_student_agrees_as_often_as_chance_has_it(build_model, build_example, teacher):
    examples = [build_example(seed, 100) for seed in range(20)]
    agreement = language_metrics(_measure(build_model(seed=1), examples, teacher))["top1_agreement"]
    assert agreement.low <= 0.01 and agreement.high < 0.03


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_that_pad_the_vocabulary_are_never_likeliest_and_cost_nothing(build_model, examples, teacher, family):
    student, padded = build_model(family, seed=1), build_model(family, seed=1)
    padded.resize_token_embeddings(384, mean_resizing=False)
    padded.get_output_embeddings().weight.data[VOCAB:] = 50.0
    one, other = _measure(student, examples, teacher), _measure(padded, examples, teacher)
    for name in ("loss_nats", "kl_nats", "agreements"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


def test_every_token_that_carries_weight_counts_once(build_model, teacher):
    whole = Example((5, 6, 7, 8), (0.0, 1.0, 1.0, 1.0), 9)
    half = Example((5, 6, 7, 8), (0.0, 0.5, 0.5, 0.5), 9)
    one, other = (language_metrics(_measure(build_model(seed=1), [e], teacher)) for e in (whole, half))
    assert {name: metric.value for name, metric in one.items()} == {
        name: metric.value for name, metric in other.items()
    }


def test_pieces_of_one_document_are_one_document(build_model, build_example, teacher):
    """They are not independent of each other, and an interval that took them for it would be too narrow."""
    documents = [build_example(0, 50), build_example(1, 40), build_example(2, 8)]
    pieces = [piece for document in documents for piece in windows(document, max_tokens=12)]
    sums = _measure(build_model(seed=1), pieces, teacher)
    assert len(pieces) > 8
    assert sums.tokens.tolist() == [49, 39, 7]
    assert sums.bytes.tolist() == [document.num_bytes for document in documents]


def test_long_documents_are_measured_in_chunks_and_lose_nothing(build_model, build_example, teacher, monkeypatch):
    examples = [build_example(0, 60)]
    whole = _measure(build_model(seed=1), examples, teacher)
    monkeypatch.setattr("stillhouse.evaluation.judging.CHUNK_ANSWERS", 7)
    pieces = _measure(build_model(seed=1), examples, teacher)
    for name in ("tokens", "bytes", "loss_nats", "kl_nats", "agreements"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), rtol=1e-6)
