"""How a retriever ranks passages, compared with how its teacher does: one number a question.

Scores are [queries, candidates], a question's own candidates with the one that answers it first. They are raw: logits of a
cross-encoder, or a similarity. Only what they are worth beside other scores of the same question makes a ranking.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from stillhouse.objectives.logprobs import at_least_float32, kl


def margin_mse(
    student_scores: Float[Tensor, "queries candidates"],
    teacher_scores: Float[Tensor, "queries candidates"],
    *,
    scale: float = 1.0,
) -> Float[Tensor, " queries"]:
    """Squared difference of margins, a question: by how much the first candidate leads each other one, averaged over those.

    A number that is added to all of a question's scores, on either side, changes nothing. The student's margins are
    multiplied by scale: a cosine cannot span more than 2, and a cross-encoder's logits span 20.

    Raises: ValueError where there is nothing to lead.
    Source: Hofstätter et al., 2020, arXiv:2010.02666, equation 5.
    """
    _check_scale(scale)
    student, teacher = _compared("margin_mse", student_scores, teacher_scores)
    margins = scale * (student[:, :1] - student[:, 1:])
    return (margins - (teacher[:, :1] - teacher[:, 1:])).square().mean(-1)


def listwise_kl(
    student_scores: Float[Tensor, "queries candidates"],
    teacher_scores: Float[Tensor, "queries candidates"],
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Float[Tensor, " queries"]:
    """KL(teacher || student) over a question's candidates, in nats, each side softened by its own temperature; times the square
    of the student's, so that its gradient keeps its size.

    The teacher's temperature belongs to the spread of its scores, the student's to its own: 1 suits logits, 0.05 cosines.
    `stillhouse distill` proposes both before it trains.

    Raises: ValueError where there are fewer than two candidates.
    Source: Lin et al., 2020, arXiv:2010.11386, equation 4.
    """
    _check_temperatures(student_temperature, teacher_temperature)
    student, teacher = _compared("listwise_kl", student_scores, teacher_scores)
    student_logprobs = (student / student_temperature).log_softmax(-1)
    return student_temperature**2 * kl((teacher / teacher_temperature).log_softmax(-1), student_logprobs)


def score_mse(
    student_scores: Float[Tensor, "queries candidates"],
    teacher_scores: Float[Tensor, "queries candidates"],
    *,
    scale: float = 1.0,
) -> Float[Tensor, " queries"]:
    """Squared difference of the scores themselves, averaged over a question's candidates. The student's are
    multiplied by scale.

    It asks for more than a ranking: the student's scores then mean what the teacher's mean from one question to the next.

    Source: Hofstätter et al., 2020, arXiv:2010.02666, where it is the pointwise MSE.
    """
    _check_scale(scale)
    student, teacher = _compared("score_mse", student_scores, teacher_scores, fewest=1)
    return (scale * student - teacher).square().mean(-1)


def info_nce(
    batch_scores: Float[Tensor, "queries docs"],
    positives: Int[Tensor, " queries"],
    counted: Bool[Tensor, "queries docs"],
    *,
    scale: float = 20.0,
) -> Float[Tensor, " queries"]:
    """Cross-entropy of the passage that answers among all of the batch, in nats: those of other questions, and mined ones.

    The scores are multiplied by scale, the inverse of a temperature. A passage that is not counted, because it answers too,
    stands in nobody's way. It needs no teacher, and many questions at a time.

    Source: van den Oord et al., 2018, arXiv:1807.03748, equation 4; of passages, Karpukhin et al., 2020, arXiv:2004.04906,
    equation 2.
    """
    _check_scale(scale)
    logits = (scale * at_least_float32(batch_scores)).masked_fill(~counted, -torch.inf)
    return cross_entropy(logits, positives, reduction="none")


def _compared(name: str, student: Tensor, teacher: Tensor, *, fewest: int = 2) -> tuple[Tensor, Tensor]:
    if student.shape[-1] < fewest:
        raise ValueError(
            f"{name} compares at least {fewest} candidates a question, but there is {student.shape[-1]}. Raise "
            "negatives.number."
        )
    return at_least_float32(student), at_least_float32(teacher)


def _check_scale(scale: float) -> None:
    if not 0 < scale < torch.inf:
        raise ValueError(f"scale must be positive, but it is {scale}. 1 takes the student's scores as they are.")


def _check_temperatures(student_temperature: float, teacher_temperature: float) -> None:
    for name, value in {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}.items():
        if not 0 < value < torch.inf:
            raise ValueError(f"{name} must be positive, but it is {value}. 1 takes the scores as they are.")
