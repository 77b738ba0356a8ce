"""A student that is trained for it says that the passages do not tell where nothing in the documents does, and answers where
something does: the whole road, from documents to `stillhouse rag ask`."""

from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillhouse.core.grounded_results import grounded_result
from stillhouse.core.run import RunFolder

from .conftest import stillhouse, write_rows

NAMES = [
    *(
        "Ada",
        "Bo",
        "Cy",
        "Di",
        "Ed",
        "Flo",
        "Gus",
        "Hal",
        "Ida",
        "Jo",
        "Kit",
        "Lee",
        "Mia",
        "Ned",
        "Oz",
        "Pip",
        "Quin",
        "Ray",
    ),
    *("Sue", "Tom", "Una", "Vic", "Wes", "Xan", "Yve", "Zed", "Ann", "Ben", "Cal", "Dot", "Eve", "Fay"),
]
CITIES = ["Rome", "Oslo", "Lima", "Cairo"]
THINGS = [
    "iron",
    "gold",
    "tin",
    "salt",
    "ice",
    "glass",
    "ink",
    "wool",
    "silk",
    "chalk",
    "amber",
    "brass",
    "lead",
    "soap",
]
"""Of which no document says anything."""
ABSTENTION = "They do not say."
TEMPLATE = {"instruction": "{abstention}", "question": "{question}", "abstention": ABSTENTION}


def word_tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    """Words of the documents are one token, all else is spelt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    said = [f"{born(name)} [1] {name} was born in {city}. {ABSTENTION}\n\n" for name in NAMES for city in CITIES]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|start|>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*said, *map(made, THINGS)], trainer)
    named = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=chat_template, **named)


def born(name: str) -> str:
    return f"Where was {name} born?"


def made(thing: str) -> str:
    return f"What is {thing} made of?"


def recipe(folder: Path, build_model, chat_template: str) -> Path:
    words = word_tokenizer(chat_template)
    build_model("llama", layers=1, vocab=len(words), max_position_embeddings=256).save_pretrained(folder / "teacher")
    words.save_pretrained(folder / "teacher")
    (folder / "docs").mkdir()
    cities = {name: CITIES[number % len(CITIES)] for number, name in enumerate(NAMES)}
    for name, city in cities.items():
        (folder / "docs" / f"{name}.txt").write_text(f"{name} was born in {city}.")
    told = [{"question": born(name), "answers": [city], "passages": [f"{name}.txt"]} for name, city in cities.items()]
    untold = [{"question": made(thing), "answers": ["atoms"]} for thing in THINGS]
    values = {
        "run": str(folder / "run"),
        "teacher": {"model": str(folder / "teacher")},
        "student": {"kind": "from_config", "changes": {"num_hidden_layers": 2, "initializer_range": 0.05}},
        "data": {
            "kind": "rag",
            "documents": str(folder / "docs"),
            "path": str(write_rows(folder / "questions.jsonl", [*told, *untold])),
            "passages": 1,
            "sequence_tokens": 96,
            "held_out": 0.25,
            "mixture": {"retrieved": 1.0, "distractors": 0.0, "removed": 0.0},
            "template": TEMPLATE,
        },
        "objectives": [{"name": "next_token"}],
        "training": {"epochs": 15, "learning_rate": 5e-3, "rows_per_step": 8, "rows_per_micro_batch": 8},
        "evaluation": {"samples": 0, "control": "none"},
    }
    path = folder / "rag.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def test_a_student_trained_for_it_abstains_where_nothing_tells_and_answers_where_something_does(
    tmp_path, build_model, tokenizer, monkeypatch
):
    monkeypatch.setattr("stillhouse.evaluation.grounded.TIMED_QUESTIONS", 1)
    for module in ("stages.grounded_answers", "ask"):
        monkeypatch.setattr(f"stillhouse.commands.{module}.ANSWER_TOKENS", 12)
    said = stillhouse("distill", recipe(tmp_path, build_model, tokenizer.chat_template))
    assert said.code == 0, said.err
    found = grounded_result(RunFolder(tmp_path / "run").stages()["evaluate"]["grounded"])
    before, after = (found.reading(role).metrics for role in ("student_before", "student"))
    # Things and people that it never learnt about: only what kind of question has its answer in the documents.
    assert after["abstention_recall"].value == 1 and before["abstention_recall"].value < 1
    assert after["over_refusal"].value <= 0.25

    asked = stillhouse("rag", "ask", tmp_path / "run", made("zinc"))
    assert asked.code == 0 and asked.out.strip() == ABSTENTION
    answered = stillhouse("rag", "ask", tmp_path / "run", born("Ada"))
    assert "[1]" in answered.out and ABSTENTION not in answered.out and "Ada.txt" in answered.out
