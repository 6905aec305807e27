"""`backup_job` and its schedule, and Dagster's own SQLite files in a backup and out of it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from evalvault_pipeline.backups.archive import Archive
from evalvault_pipeline.backups.backup import make_backup
from evalvault_pipeline.backups.folder import backup_name, backups_in
from evalvault_pipeline.backups.restore import restore_backup
from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.defs.backups import dagster_sources, dagster_sources_here
from evalvault_pipeline.defs.build import build_definitions
from evalvault_pipeline.defs.in_process_runs import dagster_instance
from evalvault_pipeline.errors import BackupFailed
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.defs.conftest import Project, cases_of


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project folder as a user has it, with the instance that its dagster.yaml describes, and a snapshot."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copy(PROJECT / "dagster.yaml", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EVALVAULT_TOKENIZER", "ngram")
    with dagster_instance() as instance:
        found = Project(folder / "data", load_settings(), instance)
        found.write("w1", cases_of(3, bad=1))
        ScoreStore(found.settings.score_store_url).close()
        yield found


def test_the_job_writes_a_backup_says_what_is_in_it_and_deletes_old_ones(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    monkeypatch.setenv("EVALVAULT_BACKUPS_DIR", str(folder))
    monkeypatch.setenv("EVALVAULT_BACKUP_KEEP", "1")
    folder.mkdir()
    old = folder / backup_name(datetime(2026, 1, 1, tzinfo=UTC))
    old.write_text("x")
    done = project.run({}, "backup_job")
    assert done.success
    ((_, file),) = backups_in(folder)
    (output,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata = {name: value.value for name, value in output.step_output_data.metadata.items()}
    assert metadata["file"] == str(file) and metadata["bytes"] == file.stat().st_size
    assert metadata["deleted"] == [old.name]
    with Archive(file) as archive:
        assert metadata["parts"] == len(archive.manifest.parts)
        assert {part.belongs_to for part in archive.manifest.parts} == {"score store", "Dagster", "files"}


def test_without_a_folder_the_job_fails_with_the_name_of_the_setting_and_is_not_tried_again(project: Project) -> None:
    done = project.run({}, "backup_job")
    assert not done.success
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    assert failure.step_failure_data.error is not None
    assert "There is no folder for backups. Set EVALVAULT_BACKUPS_DIR" in failure.step_failure_data.error.message
    assert failure.step_failure_data.user_failure_data is not None


def test_the_schedule_is_off_until_it_is_switched_on(settings: Settings) -> None:
    schedule = build_definitions(settings, load_catalog(PROJECT / "data" / "catalog.toml")).resolve_schedule_def(
        "backup_schedule"
    )
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 * * *", "Asia/Seoul")


def test_an_instance_on_a_restored_folder_shows_the_same_runs_and_runs_a_job(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run({}, "register_snapshots_job")
    file = make_backup(project.settings, tmp_path / "backups", dagster=dagster_sources_here()).file
    runs = {run.run_id: run.status for run in project.instance.get_runs()}
    keys = project.instance.get_dynamic_partitions("demo_batches")
    assert len(runs) == 1 and len(keys) == 2
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy("dagster.yaml", restored)
    monkeypatch.chdir(restored)
    restore_backup(file, Path("data"), urls={})
    with dagster_instance() as instance:
        assert Path(instance.event_log_storage._base_dir).is_relative_to(restored)  # type: ignore[attr-defined]
        assert {run.run_id: run.status for run in instance.get_runs()} == runs
        assert instance.get_dynamic_partitions("demo_batches") == keys
        assert len(instance.all_logs(next(iter(runs)))) == len(project.instance.all_logs(next(iter(runs)))) > 10
        assert copied(restored, instance).run({}, "register_snapshots_job").success
        assert len(instance.get_runs()) == 2
    with closing(sqlite3.connect("data/.dagster/history/runs.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def copied(folder: Path, instance: dg.DagsterInstance) -> Project:
    """The project in a restored folder."""
    found = Project.__new__(Project)
    found.folder, found.settings, found.instance = folder / "data", load_settings(), instance
    return found


def test_a_run_whose_events_are_deleted_meanwhile_does_no_harm(project: Project, tmp_path: Path) -> None:
    project.run({}, "register_snapshots_job")
    sources = dagster_sources(project.instance)
    (run,) = project.instance.get_runs()
    project.instance.delete_run(run.run_id)
    for left in Path("data/.dagster/history/runs").glob(f"{run.run_id}*"):
        left.unlink()
    manifest = make_backup(project.settings, tmp_path / "backups", dagster=sources).manifest
    assert [part.name for part in manifest.of("Dagster")] == [
        ".dagster/schedules/schedules.db",
        ".dagster/history/runs/index.db",
        ".dagster/history/runs.db",
    ]


def test_without_a_dagster_yaml_there_is_nothing_of_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dagster_sources_here() == []


def test_a_storage_that_cannot_be_copied_is_refused() -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(BackupFailed, match="Name one of them in dagster"):
        dagster_sources(instance)
