"""What is in a backup and what is not, and what becomes of one that cannot be finished."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evalvault_pipeline.backups.archive import Archive, Manifest
from evalvault_pipeline.backups.backup import make_backup
from evalvault_pipeline.backups.folder import backups_in
from evalvault_pipeline.errors import BackupFailed, InvalidCatalog
from evalvault_pipeline.scoring.store import ScoreKey, ScoreStore, StoredScore
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline_tests.conftest import PROJECT

AT = datetime(2026, 11, 24, 2, tzinfo=UTC)


def file_in(folder: Path, name: str, content: str = "x") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def settings_of(folder: Path, **environment: str) -> Settings:
    data = folder / "data"
    places = {
        "EVALVAULT_CATALOG": data / "catalog.toml",
        "EVALVAULT_RESULTS_DIR": data / "results",
        "EVALVAULT_BASELINES_DIR": data / "baselines",
    }
    return load_settings(folder, **{name: str(path) for name, path in places.items()}, **environment)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with the demo data and some scores."""
    (tmp_path / "data").mkdir()
    shutil.copy(PROJECT / "data" / "catalog.toml", tmp_path / "data" / "catalog.toml")
    shutil.copytree(PROJECT / "data" / "datasets", tmp_path / "data" / "datasets")
    found = settings_of(tmp_path)
    score(found, 3)
    return found


def score(settings: Settings, count: int) -> None:
    keys = [ScoreKey(case_digest=f"{number:064d}", metric="chrf", metric_version="1") for number in range(count)]
    with ScoreStore(settings.score_store_url) as store:
        store.save([(key, StoredScore(value=0.5)) for key in keys])


def names(manifest: Manifest) -> set[str]:
    return {part.name for part in manifest.parts}


def test_what_cannot_be_computed_again_is_in_it(settings: Settings, tmp_path: Path) -> None:
    for name in (
        "data/baselines/insurance_qa.json",
        "data/baselines/insurance_qa.promotions.jsonl",
        "data/results/insurance_qa/2026w47/results.json",
        "data/results/journal/1-aa.jsonl",
        "data/datasets/insurance_qa/README.md",
    ):
        file_in(tmp_path, name)
    made = make_backup(settings, tmp_path / "backups", now=AT)
    assert made.file == tmp_path / "backups" / "evalvault-20261124T020000Z.zip"
    assert names(made.manifest) == {
        "catalog.toml",
        *(f"datasets/insurance_qa/2026w{week}.json" for week in (44, 45, 46, 47)),
        "datasets/insurance_qa/README.md",
        "datasets/insurance_qa_en/2026w47.jsonl",
        "baselines/insurance_qa.json",
        "baselines/insurance_qa.promotions.jsonl",
        "results/insurance_qa/2026w47/results.json",
        "results/journal/1-aa.jsonl",
        "results/scores.sqlite",
    }
    (store,) = made.manifest.of("score store")
    assert store.rows == {"claims": 0, "evalvault_schemas": 1, "judge_calls": 0, "scores": 3}
    assert {"evalvault-pipeline", "dagster", "python", "sqlite"} == set(made.manifest.versions)


def test_the_journal_comes_before_the_store_and_the_reports_after_it(settings: Settings, tmp_path: Path) -> None:
    file_in(tmp_path, "data/results/journal/1-aa.jsonl")
    file_in(tmp_path, "data/results/a/w1/results.json")
    order = [part.name for part in make_backup(settings, tmp_path / "backups").manifest.parts]
    found = [order.index(name) for name in ("results/journal/1-aa.jsonl", "results/scores.sqlite", "results/a/w1/results.json")]
    assert found == sorted(found)


def test_logs_secrets_locks_and_what_is_being_written_are_not_in_it(settings: Settings, tmp_path: Path) -> None:
    for name in (
        ".env.production",
        "data/.env.local",
        "data/.phoenix/phoenix.db",
        "data/dev.log",
        "data/results/logs/evalvault.log",
        "data/results/logs/evalvault.log.2026-11-23.gz",
        "data/results/logs/.__evalvault.lock",
        "data/results/a/.results.json.17.tmp",
        "data/results/journal/1-aa.jsonl.lock",
        "data/results/journal/1-aa.tmp",
        "data/baselines/.a.lock",
    ):
        file_in(tmp_path, name, "canary")
    made = make_backup(settings, tmp_path / "backups")
    assert not [part.name for part in made.manifest.parts if b"canary" in read(made.file, part.name)]
    assert names(made.manifest) == names(make_backup(settings, tmp_path / "backups").manifest)


