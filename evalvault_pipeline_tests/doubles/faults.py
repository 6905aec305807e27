"""What can go wrong with an answer, and a seeded draw of it.

How a fault is served (what a 429 looks like, how a connection is torn) lives in `serving` and in the server concerned.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

FaultKind = Literal[
    "error_500",  # the server's own JSON error
    "throttle_429",  # 429 with Retry-After, at once
    "busy_503",  # 503: overloaded (OpenAI), the queue is full and no Retry-After (Ollama), at once
    "malformed",  # 200, and the content is no JSON
    "out_of_schema",  # 200, and the content is JSON with values that its schema does not allow
    "truncated",  # 200, the content is cut and the finish reason is "length"
    "refusal",  # 200, and the model declines
    "content_filter",  # 200 without content, because a filter stopped it (OpenAI; elsewhere as `refusal`)
    "hang",  # no answer until the client leaves or the server closes
    "reset",  # the connection is reset instead of an answer
    "dies",  # the runner dies: 500, or half an answer when streaming (Ollama); 500 (OpenAI)
    "html",  # 502 and an HTML page, from a proxy on the way
    "empty",  # 200 and no body at all
]
CONTENT_FAULTS: frozenset[str] = frozenset({"malformed", "out_of_schema", "truncated", "refusal", "content_filter"})

FAULT_KINDS: tuple[FaultKind, ...] = (
    *("error_500", "throttle_429", "busy_503", "malformed", "out_of_schema", "truncated"),
    *("refusal", "content_filter", "hang", "reset", "dies", "html", "empty"),
)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `retry_after` is the header of a 429 (and of OpenAI's 503); None leaves it out."""

    kind: FaultKind
    retry_after: str | None = "1"


Script = Callable[[int, Mapping[str, Any]], Fault | None]
"""From the number of a request (1, 2, ...) and its body to what goes wrong with it, or None."""


class Faults:
    """A script that draws what goes wrong from the seed and the request's number alone: same seed, same faults.

    Each rate is the part of all requests that fails in this way. The defaults are the weather of a bad day (23 % of the
    requests); `Faults.only(...)` has no weather but the one that is named.
    """

    def __init__(
        self,
        seed: int,
        *,
        error_500: float = 0.05,
        throttle_429: float = 0.05,
        malformed: float = 0.02,
        hang: float = 0.01,
        reset: float = 0.01,
        html: float = 0.01,
        empty: float = 0.01,
        out_of_schema: float = 0.03,
        truncated: float = 0.02,
        refusal: float = 0.01,
        content_filter: float = 0.01,
        busy_503: float = 0.0,
        dies: float = 0.0,
        retry_after: str | None = "1",
    ) -> None:
        self.seed, self.retry_after = seed, retry_after
        self.rates: dict[FaultKind, float] = {
            **{"error_500": error_500, "throttle_429": throttle_429, "malformed": malformed, "hang": hang, "reset": reset},
            **{"html": html, "empty": empty, "out_of_schema": out_of_schema, "truncated": truncated, "refusal": refusal},
            **{"content_filter": content_filter, "busy_503": busy_503, "dies": dies},
        }
        if sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError(f"the rates add up to {sum(self.rates.values()):.2f}, and no more than all requests can fail")

    @classmethod
    def only(cls, seed: int, *, retry_after: str | None = "1", **rates: float) -> Faults:
        """The named faults at the named rates, and no other: `Faults.only(7, hang=0.1)`."""
        return cls(seed, retry_after=retry_after, **{**dict.fromkeys(FAULT_KINDS, 0.0), **rates})

    def __call__(self, number: int, body: Mapping[str, Any]) -> Fault | None:
        left = random.Random(f"{self.seed}:{number}").random()
        for kind, rate in self.rates.items():
            if left < rate:
                return Fault(kind, self.retry_after)
            left -= rate
        return None


def spoilt(answer: Any, fault: Fault | None) -> tuple[str, str]:
    """The content of an answer and its finish reason after the fault, if any, has been at it."""
    text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
    match fault.kind if fault else None:
        case "malformed":
            return text[: len(text) // 2] + ',, "', "stop"
        case "truncated":
            return text[: len(text) // 2], "length"
        case "out_of_schema":
            return orjson.dumps(_out_of_schema(answer)).decode(), "stop"
        case _:
            return text, "stop"


def _out_of_schema(answer: Any) -> Any:
    """Every number out of any range that a metric allows; where there is none, the first property of another type."""
    broken, numbers = _with_sevens(answer)
    if numbers or not isinstance(answer, dict):
        return broken
    return {**answer, **dict.fromkeys(list(answer)[:1], 7)}


def _with_sevens(value: Any) -> tuple[Any, int]:
    if isinstance(value, (int, float)):
        return 7, 1
    if isinstance(value, list):
        pairs = [_with_sevens(item) for item in value]
        return [item for item, _ in pairs], sum(count for _, count in pairs)
    if isinstance(value, dict):
        changed = {name: _with_sevens(item) for name, item in value.items()}
        return {name: item for name, (item, _) in changed.items()}, sum(count for _, count in changed.values())
    return value, 0
