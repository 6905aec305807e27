"""Restore a backup: into a folder that takes the place of `data`, and into databases of Postgres that are named.

Everything is unpacked beside its place and checked before anything is changed. Then a database that has tables is saved to a
file, the databases are filled, each in one transaction, and last the folder is renamed; where one of these fails, those before
it are undone.
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
from typing import Any

from evalvault_pipeline.backups.archive import CATALOG, DAGSTER_DUMP, STORE_DUMP, Archive, Manifest, Part
from evalvault_pipeline.backups.databases import PORT, PostgresDatabase, SqliteFile, database_at
from evalvault_pipeline.errors import BackupFailed, InvalidSetting, PipelineError, UnusableBackup
from evalvault_pipeline.scoring.database import parsed_url

STAGING, BEFORE = ".restoring-", "before-"
ASIDE_IN_VOLUME = (STAGING, BEFORE, "lost+found")
OPTIONS = {STORE_DUMP: "--store-url", DAGSTER_DUMP: "--dagster-url"}


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was restored, and where that is which stood in its place: the folder, and of databases their dumps, by part."""

    manifest: Manifest
    folder: Path
    before: Path | None
    databases: Mapping[str, str] = field(default_factory=dict)  # part -> the database, without its password
    dumps_before: Mapping[str, Path] = field(default_factory=dict)


def check_backup(file: Path) -> Manifest:
    """Read a backup to its end. Raises UnusableBackup."""
    with Archive(file) as archive:
        _refuse_newer_dagster(archive)
        archive.check()
        return archive.manifest


def restore_backup(
    file: Path,
    folder: Path,
    *,
    urls: Mapping[str, str | None],
    server: Mapping[str, Any] | None = None,
    force: bool = False,
    now: datetime | None = None,
) -> Restored:
    """Restore a backup; `urls`: of the Postgres databases, by part. Nothing is changed unless all of it can be.

    `server`: how Dagster's Postgres is reached; a URL with its host, port and user is given its password, any other is not.
    With `force` what is there gives way, and is kept: the folder is renamed, the databases are dumped to files beside it.
    Raises UnusableBackup, BackupFailed, InvalidSetting, ServiceUnavailable.
    """
    with Archive(file) as archive:
        _refuse_newer_dagster(archive)
        databases = _databases(archive.manifest, urls, server)
        _refuse_full_folder(folder, force=force)
        full = [name for name, database in databases.items() if not database.is_empty()]
        for name in full:
            _refuse_full_database(databases[name], OPTIONS[name], force=force)
        aside = _aside(folder, now or datetime.now(UTC))
        dumps = {name: aside.with_name(f"{aside.name}-{name}") for name in full}
        with _staging(folder, archive.manifest.size) as staging:
            _unpack(archive, staging)
            with _filled(archive.manifest, databases, staging, dumps):
                before = _put(staging / "data", folder, aside)
    return Restored(
        manifest=archive.manifest,
        folder=folder,
        before=before,
        databases={name: str(database) for name, database in databases.items()},
        dumps_before=dumps,
    )


def _refuse_newer_dagster(archive: Archive) -> None:
    """Dagster's tables change with its minor versions, and an older one cannot read a newer one's."""
    theirs, ours = archive.manifest.versions.get("dagster"), version("dagster")
    if theirs and _minor(theirs) > _minor(ours):
        raise UnusableBackup(f"{archive.path} was made beside Dagster {theirs}; here is {ours}. Install that version first.")


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _databases(
    manifest: Manifest, urls: Mapping[str, str | None], server: Mapping[str, Any] | None
) -> dict[str, PostgresDatabase]:
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
        found[name] = _with_password(database, server)
    if len(found) == len(OPTIONS) and found[STORE_DUMP].is_same_as(found[DAGSTER_DUMP]):
        raise InvalidSetting("--store-url and --dagster-url name one database. Each needs its own.")
    return found


def _with_password(database: PostgresDatabase, server: Mapping[str, Any] | None) -> PostgresDatabase:
    url = parsed_url(database.url)
    if server is None or (url.host, url.port or PORT, url.username) != (server["hostname"], server["port"], server["username"]):
        return database
    return PostgresDatabase(url.set(password=server["password"]).render_as_string(hide_password=False))