def read(file: Path, name: str) -> bytes:
    with Archive(file) as archive:
        (part,) = [part for part in archive.manifest.parts if part.name == name]
        return b"".join(archive._chunks(part))


def test_a_log_file_of_ones_own_among_the_results_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    for name in ("mine.log", "mine.log.1", "notes.log"):
        file_in(tmp_path, f"data/results/{name}")
    own = settings_of(tmp_path, EVALVAULT_LOG_FILE=str(tmp_path / "data" / "results" / "mine.log"))
    assert {name for name in names(make_backup(own, tmp_path / "backups").manifest) if name.endswith((".log", ".1"))} == {
        "results/notes.log"
    }


def test_no_older_backup_is_in_a_backup_wherever_the_folder_lies(settings: Settings, tmp_path: Path) -> None:
    for folder in ("data/results/backups", "data/datasets/backups", "data/baselines/b"):
        make_backup(settings, tmp_path / folder)
        assert not [name for name in names(make_backup(settings, tmp_path / folder).manifest) if name.endswith(".zip")]
        shutil.rmtree(tmp_path / folder)


def test_a_store_that_lies_elsewhere_is_the_store_of_the_backup_and_is_in_it_once(settings: Settings, tmp_path: Path) -> None:
    """The one in the results folder is of before; both are databases, and copied as such."""
    other = settings_of(tmp_path, EVALVAULT_STORE_URL=f"sqlite:///{tmp_path}/data/results/shared.sqlite")
    score(other, 7)
    manifest = make_backup(other, tmp_path / "backups").manifest
    (store,) = manifest.of("score store")
    assert store.rows is not None and store.rows["scores"] == 7
    assert [part.name for part in manifest.parts if part.kind == "sqlite"] == ["results/scores.sqlite"]


def test_a_named_store_that_is_not_there_is_no_backup_of_another(settings: Settings, tmp_path: Path) -> None:
    named = settings_of(tmp_path, EVALVAULT_STORE_URL=f"sqlite:///{tmp_path / 'mistyped.sqlite'}")
    with pytest.raises(BackupFailed, match=r"no score store .*mistyped.sqlite. Check EVALVAULT_STORE_URL"):
        make_backup(named, tmp_path / "backups", now=AT)
    assert backups_in(tmp_path / "backups") == []


def test_another_database_among_the_results_is_copied_as_one(settings: Settings, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "results" / "old.db")) as connection, connection:
        connection.execute("CREATE TABLE kept (n INTEGER)")
    manifest = make_backup(settings, tmp_path / "backups").manifest
    assert {part.name: part.rows for part in manifest.parts if part.kind == "sqlite"}["results/old.db"] == {"kept": 0}


def test_a_fresh_project_is_backed_up_without_a_store(tmp_path: Path) -> None:
    file_in(tmp_path, "data/catalog.toml", "")
    made = make_backup(settings_of(tmp_path), tmp_path / "backups")
    assert names(made.manifest) == {"catalog.toml"}
    assert not (tmp_path / "data" / "results").exists()


def test_links_are_followed_and_in_a_circle_once(settings: Settings, tmp_path: Path) -> None:
    file_in(tmp_path, "elsewhere/a/report.md")
    (tmp_path / "data" / "results" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data" / "results")
    (tmp_path / "data" / "results" / "broken").symlink_to(tmp_path / "nowhere")
    found = names(make_backup(settings, tmp_path / "backups").manifest)
    assert "results/linked/a/report.md" in found
    assert not [name for name in found if "back" in name or "broken" in name]


def test_a_snapshot_outside_of_the_catalogs_folder_is_refused_not_left_out(settings: Settings, tmp_path: Path) -> None:
    file_in(tmp_path, "outside/w1.json", "{}")
    with settings.catalog.open("a", encoding="utf-8") as catalog:
        catalog.write('\n[datasets.far]\nfiles = "../outside/*.json"\nmetrics = ["chrf"]\n')
    with pytest.raises(BackupFailed, match=r"w1\.json, a snapshot of far, lies outside of .*Move it there"):
        make_backup(settings, tmp_path / "backups")
    assert not backups_in(tmp_path / "backups")


def test_what_cannot_be_read_fails_the_backup_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    store = tmp_path / "data" / "results" / "scores.sqlite"
    store.write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(BackupFailed, match=r"scores\.sqlite"):
        make_backup(settings, tmp_path / "backups")
    store.unlink()
    settings.catalog.write_text("[datasets", encoding="utf-8")
    with pytest.raises(InvalidCatalog):
        make_backup(settings, tmp_path / "backups")
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".evalvault-backup.lock"]


