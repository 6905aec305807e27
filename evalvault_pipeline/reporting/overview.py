"""How each dataset stands, on one screen: last run, pass rate and its trend, alert state, what to do next.

Pure: the newest headers of a dataset's runs and the alert board come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalvault_pipeline.reporting.incidents import BACKUPS, Board, Cause, Incident, State

BARS = "▁▂▃▄▅▆▇█"
TREND_RUNS = 12
NEXT: Mapping[Cause, str] = {
    Cause.PASS_RATE: "read the report's worst cases; `evalvault explain CASE` says why",
    Cause.DROP: "read the comparison; promote a new baseline only if the drop is meant",
    Cause.COVERAGE: "see why scores are unmeasured in the report, then score the snapshot again",
    Cause.BUDGET: "raise EVALVAULT_BUDGET, then score the snapshot again: what was measured is kept",
    Cause.JUDGE_DOWN: "`evalvault doctor` checks the judge; then score the snapshot again",
    Cause.RUN_FAILED: "open the run in Dagster, mend what it says, and run it again",
    Cause.NO_DATA: "see that the daemon runs and the schedule is on",
    Cause.BACKUP: "see why the backup did not run (EVALVAULT_BACKUPS_DIR)",
}


@dataclass(frozen=True, kw_only=True)
class DatasetOverview:
    """One line of the screen. `pass_rates` are those of the last runs, the oldest first; `state` None: no alert state yet."""

    dataset: str
    snapshot: str
    finished_at: str
    judge: str
    pass_rate: float | None
    interval: tuple[float, float] | None
    coverage: float | None
    pass_rates: Sequence[float]
    state: State | None
    causes: Sequence[Cause]
    incidents: Sequence[Incident]
    muted: bool
    next_step: str

    @property
    def trend(self) -> str:
        return sparkline(self.pass_rates)


def overview(names: Iterable[str], runs: Mapping[str, Sequence[Mapping[str, Any]]], board: Board) -> list[DatasetOverview]:
    """A line for each dataset of the catalog, and for the backups where they are watched; `runs`: headers, the oldest first."""
    watched = [*names, *([BACKUPS] if BACKUPS in board.datasets else [])]
    return [_line(name, runs.get(name, ()), board) for name in watched]


def sparkline(values: Sequence[float]) -> str:
    """A bar for each share of 1; the lowest bar is the smallest value shown, or 0.5 where all are above."""
    if not values:
        return ""
    low = min(0.5, *values)
    return "".join(
        BARS[min(int((value - low) / (1.0 - low) * len(BARS)), len(BARS) - 1)] if low < 1.0 else BARS[-1] for value in values
    )


def _line(name: str, headers: Sequence[Mapping[str, Any]], board: Board) -> DatasetOverview:
    last = headers[-1] if headers else {}
    kept = board.datasets.get(name)
    causes = [Cause(cause) for cause in kept.causes] if kept else []
    open_ones = [one for one in board.open_incidents if name in one.datasets]
    interval = last.get("pass_rate_interval")
    return DatasetOverview(
        dataset=name,
        snapshot=str(last.get("snapshot", "")),
        finished_at=str(last.get("finished_at", "")),
        judge=str(last.get("model_name", "")),
        pass_rate=last.get("pass_rate"),
        interval=(interval[0], interval[1]) if interval else None,
        coverage=last.get("coverage"),
        pass_rates=[float(header["pass_rate"]) for header in headers[-TREND_RUNS:]],
        state=kept.state if kept else None,
        causes=causes,
        incidents=open_ones,
        muted="*" in board.mutes or name in board.mutes,
        next_step=_next(name, bool(last), kept.state if kept else None, causes),
    )


def _next(name: str, has_run: bool, state: State | None, causes: Sequence[Cause]) -> str:
    if causes:
        return NEXT[causes[0]]
    if state is State.WARNING:
        return "nothing yet: the next run confirms the drop, or does not"
    if not has_run and name != BACKUPS:
        return f"score it: evalvault backfill {name}"
    return "nothing"
