"""Which bytes of a text each token stands for, whether a tokenizer works on bytes, on pieces with a sign for the space, or on
words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, islice, takewhile
from typing import Literal

from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerBase

from stillhouse.core.alignment import CommonOutcomes, SharedOutcomes, match_outcomes, share_outcomes
from stillhouse.core.errors import ModelError

Spelling = Literal["bytes", "pieces", "words", "characters"]
"""How a vocabulary writes text: bytes as printable characters, pieces with `▁` for a space, words with `##` or `</w>` where
they go on or end, or characters as they are."""

SPACE = "▁"


@dataclass(frozen=True)
class CutText:
    """A text in tokens."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    """The byte of the text's UTF-8 at which each token ends: never falls, and the last is the end of the text."""


def spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """How its tokens are written.

    Raises:
        ModelError: if it is not made of the `tokenizers` library's parts, which can be looked at.
    """
    parts = part_of(tokenizer, "normalizer") + part_of(tokenizer, "pre_tokenizer") + part_of(tokenizer, "decoder")
    if '"ByteLevel"' in parts:
        return "bytes"
    if SPACE in parts:
        return "pieces"
    if isinstance(tokenizer.backend_tokenizer.model, WordPiece) or '"BPEDecoder"' in parts:
        return "words"
    return "characters"


def part_of(
    tokenizer: PreTrainedTokenizerBase, name: Literal["normalizer", "pre_tokenizer", "post_processor", "decoder"]
) -> str:
    """One part of the tokenizer in JSON, as its tokenizer.json has it; empty if it has none.

    Raises:
        ModelError: if it is made otherwise.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} is not made of the parts of the `tokenizers` library, so where in a text its tokens "
            "end cannot be told. Use a model with a tokenizer.json."
        )
    part = getattr(tokenizer.backend_tokenizer, name)
    return "" if part is None else part.__getstate__().decode()


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes that each id spells within a text. None for special and unknown tokens and for numbers without a token; where
    tokens are words, for all: whether a space stands before one is not in its name.

    Raises:
        ModelError: as `part_of`.
    """
    spelling, fallback = spelling_of(tokenizer), falls_back_to_bytes(tokenizer)
    vocabulary = tokenizer.get_vocab()
    spelt: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    if spelling == "words":
        return spelt
    for token, number in vocabulary.items():
        spelt[number] = _bytes_of(token, spelling, fallback=fallback)
    for number, added in tokenizer.added_tokens_decoder.items():
        spelt[number] = None if added.special else added.content.encode()
    for number in tokenizer.all_special_ids:
        spelt[number] = None
    return spelt


def falls_back_to_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a character without a token is cut into tokens such as `<0xF0>`, one a byte."""
    return bool(getattr(tokenizer.backend_tokenizer.model, "byte_fallback", False))


def _bytes_of(token: str, spelling: Spelling, *, fallback: bool) -> bytes | None:
    match spelling:
        case "bytes":
            values = _byte_of_character()
            return (
                bytes(values[character] for character in token) if all(c in values for c in token) else token.encode()
            )
        case "pieces":
            if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes([int(token[3:5], 16)])
            return token.replace(SPACE, " ").encode()
        case _:
            return token.encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others the characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


class TextCutter:
    """Cuts texts with one tokenizer and says where its tokens end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.spelt = tokenizer, token_bytes(tokenizer)

    def cut(self, text: str, *, splits_special: bool = False) -> CutText:
        """The tokens of a text, without special ones around it; with `splits_special` without any, should it name one.

        If the tokens spell the text byte for byte, as all byte-level and most other tokenizers' do, their ends are exact,
        also inside a character. Otherwise (where text is normalised, or a word unknown) they are as fine as characters: a
        token that ends inside one, or shares it with the next, ends where that does. White space that no token stands for
        goes with the token after it.
        """
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=splits_special
        )
        ids = tuple(encoding["input_ids"])
        return CutText(ids, self.ends(ids, encoding["offset_mapping"], text))

    def ends(self, ids: Sequence[int], places: Sequence[tuple[int, int]], text: str) -> tuple[int, ...]:
        """The byte at which each of these tokens ends, as for `cut`, from the characters that each says it stands for."""
        ends = self._spelt_ends(ids, text.encode())
        return ends if ends is not None else _character_ends(places, text)

    def _spelt_ends(self, ids: Sequence[int], text: bytes) -> tuple[int, ...] | None:
        pieces = [piece for number in ids if (piece := self.spelt[number]) is not None]
        if len(pieces) < len(ids):
            return None
        spelt = b"".join(pieces)
        # Some tokenizers put a space before every text: it is spelt, but not there.
        extra = len(spelt) - len(text)
        if extra not in (0, 1) or spelt != b" " * extra + text:
            return None
        return tuple(max(0, end - extra) for end in accumulate(map(len, pieces)))


