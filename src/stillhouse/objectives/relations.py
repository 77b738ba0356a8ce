"""How a layer's tokens stand to each other in queries, keys or values: MiniLM's and MiniLMv2's relations.

A relation is attention's formula with one side twice: softmax over tokens of x_i . x_j / sqrt(width). Only tokens meet
tokens, so widths may differ between student and teacher, and MiniLMv2 splits both sides anew into as many heads.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stillhouse.objectives.features import attention_kl
from stillhouse.objectives.logprobs import at_least_float32


def value_relation_kl(
    student_states: Float[Tensor, "*batch student_heads seq student_width"],
    teacher_states: Float[Tensor, "*batch teacher_heads seq teacher_width"],
    allowed: Bool[Tensor, "*batch seq seq"],
) -> Float[Tensor, "*batch seq"]:
    """KL(teacher's relations || student's) per token, in nats: its mean over heads. MiniLM's, of an attention's values.

    A head's width may differ, the number of heads may not. `allowed` says which tokens (last axis) each may be related to;
    one that may be related to none is worth 0. The paper adds `attention_kl`, and matches the last layers.

    Raises: ValueError where the numbers of heads differ.
    Source: Wang et al., 2020, arXiv:2002.10957, section 3.2.
    """
    if student_states.shape[-3] != teacher_states.shape[-3]:
        raise ValueError(
            f"value_relation_kl compares head by head, but the teacher's values have {teacher_states.shape[-3]} heads and "
            f"the student's {student_states.shape[-3]}. Use multi_head_relation_kl, which splits both sides into as many."
        )
    return _relation_kl(student_states, teacher_states, allowed)


def multi_head_relation_kl(
    student_states: Float[Tensor, "*batch student_heads seq student_width"],
    teacher_states: Float[Tensor, "*batch teacher_heads seq teacher_width"],
    allowed: Bool[Tensor, "*batch seq seq"],
    *,
    relation_heads: int = 32,
) -> Float[Tensor, "*batch seq"]:
    """KL(teacher's relations || student's) per token, in nats: its mean over relation heads. MiniLMv2's.

    Once for an attention's queries, once for its keys, once for its values; the paper sums the three. Neither width nor
    number of heads need agree, and keys and values may be narrower than queries, as grouped heads make them. More
    relation heads ask for finer detail: the paper takes 48 and 64; 32 divides the widths of most models.

    Raises: ValueError unless relation_heads divides the width of both sides.
    Source: Wang et al., 2021, arXiv:2012.15828, section 3.1.
    """
    student = split_into_relation_heads(student_states, relation_heads)
    teacher = split_into_relation_heads(teacher_states, relation_heads)
    return _relation_kl(student, teacher, allowed)


def split_into_relation_heads(
    states: Float[Tensor, "*batch heads seq head_width"], relation_heads: int
) -> Float[Tensor, "*batch relation_heads seq relation_width"]:
    """The same numbers with the heads laid side by side and cut anew into `relation_heads` of equal width.

    Raises: ValueError, naming the counts that are possible, unless relation_heads divides the whole width.
    """
    if relation_heads < 1:
        raise ValueError(f"relation_heads must be 1 or more, but it is {relation_heads}.")
    width = states.shape[-3] * states.shape[-1]
    if width % relation_heads:
        possible = ", ".join(str(heads) for heads in range(1, width + 1) if width % heads == 0)
        raise ValueError(
            f"relation_heads must divide the width of queries, keys and values on both sides, but it is {relation_heads} "
            f"and one of them is {width} wide. Possible there: {possible}."
        )
    return (
        states.transpose(-3, -2).flatten(-2).unflatten(-1, (relation_heads, width // relation_heads)).transpose(-3, -2)
    )


def relation_scores(states: Float[Tensor, "*batch heads seq head_width"]) -> Float[Tensor, "*batch heads seq seq"]:
    """The product of every two tokens' states over the root of their width: attention scores of a side with itself."""
    states = at_least_float32(states)
    return states @ states.mT / math.sqrt(max(states.shape[-1], 1))


def _relation_kl(student_states: Tensor, teacher_states: Tensor, allowed: Tensor) -> Tensor:
    banned = ~allowed.unsqueeze(-3)  # [*batch, 1, seq, seq]
    student, teacher = relation_scores(student_states), relation_scores(teacher_states)
    return attention_kl(student.masked_fill(banned, -torch.inf), teacher.masked_fill(banned, -torch.inf))
