"""A retriever's loss is its objectives, whatever the width; training goes on where it was killed."""

import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
from torch.nn.functional import normalize
from torch.testing import assert_close

from stillhouse.objectives import info_nce, margin_mse
from stillhouse.retrieval.embed import SentenceEmbedder, load_sentence_model
from stillhouse.training.ranking_terms import RankingTerm
from stillhouse.training.rankings import (
    RerankerLoss,
    RetrieverLoss,
    targets_of,
    train_ranker,
)
from stillhouse.training.trainer import Schedule

from .cases import ALONE, IDS, ROWS
from .models import load_cross_encoder, save_bi_encoder, save_cross_encoder, word_tokenizer


class Width:
    """Stands for a model where only its width is asked for."""

    def __init__(self, width: int) -> None:
        self.width = width

    def get_embedding_dimension(self) -> int:
        return self.width


def loss_of(*terms: RankingTerm, similarity="dot", dimensions=(), teacher_width=None) -> RetrieverLoss:
    teachers = {}
    if teacher_width:
        random = torch.Generator().manual_seed(9)
        teachers = {
            "query_embeddings": torch.randn(len(ROWS), teacher_width, generator=random),
            "embeddings_by_id": {name: torch.randn(teacher_width, generator=random) for name in IDS},
        }
    targets = targets_of(ROWS, same_text=ALONE, **teachers)
    made = RetrieverLoss.__new__(RetrieverLoss)
    torch.nn.Module.__init__(made)
    RetrieverLoss.__init__(made, Width(8), terms, targets, similarity=similarity, dimensions=dimensions)
    return made


