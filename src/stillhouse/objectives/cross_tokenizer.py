"""Teachers with another tokenizer: two sides' logits as distributions over the same outcomes, and the shape of a distribution.

Below, a span is the smallest piece of text that both sides cut alike (`core.alignment`), with one token or more of each. At
its start both sides have read the same text, so what each says there can be compared.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.objectives.logprobs import at_least_float32, log_total, to_logprobs


@dataclass(frozen=True)
class Reading:
    """What one side says about a text: for each of its tokens that belongs to a span, in the order of the text."""

    logits: Float[Tensor, "tokens vocab"]
    """What it said *before* the token: the caller has shifted. A head that is padded is cut to the tokenizer's size."""
    ids: Int[Tensor, " tokens"]
    """The token that came."""
    spans: Int[Tensor, " tokens"]
    """The span it belongs to: 0, 1, 2 and so on, none left out."""
    outcomes: Int[Tensor, " vocab"]
    """What each token of the vocabulary begins: outcomes that both sides have, or -1 for none."""

    def softened(self, temperature: float) -> "Reading":
        """The same with every distribution softened."""
        return self if temperature == 1 else replace(self, logits=at_least_float32(self.logits) / temperature)

    @property
    def openings(self) -> Float[Tensor, "spans vocab"]:
        """What it said before the first token of each span."""
        return self.logits[span_starts(self.spans)]


def span_outcomes(
    student: Reading, teacher: Reading, *, num_outcomes: int
) -> tuple[Float[Tensor, "spans outcomes"], Float[Tensor, "spans outcomes"]]:
    """Logits of student and teacher over the same outcomes, span by span: what any divergence of logits takes.

    An outcome's mass is that of the tokens that begin it. One more outcome, the last, is the span's own text, whose
    probability is the product of its tokens' (the chain rule); that is taken out of the outcome it begins, so that nothing
    counts twice. Where one side has nothing left there, the text is that whole outcome and is not told apart. Tokens without
    an outcome are left out, and the divergence brings the rest to one.

    Two sides that cut the text otherwise may begin it with tokens of different outcomes: these two are then one. For equal
    tokenizers these are the logits themselves, up to a constant. With a single outcome for all tokens they are the text's
    probability and its complement, as approximate likelihood matching has it.

    Raises: ValueError if one side has more spans than the other.
    Source: chain rule and matched tokens: TRL's GOLD trainer, after Boizard et al., 2024, arXiv:2402.12030; a span's
    probability and its complement: Minixhofer et al., 2025, arXiv:2503.20083.
    """
    ours, theirs = _opened(student, num_outcomes), _opened(teacher, num_outcomes)
    if len(ours.text) != len(theirs.text):
        raise ValueError(
            f"Both sides must say the same spans of text, but the student's are {len(ours.text)} and the teacher's "
            f"{len(theirs.text)}. Align both tokenizations first, and leave out tokens that belong to no span."
        )
    begun = torch.stack([ours.first, theirs.first], dim=-1)  # [spans, 2]
    ours_left, theirs_left = _left_of(ours, begun), _left_of(theirs, begun)
    apart = (begun >= 0).all(-1) & (ours_left > -torch.inf) & (theirs_left > -torch.inf)
    return _closed(ours, ours_left, begun, apart), _closed(theirs, theirs_left, begun, apart)


def span_starts(spans: Int[Tensor, " tokens"]) -> Int[Tensor, " spans"]:
    """Where the first token of each span stands."""
    num_spans = int(spans[-1]) + 1 if len(spans) else 0
    return torch.searchsorted(spans, torch.arange(num_spans, device=spans.device))


def span_logprobs(
    logprobs: Float[Tensor, " tokens"], spans: Int[Tensor, " tokens"], *, num_spans: int
) -> Float[Tensor, " spans"]:
    """Log-probability of each span's text, in nats: the sum of its tokens', each given those before it."""
    return logprobs.new_zeros(num_spans).index_add(0, spans, logprobs)


def sorted_mass(
    student_logits: Float[Tensor, "*batch student_vocab"],
    teacher_logits: Float[Tensor, "*batch teacher_vocab"],
) -> Float[Tensor, "*batch"]:
    """L1 distance of the probabilities by rank, likeliest first, per position: a mass in [0, 2), not nats.

    The shape of the teacher's distribution, whichever words it is of: zero for the same probabilities in any order, so a
    student may be right in shape and wrong in every word. Hence it goes beside an objective that names tokens, such as
    next_token. The smaller vocabulary's missing tokens have no mass.

    Source: Boizard et al., 2024, arXiv:2402.12030, section 3.
    """
    return rank_distance(*(to_logprobs(logits).exp() for logits in (student_logits, teacher_logits)))


