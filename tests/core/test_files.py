"""Files that are whole or absent, lines that are whole or dropped, hashes that see every change."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.files import (
    append_line,
    atomic_path,
    fingerprint,
    fingerprint_files,
    read_lines,
    remove,
    size_on_disk,
    write_atomic,
)


class Stop(Exception):
    """What ends a block early."""


@pytest.mark.parametrize("stop", [Stop, KeyboardInterrupt, OSError])
def test_a_file_keeps_its_content_when_its_successor_is_not_finished(tmp_path, stop):
    file = tmp_path / "notes.txt"
    write_atomic(file, "before")
    with pytest.raises(stop), atomic_path(file) as part:
        part.write_text("aft")
        raise stop
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_keeps_its_content_when_its_successor_is_not_finished(tmp_path):
    folder = tmp_path / "student"
    with atomic_path(folder) as part:
        part.mkdir()
        (part / "weights").write_text("before")
    with pytest.raises(Stop), atomic_path(folder) as part:
        part.mkdir()
        (part / "weights").write_text("after")
        raise Stop
    assert (folder / "weights").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    folder = tmp_path / "student"
    for name in ("old", "new"):
        with atomic_path(folder) as part:
            part.mkdir()
            (part / name).touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_nothing_bears_the_real_name_before_it_is_whole(tmp_path):
    with atomic_path(tmp_path / "deep" / "notes.txt") as part:
        part.write_text("half")
        assert not (tmp_path / "deep" / "notes.txt").exists()
    assert (tmp_path / "deep" / "notes.txt").read_text() == "half"


@pytest.mark.parametrize("leftover", ["file", "folder"])
def test_what_a_kill_left_half_written_is_removed_by_the_next_writer(tmp_path, leftover):
    part = tmp_path / "student.part"
    if leftover == "file":
        part.write_text("junk")
    else:
        part.mkdir()
        (part / "junk").touch()
    with atomic_path(tmp_path / "student") as place:
        assert place == part
        assert not place.exists()
        place.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert list((tmp_path / "student").iterdir()) == []


def test_a_folder_is_never_seen_half_removed(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "state").touch()

    def killed(path, **_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(
            "stillhouse.core.files.shutil.rmtree", lambda path, ignore_errors=False: ignore_errors or killed(path)
        )
        with pytest.raises(Stop):
            remove(folder)
    assert not folder.exists()
    remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_may_be_read_by_whom_any_other_file_may(tmp_path):
    (tmp_path / "any").touch()
    usual = (tmp_path / "any").stat().st_mode
    with atomic_path(tmp_path / "student") as part:
        part.mkdir()
        (part / "weights").touch(mode=0o600)
    with atomic_path(tmp_path / "shard") as part:
        part.touch(mode=0o600)
    assert (tmp_path / "student" / "weights").stat().st_mode == (tmp_path / "shard").stat().st_mode == usual


def test_removing_what_is_not_there_is_no_fault(tmp_path):
    remove(tmp_path / "nothing")


VALUES = st.text(max_size=9) | st.floats(allow_nan=False) | st.none()
RECORDS = st.lists(st.dictionaries(st.text(max_size=3), VALUES), max_size=4)


@settings(deadline=None)
@given(records=RECORDS)
def test_lines_read_back_as_they_were_appended(tmp_path_factory, records):
    file = tmp_path_factory.mktemp("lines") / "events.jsonl"
    for record in records:
        append_line(file, record)
    assert read_lines(file) == records


def test_separators_inside_a_string_do_not_end_its_line(tmp_path):
    record = {"text": "a\u2028b\u2029c\x85d\ne\r\nf\x1cg"}
    append_line(tmp_path / "events.jsonl", record)
    assert read_lines(tmp_path / "events.jsonl") == [record]


@pytest.mark.parametrize("text", ["four", "\u00e9" * 5000])
@pytest.mark.parametrize("left", [0, 1, 5, 12])
def test_a_line_cut_off_by_a_kill_is_dropped_and_its_place_taken(tmp_path, text, left):
    file = tmp_path / "events.jsonl"
    append_line(file, {"number": 1})
    whole = file.stat().st_size
    append_line(file, {"text": text})
    os.truncate(file, whole + left if text == "four" else file.stat().st_size - 1 - left)
    assert read_lines(file) == [{"number": 1}]
    append_line(file, {"number": 2})
    assert read_lines(file) == [{"number": 1}, {"number": 2}]


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "events.jsonl") == []


def test_a_fingerprint_of_files_sees_names_and_bytes_and_nothing_else(tmp_path):
    def folder(name: str, **files: str):
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return fingerprint_files((tmp_path / name).iterdir())

    one = folder("one", a="1", b="2")
    assert folder("two", b="2", a="1") == one
    assert folder("three", a="2", b="1") != one
    assert folder("four", a="1", c="2") != one
    assert folder("five", a="1", b="2", c="") != one
    assert folder("six", a="12", b="") != one


def test_a_fingerprint_of_files_does_not_depend_on_their_order_even_with_equal_names(tmp_path):
    files = [tmp_path / folder / "part.txt" for folder in ("a", "b", "c")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(str(number))
    assert fingerprint_files(files) == fingerprint_files(reversed(files))


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint(None)) == 16


def test_the_size_of_a_folder_is_that_of_all_its_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    assert size_on_disk(tmp_path / "a") == 15
    assert size_on_disk(tmp_path / "a" / "one") == 10
