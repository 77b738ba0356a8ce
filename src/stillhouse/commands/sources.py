"""Where answers come from that the student writes itself: what such a recipe must not say, and where they are kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.metrics_log import last_saved_step
from stillhouse.core.errors import DataError
from stillhouse.core.files import append_line, json_line, read_lines, write_atomic
from stillhouse.data.asked import Asked
from stillhouse.objectives import objective
from stillhouse.synthesis import AnswersOutcome
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.rollouts import Rollout

ROLLOUTS = "rollouts.jsonl"
"""In the run folder: what the student said, an answer a line."""


def teacher_source_faults(*, data: str, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why nothing can be learnt from answers that the teacher writes before training: one sentence a fault."""
    faults: list[str] = []
    if data not in ("chat", "text"):
        faults.append(
            f"source.kind teacher lets the teacher answer prompts, but data of kind {data!r} has none. Leave source out, or "
            "use data of kind chat or text."
        )
    faults.extend(
        f"{chosen.name} compares across tokenizers, but with source.kind teacher the student learns the teacher's own tokens. "
        "Use next_token or forward_kl and a student with the teacher's tokenizer, or leave source out."
        for chosen in objectives
        if chosen.compares_spans
    )
    return faults


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


def said_of_answers(outcome: AnswersOutcome) -> str:
    """What a user may want to know of the teacher's answers."""
    said = f"{outcome.answers:,} answers to {outcome.prompts:,} prompts, {outcome.tokens:,} tokens"
    if outcome.unfinished:
        said += f"; {outcome.unfinished:,} were cut off, and have no end to learn"
    if outcome.repeats:
        said += f"; {outcome.repeats:,} came again to the same prompt, and are learnt once for as much"
    return said


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
