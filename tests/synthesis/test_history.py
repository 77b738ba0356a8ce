"""A teacher that answers in conversations: each turn behind its own former ones, whatever is written beside it."""

import json

import pytest

from stillhouse.core.files import read_lines
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import as_row, conversation, read_conversations, written_out
from stillhouse.models.generate import Continuation, Sampling, sample
from stillhouse.synthesis.history import rewrite, rewrite_asking

from .scripted import ask_of

SAMPLING = Sampling(temperature=1.0, max_new_tokens=6)
END = "<|end|>"
MOST = 96


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def talk(*contents, system=None, **more):
    """User and assistant in turn; `more` is said of the second turn."""
    turns = [says(("user", "assistant")[n % 2], text, **(more if n == 1 else {})) for n, text in enumerate(contents)]
    return [*([says("system", system)] if system else []), *turns]


CONVERSATIONS = [
    conversation(talk("who ran?", "the fox", "and sang?", "the girl", "why?", "she sang", system="be brief")),
    conversation(talk("the sea?", "red", "the hill?", "the old man", weight=0.5)),
    conversation([says("user", "one"), says("user", "two"), says("assistant", "three")]),
    conversation(talk("hello", "you", "bye")),
    conversation(talk("a door", "a key", "again", "the garden", train=False)),
]
TOOLS = conversation([says("user", "?"), says("assistant", "", tool_calls=[{"name": "f"}]), says("tool", "22")])
LONG = conversation(talk("the fox ran " * 40, "yes"))
CUT_OFF = conversation(talk("a", "b", "c", "d", weight=0, finished=False))
PARTS = conversation(talk("a", "bc", train_detail=[{"begin_offset": 0, "end_offset": 0, "train": True}]))


@pytest.fixture
def teacher(build_model, tokenizer):
    return build_model(vocab=len(tokenizer), layers=2)


@pytest.fixture
def write(teacher, tokenizer, tmp_path):
    def write_file(conversations=CONVERSATIONS, *, name="one/conversations.jsonl", **changes):
        settings = {"max_tokens": MOST, "sampling": SAMPLING, "seed": 3, **changes}
        outcome = rewrite(teacher, tokenizer, conversations, file=tmp_path / name, **settings)
        return outcome, tmp_path / name

    return write_file


def by_hand(teacher, tokenizer, one, number, *, seed=3):
    """Turn by turn, each prompt written by the template from the turns before."""
    messages, cut_off = [], []
    for message in one.messages:
        if message["role"] == "assistant":
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            turn = sum(m["role"] == "assistant" for m in messages)
            settings = {"numbers": [number], "vocab_size": len(tokenizer), "max_tokens": MOST}
            (said,) = sample(teacher, [ids], sampling=SAMPLING, seed=f"{seed}, turn {turn}", **settings)
            text = tokenizer.decode(said.tokens)
            if not text.endswith(END):
                cut_off.append(len(messages))
            messages.append(says("assistant", text.removesuffix(END)))
        else:
            messages.append(message)
    return messages, frozenset(cut_off)


def test_every_turn_is_what_the_teacher_says_behind_its_own_former_ones(write, teacher, tokenizer):
    outcome, file = write()
    found = read_conversations(file)
    assert outcome.kept == {} and outcome.conversations == len(found) == len(CONVERSATIONS)
    for number, (one, before) in enumerate(zip(found, CONVERSATIONS, strict=True)):
        messages, cut_off = by_hand(teacher, tokenizer, before, number)
        assert (one.messages, one.unfinished) == (messages, cut_off)
        assert one.weights == before.weights  # what a turn counts for is the data's to say
    assert outcome.turns == sum(m["role"] == "assistant" for one in found for m in one.messages)
    assert outcome.cut_off == sum(len(one.unfinished) for one in found) > 0
    assert [m["content"] for m in found[0].messages[::2]] != [m["content"] for m in CONVERSATIONS[0].messages[::2]]


def test_what_is_drawn_depends_on_seed_place_and_turn_alone(write):
    _, whole = write()
    _, one_by_one = write(name="two/conversations.jsonl", batch_size=1)
    _, other = write(name="three/conversations.jsonl", seed=4)
    _, fewer = write(CONVERSATIONS[:2], name="four/conversations.jsonl", batch_size=2)
    assert whole.read_bytes() == one_by_one.read_bytes() != other.read_bytes()
    assert whole.read_bytes().startswith(fewer.read_bytes())


class Killed(BaseException):
    pass


