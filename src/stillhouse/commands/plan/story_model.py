"""The plan of a story model: texts that a teacher writes, round after round, and a student of a few million parameters."""

from typing import Any

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
    refuse_rehearsal,
)
from stillhouse.commands.plan.shapes import LOSS_ROOM
from stillhouse.commands.plan.story_rehearsal import Amount, Rehearsed, rehearse, seconds_of
from stillhouse.commands.stories.measuring import MOST_TOKENS
from stillhouse.commands.stories.pipeline import StoryPipeline
from stillhouse.commands.stories.recipe import StoryRecipe, TrimmedTokenizerConfig
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.run import RunFolder
from stillhouse.evaluation.stories.prediction import TEXTS_AT_ONCE
from stillhouse.models.anatomy import parameter_count, text_config
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, untrained, without_weights
from stillhouse.reporting.formatting import count
from stillhouse.students.table import SIZES, config_of_size
from stillhouse.teachers import RemoteTeacherConfig

__all__ = ["RECIPE", "planned", "rehearse"]

RECIPE = StoryRecipe

PROMPT_TOKENS = 128
"""Of a prompt, about, behind which a text is written."""
TRIMMED_TOKENS = 8192
"""That are left of a teacher's, about: how many, the texts say."""
COPIES_OF_LOGITS = 2
"""That are there at once while a text's likelihood is taken."""
FILES_OF_A_TEXT, BYTES_OF_A_TOKEN = 3, 4
"""It is in the ledger, among the data, and in its round."""


def planned(recipe: StoryRecipe, *, means: Means = BY_ITSELF, rehearsal: bool, room: int, progress: Progress) -> Plan:
    """What a recipe will take, beside the bytes of memory that there is room for.

    Raises:
        StillhouseError: for what the run itself would refuse, and if the rehearsal fails.
    """
    refuse_means(means, recipe.data.kind)
    StoryPipeline(recipe, RunFolder(recipe.run), SILENT).check()
    program = program_bytes()
    memory = _memory_of(recipe, program=program)
    if rehearsal:
        _refuse_unrehearsed(recipe)
        if memory.most > room:
            progress.say("not rehearsed: by its shapes it does not fit")
    found = (
        Rehearsed(**rehearsed_apart(recipe, means, recipe.run, progress)) if rehearsal and memory.most <= room else None
    )
    amount = None if found is None else Amount(recipe, found)
    peak = memory.most if found is None else found.peak_bytes
    beyond = peak - memory.most

    def needs(changed: StoryRecipe) -> int:
        return _memory_of(changed, program=program).most + beyond

    changes = [] if peak <= room else changes_that_fit(recipe, _savings_of(recipe), room=room, needs=needs)
    seconds = {} if amount is None else seconds_of(amount)
    share = 1.0 if found is None else found.share
    return Plan(_said_of(recipe, amount), memory, peak, room, _disk_of(recipe), seconds, changes, share)


def _refuse_unrehearsed(recipe: StoryRecipe) -> None:
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        refuse_rehearsal("its teacher is behind an API, and each request costs money")
    judge = recipe.evaluation.judge
    if judge is not None and judge.by.kind == "remote":
        refuse_rehearsal("its judge is behind an API, and each request costs money")


def _said_of(recipe: StoryRecipe, amount: Amount | None) -> list[str]:
    last = recipe.rounds.most
    more = f", and up to {count(last * recipe.rounds.number)} more in later rounds" if last else ""
    asked = f"{count(recipe.data.number)} texts to write{more}"
    if amount is None:
        return [asked, "how many are kept, a rehearsal tells"]
    found = amount.found
    steps = sum(amount.steps(number) for number in range(last + 1))
    return [
        f"{asked}; the rehearsal kept {found.kept} of {found.asked}",
        f"in the end about {count(amount.learnt(last))} to learn from, and about {count(amount.held_out)} held out",
        f"about {count(amount.tokens(last))} tokens; about {count(steps)} steps in all rounds",
    ]


# Memory and disk, by shapes.


