"""Documents share rows: none is lost, cut or doubled, and hardly a position is wasted."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.batch import as_batch
from stillhouse.data.examples import Example
from stillhouse.data.packing import pack, to_batch

LENGTHS = st.lists(st.integers(1, 32), max_size=60)
DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(2, 299), st.floats(0, 2)), min_size=1, max_size=9), min_size=1, max_size=5
)


@given(lengths=LENGTHS)
def test_packing_is_a_partition_into_rows_that_fit(lengths):
    rows = pack(lengths, row_tokens=32)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[index] for index in row) <= 32 for row in rows)


@given(lengths=LENGTHS)
def test_packing_depends_on_the_lengths_alone(lengths):
    assert pack(lengths, row_tokens=32) == pack(list(lengths), row_tokens=32)


@given(lengths=LENGTHS)
def test_no_two_rows_could_have_been_one(lengths):
    filled = sorted(sum(lengths[index] for index in row) for row in pack(lengths, row_tokens=32))
    assert all(one + other > 32 for one, other in itertools.pairwise(filled))


@given(lengths=LENGTHS, row_tokens=st.integers(32, 40))
def test_packing_is_best_fit_decreasing(lengths, row_tokens):
    """By definition: longest first, each where the least room is left."""
    rows = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rooms = [row_tokens - sum(lengths[other] for other in row) for row in rows]
        fits = [room for room in rooms if room >= lengths[index]]
        if fits:
            rows[rooms.index(min(fits))].append(index)
        else:
            rows.append([index])
    packed = pack(lengths, row_tokens=row_tokens)
    used = lambda some: sorted(sum(lengths[index] for index in row) for row in some)  # noqa: E731
    assert used(packed) == used(rows)


REALISTIC = {
    "log-normal, median 67": lambda draw: min(256, max(4, int(draw.lognormvariate(4.2, 0.8)))),
    "exponential, mean 90": lambda draw: min(256, 2 + int(draw.expovariate(1 / 90))),
    "long texts in windows": lambda draw: 256 if draw.random() < 0.7 else draw.randint(2, 256),
}


@pytest.mark.parametrize("length", REALISTIC.values(), ids=REALISTIC.keys())
def test_less_than_two_per_cent_of_the_positions_are_wasted(length):
    draw = random.Random(0)
    lengths = [length(draw) for _ in range(200)]  # 0.7, 0.6 and 1.2 %; of 2,000 documents below 0.3 %
    assert sum(lengths) > 0.98 * 256 * len(pack(lengths, row_tokens=256))


def test_many_documents_are_packed_in_a_moment():
    draw = random.Random(0)
    lengths = [draw.randint(2, 2048) for _ in range(20_000)]
    rows = pack(lengths, row_tokens=2048)
    assert sum(lengths) > 0.99 * 2048 * len(rows)


def test_a_document_longer_than_a_row_is_refused_and_the_cure_is_named():
    with pytest.raises(ValueError, match="an example of 33 tokens does not fit a row of 32: cut it with `windows`"):
        pack([5, 33], row_tokens=32)


def test_nothing_is_packed_into_nothing():
    assert pack([], row_tokens=32) == []


@given(rows=st.lists(DOCUMENTS, min_size=1, max_size=4), room=st.integers(0, 5))
def test_a_batch_holds_each_document_at_its_place(rows, room):
    """By definition, token by token."""
    examples = [[Example(tuple(i for i, _ in d), tuple(w for _, w in d)) for d in row] for row in rows]
    width = max(sum(len(example.ids) for example in row) for row in examples) + room
    batch = to_batch(examples, row_tokens=width)
    for number, row in enumerate(examples):
        place = 0
        for document, example in enumerate(row):
            for position, (token, weight) in enumerate(zip(example.ids, example.weights, strict=True)):
                assert batch.ids[number, place] == token
                assert batch.positions[number, place] == position
                assert batch.documents[number, place] == document
                expected = torch.tensor(weight if position > 0 else 0.0)  # nothing predicts a first token
                assert batch.weights[number, place] == expected
                place += 1
        assert (batch.documents[number, place:] == -1).all()
        assert (batch.weights[number, place:] == 0).all()
        assert batch.positions[number, place:].tolist() == list(range(width - place))


@given(rows=st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_what_is_judged_is_each_token_that_carries_weight_by_the_logits_before_it(rows):
    examples = [[Example(tuple(i for i, _ in d), tuple(w for _, w in d)) for d in row] for row in rows]
    batch = to_batch(examples)
    places = [(number, place) for number, place in batch.predicts.nonzero().tolist()]
    assert [int(batch.ids[number, place + 1]) for number, place in places] == batch.targets.tolist()
    assert [float(batch.weights[number, place + 1]) for number, place in places] == batch.target_weights.tolist()
    judged = [w for row in examples for e in row for w in e.weights[1:] if torch.tensor(w) > 0]
    assert batch.target_weights.tolist() == torch.tensor(judged).tolist()
    assert float(batch.total_weight) == pytest.approx(sum(judged), rel=1e-5)
    for number, place in places:  # the judge and the judged stand in the same document
        assert batch.documents[number, place] == batch.documents[number, place + 1] >= 0


def test_without_a_width_the_longest_row_gives_it(build_example):
    assert to_batch([[build_example(0, 9)], [build_example(1, 5), build_example(2, 7)]]).ids.shape == (2, 12)


def test_the_tensors_of_a_batch_make_the_batch_again(build_example):
    batch = to_batch([[build_example(0, 9)], [build_example(1, 5)]])
    again = as_batch(batch.tensors())
    assert all(torch.equal(getattr(again, name), tensor) for name, tensor in batch.tensors().items())
