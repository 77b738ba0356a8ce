"""What happens inside a model, compared: hidden states, attention, embeddings, and the shape of a document's states.

Student first, then teacher. A state is [hidden], a document [tokens, hidden] of real tokens only, attention the scores
before the softmax, -inf where a query may not look. Nothing here knows of layers or of padding: the caller picks both.
Where widths differ, the caller has mapped the student's states to the teacher's width, or uses what does not care.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.objectives.logprobs import at_least_float32, kl, to_logprobs


def hidden_mse(
    student_states: Float[Tensor, "*tokens student_hidden"],
    teacher_states: Float[Tensor, "*tokens teacher_hidden"],
) -> Float[Tensor, "*tokens"]:
    """Mean over the width of the squared difference of two states, per token. Asks for direction and length alike.

    Raises: ValueError where widths differ.
    Source: Jiao et al., 2020, arXiv:1909.10351, section 3.1; of embeddings, Reimers and Gurevych, 2020,
    arXiv:2004.09813, section 2.
    """
    student, teacher = _same_width("hidden_mse", student_states, teacher_states)
    return (student - teacher).square().mean(-1)


def hidden_cosine(
    student_states: Float[Tensor, "*tokens student_hidden"],
    teacher_states: Float[Tensor, "*tokens teacher_hidden"],
) -> Float[Tensor, "*tokens"]:
    """1 - cos of the angle between two states, per token: 0 where they point the same way, 2 where they are opposed.

    Half of `normalized_mse`, and computed as that: exactly 0 at the teacher. A state of all zeros points nowhere, and is
    half a unit from every other.

    Raises: ValueError where widths differ.
    Source: Sanh et al., 2019, arXiv:1910.01108, section 2.
    """
    student, teacher = _same_width("hidden_cosine", student_states, teacher_states)
    return (_direction(student) - _direction(teacher)).square().sum(-1) / 2


def normalized_mse(
    student_states: Float[Tensor, "*tokens student_hidden"],
    teacher_states: Float[Tensor, "*tokens teacher_hidden"],
) -> Float[Tensor, "*tokens"]:
    """Squared distance of two states, each brought to length 1, per token: 0 to 4. Deaf to how long states are.

    Raises: ValueError where widths differ.
    Source: Sun et al., 2019, arXiv:1908.09355, section 3.2; there, of the first token alone.
    """
    student, teacher = _same_width("normalized_mse", student_states, teacher_states)
    return (_direction(student) - _direction(teacher)).square().sum(-1)


def attention_mse(
    student_scores: Float[Tensor, "*batch student_heads queries keys"],
    teacher_scores: Float[Tensor, "*batch teacher_heads queries keys"],
) -> Float[Tensor, "*batch queries"]:
    """Squared difference of attention scores, per query: its mean over heads and over the keys that both sides allow.

    A query without any key is worth 0. Scores carry a scale that the softmax would hide; `attention_kl` lets go of it.

    Raises: ValueError where the numbers of heads differ.
    Source: Jiao et al., 2020, arXiv:1909.10351, section 3.1.
    """
    student, teacher = _same_heads("attention_mse", student_scores, teacher_scores)
    banned = (student == -torch.inf) | (teacher == -torch.inf)  # [*batch, heads, queries, keys]
    squares = (student.masked_fill(banned, 0.0) - teacher.masked_fill(banned, 0.0)).square()
    return squares.sum((-3, -1)) / (~banned).sum((-3, -1)).clamp(min=1)


def attention_kl(
    student_scores: Float[Tensor, "*batch student_heads queries keys"],
    teacher_scores: Float[Tensor, "*batch teacher_heads queries keys"],
) -> Float[Tensor, "*batch queries"]:
    """KL(teacher's attention || student's) per query, in nats: its mean over heads. Weighs keys by what the teacher looks at.

    A query without any key is worth 0; one that the student may not send where the teacher does is worth +inf.

    Raises: ValueError where the numbers of heads differ.
    Source: Wang et al., 2020, arXiv:2002.10957, section 3.1.
    """
    student, teacher = _same_heads("attention_kl", student_scores, teacher_scores)
    return kl(to_logprobs(teacher), to_logprobs(student)).mean(-2)


def gram_mse(
    student_states: Float[Tensor, "*docs tokens student_hidden"],
    teacher_states: Float[Tensor, "*docs tokens teacher_hidden"],
) -> Float[Tensor, "*docs"]:
    """How alike two tokens are, compared for every pair of tokens: mean squared difference of h h^T / hidden, per document.

    Widths may differ, and turning all states of a side by one rotation changes nothing.

    Source: Huang and Wang, 2017, arXiv:1707.01219 (MMD with a linear kernel), over tokens instead of image positions.
    """
    return (_gram(student_states) - _gram(teacher_states)).square().mean((-2, -1))


def flow_mse(
    student_lower: Float[Tensor, "*docs tokens student_hidden"],
    student_upper: Float[Tensor, "*docs tokens student_hidden"],
    teacher_lower: Float[Tensor, "*docs tokens teacher_hidden"],
    teacher_upper: Float[Tensor, "*docs tokens teacher_hidden"],
) -> Float[Tensor, "*docs"]:
    """What happens between two layers, compared: mean squared difference of lower^T upper / tokens, per document.

    Raises: ValueError where widths differ.
    Source: Yim et al., 2017, CVPR, "A Gift from Knowledge Distillation", over tokens instead of image positions.
    """
    lower, teacher_lower = _same_width("flow_mse", student_lower, teacher_lower)
    upper, teacher_upper = _same_width("flow_mse", student_upper, teacher_upper)
    tokens = lower.shape[-2]
    flow, teacher_flow = lower.mT @ upper / tokens, teacher_lower.mT @ teacher_upper / tokens  # [*docs, hidden, hidden]
    return (flow - teacher_flow).square().mean((-2, -1))


def linear_cka(
    student_states: Float[Tensor, "*docs tokens student_hidden"],
    teacher_states: Float[Tensor, "*docs tokens teacher_hidden"],
) -> Float[Tensor, "*docs"]:
    """1 - linear CKA per document: 0 where the two sides' tokens lie alike, up to rotation, scale and shift; at most 1.

    Widths may differ. A document of one or two tokens has no shape to compare, and the fewer tokens there are the more
    alike all shapes look: for long documents.

    Source: Kornblith et al., 2019, arXiv:1905.00414, section 3.
    """
    student, teacher = _gram(_centred(student_states)), _gram(_centred(teacher_states))
    return hidden_cosine(student.flatten(-2), teacher.flatten(-2))


def linear_cka_similarity(
    states: Float[Tensor, "tokens width"],
    other_states: Float[Tensor, "tokens other_width"],
) -> Float[Tensor, ""]:
    """Linear CKA of two sets of states of the same tokens, a share in [0, 1]; NaN where one side is constant.

    A metric: 1 is the same up to rotation, scale and shift. Memory grows with the widths, not with the number of tokens.

    Source: Kornblith et al., 2019, arXiv:1905.00414, section 3.
    """
    centred, other = _centred(states), _centred(other_states)
    norms = [torch.linalg.matrix_norm(side.mT @ side) for side in (centred, other)]
    return torch.linalg.matrix_norm(centred.mT @ other).square() / (norms[0] * norms[1])


def _centred(states: Float[Tensor, "*docs tokens hidden"]) -> Float[Tensor, "*docs tokens hidden"]:
    states = at_least_float32(states)
    return states - states.mean(-2, keepdim=True)


def _gram(states: Float[Tensor, "*docs tokens hidden"]) -> Float[Tensor, "*docs tokens tokens"]:
    """The product of every two tokens' states, over the width."""
    states = at_least_float32(states)
    return states @ states.mT / states.shape[-1]


def _direction(states: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
    """Each state at length 1; zeros stay zeros, with a gradient that is finite."""
    lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    return states / lengths.masked_fill(lengths == 0, 1.0)


def _same_width(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in float32 at least."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{name} compares number by number, but the teacher's states are {teacher.shape[-1]} wide and the student's "
            f"{student.shape[-1]}. Let a projection map the student's to the teacher's width, or match something that "
            "has no width, such as gram_mse, linear_cka or multi_head_relation_kl."
        )
    return at_least_float32(student), at_least_float32(teacher)


def _same_heads(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in float32 at least."""
    if student.shape[-3] != teacher.shape[-3]:
        raise ValueError(
            f"{name} compares head by head, but the teacher has {teacher.shape[-3]} heads and the student "
            f"{student.shape[-3]}. Use multi_head_relation_kl, which splits both sides into as many relation heads."
        )
    return at_least_float32(student), at_least_float32(teacher)
