"""SQLite and Postgres as files and back, while they are written; no password where others can see it."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from evalvault_pipeline.backups.databases import PostgresDatabase, SqliteFile, database_at
from evalvault_pipeline.errors import BackupFailed, InvalidSetting, ServiceUnavailable
from evalvault_pipeline_tests.postgres_server import PASSWORD, PostgresServer


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A SQLite database in which every transaction adds a row to both of its tables."""
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript("CREATE TABLE left (n INTEGER, word TEXT); CREATE TABLE 'the \"right\"' (n INTEGER)")
    return file


def test_a_copy_of_a_database_that_is_being_written_is_of_one_moment(ledger: Path, tmp_path: Path) -> None:
    stop, counts = threading.Event(), list[dict[str, int]]()

    def write() -> None:
        with closing(sqlite3.connect(ledger, timeout=30)) as connection:
            while not stop.is_set():
                with connection:
                    connection.execute("INSERT INTO left VALUES (1, ?)", ("x" * 2000,))
                    connection.execute("INSERT INTO 'the \"right\"' VALUES (1)")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts.extend(SqliteFile(ledger).save(tmp_path / f"copy-{number}") for number in range(20))
    finally:
        stop.set()
        writer.join()
    assert all(rows["left"] == rows['the "right"'] for rows in counts)
    assert counts[-1]["left"] > counts[0]["left"], "it was written meanwhile"
    assert not list(tmp_path.glob("copy-*-*")), "a copy is one file"
    assert SqliteFile(tmp_path / "copy-3").rows() == counts[3]


def test_a_copy_keeps_the_journal_mode_and_leaves_nothing_beside_the_original(ledger: Path, tmp_path: Path) -> None:
    SqliteFile(ledger).save(tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(tmp_path.glob("ledger.sqlite-*"))


def test_a_damaged_database_is_no_backup(ledger: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.executemany("INSERT INTO left VALUES (?, ?)", [(n, "y" * 500) for n in range(500)])
    content = bytearray(ledger.read_bytes())
    content[8192:40960] = bytes(40960 - 8192)
    ledger.write_bytes(content)
    with pytest.raises(BackupFailed, match=r"damaged|malformed"):
        SqliteFile(ledger).save(tmp_path / "copy")


def test_what_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no database" * 200)
    with pytest.raises(BackupFailed, match="notes cannot be copied: file is not a database"):
        SqliteFile(tmp_path / "notes").save(tmp_path / "copy")
    with pytest.raises(BackupFailed, match="none cannot be copied: unable to open"):
        SqliteFile(tmp_path / "none").save(tmp_path / "copy2")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "is no URL"),
        ("postgresql://user:first@canary@host/db", "%40 for an @"),
        ("postgresql://user:canary@host:port/db", "is no URL"),
        ("mysql://user:canary@host/db", "nothing else"),
        ("sqlite://", "nothing else"),
        ("sqlite:///file:x?mode=memory&uri=true", "nothing else"),
    ],
)
def test_a_url_that_cannot_be_copied_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(InvalidSetting, match=why) as refusal:
        database_at(url, called="--store-url")
    assert "canary" not in str(refusal.value) and str(refusal.value).startswith("--store-url")


# --- Postgres


def run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer) -> str:
    url = postgres.create("kept_from")
    run(
        url,
        'CREATE SCHEMA "Other one"',
        'CREATE TABLE scores (n serial PRIMARY KEY, word text); CREATE TABLE "Other one"."a ""table""" (n int)',
        "INSERT INTO scores (word) SELECT '점수' || g FROM generate_series(1, 100) g",
        'INSERT INTO "Other one"."a ""table""" VALUES (1)',
    )
    return url


ROWS = {"public.scores": 100, 'Other one.a "table"': 1}


def test_a_dump_is_restored_to_another_database_and_not_over_a_full_one(
    postgres: PostgresServer, filled: str, tmp_path: Path
) -> None:
    other = PostgresDatabase(postgres.create("kept_to"))
    assert PostgresDatabase(filled).save(tmp_path / "dump") == ROWS
    assert other.is_empty()
    other.restore(tmp_path / "dump", replace=False)
    assert other.rows() == ROWS
    run(other.url, "INSERT INTO scores (word) VALUES ('later')")
    with pytest.raises(BackupFailed, match=r"pg_restore cannot do it for .*already exists") as refusal:
        other.restore(tmp_path / "dump", replace=False)
    assert "\n" not in str(refusal.value)
    assert other.rows()["public.scores"] == 101, "what failed has changed nothing"
    other.restore(tmp_path / "dump", replace=True)
    assert other.rows() == ROWS
    other.drop_tables()
    assert other.is_empty()


