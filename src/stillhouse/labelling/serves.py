"""Which objectives can learn from which stored signal."""

from stillhouse.objectives import (
    AnyObjective,
    FeatureObjective,
    PolicyObjective,
    PreferenceObjective,
    RankingObjective,
    SpanObjective,
)
from stillhouse.objectives.sparse import StoredAnswer, refusal

_IN_PART: dict[str, StoredAnswer] = {"sparse": "sparse", "sampled": "sampled"}
"""Signals that hold only a part of what a teacher says about a token."""


def why_not(chosen: AnyObjective, signal: str) -> str | None:
    """Why this objective cannot learn from this signal, and what to do; None where it can."""
    if isinstance(chosen, FeatureObjective):
        return _why_no_features(chosen, signal)
    if isinstance(chosen, SpanObjective):
        return _why_no_spans(chosen, signal)
    if isinstance(chosen, PolicyObjective):
        return (
            f"{chosen.name} learns from answers that are drawn while it trains, which no label is of. Leave labels out."
        )
    if isinstance(chosen, PreferenceObjective):
        return f"{chosen.name} learns from pairs of answers, which no label is of. Leave labels out."
    if isinstance(chosen, RankingObjective):
        return f"{chosen.name} learns from how passages rank, which no label is of. Leave labels out."
    return refusal(chosen, stored=_IN_PART[signal]) if signal in _IN_PART else None


def _why_no_spans(chosen: SpanObjective, signal: str) -> str | None:
    if signal == "last_hidden":
        return None
    return (
        f"{chosen.name} asks for the probability of every outcome and of the text itself, which signal {signal} does not "
        "keep. Use labels.signal last_hidden."
    )


def _why_no_features(chosen: FeatureObjective, signal: str) -> str | None:
    if chosen.is_dual:
        return f"{chosen.name} reads states and embeddings, which no stored signal keeps together. Leave labels out."
    if chosen.reads not in ("hidden_states", "document_states", "flow"):
        what = "attention" if chosen.reads_attention else "embeddings"
        return f"{chosen.name} compares {what}, which no stored signal keeps. Leave labels out."
    if signal != "hidden_states":
        return f"{chosen.name} compares hidden states, which signal {signal} does not keep. Use labels.signal hidden_states."
    return None
