"""Dagster's real daemon, back after days: the daily evaluation has a run for each day that was missed."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import ScheduleInstigatorData
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from evalvault_pipeline_tests.stack import UserProject, wait_for

pytestmark = pytest.mark.stack
DAY = 86_400.0


def switched_on(schedules: dict[str, float], *, last_day: str) -> None:
    """Let these schedules have been switched on so many seconds ago, and the daemon have been down since `last_day`."""
    with (
        dg.DagsterInstance.from_config(".") as instance,
        WorkspaceProcessContext(instance, WorkspaceFileTarget(["workspace.yaml"])) as workspace,
    ):
        location = workspace.create_request_context().get_code_location("evalvault_pipeline")
        repository = location.get_repository("__repository__")
        for name, seconds_ago in schedules.items():
            state = instance.start_schedule(repository.get_schedule(name))
            data = state.instigator_data
            assert isinstance(data, ScheduleInstigatorData)
            began = ScheduleInstigatorData(cron_schedule=data.cron_schedule, start_timestamp=time.time() - seconds_ago)
            instance.update_instigator_state(state.with_data(began))
        job = dg.JobDefinition(name="daily_evaluation_job", graph_def=dg.GraphDefinition(name="daily_evaluation_job"))
        instance.create_run_for_job(job, tags={"dagster/partition": last_day})


def runs(project: UserProject, job: str) -> list[str]:
    """The partitions of a job's runs."""
    with sqlite3.connect(project.folder / "data" / ".dagster" / "history" / "runs.db", timeout=20) as connection:
        rows = connection.execute("SELECT partition FROM runs WHERE pipeline_name = ?", (job,)).fetchall()
    return sorted(str(row[0]) for row in rows)


def test_a_daemon_that_was_down_for_days_makes_up_for_each_daily_evaluation_and_for_the_last_weekly_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = UserProject(tmp_path / "project")
    file = project.folder / "dagster.yaml"
    none = file.read_text(encoding="utf-8").replace("max_concurrent_runs: 2", "max_concurrent_runs: 0")
    file.write_text(none, encoding="utf-8")  # it is about which runs are asked for
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("EVALVAULT_TOKENIZER", "ngram")
    today = datetime.now(ZoneInfo("Asia/Seoul")) - timedelta(hours=7)
    days = [(today - timedelta(days=ago)).date().isoformat() for ago in (3, 2, 1, 0)]
    switched_on({"daily_evaluation_schedule": 10 * DAY, "weekly_evaluation_schedule": 21 * DAY}, last_day=days[0])
    log = tmp_path / "daemon.log"
    daemon = project.start("dagster-daemon", "run", log=log, DAGSTER_HOME=str(project.folder))
    try:
        wait_for(
            lambda: len(runs(project, "daily_evaluation_job")) == 4 and runs(project, "all_datasets_evaluation_job"),
            seconds=90,
            what=lambda: log.read_text(errors="replace")[-3000:],
        )
    finally:
        daemon.kill()
        daemon.wait()
    assert runs(project, "daily_evaluation_job") == days
    assert len(runs(project, "all_datasets_evaluation_job")) == 1, "three Mondays were missed: the last one is made up for"
