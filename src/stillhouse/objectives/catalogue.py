"""Every objective by name, with the signals it reads: an added objective is one function and one line here."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import Tensor

from stillhouse.objectives.cross_tokenizer import Reading
from stillhouse.objectives.divergences import (
    alpha_beta,
    check_temperature,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tempered,
    total_variation,
)
from stillhouse.objectives.dual_space import dual_space_student, dual_space_teacher
from stillhouse.objectives.features import (
    attention_kl,
    attention_mse,
    flow_mse,
    gram_mse,
    hidden_cosine,
    hidden_mse,
    linear_cka,
    normalized_mse,
)
from stillhouse.objectives.layer_maps import LayerMap, LayerPairs, layer_pairs
from stillhouse.objectives.policy import Draws, minillm, sampled_reverse_kl
from stillhouse.objectives.preference import AnswerPairs, dpo, reward_kl, reward_mse
from stillhouse.objectives.ranking import info_nce, listwise_kl, margin_mse, score_mse
from stillhouse.objectives.relations import multi_head_relation_kl, value_relation_kl
from stillhouse.objectives.responses import adaptive_kl, centred_logit_mse, decoupled_kd, logit_mse, taid
from stillhouse.objectives.spans import span_forward_kl, span_hybrid, span_reverse_kl, span_sorted_mass
from stillhouse.objectives.supervised import cross_entropy, squared_error

Signal = Literal["teacher_logits", "target_ids", "target_values"]
"""What an objective reads beside the student's logits; also the name of the argument that receives it."""

BoundObjective = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""(student_logits, teacher_logits, targets) -> one number per position. An unread signal may be None."""

FeatureSignal = Literal[
    "hidden_states",
    "document_states",
    "flow",
    "attention_scores",
    "value_relations",
    "multi_head_relations",
    "embeddings",
    "student_space",
    "teacher_space",
]
"""What a feature objective reads of each side, and so what its function takes, student before teacher:

- `hidden_states`: a layer's states of all real tokens, [tokens, hidden].
- `document_states`: a layer's states of one document's real tokens, [tokens, hidden].
- `flow`: the same at two layers, each pair of the map with the next one up: lower and upper of the student, then of the
  teacher.
- `attention_scores`: [batch, heads, seq, seq] before the softmax, -inf where a query may not look.
- `value_relations`: an attention's values, [batch, heads, seq, width], and as a third argument which tokens may look at
  which, [batch, seq, seq].
- `multi_head_relations`: the same three times over, of queries, keys and values.
- `embeddings`: pooled, [docs, hidden].
- `student_space`: logits of the student and of the teacher's states under the student's head, targets, and where they count.
- `teacher_space`: logits of the student's states under the teacher's head, and of the teacher.
"""

Unit = Literal["token", "document", "span", "target"]
"""What there is one number for: each real token, each document, each span that two tokenizers cut alike, or each token that is
to be predicted."""

OutcomeKind = Literal["joined", "matched"]
"""Over what an objective across tokenizers compares: see `core.alignment.CommonOutcomes`."""

BoundSpanObjective = Callable[[Reading, Reading, int], Tensor]
"""(student's reading, teacher's, number of outcomes) -> one number per span."""

BoundPolicyObjective = Callable[[Draws], Tensor]
"""What was drawn -> one number per token."""

BoundPreferenceObjective = Callable[[AnswerPairs], Tensor]
"""Pairs of answers -> one number per pair."""

BoundRankingObjective = Callable[..., Tensor]
"""What the ranking's signal says -> one number per question."""

RankingSignal = Literal["scores", "batch_scores"]
"""What an objective of rankings reads, and so what its function takes:

- `scores`: the student's of a question's candidates and the teacher's, both [queries, candidates], the positive first.
- `batch_scores`: the student's of all passages of the batch, [queries, docs]; which one answers, [queries]; and which count,
  [queries, docs].
"""

BoundFeatureObjective = Callable[..., Tensor]
"""What the feature signal says -> one number per unit."""


