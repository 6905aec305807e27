"""Versions of what is kept: an older store becomes a newer one and keeps its rows, on SQLite and on Postgres."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.scoring.database import Database, Schema
from evalvault_pipeline_tests.postgres_server import PostgresServer

words = sa.Table("words", sa.MetaData(), sa.Column("word", sa.Text, primary_key=True), sa.Column("count", sa.Integer))
FIRST = Schema(part="words", tables=words.metadata)


def counts_become(count: sa.ColumnElement[int]) -> Callable[[sa.Connection], None]:
    def change(connection: sa.Connection) -> None:
        if sa.inspect(connection).has_table("words"):
            connection.execute(sa.update(words).values(count=count))

    return change


def broken(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT nonsense FROM nowhere"))


THIRD = Schema(
    part="words", tables=words.metadata, changes=(counts_become(2 * words.c.count), counts_become(1 + words.c.count))
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"store_{uuid.uuid4().hex[:12]}")


def filled(url: str, schema: Schema = FIRST) -> None:
    database = Database(url, schema)
    database.write(lambda connection: connection.execute(sa.insert(words), {"word": "암", "count": 3}))
    database.close()


def kept(url: str, schema: Schema) -> dict[str, int]:
    database = Database(url, schema)
    try:
        return dict(database.read(lambda connection: connection.execute(sa.select(words)).all()))
    finally:
        database.close()


def without_version(url: str) -> None:
    """As a program left it that counted no versions yet."""
    database = Database(url, FIRST)
    database.write(lambda connection: connection.execute(sa.text("DROP TABLE evalvault_schemas")))
    database.close()


@pytest.mark.parametrize("versioned", [True, False])
def test_an_older_store_goes_through_every_change_in_order_and_once(url: str, versioned: bool) -> None:
    filled(url)
    if not versioned:
        without_version(url)
    assert kept(url, THIRD) == {"암": 2 * 3 + 1}
    assert kept(url, THIRD) == {"암": 7}


def test_a_new_store_needs_no_change(url: str) -> None:
    filled(url, THIRD)
    assert kept(url, THIRD) == {"암": 3}


def test_a_store_of_a_later_version_is_refused_with_what_to_do_and_stays_as_it_is(url: str) -> None:
    filled(url, THIRD)
    with pytest.raises(InvalidSetting, match="later version of evalvault: its words have version 3, and this program knows 1"):
        kept(url, FIRST)
    assert kept(url, THIRD) == {"암": 3}


def test_a_change_that_fails_changes_nothing(url: str) -> None:
    filled(url)
    with pytest.raises(Exception, match="nowhere"):
        kept(url, Schema(part="words", tables=words.metadata, changes=(counts_become(0 * words.c.count), broken)))
    assert kept(url, FIRST) == {"암": 3}


def _open(url: str, start: multiprocessing.synchronize.Event) -> None:
    start.wait(60)
    assert kept(url, THIRD) == {"암": 7}


def test_of_several_processes_that_come_at_once_one_makes_the_changes(url: str) -> None:
    filled(url)
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    openers = [context.Process(target=_open, args=(url, start)) for _ in range(4)]
    for opener in openers:
        opener.start()
    start.set()
    for opener in openers:
        opener.join(120)
    assert [opener.exitcode for opener in openers] == [0, 0, 0, 0]


# The history of runs: its table had the name of Dagster's

AS_BEFORE = """
CREATE TABLE runs (run_id VARCHAR(64) NOT NULL, snapshot VARCHAR(200) NOT NULL, dataset VARCHAR(200) NOT NULL,
                   finished_at VARCHAR(40) NOT NULL, header TEXT NOT NULL, chunks TEXT NOT NULL,
                   PRIMARY KEY (run_id, snapshot));
CREATE INDEX ix_runs_dataset ON runs (dataset);
INSERT INTO runs VALUES ('a run', '2026w47', 'insurance_qa', '2026-11-23T00:00:00+00:00', '{"run_id": "a run"}', '');
"""
OF_DAGSTER = "CREATE TABLE runs (id INTEGER PRIMARY KEY, run_id VARCHAR(255), run_body TEXT);"


def executed(url: str, script: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        for statement in script.split(";")[:-1]:
            connection.execute(sa.text(statement))
    engine.dispose()


def test_runs_that_an_earlier_version_recorded_are_found(url: str) -> None:
    executed(url, AS_BEFORE)
    for _ in range(2):
        with RunHistory(url) as history:
            assert [header["run_id"] for header in history.headers(dataset="insurance_qa")] == ["a run"]


def test_dagsters_own_table_of_runs_is_left_alone(url: str) -> None:
    executed(url, OF_DAGSTER)
    with RunHistory(url) as history:
        assert list(history.headers()) == []
    executed(url, "INSERT INTO runs (id, run_id, run_body) VALUES (1, 'of dagster', '{}');")
