"""A real llama.cpp that somebody serves tells of its own answers what the same model in this process makes of them.

Skipped unless two variables say where it is: STILLHOUSE_LLAMA_CPP, its base_url (`llama-server -m FILE.gguf`, or `python -m
llama_cpp.server --model FILE.gguf --logits_all true`), and STILLHOUSE_LLAMA_CPP_MODEL, the file.
"""

import os

import pytest
import torch

from stillhouse.core.config import parse_recipe
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.generate import Sampling
from stillhouse.models.load import load_causal_lm
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.teachers import RemoteWriter, RemoteWriterConfig, Request, TokenNames
from stillhouse.teachers.ledger import Ledger

URL, MODEL = (os.environ.get(f"STILLHOUSE_LLAMA_CPP{name}", "") for name in ("", "_MODEL"))
pytestmark = pytest.mark.skipif(
    not (URL and MODEL),
    reason="no llama.cpp here: serve a GGUF file and set STILLHOUSE_LLAMA_CPP, STILLHOUSE_LLAMA_CPP_MODEL",
)

QUESTIONS = ("Name three fruits.", "Why is the sea salt?", "What is the capital of France?")
CLOSE_NATS = 0.7
"""llama.cpp rounds what enters each product to eight bits, which a few nats below the likeliest token tells."""


def test_what_llama_cpp_tells_of_its_own_answers_is_what_the_model_says_there(tmp_path):
    plain = {"base_url": URL, "model": "m", "key_env": None, "tokenizer": MODEL, "concurrency": 1}
    writer = RemoteWriter(parse_recipe(RemoteWriterConfig, plain), environment={})
    loaded = load_causal_lm(MODEL)
    template, names = ChatTemplate(loaded.tokenizer), TokenNames(loaded.tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=8)
    differences, agreed, places = [], 0, 0
    for question in QUESTIONS:
        messages = ({"role": "user", "content": question},)
        request = Request(seed="0", sampling=sampling, messages=messages, top_logprobs=5)
        (reply,) = Ledger(tmp_path / "ledger.jsonl", writer).ask([request])
        prompt = loaded.tokenizer(template.prompt(list(messages)), add_special_tokens=False)["input_ids"]
        ids, told = names.document_of(prompt, request, reply, end=end_of_turn(loaded.tokenizer))
        assert reply.prompt_tokens in (len(prompt), len(prompt) + 1), "the server writes the same template around it"
        with torch.no_grad():
            logprobs = loaded.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        for place, row in enumerate(told):
            if row:
                here = logprobs[place - 1]
                differences += [abs(float(here[token]) - logprob) for token, logprob in row]
                agreed += int(here.argmax()) == max(row, key=lambda one: one[1])[0]
                places += 1
    differences.sort()
    print(
        f"{places} places, {len(differences)} log-probabilities, median difference {differences[len(differences) // 2]:.3f}"
    )
    assert places >= len(QUESTIONS) and agreed >= 0.8 * places
    assert differences[len(differences) // 2] < CLOSE_NATS / 2 and differences[int(0.9 * len(differences))] < CLOSE_NATS
