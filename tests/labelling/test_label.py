"""Labelling: once for each text, whatever interrupts it."""

import os
import re
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from torch.testing import assert_close

from stillhouse.commands.labels import forget_damaged
from stillhouse.core import label_store
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import size_on_disk
from stillhouse.core.label_codecs import states_from_bytes
from stillhouse.core.label_store import FetchedFiles, StoreFiles, damaged, open_shard, read_manifest
from stillhouse.core.progress import Silent
from stillhouse.core.run import RunFolder
from stillhouse.core.signals import Wanted
from stillhouse.data.packing import to_batch
from stillhouse.labelling import Sampled, Sparse, States, label
from stillhouse.labelling.cluster import Actor, Texts
from stillhouse.labelling.label import Alone, Job, label_by, objects_at
from stillhouse.teachers import LocalTeacher, StoredTeacher

ROW_TOKENS = 32
SHARD_TOKENS = 40


class CountingTeacher(LocalTeacher):
    """A teacher that counts the documents it is asked about."""

    documents = 0

    def signals(self, batch, wanted):
        self.documents += int((batch.positions == 0)[batch.documents >= 0].sum())
        return super().signals(batch, wanted)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def model(build_model):
    return build_model("llama", layers=2)


@pytest.fixture
def teacher(model):
    return CountingTeacher(model)


@pytest.fixture(scope="module")
def examples(build_example):
    return [build_example(seed, 5 + 3 * seed % 20) for seed in range(12)]


RECORDERS = {
    "last_hidden": States(),
    "hidden_states": States(8, (0, 2)),
    "sparse": Sparse(300, temperatures=(1.0, 2.0)),
    "sampled": Sampled(300, draws=7, power=0.8, seed=3),
}


def store(teacher, examples, folder, *, made_from="malt", shard_tokens=SHARD_TOKENS, recorder=RECORDERS["last_hidden"]):
    return label(
        teacher,
        examples,
        folder,
        made_from=made_from,
        row_tokens=ROW_TOKENS,
        recorder=recorder,
        shard_tokens=shard_tokens,
    )


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}


def age(folder):
    """Set every file's time back, so that writing it again shows."""
    for path in folder.iterdir():
        os.utime(path, (0, 0))


def test_every_example_is_stored_with_what_the_teacher_says_of_it_alone(teacher, examples, tmp_path, model):
    outcome = store(teacher, examples, tmp_path)
    found = {}
    for name in read_manifest(tmp_path).shards:
        shard = open_shard(tmp_path / name)
        found |= {key: shard.record(number) for number, key in enumerate(shard.keys())}
    assert set(found) == {example.key for example in examples}
    assert (outcome.records, outcome.tokens) == (len(examples), sum(len(example.ids) for example in examples))
    assert outcome.bytes == size_on_disk(tmp_path)
    for example in examples:
        ids = torch.tensor([example.ids])
        alone = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].detach()
        stored = torch.from_numpy(states_from_bytes(found[example.key], bits=16))
        assert_close(stored, alone, rtol=2**-10, atol=2e-5)


def test_a_text_that_comes_twice_is_stored_once(teacher, examples, tmp_path):
    assert store(teacher, [*examples, *examples], tmp_path).records == len(examples)


def test_a_shard_ends_with_the_record_that_fills_it(teacher, examples, tmp_path):
    store(teacher, examples, tmp_path)
    sizes = [open_shard(path).tokens for path in sorted(tmp_path.glob("shard-*"))]
    longest = max(len(example.ids) for example in examples)
    assert len(sizes) > 2
    assert all(SHARD_TOKENS <= size < SHARD_TOKENS + longest for size in sizes[:-1])


def test_labelling_again_writes_no_shard(teacher, examples, tmp_path):
    store(teacher, examples, tmp_path)
    age(tmp_path)
    store(teacher, examples, tmp_path)
    assert set(times(tmp_path).values()) == {0}


@pytest.mark.parametrize("recorder", RECORDERS.values(), ids=RECORDERS)
def test_a_labelling_that_was_killed_goes_on_and_ends_the_same(teacher, examples, tmp_path, model, recorder):
    store(teacher, examples, tmp_path / "whole", recorder=recorder)

    class Mortal(CountingTeacher):
        def signals(self, batch, wanted):
            if self.documents > 9:
                raise Killed
            return super().signals(batch, wanted)

    with pytest.raises(Killed):
        store(Mortal(model), examples, tmp_path / "killed", recorder=recorder)
    kept = snapshot(tmp_path / "killed")
    assert 0 < len(kept) < len(snapshot(tmp_path / "whole"))
    (tmp_path / "killed" / "shard-00002.safetensors.part").write_text("half")
    age(tmp_path / "killed")
    again = CountingTeacher(model)
    store(again, examples, tmp_path / "killed", recorder=recorder)
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")
    assert {name for name, time in times(tmp_path / "killed").items() if time == 0} == set(kept)
    assert again.documents < len(examples)


