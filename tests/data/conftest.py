"""Files to read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write text as it is, or records as JSON lines; gzipped where the name says so."""

    def write_file(name: str, content: str | list[Any]) -> Path:
        lines = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
        return path

    return write_file
