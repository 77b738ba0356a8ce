"""Stored labels: what they cost in precision, and that no damage goes unseen."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.errors import DataError, StaleError
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
    write_head,
    write_manifest,
    write_shard,
)
from stillhouse.core.signals import FactoredLogits

MADE_FROM = "malt"


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def store(folder, shards: int = 2, *, bias: bool = True):
    """A small finished store; its shards' hidden states by name."""
    said = {}
    for number in range(shards):
        name = f"shard-{number:05d}.safetensors"
        hiddens = [draw(10 * number + record, 3 + record, 4) for record in range(2)]
        keys = [key_of([number, record]) for record in range(2)]
        write_shard(folder / name, keys, hiddens, made_from=MADE_FROM)
        said[name] = hiddens
    head = FactoredLogits(draw(1, 1, 4), draw(2, 7, 4), draw(3, 7) if bias else None, 0.5, 30.0)
    write_head(folder, head, made_from=MADE_FROM)
    write_manifest(folder, Manifest(FORMAT, "last_hidden", MADE_FROM, 4, 0.5, 30.0, list(said), 14, 2 * shards))
    return said, head


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), exponents=st.lists(st.integers(-120, 120), min_size=1, max_size=4))
def test_hidden_states_come_back_within_the_stated_bound(tmp_path_factory, seed, exponents):
    path = tmp_path_factory.mktemp("labels") / "shard"
    # Columns from 1 down to 2^-20 of the row's largest: both branches of the bound are reached.
    columns = torch.tensor([2.0**-shift for shift in range(0, 21, 4)])
    hidden = draw(seed, len(exponents), 6) * columns * torch.tensor([2.0**e for e in exponents])[:, None]
    write_shard(path, [key_of([1])], [hidden], made_from=MADE_FROM)
    assert_within_the_stated_bound(open_shard(path).hidden(0), hidden)


def assert_within_the_stated_bound(stored: torch.Tensor, hidden: torch.Tensor) -> None:
    bound = torch.maximum(2.0**-11 * hidden.abs(), 2.0**-25 * hidden.abs().amax(-1, keepdim=True))
    rounding = 2.0**-22 * hidden.abs()  # dividing and multiplying again in float32
    assert ((stored - hidden).abs() <= bound + rounding).all()


def test_values_far_beyond_float16_survive(tmp_path):
    hidden = torch.tensor([[3e38, -1e38, 1.0], [1e-30, -3e-30, 0.0], [0.0, 0.0, 0.0], [70_000.0, 1.0, -65_504.0]])
    write_shard(tmp_path / "shard", [key_of([1])], [hidden], made_from=MADE_FROM)
    assert_within_the_stated_bound(open_shard(tmp_path / "shard").hidden(0), hidden)


def test_each_record_comes_back_as_its_own_whatever_their_lengths(tmp_path):
    hiddens = [draw(seed, length, 3) for seed, length in enumerate([5, 1, 2])]
    keys = [key_of([seed]) for seed in range(3)]
    write_shard(tmp_path / "shard", keys, hiddens, made_from=MADE_FROM)
    shard = open_shard(tmp_path / "shard")
    assert (shard.keys(), shard.made_from) == (keys, MADE_FROM)
    for record, hidden in enumerate(hiddens):
        assert_close(shard.hidden(record), hidden, rtol=2**-10, atol=1e-6)


def test_two_texts_have_two_keys():
    texts = [[], [0], [1], [0, 0], [1, 0], [0, 1], [256], [2**40]]
    assert len({key_of(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_comes_back_bit_for_bit(tmp_path, bias, dtype):
    _, head = store(tmp_path, bias=bias)
    weight = head.weight.to(dtype)
    write_head(tmp_path, FactoredLogits(head.hidden, weight, head.bias, head.scale, head.softcap), made_from=MADE_FROM)
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
        for bit in range(8):
            (copy / name).write_bytes(
                content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
            )
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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "null", "\u00ff"])
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


def test_labels_of_another_format_are_refused(copy):
    values = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(StaleError, match="has label format 2, and this version reads 1"):
        read_manifest(copy)
