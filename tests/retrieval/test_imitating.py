"""A student that first embeds as another model does: a static one by one system of equations, another by training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import ModelError, RecipeError
from stillhouse.retrieval.embed import SentenceEmbedder, load_sentence_model
from stillhouse.retrieval.students import (
    fitted,
    ridge_solution,
    static_student,
    token_shares,
    turned_towards,
)
from stillhouse.training.rankings import ImitationLoss, train_imitator
from stillhouse.training.trainer import Schedule

from .cases import TEXTS
from .models import save_bi_encoder, word_tokenizer


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


@given(seed=st.integers(0, 2**31), ridge=st.sampled_from([0.01, 0.3, 10.0]))
def test_the_ridge_solution_is_that_of_the_normal_equations(seed, ridge):
    random = np.random.default_rng(seed)
    shares, wanted = random.random((7, 5)) * (random.random((7, 5)) < 0.6), random.standard_normal((7, 3))
    expected = np.linalg.solve(shares.T @ shares + ridge * np.eye(5), shares.T @ wanted)
    found = ridge_solution(csr_array(shares), wanted, ridge=ridge, tolerance=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@given(seed=st.integers(0, 2**31))
def test_turning_towards_the_student_changes_no_cosine(seed):
    random = np.random.default_rng(seed)
    made, embeddings = random.standard_normal((9, 6)), random.standard_normal((9, 4))
    turned = turned_towards(made, embeddings)
    assert turned.shape == made.shape
    np.testing.assert_allclose(cosines(turned), cosines(embeddings), atol=1e-8)
    rotated = made @ np.linalg.qr(random.standard_normal((6, 6)))[0]
    np.testing.assert_allclose(turned_towards(made, 3 * rotated), made, atol=1e-8)


def test_shares_are_of_a_texts_own_tokens():
    shares = token_shares(word_tokenizer().backend_tokenizer, ["the fox the fox the hill", "zebra"], vocabulary=99)
    rows = shares.toarray()
    assert sorted(rows[0][rows[0] > 0]) == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert rows[1].sum() == pytest.approx(1)


def test_a_static_student_comes_nearer_to_the_model_that_it_imitates(tmp_path):
    model = load_sentence_model(str(save_bi_encoder(tmp_path)))
    before = static_student(model, TEXTS, dimensions=16)
    wanted = SentenceEmbedder(model).documents(TEXTS)
    after = fitted(before, TEXTS, wanted, ridge=1e-4)
    far, near = (
        np.abs(cosines(SentenceEmbedder(one).documents(TEXTS)) - cosines(wanted)).mean() for one in (before, after)
    )
    assert near < far / 10
    unseen = word_tokenizer().vocab["[MASK]" if "[MASK]" in word_tokenizer().vocab else "[PAD]"]
    weights = (one[0].embedding.weight[unseen].detach() for one in (before, after))
    np.testing.assert_array_equal(*(one.numpy() for one in weights))


def test_what_has_layers_cannot_be_fitted():
    with pytest.raises(ModelError, match="only a static student"):
        fitted([SimpleNamespace()], TEXTS, np.ones((6, 2)), ridge=1.0)


def recipe(**changes):
    values = {
        "run": "run",
        "teacher": {"kind": "bi_encoder", "model": "teacher"},
        "student": {"kind": "from_layers", "keep": 2},
        "data": {"kind": "retrieval", "path": "beir"},
        "objectives": [{"name": "listwise_kl"}],
    }
    return parse_recipe(RetrievalRecipe, {**values, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"imitation": {"kind": "least_squares"}}, "a student of kind from_layers imitates by embeddings or states"),
        ({"imitation": {"kind": "embeddings"}, "student": {"kind": "static"}}, "imitates by least_squares"),
        (
            {"imitation": {"kind": "states", "objectives": [{"name": "forward_kl"}]}},
            "imitation.objectives names forward_kl",
        ),
        (
            {
                "imitation": {"kind": "embeddings"},
                "teacher": {"kind": "cross_encoder", "model": "teacher"},
                "student": {"kind": "cross_encoder", "keep": 1},
                "negatives": {"sources": ["bm25"]},
                "objectives": [{"name": "margin_mse"}],
            },
            "no embeddings to imitate with",
        ),
        ({"imitation": {"kind": "least_squares", "ridge": 0}}, "ridge"),
    ],
)
def test_an_imitation_that_cannot_be_is_refused(changes, said):
    with pytest.raises(RecipeError, match=said):
        recipe(**changes)


def test_minilms_relations_can_be_imitated():
    wanted = {"kind": "states", "objectives": [{"name": "multi_head_relation_kl", "relation_heads": 12}]}
    assert recipe(imitation=wanted).imitation.objectives[0].name == "multi_head_relation_kl"


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_student_with_layers_comes_nearer_by_angle_or_by_length_too(tmp_path, similarity):
    normalizes = similarity == "cosine"
    student, teacher = (
        load_sentence_model(str(save_bi_encoder(tmp_path / str(seed), layers=1, seed=seed, normalizes=normalizes)))
        for seed in (0, 1)
    )
    wanted = torch.from_numpy(SentenceEmbedder(teacher).documents(TEXTS))
    loss = ImitationLoss(student, wanted, similarity=similarity)
    lines: list[dict] = []
    schedule = Schedule(epochs=12, learning_rate=1e-2, rows_per_step=3, rows_per_micro_batch=3, save_every_steps=100)
    train_imitator(student, TEXTS, loss=loss, schedule=schedule, checkpoints=tmp_path / "run", log_line=lines.append)
    found = torch.from_numpy(SentenceEmbedder(student).documents(TEXTS))
    name = {"cosine": "embedding_cosine", "dot": "embedding_mse"}[similarity]
    after = (
        1 - torch.nn.functional.cosine_similarity(found, wanted) if normalizes else (found - wanted).square().mean(-1)
    )
    assert float(after.mean()) < lines[0][name] / 2
    assert all(line["loss"] == pytest.approx(line[name], rel=1e-2) for line in lines)