@dataclass(frozen=True)
class Utterance:
    """What some tokens say, as far as they say it in whole characters."""

    text: str
    ends: tuple[int, ...]
    """The byte of the text at which each token ends, of those that say it: the first ones of all."""
    is_whole: bool
    """Whether that is all of it; what a limit cut off inside a character counts as whole, too."""


def read_back(ids: Sequence[int], spelt: Sequence[bytes | None], *, before: bytes = b"") -> Utterance:
    """The text that tokens spell, up to the first that stands for no text and to the last whole character; `before` is how it
    begins, which may be inside a character."""
    pieces = list(takewhile(lambda piece: piece is not None, (spelt[token] for token in ids)))
    spelling = b"".join([before, *(piece for piece in pieces if piece is not None)])
    is_whole = len(pieces) == len(ids)
    try:
        text = spelling.decode()
    except UnicodeDecodeError as error:
        is_whole = is_whole and error.reason == "unexpected end of data"
        text = spelling[: error.start].decode()
    num_bytes = len(text.encode())
    ends = accumulate((len(piece) for piece in pieces if piece is not None), initial=len(before))
    return Utterance(text, tuple(end for end in islice(ends, 1, None) if end <= num_bytes), is_whole)


def _character_ends(offsets: Sequence[tuple[int, int]], text: str) -> tuple[int, ...]:
    """Ends in bytes, from the characters that each token says it stands for."""
    byte_of = list(accumulate((len(character.encode()) for character in text), initial=0))
    ends = [end for _, end in offsets]
    starts = [start for start, _ in offsets]
    for number in reversed(range(len(ends) - 1)):
        if starts[number + 1] < ends[number]:
            ends[number] = ends[number + 1]
    ends[-1:] = [len(text)] * bool(ends)
    return tuple(accumulate((byte_of[end] for end in ends), max))


def outcomes_of(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> SharedOutcomes:
    """What both tokenizers' tokens can begin: see `share_outcomes`. Special tokens are paired by name, and by being the end of
    a text.

    Raises:
        ModelError: as `part_of`.
    """
    return common_outcomes(student, teacher).joined


def common_outcomes(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, pairs: Sequence[tuple[int, int]] = ()
) -> CommonOutcomes:
    """What both tokenizers' tokens can begin, in both ways of saying it. Special tokens are paired by name and by being the end
    of a text, and so are the `pairs`: of a student's and a teacher's id that mean the same, such as two ends of a turn.

    Raises:
        ModelError: as `part_of`.
    """
    ours, theirs = token_bytes(student), token_bytes(teacher)
    named = teacher.get_vocab()
    namesakes = [(id_, named[token]) for token, id_ in student.get_vocab().items() if token in named]
    same = [(one, other) for one, other in namesakes if ours[one] is None and theirs[other] is None]
    if student.eos_token_id is not None and teacher.eos_token_id is not None:
        same.append((student.eos_token_id, teacher.eos_token_id))
    same += pairs
    return CommonOutcomes(share_outcomes(ours, theirs, pairs=same), match_outcomes(ours, theirs, pairs=same))