def test_shards_with_other_settings_are_not_taken_for_ones_own(teacher, examples, tmp_path):
    store(teacher, examples, tmp_path / "used", recorder=Sparse(300, most=4))
    store(teacher, examples, tmp_path / "used", recorder=Sparse(300, most=5))
    store(teacher, examples, tmp_path / "fresh", recorder=Sparse(300, most=5))
    assert snapshot(tmp_path / "used") == snapshot(tmp_path / "fresh")


def test_draws_depend_on_the_seed_and_the_text_and_on_nothing_around_it(teacher, examples, tmp_path):
    def drawn(name: str, some, seed: int):
        store(teacher, some, tmp_path / name, recorder=Sampled(300, draws=7, seed=seed))
        shards = [open_shard(path) for path in sorted((tmp_path / name).glob("shard-*"))]
        return {
            key: [bytes(section) for section in shard.record(number)][:3]
            for shard in shards
            for number, key in enumerate(shard.keys())
        }

    first, backwards, other = drawn("a", examples, 0), drawn("b", examples[::-1], 0), drawn("c", examples, 1)
    assert first == backwards
    assert all(first[key] != other[key] for key in first)


def test_what_it_will_take_is_said_before_the_first_shard(teacher, examples, tmp_path):
    heard = []

    class Listening(Silent):
        def start(self, title, total, unit=""):
            heard.append("start")

        def say(self, text):
            heard.append(text)

    outcome = label(
        teacher, examples, tmp_path, made_from="malt", row_tokens=ROW_TOKENS, shard_tokens=200, progress=Listening()
    )
    said, begun = heard
    assert begun == "start"
    told = re.match(
        r"labels take about ([\d.]+) bytes a token, [\d.]+ MiB for (\d+) tokens, and about [\d.]+ minutes", said
    )
    assert int(told[2]) == outcome.tokens
    assert float(told[1]) == pytest.approx(outcome.bytes_per_token, rel=0.1)


def test_logits_that_are_no_numbers_are_refused(examples, tmp_path, build_model):
    broken = build_model("llama", layers=1)
    broken.get_output_embeddings().weight.data[5] = torch.nan
    for recorder in (Sparse(300), Sampled(300)):
        with pytest.raises(ModelError, match="the teacher's logits are not finite"):
            store(LocalTeacher(broken), examples, tmp_path, recorder=recorder)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "empty"])
