"""What is counted of a step, beside plain counting."""

import pytest
import torch

from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.teachers import LocalTeacher
from stillhouse.training import watch as watching
from stillhouse.training.rollouts import AskedRows, Rollout
from stillhouse.training.trainer import Schedule, train
from stillhouse.training.watch import Watch

VOCAB = 40


def _rollout(logprobs, *, finished, step=1, row=0):
    return Rollout(step, row, (5, 6), (7,) * len(logprobs), tuple(logprobs), tuple(logprobs), finished)


def test_answers_are_counted_by_answer_and_their_entropy_by_token():
    watch = Watch()
    watch.hear(_rollout([-1.0, -2.0, -3.0], finished=True))
    watch.hear(_rollout([-4.0], finished=False))
    assert watch.numbers() == {"answer_tokens": 2.0, "finished_share": 0.5, "answer_entropy": 2.5}
    assert watch.numbers() == {}


@pytest.mark.parametrize("num_tokens", [1, 63, 64, 65, 700])
def test_likeliest_tokens_are_compared_at_no_more_than_so_many_places(num_tokens):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        FactoredLogits(torch.randn(num_tokens, 4, generator=generator), torch.randn(9, 4, generator=generator))
        for _ in range(2)
    )
    watch = Watch()
    watch.compare(student, teacher)
    every = -(-num_tokens // watching.COMPARED_TOKENS)
    same = (student.dense().argmax(-1) == teacher.dense().argmax(-1))[::every]
    assert 1 <= len(same) <= watching.COMPARED_TOKENS
    assert watch.numbers() == {"top1_agreement": float(same.double().mean())}
    watch.compare(student, student)
    assert watch.numbers() == {"top1_agreement": 1.0}


@pytest.mark.parametrize("rows_at_once", [2, 4])
def test_a_training_logs_what_its_steps_answered(build_model, build_example, tmp_path, rows_at_once, asked_of):
    student, lines, told, watch = build_model(vocab=VOCAB, layers=2), [], [], Watch()

    def tell(rollout):
        told.append(rollout)
        watch.hear(rollout)

    rows = AskedRows(
        asked_of(8),
        student,
        student_share=1.0,
        sampling=Sampling(max_new_tokens=6),
        seed=0,
        stop_ids={1, 2, 3, 4},
        vocab_size=VOCAB,
        max_tokens=64,
        tell=tell,
    )
    train(
        student,
        rows,
        terms=[Term("reverse_kl")],
        teacher=LocalTeacher(build_model(vocab=VOCAB, layers=2)),  # the student as it was: they agree at first
        vocab_size=VOCAB,
        schedule=Schedule(epochs=2.0, rows_per_step=4, rows_per_micro_batch=rows_at_once, learning_rate=1e-2),
        checkpoints=tmp_path,
        log_line=lines.append,
        watch=watch,
    )
    assert len(lines) == 4 and lines[0]["top1_agreement"] == 1.0
    for line in lines:
        own = [rollout for rollout in told if rollout.step == line["step"]]
        assert line["answer_tokens"] * len(own) == line["tokens"] == sum(len(rollout.answer) for rollout in own)
        assert line["finished_share"] == sum(rollout.finished for rollout in own) / 4
        assert line["weightless_share"] == 0.0
        assert 0 < line["answer_entropy"] < 8
    assert {"reverse_kl", "loss"} < lines[0].keys()


@pytest.fixture
def asked_of(build_example):
    from stillhouse.data.asked import Asked

    def build(num_rows):
        examples = [build_example(seed, 9, prompt=4, vocab=VOCAB) for seed in range(num_rows)]
        return [Asked(one.ids[:4], (one,)) for one in examples]

    return build
