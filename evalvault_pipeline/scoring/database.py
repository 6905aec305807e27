"""The database behind the score store and the history of runs: SQLite by default, Postgres by URL, same code."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from evalvault_pipeline.errors import InvalidSetting, ScoreStoreUnavailable

OPENING_ATTEMPTS = 40


class Database:
    """The database at a URL; tables and columns are made where they are missing.

    Raises ScoreStoreUnavailable, and InvalidSetting for a URL that cannot be meant.
    """

    def __init__(self, url: str, tables: sa.MetaData) -> None:
        try:
            self._engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            # A port that is no number is a ValueError, which quotes it; behind a mistyped `@` that is the password.
            cause = "its port is no number" if isinstance(error, ValueError) else error
            raise InvalidSetting(
                f"EVALVAULT_STORE_URL cannot be used: {cause}. Write sqlite:///file or postgresql+psycopg2://user@host/database"
            ) from None
        self._shown = shown_url(url)
        with self._reported():
            _create_tables(self._engine, tables)

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

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise ScoreStoreUnavailable(
                f"The score store {self._shown} does not answer: {cause}. Check EVALVAULT_STORE_URL and the server or folder."
            ) from None


def shown_url(url: str) -> str:
    """The URL without password and query, either of which may hold a secret."""
    return sa.make_url(url).set(query={}).render_as_string(hide_password=True)


def parsed_url(url: str) -> sa.URL:
    """The URL with its driver. Raises ArgumentError, ValueError."""
    parsed = sa.make_url(url)
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


def _create_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Another process may make them between the look and the making; SQLite does not wait for who turns on its WAL."""
    for left in reversed(range(OPENING_ATTEMPTS)):
        try:
            tables.create_all(engine)
            _add_columns(engine, tables)
            return
        except SQLAlchemyError as error:
            if not left or not re.search("locked|exists|duplicate", str(error)):
                raise
        time.sleep(0.05)


def _add_columns(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Columns that a store made by an earlier version lacks."""
    for table in tables.sorted_tables:
        there = {column["name"] for column in sa.inspect(engine).get_columns(table.name)}
        lacking = [column for column in table.columns if column.name not in there]
        with engine.begin() as connection:
            for column in lacking:
                declared = sa.schema.CreateColumn(column).compile(dialect=engine.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {declared}"))
