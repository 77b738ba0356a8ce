"""Our objectives as the `compute_loss_func` of somebody else's trainer: transformers' own, or one that is built on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import DenseLogits
from stillhouse.kernels.terms import Term, plain_losses
from stillhouse.objectives import Objective, objective

IGNORED = -100
"""What a label is that nothing is learnt of, as everywhere in transformers."""

READ = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "cu_seq_lens", "max_length", "inputs_embeds")
"""What tells a model which text it reads, by how the names begin; all else of a call is the student's own."""


class DistillationLoss:
    """Objectives on logits, for `Trainer(model=student, compute_loss_func=DistillationLoss(student, teacher=..., ...))`.

    A trainer hands such a function the student's logits and the labels, but not what was read. So this listens at the student:
    whatever it was called with last, the teacher reads, once and without a gradient. Labels of -100 count nothing, the logits
    before a label are judged by it, and the sum is divided once, by the number of labels of the whole step where the trainer
    says it. Both models' logits are held whole, as the trainer's own loss does; `stillhouse.distill` never holds them.

    Raises:
        ModelError: for an objective that reads more than logits, or that is not known.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher: nn.Module | None = None,
        objectives: Sequence[Mapping[str, Any] | Term],
        vocab_size: int | None = None,
    ) -> None:
        self.terms = [one if isinstance(one, Term) else _term(one) for one in objectives]
        if not self.terms:
            raise ModelError("objectives is empty: name at least one, such as {'name': 'forward_kl'}.")
        asked = next((term.name for term in self.terms if term.reads_teacher), None)
        if asked is not None and teacher is None:
            raise ModelError(f"{asked} compares with a teacher, and none is given: teacher=...")
        self.teacher = teacher if asked is not None else None
        self.vocab_size = vocab_size
        self._read: dict[str, Any] = {}
        self._listener = student.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(self, _student: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.teacher is not None:
            given = {"input_ids": values[0]} if values else {}
            self._read = given | {name: value for name, value in named.items() if name.startswith(READ)}

    def close(self) -> None:
        """Listen no longer."""
        self._listener.remove()

    def __call__(
        self, outputs: Any, labels: Int[Tensor, "batch seq"], num_items_in_batch: Tensor | int | None = None
    ) -> Float[Tensor, ""]:
        """The weighted terms, summed over what is to be predicted, and divided once."""
        judged = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][judged]
        ours = self._cut(_logits_of(outputs)[:, :-1][judged])
        theirs = None if self.teacher is None else self._cut(self._said()[:, :-1][judged])
        self._check_width(ours, theirs)
        total, _ = plain_losses(
            DenseLogits(ours),
            None if theirs is None else DenseLogits(theirs),
            terms=self.terms,
            targets=targets,
            token_weights=ours.new_ones((len(self.terms), len(targets)), dtype=torch.float32),
        )
        return total / (max(1, len(targets)) if num_items_in_batch is None else num_items_in_batch)

    @torch.no_grad()
    def _said(self) -> Tensor:
        """What the teacher says about the text that the student has just read."""
        assert self.teacher is not None
        if not self._read:
            raise ModelError(
                "the student that the trainer runs is not the one that this loss listens to. Give both the same model."
            )
        self.teacher.eval()
        place = next(self.teacher.parameters()).device
        read = {name: value.to(place) if isinstance(value, Tensor) else value for name, value in self._read.items()}
        self._read = {}
        return _logits_of(self.teacher(**read, use_cache=False))

    def _cut(self, logits: Tensor) -> Tensor:
        return logits if self.vocab_size is None else logits[..., : self.vocab_size]

    def _check_width(self, ours: Tensor, theirs: Tensor | None) -> None:
        if theirs is not None and ours.shape[-1] != theirs.shape[-1]:
            raise ModelError(
                f"the teacher has {theirs.shape[-1]} logits a token and the student {ours.shape[-1]}. Where both have the same "
                "tokenizer and one head is padded, say vocab_size=len(tokenizer); where they have not, a recipe with span "
                "objectives is the way."
            )


def _logits_of(outputs: Any) -> Tensor:
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
    if not isinstance(logits, Tensor):
        raise ModelError("the model returned no logits. Switch off what computes a loss without them (fused heads).")
    return logits


def _term(wanted: Mapping[str, Any]) -> Term:
    """An objective as a recipe writes it.

    Raises:
        ModelError: for what this loss cannot have.
    """
    own = ("name", "weight", "temperature")
    name = str(wanted.get("name", ""))
    try:
        known = objective(name)
        if not isinstance(known, Objective):
            raise ModelError(
                f"{name} reads more than logits, and a compute_loss_func is given nothing else. Use stillhouse.distill, or one "
                "on logits, such as forward_kl."
            )
        parameters = {key: value for key, value in wanted.items() if key not in own}
        return Term(name, **{key: wanted[key] for key in own[1:] if key in wanted}, parameters=parameters)
    except (TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(str(error)) from None
