"""What memory holds of a data set does not grow with its records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.held import CONFIGS, FEW, MANY

MOST_BYTES = 30
"""For each record more: less than a place in a list with a number in it takes."""


def more_bytes(folder, *kinds, block):
    """How much more is held for each record more."""
    command = [sys.executable, "-m", "tests.data.held", str(folder), str(block), *kinds]
    said = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    peaks = json.loads(said.stdout.splitlines()[-1])
    return {kind: (many - few) / (MANY - FEW) for kind, (few, many) in peaks.items()}


def test_more_records_take_no_more_memory(tmp_path):
    found = more_bytes(tmp_path, *CONFIGS, block=64)
    assert found == pytest.approx(dict.fromkeys(found, 0), abs=MOST_BYTES)


def test_an_index_in_memory_would_be_seen(tmp_path):
    assert more_bytes(tmp_path, "text", block=10_000)["text"] > 3 * MOST_BYTES
