"""Before it ranks, a student learns to embed as another model does: passages and questions teach that, without negatives."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse.commands.alarm_log import telling
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.recipe import FittedImitationConfig, StatesImitationConfig
from stillhouse.core.config import parse_recipe
from stillhouse.core.files import json_line, remove, write_atomic
from stillhouse.core.progress import Inside, working
from stillhouse.core.run import RunFolder
from stillhouse.models.load import display_name, seen_by_all
from stillhouse.retrieval.embed import Embedder, SentenceEmbedder, Vectors, load_embedder, load_sentence_model
from stillhouse.retrieval.spread import SpreadEmbedder
from stillhouse.retrieval.students import fitted, turned_towards
from stillhouse.training.rankings import ImitationLoss, train_imitator
from stillhouse.training.trainer import Schedule

FOLDER = "imitation"


def imitated(parts: RetrievalParts, metrics: MetricsLog) -> Any:
    """The student after it."""
    wanted = parts.recipe.imitation
    if isinstance(wanted, StatesImitationConfig):
        return _by_states(parts, wanted)
    assert wanted is not None, "the recipe imitates somebody"
    passages, questions = texts_to_imitate(parts)
    texts = [*passages, *questions]
    source = wanted.model or parts.start
    teacher = _whom(parts, source)
    with working(parts.progress, f"{display_name(source)} embeds", len(texts), "texts") as progress:
        embeddings = np.concatenate([teacher.documents(passages), teacher.queries(questions)])
        progress.advance(len(texts))
    student = parts.load_student("student_before")
    if isinstance(wanted, FittedImitationConfig):
        with working(parts.progress, "the student is fitted", len(texts), "texts") as progress:
            found = fitted(student, texts, embeddings, ridge=wanted.ridge)
            progress.advance(len(texts))
        return found
    if source != parts.start:  # the model that it is made of has the student's own axes
        with working(parts.progress, "the student embeds", len(texts), "texts") as progress:
            made = SentenceEmbedder(student).documents(texts)
            progress.advance(len(texts))
        embeddings = turned_towards(made.astype(np.float64), embeddings.astype(np.float64)).astype(np.float32)
    return _by_embeddings(parts, student, texts, embeddings, wanted.training, metrics)


def _whom(parts: RetrievalParts, source: str) -> Embedder:
    """Whoever is imitated, loaded here, or by actors."""
    load = partial(load_embedder, max_tokens=parts.recipe.student.max_tokens)
    return load(source) if parts.cluster is None else SpreadEmbedder(parts.actors([partial(load, seen_by_all(source))]))


def texts_to_imitate(parts: RetrievalParts) -> tuple[list[str], list[str]]:
    """Every passage, and every question that is learnt from; nothing of those that are held out."""
    train, _ = parts.train_and_held_out
    return list(dict.fromkeys(parts.texts.values())), list(dict.fromkeys(one.text for one in train))


def _by_embeddings(
    parts: RetrievalParts,
    student: Any,
    texts: Sequence[str],
    wanted: Vectors,
    schedule: Schedule,
    metrics: MetricsLog,
) -> Any:
    torch.manual_seed(schedule.seed)
    loss = ImitationLoss(student, torch.from_numpy(wanted), similarity=SentenceEmbedder(student).similarity)
    checkpoints = parts.run.path / "checkpoints" / "imitation"
    trained = train_imitator(
        student,
        texts,
        loss=loss,
        schedule=schedule,
        checkpoints=checkpoints,
        log_line=metrics.arm("imitation", checkpoints),
        tell=telling(parts.run, parts.progress, arm="imitation"),
        progress=parts.progress,
    )
    remove(checkpoints)
    return trained


def _by_states(parts: RetrievalParts, wanted: StatesImitationConfig) -> Any:
    """A run of kind `sentences` inside this one: what can be learnt there can be learnt here, and is resumed alike."""
    passages, questions = texts_to_imitate(parts)
    texts = list(dict.fromkeys([*passages, *questions]))
    folder = parts.run.path / FOLDER
    file = parts.run.data / "texts.jsonl"
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, "".join(json_line({"text": text}) for text in texts))
    recipe = nested_recipe(parts, wanted, file=file, folder=folder, num_texts=len(texts))
    run = RunFolder(folder)
    pipeline = Pipeline(recipe, run, Inside(parts.progress))
    pipeline.check()
    with run.open(recipe):
        pipeline.train()
    model = load_sentence_model(str(run.student), max_tokens=parts.recipe.student.max_tokens)
    model.similarity_fn_name = parts.load_student("student_before").similarity_fn_name
    return model


def nested_recipe(
    parts: RetrievalParts, wanted: StatesImitationConfig, *, file: Path, folder: Path, num_texts: int
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
