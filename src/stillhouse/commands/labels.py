"""What a recipe's labels must hold for its objectives, whether they can, and whether what is stored is whole."""

from collections.abc import Iterable, Sequence

import torch

from stillhouse.core.label_store import damaged
from stillhouse.core.objects import Objects
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.core.signals import Wanted
from stillhouse.kernels.terms import Term
from stillhouse.labelling import Recorder, Sampled, Sparse, States
from stillhouse.labelling.config import HiddenStatesConfig, LabelsConfig, LastHiddenConfig, SampledConfig, SparseConfig
from stillhouse.labelling.serves import why_not
from stillhouse.objectives import Objective, objective
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.terms import Scheduled, wanted_of


def label_faults(labels: LabelsConfig, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why these objectives cannot learn from these labels: one sentence a fault, naming objective, signal, and what to do."""
    faults = [fault for chosen in objectives if (fault := why_not(objective(chosen.name), labels.signal))]
    if isinstance(labels, SparseConfig | SampledConfig):
        faults += _temperature_faults(labels, _teachers(objectives))
    if isinstance(labels, SparseConfig) and labels.tail == "renormalised":
        faults += _tail_faults(_teachers(objectives))
    if isinstance(labels, HiddenStatesConfig) and not any(chosen.reads_features for chosen in objectives):
        faults.append("labels.signal is hidden_states, but no objective compares any. Use last_hidden, or sparse.")
    return faults


def _teachers(objectives: Iterable[ObjectiveConfig]) -> list[ObjectiveConfig]:
    """The objectives that compare with the teacher's logits."""
    entries = [(chosen, objective(chosen.name)) for chosen in objectives]
    return [chosen for chosen, entry in entries if isinstance(entry, Objective) and entry.reads_teacher]


def _temperature_faults(labels: SparseConfig | SampledConfig, chosen: Sequence[ObjectiveConfig]) -> list[str]:
    """One distribution is stored a token, so all objectives must ask for it at one temperature that stays."""
    mend = "Use labels.signal last_hidden, which serves any temperature."
    ramped = [entry.name for entry in chosen if not isinstance(entry.temperature, float)]
    if ramped:
        return [
            f"labels.signal {labels.signal} knows the teacher at fixed temperatures, but {ramped[0]}'s changes. {mend}"
        ]
    asked = {float(entry.temperature): entry.name for entry in chosen if isinstance(entry.temperature, float)}
    if len(asked) > 1:
        said = " and ".join(f"{name} at {temperature}" for temperature, name in asked.items())
        return [f"labels.signal {labels.signal} answers at one temperature in a run, but there is {said}. {mend}"]
    known = _temperatures(labels)
    return [
        f"{name} has temperature {temperature}, but labels hold the teacher at {', '.join(map(str, known))}: at another one "
        f"the rest of the distribution is not known. Add it, or use labels.signal last_hidden, which serves any."
        for temperature, name in asked.items()
        if known and temperature not in known
    ]


def _tail_faults(chosen: Sequence[ObjectiveConfig]) -> list[str]:
    """A student may always say what such a teacher is made to leave out: some objectives are infinite there."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]])
    scheduled = [entry.build(student_layers=1, teacher_layers=1) for entry in chosen]
    terms = [term.at(progress) for term in scheduled for progress in (0.0, 1.0)]
    faults = [
        f"{term.name} is infinite where the teacher says nothing, as it does of most tokens when labels.tail is renormalised. "
        "Leave tail out."
        for term in terms
        if isinstance(term, Term) and term.objective(student, teacher, torch.zeros(1, dtype=torch.long)).isinf().any()
    ]
    return list(dict.fromkeys(faults))


def _temperatures(labels: SparseConfig | SampledConfig) -> tuple[float, ...]:
    """Those that are given; none where the objectives are to say."""
    if isinstance(labels, SampledConfig):
        return () if labels.temperature is None else (labels.temperature,)
    return labels.temperatures or ()


def spoken_temperature(objectives: Sequence[ObjectiveConfig]) -> float:
    """The one temperature at which sparse or sampled labels are read."""
    return next(
        (float(entry.temperature) for entry in _teachers(objectives) if isinstance(entry.temperature, float)), 1.0
    )


def recorder_of(
    labels: LabelsConfig, objectives: Sequence[ObjectiveConfig], terms: Sequence[Scheduled], *, vocab_size: int
) -> Recorder:
    """What keeps of the teacher's answers all that the objectives read, these being their `terms`."""
    temperature = spoken_temperature(objectives)
    match labels:
        case LastHiddenConfig():
            return States(labels.bits)
        case SparseConfig():
            temperatures = labels.temperatures or (temperature,)
            return Sparse(vocab_size, labels.min_probability, labels.most, temperatures)
        case SampledConfig():
            return Sampled(vocab_size, labels.draws, labels.power, labels.temperature or temperature, labels.seed)
        case HiddenStatesConfig():
            wanted: Wanted = wanted_of("teacher", [scheduled.term for scheduled in terms], None)
            return States(labels.bits, tuple(sorted(wanted.hidden_states)), keeps_head=wanted.logits)


def forget_damaged(
    run: RunFolder,
    progress: Progress,
    stages: Sequence[str],
    *,
    objects: Objects | None = None,
    fetches: bool = False,
) -> None:
    """Labels that the first of these stages finished, and that were damaged since, are made again, the damaged files alone, and
    so is what the others have made of them. Objects are looked into where they are to be fetched for it."""
    names = damaged(run.labels, objects, fetches=fetches) if run.is_done(stages[0]) else []
    if names:
        where = run.labels if objects is None else objects.url
        progress.say(f"damaged in {where}, and made again: {', '.join(names)}")
        run.event("warned", stage=stages[0], damaged=names)
        if objects is not None:  # where what is there is not made again
            for name in names:
                objects.remove(name)
        for stage in stages:
            run.forget(stage)
