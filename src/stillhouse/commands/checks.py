"""What can be found wrong with the models of a recipe from their folders alone, before any weight is read."""

from contextlib import suppress
from functools import lru_cache
from typing import Literal

import torch
from transformers import PretrainedConfig

from stillhouse.commands.adapters import check_adapter
from stillhouse.commands.recipe import Recipe
from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.core.task import Task
from stillhouse.data.config import ChatDataConfig
from stillhouse.models.anatomy import (
    few_ids,
    head_width,
    most_tokens,
    num_heads,
    num_key_heads,
    num_layers,
    text_config,
)
from stillhouse.models.attention import recording
from stillhouse.models.load import (
    LABELLED_TASKS,
    check_head,
    check_serves,
    check_weights,
    load_config,
    load_tokenizer,
    untrained,
    vocabulary_fingerprint,
)
from stillhouse.models.sentence_folder import read_embedding
from stillhouse.models.tokenizers import compare_tokenizers, read_speaker
from stillhouse.objectives import SPANS, FeatureObjective, objective
from stillhouse.students.build import changed_config
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig, StudentConfig
from stillhouse.students.distilbert import check_bert, distilbert_config, freeze_position_embeddings
from stillhouse.students.layer_choice import check_keep
from stillhouse.teachers import RemoteTeacherConfig
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.features import FeatureTerm


def check_models(recipe: Recipe) -> None:
    """Refuse a teacher that was not made for the task, a student that cannot be made, cannot be compared with this teacher
    or cannot read a row, and an objective that does not fit the two.

    Raises:
        ModelError: naming the key of the recipe.
    """
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        _check_student_alone(recipe, recipe.teacher)
        return
    teacher = recipe.teacher.model
    teacher_config = load_config(teacher)
    check_serves(teacher_config, recipe.task, source=teacher)
    check_head(teacher, teacher_config, recipe.task)
    if recipe.task == "sentence_embedding":
        read_embedding(teacher)  # refuses what is pooled in a way that we do not have
    student_config = _student_config(recipe.student, teacher_config, recipe.task)
    if recipe.student.lora is not None:
        check_adapter(recipe.student.lora, _built_config(recipe.student, student_config), recipe.task)
    crosses = tokenizer_source(recipe) != teacher
    if crosses:
        _check_crossing(recipe)
    if isinstance(recipe.student, FromLayersConfig) and recipe.student.freeze_position_embeddings:
        _check_positions(teacher_config, recipe.task)
    _check_head(
        student_config, len(load_tokenizer(tokenizer_source(recipe))), owner="its own" if crosses else "the teacher's"
    )
    for owner, config in (("teacher", teacher_config), ("student", student_config)):
        _check_row(owner, config, recipe.data.sequence_tokens)
    depth = _depth(recipe.student, student_config)
    for chosen in recipe.objectives:
        try:
            _check_objective(chosen, depth, student_config, teacher_config, recipe.task)
        except ValueError as error:
            named = str(error) if str(error).startswith(chosen.name) else f"{chosen.name}: {error}"
            raise ModelError(f"objectives: {named}") from None


def _check_student_alone(recipe: Recipe, teacher: RemoteTeacherConfig) -> None:
    """Refuse a student that cannot be made without a teacher here, cannot read a row, or cannot read what the server tells."""
    source = tokenizer_source(recipe)
    tokenizer, config = load_tokenizer(source), student_config(recipe)
    if recipe.student.lora is not None:
        check_adapter(recipe.student.lora, config, recipe.task)
    _check_head(config, len(tokenizer), owner="its own")
    _check_row("student", config, recipe.data.sequence_tokens)
    if recipe.labels is not None:
        assert teacher.tokenizer is not None, "a recipe with labels names it"
        if _vocabulary(teacher.tokenizer) != _vocabulary(source):
            raise ModelError(
                f"labels are learnt token by token, but the student's tokenizer ({source}) has another vocabulary than "
                f"teacher.tokenizer ({teacher.tokenizer}). Choose a student with the teacher's tokenizer, or leave labels "
                "out and "
                "learn the teacher's texts with next_token."
            )


