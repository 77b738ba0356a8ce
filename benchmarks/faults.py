"""A remote teacher through a server that fails in every way that servers do: what is lost, what comes twice, and whether the
budget holds. The server is the tests' own, on loopback.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from stillhouse.core.errors import RunError
from stillhouse.core.files import read_lines
from stillhouse.models.generate import Sampling
from stillhouse.teachers import BudgetConfig, RemoteWriter, RemoteWriterConfig, Request
from stillhouse.teachers.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "teachers"))
from fault_server import FaultServer

NEW_TOKENS = 8
"""That an answer may have; the server's have five."""


def main() -> None:
    """Print what came, and exit with 1 if anything was lost, came twice, or went beyond the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.25, help="of attempts that fail")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asked = [_question(number) for number in range(options.requests)]
    with tempfile.TemporaryDirectory() as folder:
        whole = _without_a_budget(asked, Path(folder), options)
        budgeted = _within_a_budget(asked, Path(folder), options)
    sys.exit(not (whole and budgeted))


def _question(number: int) -> Request:
    message = {"role": "user", "content": f"question {number}"}
    return Request(seed="0", sampling=Sampling(max_new_tokens=NEW_TOKENS), messages=(message,))


def _writer(server: FaultServer, options: argparse.Namespace, *, tokens: int | None = None) -> RemoteWriter:
    config = RemoteWriterConfig(
        base_url=server.url,
        model="faulty",
        key_env=None,
        concurrency=options.concurrency,
        timeout_seconds=2.0,
        retries=20,
        budget=BudgetConfig(tokens=tokens),
    )
    return RemoteWriter(config)


def _without_a_budget(asked: list[Request], folder: Path, options: argparse.Namespace) -> bool:
    """Whether everything came, once, and in order."""
    started = time.perf_counter()
    with FaultServer(seed=options.seed, share=options.share) as server:
        replies = Ledger(folder / "whole.jsonl", _writer(server, options)).ask(asked)
    seconds = time.perf_counter() - started
    keys = [line["key"] for line in read_lines(folder / "whole.jsonl")]
    right = sum(reply.text == f"answer to question {number}" for number, reply in enumerate(replies))
    lost, twice = len(asked) - len(set(keys)), len(keys) - len(set(keys))
    paid, unsure = (
        sum(reply.tokens + reply.prompt_tokens for reply in replies),
        sum(reply.lost_tokens for reply in replies),
    )
    faults = ", ".join(f"{count} {name}" for name, count in sorted(server.failed.items()))
    print(f"{len(asked):,} requests, {sum(server.attempts.values()):,} attempts in {seconds:.1f} s; faults: {faults}")
    print(f"  {lost} lost, {twice} kept twice, {right:,} right and in their order; {server.most_at_once} at once")
    print(
        f"  charged {server.charged:,} tokens: {paid:,} for what came, and at most {unsure:,} counted for what did not"
    )
    return lost == twice == 0 and right == len(asked) and paid <= server.charged <= paid + unsure


def _within_a_budget(asked: list[Request], folder: Path, options: argparse.Namespace) -> bool:
    """Whether the server charges no more than the budget, and all that came is kept."""
    limit = 5 * len(asked)
    with FaultServer(seed=options.seed, share=options.share) as server:
        ledger = Ledger(folder / "budget.jsonl", _writer(server, options, tokens=limit))
        try:
            ledger.ask(asked)
        except RunError as stop:
            print(f"budget of {limit:,} tokens: {stop}")
        print(f"  charged {server.charged:,} tokens, {ledger.replies:,} replies kept")
    return server.charged <= limit and ledger.replies > 0


if __name__ == "__main__":
    main()
