"""What carries weight in a conversation: the assistant's words and ends of turn, and nothing else, under any template."""

import copy
import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from stillhouse.core.errors import DataError, ModelError
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import conversation, written_out
from stillhouse.data.examples import windows

from .chat_families import FAMILIES, has, template_of, tokenizer_of, without_space

READ = [
    pytest.param(name, marks=pytest.mark.skipif(not has(name), reason="its template comes with TRL"))
    for name in FAMILIES
]
WITH_TOOLS = [case for case in READ if FAMILIES[case.values[0]].call]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Says the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Pärís"}'}}


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def talk(*contents, system="Be brief."):
    """User and assistant in turn."""
    roles = ("user", "assistant")
    first = [says("system", system)] if system else []
    return first + [says(roles[number % 2], content) for number, content in enumerate(contents)]


def learnt(tokenizer, example):
    """What the weighted tokens say."""
    return tokenizer.decode([token for token, weight in zip(example.ids, example.weights, strict=True) if weight > 0])


def read(name, messages, tools=(), **options):
    return ChatReader(tokenizer_of(name), **options).example(conversation(messages, tools=tools))


def turns(name, *texts):
    family = FAMILIES[name]
    return "".join(family.says(text) + family.end for text in texts)


LONG = talk("  What is it?\n", "A fox, I think.", "Sure? 🦊", "  Yes:\n\n狐です。  ", "Bye", "Bye!\r\n\r\nSee you")


@pytest.mark.parametrize("name", READ)
def test_what_is_learnt_is_what_the_assistant_says_and_its_ends_of_turn(name):
    messages = LONG if FAMILIES[name].system else LONG[1:]
    example = read(name, messages)
    assert learnt(tokenizer_of(name), example) == turns(name, *(m["content"] for m in LONG if m["role"] == "assistant"))
    assert len(example.ids) == len(example.weights) and set(example.weights) == {0.0, 1.0}


@pytest.mark.parametrize("name", READ)
def test_bytes_are_those_of_the_words_without_the_ends_of_turn(name):
    messages = LONG if FAMILIES[name].system else LONG[1:]
    words = "".join(FAMILIES[name].says(m["content"]) for m in messages if m["role"] == "assistant")
    assert read(name, messages).num_bytes == len(words.encode())


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tool_calls_are_learnt_and_what_tools_answer_is_not(name):
    family = FAMILIES[name]
    asked = [says("system", "Be brief."), says("user", "Weather in Pärís?")]
    called = [says("assistant", "I look.", tool_calls=[CALL]), says("tool", "22 degrees", tool_call_id="abcdefghi")]
    rest = [says("assistant", "It is 22."), says("user", "Thanks"), says("assistant", "Welcome")]
    example = read(name, [*asked, *called, *rest], tools=TOOLS)
    assert learnt(tokenizer_of(name), example) == family.call + turns(name, "It is 22.", "Welcome")
    # A call without words, and one that nothing follows.
    silent = [*asked, says("assistant", None, tool_calls=[CALL])]
    assert learnt(tokenizer_of(name), read(name, silent, tools=TOOLS)) == family.call.removeprefix("I look.").lstrip(
        "\n"
    )


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("max_tokens", [8, 13, 64])
def test_cutting_to_windows_neither_loses_nor_doubles_what_is_learnt(name, max_tokens):
    whole = read(name, LONG if FAMILIES[name].system else LONG[1:])
    pieces = list(windows(whole, max_tokens=max_tokens))
    learnt_ids = [t for p in pieces for t, w in zip(p.ids, p.weights, strict=True) if w]
    assert learnt_ids == [t for t, w in zip(whole.ids, whole.weights, strict=True) if w]
    assert sum(piece.num_bytes for piece in pieces) == whole.num_bytes
    assert all(len(piece.ids) <= max_tokens for piece in pieces)


