"""Two tokenizations of one text, and two vocabularies, laid side by side: by bytes alone, knowing no model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """The smallest pieces of a text that begin and end between two tokens on both sides.

    Each has at least one token of each side. A token that ends after the last common boundary belongs to none.
    """

    ends: Int[Tensor, " spans"]
    """The byte at which each span ends; it begins where the one before ends."""
    student: Int[Tensor, " student_tokens"]
    """The span of each token; -1 for none."""
    teacher: Int[Tensor, " teacher_tokens"]
    """The same of the teacher's."""

    @property
    def one_to_one(self) -> Bool[Tensor, " spans"]:
        """Where one token of the student stands beside one of the teacher."""
        counts = [torch.bincount(side[side >= 0], minlength=len(self.ends)) for side in (self.student, self.teacher)]
        return (counts[0] == 1) & (counts[1] == 1)


def align(student_ends: Int[Tensor, " student_tokens"], teacher_ends: Int[Tensor, " teacher_tokens"]) -> Spans:
    """Spans of one text that was cut twice, from the byte at which each token ends.

    Documents laid end to end are aligned at once, if the bytes of the next are counted on from the one before. A token of
    no bytes goes with the text before it; at the very beginning, with the text after it.

    Raises: ValueError if ends fall, or lie before the text.
    """
    for side, ends in (("student", student_ends), ("teacher", teacher_ends)):
        if (ends < 0).any() or (ends.diff() < 0).any():
            raise ValueError(
                f"The {side}'s tokens must end one after another in the text, but they end at {ends.tolist()}."
            )
    common = student_ends.unique()
    common = common[(common > 0) & torch.isin(common, teacher_ends)]
    return Spans(common, _span_of(student_ends, common), _span_of(teacher_ends, common))


def _span_of(ends: Int[Tensor, " tokens"], common: Int[Tensor, " spans"]) -> Int[Tensor, " tokens"]:
    spans = torch.searchsorted(common, ends)
    return spans.masked_fill(spans == len(common), -1)


@dataclass(frozen=True)
class SharedOutcomes:
    """What may come next, in words that both vocabularies have: each token is one way to begin an outcome.

    Every outcome has at least one token of each side.
    """

    student: Int[Tensor, " student_vocab"]
    """The outcome of each token; -1 where the other side has nothing like it."""
    teacher: Int[Tensor, " teacher_vocab"]
    """The same of the teacher's."""
    count: int

    @property
    def student_tokens(self) -> int:
        """How many tokens of the student have an outcome."""
        return int((self.student >= 0).sum())


def share_outcomes(
    student: Sequence[bytes | None], teacher: Sequence[bytes | None], *, pairs: Iterable[tuple[int, int]] = ()
) -> SharedOutcomes:
    """Outcomes of two vocabularies, from the bytes that each token spells.

    Tokens that spell the same are one outcome. A token that only one side has joins the longest token of the other side
    that it begins with: a reader that has no `unbelievable` would read `un` first. Equal vocabularies have one token an
    outcome. Tokens that spell nothing (None) have none, but for `pairs` of a student's and a teacher's id that mean the
    same, such as two ends of a turn.
    """
    links = [*_links(student, teacher), *((ours, theirs) for theirs, ours in _links(teacher, student)), *pairs]
    return _numbered(_roots(links, sizes=(len(student), len(teacher))), num_student=len(student))


def match_outcomes(
    student: Sequence[bytes | None], teacher: Sequence[bytes | None], *, pairs: Iterable[tuple[int, int]] = ()
) -> SharedOutcomes:
    """One outcome for each token that both vocabularies spell the same, and a last one for all others of either side.

    Equal vocabularies have nothing in that last one. `pairs` as in `share_outcomes`.
    """
    either = [*_links(student, teacher), *((ours, theirs) for theirs, ours in _links(teacher, student))]
    same = [(ours, theirs) for ours, theirs in either if student[ours] == teacher[theirs]]
    found = _numbered(_roots([*same, *pairs], sizes=(len(student), len(teacher))), num_student=len(student))
    ours, theirs = (side.masked_fill(side < 0, found.count) for side in (found.student, found.teacher))
    return SharedOutcomes(ours, theirs, found.count + 1)


@dataclass(frozen=True)
class CommonOutcomes:
    """What two vocabularies have in common, in both ways of saying it."""

    joined: SharedOutcomes
    """By `share_outcomes`: nearly every token has a place."""
    matched: SharedOutcomes
    """By `match_outcomes`: only what is spelt the same, and the rest."""

    def to(self, device: torch.device) -> "CommonOutcomes":
        """The same on this device."""
        return CommonOutcomes(
            *(
                SharedOutcomes(found.student.to(device), found.teacher.to(device), found.count)
                for found in (self.joined, self.matched)
            )
        )


def _roots(links: Iterable[tuple[int, int]], *, sizes: tuple[int, int]) -> list[int]:
    """For each token of the student and then of the teacher, the first of all that are linked with it."""
    offset = sizes[0]  # the teacher's tokens are numbered on from the student's
    roots = list(range(sum(sizes)))
    for ours, theirs in links:
        low, high = sorted((_root(roots, ours), _root(roots, offset + theirs)))
        roots[high] = low
    return [_root(roots, token) for token in range(len(roots))]


def _links(vocabulary: Sequence[bytes | None], other: Sequence[bytes | None]) -> Iterable[tuple[int, int]]:
    """Each token, and the other side's that spells the same, or else the longest that it begins with."""
    spelt: Mapping[bytes, list[int]] = _by_spelling(other)
    seen: dict[bytes, int] = defaultdict(int)
    for token, spelling in enumerate(vocabulary):
        if not spelling:
            continue
        if spelling in spelt:
            same = spelt[spelling]  # where several spell the same, the first goes with the first
            yield token, same[min(seen[spelling], len(same) - 1)]
            seen[spelling] += 1
            continue
        prefixes = (spelling[:length] for length in range(len(spelling) - 1, 0, -1))
        longest = next((prefix for prefix in prefixes if prefix in spelt), None)
        if longest is not None:
            yield token, spelt[longest][0]


def _by_spelling(vocabulary: Sequence[bytes | None]) -> Mapping[bytes, list[int]]:
    tokens: dict[bytes, list[int]] = defaultdict(list)
    for token, spelling in enumerate(vocabulary):
        if spelling:
            tokens[spelling].append(token)
    return tokens


def _root(roots: list[int], token: int) -> int:
    while roots[token] != token:
        roots[token] = roots[roots[token]]
        token = roots[token]
    return token


def _numbered(roots: Sequence[int], *, num_student: int) -> SharedOutcomes:
    """Outcomes in the order of the student's tokens; what only one side has is none."""
    both = set(roots[:num_student]) & set(roots[num_student:])
    numbers = {root: number for number, root in enumerate(sorted(both))}
    outcomes = torch.tensor([numbers.get(root, -1) for root in roots], dtype=torch.long)
    return SharedOutcomes(outcomes[:num_student], outcomes[num_student:], len(numbers))
