"""Which of the student's layers is matched with which of the teacher's.

One numbering on both sides: layer 0 is what the embeddings put out, layer n what the n-th block puts out, and the
attention of layer n is the one inside the n-th block. So the last layer's number is the number of blocks.
"""

from collections.abc import Sequence
from typing import Literal, get_args

LayerMap = Literal["uniform", "skip", "last", "final", "embeddings"]
LayerPairs = tuple[tuple[int, int], ...]
"""(student's layer, teacher's layer), from the lowest up."""


def layer_pairs(
    layers: str | Sequence[Sequence[int]],
    *,
    student_layers: int,
    teacher_layers: int,
    lowest: int = 0,
    fewest_pairs: int = 1,
) -> LayerPairs:
    """The pairs that a map's name stands for in models of so many blocks, or the pairs given, checked.

    - `uniform`: every student layer, evenly up the teacher, last to last. TinyBERT's map.
    - `skip`: every k-th layer of a teacher k times as deep, without the last, which the logits teach. PKD-skip's map.
    - `last`: the student's layers with the teacher's topmost ones, last to last.
    - `final`: last to last alone.
    - `embeddings`: layer 0 to layer 0 alone.

    `lowest` is 1 for what only a block has, such as attention; `fewest_pairs` is 2 for what lies between layers.

    Raises: ValueError for an unknown name, a map that these models do not allow, or a pair outside them.
    """
    pairs = _named(layers, student_layers, teacher_layers) if isinstance(layers, str) else layers
    for pair in pairs:
        _check_pair(pair, student_layers=student_layers, teacher_layers=teacher_layers, lowest=lowest)
    said = layers if isinstance(layers, str) else "what is given"
    if len(pairs) < fewest_pairs:
        raise ValueError(
            f"layers: {said} matches {len(pairs)} of a student's {student_layers} layers, but at least {fewest_pairs} must be. "
            "Give more pairs as [[student, teacher], ...], or choose another map."
        )
    if len({tuple(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"layers: {[list(pair) for pair in pairs]} names a pair twice. Name each once.")
    return tuple(sorted((student, teacher) for student, teacher in pairs))


def _named(name: str, student_layers: int, teacher_layers: int) -> LayerPairs:
    if name not in get_args(LayerMap):
        raise ValueError(
            f"layers: there is no map {name!r}. Known: {', '.join(get_args(LayerMap))}; or give pairs as "
            "[[student, teacher], ...]."
        )
    if name in ("uniform", "skip", "last") and student_layers > teacher_layers:
        raise ValueError(
            f"layers: {name} spreads the student's layers over the teacher's, but the student has {student_layers} and "
            f"the teacher {teacher_layers}. Use final, or give pairs."
        )
    every = range(1, student_layers + 1)
    match name:
        case "uniform":  # rounded in whole numbers, half upwards, so that no two land on one layer
            return tuple((i, (2 * i * teacher_layers + student_layers) // (2 * student_layers)) for i in every)
        case "skip":
            return tuple((i, i * (teacher_layers // student_layers)) for i in every[:-1])
        case "last":
            return tuple((i, teacher_layers - student_layers + i) for i in every)
        case "final":
            return ((student_layers, teacher_layers),)
    return ((0, 0),)


def _check_pair(pair: Sequence[int], *, student_layers: int, teacher_layers: int, lowest: int) -> None:
    if len(pair) != 2:
        raise ValueError(f"layers: a pair is [student, teacher], but {list(pair)} came.")
    for whose, layer, highest in zip(("student", "teacher"), pair, (student_layers, teacher_layers), strict=True):
        if not lowest <= layer <= highest:
            raise ValueError(
                f"layers: in {list(pair)}, the {whose}'s layer must be from {lowest} to {highest}, but it is {layer}. "
                + ("0 is the embeddings, which have no attention." if layer == 0 else "0 is the embeddings.")
            )
