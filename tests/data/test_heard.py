"""What a student says in its own tokens, as a teacher with other tokens hears it: the same text, and nothing made up."""

import copy
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse.data.asked import Spoken
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import conversation
from stillhouse.data.heard import ask_conversations, ask_texts
from stillhouse.data.paired_text import PairedChatReader, PairedTextReader
from stillhouse.data.text import Row
from stillhouse.models.token_bytes import read_back, token_bytes
from stillhouse.models.tokenizers import end_of_turn

from .chat_families import FAMILIES, has, tokenizer_of
from .test_paired import TALK, TEXTS, make_bytes, make_pieces

READ = [name for name in FAMILIES if has(name) and name not in ("phi3_5_taking", "chatml")]
SAID = ["In Japan 🦊.\r\n  Two  lines.", "你好，世界。 e\u0301", "a", "👩‍👩‍👧 and  spaces ", " \n led by space"]


@cache
def chats(ours, theirs, weight="assistant"):
    return PairedChatReader(tokenizer_of(ours), tokenizer_of(theirs), max_tokens=2000, weight=weight)


@cache
def texts(ours, theirs):
    sides = {"bytes": make_bytes(), "pieces": make_pieces()}
    return PairedTextReader(sides[ours], sides[theirs], max_tokens=500)


@cache
def spellings(tokenizer):
    return token_bytes(tokenizer)


def spelt(tokenizer, example, spans, span):
    known = spellings(tokenizer)
    return b"".join(known[t] or b"" for t, own in zip(example.ids, spans, strict=True) if own == span)


def words(spelling):
    return spelling.decode(errors="surrogateescape").strip()


def texts_of_spans(pair, student, teacher):
    """What each span says on both sides: the same, but for white space; an end says nothing."""
    found = []
    for span in range(pair.num_spans):
        ours = spelt(student, pair.student, pair.student_spans, span)
        theirs = spelt(teacher, pair.teacher, pair.teacher_spans, span)
        # Templates strip what Python calls white space.
        assert words(ours) == words(theirs)
        found.append(ours)
    return found


def speak(asked, answers):
    """A conversation in which these are the answers, each with whether it is finished: what is learnt, and what was spoken."""
    ids, weights, spoken = list(asked.prompt), [0.0] * len(asked.prompt), []
    for turn, (tokens, finished) in enumerate(answers):
        spoken.append(Spoken(len(ids), tuple(tokens), finished))
        ids, weights = [*ids, *tokens], [*weights, *[asked.weights[turn]] * len(tokens)]
        if turn + 1 < len(answers):
            between = asked.followups[turn]
            more = between.prompt if finished else (*between.closing, *between.prompt)
            ids, weights = [*ids, *more], [*weights, *[0.0] * len(more)]
    said = asked.answer(ids[len(asked.prompt) :], weights[len(asked.prompt) :])
    return said.heard(spoken), spoken


def say(tokenizer, text, *, end=None):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ([*ids, end], True) if end is not None else (ids, False)


def compared(asked, answers, ours, theirs):
    heard, spoken = speak(asked, answers)
    (pair,) = heard.pairs
    assert pair.student.ids == heard.answered[0].ids
    return pair, texts_of_spans(pair, tokenizer_of(ours), tokenizer_of(theirs)), spoken


OTHERS = [("chatml", name) for name in READ] + [("mistral_7b", name) for name in ("qwen3", "gemma3")]


@pytest.mark.parametrize(("ours", "theirs"), OTHERS)
@pytest.mark.parametrize("said", SAID)
def test_the_teacher_reads_what_is_said_in_its_own_template(ours, theirs, said):
    """What it reads is what it would read if the student's answer stood in the data."""
    student, teacher = tokenizer_of(ours), tokenizer_of(theirs)
    (asked,) = ask_conversations(chats(ours, theirs), [conversation(TALK[:2])])
    lead = asked.across.spaces[0][0]
    pair, spans, spoken = compared(asked, [say(student, lead + said, end=end_of_turn(student))], ours, theirs)
    told = conversation([TALK[0], {"role": "assistant", "content": said}])
    assert pair.teacher.ids == ChatReader(teacher).example(told).ids
    assert b"".join(spans).strip() == said.strip().encode()
    assert spans[-1] == b""
    assert asked.across.hears(spoken[0])


