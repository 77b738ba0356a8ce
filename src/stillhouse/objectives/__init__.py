"""Objectives: pure functions from logits to one number per position, and a catalogue of them by name.

Conventions, the same for all:

- **Order.** The student's logits come first, then what they are compared with. p is the teacher, q the student.
- **One number per position.** `[*batch, vocab]` in, `[*batch]` out: no reduction, no mask, no division. The trainer
  weights positions and divides once, by the weight summed over all ranks and micro-batches.
- **Mask by selection, not by zero.** A position may be +inf (a banned token), and 0 * inf is NaN: drop positions of
  weight zero, or replace their values with torch.where. Gradients are then finite.
- **Nats**, except `total_variation`, which is a share of mass. Divergences are zero at the teacher and only there.
- **Aligned.** The caller has shifted: the logits at a position predict the target at the same position.
- **Temperature** is no business of a divergence. `tempered(divergence, T)` divides both sides' logits by T and
  multiplies by T^2, there and nowhere else. Hard-label objectives have neither.
- **Precision.** float32 arithmetic whatever narrower type comes in; float64 stays float64.
"""

from stillhouse.objectives.catalogue import CATALOGUE, BoundObjective, Objective, Signal, names, objective
from stillhouse.objectives.divergences import (
    Divergence,
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tempered,
    total_variation,
)
from stillhouse.objectives.logprobs import to_logprobs
from stillhouse.objectives.supervised import next_token

__all__ = [
    "CATALOGUE",
    "BoundObjective",
    "Divergence",
    "Objective",
    "Signal",
    "alpha_beta",
    "forward_kl",
    "jsd",
    "names",
    "next_token",
    "objective",
    "reverse_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "tempered",
    "to_logprobs",
    "total_variation",
]
