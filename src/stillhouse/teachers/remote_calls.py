"""Many requests to one server: a few at once, again where that may help, and within a budget."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from stillhouse.core.errors import ModelError, RunError, StillhouseError

FIRST_PAUSE_SECONDS = 0.5
"""Before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE_SECONDS = 60.0
"""Unless the server itself asks for a longer one."""
CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Amount:
    """Tokens, those read and those written, and what they cost."""

    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens - other.tokens, self.cost - other.cost)


@dataclass(frozen=True)
class Came:
    """What a server said, as its reader understood it, and what was paid for it."""

    value: Any
    paid: Amount


@dataclass(frozen=True)
class Job:
    """One request."""

    key: str
    ask: Callable[[Any], Awaitable[Came]]
    """Asks a client once. Raises whatever went wrong."""
    most: Amount
    """What it may take at most."""


@dataclass(frozen=True)
class Arrived:
    """What a job brought."""

    job: Job
    value: Any
    paid: Amount
    lost: Amount
    """At most what attempts took that brought nothing."""
    attempts: int


@dataclass(frozen=True)
class Trouble:
    """Why an attempt failed, and what is to be done."""

    reason: str
    may_have_cost: bool = False
    """Whether the server may have worked, and charges for it."""
    wait_seconds: float | None = None
    """For how long the server asks to be left alone."""
    error: StillhouseError | None = None
    """Where it is of no use to try again."""


class Spending:
    """A budget: what is spent of it, and what is on its way to be."""

    def __init__(self, *, tokens: int | None = None, money: float | None = None, currency: str = "") -> None:
        self.tokens, self.money, self.currency = tokens, money, currency
        self.spent = self.reserved = self.lost = Amount()
        self.in_flight = 0

    def fits(self, most: Amount) -> bool:
        """Whether so much more cannot go beyond it, whatever becomes of what is on its way."""
        then = self.spent + self.reserved + most
        in_tokens = self.tokens is None or then.tokens <= self.tokens
        return in_tokens and (self.money is None or then.cost <= self.money)

    def reserve(self, most: Amount) -> None:
        """An attempt is sent."""
        self.reserved += most
        self.in_flight += 1

    def settle(self, most: Amount, paid: Amount) -> None:
        """It ended, and this was paid for it."""
        self.reserved -= most
        self.spent += paid
        self.in_flight -= 1

    def __str__(self) -> str:
        limits = [] if self.tokens is None else [f"{self.spent.tokens:,} of {self.tokens:,} tokens"]
        if self.money is not None:
            limits.append(f"{self.spent.cost:,.4f} of {self.money:,.4f} {self.currency}".rstrip())
        return " and ".join(limits)


class _Stopped(Exception):
    """Nothing more is to be sent."""


