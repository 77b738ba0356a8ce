"""The first stage: the teacher writes the training text, whole conversations, or its own answers into those of the data."""

from dataclasses import asdict
from typing import Any

from stillhouse.commands.parts.checking import conversations
from stillhouse.commands.stages.asking import asking_teacher
from stillhouse.commands.stages.grounding import ground, is_rag
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.commands.synthesis import DataFreeConfig, made_from, write_data
from stillhouse.synthesis import filled_templates, rewrite_asking, rewrite_by, synthesize_asking, synthesize_by
from stillhouse.synthesis.config import GroundedConfig, HistoryConfig, PromptSynthesisConfig
from stillhouse.synthesis.run import LEDGER


def write(shop: Workshop) -> dict[str, Any]:
    """The teacher writes the training text, or its own answers into it."""
    if shop.recipe.history is not None:
        return _rewrite(shop, shop.recipe.history)
    if is_rag(shop):
        return ground(shop)
    match shop.recipe.synthesis:
        case None | GroundedConfig():
            return {}
        case PromptSynthesisConfig() as wanted:
            return _write_from_templates(shop, wanted)
        case wanted:
            return _write_from_nothing(shop, wanted)


def _write_from_templates(shop: Workshop, wanted: PromptSynthesisConfig) -> dict[str, Any]:
    """Texts, each to a prompt that templates and slots make."""
    parts = shop.parts
    options: dict[str, Any] = {
        "folder": shop.run.data,
        "num_tokens": wanted.tokens,
        "sampling": wanted.sampling,
        "batch_size": wanted.batch_size,
        "seed": wanted.seed,
    }

    def work() -> dict[str, Any]:
        prompts = filled_templates(wanted.templates, wanted.slots, seed=wanted.seed)
        if parts.remote is not None:
            ask = asking_teacher(shop, parts.remote, ledger=f"data/{LEDGER}").ask
            return asdict(synthesize_asking(ask, prompts=prompts, **options))
        tokenizer = parts.teacher_tokenizer
        with parts.hands() as hands:
            return asdict(synthesize_by(hands, tokenizer, prompts=prompts, progress=shop.progress, **options))

    made_from = [parts.teacher_fingerprint, wanted]
    return shop.once("synthesize", "the teacher writes", made_from=made_from, work=work, makes=[parts.documents])


def _write_from_nothing(shop: Workshop, wanted: DataFreeConfig) -> dict[str, Any]:
    """Conversations, or texts."""
    return shop.once(
        "synthesize",
        "the teacher writes",
        made_from=made_from(shop.parts, wanted),
        work=lambda: write_data(shop.parts, wanted, progress=shop.progress),
        makes=[shop.parts.documents],
    )


def _rewrite(shop: Workshop, wanted: HistoryConfig) -> dict[str, Any]:
    """The conversations to train on, with the teacher's answers in the place of the data's."""
    parts = shop.parts

    options: dict[str, Any] = {
        "file": parts.rewritten,
        "max_tokens": shop.recipe.data.sequence_tokens,
        "sampling": wanted.sampling,
        "seed": wanted.seed,
    }

    def work() -> dict[str, Any]:
        given = conversations(parts)
        if parts.remote is not None:
            ask = asking_teacher(shop, parts.remote, ledger=f"data/{LEDGER}").ask
            outcome = rewrite_asking(ask, parts.teacher_tokenizer, given, **options)
        else:
            with parts.hands() as hands:
                outcome = rewrite_by(hands, given, batch_size=wanted.batch_size, progress=shop.progress, **options)
        for reason, number in outcome.kept.items():
            shop.progress.say(f"{number:,} of {outcome.conversations:,} conversations stay as they are: {reason}")
        parts.read_anew()
        return asdict(outcome)

    made_from, makes = [parts.data_fingerprint], [parts.rewritten]
    return shop.once("history", "the teacher answers anew", made_from=made_from, work=work, makes=makes)
