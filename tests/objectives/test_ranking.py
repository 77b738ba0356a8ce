"""Objectives of rankings: what they cannot see, where they vanish, and that they are sentence-transformers' own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    EmbedDistillLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score
from torch.testing import assert_close

from stillhouse.objectives import hidden_cosine, hidden_mse, info_nce, listwise_kl, margin_mse, objective, score_mse

QUERIES, CANDIDATES, WIDTH = 5, 4, 8


def embeddings(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of questions, of their candidates, and the teacher's scores."""
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(QUERIES, WIDTH, generator=random, requires_grad=True),
        torch.randn(QUERIES, CANDIDATES, WIDTH, generator=random, requires_grad=True),
        torch.randn(QUERIES, CANDIDATES, generator=random) * 3,
    )


def scores_of(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    return (queries[:, None] * documents).sum(-1)


def assert_same_value_and_gradients(ours, theirs, inputs):
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**31))
def test_margin_mse_is_theirs(seed):
    queries, documents, teacher = embeddings(seed)
    ours = margin_mse(scores_of(queries, documents), teacher).mean()
    theirs = MarginMSELoss(None).compute_loss_from_embeddings([queries, *documents.unbind(1)], teacher)
    assert_same_value_and_gradients(ours, theirs, (queries, documents))


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.5, 3.0)])
def test_listwise_kl_is_theirs(temperatures):
    queries, documents, teacher = embeddings(1)
    at = dict(zip(("student_temperature", "teacher_temperature"), temperatures, strict=True))
    ours = listwise_kl(scores_of(queries, documents), teacher, **at).mean()
    theirs = DistillKLDivLoss(None, **at).compute_loss_from_embeddings([queries, *documents.unbind(1)], teacher)
    assert_same_value_and_gradients(ours, theirs, (queries, documents))


def test_info_nce_is_theirs():
    queries, documents, _ = embeddings(2)
    in_their_order = documents.transpose(0, 1).reshape(-1, WIDTH)  # all positives, then all first negatives
    scores = queries @ in_their_order.T
    counted = torch.ones_like(scores, dtype=torch.bool)
    ours = info_nce(scores, torch.arange(QUERIES), counted, scale=2.0).mean()
    loss = MultipleNegativesRankingLoss(None, scale=2.0, similarity_fct=dot_score)
    theirs = loss.compute_loss_from_embeddings([queries, *documents.unbind(1)], None)
    assert_same_value_and_gradients(ours, theirs, (queries, documents))


@pytest.mark.parametrize(("ours", "metric"), [(hidden_mse, "mse"), (hidden_cosine, "cosine")])
def test_embedding_distances_are_theirs(ours, metric):
    queries, documents, _ = embeddings(3)
    targets = [torch.randn(QUERIES, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5)]
    columns = [queries, documents[:, 0]]
    value = torch.stack([ours(one, other).mean() for one, other in zip(columns, targets, strict=True)]).mean()
    theirs = EmbedDistillLoss(None, distance_metric=metric).compute_loss_from_embeddings(columns, targets)
    assert_same_value_and_gradients(value, theirs, (queries, documents))


@given(seed=st.integers(0, 2**31))
def test_what_is_added_to_all_of_a_questions_scores_is_not_seen(seed):
    queries, documents, teacher = embeddings(seed)
    student = scores_of(queries, documents).detach()
    shift = torch.randn(QUERIES, 1, generator=torch.Generator().manual_seed(seed))
    for function in (margin_mse, listwise_kl):
        plain = function(student, teacher)
        assert_close(function(student + shift, teacher), plain, rtol=1e-4, atol=1e-4)
        assert_close(function(student, teacher + shift), plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score_mse(student + shift, teacher), score_mse(student, teacher))


@given(seed=st.integers(0, 2**31))
def test_they_vanish_at_the_teacher_and_nowhere_beside_it(seed):
    _, _, teacher = embeddings(seed)
    for function in (margin_mse, listwise_kl, score_mse):
        assert_close(function(teacher, teacher), torch.zeros(QUERIES), atol=1e-6, rtol=0)
        assert (function(teacher * 1.5, teacher) > 0).all()
    assert_close(margin_mse(teacher / 4, teacher, scale=4.0), torch.zeros(QUERIES), atol=1e-6, rtol=0)


def test_a_passage_that_answers_too_stands_in_nobodys_way():
    scores, counted = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[True, False, True]])
    without = info_nce(scores[:, [0, 2]], torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    assert_close(info_nce(scores, torch.tensor([0]), counted), without)


def test_far_apart_scores_stay_finite_and_still_teach():
    """Softmax of the teacher underflows where its log does not."""
    student = torch.zeros(1, 3, requires_grad=True)
    value = listwise_kl(student, torch.tensor([[0.0, -500.0, -1000.0]]), teacher_temperature=1.0).sum()
    assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("margin_mse", {"scale": 0.0}, "scale must be positive"),
        ("listwise_kl", {"teacher_temperature": 0.0}, "teacher_temperature must be positive"),
        ("info_nce", {"scale": -1.0}, "scale must be positive"),
        ("score_mse", {"temperature": 2.0}, "has no parameter 'temperature'"),
    ],
)
def test_what_they_cannot_be_asked_is_refused(name, parameters, said):
    with pytest.raises(ValueError, match=said):
        objective(name, **parameters)


def test_a_list_of_one_teaches_nothing_and_is_refused():
    with pytest.raises(ValueError, match="at least 2 candidates"):
        margin_mse(torch.zeros(1, 1), torch.zeros(1, 1))
