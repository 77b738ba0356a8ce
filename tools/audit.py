"""Ask whether a version that we pin is known to be weak. Where that cannot be asked, it is said, and no failure."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
UNREACHABLE = (
    "ConnectionError",
    "Connection refused",
    "Max retries",
    "timed out",
    "ServiceError",
    "ProxyError",
    "403",
    "404",
)
"""What pip-audit says where it does not reach the list of weaknesses."""


def main() -> int:
    """0 where nothing is known or nobody could be asked, 1 where something is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail where nobody could be asked")
    options = parser.parse_args()
    found = _asked(PINS)
    if isinstance(found, str):
        print(f"not audited: {found}")
        return int(options.strict)
    weak = [one for one in found if one.get("vulns")]
    for one in weak:
        for flaw in one["vulns"]:
            mended = ", ".join(flaw.get("fix_versions", [])) or "no version yet"
            print(f"{one['name']} {one['version']}: {flaw['id']}, mended in {mended}")
    print(f"{len(found)} pinned packages, {len(weak)} of them known to be weak")
    return int(bool(weak))


def _asked(pins: Path) -> list[dict[str, Any]] | str:
    """What is known of each pinned package; or why nobody could be asked."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(
            "\n".join(line for line in pins.read_text().splitlines() if "==" in line and not line.startswith("#"))
        )
        file.flush()
        command = [
            "--requirement",
            file.name,
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--format",
            "json",
        ]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *command], capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return "the list of weaknesses did not answer in five minutes"
    if "No module named pip_audit" in done.stderr:
        return "pip-audit is not installed. Run `pip install pip-audit` where there is a network"
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        if any(word in done.stderr for word in UNREACHABLE):
            return f"the list of weaknesses cannot be reached ({last[:200]})"
        raise SystemExit(done.stderr) from None


if __name__ == "__main__":
    sys.exit(main())
