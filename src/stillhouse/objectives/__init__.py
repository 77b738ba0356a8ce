"""Objectives: what a student is asked to match, as pure functions, and a catalogue of them by name.

Six families. Objectives of **logits** compare answers, and give one number per position. Objectives of **features**
compare what happens inside, and give one number per token or per document. Objectives across tokenizers compare answers in
other tokens, and give one number per **span** of text. **Policy** gradients learn from tokens that the student drew, and
give one number per token. **Preferences** learn from two answers to one prompt, and give one number per pair. **Rankings**
learn from how passages rank for a question, and give one number per question. Conventions, the same for all:

- **Order.** The student comes first, then what it is compared with. p is the teacher, q the student.
- **One number each.** `[*batch, vocab]` in, `[*batch]` out; `[*tokens, hidden]` in, `[*tokens]` out: no reduction, no
  mask, no division. The trainer weights and divides once, by the total over all ranks and micro-batches.
- **Mask by selection, not by zero.** A position may be +inf (a banned token), and 0 * inf is NaN: drop positions of
  weight zero, or replace their values with torch.where. Gradients are then finite. A key that attention may not look at
  is -inf in its scores, and counts nothing.
- **Nats** for what has KL in its name and for cross-entropy; squared units for what has `mse` and `squared`; a share of
  mass for `total_variation`. Zero at the teacher, and for divergences only there.
- **Aligned.** The caller has shifted: the logits at a position predict the target at the same position.
- **Temperature** is no business of an objective. `tempered(objective, T)` divides both sides' logits by T and multiplies
  by T^2, there and nowhere else, so that gradients neither fade nor grow with T. Hard labels have neither, and neither
  have squared distances of logits, which T^2 brings back to what they were: a temperature on them is refused.
- **Layers.** Layer 0 is what the embeddings put out, layer n what the n-th block does; `layer_pairs` spells a map out.
- **Widths.** Where an objective compares number by number, the caller projects the student's states first; one that
  compares tokens with tokens (gram, CKA, relations) takes any widths.
- **Tokenizers.** Where the teacher's is another, `span_outcomes` brings both sides to the same outcomes first.
- **Over time.** A temperature, a weight or a parameter that moves is a `Ramp`, or an `AdaptiveRamp` that follows how the
  term does; the function itself knows no step.
- **Precision.** float32 arithmetic whatever narrower type comes in; float64 stays float64.
"""

from stillhouse.objectives.catalogue import (
    CATALOGUE,
    FEATURES,
    POLICIES,
    PREFERENCES,
    RANKINGS,
    SPANS,
    AnyObjective,
    BoundFeatureObjective,
    BoundObjective,
    BoundPolicyObjective,
    BoundPreferenceObjective,
    BoundRankingObjective,
    BoundSpanObjective,
    FeatureObjective,
    FeatureSignal,
    Objective,
    OutcomeKind,
    PolicyObjective,
    PreferenceObjective,
    RankingObjective,
    RankingSignal,
    Signal,
    SpanObjective,
    Unit,
    names,
    objective,
)
from stillhouse.objectives.cross_tokenizer import Reading, sorted_mass, span_logprobs, span_outcomes, span_starts
from stillhouse.objectives.divergences import (
    Divergence,
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tempered,
    total_variation,
)
from stillhouse.objectives.features import (
    attention_kl,
    attention_mse,
    flow_mse,
    gram_mse,
    hidden_cosine,
    hidden_mse,
    linear_cka,
    linear_cka_similarity,
    normalized_mse,
)
from stillhouse.objectives.layer_maps import LayerMap, LayerPairs, layer_pairs
from stillhouse.objectives.logprobs import to_logprobs
from stillhouse.objectives.policy import Draws, minillm, sampled_reverse_kl, sums_after
from stillhouse.objectives.preference import AnswerPairs, dpo, reward_kl, reward_mse
from stillhouse.objectives.ramps import AdaptiveRamp, Pace, Ramp, RampShape
from stillhouse.objectives.ranking import info_nce, listwise_kl, margin_mse, score_mse
from stillhouse.objectives.relations import (
    multi_head_relation_kl,
    relation_scores,
    split_into_relation_heads,
    value_relation_kl,
)
from stillhouse.objectives.responses import adaptive_kl, centred_logit_mse, decoupled_kd, logit_mse, taid
from stillhouse.objectives.spans import span_forward_kl, span_hybrid, span_reverse_kl, span_sorted_mass
from stillhouse.objectives.supervised import cross_entropy, next_token, squared_error

__all__ = [
    "CATALOGUE",
    "FEATURES",
    "POLICIES",
    "PREFERENCES",
    "RANKINGS",
    "SPANS",
    "AdaptiveRamp",
    "AnswerPairs",
    "AnyObjective",
    "BoundFeatureObjective",
    "BoundObjective",
    "BoundPolicyObjective",
    "BoundPreferenceObjective",
    "BoundRankingObjective",
    "BoundSpanObjective",
    "Divergence",
    "Draws",
    "FeatureObjective",
    "FeatureSignal",
    "LayerMap",
    "LayerPairs",
    "Objective",
    "OutcomeKind",
    "Pace",
    "PolicyObjective",
    "PreferenceObjective",
    "Ramp",
    "RampShape",
    "RankingObjective",
    "RankingSignal",
    "Reading",
    "Signal",
    "SpanObjective",
    "Unit",
    "adaptive_kl",
    "alpha_beta",
    "attention_kl",
    "attention_mse",
    "centred_logit_mse",
    "cross_entropy",
    "decoupled_kd",
    "dpo",
    "flow_mse",
    "forward_kl",
    "gram_mse",
    "hidden_cosine",
    "hidden_mse",
    "info_nce",
    "jsd",
    "layer_pairs",
    "linear_cka",
    "linear_cka_similarity",
    "listwise_kl",
    "logit_mse",
    "margin_mse",
    "minillm",
    "multi_head_relation_kl",
    "names",
    "next_token",
    "normalized_mse",
    "objective",
    "relation_scores",
    "reverse_kl",
    "reward_kl",
    "reward_mse",
    "sampled_reverse_kl",
    "score_mse",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "sorted_mass",
    "span_forward_kl",
    "span_hybrid",
    "span_logprobs",
    "span_outcomes",
    "span_reverse_kl",
    "span_sorted_mass",
    "span_starts",
    "split_into_relation_heads",
    "squared_error",
    "sums_after",
    "taid",
    "tempered",
    "to_logprobs",
    "total_variation",
    "value_relation_kl",
]
