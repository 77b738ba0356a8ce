"""Dual-space distillation: both sides' last states in each other's space, by maps that are trained beside the student; where
they read other tokens, by attention between the two models."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.core.batch import Batch, PairedBatch
from stillhouse.core.signals import FactoredLogits, Signals
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.terms import Term
from stillhouse.objectives.dual_space import cross_model_scores, of_unit_spread
from stillhouse.objectives.logprobs import at_least_float32
from stillhouse.students.projections import Projections
from stillhouse.training.features import FeatureTerm

QUERY, VALUE, STATES = "dual_space.query", "dual_space.value", "dual_space.states"
"""Maps: from two embeddings of the student's to two of the teacher's, from the teacher's states to the student's width, and
from the student's to the teacher's."""

ARGMAX_ELEMENTS = 2**20
"""Logits that are looked through at once for the likeliest token: 4 MiB in float32."""


def dual_space_widths(
    terms: Iterable[FeatureTerm], *, student_width: int, teacher_width: int, is_paired: bool
) -> dict[str, tuple[int, int]]:
    """The maps that these terms need: from which width to which. Each is there even where the two are equal."""
    spaces = {term.objective.reads for term in terms if term.is_dual}
    widths: dict[str, tuple[int, int]] = {}
    if "student_space" in spaces:
        widths[VALUE] = teacher_width, student_width
    if "teacher_space" in spaces:
        widths[STATES] = student_width, teacher_width
    if spaces and is_paired:
        widths[QUERY] = 2 * student_width, 2 * teacher_width
    return widths


@dataclass(frozen=True)
class _Spoken:
    """What both sides say before some tokens of their own, cut to what their tokenizers have."""

    student: FactoredLogits
    teacher: FactoredLogits
    in_student_space: Float[Tensor, "student_tokens width"] | None
    in_teacher_space: Float[Tensor, "teacher_tokens teacher_width"] | None
    targets: Int[Tensor, " student_tokens"]
    weights: Float[Tensor, " student_tokens"]
    teacher_weights: Float[Tensor, " teacher_tokens"]


def dual_space_total(
    term: FeatureTerm,
    student: Signals,
    teacher: Signals,
    batch: Batch,
    projections: Projections,
    *,
    sizes: tuple[int, int],
) -> Float[Tensor, ""]:
    """The weighted sum of this term over the batch's targets, of heads cut to these `sizes`; of a `PairedBatch` over the
    tokens that belong to spans, the teacher's together weighing in each document what the student's do."""
    places = _across(term, student, teacher, batch, projections) if isinstance(batch, PairedBatch) else None
    spoken = places or _alike(term, student, teacher, batch, projections)
    spoken = replace(spoken, student=spoken.student.first(sizes[0]), teacher=spoken.teacher.first(sizes[1]))
    if not len(spoken.weights):
        return spoken.weights.sum()
    if term.objective.reads == "student_space":
        return _in_student_space(spoken, term.temperature, only_right=isinstance(batch, PairedBatch))
    return _in_teacher_space(spoken, term.temperature)


def _in_student_space(spoken: _Spoken, temperature: float, *, only_right: bool) -> Float[Tensor, ""]:
    """Between two tokenizers the student learns only where what is mapped is right, as in the paper's code."""
    assert spoken.in_student_space is not None
    mapped = _by_head_of(spoken.student, spoken.in_student_space)
    supervised, _ = chunked_losses(
        mapped, None, terms=[Term("next_token")], target_ids=spoken.targets, token_weights=spoken.weights
    )
    said = replace(mapped, hidden=mapped.hidden.detach())
    learnt, _ = chunked_losses(
        spoken.student,
        said,
        terms=[Term("forward_kl", temperature=temperature)],
        target_ids=spoken.targets,
        token_weights=spoken.weights * _is_right(said, spoken.targets) if only_right else spoken.weights,
    )
    return supervised + learnt


def _in_teacher_space(spoken: _Spoken, temperature: float) -> Float[Tensor, ""]:
    assert spoken.in_teacher_space is not None
    mapped = _by_head_of(spoken.teacher, spoken.in_teacher_space)
    nothing = torch.zeros(len(mapped.hidden), dtype=torch.long, device=mapped.hidden.device)
    total, _ = chunked_losses(
        mapped,
        spoken.teacher,
        terms=[Term("forward_kl", temperature=temperature)],
        target_ids=nothing,
        token_weights=spoken.teacher_weights,
    )
    return total