def test_killed_and_started_again_it_ends_with_the_same_file(write, monkeypatch):
    _, whole = write(batch_size=2)
    calls = []

    def die(*args, **options):
        calls.append(options["numbers"])
        if options["numbers"][0] == 2:
            raise Killed
        return sample(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("stillhouse.synthesis.history.sample", die)
        with pytest.raises(Killed):
            write(name="again/conversations.jsonl", batch_size=2)
    before = len(calls)
    monkeypatch.setattr(
        "stillhouse.synthesis.history.sample", lambda *a, **o: calls.append(o["numbers"]) or sample(*a, **o)
    )
    outcome, again = write(name="again/conversations.jsonl", batch_size=2)
    assert again.read_bytes() == whole.read_bytes()
    assert all(min(numbers) >= 2 for numbers in calls[before:])  # what was written is not written again
    assert outcome == write(name="one/conversations.jsonl", batch_size=2)[0]


def test_what_cannot_be_written_anew_is_left_as_it_was_and_counted(write, tokenizer):
    given = [TOOLS, CONVERSATIONS[0], LONG, PARTS]
    outcome, file = write(given)
    found = read_conversations(file)
    assert [found[n] for n in (0, 2, 3)] == [TOOLS, LONG, PARTS]
    assert found[1] != CONVERSATIONS[0]
    assert outcome.kept == {
        "tool calls, whose answers belong to what was called": 1,
        "no room for an answer in data.sequence_tokens": 1,
        "weight on parts of turns": 1,
    }


def test_a_teacher_with_nothing_to_say_leaves_the_conversation_as_it_was(write, tokenizer, monkeypatch):
    """Also where it spoke before: a conversation is wholly the teacher's, or wholly the data's."""

    def falls_silent(model, prompts, *, seed, **options):
        said = sample(model, prompts, seed=seed, **options)
        return said if seed.endswith("turn 0") else [Continuation([tokenizer.eos_token_id], [0.0]) for _ in said]

    monkeypatch.setattr("stillhouse.synthesis.history.sample", falls_silent)
    outcome, file = write()
    changed = [one != before for one, before in zip(read_conversations(file), CONVERSATIONS, strict=True)]
    assert changed == [False, False, True, True, False]
    assert outcome.kept == {"an empty answer of the teacher": 3} and outcome.turns == 2


def test_an_end_that_the_teacher_did_not_write_is_not_learnt(write, tokenizer):
    _, file = write()
    reader = ChatReader(tokenizer)
    for one in read_conversations(file):
        read = reader.read(one)
        learnt = [t for t, w in zip(read.example.ids, read.example.weights, strict=True) if w]
        numbers = [n for n, m in enumerate(one.messages) if m["role"] == "assistant" and one.weights[n]]
        assert learnt.count(tokenizer.eos_token_id) == sum(n not in one.unfinished for n in numbers)


@pytest.mark.parametrize(
    "one",
    [*CONVERSATIONS, TOOLS, LONG, PARTS, CUT_OFF, written_out([("a", False), ("b", True)])],
    ids=lambda one: one.text[:40],
)
def test_a_conversation_as_a_row_reads_to_the_same(one, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(as_row(one)) + "\n", encoding="utf-8")
    assert read_conversations(tmp_path / "rows.jsonl") == [one]
    assert read_lines(tmp_path / "rows.jsonl") == [as_row(one)]


def test_one_who_is_asked_in_words_answers_every_turn_behind_its_own_former_ones(tokenizer, tmp_path):
    def say(request):
        return f"answer {len(request.messages)} to {request.messages[-1]['content']}", len(request.messages) > 1

    ask, writer = ask_of(tmp_path, say)
    given, file = [TOOLS, *CONVERSATIONS, LONG, PARTS], tmp_path / "conversations.jsonl"
    outcome = rewrite_asking(ask, tokenizer, given, file=file, max_tokens=MOST, sampling=SAMPLING)
    found = read_conversations(file)
    assert outcome.conversations == len(given) and sum(outcome.kept.values()) == 3
    assert [found[n] for n in (0, -2, -1)] == [TOOLS, LONG, PARTS]
    for one, before in zip(found[1:-2], CONVERSATIONS, strict=True):
        for place, message in enumerate(one.messages):
            if message["role"] != "assistant":
                assert message == before.messages[place]
                continue
            assert message["content"] == f"answer {place} to {one.messages[place - 1]['content']}"
            assert (place in one.unfinished) == (place == 1)
    asked = {len(request.messages): request for request in writer.asked if request.messages[0] == given[1].messages[0]}
    assert max(asked) > 1 and asked[max(asked)].messages[2]["content"].startswith("answer 2 to")
    assert all(request.sampling.max_new_tokens <= SAMPLING.max_new_tokens for request in writer.asked)
    assert len(writer.asked) == outcome.turns
