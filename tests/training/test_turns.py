"""One pass over a conversation is the sum over its turns."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import conversation
from stillhouse.data.packing import to_batch
from stillhouse.kernels.terms import Term
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss

from .cases import gradients_of

WEIGHTS = (1.0, 0.25, 2.0)
TURNS = [
    ("who ran to the hill?", "the small fox"),
    ("and sang?", "the girl, in the garden"),
    ("why?", "she found a key"),
]


def talk(*, upto=3, **said):
    """The conversation up to the end of a turn."""
    messages = [{"role": "system", "content": "be brief"}]
    for number, (question, answer) in enumerate(TURNS[:upto]):
        weight = WEIGHTS[number] if "weights" not in said else said["weights"][number]
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, "weight": weight},
        ]
    return conversation(messages)


def total(student, teacher, examples, terms, vocab_size):
    """The weighted sum of the loss, not yet divided by anything."""
    batch = to_batch([[example] for example in examples])
    sums, _ = distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=vocab_size)
    return sums


@pytest.mark.parametrize("terms", [["forward_kl"], ["reverse_kl", "next_token"], ["jsd"]], ids="+".join)
def test_one_pass_has_the_loss_and_the_gradients_of_a_pass_for_each_turn(terms, build_model, tokenizer):
    """A pass for a turn reads the conversation up to its end and learns it alone, as it is when it is the last."""
    vocab_size = len(tokenizer)
    student, other = (build_model(vocab=vocab_size, layers=2, seed=seed) for seed in (0, 1))
    teacher, named = LocalTeacher(other), [Term(name) for name in terms]
    every, last = ChatReader(tokenizer), ChatReader(tokenizer, weight="last")
    whole = every.example(talk())
    turns = [last.example(talk(upto=number)) for number in (1, 2, 3)]
    assert [turn.ids == whole.ids[: len(turn.ids)] for turn in turns] == [True] * 3
    assert sum(map(sum, (turn.weights for turn in turns))) == sum(whole.weights)
    at_once = total(student, teacher, [whole], named, vocab_size)
    gradients = gradients_of(student, at_once)
    apart = [total(student, teacher, [turn], named, vocab_size) for turn in turns]
    assert_close(at_once.detach(), sum(apart).detach(), rtol=1e-5, atol=1e-5)
    for name, gradient in gradients_of(student, sum(apart)).items():
        assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)
    together = total(student, teacher, turns, named, vocab_size)
    assert_close(at_once.detach(), together.detach(), rtol=1e-5, atol=1e-5)


def test_the_last_turn_alone_is_what_is_left_when_the_others_count_for_nothing(build_model, tokenizer):
    every, last = ChatReader(tokenizer), ChatReader(tokenizer, weight="last")
    alone = last.example(talk())
    assert alone == every.example(talk(weights=(0, 0, 2.0)))
    student, teacher = build_model(vocab=len(tokenizer)), LocalTeacher(build_model(vocab=len(tokenizer), seed=1))
    terms = [Term("forward_kl")]
    whole, rest = (
        total(student, teacher, [every.example(talk(weights=weights))], terms, len(tokenizer))
        for weights in (WEIGHTS, (*WEIGHTS[:2], 0))
    )
    assert_close(total(student, teacher, [alone], terms, len(tokenizer)), whole - rest, rtol=1e-4, atol=1e-4)


def test_a_turns_weight_multiplies_its_loss(build_model, tokenizer):
    student, reader = build_model(vocab=len(tokenizer)), ChatReader(tokenizer)
    parts = torch.stack(
        [
            total(student, None, [reader.example(talk(weights=weights))], [Term("next_token")], len(tokenizer)).detach()
            for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), WEIGHTS)
        ]
    )
    assert_close(parts[3], (parts[:3] * torch.tensor(WEIGHTS)).sum(), rtol=1e-5, atol=1e-5)
