"""The forms that conversations are kept in: each told by its keys, and read to the same messages."""

import json

import pytest

from stillhouse.core.errors import DataError
from stillhouse.data.chat_forms import FileCounts, conversation, read_conversations

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add.\n\n2 + 2"},
    {"role": "assistant", "content": "4."},
]
SAME = {
    "messages of OpenAI, TRL or axolotl": {"messages": MESSAGES},
    "ShareGPT conversations": {
        "conversations": [{"from": "human", "value": "Add.\n\n2 + 2"}, {"from": "gpt", "value": "4."}],
        "system": "Be brief.",
    },
    "prompt and completion": {"prompt": MESSAGES[:2], "completion": MESSAGES[2:]},
    "Alpaca columns": {"instruction": "Add.", "input": "2 + 2", "output": "4.", "system": "Be brief."},
}
MORE = [
    {"conversations": MESSAGES},
    {"messages": [{"from": "system", "value": "Be brief."}, *MESSAGES[1:]], "id": 7},
    {"prompt": "Add.\n\n2 + 2", "completion": "4.", "system": "Be brief."},
    {"prompt": MESSAGES[:2], "completion": "4."},
    {"instruction": "Add.", "context": "2 + 2", "response": "4.", "system": "Be brief."},
    {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *MESSAGES[1:]]},
]


def the_one(write, row):
    (found,) = read_conversations(write("rows.jsonl", [row]))
    return found


@pytest.mark.parametrize("form", SAME)
def test_every_form_is_told_by_its_keys_and_read_to_the_same_messages(write, form):
    found = the_one(write, SAME[form])
    assert (found.form, found.messages, found.tools) == (form, MESSAGES, [])
    assert found.weights == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("row", MORE)
def test_spellings_within_a_form_make_no_difference(write, row):
    assert the_one(write, row) == conversation(MESSAGES)


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.tsv", "rows.jsonl.gz"])
def test_every_format_of_files_is_read(write, name):
    row = {"instruction": "Add.", "output": "4."}
    table = "\n".join(sep.join(cells) for sep in ["\t" if "tsv" in name else ","] for cells in (row, row.values()))
    content = {"rows.json": json.dumps([row]), "rows.jsonl.gz": [row]}.get(name, table)
    (found,) = read_conversations(write(name, content))
    assert [m["content"] for m in found.messages] == ["Add.", "4."]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TOOL = {"name": "weather", "description": "Says the weather."}


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "user", "content": "?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
                    ],
                },
                {"role": "tool", "content": "22"},
                {"role": "assistant", "content": "22."},
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
        {
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "function_call": {"name": "weather", "arguments": {"city": "Paris"}}},
                {"role": "function", "content": "22"},
                {"role": "assistant", "content": "22."},
            ],
            "tools": [TOOL],
        },
        {
            "conversations": [
                {"from": "human", "value": "?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
                {"from": "observation", "value": "22"},
                {"from": "gpt", "value": "22."},
            ],
            "tools": json.dumps([TOOL]),
        },
    ],
)
def test_tool_calls_of_every_spelling_are_the_same(write, row):
    found = the_one(write, row)
    assert found.messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "22"},
        {"role": "assistant", "content": "22."},
    ]
    assert found.tools == [{"type": "function", "function": TOOL}]
    assert found.weights == (0.0, 1.0, 0.0, 1.0)


def detail(begin, end, train=True):
    """A part of a turn as axolotl has it: the character at `end` belongs to it."""
    return {"begin_offset": begin, "end_offset": end, "train": train}


def test_what_the_data_says_of_a_turn_counts_together(write):
    turns = [{"weight": 0.25}, {"weight": 2, "train": True}, {"weight": 2, "train": False}, {"training": False}, {}]
    row = {"messages": [{"role": "assistant", "content": "b", **turn} for turn in turns]}
    assert the_one(write, row).weights == (0.25, 2.0, 0.0, 0.0, 1.0)


def test_of_a_turn_with_details_only_the_parts_are_learnt_that_they_name(write):
    said = {"role": "assistant", "content": "ab cd", "train_detail": [detail(3, 4), detail(0, 0), detail(1, 1, False)]}
    found = the_one(write, {"messages": [*MESSAGES, said]})
    assert [found.parts_of(number) for number in range(4)] == [None, None, None, ((0, 1), (3, 5))]
    assert found.weights == (0.0, 0.0, 1.0, 1.0)


