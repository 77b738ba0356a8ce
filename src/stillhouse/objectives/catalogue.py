"""Every objective by name, with the signals it reads: an added objective is one function and one line here."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from stillhouse.objectives.divergences import (
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tempered,
    total_variation,
)
from stillhouse.objectives.supervised import next_token

Signal = Literal["teacher_logits", "target_ids"]
"""What an objective reads beside the student's logits; also the name of the argument that receives it."""

BoundObjective = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""(student_logits, teacher_logits, target_ids) -> one number per position. An unread signal may be None."""


@dataclass(frozen=True)
class Objective:
    """What the student is asked to match: a pure function, the signals it reads, and when to choose it."""

    name: str
    function: Callable[..., Tensor]
    reads: frozenset[Signal]
    summary: str

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run or look up the teacher."""
        return "teacher_logits" in self.reads

    @property
    def parameters(self) -> Mapping[str, float]:
        """The objective's own numbers, by name, with their defaults. Their ranges are the function's to check."""
        arguments = inspect.signature(self.function).parameters.values()
        return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}

    def with_parameters(self, **parameters: object) -> "Objective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        for parameter, value in parameters.items():
            self._check_parameter(parameter, value)
        fixed = replace(self, function=partial(self.function, **parameters))
        fixed._call(**_NO_POSITIONS)  # an empty batch costs nothing and runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundObjective:
        """The objective as a recipe asks for it, called the same way whatever it reads.

        Raises: ValueError, before any model is loaded, for a parameter or a temperature that it cannot have.
        """
        softened = self.with_parameters(**parameters)._at(temperature)

        def per_token(student_logits: Tensor, teacher_logits: Tensor | None, target_ids: Tensor | None) -> Tensor:
            return softened._call(student_logits=student_logits, teacher_logits=teacher_logits, target_ids=target_ids)

        return per_token

    def _call(self, *, student_logits: Tensor, **signals: Tensor | None) -> Tensor:
        read = {signal: signals[signal] for signal in self.reads}
        assert all(tensor is not None for tensor in read.values()), f"{self.name} reads {sorted(read)}, and got a None"
        return self.function(student_logits, **read)

    def _at(self, temperature: float) -> "Objective":
        if self.reads_teacher:
            return replace(self, function=tempered(self.function, temperature))
        if temperature != 1:
            raise ValueError(
                f"{self.name} compares with hard targets, which no temperature softens, but its temperature is "
                f"{temperature}. Remove it; a temperature belongs to an objective that reads the teacher."
            )
        return self

    def _check_parameter(self, parameter: str, value: object) -> None:
        if parameter not in self.parameters:
            raise ValueError(
                f"{self.name} has no parameter {parameter!r}. It has {_known_parameters(self.parameters)}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.name}'s {parameter} must be a number, but it is {value!r}.")


def objective(name: str, **parameters: object) -> Objective:
    """The objective of that name, with its defaults replaced by the parameters given.

    Raises: ValueError for an unknown name, naming the nearest known one, and as `Objective.with_parameters`.
    """
    if name not in CATALOGUE:
        (nearest,) = get_close_matches(name.lower(), CATALOGUE, n=1, cutoff=0.0)
        raise ValueError(f"There is no objective {name!r}. Did you mean {nearest!r}? Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name].with_parameters(**parameters)


def names() -> tuple[str, ...]:
    """The names of all objectives, in the order of the catalogue."""
    return tuple(CATALOGUE)


def _known_parameters(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} (default {default})" for name, default in parameters.items()) or "none"


def _by_name(entries: Iterable[Objective]) -> Mapping[str, Objective]:
    return MappingProxyType({entry.name: entry for entry in entries})


_NO_POSITIONS = {
    "student_logits": torch.zeros(0, 1),
    "teacher_logits": torch.zeros(0, 1),
    "target_ids": torch.zeros(0, dtype=torch.long),
}
_TEACHER: frozenset[Signal] = frozenset({"teacher_logits"})
_TARGETS: frozenset[Signal] = frozenset({"target_ids"})

# fmt: off
CATALOGUE: Mapping[str, Objective] = _by_name([
    Objective("next_token", next_token, _TARGETS, "Hard labels: learn the data itself, alone or beside a teacher."),
    Objective("forward_kl", forward_kl, _TEACHER, "First choice: cover everything that the teacher may say."),
    Objective("reverse_kl", reverse_kl, _TEACHER, "Small students and own rollouts: keep to what the teacher likes."),
    Objective("jsd", jsd, _TEACHER, "Between the two KLs, bounded: own rollouts that stray far from the teacher."),
    Objective("skewed_forward_kl", skewed_forward_kl, _TEACHER, "Forward KL that outliers cannot blow up."),
    Objective("skewed_reverse_kl", skewed_reverse_kl, _TEACHER, "Reverse KL that a banned token cannot blow up."),
    Objective("total_variation", total_variation, _TEACHER, "Agreement token by token, as speculative drafts need."),
    Objective("alpha_beta", alpha_beta, _TEACHER, "The two KLs as a plane: tune focus on errors and on confidence."),
])
# fmt: on