def test_rows_are_counted_in_the_moment_that_is_dumped(postgres: PostgresServer, tmp_path: Path) -> None:
    """Rows are added all the time; each dump has as many as it says."""
    url = postgres.create("kept_busy")
    run(url, "CREATE TABLE scores (n int)")
    stop = threading.Event()

    def write() -> None:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
        with engine.connect() as connection:
            while not stop.is_set():
                connection.execute(sa.text("INSERT INTO scores SELECT generate_series(1, 50)"))
                connection.commit()
        engine.dispose()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rows = PostgresDatabase(url).save(tmp_path / "dump")
    finally:
        stop.set()
        writer.join()
    copy = PostgresDatabase(postgres.create("kept_busy_copy"))
    copy.restore(tmp_path / "dump", replace=False)
    assert copy.rows() == rows
    assert PostgresDatabase(url).rows()["public.scores"] > rows["public.scores"], "it was written meanwhile"


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)


SPY = """#!{python}
import os, shutil, sys
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "seen"), "a") as seen:
    seen.write(repr(sys.argv) + open(os.environ["PGSERVICEFILE"]).read())
    seen.write(oct(os.stat(os.path.dirname(os.environ["PGSERVICEFILE"])).st_mode & 0o777))
path = os.environ["PATH"].split(os.pathsep)
path.remove(here)
found = shutil.which(os.path.basename(sys.argv[0]), path=os.pathsep.join(path))
os.execv(found, [found, *sys.argv[1:]])
"""


def test_no_password_is_among_the_arguments_or_in_a_file_that_others_read(
    postgres: PostgresServer, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pg_dump", "pg_restore"):
        program(tmp_path, name, SPY.format(python=sys.executable))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    url = filled + "?connect_timeout=7&application_name=a%20backup"
    PostgresDatabase(url).save(tmp_path / "dump")
    PostgresDatabase(postgres.create("kept_unseen")).restore(tmp_path / "dump", replace=False)
    seen = (tmp_path / "seen").read_text()
    assert "pg_dump" in seen and "pg_restore" in seen and f"port={postgres.port}" in seen
    assert "connect_timeout=7" in seen and "application_name=a backup" in seen and seen.count("0o700") == 2
    assert PASSWORD not in seen and "%20" not in seen
    assert PASSWORD.encode() not in (tmp_path / "dump").read_bytes()


def test_a_url_without_a_password_takes_that_of_the_environment(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = PostgresDatabase(filled.replace(f":{PASSWORD.replace(' ', '%20')}@", "@"))
    assert not bare.holds_a_secret and PostgresDatabase(filled).holds_a_secret
    assert PostgresDatabase("postgresql://host/db?sslpassword=x").holds_a_secret
    with pytest.raises(ServiceUnavailable, match="no password supplied"):
        bare.save(tmp_path / "dump")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert bare.save(tmp_path / "dump") == ROWS


def test_without_postgres_client_the_way_out_is_named(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupFailed, match=r"`pg_dump` is not installed; .*apt-get install postgresql-client") as refusal:
        PostgresDatabase(filled).save(tmp_path / "dump")
    assert PASSWORD not in str(refusal.value)


def test_a_client_that_is_older_than_the_server_says_so_in_one_line(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the words of the real one: no older client is to be had here."""
    words = [
        "pg_dump: error: aborting because of server version mismatch",
        "pg_dump: detail: server version: 17.1; pg_dump version: 15.18",
    ]
    program(tmp_path, "pg_dump", "#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in words) + "exit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BackupFailed) as refusal:
        PostgresDatabase(filled).save(tmp_path / "dump")
    told = "aborting because of server version mismatch; detail: server version: 17.1; pg_dump version: 15.18"
    assert str(refusal.value).endswith(told) and "\n" not in str(refusal.value)


def test_a_server_that_is_not_there_is_a_service_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:1/db does not answer") as refusal:
        PostgresDatabase("postgresql://me:canary@127.0.0.1:1/db").save(tmp_path / "dump")
    assert "canary" not in str(refusal.value)
