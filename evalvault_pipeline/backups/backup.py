"""Make a backup: which databases and files are in it, and in which order they are copied.

Dagster's databases come first, then the score store, then the files. What is copied later may know more than what was copied
earlier, and that does no harm: a report without its run, a run key that is asked for again. The other way round a sensor
would believe that it had asked for a run, or told an alert, that is not in the backup. The journal of paid answers comes
before the store, where their scores are: between the two none is lost. Where the store is in Dagster's database, one dump is
both, of one moment, and comes where the store does.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from evalvault_pipeline.backups.archive import CATALOG, STORE, STORE_DUMP, Archive, ArchiveWriter, Manifest
from evalvault_pipeline.backups.databases import PostgresDatabase, SqliteFile, database_at
from evalvault_pipeline.backups.folder import backup_name, only_one, prune
from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.errors import BackupFailed
from evalvault_pipeline.settings import Settings

PARTIAL = ".partial-"
PASSED_OVER = (".lock", ".tmp", "-wal", "-shm", "-journal")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A database, and the name of its copy in the backup."""

    name: str
    database: SqliteFile | PostgresDatabase


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup that was made: its file, what it holds, and the older ones that were deleted for it."""

    file: Path
    manifest: Manifest
    seconds: float
    deleted: tuple[Path, ...] = ()


def make_backup(
    settings: Settings, folder: Path, *, dagster: Sequence[Source] = (), keep: int | None = None, now: datetime | None = None
) -> Backup:
    """Write a backup to the folder, read it again, and only then give it its name; `keep` None deletes no older one.

    Raises BackupFailed, ServiceUnavailable where a database does not answer, InvalidSetting, InvalidCatalog.
    """
    began, at = time.monotonic(), now or datetime.now(UTC)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder):
            for left in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            while (file := folder / backup_name(at)).exists():
                at += timedelta(seconds=1)
            with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as scratch:
                manifest = _write(Path(scratch), file.name, settings, folder, dagster, at)
                (Path(scratch) / file.name).rename(file)
                _flush(folder)
            deleted = () if keep is None else prune(folder, keep, made=file)
    except OSError as error:
        raise BackupFailed(
            f"{folder} cannot be written: {error.strerror or error}. Make room, or name another folder."
        ) from None
    return Backup(file=file, manifest=manifest, seconds=time.monotonic() - began, deleted=tuple(deleted))


def _write(scratch: Path, name: str, settings: Settings, folder: Path, dagster: Sequence[Source], at: datetime) -> Manifest:
    stores, store_in = store_sources(settings), None
    if shared := [source for source in dagster if _is_in(source, stores)]:
        dagster, stores, store_in = (), shared, shared[0].name
    with ArchiveWriter(scratch / name) as archive:
        for source in dagster:
            _add_database(archive, source, scratch)
        for inside, path in _files_below(settings.results_dir / "journal", "results/journal"):
            archive.add(inside, path)
        for source in stores:
            _add_database(archive, source, scratch)
        for inside, path in _files(settings, folder):
            if archive.holds(inside) or SqliteFile(path) in [source.database for source in stores]:
                continue
            if _is_sqlite(path):
                _add_database(archive, Source(name=inside, database=SqliteFile(path)), scratch)
            else:
                archive.add(inside, path)
        manifest = archive.finish(made_at=at, versions=_versions(), store_in=store_in)
    with Archive(scratch / name) as written:
        written.check()
    return manifest


def store_sources(settings: Settings) -> list[Source]:
    """The score store; none where nothing was scored yet."""
    database = database_at(settings.score_store_url, called="EVALVAULT_STORE_URL")
    if isinstance(database, PostgresDatabase):
        return [Source(name=STORE_DUMP, database=database)]
    if database.path.exists():
        return [Source(name=STORE, database=database)]
    if settings.score_store_url != settings.default_store_url:  # a file is named, and another may be meant
        raise BackupFailed(f"There is no score store {database.path}. Check EVALVAULT_STORE_URL.")
    return []


def _is_in(source: Source, others: Sequence[Source]) -> bool:
    """Whether one of the others is the same database of Postgres."""
    databases = [other.database for other in others if isinstance(other.database, PostgresDatabase)]
    return isinstance(source.database, PostgresDatabase) and any(map(source.database.is_same_as, databases))


def _add_database(archive: ArchiveWriter, source: Source, scratch: Path) -> None:
    copy = scratch / "database"
    try:
        rows = source.database.save(copy)
    except BackupFailed:
        if isinstance(source.database, SqliteFile) and not source.database.path.exists():
            return  # a run's events, which `retention_job` has deleted meanwhile
        raise
    archive.add(source.name, copy, kind="sqlite" if isinstance(source.database, SqliteFile) else "postgres", rows=rows)
    copy.unlink()


def _files(settings: Settings, backups: Path) -> Iterator[tuple[str, Path]]:
    """(name in the backup, file) of the catalog, its snapshots and what lies beside them, baselines and results."""
    catalog = load_catalog(settings.catalog)
    yield CATALOG, settings.catalog
    yield from _files_below(settings.catalog.parent / "datasets", "datasets", but=backups)
    for spec in catalog.datasets.values():
        for file in spec.snapshots().values():
            relative = Path(os.path.relpath(file, spec.folder))
            if relative.parts[0] == "..":
                raise BackupFailed(f"{file}, a snapshot of {spec.name}, lies outside of {spec.folder}. Move it there.")
            yield relative.as_posix(), file
    yield from _files_below(settings.baselines_dir, "baselines", but=backups)
    logs = settings.logs.absolute()
    for inside, file in _files_below(settings.results_dir, "results", but=backups):
        if file.absolute().parent != logs.parent or not file.name.startswith(logs.name):
            yield inside, file


def _files_below(
    folder: Path, inside: str, *, but: Path | None = None, above: frozenset[Path] = frozenset()
) -> Iterator[tuple[str, Path]]:
    """Links are followed, but in no circle; what is hidden is of the moment: locks, and files that are being written."""
    real = folder.resolve()
    if real in above or (but is not None and real == but.resolve()) or not folder.is_dir():
        return
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise BackupFailed(f"{folder} cannot be backed up: {error.strerror or error}. Give the right to read it.") from None
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(entry, f"{inside}/{entry.name}", but=but, above=above | {real})
        elif entry.is_file() and not entry.name.endswith(PASSED_OVER):
            yield f"{inside}/{entry.name}", entry


def _is_sqlite(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"
    return False


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in ("evalvault-pipeline", "dagster"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _flush(folder: Path) -> None:
    """Make the new name last through a power failure, where a folder can be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
