"""`adapter/README.md`: the card of an adapter without its base."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.results import EvaluationResult
from stillhouse.core.task import Task
from stillhouse.reporting.card import hub_id, metadata
from stillhouse.reporting.html import write_whole
from stillhouse.reporting.markdown import escaped, fenced
from stillhouse.reporting.sources import learnt_sentence
from stillhouse.reporting.verdicts import headline

AUTO_CLASS: Mapping[Task, str] = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "reward": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "sentence_embedding": "AutoModel",
}
"""What reads the base."""


def write_adapter_card(
    path: str | os.PathLike[str],
    *,
    student_name: str,
    result: EvaluationResult,
    adapter: Mapping[str, Any],
    licence: str | None,
) -> None:
    """Write the card of an adapter, whose `base` and sizes `adapter` holds, to `path`, whole or not at all."""
    base = {"model": adapter["base"]}
    named = escaped(str(hub_id(base) or Path(str(adapter["base"])).name))
    sections = [
        f"{metadata(teacher=base, licence=licence, task=result.task, library='peft')}\n# {escaped(student_name)}: adapter",
        f"A low-rank adapter for **{named}**, distilled with stillhouse. {learnt_sentence(adapter)}",
        headline(result),
        f"## Use\n\n{fenced(_use(result.task, str(hub_id(base) or named)), 'python')}",
        "The same model with the adapter merged, and all that was measured of it, is in the folder `student` beside this one.",
    ]
    write_whole(Path(path), "\n\n".join(section for section in sections if section) + "\n")


def _use(task: Task, base: str) -> str:
    name = AUTO_CLASS[task]
    return (
        f"from peft import PeftModel\nfrom transformers import {name}\n\n"
        f'model = PeftModel.from_pretrained({name}.from_pretrained("{base}"), "adapter")'
    )
