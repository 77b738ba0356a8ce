"""One comparison: every model on the same held-out text, paired."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Comparison, EvaluationResult, HeldOut, ModelResult, Role, Sample
from stillhouse.data.examples import Example
from stillhouse.evaluation.cost import REPEATS, measure_costs
from stillhouse.evaluation.language import DocumentSums, language_differences, language_metrics, measure, say
from stillhouse.models.generate import Sampling, generate

SAMPLE_TOKENS = 60


@dataclass(frozen=True)
class Contestant:
    """A model to be judged: loaded, with the folder of its weights."""

    role: Role
    name: str
    model: PreTrainedModel
    folder: Path


def evaluate(
    contestants: Sequence[Contestant],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_samples: int = 3,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure every contestant on the same examples. The first must be the teacher; one must be the student."""
    models = {contestant.role: contestant.model for contestant in contestants}
    vocab_size = len(tokenizer)
    says = say(models["teacher"], examples, vocab_size=vocab_size)
    sums: dict[Role, DocumentSums] = {}
    with working(progress, "predicting held-out text", len(examples) * len(models), "documents"):
        for role, model in models.items():
            sums[role] = measure(model, examples, says, vocab_size=vocab_size, progress=progress)
    folders = {contestant.role: contestant.folder for contestant in contestants}
    with working(progress, "timing", len(models) * (REPEATS + 1), "runs"):
        costs = measure_costs(models, folders, progress=progress)
    text = sums["teacher"]
    return EvaluationResult(
        held_out=HeldOut(len(text.tokens), int(text.tokens.sum()), int(text.bytes.sum())),
        models=[ModelResult(c.role, c.name, language_metrics(sums[c.role]), costs[c.role]) for c in contestants],
        comparisons=_comparisons(sums),
        samples=_samples(models, examples[:num_samples], tokenizer),
        machine=machine(),
    )


def _comparisons(sums: Mapping[Role, DocumentSums]) -> list[Comparison]:
    return [
        Comparison(metric, other, difference)
        for other in sums
        if other != "student"
        for metric, difference in language_differences(sums["student"], sums[other]).items()
    ]


def _samples(
    models: Mapping[Role, PreTrainedModel], examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Sample]:
    """What each model writes, greedily, where the judged text of each example begins."""
    prompts = [example.ids[: _first_judged(example)] for example in examples]
    greedy = Sampling(temperature=0, max_new_tokens=SAMPLE_TOKENS)
    written = {role: generate(model, prompts, sampling=greedy, seed=0) for role, model in models.items()}

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return [
        Sample(decode(prompt), {role: decode(texts[number]) for role, texts in written.items()})
        for number, prompt in enumerate(prompts)
    ]


def _first_judged(example: Example) -> int:
    return next(position for position, weight in enumerate(example.weights) if weight > 0)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
