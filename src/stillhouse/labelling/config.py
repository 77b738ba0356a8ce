"""What a recipe can say about stored labels."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, field_validator

from stillhouse.core.config import Config, Seed
from stillhouse.core.label_codecs import Bits
from stillhouse.core.objects import url_of
from stillhouse.core.signals import Tail
from stillhouse.data.config import Source


class _LabelsConfig(Config):
    shard_tokens: PositiveInt = 16_384
    """A kill costs at most this many tokens of labelling, and damage as many."""
    store: Source | None = None
    """An address that fsspec knows, such as `s3://bucket/labels`, where all files of the store are put; if left out they lie in
    the run folder."""
    cache_gib: PositiveFloat = 16.0
    """Of shards that are fetched from there, how much stays in the run folder."""

    @field_validator("store")
    @classmethod
    def _is_elsewhere(cls, store: Path | None) -> Path | None:
        if store is not None and url_of(store) is None:
            raise ValueError(
                f"{str(store)!r} is no address. Give one such as s3://bucket/labels, or leave it out: labels lie in the run "
                "folder then, which run names."
            )
        return store


class LastHiddenConfig(_LabelsConfig):
    """Last hidden states and the teacher's head: logits are rebuilt from them, at any temperature, for any objective."""

    signal: Literal["last_hidden"] = "last_hidden"
    bits: Bits = 16
    """Of each number: 16 bits are as good as the teacher itself, 8 take half the room."""


class SparseConfig(_LabelsConfig):
    """The likeliest tokens of each position, as many as it takes, and all others in one bucket."""

    signal: Literal["sparse"] = "sparse"
    min_probability: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Every token at least this likely is kept, up to `most`, and the likeliest always. With 0, it is `most` everywhere."""
    most: PositiveInt = 128
    """Tokens kept of one position."""
    temperatures: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """At which the bucket is known; the one of the objectives if left out. Any token likely enough at one of them is kept."""
    tail: Tail = "bucket"
    """What becomes of all other tokens: one bucket, or their share goes to those that were kept (`renormalised`), which most
    tools do, and which makes the student surer than the teacher."""


class SampledConfig(_LabelsConfig):
    """Tokens drawn from the teacher's distribution: right on average, and fewest bytes of all. For forward_kl alone."""

    signal: Literal["sampled"] = "sampled"
    draws: Annotated[int, Field(ge=1, le=65_535)] = 50
    """Draws of each position; a token drawn more than once takes no more room."""
    power: PositiveFloat = 1.0
    """Draw from probabilities to this power; weights correct for it. Below 1, unlikely tokens are drawn more often."""
    temperature: PositiveFloat | None = None
    """Of the distribution; the one of the objectives if left out."""
    seed: Seed = 0
    """The same seed gives the same draws."""


class HiddenStatesConfig(_LabelsConfig):
    """What feature objectives compare: the teacher's hidden states at the layers that they read; where there are objectives
    on logits too, what these need as well."""

    signal: Literal["hidden_states"] = "hidden_states"
    bits: Bits = 16
    """Of each number: 16 bits are as good as the teacher itself, 8 take half the room."""


def _signal(values: Any) -> str:
    """The signal that is said, or else last hidden states."""
    found = (
        values.get("signal", "last_hidden") if isinstance(values, dict) else getattr(values, "signal", "last_hidden")
    )
    return str(found)


LabelsConfig = Annotated[
    Annotated[LastHiddenConfig, Tag("last_hidden")]
    | Annotated[SparseConfig, Tag("sparse")]
    | Annotated[SampledConfig, Tag("sampled")]
    | Annotated[HiddenStatesConfig, Tag("hidden_states")],
    Discriminator(_signal),
]
"""A recipe's `labels`; without a `signal` it is the last hidden states."""
