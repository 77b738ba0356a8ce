"""Two tokenizations of one document: the same text in every span, every turn compared, and nothing learnt twice."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillhouse.core.batch import PairedBatch, as_batch
from stillhouse.core.errors import DataError, ModelError
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import conversation
from stillhouse.data.config import ChatDataConfig, TextDataConfig
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import PairedRows, PlacedExample, pair_pieces
from stillhouse.data.paired_text import PairedChatReader, PairedTextReader
from stillhouse.data.prepare import prepare
from stillhouse.data.text import Row, to_examples
from stillhouse.models.token_bytes import token_bytes

from .chat_families import FAMILIES, has, tokenizer_of

TEXTS = [
    "the small fox ran over the hill",
    "  two  runs   of spaces, and one at the end ",
    "def main():\r\n\treturn 1\r\n\r\n",
    "你好，世界。今日は",
    "👩‍👩‍👧 a family, 🦊 a fox, 🇮🇹",
    "naïve e\u0301clair ﬁnal ＡＢＣ Straße İ",
    "\u200b\ufeff\x00\x7f",
]


def make_pieces() -> PreTrainedTokenizerFast:
    """Pieces with a sign for the space, and bytes where there is no piece, as Llama 2 and Gemma have them."""
    names = ["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"thefoxranovsmli"]
    merges = [("▁", "t"), ("t", "h"), ("th", "e"), ("▁", "the"), ("f", "o"), ("fo", "x")]
    names += [one + other for one, other in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(names))}
    bpe = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def make_bytes() -> PreTrainedTokenizerFast:
    """One token a byte."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=257, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")


@pytest.fixture(scope="module")
def sides(tokenizer):
    return {"words": tokenizer, "pieces": make_pieces(), "bytes": make_bytes()}


@cache
def reader_of(student, teacher, max_tokens):
    return PairedTextReader(student, teacher, max_tokens=max_tokens)


@cache
def spellings(tokenizer):
    return token_bytes(tokenizer)


def spelt(tokenizer, ids, spans, span):
    """The bytes of a span on one side; an end of text is none."""
    known = spellings(tokenizer)
    return b"".join(known[token] or b"" for token, own in zip(ids, spans, strict=True) if own == span)


def assert_spans_hold_the_same_text(pair, student, teacher):
    for span in range(pair.num_spans):
        ours = spelt(student, pair.student.ids, pair.student_spans, span)
        assert ours == spelt(teacher, pair.teacher.ids, pair.teacher_spans, span)
    for spans in (pair.student_spans, pair.teacher_spans):
        found = [span for span in spans if span >= 0]
        assert found == sorted(found)
        assert set(found) == set(range(pair.num_spans))
    for spans, example in ((pair.student_spans, pair.student), (pair.teacher_spans, pair.teacher)):
        assert spans[0] == -1
        assert all(weight > 0 for span, weight in zip(spans, example.weights, strict=True) if span >= 0)


PAIRS = [("words", "pieces"), ("pieces", "bytes"), ("bytes", "words"), ("words", "words"), ("pieces", "pieces")]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@settings(max_examples=40, deadline=None)
@given(text=st.one_of(st.text(min_size=1, max_size=40), st.sampled_from(TEXTS)), prompt=st.sampled_from(["", *TEXTS]))
def test_every_span_holds_the_same_bytes_on_both_sides(ours, theirs, text, prompt, sides):
    if "▁" in text:
        return  # to pieces it is a space
    student, teacher = sides[ours], sides[theirs]
    (pair,) = reader_of(student, teacher, 1000).pairs([Row(text, prompt)])
    assert_spans_hold_the_same_text(pair, student, teacher)
    # Nothing of the text is left out, and the end is compared as well.
    spans = range(pair.num_spans)
    assert b"".join(spelt(student, pair.student.ids, pair.student_spans, span) for span in spans) == text.encode()
    assert pair.student_spans[-1] == pair.teacher_spans[-1] == pair.num_spans - 1
    for own, tokenizer in ((pair.student, student), (pair.teacher, teacher)):
        (alone,) = to_examples([Row(text, prompt)], tokenizer, max_tokens=1000)
        assert (own.ids, own.weights, own.num_bytes) == (alone.ids, alone.weights, alone.num_bytes)


@pytest.mark.parametrize("max_tokens", [8, 13, 64])
def test_equal_tokenizers_have_the_rows_that_one_has_and_a_span_a_token(tokenizer, max_tokens):
    rows = [Row(text * 3, prompt) for text in TEXTS for prompt in ("", "say: ")]
    pairs = PairedTextReader(tokenizer, tokenizer, max_tokens=max_tokens).pairs(rows)
    plain = to_examples(rows, tokenizer, max_tokens=max_tokens)
    assert [pair.student for pair in pairs] == plain
    assert [pair.teacher.ids for pair in pairs] == [example.ids for example in plain]
    for pair in pairs:
        counted = [span for span, weight in zip(pair.student_spans, pair.student.weights, strict=True) if weight]
        assert counted == list(range(pair.num_spans))
        assert pair.student_spans == pair.teacher_spans
    paired, packed = PairedRows(pairs, row_tokens=max_tokens), PackedRows(plain, row_tokens=max_tokens)
    assert paired.rows == packed.rows