@pytest.mark.parametrize(("ours", "theirs"), OTHERS)
def test_every_turn_is_compared_behind_the_students_own_former_ones(ours, theirs):
    student, teacher = tokenizer_of(ours), tokenizer_of(theirs)
    (asked,) = ask_conversations(chats(ours, theirs), [conversation(TALK)])
    answers = [say(student, "First, a 🦊", end=end_of_turn(student)), say(student, "then you")]
    pair, spans, _ = compared(asked, answers, ours, theirs)
    said = b"|".join([b"".join(spans[: spans.index(b"")]), b"".join(spans[spans.index(b"") + 1 :])])
    assert said == "First, a 🦊|then you".encode()
    contents = ["First, a 🦊", "then you"]
    told = [dict(message) for message in TALK]
    told[1]["content"], told[3]["content"] = contents
    assert pair.teacher.ids == ChatReader(teacher).example(conversation(told)).ids


@pytest.mark.parametrize("theirs", READ)
def test_an_answer_without_a_word_is_compared_by_its_end(theirs):
    student, teacher = tokenizer_of("chatml"), tokenizer_of(theirs)
    (asked,) = ask_conversations(chats("chatml", theirs), [conversation(TALK)])
    end = end_of_turn(student)
    pair, spans, _ = compared(asked, [([end], True), say(student, "well", end=end)], "chatml", theirs)
    assert spans[0] == b"" and b"".join(spans) == b"well" and spans[-1] == b""
    assert b"x" not in b"".join(spellings(teacher)[t] or b"" for t in pair.teacher.ids).replace(b"box", b"")
    heard, _ = speak(asked, [([], False)])
    assert heard.pairs == ()


def test_half_a_character_at_a_limit_is_not_compared_and_the_conversation_goes_on():
    student = tokenizer_of("chatml")
    (asked,) = ask_conversations(chats("chatml", "phi3_5"), [conversation(TALK)])
    whole = student("a fox 🦊", add_special_tokens=False)["input_ids"]
    known = spellings(student)
    assert len(known[whole[-1]]) < 4, "the last character should be several tokens"
    cut = whole[:-1]
    _, spans, spoken = compared(asked, [(cut, False), say(student, "ok", end=end_of_turn(student))], "chatml", "phi3_5")
    assert b"".join(spans).replace(b" ", b"") == b"afoxok"
    assert asked.across.hears(spoken[0])
    assert not asked.across.hears(Spoken(0, (*cut, end_of_turn(student)), True))


def test_a_special_token_within_an_answer_ends_what_is_compared_and_the_conversation():
    student = tokenizer_of("chatml")
    (asked,) = ask_conversations(chats("chatml", "phi3_5"), [conversation(TALK)])
    start, end = student.convert_tokens_to_ids("<|im_start|>"), end_of_turn(student)
    first, rest = (student(text, add_special_tokens=False)["input_ids"] for text in ("a small", " fox"))
    answer = ([*first, start, *rest, end], True)
    _, spans, spoken = compared(asked, [answer], "chatml", "phi3_5")
    assert b"".join(spans) == b"a small" and b"" not in spans
    assert not asked.across.hears(spoken[0])


def test_a_special_token_of_the_teachers_that_is_spelt_out_leaves_the_answer_out():
    student = tokenizer_of("chatml")
    (asked,) = ask_conversations(chats("chatml", "phi3_5"), [conversation(TALK)])
    heard, _ = speak(asked, [say(student, "a fox <|end|> ran", end=end_of_turn(student))])
    assert heard.pairs == ()


