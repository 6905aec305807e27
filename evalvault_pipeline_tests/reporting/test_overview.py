"""How a dataset stands is what its greatest snapshot's newest whole run says, and what was not measured is no zero."""

from __future__ import annotations

from typing import Any

import pytest

from evalvault_pipeline.reporting.incidents import Board, Cause, Reported, RunFailed
from evalvault_pipeline.reporting.overview import DatasetOverview, newest_runs, overview, sparkline

NOW = 1_800_000_000.0
WEEKS = ("2026w45", "2026w46", "2026w47")


def header(snapshot: str, day: int, **changes: Any) -> dict[str, Any]:
    """A run that ended on this day of November, with 90 % passed."""
    return {
        "snapshot": snapshot,
        "finished_at": f"2026-11-{day:02}T09:00:00.000+00:00",
        "model_name": "none",
        "missing_batches": [],
        "measured_scores": 40,
        "pass_rate": 0.9,
        "pass_rate_interval": [0.8, 0.95],
        "coverage": 1.0,
        "unmeasured_details": [],
        **changes,
    }


def nothing(snapshot: str, day: int) -> dict[str, Any]:
    return header(
        snapshot,
        day,
        measured_scores=0,
        pass_rate=0.0,
        pass_rate_interval=[0.0, 0.05],
        coverage=0.0,
        unmeasured_details=["faithfulness: no judge in profile offline"],
    )


def line(*headers: dict[str, Any], board: Board | None = None, now: float = NOW) -> DatasetOverview:
    return overview({"qa": WEEKS}, {"qa": headers}, board or Board(), now=now)[0]


def test_a_backfill_of_a_bad_old_snapshot_says_nothing_of_how_a_dataset_stands() -> None:
    shown = line(header("2026w46", 17), header("2026w47", 23), header("2026w45", 25, pass_rate=0.2))
    assert (shown.snapshot, shown.pass_rate) == ("2026w47", 0.9)
    assert shown.pass_rates == [0.2, 0.9, 0.9], "in the order of snapshots"


def test_the_trend_has_a_point_for_each_snapshot_its_newest_run() -> None:
    shown = line(*(header("2026w46", day, pass_rate=day / 100) for day in (3, 30, 7)), header("2026w47", 24))
    assert shown.pass_rates == [0.3, 0.9]


def test_a_run_that_lacks_batches_says_nothing() -> None:
    shown = line(header("2026w46", 17), header("2026w47", 24, missing_batches=["2026w47/0002"]))
    assert shown.snapshot == "2026w46"
    assert line(header("2026w47", 24, missing_batches=["2026w47/0002"])).next_step == "score it: evalvault backfill qa"


def test_a_file_from_elsewhere_that_bears_the_datasets_name_says_nothing() -> None:
    runs = [header("2026w46", 17), header("try", 25, pass_rate=0.1)]
    assert [run["snapshot"] for run in newest_runs(runs, WEEKS)] == ["2026w46"]
    assert [run["snapshot"] for run in newest_runs(runs, ())] == ["2026w46", "try"], "the catalog's files are gone"


def test_where_cases_are_unmeasured_the_pass_rate_is_what_it_may_be() -> None:
    part = header("2026w47", 24, pass_rate=0.0, pass_rate_bounds=[0.0, 0.9], unmeasured_test_cases=36, coverage=0.5)
    assert line(part).bounds == (0.0, 0.9)
    assert line(header("2026w47", 24, pass_rate_bounds=[0.9, 0.9], unmeasured_test_cases=0)).bounds is None


def test_what_recovers_waits_for_the_next_run() -> None:
    board = Board()
    for number, (passed, low, high) in enumerate([(0.5, 0.4, 0.6), (0.85, 0.75, 0.9)], 1):
        board.apply(
            Reported(
                id=f"r{number}", dataset="qa", snapshot=f"2026w4{number}", run_id="r", at=NOW, pass_rate=passed, low=low,
                high=high, coverage=1.0, threshold=0.8, min_coverage=0.95, evidence=f"e{number}",
            )
        )  # fmt: skip
    shown = line(header("2026w47", 24), board=board)
    assert (
        shown.causes == [Cause.PASS_RATE] and shown.next_step == "nothing yet: the next run confirms the recovery, or does not"
    )


def test_a_run_in_which_nothing_was_measured_is_no_zero_and_says_why() -> None:
    shown = line(header("2026w46", 17), nothing("2026w47", 24))
    assert (shown.pass_rate, shown.interval, shown.coverage) == (None, None, 0.0)
    assert shown.next_step == "nothing was measured: faithfulness: no judge in profile offline"
    assert shown.trend == "▇·"


def test_what_ended_the_run_comes_before_that_nothing_was_measured() -> None:
    board = Board()
    board.apply(RunFailed(id="1", dataset="qa", run_id="r", at=NOW, why="it died"))
    assert board.datasets["qa"].causes.keys() == {Cause.RUN_FAILED}
    assert "Dagster" in line(nothing("2026w47", 24), board=board).next_step


@pytest.mark.parametrize("name", ["qa", "*"])
def test_a_mute_ends_at_its_time_though_no_daemon_runs(name: str) -> None:
    board = Board()
    board.mute(name, NOW)
    assert line(board=board, now=NOW - 1).muted
    assert not line(board=board, now=NOW).muted


def test_bars_of_shares() -> None:
    assert sparkline([]) == ""
    assert sparkline([None, 0.5, 1.0, None]) == "·▁█·"
    assert sparkline([0.0, 1.0]) == "▁█"
