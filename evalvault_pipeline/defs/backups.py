"""`backup_job`, and where Dagster keeps what belongs into a backup. What else does, and how it is written: `backups/`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.backups.archive import DAGSTER, DAGSTER_DUMP
from evalvault_pipeline.backups.backup import Source, make_backup
from evalvault_pipeline.backups.databases import PostgresDatabase, SqliteFile
from evalvault_pipeline.backups.folder import folder_of_backups
from evalvault_pipeline.defs.in_process_runs import dagster_instance
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.errors import BackupFailed, PipelineError
from evalvault_pipeline.settings import load_settings


def backup_job() -> dg.JobDefinition:
    """`backup_job`: what `evalvault backup` does, to EVALVAULT_BACKUPS_DIR."""

    @dg.op
    @scrubbed
    def back_up(context: dg.OpExecutionContext) -> None:
        settings = load_settings()
        try:
            folder = folder_of_backups(settings.backups_dir)
            made = make_backup(settings, folder, dagster=dagster_sources(context.instance), keep=settings.backup_keep)
        except PipelineError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        context.add_output_metadata(
            {
                "file": str(made.file),
                "bytes": made.file.stat().st_size,
                "parts": len(made.manifest.parts),
                "rows": sum(sum((part.rows or {}).values()) for part in made.manifest.parts),
                "deleted": [file.name for file in made.deleted],
            }
        )

    @dg.job(
        name="backup_job", description="Back up scores, runs, catalog, snapshots, baselines and results; delete old backups."
    )
    def back_up_job() -> None:
        back_up()

    return back_up_job


def dagster_sources_here() -> list[Source]:
    """Of the instance that the working directory or DAGSTER_HOME names; none where Dagster is not used here."""
    if not os.environ.get("DAGSTER_HOME") and not Path("dagster.yaml").is_file():
        return []
    with dagster_instance() as instance:
        return dagster_sources(instance)


def dagster_sources(instance: dg.DagsterInstance) -> list[Source]:
    """Schedules and cursors first, then events, then runs: a run key that is asked for twice is one run.

    Raises BackupFailed for a storage that is neither SQLite nor Postgres.
    """
    storages: list[Any] = [instance.schedule_storage, instance.event_log_storage, instance.run_storage]
    urls = {getattr(storage, "postgres_url", None) for storage in storages}
    if len(urls) == 1 and (url := urls.pop()):
        return [Source(name=DAGSTER_DUMP, database=PostgresDatabase(url))]
    kinds = [type(storage).__name__ for storage in storages]
    if kinds != ["SqliteScheduleStorage", "SqliteEventLogStorage", "SqliteRunStorage"]:
        raise BackupFailed(
            f"Dagster keeps its runs in {', '.join(kinds)}; only SQLite files and one Postgres database are backed up. "
            "Name one of them in dagster.yaml."
        )
    return list(_sqlite_sources(*storages))


def _sqlite_sources(schedules: Any, events: Any, runs: Any) -> Iterator[Source]:
    """Named as below data/.dagster, whatever the folder is called here."""
    yield Source(name=f"{DAGSTER}schedules/schedules.db", database=_file_of(schedules))
    for file in sorted(Path(events._base_dir).glob("*.db"), key=lambda file: file.name == "index.db"):
        yield Source(name=f"{DAGSTER}history/runs/{file.name}", database=SqliteFile(file))
    yield Source(name=f"{DAGSTER}history/runs.db", database=_file_of(runs))


def _file_of(storage: Any) -> SqliteFile:
    return SqliteFile(Path(storage._conn_string.removeprefix("sqlite:///")))
