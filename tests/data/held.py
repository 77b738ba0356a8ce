"""Prints the most bytes that are held while few records are read, split, tokenised and learnt once, and while more are.

A program of its own: checked annotations hold some of what they are shown.
"""

import gc
import json
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

from stillhouse.core import numbers, sorting
from stillhouse.data import packing, rowset, split
from stillhouse.data.config import ClassificationDataConfig, PreferencesDataConfig, TextDataConfig
from stillhouse.data.prepare import prepare
from stillhouse.training.order import ByLength
from tests.conftest import make_bert_tokenizer, make_tokenizer

FEW, MANY = 500, 2000
CONFIGS: dict[str, Any] = {
    "text": TextDataConfig,
    "classification": ClassificationDataConfig,
    "preferences": PreferencesDataConfig,
}


def hold_few_at_once(block: int) -> None:
    """What is held of records at once, so little that some hundred records are many."""
    for module in (numbers, sorting, packing, split):
        module.BLOCK = block  # type: ignore[attr-defined]
    sorting.RUN, packing.PACKED_AT_ONCE, rowset.AT_ONCE = 128, 128, 32
    sorting.isqrt = lambda number: 0  # type: ignore[attr-defined]


def record(number: int, kind: str) -> dict[str, str]:
    """A short one."""
    said = f"the fox ran over hill {number}"
    match kind:
        case "preferences":
            return {"prompt": said, "chosen": "yes", "rejected": "no"}
        case "classification":
            return {"text": said, "label": "near" if number % 3 else "far"}
    return {"text": said}


def fill_free_lists() -> None:
    """Python keeps 2,000 dropped tuples of each size for others, until it looks for garbage: so many, and it does not look."""
    gc.collect()
    gc.disable()
    _ = [[tuple(iter(range(size))) for _ in range(2500)] for size in range(1, 20)]


def peak_bytes(records: int, kind: str, folder: Path) -> int:
    """The most that is held."""
    file = folder / f"{kind}-{records}.jsonl"
    file.write_text("".join(json.dumps(record(number, kind)) + "\n" for number in range(records)))
    tokenizer = make_bert_tokenizer() if kind == "classification" else make_tokenizer()
    settings = {"reads": "text"} if kind == "preferences" else {}
    config = CONFIGS[kind](path=file, sequence_tokens=32, held_out=0.05, **settings)
    fill_free_lists()
    tracemalloc.start()
    try:
        rows = prepare(config, tokenizer).train
        order = iter(ByLength(rows.lengths, rows_per_step=2, seed=0))
        while step := list(islice(order, 2)):
            rows.collate([rows[number] for number in step])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    hold_few_at_once(int(sys.argv[2]))
    found = {}
    for name in sys.argv[3:]:
        peak_bytes(50, name, Path(sys.argv[1]))  # whatever is made once
        found[name] = [peak_bytes(count, name, Path(sys.argv[1])) for count in (FEW, MANY)]
    print(json.dumps(found))
