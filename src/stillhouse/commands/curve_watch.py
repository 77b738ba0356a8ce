"""How near student and controls come to the teacher on held-out text while they learn: drawn beside what they learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from stillhouse.commands.curves import CurvesConfig
from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.held_out import held_out_examples, held_out_in_context
from stillhouse.core.likeness import CURVES
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.examples import Example
from stillhouse.evaluation.language import say
from stillhouse.evaluation.nearness import nearness
from stillhouse.training.watch import Inspector

LOOKS = 10
"""Times that a student is looked at while it learns, if the recipe does not say how often."""


@dataclass(frozen=True)
class CurveWatch:
    """An `Inspector` of training: the curves of `core.likeness.CURVES` on held-out documents."""

    examples: Sequence[Example]
    teacher_says: Sequence[FactoredLogits]
    vocab_size: int
    every_steps: int | None

    def __call__(self, student: PreTrainedModel, *, step: int, steps: int) -> Mapping[str, float]:
        """Means over the tokens, by names that begin with `held_out_`."""
        every = self.every_steps or max(1, steps // LOOKS)
        if step % every and step != steps:
            return {}
        found = nearness(student, self.examples, self.teacher_says, vocab_size=self.vocab_size)
        return {f"held_out_{name}": mean for name, mean in found.means([*CURVES]).items()}


@dataclass(frozen=True)
class Together:
    """Several who look at the same student."""

    inspectors: Sequence[Inspector]

    def __call__(self, student: PreTrainedModel, *, step: int, steps: int) -> Mapping[str, float]:
        """All that they find."""
        found = [inspect(student, step=step, steps=steps) for inspect in self.inspectors]
        return {name: value for one in found for name, value in one.items()}


def curve_watch(wanted: CurvesConfig, parts: Parts) -> CurveWatch | None:
    """The watch of a recipe's arms; None where teacher and student read other tokens."""
    if parts.is_paired:
        parts.progress.say("teacher and student read other tokens: there are no held-out curves")
        return None
    context, ours = held_out_in_context(parts), held_out_examples(parts)[: wanted.documents]
    theirs = ours if context is None else list(context.teacher_reads)[: wanted.documents]
    says = say(parts.teacher.model, theirs, vocab_size=parts.num_answers)
    return CurveWatch(ours, says, parts.num_answers, wanted.every_steps)
