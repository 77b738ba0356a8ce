"""A teacher known in part trains as one that is run: over whole batches, packed, with prompts and pads."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import SampledTokens, Signals, SparseLogprobs, Wanted
from stillhouse.data.packing import to_batch
from stillhouse.kernels.terms import Term
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss

from .cases import gradients_of, mean_loss

VOCAB = 300


@dataclass(frozen=True)
class PartlyKnownTeacher:
    """Says what it is given, whatever it is asked."""

    answer: SparseLogprobs | SampledTokens

    @property
    def vocab_size(self):
        return self.answer.vocab_size

    def signals(self, batch, wanted):
        return Signals(logits=self.answer)


@pytest.fixture
def student(build_model):
    return build_model(seed=1)


@pytest.fixture
def batch(build_example):
    return to_batch([[build_example(1, 12, prompt=4), build_example(2, 9)], [build_example(3, 15)]], row_tokens=30)


@pytest.fixture
def logprobs(build_model, batch):
    """What a live teacher says at every position, softened by 2: [batch, seq, vocab]."""
    teacher = LocalTeacher(build_model(seed=2))
    with torch.no_grad():
        return (teacher.signals(batch, Wanted(logits=True)).logits.dense() / 2).log_softmax(-1)


def _all_of(logprobs):
    found, ids = logprobs.topk(VOCAB)
    return SparseLogprobs(ids, found, torch.full(found.shape[:-1], -torch.inf), VOCAB, temperature=2.0)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_all_tokens_from_a_store_give_the_step_of_the_live_teacher(name, student, build_model, batch, logprobs):
    terms = (Term(name, weight=0.9, temperature=2.0), Term("next_token", weight=0.1))
    found = []
    for teacher in (LocalTeacher(build_model(seed=2)), PartlyKnownTeacher(_all_of(logprobs))):
        loss = mean_loss(student, batch, teacher=teacher, terms=terms)
        found.append((loss.detach(), gradients_of(student, loss)))
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_every_token_drawn_by_its_probability_gives_the_step_of_the_live_teacher(student, build_model, batch, logprobs):
    terms = (Term("forward_kl", temperature=2.0),)
    ids = torch.arange(VOCAB).expand_as(logprobs)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    drawn = SampledTokens(ids, logprobs.exp(), entropy, VOCAB, temperature=2.0)
    found = []
    for teacher in (LocalTeacher(build_model(seed=2)), PartlyKnownTeacher(drawn)):
        loss = mean_loss(student, batch, teacher=teacher, terms=terms)
        found.append((loss.detach(), gradients_of(student, loss)))
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_what_is_stored_where_nothing_counts_makes_no_difference(student, batch, logprobs):
    answer, silent = _all_of(logprobs), ~batch.predicts
    poisoned = replace(answer, logprobs=answer.logprobs.masked_fill(silent[..., None], torch.nan))
    losses = [
        mean_loss(
            student, batch, teacher=PartlyKnownTeacher(said), terms=(Term("forward_kl", temperature=2.0),)
        ).detach()
        for said in (answer, poisoned)
    ]
    assert torch.equal(*losses)


def test_the_models_own_head_is_never_called_once_it_is_known(student, batch, logprobs):
    teacher, terms, head = (
        PartlyKnownTeacher(_all_of(logprobs)),
        (Term("forward_kl", temperature=2.0),),
        student.lm_head,
    )
    mean_loss(student, batch, teacher=teacher, terms=terms)  # the first time, it is compared with what we make of it
    outputs = []
    head.register_forward_hook(lambda _, inputs, output: outputs.append(output.shape[-1]))
    mean_loss(student, batch, teacher=teacher, terms=terms).backward()
    assert VOCAB not in outputs
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("forward_kl"), "temperature of 1, but the teacher was softened by 2"),
        (Term("logit_mse"), "logit_mse reads the teacher's logits themselves"),
    ],
)
def test_a_term_that_the_store_cannot_serve_is_refused(student, batch, logprobs, term, message):
    with pytest.raises(ModelError, match=message):
        distillation_loss(student, batch, teacher=PartlyKnownTeacher(_all_of(logprobs)), terms=[term], vocab_size=VOCAB)
