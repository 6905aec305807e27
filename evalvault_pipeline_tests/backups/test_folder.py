"""The folder of backups: which are kept, and that one process at a time writes there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evalvault_pipeline.backups.folder import backup_name, backups_in, folder_of_backups, only_one, prune
from evalvault_pipeline.errors import BackupFailed, InvalidSetting

MONDAY = datetime(2026, 1, 5, 2, tzinfo=UTC)


def made(folder: Path, at: datetime) -> Path:
    file = folder / backup_name(at)
    file.write_text("x")
    return file


def days_kept(folder: Path) -> list[int]:
    """Days since the first Monday."""
    return sorted((at - MONDAY).days for at, _ in backups_in(folder))


def test_names_sort_by_time_and_give_it_back(tmp_path: Path) -> None:
    times = [MONDAY + timedelta(hours=7 * number) for number in range(500)]
    for at in times:
        made(tmp_path, at)
    assert [at for at, _ in backups_in(tmp_path)] == times[::-1]
    assert [file.name for _, file in backups_in(tmp_path)] == sorted((backup_name(at) for at in times), reverse=True)


def test_kept_are_the_newest_and_the_last_one_of_each_week(tmp_path: Path) -> None:
    """A backup a day for 60 days: the last 3 days, and the Sundays of the last 3 weeks, the running one by its newest."""
    for day in range(60):
        prune(tmp_path, 3, made=made(tmp_path, MONDAY + timedelta(days=day)))
    assert days_kept(tmp_path) == [48, 55, 57, 58, 59]


@pytest.mark.parametrize("keep", [1, 2, 7])
def test_on_no_day_of_a_year_more_is_lost_than_was_said(tmp_path: Path, keep: int) -> None:
    for day in range(365):
        prune(tmp_path, keep, made=made(tmp_path, MONDAY + timedelta(days=day)))
        kept = days_kept(tmp_path)
        assert set(kept) >= {one for one in range(day - keep + 1, day + 1) if one >= 0}
        sundays = [one for one in range(day) if one % 7 == 6][-(keep - 1) :] if keep > 1 else []
        assert set(kept) >= set(sundays)
        assert len(kept) <= 2 * keep


def test_the_one_just_made_stays_though_others_claim_to_be_newer(tmp_path: Path) -> None:
    """A clock was years ahead, once."""
    for day in range(20):
        made(tmp_path, MONDAY + timedelta(days=3000 + 7 * day))
    mine = made(tmp_path, MONDAY)
    prune(tmp_path, 2, made=mine)
    assert mine.exists()


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    others = ["notes.txt", "evalvault-20260101T000000Z.zip.asc", "my-evalvault-20260101T000000Z.zip", "evalvault-2026.zip"]
    for name in others:
        (tmp_path / name).write_text("x")
    old = [made(tmp_path, MONDAY + timedelta(minutes=minute)) for minute in range(3)]
    assert prune(tmp_path, 1, made=old[-1]) == old[1::-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, old[-1].name])


def test_while_one_process_writes_another_is_told_to_wait(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(BackupFailed, match="Another backup is being written"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_without_a_folder_the_setting_is_named() -> None:
    with pytest.raises(InvalidSetting, match="Set EVALVAULT_BACKUPS_DIR"):
        folder_of_backups(None)
