"""The loss of one batch: teacher and student are each run once, and every term is summed and divided once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stillhouse.core.alignment import CommonOutcomes
from stillhouse.core.batch import Batch, ContextBatch, PairedBatch, PreferenceBatch, one_document_a_row
from stillhouse.core.errors import ModelError
from stillhouse.core.protocols import DistantTeacher, Teacher
from stillhouse.core.signals import DenseLogits, FactoredLogits, Pooling, Signals, Wanted
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.policy import Drawn, PolicyTerm, policy_losses
from stillhouse.kernels.preference import Known, PreferenceTerm, preference_losses
from stillhouse.kernels.spans import Side, SpanTerm, span_losses
from stillhouse.kernels.terms import Term, plain_losses
from stillhouse.models.signals import read_signals
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training.dual_space import dual_space_total
from stillhouse.training.features import FeatureTerm
from stillhouse.training.sharding import is_sharded
from stillhouse.training.terms import UNITS, AnyTerm, shares_of, unit_of, wanted_of
from stillhouse.training.zero import is_shared

NO_PROJECTIONS = Projections({}, seed=0)

Overhear = Callable[[FactoredLogits, FactoredLogits], None]
"""Told what student and teacher say where logits count, cut to the tokens that both have."""

Sums = tuple[Float[Tensor, ""], Float[Tensor, " terms"]]
"""The loss, and each term's own sum without weight or gradient."""


def distillation_loss(
    student: nn.Module,
    batch: Batch,
    *,
    teacher: Teacher | None,
    terms: Sequence[AnyTerm],
    vocab_size: int,
    pooling: Pooling | None = None,
    projections: Projections | None = None,
    counts: Float[Tensor, " units"] | None = None,
    common: CommonOutcomes | None = None,
    overhear: Overhear | None = None,
    replay_terms: Sequence[Term] = (),
    replay_counts: Float[Tensor, " units"] | None = None,
) -> Sums:
    """Sum over terms of their weighted sums over the batch, each divided by the count of its unit (by nothing without
    `counts`), and each term's own sum [terms], which nothing divides.

    Both heads are cut to `vocab_size`, the tokenizer's or the number of classes: what pads a head beyond it is no token.
    Objectives across tokenizers read a `PairedBatch`, and need to know what both vocabularies have in `common`. Of a
    `ContextBatch` the teacher reads its own side; what both say of the answers' tokens is compared. Policy gradients read with
    which probability tokens were drawn; preferences read the answers of a `PreferenceBatch`, and what is known of them. Who
    wants to `overhear` is told what is compared.

    With `replay_terms`, which read no teacher, rows that are replayed learn these, divided by counts of their own, and only the
    others learn the terms; the sums of these come behind those of the terms. The student reads both in one pass.
    """
    if isinstance(batch, ContextBatch):
        _refuse_other_places(terms)
    if any(isinstance(term, FeatureTerm) and term.needs_documents_alone for term in terms):
        batch = one_document_a_row(batch)
    apart = batch.replayed if replay_terms else None
    new = batch if apart is None else batch.of_rows(~apart)
    in_vain = None if new.real.any() else _asked_in_vain(teacher, batch, terms, pooling)
    if not batch.real.any():
        loss, sums = _nothing(student, batch, [*terms, *replay_terms], projections=projections or NO_PROJECTIONS)
        if in_vain is not None:
            in_vain()
        return loss, sums
    asked_for = _asked(teacher, new, terms, pooling)
    answer = read_signals(student, batch, wanted_of("student", [*terms, *replay_terms], pooling))
    said = asked_for()
    if in_vain is not None:
        in_vain()
    compared = partial(_compared, vocab_size=vocab_size, teacher=teacher, projections=projections, common=common)
    ours = answer if apart is None else answer.of_rows(~apart)
    loss, sums = compared(ours, said, new, terms, counts=counts, overhear=overhear)
    if apart is None:
        return loss, torch.cat([sums, sums.new_zeros(len(replay_terms))])
    replayed = batch.of_rows(apart)
    replay_loss, replay_sums = compared(answer.of_rows(apart), Signals(), replayed, replay_terms, counts=replay_counts)
    if not len(new.ids):
        loss = loss + _of_none(projections or NO_PROJECTIONS, batch)
    return loss + replay_loss, torch.cat([sums, replay_sums.to(sums.dtype)])


