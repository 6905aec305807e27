"""Where a backup is restored, and that nothing is changed where it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from evalvault_pipeline.backups.archive import DAGSTER_DUMP, STORE_DUMP, ArchiveWriter
from evalvault_pipeline.backups.backup import Source, make_backup
from evalvault_pipeline.backups.databases import PostgresDatabase
from evalvault_pipeline.backups.restore import Restored, check_backup, restore_backup
from evalvault_pipeline.cli import app
from evalvault_pipeline.errors import BackupFailed, InvalidSetting, PipelineError, UnusableBackup
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline_tests.backups.test_backup import file_in, score, settings_of
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.postgres_server import PASSWORD, PostgresServer

AT = datetime(2026, 11, 25, 9, tzinfo=UTC)
NO_URLS: dict[str, str | None] = {STORE_DUMP: None, DAGSTER_DUMP: None}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Of a project with 3 scores."""
    project = tmp_path / "project"
    file_in(project, "data/catalog.toml", "# mine\n")
    file_in(project, "data/results/demo/w1/results.json", "{}")
    file_in(project, "data/baselines/demo.json", "{}")
    score(settings_of(project), 3)
    return make_backup(settings_of(project), tmp_path / "backups").file


def test_a_backup_is_restored_to_a_folder_that_is_not_there_yet(backup: Path, tmp_path: Path) -> None:
    done = restore_backup(backup, tmp_path / "new" / "data", urls=NO_URLS)
    assert done.before is None
    assert set(contents(tmp_path / "new" / "data")) == {
        "baselines/demo.json",
        "catalog.toml",
        "results/demo/w1/results.json",
        "results/scores.sqlite",
    }
    with ScoreStore(settings_of(tmp_path / "new").score_store_url) as store:
        assert store.count() == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"], "nothing is left beside it"


