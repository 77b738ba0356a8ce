"""What is in an evaluation set is not learnt."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.core.rouge import words_of
from stillhouse.data.overlap import index, runs
from stillhouse.synthesis.filters import run_filters
from stillhouse.synthesis.filters.decontamination import DecontaminationConfig
from stillhouse.synthesis.records import Record

LONG = "When the old fox had crossed the frozen river three times it sat down and waited for the moon to rise"
MIDDLE = "How many mice does a red fox eat in a week?"
SHORT = "What is a fox?"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dropped(config, *texts):
    return [record.dropped for record in run_filters([Record(text=text) for text in texts], [config.build()])]


@pytest.fixture
def held_out(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": MIDDLE}]},
        {"id": "fox", "instances": [{"input": SHORT, "output": "An animal"}]},
    ]
    return write(tmp_path / "held_out.jsonl", rows)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LONG, True),
        ("He said: when THE old fox had crossed the frozen river, three times it sat! Then it slept.", True),
        ("the old fox had crossed the frozen river three times it", False),  # eleven words in a row
        (f"Tell me. {MIDDLE} Thank you.", True),
        ("How many mice does a red fox eat?", False),  # not all of it
        (SHORT, True),
        (f"{SHORT} Tell me more.", False),
        ("fox", False),
        ("A bear sleeps.", False),
        ("", False),
    ],
)
def test_decontamination(held_out, text, found):
    assert bool(dropped(DecontaminationConfig(paths=(held_out,)), text)[0]) == found


def test_the_reason_names_file_line_and_words(held_out):
    (reason,) = dropped(DecontaminationConfig(paths=(held_out,)), f"Tell me. {MIDDLE}")
    assert reason.startswith(f"decontamination: text is in an evaluation set (11 words in {held_out}, line 1: ")
    assert '"how many mice does a red fox eat in' in reason


def test_questions_and_answers_are_both_looked_at(held_out):
    records = [
        Record().say("user", MIDDLE).say("assistant", "Some."),
        Record().say("user", "Tell me a story.").say("assistant", LONG),
        Record().say("user", "Tell me a story.").say("assistant", "No."),
    ]
    found = run_filters(records, [DecontaminationConfig(paths=(held_out,)).build()])
    assert [record.dropped.partition(" is ")[0] for record in found] == [
        "decontamination: question",
        "decontamination: answer",
        "",
    ]


@pytest.mark.parametrize("name", ["eval.txt", "eval.csv", "eval.tsv", "eval.json", "eval.jsonl.gz"])
def test_every_kind_of_file_is_read(tmp_path, name):
    content = {
        ".txt": f"A story.<|endoftext|>{LONG}",
        ".csv": f'id,question\n1,"{LONG}"\n',
        ".tsv": f"id\tquestion\n1\t{LONG}\n",
        ".json": json.dumps([{"deep": [{"er": LONG}]}]),
        ".gz": json.dumps({"text": LONG}),
    }[f".{name.rpartition('.')[2]}"]
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    config = DecontaminationConfig(paths=(tmp_path / name,))
    assert [bool(reason) for reason in dropped(config, LONG, "A bear sleeps in its cave.")] == [True, False]
    assert dropped(DecontaminationConfig(paths=(tmp_path,)), LONG) == dropped(config, LONG)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "there is no such file or folder"),
        ("eval.jsonl", "{", "line 1 is not JSON"),
        ("eval.jsonl", "", "holds no rows"),
        ("eval.parquet", "x", "ends in '.parquet'. Known: .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / (name or "missing.jsonl")
    if name:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as refusal:
        DecontaminationConfig(paths=(path,)).build()
    assert path.name in str(refusal.value)


@settings(max_examples=60)
@given(
    held_out=st.lists(st.sampled_from("abcd"), max_size=12),
    text=st.lists(st.sampled_from("abcd"), max_size=12),
    size=st.integers(2, 5),
)
def test_runs_in_common_are_those_of_a_plain_search(held_out, text, size):
    grams, _ = index([("here", " ".join(held_out))], size=size, shortest=size)
    ours = any(run in grams.get(size, {}) for run in runs(words_of(" ".join(text)), size))
    spaced = f" {' '.join(held_out)} "
    plain = any(f" {' '.join(text[n : n + size])} " in spaced for n in range(len(text) - size + 1))
    assert ours == plain