def test_only_the_damaged_shard_is_made_again(teacher, examples, tmp_path, damage):
    store(teacher, examples, tmp_path)
    whole, victim = snapshot(tmp_path), tmp_path / "shard-00001.safetensors"
    content = whole[victim.name]
    match damage:
        case "bit":
            victim.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
        case "cut":
            victim.write_bytes(content[: len(content) // 2])
        case "gone":
            victim.unlink()
        case "empty":
            victim.write_bytes(b"")
    assert damaged(tmp_path) == [victim.name]
    age(tmp_path)
    store(teacher, examples, tmp_path)
    assert snapshot(tmp_path) == whole
    assert {name for name, time in times(tmp_path).items() if time != 0} == {victim.name}
    assert damaged(tmp_path) == []


def test_shards_of_another_teacher_or_other_texts_are_not_taken_for_ones_own(teacher, examples, tmp_path, build_model):
    other = LocalTeacher(build_model("llama", layers=2, seed=1))
    store(other, examples, tmp_path / "used", made_from="rye")
    store(teacher, examples, tmp_path / "used", made_from="malt")
    store(teacher, examples, tmp_path / "fresh", made_from="malt")
    assert snapshot(tmp_path / "used") == snapshot(tmp_path / "fresh")
    store(teacher, examples[3:], tmp_path / "used", made_from="malt")
    shards = [open_shard(tmp_path / "used" / name) for name in read_manifest(tmp_path / "used").shards]
    assert [key for shard in shards for key in shard.keys()] == [e.key for e in examples[3:]]  # noqa: SIM118 - no dict


def test_without_a_text_there_is_nothing_to_label(teacher, tmp_path):
    with pytest.raises(DataError, match="no text to label"):
        store(teacher, [], tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


@pytest.fixture
def objects(monkeypatch):
    """A store of objects without a machine; of each that is fetched the name is kept."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    fetched, get = [], type(memory).get_file
    monkeypatch.setattr(
        type(memory), "get_file", lambda *call, **named: fetched.append(Path(call[1]).name) or get(*call, **named)
    )
    memory.fetched = fetched
    yield memory
    memory.store.clear()


def at(teacher, examples, folder, **changes):
    """Labelled into objects."""
    given = {
        "made_from": "malt",
        "row_tokens": ROW_TOKENS,
        "shard_tokens": SHARD_TOKENS,
        "store": "memory://barrel/labels",
    }
    return label_by(Alone(teacher), examples, folder, **given | changes)


def test_labels_that_are_objects_say_the_same_and_few_shards_lie_here(objects, teacher, examples, tmp_path):
    here, there = store(teacher, examples, tmp_path / "here"), at(teacher, examples, tmp_path / "there")
    assert (there.records, there.tokens, there.bytes_per_token) == (here.records, here.tokens, here.bytes_per_token)
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["manifest.json"]
    manifest = read_manifest(tmp_path / "there")
    kept = [objects.cat_file(f"/barrel/labels/{manifest.seal}/{name}") for name in manifest.shards]
    assert kept == [content for _, content in sorted(snapshot(tmp_path / "here").items())]
    files = FetchedFiles(
        tmp_path / "cache", objects_at("memory://barrel/labels", manifest.seal), most_bytes=len(kept[0])
    )
    away, local = StoredTeacher(tmp_path / "cache", files=files), StoredTeacher(tmp_path / "here")
    assert sorted(objects.fetched) == ["head.safetensors", "keys.safetensors", "manifest.json"], (
        "no shard to begin with"
    )
    for example in examples:
        batch = to_batch([[example]])
        said, expected = (one.signals(batch, Wanted(logits=True)).logits.dense() for one in (away, local))
        assert torch.equal(said, expected)
        assert sum(size_on_disk(file) for file in (tmp_path / "cache").glob("shard-*")) <= 2 * len(kept[0])
    assert len(objects.fetched) == 3 + len(manifest.shards), "each once, as they were read in turn"


def test_few_shards_stay_open_and_each_is_checked_against_its_hash_once(teacher, examples, tmp_path, monkeypatch):
    store(teacher, examples, tmp_path)
    checked = []
    digest = label_store._digest
    monkeypatch.setattr(label_store, "_digest", lambda *known: checked.append(None) or digest(*known))
    files, all_open = StoreFiles(tmp_path, open_bytes=1), StoreFiles(tmp_path)
    names = files.manifest.shards
    for name in [*names, *reversed(names)]:
        few, all_ = files.shard(name), all_open.shard(name)
        assert few.keys() == all_.keys() and list(map(bytes, few.record(0))) == list(map(bytes, all_.record(0)))
        assert list(files._shards) == [name]
    assert len(all_open._shards) == len(names) > 2 and len(checked) == 2 * len(names)
    assert (files._held_bytes, all_open._held_bytes) == (
        few.num_bytes,
        sum(one.num_bytes for one in all_open._shards.values()),
    )


def test_objects_that_are_there_are_not_made_again_and_a_damaged_one_is_found(
    objects, teacher, examples, tmp_path, monkeypatch
):
    at(teacher, examples, tmp_path)
    manifest = read_manifest(tmp_path)
    place, known = objects_at("memory://barrel/labels", manifest.seal), dict(objects.store)
    assert damaged(tmp_path, place) == []
    place.remove(manifest.shards[1])
    assert damaged(tmp_path, place) == [manifest.shards[1]]
    teacher.documents = 0
    at(teacher, examples, tmp_path)
    assert 0 < teacher.documents < len(examples) - 1
    assert {name: bytes(one.getvalue()) for name, one in objects.store.items()} == {
        name: bytes(one.getvalue()) for name, one in known.items()
    }
    content = objects.cat_file(f"/barrel/labels/{manifest.seal}/{manifest.shards[0]}")
    objects.pipe(f"/barrel/labels/{manifest.seal}/{manifest.shards[0]}", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{manifest.shards[0]} in memory://barrel/.* label RECIPE --check"):
        FetchedFiles(tmp_path, place, most_bytes=2**30).shard(manifest.shards[0])
    assert damaged(tmp_path, place) == [], "that it is there is all that is seen"
    assert damaged(tmp_path, place, fetches=True) == [manifest.shards[0]]
    run = RunFolder(tmp_path)
    run.labels.mkdir()
    shutil.copy(tmp_path / "manifest.json", run.labels)
    monkeypatch.setattr(RunFolder, "is_done", lambda *_: True)
    forget_damaged(run, Silent(), ["label"], objects=place, fetches=True)
    assert manifest.shards[0] not in place.sizes(), "what is there is not made again"
    at(teacher, examples, tmp_path)
    assert objects.cat_file(f"/barrel/labels/{manifest.seal}/{manifest.shards[0]}") == content


def test_an_actor_needs_no_disk_but_its_own_where_labels_are_objects(model, examples, tmp_path):
    job = Job(tmp_path / "nobody", States(), ROW_TOKENS, "0" * 16, objects_at(f"file://{tmp_path}/there", "0" * 16))
    texts = Texts(job)
    texts.write(iter(examples))
    actor = Actor(job, lambda: LocalTeacher(model), texts)
    asked = {"number": [0], "start": [2], "end": [5]}
    assert [actor(asked)["fault"], actor(asked)["fault"]] == [[""], [""]]
    assert job.done([examples[2:5], examples[5:7]]) == {0}
    assert open_shard(tmp_path / "there" / job.seal / job.name(0, examples[2:5])).keys() == [
        e.key for e in examples[2:5]
    ]
    texts.remove()
    assert not (tmp_path / "nobody").exists() and not list(tmp_path.rglob("tokens"))