def _by_head_of(said: FactoredLogits, states: Float[Tensor, "tokens width"]) -> FactoredLogits:
    """These states under that head, which learns nothing from them."""
    bias = None if said.bias is None else said.bias.detach()
    return replace(said, hidden=states.to(said.weight.dtype), weight=said.weight.detach(), bias=bias)


@torch.no_grad()
def _is_right(said: FactoredLogits, targets: Int[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """Where the likeliest token is the one that came."""
    chunk = max(1, ARGMAX_ELEMENTS // said.vocab_size)
    likeliest = [replace(said, hidden=hidden).dense().argmax(-1) for hidden in said.hidden.split(chunk)]
    return torch.cat(likeliest) == targets


def _alike(term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, projections: Projections) -> _Spoken:
    """Token by token, in the same tokens."""
    assert isinstance(student.logits, FactoredLogits) and isinstance(teacher.logits, FactoredLogits)
    ours, theirs = (said.at(batch.predicts) for said in (student.logits, teacher.logits))
    is_ours = term.objective.reads == "student_space"
    weights = batch.target_weights
    return _Spoken(
        ours,
        theirs,
        projections(VALUE, theirs.hidden) if is_ours else None,
        None if is_ours else projections(STATES, ours.hidden),
        batch.targets,
        weights,
        weights,
    )


def _across(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: PairedBatch, projections: Projections
) -> _Spoken:
    """By attention between the tokens of both sides, in each document by itself."""
    assert isinstance(student.logits, FactoredLogits) and isinstance(teacher.logits, FactoredLogits)
    ours, theirs = (replace(said, hidden=at_least_float32(said.hidden)) for said in (student.logits, teacher.logits))
    before = [_before(spans) for spans in (batch.spans, batch.teacher_spans)]
    mapped: list[Tensor] = []
    their_weights: list[Tensor] = []
    for our_places, their_places in _documents(batch, *before):
        weights = batch.weights[:, 1:][our_places[:, :-1]]
        their_weights.append((weights.sum() / their_places.sum()).expand(int(their_places.sum())))
        embedded = (
            _embedded(side.hidden_states[0], places)
            for side, places in ((student, our_places), (teacher, their_places))
        )
        (our_now, our_next), (their_now, their_next) = embedded
        query = projections(QUERY, torch.cat([our_now, our_next], dim=-1))
        scores = cross_model_scores(query, of_unit_spread(torch.cat([their_now, their_next], dim=-1)))
        if term.objective.reads == "student_space":
            states = of_unit_spread(theirs.hidden[their_places]) + of_unit_spread(their_next)
            mapped.append(scores.softmax(-1) @ projections(VALUE, states))
        else:
            mapped.append(scores.T.softmax(-1) @ projections(STATES, ours.hidden[our_places]))
    is_ours = term.objective.reads == "student_space"
    states = torch.cat(mapped) if mapped else ours.hidden.new_zeros(0, (ours if is_ours else theirs).hidden.shape[-1])
    return _Spoken(
        ours.at(before[0]),
        theirs.at(before[1]),
        states if is_ours else None,
        None if is_ours else states,
        batch.ids[:, 1:][before[0][:, :-1]],
        batch.weights[:, 1:][before[0][:, :-1]],
        torch.cat(their_weights) if their_weights else batch.weights.new_zeros(0),
    )


def _before(spans: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """The places before tokens that belong to spans: what is said there is compared."""
    found = torch.zeros_like(spans, dtype=torch.bool)
    found[:, :-1] = spans[:, 1:] >= 0
    return found


def _documents(
    batch: PairedBatch, ours: Bool[Tensor, "batch seq"], theirs: Bool[Tensor, "batch teacher_seq"]
) -> Iterator[tuple[Bool[Tensor, "batch seq"], Bool[Tensor, "batch teacher_seq"]]]:
    """The places of each document on both sides, row by row, so that together they are in the order of the batch."""
    for row in range(len(batch.ids)):
        for document in range(int(batch.documents[row].amax()) + 1):
            found = ours & (batch.documents == document), theirs & (batch.teacher_documents == document)
            for side in found:
                side[:row], side[row + 1 :] = False, False
            if found[0].any():  # spans are on both sides or on none
                yield found


def _embedded(
    states: Float[Tensor, "batch seq width"], places: Bool[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens width"]]:
    """The embedding at each place, and of the token that comes next; neither is taught here."""
    behind = places.roll(1, dims=1)  # nothing is compared at the last place, so none comes round
    return at_least_float32(states[places].detach()), at_least_float32(states[behind].detach())
