"""What a recipe can say about what the student is asked to match."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from stillhouse.core.config import Config
from stillhouse.core.faults import nearest
from stillhouse.kernels.policy import PolicyTerm
from stillhouse.kernels.preference import PreferenceTerm
from stillhouse.kernels.spans import SpanTerm
from stillhouse.kernels.terms import Average, Term, Where, Whose
from stillhouse.objectives import (
    AdaptiveRamp,
    AnyObjective,
    FeatureObjective,
    LayerMap,
    LayerPairs,
    PolicyObjective,
    PreferenceObjective,
    Ramp,
    RampShape,
    RankingObjective,
    SpanObjective,
    objective,
)
from stillhouse.training.features import FeatureTerm
from stillhouse.training.terms import Scheduled


class RampConfig(Config):
    """A number that changes as training goes on."""

    start: float
    end: float
    shape: RampShape | Literal["adaptive"] = "linear"
    """`adaptive` goes at least as far as `linear`, and farther while the term's own value falls."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of training at which it arrives; from there on it stays."""
    rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of `adaptive`: the most that a step adds, as a share of what lies between the number and 1. 0.0005 if left out."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of `adaptive`: how much of the trend a step keeps. 0.99 if left out."""

    @model_validator(mode="before")
    @classmethod
    def _at_the_usual_pace(cls, values: Any) -> Any:
        """A resolved recipe says which pace that was."""
        if not isinstance(values, dict) or values.get("shape") != "adaptive":
            return values
        return {"rate": AdaptiveRamp.rate, "momentum": AdaptiveRamp.momentum, **values}

    @model_validator(mode="after")
    def _arrives(self) -> "RampConfig":
        if self.shape == "step" and self.until == 1:
            raise ValueError(
                "a step arrives all at once where until is, but until is 1: when the training is over. Give it a share below 1."
            )
        if self.shape != "adaptive" and self._pace:
            raise ValueError(
                f"a ramp of shape {self.shape} has no {' and no '.join(self._pace)}. Leave that out, or choose shape adaptive."
            )
        _ = self.build()
        return self

    @property
    def _pace(self) -> dict[str, float]:
        """What is said about an adaptive ramp's pace."""
        said = {"rate": self.rate, "momentum": self.momentum}
        return {name: number for name, number in said.items() if number is not None}

    def build(self) -> Ramp | AdaptiveRamp:
        """The ramp that the trainer follows."""
        if self.shape == "adaptive":
            return AdaptiveRamp(self.start, self.end, until=self.until, **self._pace)
        return Ramp(self.start, self.end, shape=self.shape, until=self.until)