def _refuse_full_folder(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise BackupFailed(f"{folder} is no folder. Name a folder that is not there yet.")
    if _there(folder) and not force:
        where = "in a folder in it" if os.path.ismount(folder) else "beside"
        raise BackupFailed(f"{folder} is not empty. Name another folder, or take its place with --force: it is kept {where}.")


def _there(folder: Path) -> list[Path]:
    """What is in a folder; in a volume neither what restoring puts there, nor what the file system does."""
    passed_over = ASIDE_IN_VOLUME if os.path.ismount(folder) else ()
    return [entry for entry in folder.iterdir() if not entry.name.startswith(passed_over)] if folder.is_dir() else []


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
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=beside) as staging:
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
    manifest: Manifest, databases: Mapping[str, PostgresDatabase], staging: Path, dumps: Mapping[str, Path]
) -> Iterator[None]:
    """The databases, filled, those of `dumps` saved there before; where something fails then, all are as they were."""
    parts = {part.name: part for part in manifest.parts}
    saved: list[Path] = []
    filled: list[str] = []
    try:
        for name, dump in dumps.items():
            dump.touch(mode=0o600, exist_ok=False)  # it holds answers
            saved.append(dump)
            databases[name].save(dump)
        for name, database in databases.items():
            database.restore(staging / name, replace=name in dumps)
            filled.append(name)
            _expect(parts[name], database.rows())
        yield
    except BaseException as error:
        for name in filled:
            _undo(databases[name], dumps.get(name), error)
        for dump in saved:
            dump.unlink()
        raise


def _undo(database: PostgresDatabase, dump: Path | None, error: BaseException) -> None:
    """A database as it was: as the dump has it, or empty. Raises BackupFailed with the error that came before."""
    try:
        database.drop_tables()
        if dump is not None:
            database.restore(dump, replace=True)
    except PipelineError as second:
        held = f" What it held is in {dump}, for pg_restore." if dump else ""
        raise BackupFailed(f"{error} Then {database} could not be put back: {second}{held}") from None


def _expect(part: Part, rows: Mapping[str, int]) -> None:
    differing = [name for name, count in (part.rows or {}).items() if rows.get(name) != count]
    if differing:
        raise UnusableBackup(f"{part.name} has other rows than were backed up, in {', '.join(differing)}. Take another backup.")


def _aside(folder: Path, now: datetime) -> Path:
    """Where that is kept which is there: beside the folder, or inside where it is a volume, which cannot be renamed."""
    folder, name = Path(os.path.abspath(folder)), f"{BEFORE}{now:%Y%m%dT%H%M%SZ}"
    return folder / name if os.path.ismount(folder) else folder.with_name(f"{folder.name}.{name}")


def _put(staged: Path, folder: Path, aside: Path) -> Path | None:
    """Rename what was unpacked into its place, and before it what is there: to `aside`, None where there is nothing."""
    folder = Path(os.path.abspath(folder))
    there = _there(folder)
    if os.path.ismount(folder):
        _rename(_steps_in_volume(staged, folder, there, aside))
    else:
        _rename([*([(folder, aside)] if there else []), (staged, folder)])  # over an empty folder too
    return aside if there else None


def _steps_in_volume(staged: Path, folder: Path, there: list[Path], aside: Path) -> list[tuple[Path, Path]]:
    """The catalog leaves first and comes last: without it no command works."""
    empty = staged.with_name("empty")
    empty.mkdir()
    out = [(entry, aside / entry.name) for entry in sorted(there, key=lambda entry: entry.name != CATALOG)]
    in_ = [(entry, folder / entry.name) for entry in sorted(staged.iterdir(), key=lambda entry: entry.name == CATALOG)]
    return [(empty, aside), *out, *in_] if there else in_


def _rename(steps: list[tuple[Path, Path]]) -> None:
    """All of them, in this order, or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in steps:
            old.rename(new)
            done.append((old, new))
    except OSError:
        for old, new in reversed(done):
            new.rename(old)
        raise
