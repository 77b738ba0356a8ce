"""Where answers come from that the student writes itself: what such a recipe must not say, and where they are kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.commands.metrics_log import last_saved_step
from stillhouse.core.errors import DataError
from stillhouse.core.files import append_line, json_line, read_lines, write_atomic
from stillhouse.data.asked import Asked
from stillhouse.models.generate import Engine, sample
from stillhouse.models.vllm_engine import VllmEngine, check_vllm
from stillhouse.objectives import objective
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.rollouts import Rollout
from stillhouse.training.sources import MixedConfig, OfflineConfig, OnPolicyConfig, SourceConfig

ROLLOUTS = "rollouts.jsonl"
"""In the run folder: what the student said, an answer a line."""


def source_faults(source: str, *, data: str, has_labels: bool, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why nothing can be learnt from answers that the student writes: one sentence a fault, naming the keys."""
    faults: list[str] = []
    if data not in ("chat", "text"):
        faults.append(
            f"source.kind {source} lets the student answer prompts, but data of kind {data!r} has none. Leave source out, or "
            "use data of kind chat or text."
        )
    if has_labels:
        faults.append(
            f"labels keep what the teacher says of the data, but with source.kind {source} the student writes the text while "
            "it trains. Leave labels out, so that the teacher is asked in every step."
        )
    for chosen in objectives:
        if chosen.compares_spans:
            faults.append(
                f"{chosen.name} compares across tokenizers, but with source.kind {source} the teacher must read the student's "
                "own tokens. Use reverse_kl, forward_kl or jsd and a teacher with the student's tokenizer, or leave source out."
            )
        elif not objective(chosen.name).reads_teacher:
            faults.append(
                f"{chosen.name} learns the text itself, which the student writes with source.kind {source}: it would only "
                f"repeat itself. Leave {chosen.name} or source out."
            )
    return faults


def askable(asked: Sequence[Asked], *, max_tokens: int) -> list[Asked]:
    """The prompts that leave room for an answer.

    Raises:
        DataError: if none does.
    """
    short = [one for one in asked if len(one.prompt) < max_tokens]
    if not short:
        raise DataError(
            f"all {len(asked):,} prompts fill data.sequence_tokens ({max_tokens}), so there is no room for an answer. Raise it."
        )
    return short


def check_engine(source: SourceConfig) -> None:
    """Refuse an engine that is not here.

    Raises:
        ModelError: naming the key of the recipe.
    """
    if not isinstance(source, OfflineConfig) and source.engine == "vllm":
        check_vllm()


def engine_of(source: OnPolicyConfig | MixedConfig, folder: Path, student: PreTrainedModel, max_tokens: int) -> Engine:
    """Who writes the student's answers."""
    if source.engine == "vllm":
        return VllmEngine(folder, student, max_tokens=max_tokens, batch_size=source.batch_size)
    return sample


def told_to(*listeners: Callable[[Rollout], None]) -> Callable[[Rollout], None]:
    """One listener for several; for none, as of a control, which gives no answers."""

    def tell(rollout: Rollout) -> None:
        for listener in listeners:
            listener(rollout)

    return tell


def rollout_log(path: Path, checkpoints: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[[Rollout], None]:
    """A place for what the student says. Answers after the last checkpoint, which will be given again, are dropped."""
    last_step = last_saved_step(checkpoints)
    kept = [line for line in read_lines(path) if line["step"] <= last_step]
    write_atomic(path, "".join(json_line(line) for line in kept))

    def log(rollout: Rollout) -> None:
        answer = rollout.answer[:-1] if rollout.finished else rollout.answer
        line = {"step": rollout.step, "row": rollout.row, "prompt": tokenizer.decode(list(rollout.prompt))}
        said = {"answer": tokenizer.decode(list(answer)), "tokens": len(rollout.answer), "finished": rollout.finished}
        append_line(path, {**line, **said, "logprob": round(sum(rollout.logprobs), 4)})

    return log
