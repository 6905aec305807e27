"""`retention_job`: what Dagster keeps of old runs is cleared away; its own `retention` covers the ticks only.

The scores, the reports and the history of runs are no part of that: they stay.
"""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.settings import load_settings

RUNS_AT_ONCE = 200
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def retention_job() -> dg.JobDefinition:
    """`retention_job`: runs that ended long ago, with their events and compute logs."""

    @dg.op
    @scrubbed
    def delete_old_runs(context: dg.OpExecutionContext) -> None:
        days = load_settings().retention_days
        runs, files = delete_runs(context.instance, older_than=datetime.now(UTC) - timedelta(days=days))
        context.log.info(f"{runs} runs older than {days} days deleted, {files} files of theirs")

    @dg.job(name="retention_job", description="Delete old runs with their events and compute logs; scores and reports stay.")
    def delete_old_runs_job() -> None:
        delete_old_runs()

    return delete_old_runs_job


def delete_runs(instance: dg.DagsterInstance, *, older_than: datetime) -> tuple[int, int]:
    """(runs deleted, files deleted). The newest run of each job stays, so that the UI still shows when it ran last."""
    wanted = dg.RunsFilter(statuses=ENDED, updated_before=older_than)
    newest: dict[str, str] = {}
    count = files = 0
    for job in {record.dagster_run.job_name for record in instance.get_run_records(wanted)}:
        latest = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
        newest[job] = latest[0].dagster_run.run_id if latest else ""
    kept = set(newest.values())
    while old := [
        record.dagster_run
        for record in instance.get_run_records(wanted, limit=RUNS_AT_ONCE, ascending=True)
        if record.dagster_run.run_id not in kept
    ]:
        for run in old:
            instance.delete_run(run.run_id)
            files += _delete_files(instance, run.run_id)
            count += 1
    return count, files


def _delete_files(instance: dg.DagsterInstance, run_id: str) -> int:
    """Compute logs, step outputs and the event log's own SQLite file, which deleting a run leaves behind."""
    deleted = 0
    logs, storage = _log_folder(instance), Path(instance.storage_directory())
    for place in (logs / run_id if logs else None, storage / run_id):
        if place is not None and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            deleted += 1
    events = getattr(instance.event_log_storage, "_base_dir", None)
    for suffix in (".db", ".db-shm", ".db-wal"):
        if events and (file := Path(events) / f"{run_id}{suffix}").is_file():
            file.unlink(missing_ok=True)
            deleted += 1
    return deleted


def _log_folder(instance: dg.DagsterInstance) -> Path | None:
    base = getattr(instance.compute_log_manager, "_base_dir", None)
    return Path(base) if base else None
