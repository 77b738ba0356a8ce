"""Which objectives can learn from which stored signal."""

from stillhouse.objectives import FeatureObjective, Objective

_EVERY_LOGIT = ("logit_mse", "centred_logit_mse", "decoupled_kd")
"""They compare more than two distributions: what a bucket of tokens is made of matters to them."""

_LINEAR = ("forward_kl",)
"""Linear in the teacher's probabilities, so that samples are right on average. Whatever else is made of samples is biased."""


def why_not(chosen: Objective | FeatureObjective, signal: str) -> str:
    """Why this objective cannot learn from this signal, and what to do; empty where it can."""
    if not chosen.reads_teacher:
        return ""
    if isinstance(chosen, FeatureObjective):
        return _why_no_features(chosen, signal)
    if signal == "sparse" and chosen.name in _EVERY_LOGIT:
        return f"{chosen.name} compares the logit of every token, but signal sparse keeps the likeliest ones. {_ALL}"
    if signal == "sampled" and chosen.name not in _LINEAR:
        return (
            f"{chosen.name} is not linear in the teacher's probabilities, so samples of them would teach something else. "
            "Use forward_kl, or labels.signal sparse or last_hidden."
        )
    return ""


_ALL = "Use labels.signal last_hidden, which serves every objective on logits."


def _why_no_features(chosen: FeatureObjective, signal: str) -> str:
    if chosen.reads not in ("hidden_states", "document_states", "flow"):
        what = "attention" if chosen.reads_attention else "embeddings"
        return f"{chosen.name} compares {what}, which no stored signal keeps. Leave labels out."
    if signal != "hidden_states":
        return f"{chosen.name} compares hidden states, which signal {signal} does not keep. Use labels.signal hidden_states."
    return ""
