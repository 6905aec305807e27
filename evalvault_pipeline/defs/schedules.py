"""When evaluations, the digest, backups and the clearing away run by the clock."""

import dagster as dg

from evalvault_pipeline.settings import Settings


def weekly_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`weekly_evaluation_schedule`: Monday 09:00 in EVALVAULT_TIMEZONE; switched on in the UI."""
    return _evaluation_schedule("weekly", "0 9 * * 1", "each Monday at 09:00", job, settings)


def daily_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`daily_evaluation_schedule`: every day at 07:00, for who releases daily; off until it is switched on."""
    return _evaluation_schedule("daily", "0 7 * * *", "each day at 07:00", job, settings)


def _evaluation_schedule(name: str, cron: str, when: str, job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{name}_evaluation_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=settings.timezone,
        description=f"Score the newest snapshot of every dataset {when}.",
    )
    def evaluation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(run_key=day, tags={"evalvault/week" if name == "weekly" else "evalvault/day": day})

    return evaluation_schedule


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
