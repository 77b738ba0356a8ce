"""Files at addresses: fetched once, as they are there now, and no secret of theirs is said or written."""

import gzip
import json
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations

from stillhouse.core import objects
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import DataError, RecipeError
from stillhouse.core.objects import as_written, fetched, files_of, url_of
from stillhouse.data.config import TextDataConfig
from stillhouse.data.prepare import prepare

LINES = [{"text": f"the fox number {n} ran over the hill"} for n in range(40)]
PLANTED = "hunter2-planted"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A store without a machine, and a cache of its own."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    objects._fetched.cache_clear()
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()
    objects._fetched.cache_clear()


def _jsonl(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_an_address_is_one_and_a_path_is_none():
    for url in ("s3://bucket/a/b.jsonl", "hf://datasets/me/x/train.jsonl", "file:///tmp/x.txt", "https://host/a?b=c"):
        assert url_of(Path(url)) == as_written(Path(url)) == url
    for path in ("a/b", "/a/b", "C:/a", "x.jsonl", "a:b", "s3:"):
        assert url_of(Path(path)) is None and as_written(Path(path)) == path


def test_texts_at_an_address_are_learnt_as_texts_here(memory, tokenizer, tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(_jsonl(LINES))
    memory.pipe("/barrel/texts/one.jsonl.gz", gzip.compress(_jsonl(LINES[:25])))
    memory.pipe("/barrel/texts/two.jsonl", _jsonl(LINES[25:]))
    away = parse_recipe(TextDataConfig, {"path": "memory://barrel/texts", "sequence_tokens": 64})
    assert json.loads(away.model_dump_json())["path"] == "memory://barrel/texts", "a recipe says what its author said"
    here = TextDataConfig(path=tmp_path / "texts.jsonl", sequence_tokens=64)
    found, expected = prepare(away, tokenizer), prepare(here, tokenizer)
    assert list(found.train.examples) == list(expected.train.examples)
    assert list(found.held_out.examples) == list(expected.held_out.examples)


def test_a_file_is_fetched_once_and_again_when_it_has_changed(memory, monkeypatch):
    memory.pipe("/barrel/x.txt", b"one")
    asked, get = [], type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda *call, **named: asked.append(call[1]) or get(*call, **named))
    (file,) = files_of(Path("memory://barrel/x.txt"))
    assert (file.name, file.read_bytes()) == ("x.txt", b"one")
    objects._fetched.cache_clear()
    fetched(Path("memory://barrel/x.txt"))
    assert len(asked) == 1
    memory.pipe("/barrel/x.txt", b"two")
    objects._fetched.cache_clear()
    assert fetched(Path("memory://barrel/x.txt")).read_bytes() == b"two"


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_what_a_server_says_of_a_file_tells_that_it_has_changed(memory, monkeypatch, header):
    """The key of an address on the web is that of the address alone."""
    kind, said = type(memory), {header: "monday"}
    monkeypatch.setattr(kind, "ukey", lambda files, name: "constant")
    monkeypatch.setattr(kind, "info", lambda files, name, _info=kind.info: _info(files, name) | said)
    for day, content in (("monday", b"one"), ("monday", b"one"), ("tuesday", b"two")):
        memory.pipe("/barrel/x.txt", b"one" if day == "monday" else b"two")
        said[header] = day
        objects._fetched.cache_clear()
        assert fetched(Path("memory://barrel/x.txt")).read_bytes() == content
    del said[header]  # and nobody who keeps silent is asked twice
    objects._fetched.cache_clear()
    place = fetched(Path("memory://barrel/x.txt"))
    memory.pipe("/barrel/x.txt", b"six")
    objects._fetched.cache_clear()
    assert fetched(Path("memory://barrel/x.txt")) == place and place.read_bytes() == b"two"


def test_what_is_not_there_or_cannot_be_reached_is_said_in_a_line(memory, monkeypatch):
    said = {
        "memory://barrel/none.jsonl": "data.path 'memory://barrel/none.jsonl': there is no such file",
        "zzz://barrel/x": "cannot be reached: ValueError: Protocol not known",
    }
    for url, words in said.items():
        with pytest.raises(DataError, match=words):
            fetched(Path(url))
    monkeypatch.setitem(known_implementations, "cask", {"class": "cask_not_there.Cask", "err": "Install caskfs"})
    with pytest.raises(DataError, match=r"the driver for such addresses is not installed here \(Install caskfs\)"):
        fetched(Path("cask://barrel/x"))


@pytest.mark.parametrize(
    "url",
    [f"s3://me:{PLANTED}@bucket/x.jsonl", f"https://host/x.jsonl?X-Amz-Signature={PLANTED}", f"az://h/x?sig={PLANTED}"],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url):
    with pytest.raises(RecipeError, match="holds a password, a key or a signature") as recipe:
        parse_recipe(TextDataConfig, {"path": url})
    with pytest.raises(DataError) as data:
        fetched(Path(url))
    assert PLANTED not in f"{recipe.value}{data.value}"
    assert recipe.value.faults[0].startswith("path: the ")
