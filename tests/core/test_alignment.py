"""Spans of a text that was cut twice, and outcomes of two vocabularies, by their laws."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.alignment import align, match_outcomes, share_outcomes

CUTS = st.lists(st.integers(0, 4), max_size=30)
"""A text, as the lengths of its tokens."""


def ends_of(lengths, total):
    """The end of each token, of a text of that many bytes."""
    ends = [min(end, total) for end in accumulate(lengths)]
    return torch.tensor([*ends, total], dtype=torch.long)


def by_scalar_loop(ours, theirs):
    """Spans as pairs of lists of tokens, found by walking along both sides."""
    spans, here = [], ([], [])
    one = other = 0
    boundaries = sorted(set(ours) & set(theirs) - {0})
    for boundary in boundaries:
        here = ([], [])
        while one < len(ours) and ours[one] <= boundary:
            here[0].append(one)
            one += 1
        while other < len(theirs) and theirs[other] <= boundary:
            here[1].append(other)
            other += 1
        spans.append(here)
    return spans


@given(CUTS, CUTS, st.integers(1, 40))
def test_spans_part_the_bytes_and_the_tokens_of_both_sides(ours, theirs, total):
    student, teacher = ends_of(ours, total), ends_of(theirs, total)
    spans = align(student, teacher)
    assert spans.ends[-1] == total
    assert (spans.ends.diff() > 0).all() and (spans.ends > 0).all()
    for side, ends in ((spans.student, student), (spans.teacher, teacher)):
        assert side.unique().tolist() == list(range(len(spans.ends)))  # each token has one, and each span a token
        assert (side.diff() >= 0).all()
        last = torch.cat([side.diff() > 0, torch.tensor([True])])
        assert torch.equal(ends[last], spans.ends)  # a span ends with a token


@given(CUTS, CUTS, st.integers(1, 40))
def test_spans_are_as_small_as_can_be(ours, theirs, total):
    student, teacher = ends_of(ours, total), ends_of(theirs, total)
    spans = align(student, teacher)
    found = [
        ((spans.student == span).nonzero()[:, 0].tolist(), (spans.teacher == span).nonzero()[:, 0].tolist())
        for span in range(len(spans.ends))
    ]
    assert found == by_scalar_loop(student.tolist(), teacher.tolist())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_the_same_tokens_twice_are_a_span_each(lengths):
    ends = torch.tensor(list(accumulate(lengths)))
    spans = align(ends, ends)
    assert torch.equal(spans.student, torch.arange(len(ends))) and torch.equal(spans.teacher, spans.student)
    assert spans.one_to_one.all()


@given(CUTS, CUTS, st.integers(1, 40))
def test_changing_sides_changes_nothing_else(ours, theirs, total):
    student, teacher = ends_of(ours, total), ends_of(theirs, total)
    there, back = align(student, teacher), align(teacher, student)
    assert torch.equal(there.ends, back.ends) and torch.equal(there.student, back.teacher)
    assert torch.equal(there.one_to_one, back.one_to_one)


@given(CUTS, CUTS, CUTS, CUTS, st.integers(1, 20), st.integers(1, 20))
def test_documents_laid_end_to_end_are_aligned_as_each_alone(a, b, c, d, first, second):
    ours, theirs = (ends_of(a, first), ends_of(c, second)), (ends_of(b, first), ends_of(d, second))
    alone = [align(student, teacher) for student, teacher in zip(ours, theirs, strict=True)]
    together = align(torch.cat([ours[0], first + ours[1]]), torch.cat([theirs[0], first + theirs[1]]))
    # Only a token of no bytes at the very beginning of the second goes with the first's last.
    if ours[1][0] > 0 and theirs[1][0] > 0:
        count = len(alone[0].ends)
        assert torch.equal(together.student, torch.cat([alone[0].student, count + alone[1].student]))
        assert torch.equal(together.teacher, torch.cat([alone[0].teacher, count + alone[1].teacher]))


def test_a_token_of_no_bytes_goes_with_the_text_before_it_or_at_the_beginning_after_it():
    spans = align(torch.tensor([0, 2, 2, 3]), torch.tensor([2, 3]))
    assert spans.student.tolist() == [0, 0, 0, 1]
    assert spans.one_to_one.tolist() == [False, True]


def test_what_only_one_side_goes_on_to_say_is_in_no_span():
    spans = align(torch.tensor([2, 5, 6]), torch.tensor([1, 5]))  # one side has an end of turn, the other has none
    assert spans.ends.tolist() == [5]
    assert (spans.student.tolist(), spans.teacher.tolist()) == ([0, 0, -1], [0, 0])
    assert align(torch.tensor([3]), torch.tensor([], dtype=torch.long)).student.tolist() == [-1]


@pytest.mark.parametrize("ends", [[3, 2], [-1, 2]])
def test_tokens_that_do_not_follow_one_another_are_refused(ends):
    with pytest.raises(ValueError, match="The teacher's tokens must end one after another"):
        align(torch.tensor([2]), torch.tensor(ends))


SPELLINGS = st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=3)), min_size=1, max_size=20)


@given(SPELLINGS)
def test_equal_vocabularies_have_one_token_an_outcome(vocabulary):
    shared = share_outcomes(vocabulary, vocabulary)
    assert torch.equal(shared.student, shared.teacher)
    spelt = shared.student[torch.tensor([spelling is not None for spelling in vocabulary])]
    assert torch.equal(spelt, torch.arange(shared.count))


@given(SPELLINGS, SPELLINGS)
def test_every_outcome_has_tokens_of_both_sides_and_what_spells_the_same_is_one(ours, theirs):
    shared = share_outcomes(ours, theirs)
    for side in (shared.student, shared.teacher):
        assert side[side >= 0].unique().tolist() == list(range(shared.count))
    for one, spelling in enumerate(ours):
        for other, same in enumerate(theirs):
            if spelling is not None and spelling == same and ours.count(same) == theirs.count(same) == 1:
                assert shared.student[one] == shared.teacher[other] >= 0


@given(SPELLINGS, SPELLINGS)
def test_all_tokens_of_an_outcome_begin_alike(ours, theirs):
    shared = share_outcomes(ours, theirs)
    for outcome in range(shared.count):
        tokens = [ours[token] for token in (shared.student == outcome).nonzero()[:, 0]]
        tokens += [theirs[token] for token in (shared.teacher == outcome).nonzero()[:, 0]]
        shortest = min(tokens, key=len)
        assert all(token.startswith(shortest) for token in tokens)


def test_a_token_of_one_side_joins_the_longest_of_the_other_that_it_begins_with():
    ours, theirs = [b"u", b"un", b"believ", b"x"], [b"u", b"un", b"unbelievable", b"y", None]
    shared = share_outcomes(ours, theirs)
    assert shared.student.tolist() == [0, 1, -1, -1]
    assert shared.teacher.tolist() == [0, 1, 1, -1, -1]
    assert shared.student_tokens == 2


def test_a_reader_of_bytes_shares_the_next_byte_with_any_other():
    words = [b"the", b"then", b"fox", b"f", b"\xf0\x9f\xa6\x8a"]
    shared = share_outcomes([bytes([byte]) for byte in range(256)], words)
    assert shared.count == len({word[0] for word in words})
    assert shared.teacher.tolist() == [1, 1, 0, 0, 2]


def test_paired_special_tokens_are_an_outcome_and_lone_ones_none():
    shared = share_outcomes([b"a", None, None], [None, b"a", None], pairs=[(2, 0)])
    assert (shared.student.tolist(), shared.teacher.tolist()) == ([0, -1, 1], [1, 0, -1])


VOCABULARIES = st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=2)), min_size=1, max_size=8)


@given(VOCABULARIES, VOCABULARIES)
def test_only_what_is_spelt_the_same_is_matched_and_all_others_are_the_last_outcome(ours, theirs):
    found = match_outcomes(ours, theirs)
    rest = found.count - 1
    both = ({*ours} & {*theirs}) - {None}
    assert len(both) <= rest <= sum(spelling in both for spelling in ours)
    for vocabulary, outcomes in ((ours, found.student), (theirs, found.teacher)):
        assert [outcome == rest for outcome in outcomes.tolist()] == [spelling not in both for spelling in vocabulary]
    for own, outcome in zip(ours, found.student.tolist(), strict=True):
        if outcome != rest:
            assert own in [other for other, same in zip(theirs, found.teacher.tolist(), strict=True) if same == outcome]


def test_equal_vocabularies_and_paired_special_tokens_leave_nothing_to_the_last_outcome():
    names = [b"a", None, b"ab"]
    found = match_outcomes(names, names, pairs=[(1, 1)])
    assert found.student.tolist() == found.teacher.tolist() == [0, 1, 2]
    assert found.count == 4