def _nothing(student: nn.Module, batch: Batch, terms: Sequence[AnyTerm], *, projections: nn.Module) -> Sums:
    """No loss, and a gradient of zeros: who trains together must all take part in every step, also with nothing to learn."""
    read = replace(batch, documents=torch.zeros_like(batch.documents))  # of padding alone not all models say numbers
    said = read_signals(student, read, Wanted(logits=True)).logits
    if is_sharded(student) or is_shared(student):
        # Its blocks are with others by now: what they said leads back to them.
        answers = [said.values] if isinstance(said, DenseLogits) else _factors(said)
    else:
        answers = [weight for weight in student.parameters() if weight.requires_grad]
    return _zero(answers) + _of_none(projections, batch), batch.weights.new_zeros(len(terms))


def _zero(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Of which each of them has a gradient of zeros."""
    return torch.stack([0.0 * tensor.sum() for tensor in tensors]).sum()


def _of_none(projections: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """What is trained beside the student takes part, too, where there is nothing to compare."""
    return _zero([batch.weights.new_zeros(()), *projections.parameters()])


def _asked_in_vain(
    teacher: Teacher | None, batch: Batch, terms: Sequence[AnyTerm], pooling: Pooling | None
) -> Callable[[], object] | None:
    """Asks a teacher that processes share although there is no question, and once more where others ask of spans: all of them
    run it as often, and at the same places."""
    if not isinstance(teacher, LocalTeacher) or not is_sharded(teacher.model):
        return None
    told = _asked(teacher, batch, terms, pooling)()
    return partial(_said_of_spans, teacher, told, batch, terms)


def _factors(said: object) -> list[Tensor]:
    assert isinstance(said, FactoredLogits)
    return [factor for factor in (said.hidden, said.weight, said.bias) if factor is not None]


def _asked(
    teacher: Teacher | None, batch: Batch, terms: Sequence[AnyTerm], pooling: Pooling | None
) -> Callable[[], Signals]:
    """What brings what the teacher says, where it is asked at all: one that is elsewhere is at it while the student reads."""
    wanted = wanted_of("teacher", terms, pooling)
    if teacher is None or wanted == Wanted() or not len(batch.ids):
        return Signals
    read = _read_by_the_teacher(batch, in_own_tokens=_in_own_tokens(batch, terms))
    if isinstance(teacher, DistantTeacher):
        return teacher.begin(read, wanted)
    said = teacher.signals(read, wanted)
    return lambda: said


def _said_of_spans(teacher: Teacher, said: Signals, batch: Batch, terms: Sequence[AnyTerm]) -> Signals:
    """What the teacher says of its own tokens, where spans are compared; that it may have said already."""
    if not isinstance(batch, PairedBatch) or not any(isinstance(term, SpanTerm) for term in terms):
        return Signals()
    return said if _in_own_tokens(batch, terms) else teacher.signals(batch.teacher, Wanted(logits=True))


def _in_own_tokens(batch: Batch, terms: Sequence[AnyTerm]) -> bool:
    """Whether the states that are compared are those of the teacher's own tokens."""
    return isinstance(batch, PairedBatch) and any(isinstance(term, FeatureTerm) and term.is_dual for term in terms)


def _compared(
    answer: Signals,
    said: Signals,
    batch: Batch,
    terms: Sequence[AnyTerm],
    *,
    vocab_size: int,
    teacher: Teacher | None,
    projections: Projections | None,
    counts: Float[Tensor, " units"] | None,
    common: CommonOutcomes | None,
    overhear: Overhear | None = None,
) -> Sums:
    """The terms of rows that all learn the same; there may be none of them."""
    if not len(batch.ids):
        return batch.weights.new_zeros(()), batch.weights.new_zeros(len(terms))
    in_own_tokens = _in_own_tokens(batch, terms)
    shares = [_share(term, counts) for term in terms]

    sums: list[Tensor | None] = [None] * len(terms)
    on_logits = {index: (term, shares[index]) for index, term in enumerate(terms) if isinstance(term, Term)}
    loss = batch.weights.new_zeros(())
    if on_logits:
        here = Signals() if in_own_tokens else said  # what then reads logits reads the student's alone
        part, found = _on_logits(answer, here, batch, list(on_logits.values()), vocab_size, overhear)
        loss = loss + part
        for index, total in zip(on_logits, found, strict=True):
            sums[index] = total
    on_spans = {index: (term, shares[index]) for index, term in enumerate(terms) if isinstance(term, SpanTerm)}
    if on_spans:
        assert isinstance(batch, PairedBatch) and teacher is not None and common is not None
        in_spans = _said_of_spans(teacher, said, batch, terms)
        part, found = _on_spans(answer, in_spans, batch, list(on_spans.values()), common)
        loss = loss + part
        for index, total in zip(on_spans, found, strict=True):
            sums[index] = total
    on_draws = {index: (term, shares[index]) for index, term in enumerate(terms) if isinstance(term, PolicyTerm)}
    if on_draws:
        part, found = _on_draws(answer, said, batch, list(on_draws.values()), vocab_size)
        loss = loss + part
        for index, total in zip(on_draws, found, strict=True):
            sums[index] = total
    on_pairs = {index: (term, shares[index]) for index, term in enumerate(terms) if isinstance(term, PreferenceTerm)}
    if on_pairs:
        assert isinstance(batch, PreferenceBatch)
        part, found = _on_pairs(answer, batch, list(on_pairs.values()), vocab_size)
        loss = loss + part
        for index, total in zip(on_pairs, found, strict=True):
            sums[index] = total
    for index, term in enumerate(terms):
        if isinstance(term, FeatureTerm):
            maps = projections or NO_PROJECTIONS
            if term.is_dual:
                sizes = (vocab_size, vocab_size if common is None else len(common.joined.teacher))
                total = dual_space_total(term, answer, said, batch, maps, sizes=sizes)
            else:
                total = term.total(answer, said, batch, maps)
            loss, sums[index] = loss + term.weight * shares[index] * total, total.detach()
    return loss, torch.stack([total.to(loss.dtype) for total in sums if total is not None])


def _share(term: AnyTerm, counts: Tensor | None) -> float:
    """What one of the term's values counts for; nothing where the step holds none."""
    count = 1.0 if counts is None else float(counts[UNITS.index(unit_of(term))])
    return 1 / count if count else 0.0


def _on_logits(
    answer: Signals,
    said: Signals,
    batch: Batch,
    chosen: Sequence[tuple[Term, float]],
    vocab_size: int,
    overhear: Overhear | None,
) -> Sums:
    """The terms that read logits, at every place where one of them counts."""
    terms = [replace(term, weight=term.weight * share) for term, share in chosen]
    places, targets, weights = _places(batch, terms)
    assert answer.logits is not None
    theirs = None if said.logits is None else said.logits.at(_teachers_places(batch, places))
    if isinstance(theirs, FactoredLogits | DenseLogits):
        theirs = theirs.first(vocab_size)  # what was stored is cut already
    if isinstance(answer.logits, FactoredLogits):
        assert not isinstance(theirs, DenseLogits)
        ours = answer.logits.at(places).first(vocab_size)
        if overhear is not None and isinstance(theirs, FactoredLogits):
            overhear(ours, theirs)
        return chunked_losses(ours, theirs, terms=terms, target_ids=targets, token_weights=weights)
    assert isinstance(answer.logits, DenseLogits) and not isinstance(theirs, FactoredLogits)
    classes = answer.logits.at(places).first(vocab_size)
    return plain_losses(classes, theirs, terms=terms, targets=targets, token_weights=weights)


def _read_by_the_teacher(batch: Batch, *, in_own_tokens: bool) -> Batch:
    if isinstance(batch, PairedBatch) and in_own_tokens:
        return batch.teacher
    return batch.teacher if isinstance(batch, ContextBatch) else batch


def _teachers_places(batch: Batch, places: Tensor) -> Tensor:
    """Where the teacher says what it thinks of the tokens that are predicted at `places`."""
    return batch.teacher.predicts if isinstance(batch, ContextBatch) else places


def _refuse_other_places(terms: Sequence[AnyTerm]) -> None:
    """Both share the tokens of the answers alone: elsewhere nothing of one stands beside anything of the other."""
    by_target = (Term, PolicyTerm)
    other = [term.name for term in terms if not isinstance(term, by_target) or getattr(term, "where", "") == "tokens"]
    if other:
        raise ModelError(
            f"{other[0]} compares more than the tokens that are learnt, but the teacher has read more than the student. Use "
            "objectives on logits, where is targets, such as forward_kl."
        )


def _on_spans(
    answer: Signals,
    teacher: Signals,
    batch: PairedBatch,
    chosen: Sequence[tuple[SpanTerm, float]],
    common: CommonOutcomes,
) -> Sums:
    """The terms that compare spans of text: the teacher has read its own tokens."""
    said = teacher.logits
    assert isinstance(answer.logits, FactoredLogits) and isinstance(said, FactoredLogits)
    sizes = len(common.joined.student), len(common.joined.teacher)
    return span_losses(
        _side(answer.logits.first(sizes[0]), batch.ids, batch.spans),
        _side(said.first(sizes[1]), batch.teacher_ids, batch.teacher_spans),
        terms=[replace(term, weight=term.weight * share) for term, share in chosen],
        common=common.to(batch.ids.device),
        span_weights=batch.span_weights,
    )


def _on_draws(
    answer: Signals, said: Signals, batch: Batch, chosen: Sequence[tuple[PolicyTerm, float]], vocab_size: int
) -> Sums:
    """The terms that learn from what was drawn, and what came after it."""
    assert isinstance(answer.logits, FactoredLogits) and isinstance(said.logits, FactoredLogits)
    places = batch.predicts
    return policy_losses(
        answer.logits.at(places).first(vocab_size),
        said.logits.at(_teachers_places(batch, places)).first(vocab_size),
        Drawn(batch.targets, batch.answers, *batch.draws),
        terms=[replace(term, weight=term.weight * share) for term, share in chosen],
        token_weights=batch.target_weights,
    )


def _on_pairs(
    answer: Signals, batch: PreferenceBatch, chosen: Sequence[tuple[PreferenceTerm, float]], vocab_size: int
) -> Sums:
    """The terms that learn from which of two answers was chosen."""
    assert isinstance(answer.logits, FactoredLogits)
    if batch.reference_logprobs is None:
        raise ModelError(
            f"{chosen[0][0].name} compares with the student before training, and these rows do not know what that said. Give "
            "them PreferenceRows.with_weighed."
        )
    return preference_losses(
        answer.logits.at(batch.answer_places).first(vocab_size),
        batch.answer_tokens,
        batch.answer_rows,
        Known(batch.reference_logprobs, batch.teacher_ratios, batch.scores),
        terms=[replace(term, weight=term.weight * share) for term, share in chosen],
    )


def _side(said: FactoredLogits, ids: Int[Tensor, "batch seq"], spans: Int[Tensor, "batch seq"]) -> Side:
    """What is said before each token of a span; the spans of all rows are numbered on from those of the row before."""
    offsets = (spans.amax(-1) + 1).cumsum(0).roll(1)
    offsets[:1] = 0
    belongs = spans[:, 1:] >= 0
    before = torch.zeros_like(spans, dtype=torch.bool)
    before[:, :-1] = belongs
    return Side(said.at(before), ids[:, 1:][belongs], (spans + offsets[:, None])[:, 1:][belongs])


def _places(batch: Batch, terms: Sequence[Term]) -> tuple[Tensor, Tensor, Tensor]:
    """Where logits count for any term, the targets there (0 where there is none), and what each term gives each place:
    a mask like `batch.predicts`, [places], and [terms, places].
    """
    predicts, everywhere = batch.predicts, batch.real
    wheres = [term.where for term in terms]
    if "tokens" in wheres and predicts.dim() == 1:
        raise ModelError("where is tokens, but each document has one answer as a whole. Leave where out.")
    places = everywhere | predicts if "tokens" in wheres else predicts
    targets = torch.zeros(predicts.shape, dtype=batch.targets.dtype, device=predicts.device)
    targets[predicts] = batch.targets
    rows = [_weights(batch, term) for term in terms]
    return places, targets[places], torch.stack([row[places] for row in rows])


def _weights(batch: Batch, term: Term) -> Tensor:
    """What the term gives each place of the batch."""
    own = batch.target_weights
    if term.where == "tokens":
        return batch.real.to(own.dtype)
    if (term.answers, term.average) != ("all", "tokens"):
        own = shares_of(batch, term.answers, term.average)
    weights = torch.zeros(batch.predicts.shape, dtype=own.dtype, device=own.device)
    weights[batch.predicts] = own
    return weights