class _Parametrised:
    """What both families share: a function, and numbers of its own that a recipe may set."""

    name: str
    function: Callable[..., Tensor]

    @property
    def parameters(self) -> Mapping[str, float]:
        """The objective's own numbers, by name, with their defaults. Their ranges are the function's to check."""
        arguments = inspect.signature(self.function).parameters.values()
        return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}

    @property
    def source(self) -> str:
        """Where it was published, as its docstring says."""
        function = self.function
        while isinstance(function, partial):
            function = function.func
        found = re.search(r"Source: (.+?)(?:\n\s*\n|\Z)", inspect.getdoc(function) or "", re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    def _with(self, parameters: Mapping[str, object]) -> Callable[..., Tensor]:
        return partial(self.function, **{name: self._checked(name, value) for name, value in parameters.items()})

    def _checked(self, parameter: str, value: object) -> float:
        if parameter not in self.parameters:
            raise ValueError(
                f"{self.name} has no parameter {parameter!r}. It has {_known_parameters(self.parameters)}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.name}'s {parameter} must be a number, but it is {value!r}.")
        if not isinstance(self.parameters[parameter], int):
            return value
        if value != value // 1:
            raise ValueError(f"{self.name}'s {parameter} must be a whole number, but it is {value!r}.")
        return int(value)


@dataclass(frozen=True)
class Objective(_Parametrised):
    """An answer that the student is asked to match: a pure function of logits, what it reads, and when to choose it."""

    name: str
    function: Callable[..., Tensor]
    reads: frozenset[Signal]
    summary: str
    """When to choose it."""
    takes_temperature: bool = True
    """Whether softening both sides would change anything."""

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run or look up the teacher."""
        return "teacher_logits" in self.reads

    @property
    def reads_labels(self) -> bool:
        """Whether the data must say what is right."""
        return bool(self.reads - {"teacher_logits"})

    @property
    def compares_distributions(self) -> bool:
        """Whether two distributions over any outcomes are all it reads, whatever logits they came from."""
        return self.reads == {"teacher_logits"} and self.takes_temperature

    @property
    def cost(self) -> str:
        """What must be had beside the student's own logits."""
        return "The teacher's logits." if self.reads_teacher else "Nothing: no teacher."

    def with_parameters(self, **parameters: object) -> "Objective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        fixed._call(**_NO_POSITIONS)  # an empty batch costs nothing and runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundObjective:
        """The objective as a recipe asks for it, called the same way whatever it reads.

        Raises: ValueError, before any model is loaded, for a parameter or a temperature that it cannot have.
        """
        softened = self.with_parameters(**parameters)._at(temperature)

        def per_position(student_logits: Tensor, teacher_logits: Tensor | None, targets: Tensor | None) -> Tensor:
            return softened._call(
                student_logits=student_logits, teacher_logits=teacher_logits, target_ids=targets, target_values=targets
            )

        return per_position

    def _call(self, *, student_logits: Tensor, **signals: Tensor | None) -> Tensor:
        read = {signal: signals[signal] for signal in self.reads}
        assert all(tensor is not None for tensor in read.values()), f"{self.name} reads {sorted(read)}, and got a None"
        return self.function(student_logits, **read)

    def _at(self, temperature: float) -> "Objective":
        if self.takes_temperature:
            return replace(self, function=tempered(self.function, temperature))
        if temperature == 1:
            return self
        if self.reads_teacher:
            raise ValueError(
                f"{self.name} compares logits themselves: divided by a temperature and multiplied by its square, they are "
                f"what they were, but its temperature is {temperature}. Remove it."
            )
        raise ValueError(
            f"{self.name} compares with hard targets, which no temperature softens, but its temperature is "
            f"{temperature}. Remove it; a temperature belongs to an objective that reads the teacher."
        )


@dataclass(frozen=True)
class FeatureObjective(_Parametrised):
    """Something inside the teacher that the student is asked to match, at the layers that a recipe's map pairs."""

    name: str
    function: Callable[..., Tensor]
    reads: FeatureSignal
    default_layers: LayerMap
    """The usual map. Embeddings are pooled from the last layer, whatever a map says."""
    summary: str
    """When to choose it."""

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run the teacher: always."""
        return True

    @property
    def cost(self) -> str:
        """What must be had beside the student's own logits."""
        return _COSTS[self.reads]

    @property
    def unit(self) -> Unit:
        """What there is one number for."""
        if self.is_dual:
            return "target"
        return "document" if self.reads in ("document_states", "flow", "embeddings") else "token"

    @property
    def projects(self) -> bool:
        """Whether a learned map from the student's to the teacher's width may mend different widths."""
        return self.reads in ("hidden_states", "flow", "embeddings")

    @property
    def is_dual(self) -> bool:
        """Whether it compares what both say in one of their spaces, in whatever tokens each reads."""
        return self.reads in ("student_space", "teacher_space")

    @property
    def reads_layers(self) -> bool:
        """Whether a map says at which layers it reads."""
        return not (self.is_dual or self.reads == "embeddings")

    @property
    def reads_attention(self) -> bool:
        """Whether what it reads is inside a block's attention."""
        return self.reads in ("attention_scores", "value_relations", "multi_head_relations")

    @property
    def lowest_layer(self) -> int:
        """1 where only a block has what is read, 0 where the embedding layer has it too."""
        return int(self.reads_attention)

    def pairs(
        self, layers: str | Sequence[Sequence[int]] | None, *, student_layers: int, teacher_layers: int
    ) -> LayerPairs:
        """The layers that it compares in models of so many blocks, by its usual map where none is given.

        Raises: ValueError as `layer_pairs`, and for embeddings' layer where only a block has what is read.
        """
        return layer_pairs(
            layers or self.default_layers,
            student_layers=student_layers,
            teacher_layers=teacher_layers,
            lowest=self.lowest_layer,
            fewest_pairs=2 if self.reads == "flow" else 1,
        )

    def with_parameters(self, **parameters: object) -> "FeatureObjective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        nothing = {**_NO_FEATURES, **_NO_SPACES}[self.reads]
        fixed.function(*nothing)  # as for logits: runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundFeatureObjective:
        """The objective as a recipe asks for it; its arguments are those of the signal it reads.

        Raises: ValueError, before any model is loaded, for a parameter that it cannot have, or a temperature.
        """
        if self.is_dual:
            return self.with_parameters(temperature=temperature, **parameters).function
        if temperature != 1:
            raise ValueError(
                f"{self.name} compares no answers that a temperature could soften, but its temperature is {temperature}. "
                "Remove it; a temperature belongs to an objective of logits, such as forward_kl."
            )
        return self.with_parameters(**parameters).function


@dataclass(frozen=True)
class SpanObjective(_Parametrised):
    """What student and teacher say of the same text in the tokens of two tokenizers, compared span by span."""

    name: str
    function: Callable[..., Tensor]
    outcomes: OutcomeKind
    summary: str
    """When to choose it."""

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run the teacher: always."""
        return True

    @property
    def reads(self) -> Literal["spans"]:
        """What it reads of each side."""
        return "spans"

    @property
    def cost(self) -> str:
        """What must be had beside the student's own logits."""
        return "The teacher's logits over its own tokens."

    @property
    def unit(self) -> Unit:
        """What there is one number for."""
        return "span"

    def with_parameters(self, **parameters: object) -> "SpanObjective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        fixed.function(_NO_READING, _NO_READING, num_outcomes=1)  # as for logits: runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundSpanObjective:
        """The objective as a recipe asks for it, of softened distributions and times the temperature's square.

        Raises: ValueError, before any model is loaded, for a parameter or a temperature that it cannot have.
        """
        check_temperature(temperature)
        function = self.with_parameters(**parameters).function

        def per_span(student: Reading, teacher: Reading, num_outcomes: int) -> Tensor:
            sides = (side.softened(temperature) for side in (student, teacher))
            return temperature**2 * function(*sides, num_outcomes=num_outcomes)

        return per_span


@dataclass(frozen=True)
class PolicyObjective(_Parametrised):
    """What the student learns from tokens that it drew itself, by a policy gradient."""

    name: str
    function: Callable[..., Tensor]
    reads: Literal["draws", "draws_and_distributions"]
    summary: str
    """When to choose it."""

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run the teacher: always."""
        return True

    @property
    def reads_distributions(self) -> bool:
        """Whether it reads the whole vocabulary at each token, and not only the token that was drawn."""
        return self.reads == "draws_and_distributions"

    @property
    def cost(self) -> str:
        """What must be had beside the student's own logits."""
        return "Answers drawn in every step, and the teacher's logits on them."

    @property
    def unit(self) -> Literal["prediction"]:
        """What there is one number for: each token that is predicted, drawn or not."""
        return "prediction"

    def with_parameters(self, **parameters: object) -> "PolicyObjective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        fixed.function(_NO_DRAWS)  # as for logits: runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundPolicyObjective:
        """The objective as a recipe asks for it.

        Raises: ValueError, before any model is loaded, for a parameter that it cannot have, or a temperature.
        """
        if temperature != 1:
            raise ValueError(
                f"{self.name} is about the distribution that answers are drawn from, which a temperature of its own would "
                f"make another one, but its temperature is {temperature}. Remove it; source.sampling has one for drawing."
            )
        return self.with_parameters(**parameters).function


@dataclass(frozen=True)
class PreferenceObjective(_Parametrised):
    """What the student learns from pairs of answers, of which one was chosen over the other."""

    name: str
    function: Callable[..., Tensor]
    reads: Literal["pairs", "pairs_and_rewards"]
    summary: str
    """When to choose it."""

    @property
    def reads_teacher(self) -> bool:
        """Whether training must run the teacher: never, what it thinks of whole answers is found before."""
        return False

    @property
    def reads_rewards(self) -> bool:
        """Whether it reads by how much an answer is better, and not only that it is."""
        return self.reads == "pairs_and_rewards"

    @property
    def cost(self) -> str:
        """What must be had beside the student's own logits."""
        before = "The student before training, once over the data"
        return (
            f"{before}; so the teacher and its reference, unless the data has scores."
            if self.reads_rewards
            else f"{before}."
        )

    @property
    def unit(self) -> Literal["pair"]:
        """What there is one number for."""
        return "pair"

    def with_parameters(self, **parameters: object) -> "PreferenceObjective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        fixed.function(_NO_PAIRS)  # as for logits: runs the function's own range checks
        return fixed

    def bind(self, temperature: float = 1.0, **parameters: object) -> BoundPreferenceObjective:
        """The objective as a recipe asks for it.

        Raises: ValueError, before any model is loaded, for a parameter that it cannot have, or a temperature.
        """
        if temperature != 1:
            raise ValueError(
                f"{self.name} is about how likely whole answers are, which no temperature softens, but its temperature is "
                f"{temperature}. Remove it; beta says how far the student may move."
            )
        return self.with_parameters(**parameters).function


@dataclass(frozen=True)
class RankingObjective(_Parametrised):
    """What a retriever learns from how passages rank for a question."""

    name: str
    function: Callable[..., Tensor]
    reads: RankingSignal
    summary: str
    """When to choose it."""

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher's scores must be there."""
        return self.reads == "scores"

    @property
    def cost(self) -> str:
        """What must be had beside the student's own embeddings."""
        return (
            "The teacher's scores, once over the candidates." if self.reads_teacher else "Many questions in one batch."
        )

    @property
    def unit(self) -> Literal["question"]:
        """What there is one number for."""
        return "question"

    def with_parameters(self, **parameters: object) -> "RankingObjective":
        """This objective with some of its defaults replaced.

        Raises: ValueError, at once, for an unknown parameter, for one that is no number, and for one out of range.
        """
        fixed = replace(self, function=self._with(parameters))
        fixed.function(*_NO_RANKINGS[self.reads])  # as for logits: runs the function's own range checks
        return fixed

    def bind(self, **parameters: object) -> BoundRankingObjective:
        """The objective as a recipe asks for it.

        Raises: ValueError, before any model is loaded, for a parameter that it cannot have.
        """
        return self.with_parameters(**parameters).function


AnyObjective = Objective | FeatureObjective | SpanObjective | PolicyObjective | PreferenceObjective | RankingObjective


def objective(name: str, **parameters: object) -> AnyObjective:
    """The objective of that name, of any family, with its defaults replaced by the parameters given.

    Raises: ValueError for an unknown name, naming the nearest known one, and as `with_parameters`.
    """
    if name in CATALOGUE:
        return CATALOGUE[name].with_parameters(**parameters)
    if name in FEATURES:
        return FEATURES[name].with_parameters(**parameters)
    if name in SPANS:
        return SPANS[name].with_parameters(**parameters)
    if name in POLICIES:
        return POLICIES[name].with_parameters(**parameters)
    if name in PREFERENCES:
        return PREFERENCES[name].with_parameters(**parameters)
    if name in RANKINGS:
        return RANKINGS[name].with_parameters(**parameters)
    (nearest,) = get_close_matches(name.lower(), names(), n=1, cutoff=0.0)
    raise ValueError(f"There is no objective {name!r}. Did you mean {nearest!r}? Known: {', '.join(names())}.")


def names() -> tuple[str, ...]:
    """The names of all objectives: of logits, of features, across tokenizers, of draws, of pairs, then of rankings, in the
    order of the catalogue."""
    return (*CATALOGUE, *FEATURES, *SPANS, *POLICIES, *PREFERENCES, *RANKINGS)


Named = TypeVar(
    "Named", Objective, FeatureObjective, SpanObjective, PolicyObjective, PreferenceObjective, RankingObjective
)


def _known_parameters(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} (default {default})" for name, default in parameters.items()) or "none"


def _by_name(entries: Iterable[Named]) -> Mapping[str, Named]:
    return MappingProxyType({entry.name: entry for entry in entries})


_NO_POSITIONS = {
    "student_logits": torch.zeros(0, 1),
    "teacher_logits": torch.zeros(0, 1),
    "target_ids": torch.zeros(0, dtype=torch.long),
    "target_values": torch.zeros(0),
}
_NO_READING = Reading(torch.zeros(0, 1), *(torch.zeros(length, dtype=torch.long) for length in (0, 0, 1)))
_NO_NUMBERS, _NO_IDS = torch.zeros(0), torch.zeros(0, dtype=torch.long)
_NO_DRAWS = Draws(_NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS, _NO_IDS, _NO_IDS.bool(), _NO_NUMBERS)
_NO_PAIRS = AnswerPairs(*(torch.zeros(0, 2) for _ in range(4)))
_NO_SCORES = torch.zeros(0, 2)
_NO_RANKINGS: Mapping[RankingSignal, tuple[Tensor, ...]] = {
    "scores": (_NO_SCORES, _NO_SCORES),
    "batch_scores": (_NO_SCORES, _NO_IDS, _NO_SCORES.bool()),
}
_NO_STATES, _NO_DOCUMENTS, _NO_HEADS = torch.zeros(0, 1), torch.zeros(0, 1, 1), torch.zeros(0, 1, 1, 0)
_NO_RELATIONS = (_NO_HEADS, _NO_HEADS, torch.zeros(0, 1, 1, dtype=torch.bool))
_NO_FEATURES: Mapping[FeatureSignal, tuple[Tensor, ...]] = {
    "hidden_states": (_NO_STATES,) * 2,
    "document_states": (_NO_DOCUMENTS,) * 2,
    "flow": (_NO_DOCUMENTS,) * 4,
    "attention_scores": (torch.zeros(0, 1, 1, 1),) * 2,
    "value_relations": _NO_RELATIONS,
    "multi_head_relations": _NO_RELATIONS,
    "embeddings": (_NO_STATES,) * 2,
}
_NO_LOGITS = torch.zeros(0, 1)
_NO_SPACES: Mapping[FeatureSignal, tuple[Tensor, ...]] = {
    "student_space": (_NO_LOGITS, _NO_LOGITS, _NO_IDS, _NO_IDS.bool()),
    "teacher_space": (_NO_LOGITS, _NO_LOGITS),
}
_TEACHER: frozenset[Signal] = frozenset({"teacher_logits"})
_TARGETS: frozenset[Signal] = frozenset({"target_ids"})
_VALUES: frozenset[Signal] = frozenset({"target_values"})
_BOTH = _TEACHER | _TARGETS
_STATES = "The states of both sides."
_SCORES = "A score for every two tokens, head and layer of the map: attention without its fused kernel."
_COSTS: Mapping[FeatureSignal, str] = {
    "hidden_states": _STATES,
    "document_states": "A product for every two tokens of a document.",
    "flow": "Products as large as the width squared, a document each.",
    "attention_scores": _SCORES,
    "value_relations": _SCORES,
    "multi_head_relations": _SCORES,
    "embeddings": _STATES,
    "student_space": "The teacher's last states, a learned map, and the student's head once more.",
    "teacher_space": "The teacher's last states, a learned map, and the teacher's head once more.",
}

# fmt: off
CATALOGUE: Mapping[str, Objective] = _by_name([
    Objective("next_token", cross_entropy, _TARGETS, "Hard labels: learn the data itself, alone or beside a teacher.", False),
    Objective("masked_token", cross_entropy, _TARGETS, "Hard labels of a masked language model: the hidden words.", False),
    Objective("hard_label", cross_entropy, _TARGETS, "Hard labels of a classifier or tagger: its classes.", False),
    Objective("squared_error", squared_error, _VALUES, "The numbers in the data, for a regression head.", False),
    Objective("forward_kl", forward_kl, _TEACHER, "First choice: cover everything that the teacher may say."),
    Objective("reverse_kl", reverse_kl, _TEACHER, "Small students and own rollouts: keep to what the teacher likes."),
    Objective("jsd", jsd, _TEACHER, "Between the two KLs, bounded: own rollouts that stray far from the teacher."),
    Objective("skewed_forward_kl", skewed_forward_kl, _TEACHER, "Forward KL that outliers cannot blow up."),
    Objective("skewed_reverse_kl", skewed_reverse_kl, _TEACHER, "Reverse KL that a banned token cannot blow up."),
    Objective("total_variation", total_variation, _TEACHER, "Agreement token by token, as speculative drafts need."),
    Objective("alpha_beta", alpha_beta, _TEACHER, "The two KLs as a plane: tune focus on errors and on confidence."),
    Objective("adaptive_kl", adaptive_kl, _TEACHER, "The two KLs, mixed by where the student lags: head or tail."),
    Objective("taid", taid, _TEACHER, "A teacher far larger than the student: a target that moves towards it."),
    Objective("decoupled_kd", decoupled_kd, _BOTH, "Classifiers with a sure teacher: hear how it ranks wrong answers."),
    Objective("logit_mse", logit_mse, _TEACHER, "Regression heads, and logits that are to be kept as they are.", False),
    Objective("centred_logit_mse", centred_logit_mse, _TEACHER, "Forward KL at infinite temperature.", False),
])
"""Objectives of logits: every one by name."""

FEATURES: Mapping[str, FeatureObjective] = _by_name([
    FeatureObjective("hidden_mse", hidden_mse, "hidden_states", "uniform",
        "First choice inside the model: the teacher's states themselves, layer by layer."),
    FeatureObjective("hidden_cosine", hidden_cosine, "hidden_states", "final",
        "The last states beside logits, as DistilBERT does: their direction, whatever their length."),
    FeatureObjective("normalized_mse", normalized_mse, "hidden_states", "skip",
        "Directions at many layers, as patient distillation does."),
    FeatureObjective("gram_mse", gram_mse, "document_states", "final",
        "Other widths without a projection: how alike every two tokens of a document are."),
    FeatureObjective("flow_mse", flow_mse, "flow", "uniform",
        "What happens between two layers, rather than what is there."),
    FeatureObjective("linear_cka", linear_cka, "document_states", "final",
        "Other widths, long documents: the shape of the states, however turned or scaled."),
    FeatureObjective("attention_mse", attention_mse, "attention_scores", "uniform",
        "Equally many heads, as TinyBERT does: where each head looks, and how hard."),
    FeatureObjective("attention_kl", attention_kl, "attention_scores", "final",
        "Equally many heads, as MiniLM does: where each head looks."),
    FeatureObjective("value_relation_kl", value_relation_kl, "value_relations", "final",
        "Beside attention_kl: how the tokens' values relate, whatever a head's width."),
    FeatureObjective("multi_head_relation_kl", multi_head_relation_kl, "multi_head_relations", "final",
        "Any width and any number of heads: one well-chosen layer teaches all below it."),
    FeatureObjective("embedding_mse", hidden_mse, "embeddings", "final",
        "Sentence embeddings that take the teacher's place in an index."),
    FeatureObjective("embedding_cosine", hidden_cosine, "embeddings", "final",
        "Sentence embeddings that are compared by angle alone."),
    FeatureObjective("dual_space_student", dual_space_student, "student_space", "final",
        "Any tokenizer, as DSKD does: the teacher's last states, heard through the student's own head."),
    FeatureObjective("dual_space_teacher", dual_space_teacher, "teacher_space", "final",
        "Beside dual_space_student: the student's last states, heard through the teacher's head."),
])
"""Objectives of features: every one by name."""

SPANS: Mapping[str, SpanObjective] = _by_name([
    SpanObjective("span_forward_kl", span_forward_kl, "joined",
        "First choice across tokenizers: whatever the teacher may say next, in words that both have."),
    SpanObjective("span_reverse_kl", span_reverse_kl, "joined",
        "Small students across tokenizers: keep to what the teacher likes."),
    SpanObjective("span_hybrid", span_hybrid, "matched",
        "Vocabularies with much in common: shared tokens by name, the others by rank, as GOLD does."),
    SpanObjective("span_sorted_mass", span_sorted_mass, "joined",
        "Little in common, beside next_token: the teacher's probabilities by rank alone, as ULD does."),
])
"""Objectives across tokenizers: every one by name."""

POLICIES: Mapping[str, PolicyObjective] = _by_name([
    PolicyObjective("sampled_reverse_kl", sampled_reverse_kl, "draws",
        "On-policy distillation: reverse KL from the drawn tokens alone, as reinforcement learning does."),
    PolicyObjective("minillm", minillm, "draws_and_distributions",
        "Reverse KL between whole answers: a token also answers for what comes after it."),
])
"""Objectives of what the student draws: every one by name."""

PREFERENCES: Mapping[str, PreferenceObjective] = _by_name([
    PreferenceObjective("dpo", dpo, "pairs",
        "Answers that were chosen over others: come to like them more than before."),
    PreferenceObjective("reward_mse", reward_mse, "pairs_and_rewards",
        "Reward distillation: prefer as much as a tuned teacher does, or as scores say."),
    PreferenceObjective("reward_kl", reward_kl, "pairs_and_rewards",
        "The same as odds: less pull from pairs that the teacher is sure of."),
])
"""Objectives of pairs of answers: every one by name."""

RANKINGS: Mapping[str, RankingObjective] = _by_name([
    RankingObjective("margin_mse", margin_mse, "scores",
        "First choice for a cross-encoder's logits: by how much the right passage leads each other one."),
    RankingObjective("listwise_kl", listwise_kl, "scores",
        "Long lists of candidates: which of them the teacher may mean, as a distribution."),
    RankingObjective("score_mse", score_mse, "scores",
        "Scores that are to mean the same from one question to the next."),
    RankingObjective("info_nce", info_nce, "batch_scores",
        "Beside a teacher or without one: the right passage among all of the batch."),
])
"""Objectives of rankings: every one by name."""
# fmt: on