def test_segments_of_axolotl_are_read_as_they_stand(write):
    row = {"segments": [{"text": "<s>Q", "label": False}, {"text": " A</s>", "label": True}]}
    found = the_one(write, row)
    assert (found.form, found.segments) == ("segments of axolotl", [("<s>Q", False), (" A</s>", True)])


def test_history_beside_alpacas_columns_comes_first(write):
    found = the_one(write, {"instruction": "c", "output": "d", "history": [["a", "b"]]})
    assert [m["content"] for m in found.messages] == ["a", "b", "c", "d"]
    assert found.weights == (0.0, 1.0, 0.0, 1.0)


def test_functions_of_openais_older_files_are_tools(write):
    row = {"messages": MESSAGES, "functions": [TOOL]}
    assert the_one(write, row).tools == [{"type": "function", "function": TOOL}]


def test_turns_inside_of_a_prompt_are_history(write):
    row = {
        "prompt": [*MESSAGES, {"role": "user", "content": "Sure?"}],
        "completion": [{"role": "assistant", "content": "Yes"}],
    }
    assert the_one(write, row).weights == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_a_conversation_is_known_again_by_its_messages_whatever_they_weigh(write):
    weighted = [*MESSAGES[:2], {**MESSAGES[2], "weight": 0.5}]
    one, other = conversation(MESSAGES), conversation(weighted)
    assert one.text == other.text and one != other


def test_each_file_of_a_folder_has_a_form_of_its_own_and_it_is_said(write):
    folder = write("a/one.jsonl", [SAME["Alpaca columns"]] * 2).parent
    write("a/two.jsonl", [SAME["ShareGPT conversations"]])
    files = FileCounts()
    assert len([*map(files.count, read_conversations(folder))]) == 3
    assert files.notes == [
        "one.jsonl: Alpaca columns, 2 rows",
        "two.jsonl: ShareGPT conversations, 1 rows",
    ]


def test_a_file_in_two_forms_is_refused_naming_both_and_the_line(write):
    path = write("rows.jsonl", list(SAME.values())[:2])
    with pytest.raises(
        DataError, match="line 2 has the keys 'conversations', 'system' .ShareGPT.*begins as messages of OpenAI"
    ):
        read_conversations(path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "a", "answer": "b"},
            "the keys 'question', 'answer', which are no conversation. Known: messages of",
        ),
        ({"messages": []}, "the keys 'messages', which are no conversation"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "'prompt', 'chosen', 'rejected', which are no conversation: they are a preference.*as 'completion'",
        ),
        ({"chosen": MESSAGES, "rejected": MESSAGES}, "which are no conversation: they are a preference"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "they are a preference"),
        ({"prompt": MESSAGES}, "a prompt alone has no answer"),
        ({"text": "a"}, "Use data.kind text"),
        ({"prompt": "a", "completion": "b", "label": False}, "Keep the good ones"),
        (
            {"messages": [{"role": "asistant", "content": "b"}]},
            "message 1 has the role \"asistant\". Did you mean 'assistant'",
        ),
        ({"messages": [{"role": "assistant", "content": " "}]}, "message 1 lets the assistant say nothing"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "Expected text, or a list of parts"),
        ({"messages": [{"role": "assistant", "content": "b", "weight": -1}]}, "has -1 under 'weight'"),
        (
            {"messages": [{"role": "assistant", "content": "b", "train_detail": [{}]}]},
            "has {} under 'train_detail'. Exp",
        ),
        (
            {"messages": [{"role": "assistant", "content": "b", "train_detail": [detail(0, 1)]}]},
            "places from 0 to 0 of which",
        ),
        ({"segments": [{"text": "b"}]}, "segment 1 is .* Expected a text, and a label"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "under 'history'. Expected a list of pairs"),
        ({"messages": [{"role": "assistant", "content": "b"}], "tools": "no"}, "under 'tools'. Expected a list"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "Expected an object with name and arguments"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ({"messages": [{"role": "user", "content": "\U0010fff0"}]}, "U\\+10FFF0"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_line(write, row, words):
    with pytest.raises(DataError, match=f"rows.jsonl, line 1.*{words}"):
        read_conversations(write("rows.jsonl", [row]))


def test_a_json_file_that_is_no_list_is_refused(write):
    with pytest.raises(DataError, match="Expected a list of objects"):
        read_conversations(write("rows.json", '{"messages": []}'))
