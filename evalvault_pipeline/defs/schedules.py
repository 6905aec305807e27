"""When evaluations, the digest, backups and the clearing away run by the clock."""

from collections.abc import Iterable
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from evalvault_pipeline.defs.jobs import DAILY_HOUR
from evalvault_pipeline.defs.partitions import PARTITION
from evalvault_pipeline.settings import Settings

DAY = timedelta(days=1)
MISSED_DAYS = 7  # a longer outage than a week is looked into by a person
RUNS_LOOKED_AT = 100


def weekly_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`weekly_evaluation_schedule`: Monday 09:00 in EVALVAULT_TIMEZONE; switched on in the UI.

    After an outage Dagster makes up for the last tick that it missed, which is enough: it scores the newest snapshot.
    """

    @dg.schedule(
        name="weekly_evaluation_schedule",
        job=job,
        cron_schedule="0 9 * * 1",
        execution_timezone=settings.timezone,
        description="Score the newest snapshot of every dataset each Monday at 09:00.",
    )
    def evaluation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = _day_of(context, settings).isoformat()
        return dg.RunRequest(run_key=day, tags={"evalvault/week": day})

    return evaluation_schedule


def daily_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`daily_evaluation_schedule`: every day at 07:00, for who releases daily; off until it is switched on.

    After an outage Dagster evaluates the last tick only, also of a job with partitions (`max_catchup_runs` does nothing in
    1.13). So each tick asks for every day since the newest one that has a run.
    """

    @dg.schedule(
        name="daily_evaluation_schedule",
        job=job,
        cron_schedule=f"0 {DAILY_HOUR} * * *",
        execution_timezone=settings.timezone,
        description=f"Score the newest snapshot of every dataset each day at {DAILY_HOUR:02d}:00; missed days too.",
    )
    def evaluation_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        days = missed_days(_day_of(context, settings), with_runs=_days_with_runs(context.instance, job.name))
        return [dg.RunRequest(run_key=day, partition_key=day) for day in days]

    return evaluation_schedule


def missed_days(today: date, *, with_runs: Iterable[str]) -> list[str]:
    """The days after the newest one of `with_runs`, today at least, and at most MISSED_DAYS; today alone where none had one."""
    newest = max((date.fromisoformat(day) for day in with_runs if day < today.isoformat()), default=today - DAY)
    first = max(newest + DAY, today - (MISSED_DAYS - 1) * DAY)
    return [(first + number * DAY).isoformat() for number in range((today - first).days + 1)]


def _days_with_runs(instance: dg.DagsterInstance, job: str) -> list[str]:
    runs = instance.get_runs(dg.RunsFilter(job_name=job), limit=RUNS_LOOKED_AT)
    return [run.tags[PARTITION] for run in runs if PARTITION in run.tags]


def _day_of(context: dg.ScheduleEvaluationContext, settings: Settings) -> date:
    return context.scheduled_execution_time.astimezone(ZoneInfo(settings.timezone)).date()


def digest_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`daily_digest_schedule`: every day at 09:30; off until it is switched on."""
    return dg.ScheduleDefinition(
        name="daily_digest_schedule",
        job=job,
        cron_schedule="30 9 * * *",
        execution_timezone=settings.timezone,
        description="Tell the last 24 hours' pass rates, tokens and cost to the alert channels.",
    )


def retention_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`retention_schedule`: every day at 03:00; off until it is switched on."""
    return dg.ScheduleDefinition(
        name="retention_schedule",
        job=job,
        cron_schedule="0 3 * * *",
        execution_timezone=settings.timezone,
        description="Delete runs, events and compute logs that are older than EVALVAULT_RETENTION_DAYS.",
    )


def backup_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`backup_schedule`: every day at 02:00; off until it is switched on."""
    return dg.ScheduleDefinition(
        name="backup_schedule",
        job=job,
        cron_schedule="0 2 * * *",
        execution_timezone=settings.timezone,
        description="Back up to EVALVAULT_BACKUPS_DIR, and keep what EVALVAULT_BACKUP_KEEP says.",
    )
