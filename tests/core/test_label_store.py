"""Stored labels: each record comes back as its own, and no damage goes unseen."""

import json

import pytest
import torch

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.label_codecs import states_to_bytes
from stillhouse.core.label_store import (
    FORMAT,
    HEAD,
    MANIFEST,
    Manifest,
    damaged,
    key_of,
    open_shard,
    read_head,
    read_manifest,
    seal_of,
    stored_bytes,
    write_head,
    write_manifest,
    write_shard,
)
from stillhouse.core.signals import FactoredLogits

SETTINGS = {"bits": 16, "layers": []}
SEAL = seal_of("last_hidden", SETTINGS, made_from="malt")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def store(folder, shards: int = 2, *, bias: bool = True):
    """A small finished store, and its head."""
    names = [f"shard-{number:05d}.safetensors" for number in range(shards)]
    for number, name in enumerate(names):
        records = [states_to_bytes(draw(10 * number + record, 3 + record, 4).numpy(), bits=16) for record in range(2)]
        write_shard(folder / name, [key_of([number, record]) for record in range(2)], records, tokens=7, seal=SEAL)
    head = FactoredLogits(draw(1, 1, 4), draw(2, 7, 4), draw(3, 7) if bias else None, 0.5, 30.0)
    write_head(folder, head, seal=SEAL)
    factors = {"scale": 0.5, "softcap": 30.0}
    write_manifest(folder, Manifest(FORMAT, "last_hidden", SETTINGS, "malt", factors, names, 14, 2 * shards))
    return head


def test_each_record_comes_back_as_its_own_whatever_the_lengths_of_its_sections(tmp_path):
    records = [[b"one", b"", b"two"], [b"", b"", b""], [b"three", b"x" * 300, b"\x00"]]
    keys = [key_of([number]) for number in range(3)]
    write_shard(tmp_path / "shard", keys, records, tokens=7, seal=SEAL)
    shard = open_shard(tmp_path / "shard")
    assert (shard.keys(), shard.seal, shard.tokens) == (keys, SEAL, 7)
    for number in (2, 0, 1):
        assert [bytes(section) for section in shard.record(number)] == records[number]


def test_what_a_record_takes_is_known_before_it_is_written(tmp_path):
    def size(records: list[list[bytes]]) -> int:
        keys = [key_of([number]) for number in range(len(records))]
        write_shard(tmp_path / "shard", keys, records, tokens=7, seal=SEAL)
        return (tmp_path / "shard").stat().st_size

    records = [[b"x" * 1000, b"y" * length] for length in range(50)]
    predicted = sum(stored_bytes(record) for record in records)
    assert 0 < size(records) - predicted < 600  # names, types and shapes, once a file


def test_a_seal_depends_on_every_part():
    parts = [("sparse", {"most": 4}, "malt"), ("sampled", {"most": 4}, "malt"), ("sparse", {"most": 5}, "malt")]
    parts += [("sparse", {"most": 4}, "rye"), ("sparse", {"least": 4}, "malt"), ("sparse", {}, "malt")]
    assert len({seal_of(signal, settings, made_from=made_from) for signal, settings, made_from in parts}) == len(parts)


def test_two_texts_have_two_keys():
    texts = [[], [0], [1], [0, 0], [1, 0], [0, 1], [256], [2**40]]
    assert len({key_of(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_comes_back_bit_for_bit(tmp_path, bias, dtype):
    head = store(tmp_path, bias=bias)
    weight = head.weight.to(dtype)
    write_head(tmp_path, FactoredLogits(head.hidden, weight, head.bias, head.scale, head.softcap), seal=SEAL)
    back = read_head(tmp_path, read_manifest(tmp_path))
    assert back.weight.dtype == dtype
    assert torch.equal(back.weight, weight)
    assert (back.bias is None) == (not bias)
    assert bias is False or torch.equal(back.bias, head.bias)
    assert (back.scale, back.softcap, tuple(back.hidden.shape)) == (0.5, 30.0, (0, 4))


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    store(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(tmp_path, whole_store):
    """The store on disk, in a folder of its own."""
    for name, content in whole_store.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_whole_store_has_no_damage(copy):
    assert damaged(copy) == []


@pytest.mark.parametrize("name", [HEAD, "shard-00001.safetensors"])
@pytest.mark.parametrize("eighth", range(8))
def test_a_flipped_bit_anywhere_is_seen_and_its_file_named(copy, whole_store, name, eighth):
    content = whole_store[name]
    for position in range(eighth, len(content), 8):
        bit = position // 8 % 8
        (copy / name).write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
        assert damaged(copy) == [name], f"byte {position}, bit {bit}"
    (copy / name).write_bytes(content)


@pytest.mark.parametrize("name", [HEAD, "shard-00001.safetensors"])
def test_a_file_cut_short_anywhere_is_seen_and_named(copy, whole_store, name):
    for length in range(len(whole_store[name])):
        (copy / name).write_bytes(whole_store[name][:length])
        assert damaged(copy) == [name], f"cut to {length} bytes"


@pytest.mark.parametrize("name", [HEAD, "shard-00000.safetensors", MANIFEST])
def test_a_file_that_is_gone_is_seen_and_named(copy, name):
    (copy / name).unlink()
    assert damaged(copy) == [name]


def test_a_flipped_bit_in_the_manifest_is_seen(copy, whole_store):
    content = whole_store[MANIFEST]
    for position in range(len(content)):
        for bit in (0, 3):
            (copy / MANIFEST).write_bytes(
                content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
            )
            try:
                assert damaged(copy) == [MANIFEST], f"byte {position}, bit {bit}"
            except StaleError:  # the number of the format itself
                assert b'"format": 2' not in (copy / MANIFEST).read_bytes()


def test_a_file_of_another_store_is_seen_and_refused(copy, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "shard"
    seal = seal_of("last_hidden", SETTINGS, made_from="rye")
    write_shard(other, [key_of([0, 0])], [[b"x", b"y"]], tokens=1, seal=seal)
    name = "shard-00000.safetensors"
    (copy / name).write_bytes(other.read_bytes())
    assert damaged(copy) == [name]
    with pytest.raises(
        StaleError, match=f"{name} was made from another teacher, tokenizer or data, or with other sett"
    ):
        open_shard(copy / name, read_manifest(copy))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "null", "\u00ff"])
def test_a_manifest_that_is_none_is_seen_and_named(copy, text):
    (copy / MANIFEST).write_bytes(text.encode("latin-1"))
    assert damaged(copy) == [MANIFEST]
    with pytest.raises(DataError, match="manifest.json is not what was written"):
        read_manifest(copy)


def test_a_damaged_shard_says_which_it_is_and_what_to_do(copy, whole_store):
    path = copy / "shard-00000.safetensors"
    path.write_bytes(whole_store[path.name][:-1] + b"\x00")
    with pytest.raises(DataError, match=f"{path} is not what was written.*`stillhouse label` makes only it again"):
        open_shard(path)
    path.write_bytes(whole_store[path.name][:50])
    with pytest.raises(DataError, match=f"{path} is missing or cut short"):
        open_shard(path)


def test_unfinished_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no finished labels. Run `stillhouse label` first"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("other", [1, 3])
def test_labels_of_another_format_are_refused(copy, other):
    values = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(values | {"format": other}))
    for ask in (read_manifest, damaged):
        with pytest.raises(
            StaleError, match=f"has label format {other}, and this version reads 2. Remove it and label"
        ):
            ask(copy)
