"""The loss across tokenizers: plain forward KL where they are equal, and one step's gradient however it is cut up."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from stillhouse.core.batch import as_batch
from stillhouse.data.paired import PairedRows
from stillhouse.data.paired_text import PairedTextReader
from stillhouse.data.text import Row
from stillhouse.kernels.spans import SpanTerm
from stillhouse.kernels.terms import Term
from stillhouse.models.token_bytes import common_outcomes
from stillhouse.objectives import Reading, objective
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.terms import UNITS, unit_counts

from .cases import gradients_of, step_gradients

TEXTS = [
    "the small fox ran over the hill",
    "a girl found a key 🦊 in the garden",
    "the old man",
    "one day  the robot\r\nlearned to sing, and all the birds came",
    "你好，世界",
]
TOKENS = 64
SPAN_KL = SpanTerm("span_forward_kl", weight=0.7, temperature=2.0)


@pytest.fixture(scope="module")
def other_tokenizer():
    """Byte-level, and trained on other text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["the girl and the robot sing in the garden"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def pairs_of(student, teacher, texts=TEXTS):
    return PairedTextReader(student, teacher, max_tokens=TOKENS).pairs([Row(text) for text in texts])


def batch_of(pairs):
    rows = PairedRows(pairs, row_tokens=TOKENS)
    return as_batch(rows.collate([rows[index] for index in range(len(rows))]))


@pytest.mark.parametrize(
    ("across", "plain"),
    [("span_forward_kl", "forward_kl"), ("span_reverse_kl", "reverse_kl"), ("span_hybrid", "jsd")],
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_tokenizers_give_exactly_the_plain_loss_and_its_gradient(
    across, plain, temperature, tokenizer, build_model
):
    vocab = len(tokenizer)
    # One head is padded: what is no token must count nothing.
    student = build_model(seed=1, vocab=vocab + 4).double()
    teacher = LocalTeacher(build_model(seed=2, vocab=vocab + 9).double())
    batch, common = batch_of(pairs_of(tokenizer, tokenizer)), common_outcomes(tokenizer, tokenizer)
    named = {"teacher": teacher, "vocab_size": vocab, "common": common}
    found, sums = distillation_loss(student, batch, terms=[SpanTerm(across, temperature=temperature)], **named)
    gradients = gradients_of(student, found)
    wanted, plain_sums = distillation_loss(student, batch, terms=[Term(plain, temperature=temperature)], **named)
    assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert_close(sums, plain_sums, rtol=1e-9, atol=1e-9)
    assert_close(gradients, gradients_of(student, wanted), rtol=1e-8, atol=1e-9)
    assert unit_counts(batch)[UNITS.index("span")] == unit_counts(batch)[UNITS.index("target")]


def test_each_span_is_judged_by_what_both_models_say_of_the_documents_alone(tokenizer, other_tokenizer, build_model):
    """By a scalar loop: each document by itself, each side's own logits, span after span."""
    student = build_model(seed=1, vocab=len(tokenizer) + 5).double()
    teacher = build_model("mistral", seed=2, vocab=len(other_tokenizer) + 1).double()
    pairs, common = pairs_of(tokenizer, other_tokenizer), common_outcomes(tokenizer, other_tokenizer)
    value = objective("span_forward_kl").bind(2.0)
    total = torch.zeros((), dtype=torch.float64)
    for pair in pairs:
        readings = []
        for model, example, spans, outcomes in (
            (student, pair.student, pair.student_spans, common.joined.student),
            (teacher, pair.teacher, pair.teacher_spans, common.joined.teacher),
        ):
            with torch.no_grad():
                logits = model(torch.tensor([example.ids])).logits[0, :, : len(outcomes)]
            places = [place for place, span in enumerate(spans) if span >= 0]
            said = logits[torch.tensor(places) - 1]
            told = torch.tensor([example.ids[place] for place in places]), torch.tensor([spans[p] for p in places])
            readings.append(Reading(said, *told, outcomes))
        total += value(*readings, common.joined.count).sum()
    named = {"teacher": LocalTeacher(teacher), "vocab_size": len(tokenizer), "common": common}
    loss, sums = distillation_loss(student, batch_of(pairs), terms=[SPAN_KL], **named)
    assert_close(sums, total[None])
    assert_close(loss.detach(), 0.7 * total)


@pytest.mark.parametrize("per_micro_batch", [1, 2])
def test_uneven_micro_batches_give_the_gradient_of_one_large_batch(
    per_micro_batch, tokenizer, other_tokenizer, build_model, tmp_path
):
    """Rows have very different numbers of spans and targets: a mean of means would be wrong."""
    pairs = pairs_of(tokenizer, other_tokenizer, [TEXTS[3] + TEXTS[2], TEXTS[1] + TEXTS[2], TEXTS[0] + TEXTS[4]])
    common = common_outcomes(tokenizer, other_tokenizer)
    teacher = LocalTeacher(build_model(seed=2, vocab=len(other_tokenizer)))
    terms = [SPAN_KL, Term("next_token", weight=0.3)]
    rows = PairedRows(pairs, row_tokens=TOKENS)
    counts = [sum(pair.num_spans for pair in rows[index]) for index in range(len(rows))]
    assert len(set(counts)) == len(rows) == 3, counts
    found = []
    for size in (4, per_micro_batch):
        student = build_model(seed=1, vocab=len(tokenizer))
        (gradients,) = step_gradients(
            student,
            pairs,
            tmp_path / str(size),
            row_tokens=TOKENS,
            rows_per_step=4,
            rows_per_micro_batch=size,
            rows_of=PairedRows,
            terms=terms,
            teacher=teacher,
            vocab_size=len(tokenizer),
            common=common,
        )
        found.append(gradients)
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_control_learns_from_the_same_rows_as_from_any(tokenizer, other_tokenizer, build_model):
    student = build_model(seed=1, vocab=len(tokenizer))
    batch = batch_of(pairs_of(tokenizer, other_tokenizer))
    same = batch_of(pairs_of(tokenizer, tokenizer))
    terms = {"teacher": None, "terms": [Term("next_token")], "vocab_size": len(tokenizer)}
    losses = [distillation_loss(student, one, **terms)[0] for one in (batch, same)]
    assert_close(losses[0], losses[1])
