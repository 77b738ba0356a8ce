"""A teacher with another tokenizer, from the recipe to the report."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder

from .conftest import CHATS, TEXTS, assert_refused_in_one_line, recipe_values, stillhouse, write_recipe, write_rows

OTHER_TEMPLATE = (
    "<s>{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
ACROSS = [{"name": "span_forward_kl", "weight": 0.9, "temperature": 2.0}, {"name": "next_token", "weight": 0.1}]

TRAINING = {
    "epochs": 5,
    "learning_rate": 1e-2,
    "rows_per_step": 2,
    "rows_per_micro_batch": 1,
    "save_every_steps": 4,
}


def make_other_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level too, but trained on other text, with other special tokens and another template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([*TEXTS, "the fox went to see the singing robot"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=OTHER_TEMPLATE
    )


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory, build_model) -> Path:
    """A tiny student on disk, with a tokenizer of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "student", make_other_tokenizer()
    build_model("mistral", layers=2, vocab=len(tokenizer) + 3, hidden=16, seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def across(tmp_path, teacher_folder, student_folder):
    """Write a recipe whose student has another tokenizer, with changes; its run is `tmp_path / "run"`."""

    def write(kind="text", folder=tmp_path, **changes):
        rows = CHATS if kind == "chat" else [{"text": text} for text in TEXTS]
        values = {
            "student": {"kind": "checkpoint", "model": str(student_folder)},
            "synthesis": None,
            "labels": None,
            "data": {
                "kind": kind,
                "path": str(write_rows(folder / "rows.jsonl", rows)),
                "sequence_tokens": 96,
                "held_out": 0.25,
            },
            "objectives": ACROSS,
            "training": TRAINING,
            **changes,
        }
        return write_recipe(folder, teacher_folder, **values)

    return write


def result_of(run: Path) -> EvaluationResult:
    return EvaluationResult.from_dict(RunFolder(run).stages()["evaluate"]["result"])


def terms(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(across, tmp_path, student_folder, kind):
    said = stillhouse("distill", across(kind))
    assert said.code == 0, said.err
    run = tmp_path / "run"
    values = terms(run, "span_forward_kl")
    assert values[-1] < 0.8 * values[0]
    assert set(load_file(run / "student" / "model.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    assert tokenizer.get_vocab() == make_other_tokenizer().get_vocab()
    assert tokenizer.chat_template == OTHER_TEMPLATE
    result = result_of(run)
    assert set(result.model("teacher").metrics) == {"bits_per_byte"}
    assert set(result.model("student").metrics) == {"bits_per_byte", "perplexity", "accuracy"}
    assert {row.metric for row in result.comparisons if row.other == "teacher"} == {"bits_per_byte"}
    assert {row.metric for row in result.comparisons if row.other == "control_hard_labels"} >= {"accuracy"}
    assert result.retentions == []
    report = (run / "report.html").read_text(encoding="utf-8")
    for text in (said.out, report, (run / "student" / "README.md").read_text(encoding="utf-8")):
        assert "bits per byte compare" in " ".join(text.split())