def _student(recipe: StoryRecipe) -> PreTrainedModel:
    tokenizer = recipe.tokenizer
    vocabulary = TRIMMED_TOKENS if isinstance(tokenizer, TrimmedTokenizerConfig) else tokenizer.size
    config = config_of_size(recipe.student.size, vocabulary=vocabulary, max_tokens=recipe.data.sequence_tokens)
    with torch.device("meta"):
        return untrained(config, "causal_lm", dtype=torch.float32)


def _memory_of(recipe: StoryRecipe, *, program: int) -> Memory:
    """What each part of a run takes where models run."""
    student = _student(recipe)
    parameters = parameter_count(student)
    written = recipe.data.sampling.max_new_tokens
    read = min(MOST_TOKENS, written + PROMPT_TOKENS)
    teacher = 0
    at_once = logits = 0
    if not isinstance(recipe.teacher, RemoteTeacherConfig):
        config = load_config(without_weights(recipe.teacher.model))
        with torch.device("meta"):
            teacher = parameter_count(untrained(config, "causal_lm", dtype=torch.float32)) * NUMBER
        at_once = recipe.data.batch_size * (written + PROMPT_TOKENS) * _cache_bytes(config)
        logits = TEXTS_AT_ONCE * read * int(text_config(config).vocab_size) * NUMBER * COPIES_OF_LOGITS
    rows, row_tokens = recipe.training.rows_per_micro_batch, recipe.data.sequence_tokens
    parts = {
        PROGRAM: program,
        "teacher's weights": teacher,
        "teacher writing": at_once,
        "teacher reading": logits,
        "teacher in the student's tokens": teacher if recipe.reads_teacher else 0,
        "student's weights": parameters * NUMBER,
        "gradients": parameters * NUMBER,
        "optimizer": parameters * MOMENTS,
        "activations": saved_bytes(
            student, rows=rows, row_tokens=row_tokens, recomputes=recipe.training.gradient_checkpointing
        ),
        "the loss": LOSS_ROOM,
    }
    held = (PROGRAM, "teacher's weights")
    learning = (
        "student's weights",
        "gradients",
        "optimizer",
        "activations",
        "the loss",
        "teacher in the student's tokens",
    )
    moments = {
        "writing": (*held, "teacher writing"),
        "training": (*held, *learning),
        "measuring": (*held, "student's weights", "teacher reading", "teacher in the student's tokens"),
    }
    return Memory(parts, moments)


def _cache_bytes(config: PretrainedConfig) -> int:
    """Keys and values of a token, in all layers."""
    settings: Any = text_config(config)
    heads = settings.num_attention_heads
    width = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    keys = getattr(settings, "num_key_value_heads", None) or heads
    return int(2 * settings.num_hidden_layers * keys * width * NUMBER)


def _disk_of(recipe: StoryRecipe) -> dict[str, int]:
    """Bytes of each part of the run folder, at its largest."""
    parameters, rounds = parameter_count(_student(recipe)), 1 + recipe.rounds.most
    texts = recipe.data.number + recipe.rounds.most * recipe.rounds.number
    each = recipe.data.sampling.max_new_tokens * BYTES_OF_A_TOKEN * FILES_OF_A_TEXT
    return {
        "students of all rounds": (2 + rounds) * parameters * NUMBER,
        "checkpoints": CHECKPOINTS * parameters * (NUMBER + MOMENTS),
        "texts": texts * each,
    }


def _savings_of(recipe: StoryRecipe) -> list[list[str]]:
    """What can be changed to need less memory, each kind from little to much."""
    sizes = list(SIZES)
    smaller = sizes[: sizes.index(recipe.student.size)][::-1]
    return [
        halved("data.batch_size", recipe.data.batch_size, least=1),
        divided("training.rows_per_micro_batch", recipe.training.rows_per_micro_batch),
        halved("data.sampling.max_new_tokens", recipe.data.sampling.max_new_tokens, least=64, times=2),
        halved("data.sequence_tokens", recipe.data.sequence_tokens, least=64),
        [f"student.size={size}" for size in smaller],
    ]
