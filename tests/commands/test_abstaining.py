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
    "Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo", "Kit", "Lee", "Mia", "Ned", "Oz", "Pip", "Quin", "Ray",
    "Sue", "Tom", "Una", "Vic", "Wes", "Xan",
]  # fmt: skip
CITIES = ["Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi"]
STRANGERS = [
    "Bea", "Cal", "Dot", "Eve", "Fay", "Gil", "Hob", "Ira", "Jay", "Kim", "Lou", "Max", "Nan", "Otto", "Pam", "Rex", "Sal",
    "Tess", "Uma", "Val",
]  # fmt: skip
"""Of whom no document says anything."""
ABSTENTION = "They do not say."
TEMPLATE = {
    "instruction": "{abstention}",
    "passage": "[{number}] {text}",
    "question": "{question}",
    "abstention": ABSTENTION,
}


def asked(name: str) -> str:
    return f"Where was {name} born?"


def word_tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    """Words of the documents are one token, all else is spelt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    said = [
        f"{asked(name)} [1] {name} was born in {city}. {ABSTENTION}\n\n"
        for name in NAMES + STRANGERS
        for city in CITIES
    ]
    specials = ["<|start|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        said,
        trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    named = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=chat_template, **named)


def recipe(folder: Path, build_model, chat_template: str) -> Path:
    words = word_tokenizer(chat_template)
    build_model("llama", layers=1, vocab=len(words), max_position_embeddings=512).save_pretrained(folder / "teacher")
    words.save_pretrained(folder / "teacher")
    (folder / "docs").mkdir()
    for number, name in enumerate(NAMES):
        (folder / "docs" / f"{name}.txt").write_text(f"{name} was born in {CITIES[number % len(CITIES)]}.")
    told = [
        {"question": asked(name), "answers": [CITIES[number % len(CITIES)]], "passages": [f"{name}.txt"]}
        for number, name in enumerate(NAMES)
    ]
    untold = [{"question": asked(name), "answers": ["Paris"]} for name in STRANGERS]
    config = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "initializer_range": 0.05}
    values = {
        "run": str(folder / "run"),
        "teacher": {"model": str(folder / "teacher")},
        "student": {"kind": "from_config", "changes": config},
        "data": {
            "kind": "rag",
            "documents": str(folder / "docs"),
            "path": str(write_rows(folder / "questions.jsonl", [*told, *untold])),
            "passages": 2,
            "sequence_tokens": 128,
            "held_out": 0.25,
            "mixture": {"retrieved": 1.0, "distractors": 0.0, "removed": 0.0},
            "template": TEMPLATE,
        },
        "objectives": [{"name": "next_token"}],
        "training": {"epochs": 60, "learning_rate": 3e-3, "rows_per_step": 8, "rows_per_micro_batch": 8},
        "evaluation": {"samples": 0, "control": "none"},
    }
    path = folder / "rag.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def test_a_trained_student_abstains_where_nothing_tells_and_answers_where_something_does(
    tmp_path, build_model, tokenizer, monkeypatch
):
    monkeypatch.setattr("stillhouse.evaluation.grounded.TIMED_QUESTIONS", 1)
    path = recipe(tmp_path, build_model, tokenizer.chat_template)
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    stages = RunFolder(tmp_path / "run").stages()
    found = grounded_result(stages["evaluate"]["grounded"])
    for role in ("student_before", "student"):
        print(role, {name: round(one.value, 2) for name, one in found.reading(role).metrics.items()})
    print(found.examples)
    for q in ("Where was Zed born?", "Where was Zoe born?", "What is zinc?", asked("Ada"), asked("Bo")):
        print(q, stillhouse("rag", "ask", tmp_path / "run", q).out)
    raise SystemExit
