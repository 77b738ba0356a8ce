"""What is taken of other data: which rows, and what becomes of them."""

import json

import pytest
from pydantic import ValidationError

from stillhouse.core.errors import DataError
from stillhouse.data.chat_forms import read_conversations, stream_conversations
from stillhouse.data.config import TextDataConfig
from stillhouse.data.replay import ReplayDataConfig, read_replay
from stillhouse.data.text import read_rows, stream_rows

TEXTS = [f"the fox ran to the {place} {n}" for n in range(6) for place in ("hill", "sea")]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def old(tmp_path):
    return write(tmp_path / "old.jsonl", [{"text": text, "where": text.split()[-2]} for text in TEXTS])


@pytest.fixture
def read(tokenizer, tmp_path, old):
    """Read that file with these settings, beside data of these texts."""

    def found(*, data=("another text",), **settings):
        path = write(tmp_path / "data.jsonl", [{"text": text} for text in data])
        config = ReplayDataConfig(**{"path": old, "held_out": 0.25, **settings})
        return read_replay(config, TextDataConfig(path=path, sequence_tokens=32), tokenizer, data_paths=[path])

    return found


def said(tokenizer, found):
    return [tokenizer.decode(one.answered[0].ids, skip_special_tokens=True) for one in found.asked]


def test_all_is_taken_and_a_part_is_held_out(read, tokenizer):
    found = read()
    assert (found.num_documents, found.num_held_out) == (9, 3) == (len(found.asked), len(found.held_out))
    mixed = said(tokenizer, found)
    judged = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in found.held_out]
    assert sorted(mixed + judged) == sorted(TEXTS)


def test_what_stands_in_the_data_is_left_out_and_counted(read, tokenizer):
    found = read(data=TEXTS[:4])
    assert found.num_documents + found.num_held_out == 8
    assert not set(TEXTS[:4]) & set(said(tokenizer, found))
    assert "replay: 4 left out, as they stand in data.path too" in found.notes
    with pytest.raises(DataError, match="has nothing that data.path has not"):
        read(data=TEXTS)


def test_the_first_are_the_first_and_the_file_is_read_no_further(read, old, tokenizer):
    with old.open("a", encoding="utf-8") as lines:
        lines.write("no JSON\n")
    found = read(sample=4, choose="first")
    assert set(said(tokenizer, found)) < set(TEXTS[:4])
    with pytest.raises(DataError, match="line 13 is not JSON"):
        read(sample=4)


def test_a_sample_depends_on_its_seed_alone(read):
    assert read(sample=6).asked == read(sample=6, choose="reservoir").asked
    assert (
        len({tuple(one.prompt + one.answered[0].ids for one in read(sample=6, seed=seed).asked) for seed in range(4)})
        == 4
    )


def test_each_kind_has_its_proportion(read, tokenizer):
    found = read(sample=4, choose="stratified", by="where")
    texts = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in found.held_out] + said(tokenizer, found)
    assert sorted(text.split()[-2] for text in texts) == ["hill", "hill", "sea", "sea"]


def test_conversations_are_mixed_into_text(read, tmp_path, tokenizer):
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": text}]}
        for n, text in enumerate(TEXTS)
    ]
    found = read(path=write(tmp_path / "chats.jsonl", rows), kind="chat")
    assert found.num_documents == 9 and all(one.reference for one in found.asked)


def test_plain_text_has_no_columns(read, tmp_path):
    file = tmp_path / "old.txt"
    file.write_text("one<|endoftext|>two<|endoftext|>three", encoding="utf-8")
    with pytest.raises(DataError, match="old.txt has no 'where', which replay.by names"):
        read(path=file, sample=2, choose="stratified", by="where")


def test_rows_that_come_one_by_one_are_those_that_are_read_at_once(old, tmp_path):
    assert [row for _, row in stream_rows(old)] == read_rows(old)
    rows = [{"prompt": text, "completion": "yes"} for text in TEXTS]
    file = write(tmp_path / "chats.jsonl", rows)
    assert [one for _, one in stream_conversations(file)] == read_conversations(file)


def test_a_resolved_recipe_says_how_a_sample_is_chosen(old):
    assert ReplayDataConfig(path=old, sample=3).choose == "reservoir"
    assert ReplayDataConfig(path=old).choose is None
    with pytest.raises(ValidationError, match="go together"):
        ReplayDataConfig(path=old, sample=3, by="where")