@pytest.mark.parametrize("name", READ)
def test_tokens_join_as_they_do_where_a_model_reads_the_conversation(name):
    """The text is tokenised whole; where a token would cross into an answer, as the prompt alone and then the answer."""
    tokenizer = tokenizer_of(name)
    system = "Be brief." if FAMILIES[name].system else None

    def written(messages, **options):
        return tokenizer.apply_chat_template(messages, date_string="26 Jul 2024", **options)

    messages = talk("What is it?", "A fox.", "Sure?", "Yes.", system=system)
    assert (
        list(read(name, messages).ids)
        == tokenizer(written(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    )
    spaced = talk("What is it?", "\n  A fox.", system=system)
    prompt = written(spaced[:-1], add_generation_prompt=True)["input_ids"]
    found = read(name, spaced)
    assert list(found.ids[: len(prompt)]) == prompt
    assert not any(found.weights[: len(prompt)])
    assert found.weights[len(prompt)] or FAMILIES[name].thinks


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "gemma3", "phi3_5"])
def test_weights_are_those_of_templates_that_mark_what_is_generated(name):
    """TRL writes the same templates with {% generation %}, and transformers makes masks of them; but they call a line end
    generated that no model writes, before a turn or behind its end."""
    pytest.importorskip("trl")
    family = FAMILIES.get(name, FAMILIES["llama3_2"])
    tokenizer = copy.deepcopy(tokenizer_of(family.name))
    tokenizer.chat_template = template_of(name)
    ours = ChatReader(tokenizer).example(conversation(LONG))
    tokenizer.chat_template = template_of(f"{name}_training")
    theirs = tokenizer.apply_chat_template(LONG, return_dict=True, return_assistant_tokens_mask=True)
    marked = ChatReader(tokenizer).example(conversation(LONG))
    known = [t for t, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if mask]
    both = [learnt(tokenizer, ours), learnt(tokenizer, marked), tokenizer.decode(known)]
    if family.eos:  # their last turn ends twice
        both[2] = both[2].removesuffix(family.eos)
    assert both[0] == both[1]
    assert without_space(both[2]) == without_space(both[0])


TEXT = st.text(
    st.sampled_from("ab .,\n\r\t  🦊👩‍🚀é狐語\u3000\u00a0<>|{}[]\"'")
    | st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip() and "think" not in text)


