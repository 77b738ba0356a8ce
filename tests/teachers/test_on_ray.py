"""A teacher on a cluster, with somebody of this process in an actor's place: what it says is what one says that is here."""

import pickle
from dataclasses import fields, is_dataclass

import pytest
import torch

from stillhouse.core.batch import LabelledBatch
from stillhouse.core.protocols import DistantTeacher, Teacher
from stillhouse.core.signals import Wanted
from stillhouse.data.packing import to_batch
from stillhouse.kernels.terms import Term
from stillhouse.models.precision import computing_in
from stillhouse.teachers import LocalTeacher
from stillhouse.teachers.on_ray import RayTeacher
from stillhouse.training.loss import distillation_loss

EVERYTHING = Wanted(logits=True, hidden_states=frozenset({0, 2}), attentions=frozenset({1}), pooling="mean")


class Actor:
    """Does what it is asked in this process, pickled on the way there and back as Ray would, and counts the bytes."""

    def __init__(self, teacher):
        self.teacher, self.events, self.sizes = teacher, [], []

    def __call__(self, do, batch):
        self.events.append(f"asked {do.__name__}")
        do, batch = pickle.loads(pickle.dumps((do, batch)))
        answer = pickle.dumps(do(self.teacher, batch))
        self.sizes.append(len(answer))

        def wait():
            self.events.append(f"told {do.__name__}")
            return pickle.loads(answer)

        return wait


def same(one, other):
    """Bit for bit, through whatever holds tensors."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif is_dataclass(one):
        assert type(one) is type(other)
        for part in fields(one):
            same(getattr(one, part.name), getattr(other, part.name))
    else:
        assert one == other


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "phi"])  # softcap, scale, bias
def test_it_says_the_same_bit_for_bit_and_its_head_comes_once(family, build_model, build_example):
    local = LocalTeacher(build_model(family, layers=2))
    actor = Actor(local)
    far = RayTeacher(actor)
    assert isinstance(far, Teacher) and isinstance(far, DistantTeacher) and not isinstance(local, DistantTeacher)
    assert far.vocab_size == local.vocab_size
    batch = to_batch([[build_example(1, 9)], [build_example(2, 5)]])
    for wanted in (EVERYTHING, Wanted(logits=True), Wanted(hidden_states=frozenset({1})), Wanted(logits=True)):
        same(far.signals(batch, wanted), local.signals(batch, wanted))
    assert actor.events.count("asked _head") == 1
    packed = to_batch([[build_example(1, 9), build_example(2, 5)]])
    same(far.signals(packed, Wanted(logits=True)), local.signals(packed, Wanted(logits=True)))
    assert actor.sizes[-1] < 4 * 14 * 32 + 2000 < 4 * 14 * 300  # the states, and neither logits nor the head
    with computing_in("bfloat16"):
        same(far.signals(batch, EVERYTHING), local.signals(batch, EVERYTHING))


@pytest.mark.parametrize("task", ["sequence_classification", "sentence_embedding"])
def test_classes_and_embeddings_come_as_they_are(task, build_encoder):
    local = LocalTeacher(build_encoder(task=task, layers=2))
    ids = torch.arange(12).view(2, 6)
    real = torch.tensor([[0] * 6, [0] * 4 + [-1] * 2])
    batch = LabelledBatch(
        ids, torch.arange(6).expand(2, 6), real, (real + 1).float(), torch.zeros(2).long(), torch.ones(2)
    )
    wanted = Wanted(pooling="cls") if task == "sentence_embedding" else Wanted(logits=True)
    same(RayTeacher(Actor(local)).signals(batch, wanted), local.signals(batch, wanted))


def test_it_is_asked_before_the_student_reads_and_heard_afterwards(build_model, build_example):
    actor = Actor(LocalTeacher(build_model(layers=2)))
    student, batch = build_model(layers=1, seed=1), to_batch([[build_example(1, 9)]])
    student.register_forward_hook(lambda *_: actor.events.append("the student has read"))
    terms = [Term("forward_kl")]
    loss, _ = distillation_loss(student, batch, teacher=RayTeacher(actor), terms=terms, vocab_size=300)
    events = [event for event in actor.events if "_vocab" not in event]
    assert events[0] == "asked answered" and events[-3:] == ["told answered", "asked _head", "told _head"]
    assert "the student has read" in events[1:-3]
    here, _ = distillation_loss(student, batch, teacher=actor.teacher, terms=terms, vocab_size=300)
    assert torch.equal(loss, here) and loss.isfinite()
