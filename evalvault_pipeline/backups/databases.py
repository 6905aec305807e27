"""A database as one file, and back: SQLite by its backup API, Postgres by pg_dump and pg_restore.

Both are copied as they are at one moment, while others write. No password is among the arguments of a process that is
started here: where a server is, stands in a service file of libpq, and the password in the child's environment.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from evalvault_pipeline.errors import BackupFailed, InvalidSetting, ServiceUnavailable
from evalvault_pipeline.scoring.database import parsed_url, shown_url

LOCK_SECONDS = 60  # so long pg_dump waits for a table that somebody alters
SERVICE = "evalvault"
PORT = 5432  # of Postgres, where a URL has none
TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2
"""  # an extension's own tables are made by it


@dataclass(frozen=True)
class SqliteFile:
    """A SQLite database."""

    path: Path

    def save(self, target: Path) -> dict[str, int]:
        """Copy it to `target`; table -> rows of the copy. Raises BackupFailed where it cannot be read, or is damaged."""
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as source:
                with closing(sqlite3.connect(target)) as copy:
                    source.backup(copy)  # in one step: one moment, and in WAL mode no writer waits
                return SqliteFile(target).rows()
        except sqlite3.Error as error:
            raise BackupFailed(
                f"{self.path} cannot be copied: {error}. Is it a SQLite database, may it be read, and is there room?"
            ) from None

    def rows(self) -> dict[str, int]:
        """Table -> rows. Raises BackupFailed for a damaged file."""
        with closing(sqlite3.connect(self.path)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise BackupFailed(f"{self.path} is damaged: {found}. Mend it with SQLite's `.recover`, or restore a backup.")
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
            return {name: _count(connection, _quoted(name)) for (name,) in sorted(names)}


@dataclass(frozen=True)
class PostgresDatabase:
    """A Postgres database, by its URL. Raises ServiceUnavailable where the server does not answer."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return shown_url(self.url)

    @property
    def holds_a_secret(self) -> bool:
        """Whether a password stands in the URL."""
        parsed = parsed_url(self.url)
        return parsed.password is not None or any("password" in name for name in parsed.query)

    def is_same_as(self, other: PostgresDatabase) -> bool:
        """Whether both URLs name one database of one server, whoever the user is."""
        mine, theirs = (
            (about.get("host"), str(about.get("port", PORT)), about.get("dbname")) for about in (self._about, other._about)
        )
        return mine == theirs

    def save(self, target: Path) -> dict[str, int]:
        """Dump it to `target`; table -> rows of the dump, counted in the snapshot that pg_dump reads. Raises BackupFailed."""
        with self._connected("REPEATABLE READ") as connection:
            snapshot = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
            rows = _postgres_rows(connection)
            options = (f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_SECONDS}s", f"--file={target}")
            self._run("pg_dump", "--format=custom", "--no-owner", "--no-acl", *options)
        return rows

    def restore(self, dump: Path, *, replace: bool) -> None:
        """Restore a dump in one transaction. With `replace` tables of the same names give way.

        Raises BackupFailed, and then the database is as it was.
        """
        cleaned = ("--clean", "--if-exists") if replace else ()
        self._run("pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-acl", *cleaned, str(dump))

    def rows(self) -> dict[str, int]:
        """`schema.table` -> rows."""
        with self._connected() as connection:
            return _postgres_rows(connection)

    def is_empty(self) -> bool:
        """Whether it has no table."""
        with self._connected() as connection:
            return not connection.execute(sa.text(TABLES)).all()

    def other_sessions(self) -> int:
        """How many others are connected to it."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with self._connected() as connection:
            return int(connection.execute(sa.text(others)).scalar_one())

    def drop_tables(self) -> None:
        """Make it empty again."""
        with self._connected() as connection:
            for schema, table in connection.execute(sa.text(TABLES)).all():
                connection.execute(sa.text(f"DROP TABLE IF EXISTS {_quoted(schema)}.{_quoted(table)} CASCADE"))
            connection.commit()

    @contextmanager
    def _connected(self, isolation: Any = "READ COMMITTED") -> Iterator[sa.Connection]:
        try:
            engine = sa.create_engine(parsed_url(self.url), isolation_level=isolation, poolclass=sa.NullPool)
            with engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise ServiceUnavailable(f"The database {self} does not answer: {cause}. Check its URL, and the server.") from None

    @property
    def _about(self) -> dict[str, Any]:
        """The URL as parameters of libpq."""
        return dict(sa.make_url(self.url).get_dialect()().create_connect_args(parsed_url(self.url))[1])

    def _run(self, program: str, *arguments: str) -> None:
        if shutil.which(program) is None:
            raise BackupFailed(
                f"`{program}` is not installed; {self} is saved and restored by it. Install Postgres's client, of the server's "
                "version or newer (Debian: apt-get install postgresql-client)."
            )
        about = self._about
        password = about.pop("password", None)
        with TemporaryDirectory(prefix="evalvault-") as folder:  # for our user alone
            service = Path(folder) / "pg_service.conf"
            service.write_text("".join([f"[{SERVICE}]\n", *(f"{name}={value}\n" for name, value in about.items())]))
            environment = {**os.environ, "LC_ALL": "C", "PGSERVICEFILE": str(service), "PGSERVICE": SERVICE}
            if password is not None:
                environment["PGPASSWORD"] = str(password)
            command = [program, "--no-password", f"--dbname=service={SERVICE}", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")  # noqa: S603  no shell
        if done.returncode:
            raise BackupFailed(f"{program} cannot do it for {self}: {_in_one_line(done.stderr, program)}")


def database_at(url: str, *, called: str) -> SqliteFile | PostgresDatabase:
    """The database at a URL that is `called` so. Raises InvalidSetting for one that cannot be copied."""
    try:
        parsed = parsed_url(url)
    except (ArgumentError, ValueError):  # whose text may quote the password
        raise InvalidSetting(
            f"{called} is no URL of a database. Write postgresql://user@host/database, and %40 for an @ in a password"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        return PostgresDatabase(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.database.startswith((":memory:", "file:")):
        return SqliteFile(Path(parsed.database))
    raise InvalidSetting(f"{called} is {shown_url(url)}; a file of SQLite or a Postgres database can be copied, nothing else.")


def _postgres_rows(connection: sa.Connection) -> dict[str, int]:
    tables = connection.execute(sa.text(TABLES)).all()
    count = "SELECT count(*) FROM {}.{}"
    return {
        f"{schema}.{table}": connection.execute(sa.text(count.format(_quoted(schema), _quoted(table)))).scalar_one()
        for schema, table in tables
    }


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  a quoted name of SQLite's own


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _in_one_line(words: str, program: str) -> str:
    lines = [line.strip().removeprefix(f"{program}: ").removeprefix("error: ") for line in words.splitlines()]
    return "; ".join(line for line in lines if line) or "it said nothing"
