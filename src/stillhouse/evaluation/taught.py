"""Beside a teacher that cannot be loaded here: every model on the answers that it gave, when it was asked for the likeliest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Comparison, Role, Sample, TaughtReading, TaughtResult
from stillhouse.core.rouge import rouge_l_of_texts
from stillhouse.data.examples import Example
from stillhouse.evaluation.elsewhere import sampled_on_the_same
from stillhouse.evaluation.intervals import Statistic, ratio
from stillhouse.evaluation.language import language_statistics, measure
from stillhouse.models.generate import Sampling, generate

SAMPLES = 3
"""Answers that are shown beside the teacher's."""
LEAST_TOKENS = 16
"""Room for a model's own answer, where the teacher's were shorter."""
UNMEASURED = (
    "KL and top-1 agreement over all held-out text: an API tells no logits",
    "its own bits per byte and accuracy, and so the share of them that a student keeps",
    "its size and its speed on this machine",
)


@dataclass(frozen=True)
class TaughtAnswer:
    """What the teacher answered to a held-out prompt, in the tokens of the models that are judged."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str

    @property
    def example(self) -> Example:
        """Prompt and answer, of which the answer is judged."""
        weights = (0.0,) * len(self.prompt) + (1.0,) * len(self.answer)
        return Example((*self.prompt, *self.answer), weights, len(self.text.encode()))


@dataclass(frozen=True)
class Taught:
    """A teacher in words."""

    name: str
    asked: int
    """Prompts that it was to answer."""
    answers: Sequence[TaughtAnswer] = ()
    """What came of them."""
    why_fewer: str = ""
    """Why not all were answered."""


def judge_taught(
    models: Mapping[Role, PreTrainedModel],
    taught: Taught,
    tokenizer: PreTrainedTokenizerBase,
    *,
    progress: Progress = SILENT,
) -> tuple[TaughtResult, list[Sample]]:
    """How surely each model predicts the teacher's answers, how often its likeliest token is the teacher's there, and how like
    the teacher's its own answers are; the student beside each other. One must be the student.
    """
    none = TaughtResult(taught.name, taught.asked, 0, 0, unmeasured=_unmeasured(taught))
    if not taught.answers:
        return none, []
    examples, texts = [one.example for one in taught.answers], [one.text for one in taught.answers]
    statistics: dict[Role, dict[str, Statistic]] = {}
    said: dict[Role, list[str]] = {}
    with working(progress, "beside the teacher's answers", len(models), "models"):
        for role, model in models.items():
            sums = measure(model, examples, None, vocab_size=len(tokenizer))
            found = language_statistics(sums)
            said[role] = _answers(model, taught.answers, tokenizer)
            likeness = np.array([rouge_l_of_texts(*pair) for pair in zip(said[role], texts, strict=True)])
            statistics[role] = {
                "bits_per_byte": found["bits_per_byte"],
                "top1_agreement": found["accuracy"],
                "teacher_rouge_l": ratio(likeness, np.ones(len(likeness))),
            }
            progress.advance(1)
    result = _result(none, statistics, num_answers=len(examples), num_tokens=sum(len(a.answer) for a in taught.answers))
    return result, _samples(taught, said, tokenizer)


def _result(
    empty: TaughtResult, statistics: Mapping[Role, Mapping[str, Statistic]], *, num_answers: int, num_tokens: int
) -> TaughtResult:
    sampled = sampled_on_the_same(statistics, num_answers)
    readings = [
        TaughtReading(role, {name: sampled[role, name].interval() for name in own}) for role, own in statistics.items()
    ]
    comparisons = [
        Comparison(name, role, sampled["student", name].minus(sampled[role, name]).interval())
        for role, own in statistics.items()
        if role != "student"
        for name in own
    ]
    return TaughtResult(empty.teacher, empty.asked, num_answers, num_tokens, readings, comparisons, empty.unmeasured)


def _unmeasured(taught: Taught) -> tuple[str, ...]:
    return (*UNMEASURED, *([taught.why_fewer] if taught.why_fewer else []))


def _answers(model: PreTrainedModel, answers: Sequence[TaughtAnswer], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What this model answers, by its likeliest tokens, at most as long as the longest of the teacher's."""
    longest = max(LEAST_TOKENS, *(len(one.answer) for one in answers))
    greedy = Sampling(temperature=0, max_new_tokens=longest)
    found = generate(model, [one.prompt for one in answers], sampling=greedy, seed=0)
    return [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in found]


def _samples(taught: Taught, said: Mapping[Role, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    return [
        Sample(
            str(tokenizer.decode(list(one.prompt), skip_special_tokens=True)),
            {"teacher": one.text, **{role: texts[number] for role, texts in said.items()}},
        )
        for number, one in enumerate(taught.answers[:SAMPLES])
    ]
