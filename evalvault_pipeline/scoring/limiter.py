"""How many calls are in flight: as many as the server bears, shared by all metrics.

Additive increase, multiplicative decrease: an answer lets the limit grow by a sixteenth of the maximum in as many answers as
are in flight, a call that is sent away halves it, at most once a second.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

HALVED_ONCE_IN_SECONDS = 1.0
GROWTH = 1 / 16
# The share of calls sent away, averaged over about the last ten, from which all wait for Retry-After and not only the one.
HEAVY = 0.4


class AdaptiveLimiter:
    """Slots for calls. Those that wait are served by priority (smaller first), then in their order."""

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.maximum = maximum
        self.limit = float(maximum)
        self.in_flight = 0
        self._clock = clock
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = count()
        self._paused_until = 0.0
        self._halved_at = float("-inf")
        self._pressure = 0.0

    def acquire(self, priority: int = 0) -> asyncio.Future[None] | None:
        """Take a slot: None where one is free, else a future to wait for. Give it back with `release`."""
        if not self._waiting and self.in_flight < int(self.limit) and self._clock() >= self._paused_until:
            self.in_flight += 1
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._number), future))
        return future

    def release(self) -> None:
        self.in_flight -= 1
        self._serve()

    def answered(self) -> None:
        """A call came back: the limit may grow."""
        self._pressure *= 0.9
        if self.limit < self.maximum:
            self.limit = min(self.limit + GROWTH * self.maximum / self.limit, self.maximum)
            self._serve()

    def resume(self) -> None:
        """End the pause that a server has asked for."""
        self._paused_until = 0.0
        self._serve()

    def throttled(self, retry_after: float | None) -> None:
        """A call was sent away: fewer at once, and where most are, none until the server wants them again."""
        now = self._clock()
        self._pressure = 0.9 * self._pressure + 0.1
        if now - self._halved_at >= HALVED_ONCE_IN_SECONDS:
            self._halved_at = now
            self.limit = max(self.limit / 2, 1.0)
        if self._pressure >= HEAVY and retry_after:
            self._paused_until = max(self._paused_until, now + retry_after)
            asyncio.get_running_loop().call_later(retry_after + 0.01, self._serve)  # a timer may be a little early

    def _serve(self) -> None:
        while self._waiting and self.in_flight < int(self.limit) and self._clock() >= self._paused_until:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                self.in_flight += 1
                future.set_result(None)
