"""Runs that are tried again: under which name they publish, and which failures are waited out.

Retries are opt-in, by the tag `dagster/max_retries` of a run; EVALVAULT_RUN_RETRIES puts it on the evaluation jobs.
"""

from __future__ import annotations

import dagster as dg

from evalvault_pipeline.errors import ServiceUnavailable
from evalvault_pipeline.settings import Settings

MAX_RETRIES_TAG = "dagster/max_retries"
WAIT_SECONDS = 30.0  # before the first further try of a step; doubled before each of the next
LONGEST_WAIT_SECONDS = 600.0
UNSUCCESSFUL = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
DATABASE_AWAY = {"DagsterPostgresException", "OperationalError"}  # classes of drivers that need not be installed


def retry_tags(settings: Settings) -> dict[str, str]:
    """Of a job whose runs are started again when their worker died."""
    return {MAX_RETRIES_TAG: str(settings.run_retries)} if settings.run_retries else {}


def attempts(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Ids of a run and of those that it retries, the newest first.

    A run that had succeeded is not retried by who executes it again: that is another evaluation.
    """
    ids = [run.run_id]
    while run.parent_run_id:
        parent = instance.get_run_by_id(run.parent_run_id)
        if parent is None or parent.status not in UNSUCCESSFUL:
            break
        ids.append(parent.run_id)
        run = parent
    return ids


def published_as(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The run id under which a run and its retries publish, all the same one: the root's. So nothing is published twice."""
    return attempts(instance, run)[-1]


def waited_out(context: dg.AssetExecutionContext, error: Exception) -> dg.RetryRequested | None:
    """A further try of this step, to be raised in place of the error, where a service is away and the run may be retried."""
    allowed = context.run.tags.get(MAX_RETRIES_TAG, "")
    passing = isinstance(error, ServiceUnavailable) or type(error).__name__ in DATABASE_AWAY
    if not passing or not allowed.isdigit() or context.retry_number >= int(allowed):
        return None
    seconds = min(WAIT_SECONDS * 2**context.retry_number, LONGEST_WAIT_SECONDS)
    context.log.warning(f"{error} This step is tried again in {seconds:.0f} s.")
    return dg.RetryRequested(max_retries=int(allowed), seconds_to_wait=seconds)
