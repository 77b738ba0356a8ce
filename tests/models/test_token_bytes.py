"""Tokens stand for bytes of the text, whatever a tokenizer does to it on the way."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from unicodedata import normalize

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.byt5 import ByT5Tokenizer

from stillhouse.core.alignment import align
from stillhouse.core.errors import ModelError
from stillhouse.models.token_bytes import TextCutter, outcomes_of, spelling_of, token_bytes

TEXTS = [
    "the small fox ran over the hill",
    "  two  runs   of spaces, and one at the end ",
    "def main():\r\n\treturn 1\r\n\r\n",
    "你好，世界。今日は",
    "👩‍👩‍👧 a family, 🦊 a fox, 🇮🇹",
    "naïve e\u0301clair ﬁnal ＡＢＣ Straße İ",
    "\u200b\ufeff\x00\x7f",
    "<0x41> ▁ Ġ",
    "",
]
PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    *"thefoxranovsmali",
    "▁t",
    "th",
    "the",
    "▁the",
]
MERGES = [("▁", "t"), ("t", "h"), ("th", "e"), ("▁", "the")]


def make_pieces(*, prefix: bool = False, normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """Pieces with a sign for the space and bytes where there is no piece, as Llama 2 and Gemma have them."""
    vocab = {piece: number for number, piece in enumerate(PIECES)}
    bpe = Tokenizer(models.BPE(vocab, MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    first = [normalizers.Prepend("▁")] if prefix else []
    others = [normalizer] if normalizer else []
    bpe.normalizer = normalizers.Sequence([*others, *first, normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_trimming(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Byte-level, with a space put before every text."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=copy, eos_token="<|end|>")


@pytest.fixture(scope="module")
def exact(tokenizer: PreTrainedTokenizerFast) -> dict[str, PreTrainedTokenizerFast]:
    """Tokenizers that spell every text."""
    return {
        "bytes": tokenizer,
        "bytes after a space": make_trimming(tokenizer),
        "pieces": make_pieces(),
        "pieces after a space": make_pieces(prefix=True),
    }


EXACT = ["bytes", "bytes after a space", "pieces", "pieces after a space"]


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.sampled_from(TEXTS)))
def test_each_token_spells_the_bytes_that_it_stands_for(kind, text, exact):
    if "▁" in text and "pieces" in kind:
        return  # the sign for a space is a space to them: no such tokenizer keeps the two apart
    cutter, data = TextCutter(exact[kind]), text.encode()
    cut = cutter.cut(text)
    spelt = [cutter.spelt[number] for number in cut.ids]
    extra = b" " if "after" in kind and b"".join(spelt) != data else b""
    assert b"".join(spelt) == extra + data
    starts = [0, *cut.ends]
    for token, (start, end) in enumerate(zip(starts, cut.ends, strict=False)):
        assert data[start:end] == (spelt[token] if token else spelt[token][len(extra) :])
    assert cut.ends[-1:] == ((len(data),) if cut.ids else ())


@pytest.mark.parametrize("text", [text.replace("▁", "") for text in TEXTS], ids=range(len(TEXTS)))
@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(EXACT, 2)])
def test_spans_of_any_two_tokenizers_hold_the_same_text_on_both_sides(one, other, text, exact):
    ours, theirs = TextCutter(exact[one]), TextCutter(exact[other])
    ours_cut, theirs_cut = ours.cut(text), theirs.cut(text)
    spans = align(torch.tensor(ours_cut.ends, dtype=torch.long), torch.tensor(theirs_cut.ends, dtype=torch.long))
    start = 0
    for span, end in enumerate(spans.ends.tolist()):
        for cutter, cut, side in ((ours, ours_cut, spans.student), (theirs, theirs_cut, spans.teacher)):
            tokens = (side == span).nonzero()[:, 0].tolist()
            said = b"".join(cutter.spelt[cut.ids[token]] for token in tokens)
            assert said == text.encode()[start:end] or (span == 0 and said == b" " + text.encode()[start:end])
        start = end
    assert start == len(text.encode())
    if one == other:
        assert len(spans.ends) == len([end for end in ours_cut.ends if end])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_where_text_is_changed_a_token_ends_where_the_character_does(text, bert_tokenizer):
    composing = make_pieces(normalizer=normalizers.NFKC())
    for tokenizer in (bert_tokenizer, composing):
        cut = TextCutter(tokenizer).cut(text)
        boundaries = {len(text[:place].encode()) for place in range(len(text) + 1)}
        assert set(cut.ends) <= boundaries or (tokenizer is composing and normalize("NFKC", text) == text)
        assert list(cut.ends) == sorted(cut.ends)
        assert not cut.ids or cut.ends[-1] == len(text.encode())


def test_white_space_that_no_token_stands_for_goes_with_the_next(bert_tokenizer):
    cut = TextCutter(bert_tokenizer).cut("the  fox ran ")
    assert bert_tokenizer.convert_ids_to_tokens(list(cut.ids)) == ["the", "fox", "ran"]
    assert cut.ends == (3, 8, 13)


def test_a_character_that_becomes_two_has_no_boundary_inside():
    cut = TextCutter(make_pieces(normalizer=normalizers.NFKC())).cut("ﬁt")  # one character for f and i
    assert len(cut.ids) == 3
    assert cut.ends == (3, 3, 4)


def test_spellings_are_told_by_the_parts(tokenizer, bert_tokenizer):
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])))
    spellings = [spelling_of(one) for one in (tokenizer, make_pieces(), bert_tokenizer, plain)]
    assert spellings == ["bytes", "pieces", "words", "characters"]
    assert token_bytes(plain) == [b"a", b"b", b"ab"]
    assert set(token_bytes(bert_tokenizer)) == {None}


def test_special_tokens_spell_nothing_and_added_ones_what_they_say(tokenizer):
    copy = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    copy.add_tokens(["Ä fox"])
    spelt = token_bytes(copy)
    assert spelt[-1] == "Ä fox".encode()
    assert [spelt[number] for number in range(4)] == [None] * 4
    assert token_bytes(make_pieces())[:6] == [None, None, None, b"\x00", b"\x01", b"\x02"]


def test_outcomes_of_a_tokenizer_with_itself_are_its_tokens(tokenizer):
    shared = outcomes_of(tokenizer, tokenizer)
    assert torch.equal(shared.student, torch.arange(len(tokenizer))) and shared.count == len(tokenizer)
    assert torch.equal(shared.teacher, shared.student)


def test_outcomes_pair_what_spells_the_same_and_both_ends_of_a_text(tokenizer):
    pieces = make_pieces()
    shared = outcomes_of(tokenizer, pieces)
    number: Callable[[PreTrainedTokenizerBase, str], int] = lambda one, token: one.get_vocab()[token]  # noqa: E731
    for ours, theirs in (("Ġthe", "▁the"), ("a", "a"), ("Ċ", "<0x0A>"), ("<|end|>", "</s>")):
        assert shared.student[number(tokenizer, ours)] == shared.teacher[number(pieces, theirs)] >= 0
    assert shared.student[number(tokenizer, "<|user|>")] == -1


def test_a_tokenizer_whose_parts_are_hidden_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"^ByT5Tokenizer is not made of the parts") as refused:
        token_bytes(ByT5Tokenizer())
    assert "\n" not in str(refused.value)