class ObjectiveConfig(Config):
    """One objective by name, with its weight and its own parameters beside them (such as `beta`).

    Weight, temperature and parameters are numbers, or ramps such as `{start: 4, end: 1}`.
    """

    model_config = ConfigDict(extra="allow")  # the objective itself says which parameters it has
    __pydantic_extra__: dict[str, float | RampConfig]

    name: str
    weight: NonNegativeFloat | RampConfig = 1.0
    """Its share of the total, as it is: weights need not add up to 1."""
    temperature: PositiveFloat | RampConfig = 1.0
    """Softens both distributions; value and gradient are multiplied by its square, so weights keep their meaning."""
    where: Where = "targets"
    """For objectives on logits: at what is to be predicted, or at all `tokens`."""
    answers: Whose = "all"
    """For objectives on logits, where now the student answers and now another: about whose answers it is."""
    average: Average = "tokens"
    """For objectives on logits: whether each token counts alike, or each answer, however long."""
    layers: LayerMap | tuple[tuple[int, int], ...] | None = None
    """For objectives on features: which student layer is compared with which of the teacher, by a map's name or as
    [student, teacher] pairs; 0 is the embeddings, n the output of the n-th block. The objective's own map if left out."""

    @model_validator(mode="after")
    def _is_in_the_catalogue(self) -> "ObjectiveConfig":
        chosen = objective(self.name)
        if isinstance(chosen, RankingObjective):
            raise ValueError(
                f"{self.name} learns from how passages rank for a question. Use data: {{kind: retrieval}}, or leave it out."
            )
        known = ["name", "weight", *_own_keys(chosen), *chosen.parameters]
        # A resolved recipe writes every default out, also where it means nothing.
        given = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]
        given += self.model_extra or {}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(
                " ".join(f"{self.name} has no key {key!r}.{nearest(key, known)}" for key in sorted(unknown))
            )
        whole = [name for name, default in chosen.parameters.items() if isinstance(default, int)]
        ramped = [name for name in whole if isinstance((self.model_extra or {}).get(name), RampConfig)]
        if ramped:
            raise ValueError(f"{self.name}'s {ramped[0]} is a whole number, which cannot follow a ramp. Give a number.")
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if isinstance(value, RampConfig) and value.shape == "adaptive":
                raise ValueError(
                    f"{self.name}'s {name} cannot follow an adaptive ramp: that raises a share of the way to the teacher, such "
                    f"as taid's t, as fast as the student follows, and a {name} is no such share. Choose another shape."
                )
        if isinstance(self.weight, RampConfig) and min(self.weight.start, self.weight.end) < 0:
            raise ValueError(
                f"{self.name}'s weight goes from {self.weight.start} to {self.weight.end}, but none may be below 0. A term "
                "with a negative weight would be unlearnt."
            )
        for progress in (0.0, 0.5, 1.0):  # what a ramp passes must be allowed, too
            self._term(()).at(progress)
        return self

    @property
    def reads_features(self) -> bool:
        """Whether it compares layers rather than logits."""
        return isinstance(objective(self.name), FeatureObjective)

    @property
    def compares_spans(self) -> bool:
        """Whether it compares across tokenizers rather than token by token."""
        return isinstance(objective(self.name), SpanObjective)

    @property
    def serves_two_tokenizers(self) -> bool:
        """Whether teacher and student may each read tokens of their own."""
        chosen = objective(self.name)
        return isinstance(chosen, SpanObjective) or (isinstance(chosen, FeatureObjective) and chosen.is_dual)

    @property
    def reads_draws(self) -> bool:
        """Whether it learns from what the student itself drew, by a policy gradient."""
        return isinstance(objective(self.name), PolicyObjective)

    @property
    def reads_pairs(self) -> bool:
        """Whether it learns from pairs of answers."""
        return isinstance(objective(self.name), PreferenceObjective)

    @property
    def reads_rewards(self) -> bool:
        """Whether it learns by how much one answer is better than another."""
        found = objective(self.name)
        return isinstance(found, PreferenceObjective) and found.reads_rewards

    @property
    def has_weight(self) -> bool:
        """Whether it teaches anything at any time."""
        ends = (self.weight.start, self.weight.end) if isinstance(self.weight, RampConfig) else (self.weight,)
        return any(ends)

    def build(self, *, student_layers: int, teacher_layers: int) -> Scheduled:
        """The term that the trainer sums, for models of these depths.

        Raises:
            ValueError: for an unknown name or parameter, a value out of range, or a layer that is not there.
        """
        chosen = objective(self.name)
        if not isinstance(chosen, FeatureObjective):
            return self._term(())
        return self._term(chosen.pairs(self.layers, student_layers=student_layers, teacher_layers=teacher_layers))

    def _term(self, pairs: LayerPairs) -> Scheduled:
        numbers = {"weight": self.weight, **(self.model_extra or {})}
        if "temperature" in _own_keys(objective(self.name)):
            numbers["temperature"] = self.temperature
        ramps = {name: value.build() for name, value in numbers.items() if isinstance(value, RampConfig)}
        fixed = {name: ramps[name].at(0.0) if name in ramps else value for name, value in numbers.items()}
        weight = fixed.pop("weight")
        if self.reads_features:
            return Scheduled(FeatureTerm(self.name, weight, pairs, fixed), ramps)
        if self.reads_draws:
            return Scheduled(PolicyTerm(self.name, weight, fixed), ramps)
        if self.reads_pairs:
            return Scheduled(PreferenceTerm(self.name, weight, fixed), ramps)
        if self.compares_spans:
            return Scheduled(SpanTerm(self.name, weight, fixed.pop("temperature"), fixed), ramps)
        temperature, counts = fixed.pop("temperature"), (self.where, self.answers, self.average)
        return Scheduled(Term(self.name, weight, temperature, fixed, *counts), ramps)


def _own_keys(chosen: AnyObjective) -> list[str]:
    """What can be said about this kind of objective beside its name, weight and parameters."""
    if isinstance(chosen, FeatureObjective):
        return ["temperature"] if chosen.is_dual else ["layers"] if chosen.reads_layers else []
    if isinstance(chosen, PolicyObjective | PreferenceObjective | RankingObjective):
        return []
    if isinstance(chosen, SpanObjective):
        return ["temperature"]
    return ["where", "answers", "average", "temperature"]  # where a temperature means nothing, the objective says why
