"""Before it ranks, a student learns to embed as another model does: passages and questions teach that, without negatives."""

import math
from pathlib import Path
from typing import Any

from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.recipe import FittedImitationConfig, TrainedImitationConfig
from stillhouse.core.config import parse_recipe
from stillhouse.core.files import json_line, write_atomic
from stillhouse.core.run import RunFolder
from stillhouse.retrieval.embed import load_embedder, load_sentence_model
from stillhouse.retrieval.students import fitted

FOLDER = "imitation"


def imitated(parts: RetrievalParts) -> Any:
    """The student after it."""
    wanted = parts.recipe.imitation
    if isinstance(wanted, FittedImitationConfig):
        return _fitted(parts, wanted)
    assert wanted is not None, "the recipe imitates somebody"
    return _trained(parts, wanted)


def texts_to_imitate(parts: RetrievalParts) -> list[str]:
    """Every passage, and every question that is learnt from; nothing of those that are held out."""
    train, _ = parts.train_and_held_out
    return list(dict.fromkeys([*parts.texts.values(), *(one.text for one in train)]))


def _fitted(parts: RetrievalParts, wanted: FittedImitationConfig) -> Any:
    texts = texts_to_imitate(parts)
    model = wanted.model or parts.start
    teacher = load_embedder(model, max_tokens=parts.recipe.student.max_tokens)
    parts.progress.say(f"{len(texts):,} texts are embedded by {model}")
    return fitted(parts.load_student("student_before"), texts, teacher.documents(texts), ridge=wanted.ridge)


def _trained(parts: RetrievalParts, wanted: TrainedImitationConfig) -> Any:
    """A run of kind `sentences` inside this one: what can be learnt there can be learnt here, and is resumed alike."""
    texts = texts_to_imitate(parts)
    folder = parts.run.path / FOLDER
    file = parts.run.data / "texts.jsonl"
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, "".join(json_line({"text": text}) for text in texts))
    recipe = nested_recipe(parts, wanted, file=file, folder=folder, num_texts=len(texts))
    run = RunFolder(folder)
    pipeline = Pipeline(recipe, run, parts.progress)
    pipeline.check()
    with run.open(recipe):
        pipeline.train()
    model = load_sentence_model(str(run.student), max_tokens=parts.recipe.student.max_tokens)
    model.similarity_fn_name = parts.load_student("student_before").similarity_fn_name
    return model


def nested_recipe(
    parts: RetrievalParts, wanted: TrainedImitationConfig, *, file: Path, folder: Path, num_texts: int
) -> Recipe:
    """What the same is called for data of kind `sentences`."""
    # As few as can be are held out there: who finds passages is judged here, on questions.
    held_out = min(0.5, math.ceil(1e6 / num_texts) / 1e6)
    return parse_recipe(
        Recipe,
        {
            "run": str(folder),
            "teacher": {"kind": "local", "model": wanted.model or parts.start},
            "student": {"kind": "checkpoint", "model": str(parts.run.path / "student_before")},
            "data": {
                "kind": "sentences",
                "path": str(file),
                "sequence_tokens": parts.recipe.student.max_tokens,
                "held_out": held_out,
            },
            "objectives": [chosen.model_dump(mode="json", exclude_unset=True) for chosen in wanted.objectives],
            "training": wanted.training.model_dump(mode="json"),
        },
        source="imitation",
    )