class Calls:
    """Jobs on their way. They run on a thread of their own, so that Ctrl-C finds none of them half done."""

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        client: Callable[[], Any],
        judge: Callable[[Exception], Trouble],
        spending: Spending,
        concurrency: int,
        retries: int,
        timeout_seconds: float,
    ) -> None:
        self.jobs, self.client, self.judge, self.spending = list(jobs), client, judge, spending
        self.concurrency, self.retries, self.timeout_seconds = concurrency, retries, timeout_seconds
        self._arrived: list[Arrived] = []
        self._bell, self._over = threading.Event(), False
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping, self._settled = asyncio.Event(), asyncio.Event()
        self._quiet_until = 0.0

    # The thread that asks for results.

    def results(self, finish: Callable[[Arrived], Any]) -> Iterator[Any]:
        """What `finish` makes of each, as it comes. An error, Ctrl-C, or whatever is thrown into this iterator ends it: first
        nothing more is sent and what is on its way comes out, then the error does. A second one ends it at once.
        """
        thread = threading.Thread(target=self._work, name="remote calls", daemon=True)
        interrupted: BaseException | None = None
        place = 0
        thread.start()
        try:
            while not (self._over and place == len(self._arrived)):
                try:
                    self._bell.wait()
                    self._bell.clear()
                    while place < len(self._arrived):
                        yield finish(self._arrived[place])
                        place += 1  # not before: what an interruption left in between comes again
                except GeneratorExit:
                    raise
                except BaseException as error:
                    if interrupted is not None:
                        raise
                    interrupted = error
                    self._bell.set()
                    self._tell(self._stop)
        finally:
            self._tell(self._cancel)
            thread.join(CLOSING_SECONDS)
        if interrupted or self._failure:
            raise interrupted or self._failure  # type: ignore[misc]

    def _tell(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # its loop has ended by itself
            self._loop.call_soon_threadsafe(what)

    # The thread that asks the server.

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._all())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._over = True
            self._bell.set()
            self._loop.run_until_complete(self._last_words())
            self._loop.close()

    async def _last_words(self) -> None:
        """What was broken off still has to be closed."""
        await self._loop.shutdown_asyncgens()
        await asyncio.sleep(0)

    async def _all(self) -> None:
        waiting = iter(self.jobs)
        async with self.client() as client:
            self._workers = [
                asyncio.create_task(self._worker(client, waiting)) for _ in range(min(self.concurrency, len(self.jobs)))
            ]
            await asyncio.gather(*self._workers)

    def _stop(self) -> None:
        self._stopping.set()
        self._settled.set()

    def _cancel(self) -> None:
        self._stop()
        for worker in getattr(self, "_workers", ()):
            worker.cancel()

    async def _worker(self, client: Any, waiting: Iterator[Job]) -> None:
        while not self._stopping.is_set() and (job := next(waiting, None)) is not None:
            try:
                self._arrived.append(await self._arrival(client, job))
            except _Stopped:
                return
            except Exception as error:
                self._failure = self._failure or error
                self._stop()
                return
            self._bell.set()

    async def _arrival(self, client: Any, job: Job) -> Arrived:
        lost, trouble = Amount(), Trouble("")
        for attempt in range(self.retries + 1):
            if attempt:
                await self._pause(trouble, _backoff(job.key, attempt))
            await self._room(job.most)
            paid = job.most  # unless it is known better
            self.spending.reserve(job.most)
            try:
                came = await asyncio.wait_for(job.ask(client), self.timeout_seconds)
                paid = came.paid
                return Arrived(job, came.value, paid, lost, attempt + 1)
            except Exception as error:
                trouble = self.judge(error)
                paid = job.most if trouble.may_have_cost else Amount()
                lost += paid
                self.spending.lost += paid
            finally:
                self.spending.settle(job.most, paid)
                self._settled.set()
            if trouble.error is not None:
                raise trouble.error
        raise ModelError(f"{trouble.reason} That was attempt {self.retries + 1}, the last that remote.retries allows.")

    async def _pause(self, trouble: Trouble, seconds: float) -> None:
        """Before another attempt; where the server asks to be left alone, everyone waits."""
        if trouble.wait_seconds is not None:
            self._quiet_until = max(self._quiet_until, self._loop.time() + trouble.wait_seconds)
        await self._rest(seconds)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise _Stopped

    async def _room(self, most: Amount) -> None:
        """Until the server may be asked, and the budget has room.

        Raises:
            RunError: if it will never have.
        """
        while (quiet := self._quiet_until - self._loop.time()) > 0:
            await self._rest(quiet)
        while not self.spending.fits(most):
            if not self.spending.in_flight:
                raise self._used_up(most)
            self._settled.clear()
            await self._settled.wait()
        if self._stopping.is_set():
            raise _Stopped

    def _used_up(self, most: Amount) -> RunError:
        more = f"{most.tokens:,} tokens" + (f" and {most.cost:,.4f} {self.spending.currency}" if most.cost else "")
        lost = self.spending.lost.tokens
        perhaps = f" ({lost:,} tokens of that perhaps, by attempts that brought nothing)" if lost else ""
        return RunError(
            f"the budget is used up: {self.spending} are spent{perhaps}, and the next request may take {more.rstrip()}. "
            "All replies that came are kept. Raise the budget, and the same command goes on from there."
        )


def _backoff(key: str, attempt: int) -> float:
    """Twice as long each time, and for no two requests the same."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempt - 1, 30))  # beyond that no float has it
    return longest * Random(f"{key} {attempt}").uniform(0.5, 1.0)