def embedded(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(6, 8, generator=random), torch.randn(6, 3, 8, generator=random)


def test_narrower_embeddings_of_dot_products_are_sliced_and_never_normalised():
    """sentence-transformers' MatryoshkaLoss makes cosines of them, and so another objective."""
    queries, documents = embedded()
    scores = torch.tensor([row.scores for row in ROWS])
    expected = torch.stack(
        [margin_mse((queries[:, None, :width] * documents[..., :width]).sum(-1), scores).mean() for width in (8, 4, 2)]
    ).mean()
    found = loss_of(RankingTerm("margin_mse"), dimensions=(4, 2)).values(queries, documents, torch.arange(6))
    assert_close(found["margin_mse"], expected)


def test_narrower_embeddings_of_cosines_have_length_1_again():
    queries, documents = embedded()
    scores = torch.tensor([row.scores for row in ROWS])
    cosines = (normalize(queries[:, None, :4], dim=-1) * normalize(documents[..., :4], dim=-1)).sum(-1)
    whole = (normalize(queries[:, None], dim=-1) * normalize(documents, dim=-1)).sum(-1)
    expected = (margin_mse(cosines, scores).mean() + margin_mse(whole, scores).mean()) / 2
    loss = loss_of(RankingTerm("margin_mse"), similarity="cosine", dimensions=(4,))
    assert_close(loss.values(queries, documents, torch.arange(6))["margin_mse"], expected)


def test_each_width_has_a_projection_of_its_own_to_the_teachers():
    loss = loss_of(RankingTerm("embedding_mse"), dimensions=(4,), teacher_width=12)
    assert loss.projections.widths == {"8": (8, 12), "4": (4, 12)}
    assert loss.values(*embedded(), torch.arange(6))["embedding_mse"].isfinite()
    assert not loss_of(RankingTerm("embedding_mse"), teacher_width=8).projections.maps


def test_in_the_batch_each_passage_counts_once_and_none_that_answers():
    loss = loss_of(RankingTerm("info_nce"))
    rows = torch.tensor([0, 1])  # p0 p1 p2, p1 p2 p3
    counted = loss._counted(rows, torch.tensor([0, 3]))
    assert counted.tolist() == [[True, True, True, False, False, True], [True, False, True, True, False, True]]
    queries, documents = embedded()
    expected = info_nce(queries[:2] @ documents[:2].flatten(0, 1).T, torch.tensor([0, 3]), counted).mean()
    assert_close(loss.values(queries[:2], documents[:2], rows)["info_nce"], expected)


def test_an_objective_of_tokens_is_refused():
    with pytest.raises(ValueError, match="next_token does not compare rankings"):
        RankingTerm("next_token")


SCHEDULE = Schedule(epochs=2, learning_rate=1e-2, rows_per_step=2, rows_per_micro_batch=2, save_every_steps=2)
TERMS = (RankingTerm("margin_mse", 0.5), RankingTerm("info_nce", 0.5), RankingTerm("embedding_mse", 0.1))


def trained(model, checkpoints, log=None, die_at=None):
    random = torch.Generator().manual_seed(9)
    targets = targets_of(
        ROWS,
        same_text=ALONE,
        query_embeddings=torch.randn(len(ROWS), 24, generator=random),
        embeddings_by_id={name: torch.randn(24, generator=random) for name in IDS},
    )
    loss = RetrieverLoss(model, TERMS, targets, similarity="cosine", dimensions=(8,))

    def line(numbers):
        if log is not None:
            log.append(dict(numbers))
        if die_at is not None and numbers["step"] == die_at:
            raise KeyboardInterrupt

    return train_ranker(
        model, ROWS, texts=IDS, loss=loss, schedule=SCHEDULE, checkpoints=checkpoints, log_line=line
    ), loss


def test_training_that_was_killed_ends_with_the_same_weights_and_every_part_has_a_curve(tmp_path):
    folder = save_bi_encoder(tmp_path, layers=1)
    lines: list[dict] = []
    whole, loss = trained(load_sentence_model(str(folder)), tmp_path / "whole", lines)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        parts = sum(term.weight * line[term.name] for term in TERMS)
        assert parts == pytest.approx(line["loss"], rel=1e-2)
    with pytest.raises(KeyboardInterrupt):
        trained(load_sentence_model(str(folder)), tmp_path / "killed", die_at=4)
    again, loss_again = trained(load_sentence_model(str(folder)), tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for one, other in zip(loss.projections.maps, loss_again.projections.maps, strict=True):
        assert torch.equal(one, other)
    shutil.rmtree(tmp_path / "whole")


def test_questions_and_passages_may_have_encoders_of_their_own(tmp_path):
    modules = [StaticEmbedding(word_tokenizer().backend_tokenizer, embedding_dim=8) for _ in range(2)]
    router = Router.for_query_document(query_modules=[modules[0]], document_modules=[modules[1]])
    model = SentenceTransformer(modules=[router], device="cpu")
    before = [module.embedding.weight.clone() for module in modules]
    loss = RetrieverLoss(model, (RankingTerm("margin_mse"),), targets_of(ROWS, same_text=ALONE), similarity="dot")
    schedule = Schedule(epochs=1, learning_rate=0.1, rows_per_step=2, rows_per_micro_batch=2)
    train_ranker(model, ROWS, texts=IDS, loss=loss, schedule=schedule, checkpoints=tmp_path / "run")
    assert all(not torch.equal(old, new.embedding.weight) for old, new in zip(before, modules, strict=True))
    embedder = SentenceEmbedder(model, similarity="dot")
    assert not np.allclose(embedder.queries(["the fox"]), embedder.documents(["the fox"]))


def test_a_cross_encoder_learns_a_teachers_logits(tmp_path):
    model = load_cross_encoder(save_cross_encoder(tmp_path, layers=1))
    loss = RerankerLoss(model, (RankingTerm("margin_mse"),), targets_of(ROWS, same_text=ALONE))
    lines: list[dict] = []
    schedule = Schedule(epochs=8, learning_rate=1e-2, rows_per_step=3, rows_per_micro_batch=3, save_every_steps=100)
    train_ranker(
        model, ROWS, texts=IDS, loss=loss, schedule=schedule, checkpoints=tmp_path / "run", log_line=lines.append
    )
    first, last = (np.mean([line["margin_mse"] for line in part]) for part in (lines[:2], lines[-2:]))
    assert last < first / 2