@pytest.mark.parametrize(("ours", "theirs"), PAIRS[:3])
@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS[:6]), min_size=1, max_size=5).map(" ".join),
    prompt=st.sampled_from(["", "the fox", TEXTS[3] * 9]),
    max_tokens=st.sampled_from([12, 17, 31, 60]),
)
def test_long_texts_are_cut_where_both_sides_have_read_the_same(ours, theirs, texts, prompt, max_tokens, sides):
    student, teacher = sides[ours], sides[theirs]
    (whole,) = reader_of(student, teacher, 10_000).pairs([Row(texts, prompt)])
    pairs = reader_of(student, teacher, max_tokens).pairs([Row(texts, prompt)])
    for pair in pairs:
        assert max(len(pair.student.ids), len(pair.teacher.ids)) <= max_tokens
        assert_spans_hold_the_same_text(pair, student, teacher)
        assert {pair.student.document, pair.teacher.document} == {whole.student.document}
    # Every span is compared once, in order; a long one may have no room.
    found = [
        spelt(student, pair.student.ids, pair.student_spans, span) for pair in pairs for span in range(pair.num_spans)
    ]
    wanted = [spelt(student, whole.student.ids, whole.student_spans, span) for span in range(whole.num_spans)]
    remaining = iter(wanted)
    assert all(piece in remaining for piece in found)
    assert len(found) >= 0.9 * len(wanted)
    assert sum(pair.student.num_bytes for pair in pairs) == len(texts.encode())
    for name in ("student", "teacher"):
        learnt = [sum(getattr(pair, name).weights) for pair in pairs]
        assert sum(learnt) <= sum(getattr(whole, name).weights)


def test_a_span_too_long_for_a_row_is_read_from_its_end_and_not_compared():
    ends = tuple(range(1, 31))
    student = PlacedExample(Example(tuple(range(31)), (0.0, *[1.0] * 30), 30), (-1, *ends))
    teacher = PlacedExample(Example((0, 1, 2), (0.0, 1.0, 1.0), 30), (-1, 29, 30))
    pairs = list(pair_pieces(student, teacher, max_tokens=10))
    assert all(len(pair.student.ids) <= 10 for pair in pairs)
    assert pairs[0].num_spans == 0  # its beginning is in no piece
    assert pairs[-1].num_spans == 1
    assert pairs[-1].student.ids[-1] == 30


def test_a_first_token_that_nothing_predicts_is_in_no_span():
    """Without a beginning-of-text token on one side, the first piece of text cannot be compared."""
    student = PlacedExample(Example((5, 6, 7), (1.0, 1.0, 1.0), 3), (1, 2, 3))
    teacher = PlacedExample(Example((0, 5, 6, 7), (0.0, 1.0, 1.0, 1.0), 3), (-1, 1, 2, 3))
    (pair,) = pair_pieces(student, teacher, max_tokens=10)
    assert pair.student_spans == (-1, 0, 1)
    assert pair.teacher_spans == (-1, -1, 0, 1)


def test_a_batch_numbers_the_spans_of_a_row_on_and_says_what_each_counts_for(sides):
    reader = PairedTextReader(sides["words"], sides["pieces"], max_tokens=80)
    rows = PairedRows(reader.pairs([Row(text) for text in TEXTS[:4]]), row_tokens=80)
    batch = as_batch(rows.collate([rows[index] for index in range(len(rows))]))
    assert isinstance(batch, PairedBatch)
    assert batch.ids.shape != batch.teacher_ids.shape
    for spans, documents in ((batch.spans, batch.documents), (batch.teacher_spans, batch.teacher_documents)):
        for row, (own, number) in enumerate(zip(spans, documents, strict=True)):
            found = own[own >= 0]
            counts = sum(pair.num_spans for pair in rows[row])
            assert found.unique().tolist() == list(range(counts))
            assert (found.diff() >= 0).all()
            assert (number[own >= 0] >= 0).all()
    assert_weights = sum(pair.num_spans for index in range(len(rows)) for pair in rows[index])
    assert batch.span_weights.tolist() == [1.0] * assert_weights
    assert (batch.teacher.documents >= 0).sum() == sum(len(example.ids) for example in rows.teacher_examples)
    assert torch.equal(as_batch(batch.tensors()).teacher_spans, batch.teacher_spans)


READ = [name for name in FAMILIES if has(name) and name != "phi3_5_taking"]
TALK = [
    {"role": "user", "content": "Where is 东京?"},
    {"role": "assistant", "content": "In Japan 🦊.\r\n  Two  lines."},
    {"role": "user", "content": "And Rome?"},
    {"role": "assistant", "content": "In Italy, the small fox said."},
]