@pytest.mark.parametrize("name", READ)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXT, min_size=2, max_size=8), system=st.none() | TEXT, max_tokens=st.integers(8, 80))
def test_any_conversation_is_learnt_exactly(name, texts, system, max_tokens):
    family = FAMILIES[name]
    texts = texts[: len(texts) // 2 * 2]
    whole = read(name, talk(*texts, system=system if family.system else None))
    assert learnt(tokenizer_of(name), whole) == turns(name, *texts[1::2])
    pieces = list(windows(whole, max_tokens=max_tokens))
    learnt_ids = [token for piece in pieces for token, weight in zip(piece.ids, piece.weights, strict=True) if weight]
    assert tokenizer_of(name).decode(learnt_ids) == turns(name, *texts[1::2])
    assert sum(piece.num_bytes for piece in pieces) == whole.num_bytes


# Which turns


@pytest.mark.parametrize("name", READ)
def test_the_last_turn_alone_where_that_is_asked_for(name):
    messages = LONG if FAMILIES[name].system else LONG[1:]
    assert learnt(tokenizer_of(name), read(name, messages, weight="last")) == turns(name, LONG[-1]["content"])


@pytest.mark.parametrize(
    ("key", "values"), [("weight", (0.5, 0, 2)), ("train", (True, False, True)), ("training", (1, 0, 1))]
)
def test_what_the_data_says_of_a_turn_counts(key, values):
    messages = talk("a", "one", "b", "two", "c", "three")
    for message, value in zip([m for m in messages if m["role"] == "assistant"], values, strict=True):
        message[key] = value
    messages[1][key] = 1.0  # what a user says never counts
    example = read("chatml", messages)
    assert learnt(tokenizer_of("chatml"), example) == turns("chatml", "one", "three")
    weighted = [weight for weight in example.weights if weight]
    assert weighted[0] == float(values[0]) and weighted[-1] == float(values[2])


def test_turns_of_the_assistant_may_follow_one_another():
    messages = [says("user", "a"), says("assistant", "one"), says("assistant", "two"), says("user", "b")]
    for name in ("chatml", "qwen2_5", "phi4", "phi3_5"):
        assert learnt(tokenizer_of(name), read(name, messages)) == turns(name, "one", "two")


def test_the_assistant_may_speak_first():
    assert learnt(tokenizer_of("smollm2"), read("smollm2", [says("assistant", "one"), says("user", "b")])) == turns(
        "smollm2", "one"
    )


# Thinking


def test_an_empty_thought_that_the_template_inserts_is_learnt_only_where_asked_for():
    messages, tokenizer = talk("a", "one", "b", "  two"), tokenizer_of("qwen3")
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "<think>\n\n</think>\n\n" in text
    without, with_it = (learnt(tokenizer, read("qwen3", messages, thinking=thinking)) for thinking in (False, True))
    assert without == "one<|im_end|>  two<|im_end|>"
    assert with_it == "one<|im_end|><think>\n\n</think>\n\n  two<|im_end|>"


@pytest.mark.parametrize(
    "message", [{"content": "<think>\nhm\n</think>\n\ntwo"}, {"content": "two", "reasoning_content": "hm"}]
)
def test_a_thought_that_the_data_holds_is_learnt_and_one_that_the_template_removes_is_not(message):
    thought = {"role": "assistant", **message}
    messages = [says("user", "a"), thought, says("user", "b"), thought]
    assert learnt(tokenizer_of("qwen3"), read("qwen3", messages)) == (
        "two<|im_end|><think>\nhm\n</think>\n\ntwo<|im_end|>"
    )


# Parts of a turn, and texts that are written out


@pytest.mark.parametrize("name", READ)
def test_of_parts_of_a_turn_what_lies_wholly_in_them_is_learnt_with_the_end_of_turn(name):
    """And the tokens are those of the whole turn: a part is where weight is, and cuts nothing."""
    said = " It is the small fox, and a red house. "
    details = [
        {"begin_offset": said.index(part), "end_offset": said.index(part) + len(part) - 1, "train": True}
        for part in ("the small fox,", "a red house")
    ]
    asked = talk("What?", system="Be brief." if FAMILIES[name].system else None)
    messages = [*asked, says("assistant", said, train_detail=details, weight=0.5), *talk("Oh", "Yes", system=None)]
    example = read(name, messages)
    plain = read(name, [*asked, says("assistant", said, weight=0.5), *messages[len(asked) + 1 :]])
    assert example.ids == plain.ids and set(example.weights) == {0.0, 0.5, 1.0}
    tokenizer, family = tokenizer_of(name), FAMILIES[name]
    pieces = [tokenizer.decode([token]) for token in example.ids]
    ends = list(itertools.accumulate(map(len, pieces)))
    text = "".join(pieces)
    inside = [range(text.index(part), text.index(part) + len(part)) for part in ("the small fox,", "a red house")]
    end_of_turn = text.index(family.end, inside[1].stop)
    inside.append(range(end_of_turn, end_of_turn + len(family.end)))
    for piece, end, weight in zip(pieces, ends, example.weights, strict=True):
        is_in = any(end - len(piece) in part and end <= part.stop for part in inside)
        assert (weight == 0.5) == is_in
    assert example.num_bytes == len("the small fox,a red house") + len(family.says("Yes"))


def test_segments_are_learnt_as_they_are_labelled_whatever_the_template(tokenizer_without_template):
    segments = [
        ("<|im_start|>Q: 2?\nA:", False),
        (" 4", True),
        (".<|im_end|>", True),
        ("\nQ: 3?\nA:", False),
        (" 9", True),
    ]
    reader = ChatReader(tokenizer_without_template, needs_template=False)
    found = reader.read(written_out(segments))
    assert tokenizer_without_template.decode(list(found.example.ids)) == "".join(text for text, _ in segments)
    assert learnt(tokenizer_without_template, found.example) == " 4.<|im_end|> 9"
    assert [turn.said for turn in found.turns] == [" 4.", " 9"]
    assert [len(turn.closing) for turn in found.turns] == [1, 0]
    assert found.example.num_bytes == 5
    last = ChatReader(tokenizer_without_template, needs_template=False, weight="last")
    assert learnt(tokenizer_without_template, last.example(written_out(segments))) == " 9"


@pytest.mark.parametrize("name", READ)
def test_the_end_of_a_turn_that_was_cut_off_is_not_learnt(name):
    messages = [*(LONG if FAMILIES[name].system else LONG[1:])]
    messages[-3] = {**messages[-3], "finished": False}
    family = FAMILIES[name]
    said = [family.says(m["content"]) for m in LONG if m["role"] == "assistant"]
    expected = said[0] + family.end + said[1] + said[2] + family.end
    assert learnt(tokenizer_of(name), read(name, messages)) == expected


# What is refused


@pytest.fixture
def tokenizer_without_template():
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = None
    return tokenizer


def test_a_tokenizer_without_a_template_is_refused_with_the_mend():
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has none. Put one beside it as chat_template.jinja"):
        ChatReader(tokenizer)


def test_what_the_template_refuses_is_said_in_its_own_words():
    with pytest.raises(DataError, match="the conversation: the teacher's chat template refuses it: .*must alternate"):
        read("mistral_7b", [says("user", "a"), says("user", "b"), says("assistant", "c")])


@pytest.mark.parametrize(
    ("name", "messages", "what"),
    [
        ("mistral_7b", talk("a", "b"), r"the text of message 1 \(role system\)"),
        (
            "phi3_5",
            [says("user", "a"), says("tool", "22"), says("assistant", "b")],
            r"the text of message 2 \(role tool\)",
        ),
        ("chatml", [says("user", "a"), says("assistant", "", tool_calls=[CALL])], "the tool calls of message 2"),
    ],
)
def test_what_the_template_leaves_out_in_silence_is_refused(name, messages, what):
    with pytest.raises(DataError, match=f"leaves out {what}"):
        read(name, messages)


def _with_template(template) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_depends_on_what_is_said_is_refused_unless_it_marks_what_is_generated():
    counting = "{% for m in messages %}{{ m.content | length }}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(DataError, match="its turns cannot be told apart. Mark them in the template"):
        ChatReader(_with_template(counting)).example(conversation(talk("a", "b")))


def test_words_of_others_inside_of_a_turn_are_refused_unless_the_template_marks_what_is_generated():
    nesting = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{% endfor %}{{ messages[loop.index].content if not loop.last }}{% generation %}{{ m.content + '<|im_end|>' }}"
        "{% endgeneration %}{% elif m.role == 'user' %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    messages = [
        says("user", "a"),
        says("assistant", "one", tool_calls=[CALL]),
        says("tool", "22"),
        says("assistant", "two"),
    ]
    tokenizer = _with_template(nesting)
    assert learnt(tokenizer, ChatReader(tokenizer).example(conversation(messages))) == turns("chatml", "one", "two")
    tokenizer = _with_template(nesting.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    with pytest.raises(DataError, match=r"writes message 3 \(role tool\) into message 2"):
        ChatReader(tokenizer).example(conversation(messages))


def test_a_date_that_the_template_writes_is_always_the_same():
    text = tokenizer_of("mistral").decode(read("mistral", talk("a", "b", system=None)).ids)
    assert "Today is 2024-07-26." in text


def test_an_end_of_turn_that_is_plain_text_is_learnt_once():
    plain = (
        "{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"
    )
    tokenizer = _with_template(plain)
    assert (
        learnt(tokenizer, ChatReader(tokenizer).example(conversation(talk("a", "one", "b", "two")))) == "one\n\ntwo\n\n"
    )


def test_reading_leaves_the_tokenizer_as_it_was():
    tokenizer = tokenizer_of("chatml")
    before = json.loads(tokenizer.backend_tokenizer.to_str())
    ChatReader(tokenizer).example(conversation(LONG))
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == before
