r"""How far `stillhouse plan` is from what a run then takes: a few of the recipes, each planned, run, and held against its plan.

    python benchmarks/plan.py MODEL --texts texts.jsonl --only language_model stories
    python benchmarks/plan.py MODEL --documents docs --questions questions.jsonl --cross-encoder MODEL --embedder MODEL \
        --only retriever

Language models and stories learn from the teacher that is given; classifiers and masked language models from one with random
weights, as what it says takes as long.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

from stillhouse.commands.plan.kinds import module_of
from stillhouse.commands.plan.saved import Errors, errors_of
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.run import RunFolder
from stillhouse.reporting.formatting import duration
from stillhouse.reporting.plans import off, plan_lines

RECIPES: dict[str, Sequence[str]] = {
    "language_model": (
        "student.keep=8",
        "student.calibration_tokens=256",
        "training.rows_per_step=4",
        "training.epochs=1",
    ),
    "demo": ("synthesis.tokens=4000", "student.keep=10", "training.epochs=2"),
    "classifier": ("training.epochs=2",),
    "retriever": (
        "teacher.max_tokens=128",
        "student.max_tokens=96",
        "negatives.depth=8",
        "negatives.number=5",
        "imitation.training.epochs=1",
        "training.epochs=1",
        "evaluation.rerank_depth=10",
    ),
    "stories": (
        "data.number=36",
        "data.batch_size=12",
        "data.sampling.max_new_tokens=100",
        "training.epochs=2",
        "rounds={most: 1, number: 12}",
        "evaluation.completions=6",
        "evaluation.sampling.max_new_tokens=60",
    ),
    "distilbert": ("training.epochs=1", "training.rows_per_step=32", "training.rows_per_micro_batch=16"),
}
"""The shipped recipe, and how it is made short enough to wait for."""

WORDS = 8000


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", help="a causal language model")
    parser.add_argument("--texts", type=Path, help="a .jsonl file of texts")
    parser.add_argument("--rows", type=Path, help="a .jsonl file of texts with labels")
    parser.add_argument("--documents", type=Path, help="of a retriever: a file or folder")
    parser.add_argument("--questions", type=Path, help="about the documents, with the passages that answer")
    parser.add_argument("--cross-encoder", help="a retriever's teacher")
    parser.add_argument("--embedder", help="that a retriever's student is made of")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-plan"))
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    options = parser.parse_args()
    for name in options.only:
        overrides = [*RECIPES[name], f"run={options.out / name}", *_sources(name, options)]
        taken = {verb: _taken(verb, name, overrides) for verb in ("plan", "distill")}
        kind: Any = importlib.import_module(module_of(read_recipe(Path(f"recipes/{name}.yaml"), overrides)))
        recipe = load_recipe(kind.RECIPE, Path(f"recipes/{name}.yaml"), overrides)
        found = errors_of(RunFolder(recipe.run), recipe)
        assert found is not None, "it was planned a moment ago"
        _print(name, found, taken)


def _taken(verb: str, name: str, overrides: Sequence[str]) -> float:
    """Seconds of a whole command, starting and loading libraries included."""
    command = [sys.executable, "-m", "stillhouse", verb, f"recipes/{name}.yaml", *overrides]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _sources(name: str, options: argparse.Namespace) -> list[str]:
    match name:
        case "demo" | "stories":
            return [f"teacher.model={options.teacher}"]
        case "language_model":
            return [f"teacher.model={options.teacher}", f"data.path={options.texts}"]
        case "retriever":
            models = [f"teacher.model={options.cross_encoder}", f"student.model={options.embedder}"]
            return [*models, f"data.documents={options.documents}", f"data.questions={options.questions}"]
        case "classifier":
            return [f"teacher.model={_encoder(options, 'classifier')}", f"data.path={options.rows}"]
        case _:
            return [f"teacher.model={_encoder(options, 'masked')}", f"data.path={options.texts}"]


def _encoder(options: argparse.Namespace, kind: str) -> Path:
    """A BERT of twelve layers with random weights, and words of the data."""
    folder: Path = options.out / "teachers" / kind
    if folder.exists():
        return folder
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in options.texts.read_text(encoding="utf-8").splitlines()]
    tokenizer = _tokenizer([*texts, *(row["text"] for row in rows)])
    labels = sorted({row["label"] for row in rows})
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=768,
        num_attention_heads=6,
        num_hidden_layers=12,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config) if kind == "classifier" else BertForMaskedLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    words.train_from_iterator(texts, WordPieceTrainer(vocab_size=WORDS, special_tokens=special, show_progress=False))
    ends = [(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=512, **names)


def _print(name: str, found: Errors, commands: dict[str, float]) -> None:
    values = found.to_dict()
    for line in plan_lines(values):
        print(f"{name:<16} {line}")
    stages = ", ".join(f"{stage} {off(error)}" for stage, error in values["stages"].items() if error["taken"] > 2)
    print(f"{'':<16} of stages over 2 s: {stages}")
    times = ", ".join(f"{verb} took {duration(seconds)}" for verb, seconds in commands.items())
    print(f"{'':<16} {times}", flush=True)


if __name__ == "__main__":
    main()