def test_an_empty_folder_is_taken_and_a_full_one_is_refused(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    restore_backup(backup, tmp_path / "empty", urls=NO_URLS)
    assert (tmp_path / "empty" / "catalog.toml").exists()
    file_in(tmp_path, "full/mine.txt", "mine")
    with pytest.raises(BackupFailed, match=r"full is not empty\. Name another folder, or take its place with --force"):
        restore_backup(backup, tmp_path / "full", urls=NO_URLS)
    assert contents(tmp_path / "full") == {"mine.txt": b"mine"}
    with pytest.raises(BackupFailed, match=r"mine\.txt is no folder"):
        restore_backup(backup, tmp_path / "full" / "mine.txt", urls=NO_URLS)


def test_by_force_what_was_there_is_kept_beside(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_in(tmp_path, "full/mine.txt", "mine")
    monkeypatch.chdir(tmp_path)
    done = restore_backup(backup, Path("full"), urls=NO_URLS, force=True, now=AT)
    assert done.before == tmp_path / "full.before-20261125T090000Z"
    assert contents(done.before) == {"mine.txt": b"mine"}
    assert "mine.txt" not in contents(tmp_path / "full")


def test_the_folder_that_one_stands_in_can_be_replaced(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_in(tmp_path, "here/mine.txt")
    monkeypatch.chdir(tmp_path / "here")
    restore_backup(backup, Path(), urls=NO_URLS, force=True, now=AT)
    assert (tmp_path / "here" / "catalog.toml").exists() and (tmp_path / "here.before-20261125T090000Z" / "mine.txt").exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("damage", ["cut", "part", "no manifest", "leads out", "newer", "rows"])
def test_of_a_bad_backup_nothing_is_restored(backup: Path, tmp_path: Path, damage: str, force: bool) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(backup) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    if damage == "part":
        members["catalog.toml"] = b"# mend\n"
    if damage == "leads out":
        members["../../evil"] = members.pop("baselines/demo.json")
        next(part for part in manifest["parts"] if part["name"] == "baselines/demo.json")["name"] = "../../evil"
    if damage == "newer":
        manifest["format"] = 99
    if damage == "rows":
        next(part for part in manifest["parts"] if part["kind"] == "sqlite")["rows"]["scores"] = 4
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if damage != "no manifest":
            archive.writestr("manifest.json", json.dumps(manifest))
    if damage == "cut":
        bad.write_bytes(bad.read_bytes()[:-30])
    file_in(tmp_path, "target/data/mine.txt", "mine") if force else (tmp_path / "target").mkdir()
    before = contents(tmp_path)
    with pytest.raises(UnusableBackup):
        restore_backup(bad, tmp_path / "target" / "data", urls=NO_URLS, force=force)
    assert contents(tmp_path) == before
    assert len(list((tmp_path / "target").iterdir())) == int(force)


def test_a_backup_beside_a_newer_dagster_is_refused(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_backup(backup).versions["dagster"].startswith("1.")
    rewritten = tmp_path / "newer.zip"
    with zipfile.ZipFile(backup) as whole, zipfile.ZipFile(rewritten, "w") as archive:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "manifest.json":
                manifest = json.loads(content)
                manifest["versions"]["dagster"] = "1.99.0"
                content = json.dumps(manifest).encode()
            archive.writestr(name, content)
    for use in (lambda: check_backup(rewritten), lambda: restore_backup(rewritten, tmp_path / "new", urls=NO_URLS)):
        with pytest.raises(UnusableBackup, match=r"was made beside Dagster 1\.99\.0; here is 1\..* Install that version first"):
            use()
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(backup: Path, tmp_path: Path) -> None:
    rewritten = tmp_path / "huge.zip"
    with zipfile.ZipFile(backup) as whole, zipfile.ZipFile(rewritten, "w") as archive:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "manifest.json":
                manifest = json.loads(content)
                manifest["parts"][0]["size"] = 10**18
                content = json.dumps(manifest).encode()
            archive.writestr(name, content)
    with pytest.raises(BackupFailed, match=r"MB free; 1,000,000,000,0\d\d MB are needed"):
        restore_backup(rewritten, tmp_path / "new" / "data", urls=NO_URLS)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount a volume")
def test_in_a_volume_what_was_there_is_kept_in_a_folder_or_stays_where_it_is(backup: Path, tmp_path: Path) -> None:
    """A mounted folder cannot be renamed: as in a container, where `data` is a volume. Neither can what is mounted in it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    code = f"""
import os, sys
from evalvault_pipeline.backups.restore import *
from evalvault_pipeline.errors import PipelineError
def restore(force=False, hour=9):
    try:
        done = restore_backup(Path('{backup}'), volume, urls={{}}, force=force, now=datetime(2026, 11, 25, hour, tzinfo=UTC))
        print(done.before and done.before.name, *sorted(os.listdir(volume)))
    except PipelineError as error:
        print(str(error).replace(str(volume), 'volume'), *sorted(os.listdir(volume)))
volume = Path('{volume}')
(volume / 'lost+found').mkdir()
restore()
restore()
(volume / 'mine.txt').write_text('mine')
restore(force=True)
print((volume / 'before-20261125T090000Z' / 'mine.txt').read_text())
(volume / 'zone').mkdir()
os.system('mount -t tmpfs none {volume}/zone')
restore(force=True, hour=10)
"""
    mount = f'mount -t tmpfs -o size=9m none {volume} || exit 77; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this root may not mount")
    restored = "baselines catalog.toml lost+found results"
    refused = "volume is not empty. Name another folder, or take its place with --force: it is kept in a folder in it."
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"None {restored}",
        f"{refused} {restored}",
        "before-20261125T090000Z baselines before-20261125T090000Z catalog.toml lost+found results",
        "mine",
        "volume cannot be written: Device or resource busy. Name another folder. baselines before-20261125T090000Z "
        "catalog.toml lost+found results zone",
    ]


# --- Postgres


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    """A backup that says it holds two databases of Postgres; they are no dumps."""
    file_in(tmp_path, "source/catalog.toml")
    with ArchiveWriter(tmp_path / "dumps.zip") as archive:
        archive.add("catalog.toml", tmp_path / "source" / "catalog.toml")
        for name in (STORE_DUMP, DAGSTER_DUMP):
            archive.add(name, tmp_path / "source" / "catalog.toml", kind="postgres", rows={"public.scores": 1})
        archive.finish(made_at=AT, versions={})
    return tmp_path / "dumps.zip"


@pytest.mark.parametrize(
    ("store", "runs", "why"),
    [
        (None, "postgresql://h/d", r"holds a Postgres database, score_store\.dump\. Say where it goes: --store-url URL"),
        ("postgresql://h/d", None, r"dagster\.dump\. Say where it goes: --dagster-url URL"),
        ("postgresql://u:canary@h/d", "postgresql://h/e", "--store-url holds a password.*PGPASSWORD"),
        ("postgresql://h/e", "postgresql://h/d?password=canary", "--dagster-url holds a password.*PGPASSWORD"),
        ("sqlite:///x", "postgresql://h/d", "Write --store-url postgresql://user@host/database"),
        ("postgresql://h/d", "postgresql://h/d", "name one database"),
        ("postgresql://ann@h/d", "postgresql://bob@h:5432/d", "name one database"),
    ],
)
def test_the_databases_of_a_backup_must_be_named_and_hold_no_password(
    dumps: Path, tmp_path: Path, store: str | None, runs: str | None, why: str
) -> None:
    with pytest.raises(InvalidSetting, match=why) as refusal:
        restore_backup(dumps, tmp_path / "new", urls={STORE_DUMP: store, DAGSTER_DUMP: runs})
    assert "canary" not in str(refusal.value) and not (tmp_path / "new").exists()


def test_a_database_for_a_backup_without_one_is_refused(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"--store-url is given, but this backup holds no score_store\.dump"):
        restore_backup(backup, tmp_path / "new", urls={**NO_URLS, STORE_DUMP: "postgresql://h/d"})


def bare(url: str) -> str:
    return url.replace(f":{PASSWORD.replace(' ', '%20')}@", "@")


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def values(url: str) -> list[int]:
    """Of the table `kept`."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.connect() as connection:
        found = list(connection.execute(sa.text("SELECT n FROM kept ORDER BY n")).scalars())
    engine.dispose()
    return found


@dataclass(frozen=True, kw_only=True)
class TwoFull:
    """A backup, and the folder and databases in use that it is restored to."""

    file: Path
    folder: Path
    databases: dict[str, PostgresDatabase]

    def url(self, part: str) -> str:
        return self.databases[part].url

    def restore(self) -> Restored:
        return restore_backup(
            self.file, self.folder, urls={part: self.url(part) for part in self.databases}, force=True, now=AT
        )


def test_databases_are_filled_whole_or_not_at_all(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    project = settings_of(tmp_path / "project", EVALVAULT_STORE_URL=postgres.create("whole_store"))
    file_in(tmp_path, "project/data/catalog.toml", "")
    score(project, 5)
    runs = postgres.create("whole_runs")
    execute(runs, "CREATE TABLE runs (n int); INSERT INTO runs VALUES (1), (2)")
    sources = [Source(name=DAGSTER_DUMP, database=PostgresDatabase(runs))]
    backup = make_backup(project, tmp_path / "backups", dagster=sources).file
    first, second = PostgresDatabase(bare(postgres.create("to_store"))), PostgresDatabase(bare(postgres.create("to_runs")))
    urls = {STORE_DUMP: first.url, DAGSTER_DUMP: second.url}
    target = tmp_path / "restored" / "data"

    execute(postgres.url("to_runs"), "CREATE TYPE status AS ENUM ('x'); CREATE VIEW runs AS SELECT 'x'::status")
    with pytest.raises(BackupFailed, match=r"pg_restore cannot do it for .*to_runs.*already exists"):
        restore_backup(backup, target, urls=urls)
    assert first.is_empty() and not target.exists(), "the store, which was filled already, is empty again"

    execute(postgres.url("to_runs"), "DROP VIEW runs; CREATE TABLE runs (n int); INSERT INTO runs VALUES (7)")
    with pytest.raises(BackupFailed, match=r"to_runs \(--dagster-url\) is not empty\. .*--force"):
        restore_backup(backup, target, urls=urls)
    other = sa.create_engine(postgres.url("to_runs").replace("postgresql:", "postgresql+psycopg2:"))
    with (
        other.connect(),
        pytest.raises(BackupFailed, match=r"Others are connected to .*to_runs \(1 sessions\)\. Stop the daemon"),
    ):
        restore_backup(backup, target, urls=urls, force=True)
    other.dispose()
    assert first.is_empty() and second.rows() == {"public.runs": 1} and not target.exists()

    done = restore_backup(backup, target, urls=urls, force=True)
    assert list(done.dumps_before) == [DAGSTER_DUMP], "the other was empty"
    assert first.rows()["public.scores"] == 5 and second.rows() == {"public.runs": 2}
    assert set(contents(target)) == {"catalog.toml"}
    assert done.databases[STORE_DUMP] == first.url and PASSWORD not in repr(done)


@pytest.fixture
def two_full(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoFull]:
    """A backup of two databases, and two others, in use, that it is to be restored to."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    names = {STORE_DUMP: "full_store", DAGSTER_DUMP: "full_runs"}
    with ArchiveWriter(tmp_path / "full.zip") as archive:
        archive.add("catalog.toml", file_in(tmp_path, "source/catalog.toml"))
        for part in names:
            source = postgres.create("kept_now")
            execute(source, "CREATE TABLE kept (n int); CREATE TABLE new (n int); INSERT INTO kept VALUES (1), (2)")
            rows = PostgresDatabase(source).save(tmp_path / part)
            archive.add(part, tmp_path / part, kind="postgres", rows=rows)
            postgres.execute("postgres", "DROP DATABASE kept_now")
        archive.finish(made_at=AT, versions={})
    for name in names.values():
        execute(postgres.create(name), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7); CREATE TABLE mine (n int)")
    file_in(tmp_path, "target/data/mine.txt", "mine")
    yield TwoFull(
        file=tmp_path / "full.zip",
        folder=tmp_path / "target" / "data",
        databases={part: PostgresDatabase(bare(postgres.url(name))) for part, name in names.items()},
    )
    for name in names.values():
        postgres.execute("postgres", f"DROP DATABASE {name}")


AS_BEFORE = {"public.kept": 1, "public.mine": 0}


def test_a_forced_restore_that_fails_at_the_second_database_leaves_the_first_as_it_was(two_full: TwoFull) -> None:
    """A view depends on a table that the backup replaces; the first database has the backup's rows by then."""
    execute(two_full.url(DAGSTER_DUMP), "CREATE VIEW depending AS SELECT n FROM kept")
    with pytest.raises(BackupFailed, match="other objects depend on it"):
        two_full.restore()
    for part, database in two_full.databases.items():
        assert database.rows() == AS_BEFORE and values(two_full.url(part)) == [7]
    assert contents(two_full.folder.parent) == {"data/mine.txt": b"mine"}


def test_a_forced_restore_that_fails_at_the_folder_leaves_the_databases_as_they_were(two_full: TwoFull) -> None:
    file_in(two_full.folder.parent, "data.before-20261125T090000Z/older.txt")
    with pytest.raises(BackupFailed, match="Directory not empty"):
        two_full.restore()
    assert [database.rows() for database in two_full.databases.values()] == [AS_BEFORE] * 2
    assert set(contents(two_full.folder.parent)) == {"data/mine.txt", "data.before-20261125T090000Z/older.txt"}


def test_what_a_forced_restore_replaces_is_kept_beside_for_its_owner_alone(two_full: TwoFull, postgres: PostgresServer) -> None:
    done = two_full.restore()
    assert [values(two_full.url(part)) for part in two_full.databases] == [[1, 2], [1, 2]]
    assert sorted(path.name for path in two_full.folder.parent.iterdir()) == [
        "data",
        "data.before-20261125T090000Z",
        "data.before-20261125T090000Z-dagster.dump",
        "data.before-20261125T090000Z-score_store.dump",
    ]
    assert {stat.S_IMODE(dump.stat().st_mode) for dump in done.dumps_before.values()} == {0o600}
    other = PostgresDatabase(postgres.create("full_again"))
    other.restore(done.dumps_before[STORE_DUMP], replace=False)
    assert other.rows() == AS_BEFORE and values(other.url) == [7]


ONCE = """#!/bin/sh
echo >>{folder}/calls
test "$(wc -l <{folder}/calls)" = 1 && exec {program} "$@"
echo "pg_restore: error: the server is gone" >&2
exit 1
"""


def test_a_database_that_cannot_be_put_back_is_told_with_the_file_that_has_it(
    two_full: TwoFull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "pg_restore"
    file_in(tmp_path, "bin/pg_restore", ONCE.format(folder=tmp_path, program=shutil.which("pg_restore"))).chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    dump = two_full.folder.parent / "data.before-20261125T090000Z-score_store.dump"
    with pytest.raises(
        BackupFailed, match=rf"full_runs.* Then .*full_store could not be put back: .* is in {dump}, for pg_restore"
    ):
        two_full.restore()
    monkeypatch.undo()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    two_full.databases[STORE_DUMP].restore(dump, replace=True)
    assert two_full.databases[STORE_DUMP].rows() == AS_BEFORE


def test_one_postgres_for_scores_and_runs_is_one_dump_and_one_url(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    both = postgres.create("one_for_both")
    project = settings_of(tmp_path / "project", EVALVAULT_STORE_URL=both.replace("postgresql:", "postgresql+psycopg2:"))
    file_in(tmp_path, "project/data/catalog.toml", "")
    file_in(tmp_path, "project/data/results/journal/1-aa.jsonl")
    score(project, 5)
    execute(both, "CREATE TABLE runs (n int); INSERT INTO runs VALUES (1), (2)")
    made = make_backup(project, tmp_path / "backups", dagster=[Source(name=DAGSTER_DUMP, database=PostgresDatabase(both))])
    order = [part.name for part in made.manifest.parts]
    assert order == ["results/journal/1-aa.jsonl", DAGSTER_DUMP, "catalog.toml"], "the journal first, as before any store"
    assert check_backup(made.file).store_in == DAGSTER_DUMP
    assert "score store: in dagster.dump" in CliRunner().invoke(app, ["restore", str(made.file), "--check"]).output

    target = PostgresDatabase(bare(postgres.create("one_restored")))
    with pytest.raises(
        InvalidSetting, match=r"no score_store\.dump, since dagster\.dump has the scores too\. Leave the option"
    ):
        restore_backup(made.file, tmp_path / "new", urls={STORE_DUMP: target.url, DAGSTER_DUMP: target.url})
    restore_backup(made.file, tmp_path / "new", urls={**NO_URLS, DAGSTER_DUMP: target.url})
    assert target.rows()["public.scores"] == 5 and target.rows()["public.runs"] == 2


def test_the_password_of_dagsters_server_is_read_from_its_secret_and_given_to_no_other(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = postgres.create("secret_from")
    execute(both, "CREATE TABLE runs (n int); INSERT INTO runs VALUES (1), (2)")
    file_in(tmp_path, "project/data/catalog.toml", "")
    sources = [Source(name=DAGSTER_DUMP, database=PostgresDatabase(both))]
    made = make_backup(settings_of(tmp_path / "project"), tmp_path / "backups", dagster=sources)
    for name, value in postgres.variables("production").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_PG_PASSWORD")
    monkeypatch.setenv("DAGSTER_PG_PASSWORD_FILE", str(file_in(tmp_path, "secrets/dagster_pg_password", f"{PASSWORD}\n")))
    target = bare(postgres.create("secret_to"))

    def restore(url: str) -> Result:
        return CliRunner().invoke(app, ["restore", str(made.file), "--to", str(tmp_path / "new"), "--dagster-url", url])

    refused = restore(target.replace("evalvault@", "other@")).exception
    assert "no password supplied" in str(refused) and not (tmp_path / "new").exists()
    done = restore(target)
    assert done.exit_code == 0 and PASSWORD not in done.output
    assert PostgresDatabase(postgres.url("secret_to")).rows() == {"public.runs": 2}


def test_a_dump_that_postgres_does_not_take_leaves_everything_as_it_was(
    postgres: PostgresServer, dumps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    urls = {STORE_DUMP: bare(postgres.create("bad_store")), DAGSTER_DUMP: bare(postgres.create("bad_runs"))}
    with pytest.raises(PipelineError, match="pg_restore cannot do it"):
        restore_backup(dumps, tmp_path / "new" / "data", urls=urls)
    assert not list((tmp_path / "new").iterdir())
