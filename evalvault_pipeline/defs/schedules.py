"""When evaluations run by the clock."""

import dagster as dg

from evalvault_pipeline.settings import Settings


def weekly_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """`weekly_evaluation_schedule`: Monday 09:00 in EVALVAULT_TIMEZONE; switched on in the UI."""

    @dg.schedule(
        name="weekly_evaluation_schedule",
        job=job,
        cron_schedule="0 9 * * 1",
        execution_timezone=settings.timezone,
        description="Score the newest snapshot of every dataset each Monday at 09:00.",
    )
    def weekly_evaluation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(run_key=day, tags={"evalvault/week": day})

    return weekly_evaluation_schedule
