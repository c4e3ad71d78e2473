"""In front of a store that calls wait for: every wait is bounded, and a store that is slow is not asked by everybody.

After several failures in a row the circuit opens: callers are refused at once, one at a time asks whether the store is
back, and the first answers let in a few more at a time (core/breaker.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from faregate.core.breaker import Breaker
from faregate.errors import BookUnavailable, StoreUnavailable, StoreUnreached
from faregate.ports import Clock

T = TypeVar("T")

_RETRY_AFTER_S = 1


class Guard:
    """One store's, or one use of it."""

    def __init__(
        self,
        clock: Clock,
        *,
        wait_s: float | None,
        error: type[StoreUnavailable],
        what: str,
        probe: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`wait_s` bounds each wait; None: what is run bounds itself. `probe` asks without a side effect.

        `error` is raised, with `what` as its text, when nobody is to ask or no answer came in time. Without a probe
        of its own the first call is it.
        """
        self._clock = clock
        self._wait_s = wait_s
        self._error = error
        self._what = what
        self._probe = probe
        self._breaker = Breaker()

    @property
    def closed(self) -> bool:
        """All is well: nobody is refused."""
        return self._breaker.state == "closed"

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """`work`, in time. Its StoreUnavailable is a failure of the store, anything else an answer of it."""
        word = self._breaker.admit(self._clock.monotonic())
        if word == "refuse":
            raise self._error(self._what, retry_after_s=_RETRY_AFTER_S)
        try:
            if word == "probe":
                await self._ask()
            if self._wait_s is None:
                found = await work()
            else:
                async with asyncio.timeout(self._wait_s):
                    found = await work()
        except TimeoutError:
            self._breaker.failed(word, self._clock.monotonic())
            raise self._error(self._what, retry_after_s=_RETRY_AFTER_S) from None
        except StoreUnavailable:
            self._breaker.failed(word, self._clock.monotonic())
            raise
        except asyncio.CancelledError:
            self._breaker.left(word)
            raise
        except BaseException:
            self._breaker.answered(word)
            raise
        self._breaker.answered(word)
        return found

    async def _ask(self) -> None:
        """The probe's failure says nothing of the work, which has not begun."""
        if self._probe is None:
            return
        try:
            await self._probe()
        except StoreUnavailable:
            raise self._error(self._what, retry_after_s=_RETRY_AFTER_S) from None


def redis_guard(clock: Clock, probe: Callable[[], Awaitable[object]]) -> Guard:
    """For holds: the calls time themselves."""
    return Guard(
        clock, wait_s=None, error=StoreUnreached, what="the credit store does not answer, try again", probe=probe
    )


def book_guard(clock: Clock, wait_s: float, what: str) -> Guard:
    """For what a call has to read from the book."""
    return Guard(clock, wait_s=wait_s, error=BookUnavailable, what=what)