@pytest.mark.parametrize("theirs", READ)
@pytest.mark.parametrize("ours", ["chatml", "mistral_7b"])
def test_every_turn_is_compared_in_each_sides_own_template(ours, theirs):
    student, teacher = tokenizer_of(ours), tokenizer_of(theirs)
    reader = PairedChatReader(student, teacher, max_tokens=1000)
    (pair,) = reader.pairs([conversation(TALK)])
    for own, tokenizer in ((pair.student, student), (pair.teacher, teacher)):
        alone = ChatReader(tokenizer).example(conversation(TALK))
        assert (own.ids, own.weights) == (alone.ids, alone.weights)
    assert_chat_spans(pair, student, teacher, [message["content"] for message in TALK[1::2]])
    assert reader.turns_apart == 0


def assert_chat_spans(pair, student, teacher, contents):
    """In spans: what is said, byte for byte, and after each turn its end on both sides; white space apart."""
    said = []
    for span in range(pair.num_spans):
        ours, theirs = (
            spelt(*side, span)
            for side in (
                (student, pair.student.ids, pair.student_spans),
                (teacher, pair.teacher.ids, pair.teacher_spans),
            )
        )
        assert ours.strip() == theirs.strip()
        said.append(ours)
    joined = b"".join(part or b"|" for part in said)
    assert joined.replace(b" ", b"") == "".join(f"{content}|" for content in contents).encode().replace(b" ", b"")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.text(min_size=1, max_size=30).filter(lambda text: text.strip() == text and "<" not in text))
def test_whatever_is_said_is_compared_byte_for_byte(content):
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    student, teacher = tokenizer_of("chatml"), tokenizer_of("phi3_5")
    (pair,) = PairedChatReader(student, teacher, max_tokens=1000).pairs([conversation(talk)])
    spans = range(pair.num_spans)
    for side in ((student, pair.student.ids, pair.student_spans), (teacher, pair.teacher.ids, pair.teacher_spans)):
        assert b"".join(spelt(*side, span) for span in spans) == content.encode()


def test_the_weight_of_a_turn_is_that_of_its_spans():
    talk = [dict(message) for message in TALK]
    student, teacher = tokenizer_of("chatml"), tokenizer_of("phi3_5")
    (all_of_them,) = PairedChatReader(student, teacher, max_tokens=1000).pairs([conversation(talk)])
    (last,) = PairedChatReader(student, teacher, max_tokens=1000, weight="last").pairs([conversation(talk)])
    assert 0 < last.num_spans < all_of_them.num_spans
    assert_chat_spans(last, student, teacher, [TALK[3]["content"]])
    talk[1]["weight"] = 0
    (unweighted,) = PairedChatReader(student, teacher, max_tokens=1000).pairs([conversation(talk)])
    assert unweighted == last


def test_a_turn_that_the_templates_write_differently_is_counted_and_not_compared():
    shouting = copy.deepcopy(tokenizer_of("chatml"))
    shouting.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'assistant' and loop.index == 2 %} Ask on!{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    reader = PairedChatReader(tokenizer_of("phi3_5"), shouting, max_tokens=1000)
    (pair,) = reader.pairs([conversation(TALK)])
    assert reader.turns_apart == 1
    assert_chat_spans(pair, tokenizer_of("phi3_5"), shouting, [TALK[3]["content"]])
    assert sum(pair.student.weights) > sum(span >= 0 for span in pair.student_spans)


def test_whose_template_it_is_that_refuses_is_said():
    strict = copy.deepcopy(tokenizer_of("chatml"))
    strict.chat_template = "{{ raise_exception('no systems') if messages[0].role == 'system' }}" + strict.chat_template
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    with pytest.raises(DataError, match="the student's chat template refuses it"):
        PairedChatReader(strict, tokenizer_of("chatml"), max_tokens=99).pairs([conversation(talk)])
    strict.chat_template = None
    with pytest.raises(ModelError, match="the student's tokenizer has none"):
        PairedChatReader(strict, tokenizer_of("chatml"), max_tokens=99)


def test_prepared_rows_say_how_much_of_them_is_compared(write, sides):
    texts = write("texts.jsonl", [{"text": f"{text} {number}"} for number in range(4) for text in TEXTS])
    config = TextDataConfig(path=texts, sequence_tokens=64)
    prepared = prepare(config, sides["words"], teacher_tokenizer=sides["pieces"])
    assert isinstance(prepared.train, PairedRows) and isinstance(prepared.held_out, PairedRows)
    assert any("compare 100% of the student's tokens" in note for note in prepared.notes)
    chats = write("chats.jsonl", [{"messages": [*TALK, {"role": "user", "content": str(n)}]} for n in range(12)])
    talks = prepare(
        ChatDataConfig(path=chats), tokenizer_of("chatml"), teacher_tokenizer=tokenizer_of("phi3_5"), seed=0
    )
    assert isinstance(talks.train, PairedRows)
    assert all(pair.num_spans for pair in talks.train.pairs)