def test_an_end_that_is_not_the_end_of_a_turn_is_not_compared():
    student = copy.deepcopy(tokenizer_of("chatml"))
    other = student.convert_tokens_to_ids("<|im_start|>")
    (asked,) = ask_conversations(chats("chatml", "phi3_5"), [conversation(TALK)])
    _, spans, _ = compared(asked, [say(student, "a fox", end=other)], "chatml", "phi3_5")
    assert b"".join(spans) == b"a fox" and b"" not in spans


def test_equal_tokenizers_read_the_very_tokens_whatever_they_are():
    student = tokenizer_of("chatml")
    (asked,) = ask_conversations(chats("chatml", "chatml"), [conversation(TALK)])
    odd = [*range(40, 60), student.convert_tokens_to_ids("<|im_start|>"), 200, 201, 202]
    heard, spoken = speak(asked, [(odd, False), ([5, end_of_turn(student)], True)])
    (pair,) = heard.pairs
    assert pair.student.ids == pair.teacher.ids == heard.answered[0].ids
    learnt = [span for span, weight in zip(pair.student_spans, pair.student.weights, strict=True) if weight]
    assert learnt == list(range(pair.num_spans)) and len(learnt) == len(odd) + 2
    assert asked.across.hears(spoken[0])


@pytest.mark.parametrize("theirs", ["phi3_5", "gemma3", "chatml"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_tokens_are_drawn_nothing_breaks_and_spans_say_the_same(theirs, data):
    student, teacher = tokenizer_of("chatml"), tokenizer_of(theirs)
    (asked,) = ask_conversations(chats("chatml", theirs), [conversation(TALK)])
    tokens = st.lists(st.integers(0, len(student) - 1), min_size=1, max_size=12)
    answers = [(data.draw(tokens), False), ([*data.draw(tokens), end_of_turn(student)], True)]
    heard, spoken = speak(asked, answers)
    for pair in heard.pairs:
        texts_of_spans(pair, student, teacher)
        assert pair.num_spans <= sum(map(len, (one.tokens for one in spoken)))
        for spans, example in ((pair.student_spans, pair.student), (pair.teacher_spans, pair.teacher)):
            assert all(weight > 0 for span, weight in zip(spans, example.weights, strict=True) if span >= 0)


# Texts


@pytest.mark.parametrize("prompt", ["", "say: "])
@pytest.mark.parametrize(("ours", "theirs"), [("pieces", "bytes"), ("bytes", "pieces"), ("bytes", "bytes")])
@pytest.mark.parametrize("text", [text for text in TEXTS if "▁" not in text])
def test_a_text_that_is_gone_on_with_as_the_data_does_is_compared_as_the_datas(prompt, ours, theirs, text):
    reader = texts(ours, theirs)
    (asked,) = ask_texts(reader, [Row(text * 2, prompt)])
    given, (document,) = len(asked.prompt), asked.answered
    tokens = document.ids[given:]
    (pair,) = asked.answer(tokens).heard([Spoken(given, tokens, True)]).pairs
    (data,) = asked.pairs
    assert (pair.student.ids, pair.teacher.ids) == (data.student.ids, data.teacher.ids)
    # A token of the teacher's may cross from what was given into what is said.
    behind = {*data.student_spans[given:]} - {*data.student_spans[:given], -1}
    assert pair.num_spans == len(behind) > 0
    student, teacher = (cutter.tokenizer for cutter in reader.cutters)
    spans = texts_of_spans(pair, student, teacher)
    assert (text * 2).encode().endswith(b"".join(spans)) and spans[-1] == b""


def test_a_text_cut_off_inside_a_character_is_compared_up_to_it():
    reader = texts("bytes", "pieces")
    (asked,) = ask_texts(reader, [Row("the fox 🦊 ran", "say: ")])
    tokens = reader.cutters[0].cut("the 🦊").ids[:-1]
    (pair,) = asked.answer(tokens).heard([Spoken(len(asked.prompt), tokens, False)]).pairs
    assert b"".join(texts_of_spans(pair, *(c.tokenizer for c in reader.cutters))) == b"the "


def test_a_beginning_that_ends_inside_a_character_is_gone_on_with():
    reader = texts("bytes", "pieces")
    row = Row("🦊🦊🦊🦊🦊")  # of 20 bytes and an end, 10 are given with the beginning
    (asked,) = ask_texts(reader, [row])
    assert len(asked.prompt) % 4 != 1
    body = reader.cutters[0].cut(row.text).ids[len(asked.prompt) - 1 :]
    (pair,) = asked.answer(body).heard([Spoken(len(asked.prompt), body, False)]).pairs
    assert len(pair.teacher.ids) - 1 == len(reader.cutters[1].cut(row.text).ids)


def test_a_teacher_without_room_is_compared_as_far_as_it_reads():
    reader = PairedTextReader(make_pieces(), make_bytes(), max_tokens=40)
    (asked,) = ask_texts(reader, [Row("the fox", "say")])
    tokens = reader.cutters[0].cut("the fox" * 5 + "the").ids
    assert len(tokens) < 36
    (pair,) = asked.answer(tokens).heard([Spoken(len(asked.prompt), tokens, False)]).pairs
    assert len(pair.teacher.ids) <= 40 and pair.student.ids[: len(asked.prompt)] == asked.prompt


# What the teacher says


@pytest.mark.parametrize("theirs", READ)
@pytest.mark.parametrize("said", SAID)
def test_the_student_reads_the_teachers_answer_in_its_own_template(theirs, said):
    student, teacher = tokenizer_of("chatml"), tokenizer_of(theirs)
    (asked,) = ask_conversations(chats("chatml", theirs), [conversation(TALK)])
    lead = asked.across.their_space[0]
    end = end_of_turn(teacher)
    ids = teacher(lead + said, add_special_tokens=False)["input_ids"]
    (pair,) = asked.taught([([*ids, end], True, 2.0)]).pairs
    told = [dict(message) for message in TALK]
    told[3]["content"] = read_back(ids, spellings(teacher)).text.removeprefix(lead)
    assert pair.student.ids == ChatReader(student).example(conversation(told)).ids
    spans = texts_of_spans(pair, student, teacher)
    assert b"".join(spans).strip() == said.strip().encode() and spans[-1] == b""
    assert set(pair.student.weights) == {0.0, 2.0}


def test_of_the_teachers_answers_what_cannot_be_read_is_left_out_and_ends_are_learnt_where_they_are():
    teacher = tokenizer_of("phi3_5")
    (asked,) = ask_conversations(chats("chatml", "phi3_5"), [conversation(TALK)])
    end, ids = end_of_turn(teacher), teacher("a fox", add_special_tokens=False)["input_ids"]
    assert asked.taught([([end], True, 1.0)]).pairs == ()
    cut, whole = (asked.taught([one]).pairs[0] for one in ((ids, False, 1.0), ([*ids, end], True, 1.0)))
    assert whole.num_spans == cut.num_spans + 1
    assert sum(whole.student.weights) == sum(cut.student.weights) + 1


@pytest.mark.parametrize(("ours", "theirs"), [("pieces", "bytes"), ("bytes", "pieces"), ("bytes", "bytes")])
@pytest.mark.parametrize("prompt", ["", "say: "])
def test_a_text_that_the_teacher_went_on_with_is_learnt_and_its_beginning_is_not(ours, theirs, prompt):
    reader = texts(ours, theirs)
    (asked,) = ask_texts(reader, [Row("the fox ran over the 🦊 and on", prompt)])
    theirs_asked, cutter = asked.across.theirs, reader.cutters[1]
    tokens = (*cutter.cut("the end").ids, cutter.tokenizer.eos_token_id)
    (pair,) = asked.taught([(tokens, True, 3.0)]).pairs
    assert pair.teacher.ids[: len(theirs_asked.prompt)] == theirs_asked.prompt
    learnt = [t for t, weight in zip(pair.student.ids, pair.student.weights, strict=True) if weight]
    spelling = b"".join(spellings(reader.cutters[0].tokenizer)[t] or b"" for t in learnt)
    assert spelling.strip() == b"the end" and set(pair.student.weights) == {0.0, 3.0}
