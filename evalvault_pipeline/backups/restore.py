"""Restore a backup: into a folder that takes the place of `data`, and into databases of Postgres that are named.

Everything is unpacked beside its place and checked before anything is changed; then the databases are filled, each in one
transaction, and last the folder is renamed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from evalvault_pipeline.backups.archive import CATALOG, DAGSTER_DUMP, STORE_DUMP, Archive, Manifest, Part
from evalvault_pipeline.backups.databases import PostgresDatabase, SqliteFile, database_at
from evalvault_pipeline.errors import BackupFailed, InvalidSetting, UnusableBackup

OPTIONS = {STORE_DUMP: "--store-url", DAGSTER_DUMP: "--dagster-url"}


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was restored, and where that is which stood in its place."""

    manifest: Manifest
    folder: Path
    before: Path | None
    databases: Mapping[str, str] = field(default_factory=dict)  # part -> the database, without its password


def check_backup(file: Path) -> Manifest:
    """Read a backup to its end. Raises UnusableBackup."""
    with Archive(file) as archive:
        _refuse_newer_dagster(archive)
        archive.check()
        return archive.manifest


def restore_backup(
    file: Path, folder: Path, *, urls: Mapping[str, str | None], force: bool = False, now: datetime | None = None
) -> Restored:
    """Restore a backup; `urls`: of the Postgres databases, by part. Nothing is changed unless all of it can be.

    With `force` what is there gives way: the folder is renamed, the tables of the databases are replaced.
    Raises UnusableBackup, BackupFailed, InvalidSetting, ServiceUnavailable.
    """
    with Archive(file) as archive:
        _refuse_newer_dagster(archive)
        databases = _databases(archive.manifest, urls)
        _refuse_full_folder(folder, force=force)
        empty = {name: database.is_empty() for name, database in databases.items()}
        for name, database in databases.items():
            if not empty[name]:
                _refuse_full_database(database, OPTIONS[name], force=force)
        with _staging(folder, archive.manifest.size) as staging:
            _unpack(archive, staging)
            with _filled(archive.manifest, databases, staging, empty):
                before = _put(staging / "data", folder, now or datetime.now(UTC))
    return Restored(
        manifest=archive.manifest,
        folder=folder,
        before=before,
        databases={name: str(database) for name, database in databases.items()},
    )


def _refuse_newer_dagster(archive: Archive) -> None:
    """Dagster's tables change with its minor versions, and an older one cannot read a newer one's."""
    theirs, ours = archive.manifest.versions.get("dagster"), version("dagster")
    if theirs and _minor(theirs) > _minor(ours):
        raise UnusableBackup(f"{archive.path} was made beside Dagster {theirs}; here is {ours}. Install that version first.")


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _databases(manifest: Manifest, urls: Mapping[str, str | None]) -> dict[str, PostgresDatabase]:
    """Part -> where it goes; the options must be those that the backup needs."""
    dumped = {part.name for part in manifest.parts if part.kind == "postgres"}
    found: dict[str, PostgresDatabase] = {}
    for name, option in OPTIONS.items():
        url = urls.get(name)
        if name not in dumped:
            if url:
                why = f", since {manifest.store_in} has the scores too" if name == STORE_DUMP and manifest.store_in else ""
                raise InvalidSetting(f"{option} is given, but this backup holds no {name}{why}. Leave the option out.")
            continue
        if not url:
            raise InvalidSetting(f"This backup holds a Postgres database, {name}. Say where it goes: {option} URL")
        database = database_at(url, called=option)
        if not isinstance(database, PostgresDatabase):
            raise InvalidSetting(f"{name} goes into a Postgres database. Write {option} postgresql://user@host/database")
        if database.holds_a_secret:
            raise InvalidSetting(
                f"{option} holds a password, which every user of this machine can read there. "
                "Leave it out, and set PGPASSWORD or write a ~/.pgpass."
            )
        found[name] = database
    if len(found) == len(OPTIONS) and found[STORE_DUMP].is_same_as(found[DAGSTER_DUMP]):
        raise InvalidSetting("--store-url and --dagster-url name one database. Each needs its own.")
    return found


def _refuse_full_folder(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise BackupFailed(f"{folder} is no folder. Name a folder that is not there yet.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if os.path.ismount(folder):
        raise BackupFailed(f"{folder} is a mounted volume, and not empty. Mount an empty one, or name a folder in it.")
    if not force:
        raise BackupFailed(f"{folder} is not empty. Name another folder, or take its place with --force: it is kept beside.")


def _refuse_full_database(database: PostgresDatabase, option: str, *, force: bool) -> None:
    if not force:
        raise BackupFailed(f"{database} ({option}) is not empty. Name another, or replace its tables with --force.")
    if others := database.other_sessions():
        raise BackupFailed(
            f"Others are connected to {database} ({others} sessions). Stop the daemon, the webserver and all runs first."
        )


@contextmanager
def _staging(folder: Path, size: int) -> Iterator[Path]:
    """A folder on the disk of the target: beside it, or inside where it is a volume of its own."""
    beside = folder if os.path.ismount(folder) else folder.absolute().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(beside).free) < size:
            raise BackupFailed(f"{beside} has {free / 1e6:,.0f} MB free; {size / 1e6:,.0f} MB are needed. Make room.")
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=beside) as staging:
            yield Path(staging)
    except OSError as error:
        raise BackupFailed(f"{folder} cannot be written: {error.strerror or error}. Name another folder.") from None


def _unpack(archive: Archive, staging: Path) -> None:
    (staging / "data").mkdir()
    for part in archive.manifest.parts:
        target = staging / part.name if part.kind == "postgres" else staging / "data" / part.name
        archive.unpack(part, target)
        if part.kind == "sqlite":
            _expect(part, SqliteFile(target).rows())


@contextmanager
def _filled(
    manifest: Manifest, databases: Mapping[str, PostgresDatabase], staging: Path, empty: Mapping[str, bool]
) -> Iterator[None]:
    """The databases, filled; where something fails then, those that were empty are empty again."""
    done: list[str] = []
    parts = {part.name: part for part in manifest.parts}
    try:
        for name, database in databases.items():
            done.append(name)
            _expect(parts[name], database.restore(staging / name, replace=not empty[name]))
        yield
    except BaseException:
        for name in done:
            if empty[name]:
                databases[name].drop_tables()
        raise


def _expect(part: Part, rows: Mapping[str, int]) -> None:
    differing = [name for name, count in (part.rows or {}).items() if rows.get(name) != count]
    if differing:
        raise UnusableBackup(f"{part.name} has other rows than were backed up, in {', '.join(differing)}. Take another backup.")


def _put(staged: Path, folder: Path, now: datetime) -> Path | None:
    """Rename what was unpacked into its place; what was there is kept beside."""
    if os.path.ismount(folder):  # a volume cannot be renamed: the catalog comes last, and without it no command works
        for entry in sorted(staged.iterdir(), key=lambda entry: entry.name == CATALOG):
            entry.rename(folder / entry.name)
        return None
    folder, before = Path(os.path.abspath(folder)), None
    if folder.is_dir() and any(folder.iterdir()):
        before = folder.with_name(f"{folder.name}.before-{now:%Y%m%dT%H%M%SZ}")
        folder.rename(before)
    try:
        staged.rename(folder)  # over an empty folder too
    except OSError:
        if before is not None:
            before.rename(folder)
        raise
    return before
