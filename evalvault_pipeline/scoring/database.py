"""The database behind the score store, the history of runs and the alert states: SQLite by default, Postgres by URL, same code.

Each of these parts has a `Schema` with a version. A store of an earlier version is brought up to date when it is opened, and
keeps what it holds; one of a later version is refused.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError

from evalvault_pipeline.errors import InvalidSetting, ScoreStoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

OPENING_ATTEMPTS = 40
AWAY_SECONDS = 60.0  # how long a server that is restarted is waited for
LOCK = 0x65766C76  # of Postgres, for who brings a store up to date: "evlv"
_versions = sa.Table(
    "evalvault_schemas",
    sa.MetaData(),
    sa.Column("part", sa.String(40), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The tables of one part of the database.

    `changes[n]` makes version n + 2 of version n + 1; of a new store, which has no table yet, it changes nothing. A new column
    that is null or has a default needs no change: it is added wherever it is missing, and an earlier program can do without it.
    """

    part: str
    tables: sa.MetaData
    changes: tuple[Callable[[sa.Connection], None], ...] = ()

    @property
    def version(self) -> int:
        return 1 + len(self.changes)


class Database:
    """The database at a URL, with the tables of a part made or brought up to date.

    Raises ScoreStoreUnavailable, and InvalidSetting for a URL that cannot be meant and for a store of a later version.
    """

    def __init__(self, url: str, schema: Schema) -> None:
        with _usable():
            self._engine = _engine(url)
        self._shown = shown_url(url)
        with self._reported():
            _bring_up_to_date(self._engine, schema, self._shown)

    @property
    def dialect(self) -> Any:
        """SQLAlchemy's module for statements of this kind of database, such as an insert that ignores what is there."""
        return postgresql if self._engine.dialect.name == "postgresql" else sqlite

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._reported(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction."""
        with self._reported(), self._engine.begin() as connection:
            yield connection

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` gives. It is done again where the server goes away meanwhile, for AWAY_SECONDS."""
        return self._patiently(self.reading, work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """The same, as one transaction."""
        return self._patiently(self.writing, work)

    def close(self) -> None:
        self._engine.dispose()

    def _patiently(self, begin: Callable[[], AbstractContextManager[sa.Connection]], work: Callable[[sa.Connection], T]) -> T:
        ends_at: float | None = None
        while True:
            try:
                with begin() as connection:
                    return work(connection)
            except ScoreStoreUnavailable as error:
                now = time.monotonic()
                if ends_at is None and error.passing:
                    log.warning("%s It is tried again for %.0f s.", error, AWAY_SECONDS)
                    ends_at = now + AWAY_SECONDS
                if ends_at is None or not error.passing or now > ends_at:
                    raise
            time.sleep(0.5)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            unavailable = ScoreStoreUnavailable(
                f"The score store {self._shown} does not answer: {cause}. Check EVALVAULT_STORE_URL and the server or folder."
            )
            unavailable.passing = self.dialect is postgresql and isinstance(error, OperationalError | InterfaceError)
            raise unavailable from None


def shown_url(url: str) -> str:
    """The URL without password and query, either of which may hold a secret. Raises ArgumentError, ValueError."""
    return _made(url).set(query={}).render_as_string(hide_password=True)


def checked_url(url: str) -> str:
    """The URL as it may be shown, of a database whose driver is here; nothing is called. Raises InvalidSetting."""
    with _usable():
        try:
            parsed = parsed_url(url)
            known = parsed.get_backend_name() in ("sqlite", "postgresql") and not sa.create_engine(parsed).dialect.is_async
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
            known = False
        if not known:  # what it is may be a key: it is not repeated
            raise InvalidSetting(
                "EVALVAULT_STORE_URL is no URL of SQLite or Postgres. Write sqlite:///file or "
                "postgresql+psycopg2://user@host/database"
            )
        return shown_url(url)


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
        # A ValueError quotes the port, or names the host: behind a mistyped `@` that is the password.
        cause = "its port is no number, or an @ in its password is not written %40" if isinstance(error, ValueError) else error
        raise InvalidSetting(
            f"EVALVAULT_STORE_URL cannot be used: {cause}. Write sqlite:///file or postgresql+psycopg2://user@host/database"
        ) from None


def _made(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    if "@" in (parsed.host or ""):
        raise ValueError("what follows the first @ of a password would be shown as the host")
    return parsed


def parsed_url(url: str) -> sa.URL:
    """The URL with its driver. Raises ArgumentError, ValueError."""
    parsed = _made(url)
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg2")  # what dagster-postgres brings; SQLAlchemy 2.1 takes psycopg 3
    return parsed


def _engine(url: str) -> sa.Engine:
    parsed = parsed_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True)
    if parsed.database and not parsed.database.startswith((":memory:", "file:")):  # `file:` is SQLite's own URI, no path
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ScoreStoreUnavailable(
                f"The folder of the score store {parsed.database} cannot be made: {error}. Set EVALVAULT_STORE_URL."
            ) from None
    engine = sa.create_engine(parsed, connect_args={"timeout": 60})
    sa.event.listen(engine, "connect", _tune_sqlite)
    return engine


def _tune_sqlite(connection: Any, _: object) -> None:
    """WAL: one writer and readers beside it; a killed process loses at most the transaction in flight."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _bring_up_to_date(engine: sa.Engine, schema: Schema, shown: str) -> None:
    """Several processes may come at once, and SQLite does not wait for who turns on its WAL."""
    for left in reversed(range(OPENING_ATTEMPTS)):
        try:
            with engine.connect() as connection:
                if _is_up_to_date(connection, schema, shown):
                    return
                connection.rollback()
                if engine.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
                else:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                if not _is_up_to_date(connection, schema, shown):
                    _change(connection, schema)
                connection.commit()
            return
        except SQLAlchemyError as error:
            if not left or not re.search("locked|exists|duplicate", str(error)):
                raise
        time.sleep(0.05)


def _is_up_to_date(connection: sa.Connection, schema: Schema, shown: str) -> bool:
    there = set(sa.inspect(connection).get_table_names())
    version = _version(connection, schema) if _versions.name in there else None
    if version is not None and version > schema.version:
        raise InvalidSetting(
            f"The score store {shown} was written by a later version of evalvault: its {schema.part} have version {version}, "
            f"and this program knows {schema.version}. Upgrade evalvault, or name another store with EVALVAULT_STORE_URL."
        )
    whole = {table.name for table in schema.tables.sorted_tables} <= there
    return version == schema.version and whole and not _missing_columns(connection, schema)


def _version(connection: sa.Connection, schema: Schema) -> int | None:
    query = sa.select(_versions.c.version).where(_versions.c.part == schema.part)
    return connection.execute(query).scalar()


def _change(connection: sa.Connection, schema: Schema) -> None:
    """A store without a version is of the first one, or new: the changes then find nothing to change."""
    _versions.create(connection, checkfirst=True)
    version = _version(connection, schema)
    for change in schema.changes[(version or 1) - 1 :]:
        change(connection)
    schema.tables.create_all(connection)
    for table, column in _missing_columns(connection, schema):
        declared = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {declared}"))
    row = {"part": schema.part, "version": schema.version}
    if version is None:
        connection.execute(sa.insert(_versions), row)
    else:
        connection.execute(sa.update(_versions).where(_versions.c.part == schema.part).values(row))


def _missing_columns(connection: sa.Connection, schema: Schema) -> list[tuple[sa.Table, sa.Column[Any]]]:
    inspector = sa.inspect(connection)
    there = {table: {column["name"] for column in inspector.get_columns(table.name)} for table in schema.tables.sorted_tables}
    return [(table, column) for table, names in there.items() for column in table.columns if column.name not in names]
