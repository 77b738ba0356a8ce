"""Settings of what takes time and is told elsewhere: how fast a model is, and how long a sample of it."""

from typing import Any

LITTLE = {
    "cost": {"REPEATS": 1, "DOCUMENT_REPEATS": 1, "DOCUMENTS": 2, "PREFILL_TOKENS": 16, "DECODE_TOKENS": 2},
    "compare": {"REPEATS": 1, "DOCUMENT_REPEATS": 1, "SAMPLE_TOKENS": 8},
}
"""By module of `stillhouse.evaluation`."""


def time_little(patch: Any) -> None:
    """Have these settings, for as long as this monkeypatch of pytest's says."""
    for module, constants in LITTLE.items():
        for name, value in constants.items():
            patch.setattr(f"stillhouse.evaluation.{module}.{name}", value)
