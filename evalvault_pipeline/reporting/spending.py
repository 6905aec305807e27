"""Tokens, money and calls of many runs: per run, day and dataset. Pure: headers of results files come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo


@dataclass(kw_only=True)
class Spent:
    """What some runs asked of the judge. `dollars` is None as soon as one of them has no known price.

    `saved_tokens` is what scores from the store had cost; `calls` are requests to the judge.
    """

    key: tuple[str, ...]
    runs: int = 0
    calls: int = 0
    tokens: int = 0
    dollars: float | None = 0.0
    scores: int = 0
    scores_from_store: int = 0
    saved_tokens: int = 0
    seconds: float = 0.0

    def add(self, header: Mapping[str, Any]) -> None:
        self.runs += 1
        self.calls += header["usage"]["judge_calls"]
        self.tokens += header["total_tokens"]
        cost = header["total_cost_usd"]
        self.dollars = None if self.dollars is None or cost is None else self.dollars + cost
        self.scores += header["cache"]["misses"]
        self.scores_from_store += header["cache"]["hits"]
        self.saved_tokens += header["cache"]["saved_tokens"]
        self.seconds += header["duration_seconds"]


def spent_by(headers: Iterable[Mapping[str, Any]], by: str, *, timezone: str) -> list[Spent]:
    """Usage by `run`, `day` (of `timezone`), `dataset` or `judge`, in the order of the first run; then, of all, a total."""
    groups: dict[tuple[str, ...], Spent] = {}
    total = Spent(key=("total",))
    for header in headers:
        key = _key(header, by, timezone)
        groups.setdefault(key, Spent(key=key)).add(header)
        total.add(header)
    return [*groups.values(), total]


def _key(header: Mapping[str, Any], by: str, timezone: str) -> tuple[str, ...]:
    if by == "run":
        return str(header["run_id"])[:12], str(header["dataset_name"]), str(header["snapshot"])
    if by == "dataset":
        return (str(header["dataset_name"]),)
    if by == "judge":
        return (str(header["model_name"]),)
    ended = datetime.fromisoformat(header["finished_at"]).astimezone(ZoneInfo(timezone))
    return (ended.date().isoformat(),)
