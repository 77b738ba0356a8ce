"""How far `stillhouse plan` is from what a run then takes: a few of the recipes, each planned, run, and held against its plan.

Language models learn from the teacher that is given; encoders from one with random weights, as what it says takes as long.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

from stillhouse.commands.plan.saved import Errors, errors_of
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe
from stillhouse.core.run import RunFolder
from stillhouse.reporting.formatting import duration, si
from stillhouse.reporting.plans import off

RECIPES: dict[str, Sequence[str]] = {
    "language_model": ("student.keep=8", "training.rows_per_step=4", "training.epochs=1"),
    "demo": ("synthesis.tokens=4000", "student.keep=10", "training.epochs=2"),
    "classifier": ("training.epochs=2",),
    "distilbert": ("training.epochs=1", "training.rows_per_step=32", "training.rows_per_micro_batch=16"),
}
"""The shipped recipe, and how it is made short enough to wait for."""

WORDS = 8000


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", help="a causal language model")
    parser.add_argument("texts", type=Path, help="a .jsonl file of texts")
    parser.add_argument("rows", type=Path, help="a .jsonl file of texts with labels")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-plan"))
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    options = parser.parse_args()
    for name in options.only:
        overrides = [*RECIPES[name], f"run={options.out / name}", *_sources(name, options)]
        for verb in ("plan", "distill"):
            command = [sys.executable, "-m", "stillhouse", verb, f"recipes/{name}.yaml", *overrides]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        recipe = load_recipe(Recipe, Path(f"recipes/{name}.yaml"), overrides)
        found = errors_of(RunFolder(recipe.run), recipe)
        assert found is not None, "it was planned a moment ago"
        _print(name, found)


def _sources(name: str, options: argparse.Namespace) -> list[str]:
    match name:
        case "demo":
            return [f"teacher.model={options.teacher}"]
        case "language_model":
            return [f"teacher.model={options.teacher}", f"data.path={options.texts}"]
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


def _print(name: str, found: Errors) -> None:
    values = found.to_dict()
    for what, written in (("seconds", duration), ("memory", lambda size: si(size, "B"))):
        error = values[what]
        print(f"{name:<16} {what:<8} planned {written(error['planned']):>12}", end=" ")
        print(f"taken {written(error['taken']):>12}  off by {off(error)}")
    stages = ", ".join(f"{stage} {off(error)}" for stage, error in values["stages"].items() if error["taken"] > 2)
    print(f"{'':<16} of stages over 2 s: {stages}", flush=True)


if __name__ == "__main__":
    main()
