"""The folder of backups: what a backup is called there, and which are deleted.

A backup appears by being renamed, so that a file with such a name is whole. What a backup holds stands in `archive.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from evalvault_pipeline.errors import BackupFailed, InvalidSetting

NAME = re.compile(r"evalvault-(\d{8}T\d{6}Z)\.zip")
STAMP = "%Y%m%dT%H%M%SZ"


def folder_of_backups(folder: Path | None) -> Path:
    """The folder. Raises InvalidSetting where none is named."""
    if folder is None:
        raise InvalidSetting("There is no folder for backups. Set EVALVAULT_BACKUPS_DIR, on another disk than the data.")
    return folder


def backup_name(at: datetime) -> str:
    """Names sort by time. To the second, in UTC."""
    return f"evalvault-{at.astimezone(UTC):{STAMP}}.zip"


def backups_in(folder: Path) -> list[tuple[datetime, Path]]:
    """(when it was begun, file) of every backup, the newest first."""
    named = [(found[1], file) for file in folder.glob("*") if (found := NAME.fullmatch(file.name)) and file.is_file()]
    return [(datetime.strptime(stamp, STAMP).replace(tzinfo=UTC), file) for stamp, file in sorted(named, reverse=True)]


def prune(folder: Path, keep: int, *, made: Path) -> list[Path]:
    """Delete what is not kept, and say what that was: kept are the newest `keep`, and the last one of each of `keep` weeks.

    The one just `made` is kept whatever the names of the others say (a clock may have been wrong).
    """
    backups = backups_in(folder)
    weeks: dict[tuple[int, int], Path] = {}
    for at, file in backups:
        year, week, _ = at.isocalendar()
        weeks.setdefault((year, week), file)
    kept = {file for _, file in backups[:keep]} | set(list(weeks.values())[:keep]) | {made}
    old = [file for _, file in backups if file not in kept]
    for file in old:
        file.unlink(missing_ok=True)
    return old


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Of the processes that write backups to this folder. Raises BackupFailed where another one does."""
    try:
        with FileLock(folder / ".evalvault-backup.lock", timeout=0):
            yield
    except Timeout:
        raise BackupFailed(f"Another backup is being written to {folder}. Wait for it.") from None
