"""What a recipe can say about how a teacher answers the prompts of the data."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from stillhouse.core.config import Config, Seed
from stillhouse.models.generate import Sampling

BEAMS = 5
"""As in Kim and Rush, 2016."""


class Answering(Config):
    """How the teacher answers, before training: what it writes is then learnt like any other data."""

    method: Literal["sample", "beam", "nearest"] = "sample"
    """`sample` draws answers; `beam` takes the likeliest of a beam search; `nearest` takes, of all that a beam search found,
    the answer nearest to the data's own (by ROUGE-L)."""
    sampling: Sampling = Sampling()
    """How a token is drawn. Of a beam search only `max_new_tokens` means anything."""
    samples: PositiveInt | None = None
    """Of `sample`: answers to each prompt; 1 if left out. One that is drawn several times is written once and counts for as
    many."""
    beams: PositiveInt | None = None
    """Of `beam` and `nearest`: answers that are kept while they are written; 5 if left out."""
    length_penalty: Annotated[float, Field(ge=0)] | None = None
    """Of `beam` and `nearest`: 0 finds the likeliest answer, which is often short; 1, if left out, the one whose tokens are
    the likeliest on average."""
    batch_size: PositiveInt = 32
    """Answers written at once, those of all beams counted."""
    seed: Seed = 0
    """What is drawn depends on it; nothing else does."""

    @model_validator(mode="before")
    @classmethod
    def _in_the_usual_way(cls, values: Any) -> Any:
        """A resolved recipe says how many samples or beams that were."""
        if not isinstance(values, dict):
            return values
        if values.get("method", "sample") == "sample":
            return {"samples": 1, **values}
        return {"beams": BEAMS, "length_penalty": 1.0, **values}

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> "Answering":
        of_beams = {"beams": self.beams, "length_penalty": self.length_penalty}
        others = {"samples": self.samples} if self.method != "sample" else of_beams
        if given := [name for name, value in others.items() if value is not None]:
            raise ValueError(
                f"method {self.method} has no {' and no '.join(given)}. Leave that out, or choose another method."
            )
        drawn = Sampling(max_new_tokens=self.sampling.max_new_tokens)
        if self.method != "sample" and self.sampling != drawn:
            raise ValueError(
                f"method {self.method} draws nothing, so sampling can say no more than max_new_tokens. Leave the rest out, or "
                "choose method sample."
            )
        if self.sampling.temperature == 0 and (self.samples or 1) > 1:
            raise ValueError(
                f"samples is {self.samples}, but sampling.temperature is 0, at which all answers to a prompt are the same. "
                "Raise the temperature, or leave samples out."
            )
        return self