def test_a_folder_that_cannot_be_made_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match=r"catalog\.toml/backups cannot be written"):
        make_backup(settings, settings.catalog / "backups")


def test_what_a_killed_backup_left_is_cleared_away_and_never_counted(settings: Settings, tmp_path: Path) -> None:
    left = file_in(tmp_path, "backups/.partial-x/evalvault-20261123T020000Z.zip", "half")
    assert not backups_in(tmp_path / "backups")
    make_backup(settings, tmp_path / "backups")
    assert not left.parent.exists() and len(backups_in(tmp_path / "backups")) == 1


def test_two_backups_of_one_second_are_two(settings: Settings, tmp_path: Path) -> None:
    files = [make_backup(settings, tmp_path / "backups", now=AT).file.name for _ in range(2)]
    assert files == ["evalvault-20261124T020000Z.zip", "evalvault-20261124T020001Z.zip"]


def test_older_ones_are_deleted_only_when_the_new_one_is_there(settings: Settings, tmp_path: Path) -> None:
    first = make_backup(settings, tmp_path / "backups", keep=1, now=AT).file
    catalog = settings.catalog.read_text(encoding="utf-8")
    settings.catalog.write_text("[datasets", encoding="utf-8")
    with pytest.raises(InvalidCatalog):
        make_backup(settings, tmp_path / "backups", keep=1)
    assert first.exists()
    settings.catalog.write_text(catalog, encoding="utf-8")
    second = make_backup(settings, tmp_path / "backups", keep=1, now=AT.replace(day=25))
    assert second.deleted == (first,) and not first.exists() and second.file.exists()


def test_the_last_good_one_stays_though_newer_ones_are_damaged_or_half(settings: Settings, tmp_path: Path) -> None:
    """What is deleted is decided by names, and names alone do not say which can be restored."""
    folder = tmp_path / "backups"
    good = make_backup(settings, folder, keep=1, now=AT).file
    whole = good.read_bytes()
    damaged = {"evalvault-20261125T020000Z.zip": whole[:-50], "evalvault-20261126T020000Z.zip": b"", "later.zip": whole[:9]}
    for name, content in damaged.items():
        (folder / name).write_bytes(content)
    catalog = settings.catalog.read_text(encoding="utf-8")
    settings.catalog.write_text("[datasets", encoding="utf-8")
    with pytest.raises(InvalidCatalog):
        make_backup(settings, folder, keep=1, now=AT.replace(day=27))
    assert good.exists(), "a backup that fails deletes nothing"
    settings.catalog.write_text(catalog, encoding="utf-8")
    made = make_backup(settings, folder, keep=1, now=AT.replace(hour=3))
    assert good in made.deleted and made.file.exists(), "older than the damaged ones by its name, and kept"
    with Archive(made.file) as archive:
        archive.check()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    """The system lets no file grow beyond some size here, as on a disk that is full: early and late."""
    whole = make_backup(settings, tmp_path / "backups").file
    code = (
        "import resource, sys; from pathlib import Path; from evalvault_pipeline.backups.backup import make_backup\n"
        "from evalvault_pipeline.errors import BackupFailed\n"
        "from evalvault_pipeline_tests.backups.test_backup import settings_of\n"
        "for limit in map(int, sys.argv[2:]):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try: make_backup(settings_of(Path(sys.argv[1])), Path(sys.argv[1]) / 'backups')\n"
        "    except BackupFailed as error: print(error)"
    )
    limits = [10_000, whole.stat().st_size - 900, whole.stat().st_size - 300]  # two backups differ by some bytes
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, *map(str, limits)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stderr == "", "no exception that nobody catches"
    assert len(done.stdout.splitlines()) == len(limits)
    assert done.stdout.count("File too large. Make room") == 2 and "scores.sqlite cannot be copied: " in done.stdout
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == [".evalvault-backup.lock", whole.name]
