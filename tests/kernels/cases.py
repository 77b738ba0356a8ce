"""What the tests of kernels share: heads, and what a teacher says in each of its forms."""

import torch

from stillhouse.core.signals import FactoredLogits, SampledTokens, SparseLogprobs
from stillhouse.kernels.terms import Term
from stillhouse.objectives import CATALOGUE, objective

TOKENS, HIDDEN, VOCAB = 7, 5, 11
ON_TOKENS = [name for name, entry in CATALOGUE.items() if "target_values" not in entry.reads]
FORMS = ["logits", "likeliest", "all of them", "few here and none there", "drawn"]
"""Of a teacher's answer."""


def make_term(name, *, weight=1.0, temperature=1.0):
    return Term(name, weight, temperature if objective(name).takes_temperature else 1.0)


def serves(term, form):
    """Whether an answer of this form is enough for the term."""
    if form == "logits":
        return True
    return term.refusal(stored="sampled" if form == "drawn" else "sparse", temperature=term.temperature) is None


def make_factors(
    seed, *, tokens=TOKENS, hidden=HIDDEN, dtype=torch.float64, bias=True, scale=1.0, softcap=None, learns=True
):
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_(learns)

    return FactoredLogits(drawn(tokens, hidden), drawn(VOCAB, hidden), drawn(VOCAB) if bias else None, scale, softcap)


def make_targets(seed, tokens=TOKENS):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (tokens,), generator=random), 0.1 + torch.rand(tokens, generator=random)


def answer(teacher, form, *, temperature=1.0, seed=0):
    """What this teacher says, in one of its forms."""
    if form == "logits":
        return teacher
    logprobs = (teacher.dense() / temperature).log_softmax(-1)
    if form == "drawn":
        ids = torch.randint(VOCAB, (len(logprobs), 5), generator=torch.Generator().manual_seed(seed))  # some twice
        weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)).to(logprobs.dtype)
        entropy = -(logprobs.exp() * logprobs).nan_to_num().sum(-1)
        return SampledTokens(ids, weights, entropy, VOCAB, temperature)
    found, ids = logprobs.topk(VOCAB if form == "all of them" else 4)
    if form == "few here and none there":
        found[::2, 2:], ids[::2, 2:] = -torch.inf, ids[::2, :1].clone()
        found[1::4], ids[1::4] = -torch.inf, 0
    used = torch.zeros_like(logprobs).scatter_add_(-1, ids, (found > -torch.inf).to(logprobs.dtype)) > 0
    tail = logprobs.masked_fill(used, -torch.inf).logsumexp(-1)
    return SparseLogprobs(ids, found, tail, VOCAB, temperature)


def plain(student, said, *, terms, target_ids, token_weights):
    """The slow twin: all logits at once, torch's own differentiation."""
    said = said.dense() if isinstance(said, FactoredLogits) else said
    rows = token_weights.expand(len(terms), -1)
    values = [term.values(student.dense(), said, target_ids) for term in terms]
    sums = [(value * weights)[weights > 0].sum() for value, weights in zip(values, rows, strict=True)]
    return sum(term.weight * value for term, value in zip(terms, sums, strict=True)), torch.stack(sums).detach()


def with_gradients(losses, student, *arguments, upstream=1.0, **named):
    inputs = [tensor for tensor in (student.hidden, student.weight, student.bias) if tensor is not None]
    loss, sums = losses(student, *arguments, **named)
    return loss.detach(), sums, *torch.autograd.grad(loss * upstream, inputs)
