"""What reward models make of pairs of answers: which one they prefer, by how much, and whether by length."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import PreferenceReading, PreferenceResult, Role
from stillhouse.core.signals import DenseLogits, Wanted
from stillhouse.evaluation.intervals import Draws, Statistic, Sums, bootstrapped
from stillhouse.evaluation.preferences import PairCounts
from stillhouse.evaluation.statistics import pearson, spearman
from stillhouse.models.signals import read_signals

READING = ("accuracy", "margin", "length_correlation", "longer")


def judge_rewards(
    models: Mapping[Role, PreTrainedModel],
    batches: Sequence[Batch],
    *,
    prompts: Sequence[int],
    answer_tokens: NDArray[np.float64],
    progress: Progress = SILENT,
) -> tuple[dict[Role, dict[str, Statistic]], PreferenceResult]:
    """Statistics of every model over prompts, for pairs of one prompt are drawn together; and their taste for length.
    `answer_tokens` are [pairs, 2], of the chosen answer and of the other. One model must be the teacher.

    What is added to all rewards of one prompt changes nothing here: only margins are read.
    """
    margins = {role: margins_of(model, batches, progress=progress) for role, model in models.items()}
    counted = PairCounts(np.array(prompts), answer_tokens)
    statistics = {role: reward_statistics(found, margins["teacher"], counted) for role, found in margins.items()}
    readings = {(role, name): one for role, found in margins.items() for name, one in counted.statistics(found).items()}
    sampled = bootstrapped(readings, set_sizes=[counted.num_prompts])
    told = bootstrapped(counted.of_lengths(), set_sizes=[counted.num_prompts])
    result = PreferenceResult(
        len(prompts),
        counted.num_prompts,
        told["chosen"].interval(),
        told["rejected"].interval(),
        told["longer"].interval(),
        [PreferenceReading(role, "reward", *(sampled[role, name].interval() for name in READING)) for role in models],
    )
    return statistics, result


@torch.no_grad()
def margins_of(model: PreTrainedModel, batches: Sequence[Batch], *, progress: Progress = SILENT) -> Sums:
    """By how much more a model rewards the chosen answer of each pair than the other."""
    found: list[Sums] = []
    for batch in batches:
        said = read_signals(model, batch, Wanted(logits=True)).logits
        assert isinstance(said, DenseLogits), "a reward model has one number for each answer"
        rewards = said.dense().double().cpu()  # [pairs, 2]
        chosen = batch.targets.cpu()[:, None]
        found.append((rewards.gather(1, chosen) - rewards.gather(1, 1 - chosen))[:, 0].numpy())
        progress.advance(len(batch.ids))
    return np.concatenate(found)


def reward_statistics(margin: Sums, teacher: Sums, counted: PairCounts) -> dict[str, Statistic]:
    """The metrics of a reward model, beside the teacher's."""
    return {
        "preference_accuracy": counted.mean((np.sign(margin) + 1) / 2),
        "cross_entropy": counted.mean(np.logaddexp(0.0, -margin)),
        "forward_kl": counted.mean(bernoulli_kl(margin, teacher)),
        "top1_agreement": counted.mean((np.sign(margin * teacher) + 1) / 2),
        "teacher_pearson": _over_pairs(pearson(margin, teacher), counted),
        "teacher_spearman": _over_pairs(spearman(margin, teacher), counted),
    }


def bernoulli_kl(margin: Sums, teacher: Sums) -> Sums:
    """KL(sigmoid(teacher) || sigmoid(margin)) in nats: between the odds that Bradley and Terry make of two margins."""
    odds = 1 / (1 + np.exp(-teacher))
    for_it = odds * (np.logaddexp(0.0, -margin) - np.logaddexp(0.0, -teacher))
    return np.asarray(for_it + (1 - odds) * (np.logaddexp(0.0, margin) - np.logaddexp(0.0, teacher)))


def _over_pairs(statistic: Callable[[Draws], Sums], counted: PairCounts) -> Statistic:
    """A statistic of pairs, where prompts are drawn."""
    return lambda draws: statistic(draws[:, counted.prompt_of])
