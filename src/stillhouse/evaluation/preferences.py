"""Which of two answers a model prefers: by what it was rewarded for since it began, and by how likely it finds them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Liking, PreferenceReading, PreferenceResult, Role
from stillhouse.data.preferences import AnswerPair
from stillhouse.evaluation.intervals import Draws, Sampled, Statistic, Sums, bootstrapped, ratio
from stillhouse.evaluation.statistics import spearman, summed
from stillhouse.labelling import weigh

Logprobs = NDArray[np.float64]
"""[pairs, 2]: of the chosen answer, then of the rejected one, in nats."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that nobody trained on."""

    pairs: Sequence[AnswerPair]
    teacher_reference: Callable[[], PreTrainedModel] | None = None
    """Loads what the teacher was before it was tuned; without it nothing is known of the teacher's rewards."""


@dataclass(frozen=True)
class PreferenceJudgement:
    """What every model prefers, over the same draws of prompts."""

    result: PreferenceResult
    accuracies: Mapping[Role, Mapping[str, Statistic]]
    """The metric `preference_accuracy`, of each model that has rewards."""
    num_prompts: int


def judge_preferences(
    models: Mapping[Role, PreTrainedModel], held_out: HeldOutPairs, *, vocab_size: int, progress: Progress = SILENT
) -> PreferenceJudgement:
    """Every model on the held-out pairs. Pairs of one prompt are drawn together: they are not independent.

    A student's reward is how much likelier it finds an answer than the student before training does, a teacher's the same over
    its own reference. The student before training has none: it prefers nothing, and is right on half of the pairs.
    """
    pairs, prompt_of = held_out.pairs, _prompts(held_out.pairs)
    said = _said(models, held_out, vocab_size, progress)
    margins: dict[tuple[Role, Liking], Sums] = {(role, "likelihood"): _margin(said[role]) for role in models}
    for role in models:
        base = said.get("teacher_reference") if role == "teacher" else said["student_before"]
        if base is not None:
            margins[role, "reward"] = _margin(said[role] - base)
    lengths = np.array(
        [[sum(weight > 0 for weight in side.weights[1:]) for side in pair.sides] for pair in pairs], float
    )
    counted = PairCounts(prompt_of, lengths)
    named = {
        (key, name): found for key, margin in margins.items() for name, found in counted.statistics(margin).items()
    }
    sampled = bootstrapped(named, set_sizes=[counted.num_prompts])
    told = bootstrapped(counted.of_lengths(), set_sizes=[counted.num_prompts])
    result = PreferenceResult(
        len(pairs),
        counted.num_prompts,
        told["chosen"].interval(),
        told["rejected"].interval(),
        told["longer"].interval(),
        [_reading(sampled, key) for key in margins],
    )
    accuracies: dict[Role, dict[str, Statistic]] = {role: {} for role in models}
    for role, liking in margins:
        if liking == "reward":
            accuracies[role] = {"preference_accuracy": named[(role, liking), "accuracy"]}
    return PreferenceJudgement(result, accuracies, counted.num_prompts)


def _said(
    models: Mapping[Role, PreTrainedModel], held_out: HeldOutPairs, vocab_size: int, progress: Progress
) -> dict[str, Logprobs]:
    """How likely each model finds both answers, and the teacher's reference, which is loaded for it alone."""
    has_reference = held_out.teacher_reference is not None
    total = len(held_out.pairs) * (len(models) + has_reference)
    with working(progress, "weighing held-out answers", total, "pairs"):

        def read(model: PreTrainedModel) -> Logprobs:
            found = weigh(model, held_out.pairs, vocab_size=vocab_size, progress=progress)
            return np.asarray(found.double().numpy())

        said: dict[str, Logprobs] = {role: read(model) for role, model in models.items()}
        if held_out.teacher_reference is not None:
            said["teacher_reference"] = read(held_out.teacher_reference())
    return said


def _margin(values: Logprobs) -> Sums:
    return np.asarray(values[:, 0] - values[:, 1])


def _prompts(pairs: Sequence[AnswerPair]) -> NDArray[np.int64]:
    """The number of each pair's prompt."""
    prompts = [pair.chosen.ids[: next(n for n, weight in enumerate(pair.chosen.weights) if weight)] for pair in pairs]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([numbers[prompt] for prompt in prompts])


@dataclass(frozen=True)
class PairCounts:
    """What can be counted of pairs, prompt by prompt."""

    prompt_of: NDArray[np.int64]
    lengths: NDArray[np.float64]
    """[pairs, 2], in tokens."""

    @property
    def num_prompts(self) -> int:
        return int(self.prompt_of.max()) + 1

    def mean(self, values: Sums, counts: Sums | None = None) -> Statistic:
        """The mean over pairs, or over those that count."""
        counts = np.ones_like(values) if counts is None else counts
        sums = (summed(part, self.prompt_of, self.num_prompts) for part in (values * counts, counts))
        return ratio(*sums)

    def statistics(self, margin: Sums) -> dict[str, Statistic]:
        """What a model prefers, and whether by length. A tie is half right."""
        longer = self.lengths[:, 0] - self.lengths[:, 1]
        by_pair = spearman(margin, longer)

        def correlation(draws: Draws) -> Sums:
            return by_pair(draws[:, self.prompt_of])

        likes_longer = _right(margin * np.sign(longer))
        return {
            "accuracy": self.mean(_right(margin)),
            "margin": self.mean(margin),
            "length_correlation": correlation,
            "longer": self._of_unequal(likes_longer),
        }

    def of_lengths(self) -> dict[str, Statistic]:
        """How long both answers are, and how often the chosen one is the longer."""
        longer = self.lengths[:, 0] - self.lengths[:, 1]
        return {
            "chosen": self.mean(self.lengths[:, 0]),
            "rejected": self.mean(self.lengths[:, 1]),
            "longer": self._of_unequal(_right(longer)),
        }

    def _of_unequal(self, values: Sums) -> Statistic:
        """The mean over pairs of different length; one half where a draw has none."""
        counts = (self.lengths[:, 0] != self.lengths[:, 1]).astype(float)
        total, number = (summed(part, self.prompt_of, self.num_prompts) for part in (values * counts, counts))
        return lambda draws: np.where(draws @ number > 0, draws @ total / np.maximum(draws @ number, 1e-9), 0.5)


def _right(margin: Sums) -> Sums:
    return np.asarray((np.sign(margin) + 1) / 2)


def _reading(sampled: Mapping[tuple[tuple[Role, Liking], str], Sampled], key: tuple[Role, Liking]) -> PreferenceReading:
    names = ("accuracy", "margin", "length_correlation", "longer")
    return PreferenceReading(*key, *(sampled[key, name].interval() for name in names))
