"""Dagster's own storage: SQLite in a folder, or Postgres where DAGSTER_PG_HOST is set, from one dagster.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClass

from evalvault_pipeline.errors import InvalidSetting

VARIABLES = {
    "DAGSTER_PG_HOST": "Host of Dagster's Postgres; without it Dagster keeps its runs in SQLite.",
    "DAGSTER_PG_PORT": "Its port; default 5432.",
    "DAGSTER_PG_USER": "Its user.",
    "DAGSTER_PG_PASSWORD": "Its password.",
    "DAGSTER_PG_DB": "Its database; default dagster.",
}


class InstanceStorage(DagsterStorage, ConfigurableClass):
    """Named in dagster.yaml under `storage.custom`; hands out one of Dagster's two storages, and is never made itself."""

    @classmethod
    def config_type(cls) -> Any:
        return {"base_dir": str}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Any:
        host = os.environ.get("DAGSTER_PG_HOST")
        if not host:
            from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

            return DagsterSqliteStorage.from_config_value(inst_data, {"base_dir": config_value["base_dir"]})
        from dagster_postgres import DagsterPostgresStorage

        missing = [name for name in ("DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD") if not os.environ.get(name)]
        if missing:
            raise InvalidSetting(f"DAGSTER_PG_HOST is set, but {', '.join(missing)} is not. Set both.")
        port = os.environ.get("DAGSTER_PG_PORT") or "5432"
        if not port.isdigit():
            raise InvalidSetting(f"DAGSTER_PG_PORT is `{port}`. Write a number, such as 5432.")
        database: Any = {
            "hostname": host,
            "port": int(port),
            "username": os.environ["DAGSTER_PG_USER"],
            "password": os.environ["DAGSTER_PG_PASSWORD"],
            "db_name": os.environ.get("DAGSTER_PG_DB") or "dagster",
            "scheme": "postgresql+psycopg2",  # SQLAlchemy 2.1 would look for psycopg 3
        }
        return DagsterPostgresStorage.from_config_value(inst_data, {"postgres_db": database})
