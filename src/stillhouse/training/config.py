"""What a recipe can say about what the student is asked to match."""

from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat, model_validator

from stillhouse.core.config import Config
from stillhouse.core.faults import nearest
from stillhouse.kernels.chunked import Term
from stillhouse.objectives import objective


class ObjectiveConfig(Config):
    """One objective by name, with its weight, its temperature, and its own parameters beside them (such as `beta`)."""

    model_config = ConfigDict(extra="allow")  # the objective itself says which parameters it has
    __pydantic_extra__: dict[str, float]

    name: str
    weight: NonNegativeFloat = 1.0
    """Its share of the total, as it is: weights need not add up to 1."""
    temperature: PositiveFloat = 1.0
    """Softens both distributions; value and gradient are multiplied by its square, so weights keep their meaning."""

    @model_validator(mode="after")
    def _is_in_the_catalogue(self) -> "ObjectiveConfig":
        known = [*type(self).model_fields, *objective(self.name).parameters]
        unknown = [key for key in self.model_extra or {} if key not in known]
        if unknown:
            raise ValueError(" ".join(f"there is no key {key!r}.{nearest(key, known)}" for key in unknown))
        self.build()
        return self

    def build(self) -> Term:
        """The term that the trainer sums.

        Raises:
            ValueError: for an unknown name or parameter, or a value out of range.
        """
        return Term(self.name, self.weight, self.temperature, self.model_extra or {})