def student_config(recipe: Recipe) -> PretrainedConfig:
    """The shape that a student has, or will have, that is made without a teacher in this process."""
    match recipe.student:
        case CheckpointConfig(model=model):
            check_weights(model)
            config = load_config(model)
            check_serves(config, recipe.task, source=model)
            check_head(model, config, recipe.task)
            return config
        case FromConfigConfig(config=str(source), changes=changes):
            return changed_config(load_config(source), changes)
    raise AssertionError("a recipe refuses a student that is made from a teacher behind an API")


def tokenizer_source(recipe: Recipe) -> str:
    """Where the student's tokenizer is: beside the teacher, unless the student is a checkpoint with another vocabulary, or the
    teacher is not here."""
    teacher, student = recipe.teacher.model, recipe.student
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        match student:
            case CheckpointConfig(model=model):
                return model
            case FromConfigConfig(tokenizer=tokenizer, config=str(config)):
                return tokenizer or config
    if isinstance(student, CheckpointConfig) and _vocabulary(student.model) != _vocabulary(teacher):
        return student.model
    return teacher


@lru_cache(maxsize=8)
def _vocabulary(source: str) -> str:
    return vocabulary_fingerprint(load_tokenizer(source))


def student_depth(recipe: Recipe) -> int:
    """How many layers the recipe's student has, or will have."""
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        return num_layers(student_config(recipe))
    teacher = load_config(recipe.teacher.model)
    return _depth(recipe.student, _student_config(recipe.student, teacher, recipe.task))


def _depth(wanted: StudentConfig, config: PretrainedConfig) -> int:
    """How many layers the student will have."""
    if isinstance(wanted, FromLayersConfig):
        return wanted.keep if isinstance(wanted.keep, int) else len(wanted.keep)
    return num_layers(config)


def _check_objective(
    chosen: ObjectiveConfig, depth: int, student: PretrainedConfig, teacher: PretrainedConfig, task: Task
) -> None:
    """Refuse a map of layers that these depths do not have, heads or widths that cannot be compared, and attention that
    cannot be read."""
    term = chosen.build(student_layers=depth, teacher_layers=num_layers(teacher)).term
    if isinstance(term, FeatureTerm) and term.objective.reads_attention:
        _try_attention(term.objective, student, teacher)
        _try_to_read(student, task, term.wanted("student").attentions)
        _try_to_read(teacher, task, term.wanted("teacher").attentions)


