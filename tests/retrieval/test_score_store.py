"""Scores are asked for once, found by content, and the same bytes whatever happened on the way."""

import numpy as np
import pytest

from stillhouse.core.errors import StaleError
from stillhouse.retrieval import score_store
from stillhouse.retrieval.score_store import BLOCKS, RECORDS, ScoreStore, store_for
from stillhouse.retrieval.spread import in_order

PAIRS = [(f"question {n % 5}", f"passage {n}") for n in range(23)]


class Counting:
    """A teacher whose scores depend on the company that a pair is scored in, as padding makes them."""

    output = "logits"
    identity = "teacher"

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked, self.dies_at = 0, dies_at

    def scores(self, pairs):
        self.asked += len(pairs)
        if self.dies_at is not None and self.asked > self.dies_at:
            raise KeyboardInterrupt
        return np.array([len(query + passage) + len(pairs) * 1e-3 for query, passage in pairs], dtype=np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(score_store, "BLOCK_PAIRS", 4)


def test_a_pair_is_asked_for_once_and_found_again(tmp_path):
    teacher = Counting()
    first = store_for(teacher, tmp_path).scores(teacher, [*PAIRS, *PAIRS[:3]])
    assert teacher.asked == len(PAIRS)
    again = store_for(teacher, tmp_path)
    assert again.scores(teacher, PAIRS[::-1]).tolist() == first[: len(PAIRS)][::-1].tolist()
    assert teacher.asked == len(PAIRS) and len(again) == len(PAIRS)


def test_blocks_that_come_in_any_order_are_the_same_bytes_and_one_process_goes_on_with_them(tmp_path):
    """As actors score them, of whom one is stopped."""

    class Spread(Counting):
        def scores_of_each(self, blocks):
            numbered = [(number, self.scores(block)) for number, block in enumerate(blocks)]
            return in_order(iter([*numbered[1:3], numbered[0], *numbered[4:]]))  # the fourth never comes

    whole, spread = Counting(), Spread()
    ScoreStore(tmp_path / "whole", output="logits").scores(whole, PAIRS)
    with pytest.raises(ValueError, match="shorter"):
        ScoreStore(tmp_path / "spread", output="logits").scores(spread, PAIRS)
    teacher = Counting()
    ScoreStore(tmp_path / "spread", output="logits").scores(teacher, PAIRS)
    assert teacher.asked == len(PAIRS) - 3 * 4
    for name in (RECORDS, BLOCKS):
        assert (tmp_path / "spread" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("dies_at", [3, 4, 9, 20])
def test_killed_half_way_and_run_again_it_is_the_same_bytes(tmp_path, dies_at):
    whole = Counting()
    ScoreStore(tmp_path / "whole", output="logits").scores(whole, PAIRS)
    dying = Counting(dies_at)
    with pytest.raises(KeyboardInterrupt):
        ScoreStore(tmp_path / "killed", output="logits").scores(dying, PAIRS)
    with (tmp_path / "killed" / RECORDS).open("ab") as file:
        file.write(b"half a record")  # what a kill in the middle of a write leaves
    with (tmp_path / "killed" / BLOCKS).open("ab") as file:
        file.write(b'{"records": 4, "sha')
    teacher = Counting()
    ScoreStore(tmp_path / "killed", output="logits").scores(teacher, PAIRS)
    assert teacher.asked < len(PAIRS) or dies_at < 4
    for name in (RECORDS, BLOCKS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_damaged_bytes_are_not_believed(tmp_path):
    teacher = Counting()
    store = ScoreStore(tmp_path, output="logits")
    before = store.scores(teacher, PAIRS)
    content = bytearray((tmp_path / RECORDS).read_bytes())
    content[5 * 20 + 17] ^= 1  # in the second block
    (tmp_path / RECORDS).write_bytes(content)
    again = ScoreStore(tmp_path, output="logits")
    assert len(again) == 4
    assert again.scores(teacher, PAIRS).tolist() == before.tolist()


def test_another_unit_and_broken_scores_are_refused(tmp_path):
    ScoreStore(tmp_path, output="logits")
    with pytest.raises(StaleError, match="similarity are asked for"):
        ScoreStore(tmp_path, output="similarity")

    class Broken(Counting):
        def scores(self, pairs):
            return np.full(len(pairs), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="scored a pair nan"):
        ScoreStore(tmp_path, output="logits").scores(Broken(), PAIRS)


def test_two_texts_are_not_taken_for_two_others():
    assert score_store.key_of_pair(("ab", "c")) != score_store.key_of_pair(("a", "bc"))
