"""Every part of production is killed in turn while 40 batches are scored: they end complete, no case is lost, and little is paid twice.

`make drill` does it at length, with a table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from evalvault_pipeline_tests.judged_project import CALLS_A_CASE
from evalvault_pipeline_tests.production_stack import DATASET, ProductionStack

pytestmark = [pytest.mark.stack, pytest.mark.long]
BATCHES, CASES = 40, 200
# What a killed part takes with it is noticed within these seconds; those of production are in deploy/dagster.yaml.
QUICK = {
    "poll_interval_seconds: 15": "poll_interval_seconds: 2",
    "free_slots_after_run_end_seconds: 20": "free_slots_after_run_end_seconds: 2",
    "user_code_failure_retry_delay: 15": "user_code_failure_retry_delay: 3",
}


def test_killed_in_turn_no_part_of_production_loses_a_case_or_pays_more_than_what_was_in_flight(tmp_path: Path) -> None:
    parts = ["webserver", "daemon", "judge", "postgres", "worker", "code"]
    calls = CASES * CALLS_A_CASE
    with_changes = ProductionStack(tmp_path / "stack", latency=0.2, changes=QUICK)
    with_changes.project.write(DATASET, "w1", CASES)
    with with_changes as stack:
        backfill = stack.backfill("w1", batches=BATCHES)
        for number, part in enumerate(parts):
            stack.answered(30 + 50 * number)
            stack.restart(part)
        assert stack.until(lambda: stack.ended(backfill), seconds=300) == "COMPLETED_SUCCESS"
        results = stack.project.results(DATASET, "w1")
        assert (results["total_test_cases"], results["coverage"], results["missing_batches"]) == (CASES, 1.0, [])
        assert stack.scores() == CASES
        assert calls <= stack.judge.answered <= calls + len(parts) * stack.in_flight
        *scoring, report = stack.statuses()
        assert (scoring[-1], report) == ("SUCCESS", "SUCCESS")
        assert set(scoring[:-1]) == {"FAILURE"}, "a run that lost its worker does not stay STARTED"