def _try_attention(entry: FeatureObjective, student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """The objective itself says what it cannot compare: it is shown one token of zeros of each side."""
    if entry.reads == "attention_scores":
        entry.function(*(torch.zeros(1, num_heads(config), 1, 1) for config in (student, teacher)))
        return
    allowed = torch.ones(1, 1, 1, dtype=torch.bool)
    counts = (num_heads, num_key_heads) if entry.reads == "multi_head_relations" else (num_key_heads,)
    for count in counts:
        states = (torch.zeros(1, count(config), 1, head_width(config)) for config in (student, teacher))
        entry.function(*states, allowed)


def _try_to_read(config: PretrainedConfig, task: Task, layers: frozenset[int]) -> None:
    """Refuse a family whose attention nobody can listen to. A model without weights tells."""
    # A few families ask for a number on their way, which such a model does not have: they are found out when they train.
    with torch.device("meta"), suppress(RuntimeError):
        model = untrained(config, task, dtype=torch.float32)
        ids = few_ids(model)
        none = torch.zeros_like(ids)
        with recording(model, layers, Batch(ids, none, none, none.float())):
            model(input_ids=ids)


def _student_config(wanted: StudentConfig, teacher: PretrainedConfig, task: Task) -> PretrainedConfig:
    match wanted:
        case FromLayersConfig():
            check_keep(wanted.keep, num_layers(teacher), method=wanted.choose)
            if wanted.architecture == "distilbert":
                check_bert(teacher)
            return teacher
        case FromConfigConfig():
            return changed_config(load_config(wanted.config) if wanted.config else teacher, wanted.changes)
        case CheckpointConfig():
            check_weights(wanted.model)
            config = load_config(wanted.model)
            if task not in LABELLED_TASKS:  # whose head is made where it is missing
                check_serves(config, task, source=wanted.model)
                check_head(wanted.model, config, task)
            return config


def _built_config(wanted: StudentConfig, config: PretrainedConfig) -> PretrainedConfig:
    """The family that the student will be of, if not as deep."""
    is_distilbert = isinstance(wanted, FromLayersConfig) and wanted.architecture == "distilbert"
    return distilbert_config(config, range(num_layers(config))) if is_distilbert else config


def _check_positions(config: PretrainedConfig, task: Task) -> None:
    """Refuse to freeze what this family does not have. A model without weights tells."""
    with torch.device("meta"):
        freeze_position_embeddings(untrained(config, task, dtype=torch.float32))


def _check_crossing(recipe: Recipe) -> None:
    """Refuse what cannot be learnt from a teacher with another tokenizer than the student's."""
    assert isinstance(recipe.student, CheckpointConfig)
    student, teacher = recipe.student.model, recipe.teacher.model
    ours, theirs = len(load_tokenizer(student)), len(load_tokenizer(teacher))
    differ = f"student.model {student!r} has a vocabulary of {ours:,} tokens that is not the teacher's ({theirs:,})"
    if recipe.task != "causal_lm":
        raise ModelError(
            f"{differ}, and for data of kind {recipe.data.kind!r} both must read the same tokens. Choose a student with the "
            "teacher's tokenizer."
        )
    if recipe.data.kind == "preferences":
        raise ModelError(
            f"{differ}, and on data of kind 'preferences' both are measured on the same tokens. Choose a student with the "
            "teacher's tokenizer."
        )
    if getattr(recipe.source, "way", None) is not None:
        key = "accept_top_k" if getattr(recipe.source, "accept_top_k", None) is not None else "teacher_share"
        raise ModelError(
            f"{differ}, but with source.{key} both draw each token together. Leave {key} out, or choose a student with the "
            "teacher's tokenizer."
        )
    if isinstance(recipe.data, ChatDataConfig) and recipe.data.teacher_context is not None:
        raise ModelError(
            f"{differ}, but with data.teacher_context both must write the same tokens. Choose a student with the teacher's "
            "tokenizer, or leave teacher_context out."
        )
    by_token = [
        chosen.name
        for chosen in recipe.objectives
        if not chosen.serves_two_tokenizers and objective(chosen.name).reads_teacher
    ]
    if by_token:
        raise ModelError(
            f"{differ}, and {by_token[0]} compares token by token. Use an objective across tokenizers in its place, such as "
            f"{next(iter(SPANS))} (see docs/objectives/cross-tokenizer.md), or a student with the teacher's tokenizer."
        )
    found = compare_tokenizers(read_speaker(teacher), read_speaker(student))
    if found.verdict == "refused":
        raise ModelError(f"{differ}. {found.reason} {' '.join(found.road)}")


def _check_head(student: PretrainedConfig, num_tokens: int, *, owner: Literal["its own", "the teacher's"]) -> None:
    rows = text_config(student).vocab_size
    if rows < num_tokens:
        raise ModelError(
            f"the student's vocab_size is {rows:,}, but {owner} tokenizer has {num_tokens:,} tokens, and these "
            "objectives compare token by token. Give the student as many, or choose another."
        )


def _check_row(owner: str, settings: PretrainedConfig, row_tokens: int) -> None:
    longest = most_tokens(settings)
    if longest is not None and row_tokens > longest:
        raise ModelError(
            f"data.sequence_tokens is {row_tokens}, but the {owner} reads at most {longest} tokens. Lower it to that."
        )
