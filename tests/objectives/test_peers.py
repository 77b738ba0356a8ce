"""The same numbers from other people's code."""

import pytest
import torch.nn.functional as F
from torch.testing import assert_close

from stillhouse.objectives import forward_kl, jsd, reverse_kl, tempered

from .cases import random_logits

STUDENT, TEACHER = random_logits(0, 2, 3, 7), random_logits(1, 2, 3, 7)


def test_kls_equal_pytorch():
    student_logprobs, teacher_logprobs = STUDENT.log_softmax(-1), TEACHER.log_softmax(-1)
    forward = F.kl_div(student_logprobs, teacher_logprobs, log_target=True, reduction="none").sum(-1)
    reverse = F.kl_div(teacher_logprobs, student_logprobs, log_target=True, reduction="none").sum(-1)
    assert_close(forward_kl(STUDENT, TEACHER), forward)
    assert_close(reverse_kl(STUDENT, TEACHER), reverse)


@pytest.fixture(scope="module")
def trl_jsd():
    """TRL's generalised JSD, summed over the vocabulary.

    Its beta is the teacher's weight in the mixture and in the sum, as ours. Its ends are not limits of its inside: beta
    0 returns forward KL and beta 1 reverse KL, while the formula is zero there. It has no T^2.
    """
    gkd = pytest.importorskip("trl.experimental.gkd", reason="TRL is only an oracle: install trl to compare with it")

    def per_token(student_logits, teacher_logits, **options):
        terms = gkd.GKDTrainer.generalized_jsd_loss(student_logits, teacher_logits, reduction="none", **options)
        return terms.sum(-1)

    return per_token


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_equals_trl_at_the_same_beta(trl_jsd, beta):
    assert_close(jsd(STUDENT, TEACHER, beta=beta), trl_jsd(STUDENT, TEACHER, beta=beta))


def test_tempered_jsd_is_the_temperature_squared_times_that_of_trl(trl_jsd):
    ours = tempered(jsd, 2.0)(STUDENT, TEACHER, beta=0.3)
    assert_close(ours, 4 * trl_jsd(STUDENT, TEACHER, beta=0.3, temperature=2.0))


def test_the_ends_of_the_jsd_of_trl_are_our_two_kls(trl_jsd):
    assert_close(forward_kl(STUDENT, TEACHER), trl_jsd(STUDENT, TEACHER, beta=0))
    assert_close(reverse_kl(STUDENT, TEACHER), trl_jsd(STUDENT, TEACHER, beta=1))