def rank_distance(
    student_mass: Float[Tensor, "*batch student_tokens"], teacher_mass: Float[Tensor, "*batch teacher_tokens"]
) -> Float[Tensor, "*batch"]:
    """L1 distance of two lists of masses, largest with largest; the shorter list is filled up with zeros."""
    ours, theirs = (mass.sort(-1, descending=True).values for mass in (student_mass, teacher_mass))
    common = min(ours.shape[-1], theirs.shape[-1])
    longer = ours if ours.shape[-1] > theirs.shape[-1] else theirs
    return (ours[..., :common] - theirs[..., :common]).abs().sum(-1) + longer[..., common:].sum(-1)


@dataclass(frozen=True)
class _Opened:
    """One side's outcomes at the start of each span, with the span's text taken out."""

    logprobs: Float[Tensor, "spans outcomes"]
    text: Float[Tensor, " spans"]
    first: Int[Tensor, " spans"]
    """The outcome that the text's first token begins; -1 for none."""
    whole: Float[Tensor, " spans"]
    """That outcome with the text."""


def _opened(side: Reading, num_outcomes: int) -> _Opened:
    starts = span_starts(side.spans)
    logprobs = to_logprobs(side.logits)  # [tokens, vocab]
    said = logprobs.gather(-1, side.ids[:, None]).squeeze(-1)  # [tokens]
    rest = span_logprobs(said.index_fill(0, starts, 0.0), side.spans, num_spans=len(starts))
    text = said[starts] + rest
    # The first token keeps, of its mass, only what goes on otherwise than the text.
    ids = side.ids[starts]
    others = said[starts] + _log_complement(rest)
    opening = logprobs[starts].scatter(-1, ids[:, None], others[:, None])  # [spans, vocab]
    left, first = _by_outcome(opening, side.outcomes, num_outcomes), side.outcomes[ids]
    whole = log_total(torch.stack([_at(left, first), text], dim=-1)).squeeze(-1)
    return _Opened(left, text, first, whole)


def _by_outcome(
    logprobs: Float[Tensor, "spans vocab"], outcomes: Int[Tensor, " vocab"], num_outcomes: int
) -> Float[Tensor, "spans outcomes"]:
    """The mass of each outcome, in logs; one token alone is itself to the last bit."""
    index = outcomes[outcomes >= 0]
    logprobs = logprobs[:, outcomes >= 0]
    peaks = logprobs.new_full((len(logprobs), num_outcomes), -torch.inf)
    peaks = peaks.scatter_reduce(-1, index.expand_as(logprobs), logprobs.detach(), "amax")
    peaks = peaks.masked_fill(peaks == -torch.inf, 0.0)
    mass = torch.zeros_like(peaks).index_add(-1, index, (logprobs - peaks[:, index]).exp())
    empty = mass == 0
    return (mass.masked_fill(empty, 1.0).log() + peaks).masked_fill(empty, -torch.inf)


def _left_of(side: _Opened, begun: Int[Tensor, "spans 2"]) -> Float[Tensor, " spans"]:
    """What the two outcomes that the first tokens begin hold beside the text; one alone, if they are the same."""
    left = torch.stack([_at(side.logprobs, begun[:, 0]), _at(side.logprobs, begun[:, 1])], dim=-1)
    twice = torch.stack([torch.zeros_like(begun[:, 0], dtype=torch.bool), begun[:, 0] == begun[:, 1]], dim=-1)
    return log_total(left.masked_fill(twice, -torch.inf)).squeeze(-1)


def _closed(
    side: _Opened, left: Float[Tensor, " spans"], begun: Int[Tensor, "spans 2"], apart: Bool[Tensor, " spans"]
) -> Float[Tensor, "spans outcomes"]:
    """All outcomes, then the text; where it is not told apart, it is back in the outcome that it begins."""
    places = torch.arange(side.logprobs.shape[-1], device=left.device)
    student, teacher, own = (places == first[:, None] for first in (*begun.unbind(-1), side.first))
    together = side.logprobs.masked_fill(teacher, -torch.inf)
    together = torch.where(student, left[:, None], together)
    back = torch.where(own, side.whole[:, None], side.logprobs)
    outcomes = torch.where(apart[:, None], together, back)
    return torch.cat([outcomes, side.text.masked_fill(~apart, -torch.inf)[:, None]], dim=-1)


def _at(logprobs: Float[Tensor, "spans outcomes"], outcomes: Int[Tensor, " spans"]) -> Float[Tensor, " spans"]:
    return logprobs.gather(-1, outcomes.clamp(min=0)[:, None]).squeeze(-1)


def _log_complement(logprobs: Float[Tensor, " spans"]) -> Float[Tensor, " spans"]:
    """log(1 - p) of log p, and -inf without a gradient where p is 1."""
    sure = logprobs >= 0
    return (-torch.expm1(logprobs.masked_fill(sure, -1.0))).log().masked_fill(sure, -torch.inf)
