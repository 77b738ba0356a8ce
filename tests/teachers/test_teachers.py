"""A stored teacher and a local one say the same, and objectives cannot tell them apart."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import Wanted
from stillhouse.data.packing import pack, to_batch
from stillhouse.labelling import Sampled, Sparse, States, label
from stillhouse.teachers import LocalTeacher, StoredTeacher

ROW_TOKENS = 32


@pytest.fixture(scope="module")
def examples(build_example):
    return [build_example(seed, length) for seed, length in enumerate([2, 7, 32, 11, 3, 20, 9, 5, 14])]


def stored(model, examples, folder, *, made_from="malt", recorder=None, temperature=None):
    local, recorder = LocalTeacher(model), recorder or States()
    label(local, examples, folder, made_from=made_from, row_tokens=ROW_TOKENS, recorder=recorder, shard_tokens=30)
    return local, StoredTeacher(folder, made_from=made_from, temperature=temperature)


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


def log_probabilities(local, batch, temperature: float = 1.0):
    return (local.signals(batch, Wanted(logits=True)).logits.dense() / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("min_probability", "most"), [(0.0, 5), (0.01, 100), (0.02, 3), (0.0, 300), (0.9, 300)])
def test_sparse_labels_are_the_likeliest_tokens_and_the_rest_in_one_bucket(
    temperature, min_probability, most, examples, tmp_path, build_model
):
    recorder = Sparse(300, min_probability, most, temperatures=(temperature,))
    local, store = stored(build_model(layers=2), examples, tmp_path, recorder=recorder, temperature=temperature)
    batch = packed(examples, [3, 0, 8, 5])
    said, dense = store.signals(batch, Wanted(logits=True)).logits, log_probabilities(local, batch, temperature)
    assert (said.vocab_size, said.temperature) == (300, temperature)
    real = batch.real
    assert_close(said.logprobs.exp().sum(-1) + said.tail.exp(), torch.ones(real.shape), rtol=1e-5, atol=0)
    for logprobs, ids, tail, whole in zip(
        said.logprobs[real], said.ids[real], said.tail[real], dense[real], strict=True
    ):
        ids, kept = ids[logprobs > -torch.inf], logprobs[logprobs > -torch.inf]
        wanted = int((whole.exp() >= min_probability).sum().clamp(1, most))
        assert set(ids.tolist()) == set(whole.topk(wanted).indices.tolist())
        # Each logit within a 63rd of the record's span, and as much again for the normaliser.
        span = float(temperature * (dense[real].max() - dense[real].min()))
        assert ((kept - whole[ids]).abs() <= 2 * span / 63 / temperature + 1e-5).all()
        others = torch.ones(300, dtype=torch.bool).index_fill(0, ids, False)
        assert_close(tail, whole[others].logsumexp(-1), rtol=1e-3, atol=span / 63 / temperature + 1e-3)


def test_at_every_temperature_of_a_store_the_distribution_is_that_of_the_teacher(examples, tmp_path, build_model):
    recorder = Sparse(300, 0.01, 300, temperatures=(1.0, 2.0, 4.0))
    local, _ = stored(build_model(layers=2), examples, tmp_path, recorder=recorder)
    batch = packed(examples, [3, 0, 8])
    for temperature in (4.0, 1.0, 2.0):
        said = StoredTeacher(tmp_path, temperature=temperature).signals(batch, Wanted(logits=True)).logits
        dense = log_probabilities(local, batch, temperature)
        kept = (said.logprobs > -torch.inf) & batch.real[..., None]
        bound = 2 * float(dense.amax(-1).sub(dense.amin(-1)).max()) / 63
        assert_close(said.logprobs[kept], dense.gather(-1, said.ids)[kept], rtol=0, atol=bound)
        least = torch.where(kept, said.logprobs, torch.inf).amin(-1)[batch.real].max()
        assert temperature < 4 or float(least.exp()) < 0.02  # the widest temperature says what is kept
    with pytest.raises(StaleError, match="hold the teacher at temperature 1.0, 2.0, 4.0, but 3.0 is asked for"):
        StoredTeacher(tmp_path, temperature=3.0)


def test_only_where_it_is_asked_for_the_rest_goes_to_the_likeliest_tokens(examples, tmp_path, build_model):
    _, store = stored(build_model(layers=2), examples, tmp_path, recorder=Sparse(300, 0.0, 5))
    batch = packed(examples, [3, 0, 8])
    bucket = store.signals(batch, Wanted(logits=True)).logits
    shared = StoredTeacher(tmp_path, tail="renormalised").signals(batch, Wanted(logits=True)).logits
    real = batch.real
    assert (bucket.tail[real] > -torch.inf).all() and (shared.tail[real] == -torch.inf).all()
    assert_close(shared.logprobs[real], (bucket.logprobs - (1 - bucket.tail.exp()).log()[..., None])[real])


def test_with_the_whole_vocabulary_kept_nothing_is_left(examples, tmp_path, build_model):
    local, store = stored(build_model(layers=2), examples, tmp_path, recorder=Sparse(300, 0.0, 300))
    batch = packed(examples, [3, 0, 8])
    said, dense = store.signals(batch, Wanted(logits=True)).logits, log_probabilities(local, batch)
    assert (said.tail[batch.real] == -torch.inf).all()
    whole = torch.zeros_like(dense).scatter(-1, said.ids, said.logprobs.exp())
    assert_close(whole[batch.real], dense.exp()[batch.real], rtol=0.15, atol=1e-5)


@pytest.mark.parametrize("power", [0.6, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_on_average_the_weights_of_sampled_labels_are_the_teachers_probabilities(
    power, temperature, examples, tmp_path, build_model
):
    draws = 20_000
    recorder = Sampled(300, draws, power, temperature)
    local, store = stored(build_model(layers=2), examples[:5], tmp_path, recorder=recorder, temperature=temperature)
    batch = packed(examples, [3, 0, 1])
    said, dense = store.signals(batch, Wanted(logits=True)).logits, log_probabilities(local, batch, temperature)
    proposal = (power * dense).log_softmax(-1)
    weights = torch.zeros_like(dense).scatter_add(-1, said.ids, said.weights)
    deviation = ((2 * dense - proposal).exp() / draws).sqrt()  # at most, of one token's weight
    excess = (weights - dense.exp())[batch.real].abs() / deviation[batch.real]
    assert excess.max() < 6
    assert 0.5 < excess.square().mean() < 1.5
    assert_close(said.entropy[batch.real], torch.special.entr(dense.exp()).sum(-1)[batch.real], rtol=2**-10, atol=1e-5)
    assert (said.weights[~batch.real] == 0).all()


def test_a_store_of_draws_answers_at_its_own_temperature_alone(examples, tmp_path, build_model):
    _, store = stored(build_model(layers=1), examples, tmp_path, recorder=Sampled(300, 5, temperature=2.0))
    assert store.temperature == 2.0
    with pytest.raises(StaleError, match="hold the teacher at temperature 2.0, but 1.0 is asked for"):
        StoredTeacher(tmp_path, temperature=1.0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("keeps_head", [True, False])
def test_hidden_states_come_back_layer_by_layer(bits, keeps_head, examples, tmp_path, build_model):
    recorder = States(bits, (0, 2, 3), keeps_head)
    local, store = stored(build_model(layers=3), examples, tmp_path, recorder=recorder)
    batch = packed(examples, [3, 0, 8, 5])
    wanted = Wanted(logits=keeps_head, hidden_states=frozenset({3, 0}))
    live, kept = local.signals(batch, wanted), store.signals(batch, wanted)
    assert set(kept.hidden_states) == {0, 3}
    pairs = [(kept.hidden_states[layer], live.hidden_states[layer]) for layer in (0, 3)]
    if keeps_head:
        pairs.append((kept.logits.hidden, live.logits.hidden))
    for back, original in pairs:
        size = original[batch.real].abs().amax(-1, keepdim=True)
        bound = size / 254 if bits == 8 else size * 2**-11
        assert ((back - original)[batch.real].abs() <= bound + 1e-5).all()
        assert (back[~batch.real] == 0).all()


def test_a_vocabulary_beyond_65536_tokens_is_stored_like_any_other(tmp_path, build_example, build_model):
    vocab = 70_000
    model = build_model(layers=1, hidden=8, vocab=vocab)
    examples = [build_example(seed, 6, vocab=vocab) for seed in range(3)]
    model.get_output_embeddings().weight.data[65_540:] *= 5  # so that its last tokens are likely
    batch = to_batch([[example] for example in examples])
    for recorder in (Sparse(vocab, 0.0, 40), Sampled(vocab, 40)):
        local, store = stored(model, examples, tmp_path / recorder.signal, recorder=recorder)
        said, dense = store.signals(batch, Wanted(logits=True)).logits, log_probabilities(local, batch)
        assert said.ids.max() > 65_536
        assert dense.gather(-1, said.ids).min() > -20
        if recorder.signal == "sparse":
            assert (said.ids.sort(-1).values == dense.topk(40).indices.sort(-1).values).all()


def test_tokens_that_only_pad_the_head_are_never_kept(examples, tmp_path, build_model):
    for recorder in (Sparse(250, 0.0, 250), Sampled(250, 300)):
        _, store = stored(build_model(layers=1), examples, tmp_path / recorder.signal, recorder=recorder)
        said = store.signals(packed(examples, [3, 0]), Wanted(logits=True)).logits
        assert said.vocab_size == 250 > said.ids.max()


def test_banned_tokens_are_neither_kept_nor_counted(examples, tmp_path, build_model):
    model = build_model("phi", layers=1)  # whose head has a bias
    model.get_output_embeddings().bias.data[10:] = -torch.inf
    batch = packed(examples, [3, 0])
    _, store = stored(model, examples, tmp_path / "sparse", recorder=Sparse(300, 0.0, 40))
    said = store.signals(batch, Wanted(logits=True)).logits
    assert said.ids.shape[-1] == 10
    assert (said.tail[batch.real] == -torch.inf).all()
    _, store = stored(model, examples, tmp_path / "sampled", recorder=Sampled(300, 40, 0.5))
    said = store.signals(batch, Wanted(logits=True)).logits
    assert said.ids.max() < 10
    assert said.weights.isfinite().all()


def test_padding_has_no_label_and_stays_zero(examples, tmp_path, build_model):
    _, store = stored(build_model(layers=2), examples, tmp_path)
    batch = packed(examples, [0, 1])
    assert (batch.documents < 0).any()
    assert (store.signals(batch, Wanted(logits=True)).logits.hidden[batch.documents < 0] == 0).all()


def test_both_are_teachers(examples, tmp_path, build_model):
    for recorder in (States(), States(8, (1,), False), Sparse(300), Sampled(300)):
        folder = tmp_path / f"{recorder.signal}"
        for teacher in stored(build_model(layers=2), examples, folder, recorder=recorder):
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
