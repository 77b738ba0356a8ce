"""The names of a classifier's answers: those of teacher, student and data must be the same, in the same order."""

import re
from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError

MOST_NAMED = 5
"""Labels that an error message names of each kind: enough to see what is the matter."""


def labels_of(owner: PreTrainedModel | PretrainedConfig) -> tuple[str, ...]:
    """What a classifier calls its answers, in the order of its logits."""
    config = owner.config if isinstance(owner, PreTrainedModel) else owner
    names = config.id2label or {}
    return tuple(str(name) for _, name in sorted(names.items()))


def name_labels(config: PretrainedConfig, labels: Sequence[str]) -> None:
    """Let a configuration have these labels, in this order, and as many answers."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def check_labels(model: Sequence[str], data: Sequence[str], *, source: str) -> None:
    """Refuse a classifier whose answers are not the data's labels one by one: their numbers would mean different things.

    A model that never had its answers named (`LABEL_0`, `LABEL_1`, ...) fits labels that are those same numbers.

    Raises:
        ModelError: saying how they differ.
    """
    if [*map(_number_if_unnamed, model)] != [*map(_number_if_unnamed, data)]:
        raise ModelError(f"the labels of {source!r} are not those of the data: {_difference(model, data)}")


def answers_of(owner: PreTrainedModel | PretrainedConfig) -> tuple[str, ...]:
    """What a classifier's answers are called in its data, in the order of its logits: their numbers where it never named
    them."""
    return tuple(map(_number_if_unnamed, labels_of(owner)))


def _number_if_unnamed(label: str) -> str:
    unnamed = re.fullmatch(r"LABEL_(\d+)", label)
    return unnamed[1] if unnamed else label


def _difference(model: Sequence[str], data: Sequence[str]) -> str:
    """How two lists of labels differ, and what to do."""
    only_model = [label for label in model if label not in set(data)]
    only_data = [label for label in data if label not in set(model)]
    if only_model and all(_number_if_unnamed(label) != label for label in model):
        return (
            f"it never named its {len(model)} answers (LABEL_0, LABEL_1, ...), and the data names {len(data)} "
            f"({_some(data)}). Write the names into id2label and label2id of its config.json."
        )
    if not only_model and not only_data and len(model) == len(data):
        place = next(index for index, pair in enumerate(zip(model, data, strict=True)) if pair[0] != pair[1])
        return (
            f"they come in another order. Label {place} is {model[place]!r} for the model and {data[place]!r} in the data. "
            f"Number them in the model's order: {_some(model)}."
        )
    sides = [(only_model, "the model alone knows"), (only_data, "the data alone has")]
    found = "; ".join(f"{whose} {_some(labels)}" for labels, whose in sides if labels) or "one has a label twice"
    return f"the model has {len(model)}, the data {len(data)}; {found}. Take a model that was trained for these labels."


def _some(labels: Sequence[str]) -> str:
    named = ", ".join(map(repr, labels[:MOST_NAMED]))
    return named if len(labels) <= MOST_NAMED else f"{named} and {len(labels) - MOST_NAMED} more"
