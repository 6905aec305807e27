"""How each dataset stands, on one screen: last run, pass rate and its trend, alert state, what to do next.

Pure: headers of results files, the alert board and the clock come in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from evalvault_pipeline.reporting.incidents import BACKUPS, Board, Cause, Incident, State

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"  # in a trend: a run in which nothing was measured
TREND_SNAPSHOTS = 12
RUNS_READ = timedelta(days=400)
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
    """One line of the screen. `pass_rates` are those of the last snapshots, in their order; None: nothing was measured.

    `bounds`: where cases are unmeasured, the pass rate if all of them failed, and if all passed. `state` None: no alert state
    yet.
    """

    dataset: str
    snapshot: str
    finished_at: str
    judge: str
    pass_rate: float | None
    interval: tuple[float, float] | None
    bounds: tuple[float, float] | None
    coverage: float | None
    pass_rates: Sequence[float | None]
    state: State | None
    causes: Sequence[Cause]
    incidents: Sequence[Incident]
    muted: bool
    next_step: str

    @property
    def trend(self) -> str:
        return sparkline(self.pass_rates)


def newest_runs(headers: Iterable[Mapping[str, Any]], snapshots: Collection[str]) -> list[Mapping[str, Any]]:
    """Of each snapshot its newest whole run, in the order of snapshots: the last one is how the dataset stands.

    Only `snapshots` count, those of the catalog: a file from elsewhere may bear the dataset's name. Where no run is of one of
    them, as their files are gone, all runs count.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for header in sorted(headers, key=lambda header: str(header["finished_at"])):
        if not header["missing_batches"]:
            newest[str(header["snapshot"])] = header
    known = sorted(newest.keys() & set(snapshots)) or sorted(newest)
    return [newest[name] for name in known]


def overview(
    datasets: Mapping[str, Collection[str]], runs: Mapping[str, Iterable[Mapping[str, Any]]], board: Board, *, now: float
) -> list[DatasetOverview]:
    """A line for each dataset of the catalog, and for the backups where they are watched.

    `datasets`: the snapshots of each in the catalog; `runs`: headers of each; `now`: seconds since 1970.
    """
    watched = [*datasets, *([BACKUPS] if BACKUPS in board.datasets else [])]
    return [_line(name, newest_runs(runs.get(name, ()), datasets.get(name, ())), board, now) for name in watched]


def sparkline(values: Sequence[float | None]) -> str:
    """A bar for each share of 1, a dot for None; the lowest bar is the smallest value shown, or 0.5 where all are above."""
    low = min([0.5, *(value for value in values if value is not None)])
    return "".join(
        GAP if value is None else BARS[min(int((value - low) / (1.0 - low) * len(BARS)), len(BARS) - 1)] for value in values
    )


def _line(name: str, newest: Sequence[Mapping[str, Any]], board: Board, now: float) -> DatasetOverview:
    last = newest[-1] if newest else {}
    kept = board.datasets.get(name)
    state = kept.state if kept else None
    causes = [Cause(cause) for cause in kept.causes] if kept else []
    open_ones = [one for one in board.open_incidents if name in one.datasets]
    interval = last.get("pass_rate_interval") if last.get("measured_scores") else None
    bounds = last.get("pass_rate_bounds") if last.get("measured_scores") else None
    return DatasetOverview(
        dataset=name,
        snapshot=str(last.get("snapshot", "")),
        finished_at=str(last.get("finished_at", "")),
        judge=str(last.get("model_name", "")),
        pass_rate=_pass_rate(last) if last else None,
        interval=(interval[0], interval[1]) if interval else None,
        bounds=(bounds[0], bounds[1]) if bounds and last.get("unmeasured_test_cases") else None,
        coverage=last.get("coverage"),
        pass_rates=[_pass_rate(header) for header in newest[-TREND_SNAPSHOTS:]],
        state=state,
        causes=causes,
        incidents=open_ones,
        muted=any(board.mutes.get(one, 0.0) > now for one in ("*", name)),
        next_step=_next(name, last, state, causes, kept.recovering if kept else ()),
    )


def _pass_rate(header: Mapping[str, Any]) -> float | None:
    return float(header["pass_rate"]) if header["measured_scores"] else None


def _next(name: str, last: Mapping[str, Any], state: State | None, causes: Sequence[Cause], recovering: Collection[str]) -> str:
    if last and not last["measured_scores"] and set(causes) <= {Cause.COVERAGE}:
        return f"nothing was measured: {'; '.join(last['unmeasured_details'][:1]) or NEXT[Cause.COVERAGE]}"
    if causes and set(causes) <= set(recovering):
        return "nothing yet: the next run confirms the recovery, or does not"
    if causes:
        return NEXT[causes[0]]
    if state is State.WARNING:
        return "nothing yet: the next run confirms the drop, or does not"
    if not last and name != BACKUPS:
        return f"score it: evalvault backfill {name}"
    return "nothing"
