"""Policy gradients as other people's code has them, where it means the same."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from stillhouse.objectives import Draws, minillm, reverse_kl, sampled_reverse_kl

from .cases import random_logits

ROWS, TOKENS, VOCAB = 3, 5, 7
STUDENT, TEACHER = random_logits(0, ROWS, TOKENS, VOCAB), random_logits(1, ROWS, TOKENS, VOCAB)
IDS = torch.randint(VOCAB, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))

pytest.importorskip("trl", reason="TRL is only an oracle: install trl to compare with it")


def drawn(student: torch.Tensor) -> Draws:
    """The student's own draws, an answer a row."""
    ours, theirs = (side.log_softmax(-1).gather(-1, IDS[..., None]).flatten() for side in (student, TEACHER))
    answers = torch.arange(ROWS).repeat_interleave(TOKENS)
    divergences = reverse_kl(student, TEACHER).flatten()
    return Draws(ours, theirs, ours.detach(), answers, torch.ones(ROWS * TOKENS, dtype=torch.bool), divergences)


def gradient(loss) -> torch.Tensor:
    leaf = STUDENT.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def test_a_drawn_token_teaches_as_in_the_self_distillation_of_trl():
    from trl.experimental.sdft.loss_utils import compute_sampled_token_self_distillation_loss

    def theirs(student):
        return compute_sampled_token_self_distillation_loss(student, TEACHER, IDS, distillation_alpha=1.0)

    assert_close(gradient(lambda student: sampled_reverse_kl(drawn(student))), gradient(theirs))


def test_a_drawn_token_teaches_as_in_the_on_policy_distillation_of_trl_without_its_weights():
    from trl.experimental.iw_opd import IWOPDTrainer

    trainer = SimpleNamespace(
        temperature=1.0,
        iw_opd_gamma=0.0,
        iw_opd_epsilon=1e-8,
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    teacher_logprobs = TEACHER.log_softmax(-1).gather(-1, IDS[..., None])[..., 0]

    def theirs(student):
        own = student.detach().log_softmax(-1).gather(-1, IDS[..., None])[..., 0]
        return IWOPDTrainer._compute_iw_opd_loss(trainer, student, IDS, IDS, teacher_logprobs, own)

    mean = gradient(lambda student: sampled_reverse_kl(drawn(student)).mean())
    assert_close(mean, gradient(theirs))


def test_without_what_comes_after_minillm_is_the_reverse_end_of_the_jsd_of_trl():
    from trl.experimental.gkd import GKDTrainer

    def theirs(student):
        return GKDTrainer.generalized_jsd_loss(student, TEACHER, beta=1, reduction="none").sum(-1)

    assert_close(minillm(drawn(STUDENT), gamma=0.0), theirs(STUDENT).flatten())
    assert_close(gradient(lambda student: minillm(drawn(student), gamma=0.0)), gradient(theirs))
