"""The daily evaluation and its days; what the daemon makes of the ones that it missed is in test_missed_days.py."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from evalvault_pipeline_tests.defs.conftest import Project, cases_of

SEOUL = ZoneInfo("Asia/Seoul")


def at(file: Path, moment: str) -> None:
    """Let a file have been written then, by Seoul's clocks."""
    seconds = datetime.fromisoformat(moment).replace(tzinfo=SEOUL).timestamp()
    os.utime(file, (seconds, seconds))


def evaluated(project: Project, day: str) -> list[str]:
    """The snapshots that the run of a day reports on."""
    before = {run.run_id for run in project.instance.get_runs()}
    job = project.definitions.resolve_job_def("daily_evaluation_job")
    assert job.execute_in_process(instance=project.instance, partition_key=day).success
    new = [run for run in project.instance.get_runs() if run.run_id not in before and run.job_name == "demo_evaluation_job"]
    return sorted(run.tags["dagster/asset_partition_range_start"].partition("/")[0] for run in new)


def test_a_day_is_evaluated_as_its_files_were_at_seven_of_that_day(project: Project) -> None:
    """Made up for days later, it is what it would have been."""
    at(project.write("2026-11-20", cases_of(2)), "2026-11-20T10:00")
    at(project.write("2026-11-21", cases_of(2)), "2026-11-21T06:59")
    assert evaluated(project, "2026-11-20") == []
    assert evaluated(project, "2026-11-21") == ["2026-11-21"]
    (project.folder / "datasets" / "demo" / "2026-11-21.json").unlink()
    assert evaluated(project, "2026-11-22") == ["2026-11-20"]


def asked_for(project: Project, moment: datetime) -> list[str]:
    """The days that the schedule asks for at its tick; the runs are made, as the daemon does."""
    repository = project.definitions.get_repository_def()
    schedule = repository.get_schedule_def("daily_evaluation_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 7 * * *", "Asia/Seoul")
    context = dg.build_schedule_context(instance=project.instance, scheduled_execution_time=moment, repository_def=repository)
    requests = schedule.evaluate_tick(context).run_requests or []
    job = project.definitions.resolve_job_def("daily_evaluation_job")
    for request in requests:
        assert request.run_key == request.partition_key
        project.instance.create_run_for_job(job, tags={"dagster/partition": str(request.partition_key)})
    return [str(request.partition_key) for request in requests]


def test_the_daily_schedule_asks_for_its_day_and_for_those_that_were_missed(project: Project) -> None:
    seven = datetime(2026, 11, 22, 22, tzinfo=UTC)  # 07:00 of the 23rd in Seoul
    assert asked_for(project, seven) == ["2026-11-23"], "the days before it was switched on are no concern of it"
    assert asked_for(project, seven + timedelta(days=1)) == ["2026-11-24"]
    assert asked_for(project, seven + timedelta(days=4)) == ["2026-11-25", "2026-11-26", "2026-11-27"]
    assert asked_for(project, seven + timedelta(days=4)) == ["2026-11-27"], "once: its run key is that of the run it has"
    assert asked_for(project, seven + timedelta(days=20)) == [f"2026-12-{day:02d}" for day in range(7, 14)]
