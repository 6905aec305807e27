"""From one score store to another, with the history of runs and the alert states: for the move from SQLite to Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.publishing import alert_book, run_history
from evalvault_pipeline.scoring import store
from evalvault_pipeline.scoring.database import Database, checked_url

CHUNK = 1_000
PARTS = (store.SCHEMA, run_history.SCHEMA, alert_book.SCHEMA)
OF_PROCESSES = {"claims", "judge_calls"}  # what running processes say of themselves


def copy_store(source: str, target: str) -> Mapping[str, int]:
    """Rows that the target lacked, by table. What it has stays; the source keeps all. Raises as the store itself does.

    A copy that was interrupted goes on where it was when it is made again.
    """
    if (shown := checked_url(source)) == checked_url(target):
        raise InvalidSetting(f"{shown} cannot be copied into itself. Name the other store in EVALVAULT_STORE_URL.")
    copied: dict[str, int] = {}
    for schema in PARTS:
        old, new = Database(source, schema), Database(target, schema)
        try:
            for table in schema.tables.sorted_tables:
                if table.name not in OF_PROCESSES:
                    copied[table.name] = _copy_table(old, new, table)
        finally:
            old.close()
            new.close()
    return copied


def _copy_table(old: Database, new: Database, table: sa.Table) -> int:
    def count(connection: sa.Connection) -> int:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()

    before = new.read(count)
    insert = new.dialect.insert(table).on_conflict_do_nothing()
    with old.reading() as connection:
        rows = connection.execution_options(yield_per=CHUNK).execute(sa.select(table)).mappings()
        for chunk in rows.partitions():
            new.write(partial(_insert, insert, [dict(row) for row in chunk]))
    return new.read(count) - before


def _insert(statement: sa.Insert, values: list[dict[str, Any]], connection: sa.Connection) -> None:
    connection.execute(statement, values)


def source_url(text: str) -> str:
    """The URL of a store that is given as one, or as the path of an SQLite file. Raises InvalidSetting."""
    if "://" in text:
        return text
    if not Path(text).is_file():
        raise InvalidSetting(f"There is no file {text}. Name the SQLite file of the store, or write its URL.")
    return f"sqlite:///{text}"
