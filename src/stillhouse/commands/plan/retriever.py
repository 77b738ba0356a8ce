"""The plan of a retriever: passages to embed, pairs to score, questions to learn from, and the models that do it."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.plan.apart import rehearsed_apart
from stillhouse.commands.plan.plan import (
    CHECKPOINTS,
    MOMENTS,
    NUMBER,
    PROGRAM,
    Memory,
    Plan,
    changes_that_fit,
    divided,
    halved,
    program_bytes,
    refuse_means,
)
from stillhouse.commands.plan.retriever_rehearsal import (
    Amount,
    amount_of,
    imitating,
    pairs_to_measure,
    pairs_to_score,
    reckoned,
    rehearse,
    rehearsed_of,
    seconds_of,
    steps_of,
)
from stillhouse.commands.plan.shapes import shallower
from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.pipeline import RetrievalPipeline
from stillhouse.commands.retrieval.recipe import (
    EnsembleConfig,
    LayersConfig,
    OneTeacherConfig,
    RerankerConfig,
    RetrievalRecipe,
    StaticConfig,
)
from stillhouse.core.errors import ModelError
from stillhouse.core.files import size_on_disk
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.run import RunFolder
from stillhouse.core.task import Task
from stillhouse.models.anatomy import num_layers, parameter_count, text_config
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, load_tokenizer, local_path, untrained, without_weights
from stillhouse.reporting.formatting import count
from stillhouse.retrieval.score_store import RECORD

__all__ = ["RECIPE", "planned", "rehearse"]

RECIPE = RetrievalRecipe

INDEXES = 4
"""Embeddings of all passages that are held at once while retrievers are measured."""

READ_AT_ONCE = 32
"""Texts of a batch, where nothing is learnt."""


def planned(
    recipe: RetrievalRecipe, *, means: Means = BY_ITSELF, rehearsal: bool, room: int, progress: Progress
) -> Plan:
    """What a recipe will take, beside the bytes of memory that there is room for.

    Raises:
        StillhouseError: for what the run itself would refuse, and if the rehearsal fails.
    """
    refuse_means(means, recipe.data.kind)
    RetrievalPipeline(recipe, RunFolder(recipe.run), SILENT).check()
    parts = RetrievalParts(recipe, RunFolder(recipe.run), SILENT)
    size = _Size(parts)
    program = program_bytes()
    memory = _memory_of(recipe, size, program=program)
    if rehearsal and memory.most > room:
        progress.say("not rehearsed: by its shapes it does not fit")
    found = (
        rehearsed_of(rehearsed_apart(recipe, means, recipe.run, progress))
        if rehearsal and memory.most <= room
        else None
    )
    amount = amount_of(parts) if recipe.synthesis is None else None if found is None else reckoned(parts, found)
    seconds = {} if found is None or amount is None else seconds_of(recipe, found, amount)
    peak = memory.most
    if found is not None:
        peak = found.peak_bytes + _of_more_passages(recipe, size, than=found.few.passages)
    beyond = peak - memory.most

    def needs(changed: RetrievalRecipe) -> int:
        return _memory_of(changed, size, program=program).most + beyond

    changes = [] if peak <= room else changes_that_fit(recipe, _savings_of(recipe), room=room, needs=needs)
    disk = _disk_of(recipe, size, amount)
    return Plan(
        _said_of(recipe, size, amount),
        memory,
        peak,
        room,
        disk,
        seconds,
        changes,
        1.0 if found is None else found.share,
    )


@dataclass(frozen=True)
class _Size:
    """How long what there is to read is, in the student's tokens."""

    parts: RetrievalParts

    @property
    def passages(self) -> int:
        return len(self.parts.corpus.passages)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each passage, however many of them a model reads."""
        tokenizer = load_tokenizer(without_weights(self.parts.start))
        return [len(ids) for ids in tokenizer(list(self.parts.texts.values()), verbose=False)["input_ids"]]

    def longest(self, most: int) -> int:
        """Of a passage, as far as it is read."""
        return min(most, max(self.lengths))

    def tokens(self, most: int) -> int:
        """Of all passages, as far as they are read."""
        return sum(min(most, length) for length in self.lengths)


def _said_of(recipe: RetrievalRecipe, size: _Size, amount: Amount | None) -> list[str]:
    corpus = size.parts.corpus
    read = size.tokens(recipe.student.max_tokens)
    documents = f"{count(corpus.num_documents)} documents: {count(len(corpus.passages))} passages, {count(read)} tokens"
    if amount is None:
        return [documents, "how many questions are kept, a rehearsal tells"]
    about = "" if recipe.synthesis is None else "about "
    pairs = round(pairs_to_score(recipe, amount) + pairs_to_measure(recipe, amount))
    steps = f"{count(steps_of(recipe.training, amount.train))} steps"
    schedule = imitating(recipe)
    before = "" if schedule is None else f"{count(steps_of(schedule, amount.imitated))} steps of imitation, then "
    return [
        documents,
        f"{about}{count(amount.train)} questions to learn from, and {about}{count(amount.held_out)} held out",
        f"about {count(pairs)} pairs to score; {before}{steps}",
    ]


# Memory and disk, by shapes.


@cache
def _shape(source: str, *, layers: int | None = None, task: Task = "sentence_embedding") -> PreTrainedModel | None:
    """A model on the meta device; None where nothing but its weights says what it is, as of a static one."""
    try:
        config: PretrainedConfig = load_config(without_weights(source))
        if layers is not None:
            config = shallower(config, layers)
        with torch.device("meta"):
            return untrained(config, task, dtype=torch.float32)
    except ModelError:
        return None


def _parameters(source: str, *, task: Task = "sentence_embedding") -> int:
    shape = _shape(source, task=task)
    if shape is not None:
        return parameter_count(shape)
    folder = local_path(source)
    return sum(size_on_disk(file) for file in Path(folder).rglob("*.safetensors")) // NUMBER


def _student(recipe: RetrievalRecipe) -> tuple[PreTrainedModel | None, int]:
    """Its shape, where it has layers, and its parameters."""
    start, wanted = recipe.start, recipe.student
    assert start is not None, "the recipe has been checked"
    if isinstance(wanted, StaticConfig):
        return None, int(text_config(load_config(without_weights(start))).vocab_size) * wanted.dimensions
    layers = None
    if isinstance(wanted, LayersConfig | RerankerConfig):
        layers = wanted.keep if isinstance(wanted.keep, int) else len(wanted.keep)
    shape = _shape(start, layers=layers)
    return shape, _parameters(start) if shape is None else parameter_count(shape)


def _memory_of(recipe: RetrievalRecipe, size: _Size, *, program: int) -> Memory:
    """What each part of a run takes where models run."""
    student, parameters = _student(recipe)
    teachers = recipe.teacher.teachers if isinstance(recipe.teacher, EnsembleConfig) else (recipe.teacher,)
    imitation = recipe.imitation
    asks, start = recipe.synthesis, recipe.start
    assert start is not None, "the recipe has been checked"
    width = _width(recipe, student)
    longest = size.longest(recipe.student.max_tokens)
    of_pair = max(one.max_tokens for one in teachers)
    parts = {
        PROGRAM: program,
        "the model that asks": 0 if asks is None else _parameters(asks.model, task="causal_lm") * NUMBER,
        "teacher's weights": sum(map(_teacher_parameters, teachers)) * NUMBER,
        "teacher reading": max(_reading_bytes(one.model, tokens=min(of_pair, 2 * longest)) for one in teachers),
        "model to imitate": 0 if imitation is None else _parameters(imitation.model or start) * NUMBER,
        "student's weights": parameters * NUMBER,
        "gradients": parameters * NUMBER,
        "optimizer": parameters * MOMENTS,
        "activations": 0 if student is None else _activations(recipe, student, row_tokens=longest),
        "student before": (2 if imitation is not None else 1) * parameters * NUMBER,
        "embeddings": 0 if recipe.reranks else INDEXES * size.passages * width * NUMBER,
    }
    learns = (PROGRAM, "student's weights", "gradients", "optimizer", "activations")
    scores = (PROGRAM, "teacher's weights", "teacher reading")
    moments = {
        "asking": (PROGRAM, "the model that asks"),
        "imitating": (*learns, "model to imitate"),
        "scoring": scores,
        "training": (*learns, "teacher's weights"),
        "measuring": (*scores, "student's weights", "student before", "embeddings"),
    }
    return Memory(parts, moments)


def _teacher_parameters(teacher: OneTeacherConfig) -> int:
    return _parameters(teacher.model, task="causal_lm" if teacher.kind == "answer" else "sentence_embedding")


def _width(recipe: RetrievalRecipe, student: PreTrainedModel | None) -> int:
    """Numbers of an embedding."""
    if student is not None:
        return int(text_config(student).hidden_size)
    return recipe.student.dimensions if isinstance(recipe.student, StaticConfig) else 0


def _activations(recipe: RetrievalRecipe, student: PreTrainedModel, *, row_tokens: int) -> int:
    """Of the larger of both trainings: a row to imitate is a text, a row to rank a question and all its passages."""
    texts = recipe.training.rows_per_micro_batch * (recipe.negatives.number + 2)
    if (schedule := imitating(recipe)) is not None:
        texts = max(texts, schedule.rows_per_micro_batch)
    return saved_bytes(student, rows=texts, row_tokens=row_tokens)


@cache
def _reading_bytes(source: str, *, tokens: int) -> int:
    """What one layer takes of a batch that is read and not learnt from."""
    shape = _shape(source)
    return 0 if shape is None else saved_bytes(shape, rows=READ_AT_ONCE, row_tokens=tokens) // num_layers(shape)


def _of_more_passages(recipe: RetrievalRecipe, size: _Size, *, than: int) -> int:
    """Bytes that the embeddings of all passages take more than those of the few that were rehearsed."""
    width = _width(recipe, _student(recipe)[0])
    return 0 if recipe.reranks else INDEXES * max(0, size.passages - than) * width * NUMBER


def _disk_of(recipe: RetrievalRecipe, size: _Size, amount: Amount | None) -> dict[str, int]:
    """Bytes of each part of the run folder, at its largest."""
    student, parameters = _student(recipe)
    students = 2 if recipe.imitation is None else 3
    pairs = 0.0 if amount is None else pairs_to_score(recipe, amount) + pairs_to_measure(recipe, amount)
    text = sum(len(one.encode()) for one in size.parts.texts.values())
    return {
        "student, and itself before": students * parameters * NUMBER,
        "checkpoints": CHECKPOINTS * parameters * (NUMBER + MOMENTS),
        "index": 0 if recipe.reranks else size.passages * _width(recipe, student) * NUMBER + 2 * text,
        "scores": round(pairs * RECORD.itemsize),
    }


def _savings_of(recipe: RetrievalRecipe) -> list[list[str]]:
    """What can be changed to need less memory, each kind from little to much."""
    kept = getattr(recipe.student, "keep", 0)
    batch = divided("training.rows_per_micro_batch", recipe.training.rows_per_micro_batch)
    if (schedule := imitating(recipe)) is not None:
        batch += divided("imitation.training.rows_per_micro_batch", schedule.rows_per_micro_batch)
    return [
        batch,
        halved("negatives.number", recipe.negatives.number, least=1),
        halved("student.max_tokens", recipe.student.max_tokens, least=32),
        halved("student.keep", kept, least=1, times=2) if isinstance(kept, int) else [],
        ["imitation=null"] if recipe.imitation is not None else [],
    ]
