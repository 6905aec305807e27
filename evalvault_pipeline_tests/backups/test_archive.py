"""The file that a backup is: what is whole is read again, what is half, damaged, newer or made up is refused."""

from __future__ import annotations

import json
import os
import random
import warnings
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.backups.archive import FORMAT, MANIFEST, Archive, ArchiveWriter, Manifest
from evalvault_pipeline.errors import BackupFailed, UnusableBackup

AT = datetime(2026, 11, 24, 2, tzinfo=UTC)
FILES = {
    "catalog.toml": b"# a catalog",
    "results/demo/2026w47/results.json": json.dumps({"score": list(range(3000))}).encode(),
    "datasets/demo/보험.json": "보험".encode(),
    "results/demo/2026w47/scores/0001.parquet": random.Random(1).randbytes(5000),
}


def written(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """A backup of these files."""
    with ArchiveWriter(folder / "backup.zip") as archive:
        for number, (name, content) in enumerate(files.items()):
            source = folder / f"source-{number}"
            source.write_bytes(content)
            os.utime(source, (1e9, 1e9))
            archive.add(name, source)
        archive.finish(made_at=AT, versions={"evalvault-pipeline": "0.1.0"})
    return folder / "backup.zip"


def made_up(folder: Path, manifest: Mapping[str, Any], members: list[tuple[str, bytes]]) -> Path:
    """A zip with this manifest, as nobody's backup writes it."""
    file = folder / "made-up.zip"
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr(MANIFEST, json.dumps(manifest))
    return file


def manifest_of(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        found: dict[str, Any] = json.loads(archive.read(MANIFEST))
    return found


def test_what_is_put_in_comes_out_with_its_time(tmp_path: Path) -> None:
    with Archive(written(tmp_path)) as archive:
        archive.check()
        for part in archive.manifest.parts:
            archive.unpack(part, tmp_path / "out" / part.name)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert (tmp_path / "out" / "catalog.toml").stat().st_mtime == 1e9
    assert archive.manifest.made_at == AT


def test_the_manifest_is_the_last_thing_in_it_and_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert zipfile.ZipFile(file).namelist() == [*FILES, MANIFEST]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_backup_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"x" * 100)
    with ArchiveWriter(tmp_path / "half.zip") as archive:
        archive.add("catalog.toml", source)
    with pytest.raises(UnusableBackup, match=r"has no manifest\.json, so it is a half backup"):
        Archive(tmp_path / "half.zip")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_a_backup_that_was_cut_off_is_refused_wherever_it_was(tmp_path: Path, part: float) -> None:
    file = written(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UnusableBackup, match="Take another backup"):
        Archive(file)


def test_a_damaged_byte_is_found_or_does_no_harm(tmp_path: Path) -> None:
    """Of 100 damages all over the file; those in the content of a part are all found."""
    file = written(tmp_path)
    content = file.read_bytes()
    found = 0
    for number in range(100):
        damaged = bytearray(content)
        damaged[number * len(content) // 100] ^= 0x55
        file.write_bytes(damaged)
        try:
            with Archive(file) as archive:
                for part in archive.manifest.parts:
                    archive.unpack(part, tmp_path / f"out-{number}" / part.name)
        except UnusableBackup:
            found += 1
        else:
            names = [part.name for part in archive.manifest.parts]
            assert {name: (tmp_path / f"out-{number}" / name).read_bytes() for name in names} == FILES
    assert found > 80


def test_a_part_that_is_another_than_was_backed_up_is_refused(tmp_path: Path) -> None:
    """The zip is whole, and so are its own checksums."""
    manifest = manifest_of(written(tmp_path))
    members = [(name, content if name != "catalog.toml" else b"# a_catalog") for name, content in FILES.items()]
    with Archive(made_up(tmp_path, manifest, members)) as archive, pytest.raises(UnusableBackup, match=r"catalog\.toml is not"):
        archive.check()


def test_a_part_that_is_longer_than_the_manifest_says_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    manifest = manifest_of(written(tmp_path, {"catalog.toml": b"x"}))
    with Archive(made_up(tmp_path, manifest, [("catalog.toml", bytes(20_000_000))])) as archive, pytest.raises(UnusableBackup):
        archive.unpack(archive.manifest.parts[0], tmp_path / "out")
    assert (tmp_path / "out").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "a/..", ".", "", "a//b", "C:x", "c:/x", "a\\..\\x", "x\0y", "a\n/../b", "x/"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    part = {"name": name, "kind": "file", "size": 1, "sha256": "0" * 64, "modified": 1.0}
    manifest = {"format": FORMAT, "made_at": AT.isoformat(), "versions": {}, "parts": [part]}
    with pytest.raises(UnusableBackup, match=r"leads out of the folder|holds, and does not name"):
        Archive(made_up(tmp_path, manifest, [(name or "x", b"x")]))


def test_members_and_manifest_must_name_the_same_files_once(tmp_path: Path) -> None:
    good = manifest_of(written(tmp_path, {"a": b"a", "b": b"b"}))
    for members, why in (
        ([("a", b"a")], "lacks 'b'"),
        ([("a", b"a"), ("b", b"b"), ("c", b"c")], "does not name in its manifest, 'c'"),
        ([("a", b"a"), ("b", b"b"), ("b", b"x")], "two files of one name"),
    ):
        with pytest.raises(UnusableBackup, match=why):
            Archive(made_up(tmp_path, good, members))
    twice = {**good, "parts": [good["parts"][0], *good["parts"]]}
    with pytest.raises(UnusableBackup, match="two files of one name"):
        Archive(made_up(tmp_path, twice, [("a", b"a"), ("b", b"b")]))


def test_a_newer_format_is_refused_with_the_version_that_reads_it(tmp_path: Path) -> None:
    newer = {"format": FORMAT + 1, "versions": {"evalvault-pipeline": "9.1.0"}, "parts": "not as we know it"}
    with pytest.raises(UnusableBackup, match=rf"format {FORMAT + 1}, .* up to {FORMAT}\. Restore it with evalvault 9\.1\.0"):
        Archive(made_up(tmp_path, newer, []))


@pytest.mark.parametrize("manifest", [[], {}, {"format": "1"}, {"format": 1}, {"format": 1, "parts": [{"name": "a"}]}])
def test_a_manifest_that_makes_no_sense_is_one_sentence(tmp_path: Path, manifest: Any) -> None:
    with pytest.raises(UnusableBackup, match=r"its manifest\.json is damaged"):
        Archive(made_up(tmp_path, manifest, []))


def test_keys_that_a_later_version_adds_are_passed_over(tmp_path: Path) -> None:
    manifest = manifest_of(written(tmp_path, {"a": b"a"}))
    manifest["note"] = manifest["parts"][0]["note"] = "of later"
    with Archive(made_up(tmp_path, manifest, [("a", b"a")])) as archive:
        assert isinstance(archive.manifest, Manifest)
        archive.check()


def test_a_zip_of_a_later_version_is_refused(tmp_path: Path) -> None:
    made = bytearray(written(tmp_path, {"a": b"a"}).read_bytes())
    made[made.rfind(b"PK\x01\x02") + 6] = 0x75
    (tmp_path / "later.zip").write_bytes(made)
    with pytest.raises(UnusableBackup, match="cannot be read"):
        Archive(tmp_path / "later.zip")


def test_what_is_no_zip_and_what_is_not_there_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.zip").write_text("notes")
    with pytest.raises(UnusableBackup, match="its end is missing, or it is no backup"):
        Archive(tmp_path / "notes.zip")
    with pytest.raises(UnusableBackup, match="There is no backup"):
        Archive(tmp_path / "none.zip")
    with pytest.raises(UnusableBackup, match="directory"):
        Archive(tmp_path)


def test_a_file_that_vanishes_is_passed_over_and_one_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with ArchiveWriter(tmp_path / "x.zip") as archive:
        archive.add("gone", tmp_path / "gone")
        with pytest.raises(BackupFailed, match=r"cannot be kept\. Rename it"):
            archive.add("a\udc80", tmp_path / "a")
        with pytest.raises(BackupFailed, match=r"cannot be backed up: .*directory"):
            archive.add("folder", tmp_path)
    assert not archive.holds("gone")
