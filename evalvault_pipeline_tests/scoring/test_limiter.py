"""How many calls are in flight: what the limit does with answers, with calls that are sent away, and with who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evalvault_pipeline.scoring.judging import Progress
from evalvault_pipeline.scoring.limiter import AdaptiveLimiter
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import IMPATIENT, THREE, cases_of, judged, openai_spec


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def test_a_call_that_is_sent_away_halves_the_limit_at_most_once_a_second():
    """64 calls of one moment are sent away together: that is one sign, not six."""

    async def told() -> None:
        limiter = AdaptiveLimiter(64, clock := Clock())
        for _ in range(10):
            limiter.throttled(None)
        assert limiter.limit == 32
        clock.now += 0.99
        limiter.throttled(None)
        assert limiter.limit == 32
        clock.now += 0.01
        limiter.throttled(None)
        assert limiter.limit == 16

    asyncio.run(told())


def test_the_limit_never_falls_below_one_call():
    async def told() -> None:
        limiter = AdaptiveLimiter(4, clock := Clock())
        for _ in range(20):
            limiter.throttled(None)
            clock.now += 1
        assert limiter.limit == 1
        assert limiter.acquire() is None

    asyncio.run(told())


def test_answers_raise_the_limit_by_a_sixteenth_of_the_maximum_in_as_many_answers_as_are_in_flight():
    limiter = AdaptiveLimiter(64, Clock())
    limiter.limit = 16
    for _ in range(16):
        limiter.answered()
    assert limiter.limit == pytest.approx(16 + 4, abs=0.5)
    for _ in range(1000):
        limiter.answered()
    assert limiter.limit == 64


@in_a_loop
async def test_no_more_than_the_limit_have_a_slot_and_the_next_waits_until_one_is_given_back() -> None:
    limiter = AdaptiveLimiter(2, Clock())
    assert limiter.acquire() is None and limiter.acquire() is None
    third = limiter.acquire()
    assert third is not None and not third.done() and limiter.in_flight == 2
    limiter.release()
    assert third.done() and limiter.in_flight == 2
    limiter.release()
    limiter.release()
    assert limiter.in_flight == 0


@in_a_loop
async def test_who_waits_is_served_by_priority_and_then_in_order() -> None:
    limiter = AdaptiveLimiter(1, Clock())
    limiter.acquire()
    waiting = {name: limiter.acquire(priority) for name, priority in (("a", 2), ("b", 1), ("c", 0), ("d", 1), ("e", 0))}
    served = []
    for _ in waiting:
        limiter.release()
        served += [name for name, slot in waiting.items() if slot is not None and slot.done() and name not in served]
    assert served == ["c", "e", "b", "d", "a"]


@in_a_loop
async def test_a_call_that_has_given_up_waiting_takes_no_slot() -> None:
    limiter = AdaptiveLimiter(1, Clock())
    limiter.acquire()
    gone, there = limiter.acquire(), limiter.acquire()
    assert gone is not None and there is not None
    gone.cancel()
    limiter.release()
    assert there.done() and limiter.in_flight == 1


@in_a_loop
async def test_a_few_calls_that_are_sent_away_stop_nobody_else() -> None:
    limiter = AdaptiveLimiter(64, Clock())
    for _ in range(4):
        limiter.throttled(60.0)
    assert limiter.acquire() is None


@in_a_loop
async def test_when_most_calls_are_sent_away_all_wait_as_long_as_the_server_says() -> None:
    limiter = AdaptiveLimiter(64, clock := Clock())
    for _ in range(10):
        limiter.throttled(0.05)
    slot = limiter.acquire()
    assert slot is not None
    clock.now += 0.06
    await asyncio.wait_for(slot, 1)


@in_a_loop
async def test_the_longest_pause_holds_and_can_be_ended() -> None:
    limiter = AdaptiveLimiter(64, clock := Clock())
    for seconds in (*[1.0] * 9, 30.0, 1.0):
        limiter.throttled(seconds)
    clock.now += 2
    slot = limiter.acquire()
    assert slot is not None and not slot.done()
    limiter.resume()
    assert slot.done() and limiter.acquire() is None


# With a server ----------------------------------------------------------------------------------------------------------


class Crowded(OpenAIServer):
    """Has room for eight, and sends the others away for a tenth of a second."""

    def over_limit(self, request: web.Request) -> web.Response:
        return self.throttled(request, "0.1")


def test_a_server_with_room_for_eight_is_found_out_and_no_case_fails(tmp_path: Path):
    states: list[Progress] = []
    with Crowded(limit=8, latency=0.05) as server:
        spec, patience = openai_spec(server, max_concurrency=64), replace(IMPATIENT, throttled=60.0)
        run = judged(cases_of(20), spec, tmp_path, THREE, batch_size=2, patience=patience, on_progress=states.append)
    assert run.error is None and not run.reasons
    assert server.answered["/v1/chat/completions"] == 100
    late = sorted(state.limit for state in states if state.calls >= 40)
    assert late[len(late) // 2] <= 32 and late[-1] < 64


def test_a_server_that_bears_it_is_asked_as_much_as_is_allowed_and_no_more(tmp_path: Path):
    with OpenAIServer(latency=0.05) as server:
        run = judged(cases_of(40), openai_spec(server, max_concurrency=16), tmp_path, THREE)
    assert server.peak_in_flight == 16
    assert not run.reasons
