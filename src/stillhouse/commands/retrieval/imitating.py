"""Before it ranks, a student learns to embed as another model does: passages and questions teach that, without negatives."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.parts import RetrievalParts, save_model
from stillhouse.commands.retrieval.recipe import (
    EmbeddingImitationConfig,
    FittedImitationConfig,
    StatesImitationConfig,
)
from stillhouse.core.config import parse_recipe
from stillhouse.core.files import json_line, remove, write_atomic
from stillhouse.core.progress import Inside, working
from stillhouse.core.run import RunFolder
from stillhouse.models.load import display_name, seen_by_all
from stillhouse.retrieval.embed import Embedder, SentenceEmbedder, load_embedder, load_sentence_model
from stillhouse.retrieval.spread import SpreadEmbedder
from stillhouse.retrieval.students import fitted, turned_towards
from stillhouse.training.rankings import ImitationLoss, train_imitator

FOLDER = "imitation"


ARM = "imitation"


def imitate(parts: RetrievalParts) -> None:
    """The student after it, saved where ranking begins."""
    wanted = parts.recipe.imitation
    assert wanted is not None, "the recipe imitates somebody"
    if isinstance(wanted, StatesImitationConfig):
        save_model(_by_states(parts, wanted), parts.beginning)
        return
    passages, questions = texts_to_imitate(parts)
    texts = [*passages, *questions]
    source = wanted.model or parts.start
    teacher = _whom(parts, source)
    with working(parts.progress, f"{display_name(source)} embeds", len(texts), "texts") as progress:
        embeddings = np.concatenate([teacher.documents(passages), teacher.queries(questions)])
        progress.advance(len(texts))
    parts.let_go()
    student = parts.load_student("student_before")
    if isinstance(wanted, FittedImitationConfig):
        with working(parts.progress, "the student is fitted", len(texts), "texts") as progress:
            found = fitted(student, texts, embeddings, ridge=wanted.ridge)
            progress.advance(len(texts))
        save_model(found, parts.beginning)
        return
    if source != parts.start:  # the model that it is made of has the student's own axes
        with working(parts.progress, "the student embeds", len(texts), "texts") as progress:
            made = SentenceEmbedder(student).documents(texts)
            progress.advance(len(texts))
        embeddings = turned_towards(made.astype(np.float64), embeddings.astype(np.float64)).astype(np.float32)
    if parts.launch is None:
        learn_embeddings(parts, torch.from_numpy(embeddings))
        return
    parts.trained_by_others(ARM, parts.launch, {"wanted": torch.from_numpy(embeddings)})


def _whom(parts: RetrievalParts, source: str) -> Embedder:
    """Whoever is imitated, loaded here, or by actors."""
    load = partial(load_embedder, max_tokens=parts.recipe.student.max_tokens)
    return load(source) if parts.cluster is None else SpreadEmbedder(parts.actors([partial(load, seen_by_all(source))]))


def texts_to_imitate(parts: RetrievalParts) -> tuple[list[str], list[str]]:
    """Every passage, and every question that is learnt from; nothing of those that are held out."""
    train, _ = parts.train_and_held_out
    return list(dict.fromkeys(parts.texts.values())), list(dict.fromkeys(one.text for one in train))


def learn_embeddings(parts: RetrievalParts, wanted: Tensor) -> None:
    """The student learns in this process, or in this and others, to embed all texts so."""
    imitation = parts.recipe.imitation
    assert isinstance(imitation, EmbeddingImitationConfig), "the others are not trained here"
    passages, questions = texts_to_imitate(parts)
    schedule, student = imitation.training, parts.load_student("student_before")
    torch.manual_seed(schedule.seed)
    loss = ImitationLoss(student, wanted, similarity=SentenceEmbedder(student).similarity)
    checkpoints = parts.run.path / "checkpoints" / ARM
    trained = train_imitator(
        student,
        [*passages, *questions],
        loss=loss,
        schedule=schedule,
        checkpoints=checkpoints,
        log_line=parts.log_of(ARM, checkpoints),
        tell=parts.tell_of(ARM),
        progress=parts.progress,
    )
    if parts.ranks.rank == 0:  # one of them keeps what all have made
        save_model(trained, parts.beginning)
        remove(checkpoints)


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
    pipeline.launch = parts.launch
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
