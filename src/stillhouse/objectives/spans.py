"""Objectives across tokenizers: what both sides say at the start of each span of text, one number a span.

A span and its two readings are those of `cross_tokenizer`. Each function takes the student's reading before the teacher's.
"""

from jaxtyping import Float
from torch import Tensor

from stillhouse.objectives.cross_tokenizer import Reading, rank_distance, sorted_mass, span_outcomes
from stillhouse.objectives.divergences import forward_kl, jsd, reverse_kl
from stillhouse.objectives.logprobs import to_logprobs


def span_forward_kl(student: Reading, teacher: Reading, *, num_outcomes: int) -> Float[Tensor, " spans"]:
    """KL(teacher || student) per span, in nats, over the outcomes that both sides have: the span's own text, by the chain
    rule, and whatever else may begin there.

    Nearly every token has an outcome: one that only one side knows joins the longest token of the other that it begins with.
    For equal tokenizers it is forward_kl.

    Source: chain rule over pieces: TRL's GOLD trainer, after Boizard et al., 2024, arXiv:2402.12030; over a text and
    what it is not: Minixhofer et al., 2025, arXiv:2503.20083.
    """
    return forward_kl(*span_outcomes(student, teacher, num_outcomes=num_outcomes))


def span_reverse_kl(student: Reading, teacher: Reading, *, num_outcomes: int) -> Float[Tensor, " spans"]:
    """KL(student || teacher) per span, in nats, over the same outcomes as span_forward_kl. Mode-seeking, as reverse_kl is,
    which it is for equal tokenizers.

    Source: the outcomes as span_forward_kl; the divergence after Gu et al., 2024, arXiv:2306.08543.
    """
    return reverse_kl(*span_outcomes(student, teacher, num_outcomes=num_outcomes))


def span_hybrid(student: Reading, teacher: Reading, *, num_outcomes: int, beta: float = 0.5) -> Float[Tensor, " spans"]:
    """Per span: the generalised JSD, in nats, of the tokens that both vocabularies spell the same, of the span's own text
    and of all the rest as one outcome; and the L1 distance by rank of the masses of that rest, token by token. They are
    weighted by how much of the teacher's vocabulary is matched, and how much is not.

    For equal tokenizers it is jsd with this beta. Unlike the trainer that it follows it keeps the rest as an outcome, so what
    is compared sums to one and the JSD is a divergence.

    Source: TRL's GOLD trainer (hybrid loss), after Boizard et al., 2024, arXiv:2402.12030, and Agarwal et al., 2024,
    arXiv:2306.13649.
    """
    rest = num_outcomes - 1
    matched = (teacher.outcomes < rest).to(teacher.logits.dtype).mean()
    named = jsd(*span_outcomes(student, teacher, num_outcomes=num_outcomes), beta=beta)
    unnamed = rank_distance(*(_mass_of(side, rest) for side in (student, teacher)))
    return matched * named + (1 - matched) * unnamed


def span_sorted_mass(student: Reading, teacher: Reading, *, num_outcomes: int) -> Float[Tensor, " spans"]:
    """L1 distance of the probabilities by rank, likeliest first, at the start of each span: a mass in [0, 2), not nats.

    Universal logit distillation. It asks for the shape of the teacher's distribution, whichever words it is of: a student
    may be right in shape and wrong in every word, so it goes beside next_token.

    Source: Boizard et al., 2024, arXiv:2402.12030, section 3.
    """
    return sorted_mass(student.openings, teacher.openings)


def _mass_of(side: Reading, outcome: int) -> Float[Tensor, "spans tokens"]:
    """The probability of each token that begins this outcome, at the start of each span."""
    return to_logprobs(side.openings)[:, side.outcomes == outcome].exp()
