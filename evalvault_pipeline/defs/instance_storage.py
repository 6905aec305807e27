"""Dagster's own storage: SQLite in a folder, or Postgres where DAGSTER_PG_HOST is set, from one dagster.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClass

from evalvault_pipeline.settings import dagster_postgres


class InstanceStorage(DagsterStorage, ConfigurableClass):
    """Named in dagster.yaml under `storage.custom`; hands out one of Dagster's two storages, and is never made itself."""

    @classmethod
    def config_type(cls) -> Any:
        return {"base_dir": str}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Any:
        database = dagster_postgres()
        if database is None:
            from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

            return DagsterSqliteStorage.from_config_value(inst_data, {"base_dir": config_value["base_dir"]})
        from dagster_postgres import DagsterPostgresStorage

        scheme = "postgresql+psycopg2"  # SQLAlchemy 2.1 would look for psycopg 3
        storage: Any = {"postgres_db": {**database, "scheme": scheme}}
        return DagsterPostgresStorage.from_config_value(inst_data, storage)
