"""A stored teacher and a local one say the same, and objectives cannot tell them apart."""

import pytest
import torch

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import Wanted
from stillhouse.data.packing import pack, to_batch
from stillhouse.labelling import label
from stillhouse.teachers import LocalTeacher, StoredTeacher

ROW_TOKENS = 32


@pytest.fixture(scope="module")
def examples(build_example):
    return [build_example(seed, length) for seed, length in enumerate([2, 7, 32, 11, 3, 20, 9, 5, 14])]


def stored(model, examples, folder, *, made_from="malt"):
    local = LocalTeacher(model)
    label(local, examples, folder, made_from=made_from, row_tokens=ROW_TOKENS, shard_tokens=30)
    return local, StoredTeacher(folder, made_from=made_from)


def packed(examples, order):
    """The examples in packed rows, in another order than they were labelled in."""
    some = [examples[number] for number in order]
    rows = pack([len(example.ids) for example in some], row_tokens=ROW_TOKENS)
    return to_batch([[some[number] for number in row] for row in rows], row_tokens=ROW_TOKENS)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "granite", "phi"])
def test_a_stored_teacher_says_what_the_local_one_says_at_every_position_of_every_document(
    name, examples, tmp_path, build_model
):
    local, store = stored(build_model(name, layers=2), examples, tmp_path)
    batch = packed(examples, [3, 0, 8, 5, 1, 2, 7])
    live, kept = local.signals(batch, Wanted(logits=True)).logits, store.signals(batch, Wanted(logits=True)).logits
    real = batch.documents >= 0
    assert int(batch.documents.max()) > 1
    assert kept.vocab_size == store.vocab_size == local.vocab_size
    assert (kept.scale, kept.softcap) == (live.scale, live.softcap)
    size = live.hidden[real].abs().amax(-1, keepdim=True)
    assert ((kept.hidden - live.hidden)[real].abs() <= 2**-11 * size + 1e-5).all()
    # Half a float16 step in each hidden value, summed over the head.
    bound = live.scale * (2**-11 * size + 1e-5) * live.weight.abs().sum(-1)
    assert ((kept.at(real).dense() - live.at(real).dense()).abs() <= bound + 1e-5).all()


def test_padding_has_no_label_and_stays_zero(examples, tmp_path, build_model):
    _, store = stored(build_model(layers=2), examples, tmp_path)
    batch = packed(examples, [0, 1])
    assert (batch.documents < 0).any()
    assert (store.signals(batch, Wanted(logits=True)).logits.hidden[batch.documents < 0] == 0).all()


def test_both_are_teachers(examples, tmp_path, build_model):
    for teacher in stored(build_model(layers=2), examples, tmp_path):
        assert isinstance(teacher, Teacher)


def test_labels_made_from_something_else_are_refused(examples, tmp_path, build_model):
    stored(build_model(layers=2), examples, tmp_path)
    with pytest.raises(StaleError, match="were made from another teacher, tokenizer or data. Label again"):
        StoredTeacher(tmp_path, made_from="rye")
    StoredTeacher(tmp_path)


def test_a_text_that_was_never_labelled_is_refused(examples, tmp_path, build_model, build_example):
    _, store = stored(build_model(layers=2), examples, tmp_path)
    with pytest.raises(StaleError, match="a text of the data has no label.*Label again"):
        store.signals(to_batch([[examples[0], build_example(99, 6)]]), Wanted(logits=True))


def test_a_text_that_only_begins_like_a_labelled_one_is_refused(examples, tmp_path, build_model):
    _, store = stored(build_model(layers=2), examples, tmp_path)
    batch = to_batch([[examples[2]]])
    shorter = type(batch)(batch.ids[:, :-1], batch.positions[:, :-1], batch.documents[:, :-1], batch.weights[:, :-1])
    with pytest.raises(StaleError, match="has no label"):
        store.signals(shorter, Wanted(logits=True))


@pytest.mark.parametrize("victim", ["shard-00001.safetensors", "head.safetensors", "manifest.json"])
def test_damaged_labels_are_refused_and_the_file_named(examples, tmp_path, build_model, victim):
    stored(build_model(layers=2), examples, tmp_path)
    path = tmp_path / victim
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises((DataError, StaleError), match=victim):
        StoredTeacher(tmp_path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=victim):
        StoredTeacher(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="holds no finished labels" if victim == "manifest.json" else victim):
        StoredTeacher(tmp_path)


def test_a_local_teacher_is_frozen_and_hands_on_no_gradient(examples, build_model):
    model = build_model(layers=2).train()
    teacher = LocalTeacher(model)
    said = teacher.signals(to_batch([examples[:2]]), Wanted(logits=True)).logits
    assert not model.training
    assert not said.hidden.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_on_stored_signals_needs_nothing_else_of_the_teacher(examples, tmp_path, build_model):
    local, store = stored(build_model(layers=2), examples, tmp_path)
    batch = packed(examples, [4, 6])
    before = store.signals(batch, Wanted(logits=True)).logits.dense()
    with torch.no_grad():
        for parameter in local.model.parameters():
            parameter.zero_()
    assert (before != 0).any()
    assert torch.equal(StoredTeacher(tmp_path).signals(batch, Wanted(logits=True)).logits.dense(), before)
