"""Where answers come from that the student writes itself, and what the teacher is told: what a recipe must not say of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.metrics_log import last_saved_step
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import append_line, json_line, read_lines, write_atomic
from stillhouse.core.numbers import counting, places_of
from stillhouse.core.task import Task
from stillhouse.data.asked import Asked
from stillhouse.data.config import ChatDataConfig, DataConfig
from stillhouse.data.kept import those
from stillhouse.models.vllm_engine import check_vllm
from stillhouse.objectives import objective
from stillhouse.synthesis import AnswersOutcome
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.rollouts import Rollout
from stillhouse.training.sources import MixedConfig, OfflineConfig, OnPolicyConfig, SourceConfig, TeacherSourceConfig

ROLLOUTS = "rollouts.jsonl"
"""In the run folder: what the student said, an answer a line."""


def teacher_source_faults(*, data: str) -> list[str]:
    """Why nothing can be learnt from answers that the teacher writes before training: one sentence a fault."""
    faults: list[str] = []
    if data not in ("chat", "rag", "text"):
        faults.append(
            f"source.kind teacher lets the teacher answer prompts, but data of kind {data!r} has none. Leave source out, or "
            "use data of kind chat or text."
        )
    return faults


def source_faults(source: str, *, data: str, has_labels: bool, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why nothing can be learnt from answers that the student writes: one sentence a fault, naming the keys."""
    faults: list[str] = []
    if data not in ("chat", "rag", "text"):
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
        if chosen.answers in ("teacher", "data"):
            continue
        if not objective(chosen.name).reads_teacher:
            faults.append(
                f"{chosen.name} learns the text itself, which the student writes with source.kind {source}: it would only "
                f"repeat itself. Leave {chosen.name} or source out."
            )
    return faults


def context_faults(data: DataConfig, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why nothing can be learnt from a teacher that reads more than the student: one sentence a fault."""
    if not isinstance(data, ChatDataConfig) or data.teacher_context is None:
        return []
    faults: list[str] = []
    for chosen in objectives:
        why = ""
        if chosen.compares_spans:
            why = "compares across tokenizers"
        elif chosen.reads_features:
            why = "compares states at every token"
        elif chosen.where == "tokens":
            why = "has where: tokens"
        if why:
            faults.append(
                f"{chosen.name} {why}, but with data.teacher_context teacher and student share the answers' tokens alone. Use "
                "objectives on logits, such as forward_kl or reverse_kl, and leave where out."
            )
    return faults


def policy_faults(source: SourceConfig, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why there is nothing that policy gradients could learn from: one sentence a fault, naming the keys."""
    chosen = [found.name for found in objectives if found.reads_draws]
    if not chosen:
        return []
    if not isinstance(source, OnPolicyConfig | MixedConfig):
        return [
            f"{chosen[0]} learns from answers that the student draws while it trains, but source.kind is {source.kind}. Use "
            "source {kind: student} or {kind: mixed}, or reverse_kl."
        ]
    sampling, faults = source.sampling, []
    if source.engine == "vllm":
        faults.append(
            f"{chosen[0]} weighs each token by how likely it was to be drawn, which source.engine vllm does not say. Leave "
            "source.engine out."
        )
    if sampling.temperature == 0:
        faults.append(
            f"{chosen[0]} learns from chance, and with source.sampling.temperature 0 there is none. Leave it at 1."
        )
    if sampling.top_k is not None or sampling.top_p < 1:
        key = "top_p" if sampling.top_k is None else "top_k"
        faults.append(
            f"{chosen[0]} weighs each token by how likely it was to be drawn, but source.sampling.{key} keeps some from "
            f"ever being drawn. Leave {key} out."
        )
    return faults


def answers_faults(source: SourceConfig, task: Task, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """Why an objective cannot be about some answers alone, or count by answer: one sentence a fault."""
    known: dict[str, tuple[str, ...]] = {"student": ("student",), "replay": ("student", "data")}
    if isinstance(source, MixedConfig):
        known["mixed"] = ("student", source.otherwise)
    writers = known.get(source.kind, ())
    faults: list[str] = []
    for chosen in objectives:
        if chosen.average == "answers" and task != "causal_lm":
            faults.append(
                f"{chosen.name} has average: answers, and only language models answer at length. Leave it out."
            )
        if chosen.answers == "all" or chosen.answers in writers:
            continue
        said = (
            f"who answers is {' or '.join(writers)}"
            if writers
            else "nobody but the data's or the teacher's answers are there"
        )
        faults.append(
            f"{chosen.name} is about the answers of the {chosen.answers}, but with source.kind {source.kind} {said}. Use "
            "source {kind: mixed, otherwise: teacher} or {kind: mixed, otherwise: data}, or leave answers out."
        )
    return faults


def askable(asked: Sequence[Asked], *, max_tokens: int, at_last: bool) -> Sequence[Asked]:
    """The prompts that leave room for an answer, and with `at_last` for the last one.

    Raises:
        DataError: if none does.
    """
    places = places_of(counting(_longest_prompt(one, at_last=at_last) < max_tokens for one in asked))
    if not places:
        raise DataError(
            f"all {len(asked):,} prompts fill data.sequence_tokens ({max_tokens}), so there is no room for an answer. Raise it."
        )
    return those(asked, places)


def _longest_prompt(asked: Asked, *, at_last: bool) -> int:
    """Tokens of what is asked, on the longer side where a teacher has tokens of its own."""
    sides = [asked, asked.across.theirs] if asked.across else [asked]
    return max(len(side.at_last.prompt if at_last else side.prompt) for side in sides)


def check_engine(source: SourceConfig, *, has_adapter: bool) -> None:
    """Refuse an engine that is not here, or cannot write as this student.

    Raises:
        ModelError: naming the key of the recipe.
    """
    if isinstance(source, OfflineConfig | TeacherSourceConfig) or source.engine != "vllm":
        return
    if has_adapter:
        raise ModelError(
            "source.engine is vllm, which is given the student's weights as they are, but with student.lora they are put "
            "together on the way. Leave source.engine out."
        )
    check_vllm("source.engine")


def told_to(*listeners: Callable[[Rollout], None]) -> Callable[[Rollout], None]:
    """One listener for several; for none, as of a control, which gives no answers."""

    def tell(rollout: Rollout) -> None:
        for listener in listeners:
            listener(rollout)

    return tell


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
        place = {"step": rollout.step, "row": rollout.row, "turn": rollout.turn}
        prompt = tokenizer.decode(list(rollout.prompt))
        said = {"answer": tokenizer.decode(list(answer)), "tokens": len(rollout.answer), "finished": rollout.finished}
        append_line(path, {**place, "prompt": prompt, **said, "logprob": round(sum(rollout.logprobs), 4)})

    return log
