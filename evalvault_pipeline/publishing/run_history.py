"""Every run that was reported, case by case, in the database of the score store: for baselines by run and for trends.

Cases are kept in compressed chunks under the digest of their content, so that an unchanged run takes no room.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa

from evalvault_pipeline.errors import UnknownRun
from evalvault_pipeline.publishing.recorded_runs import build_run
from evalvault_pipeline.publishing.results_file import case_entry, results_header
from evalvault_pipeline.reporting.recorded import RecordedRun, TrendPoint
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.database import Database, Schema

CHUNK_CASES = 200
_metadata = sa.MetaData()
runs = sa.Table(
    "recorded_runs",
    _metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("snapshot", sa.String(200), primary_key=True, doc="a Dagster run may report on several"),
    sa.Column("dataset", sa.String(200), nullable=False, index=True),
    sa.Column("finished_at", sa.String(40), nullable=False, doc="ISO, UTC: the later one is the greater text"),
    sa.Column("header", sa.Text, nullable=False, doc="results.json without its cases"),
    sa.Column("chunks", sa.Text, nullable=False, doc="digests of the chunks of its cases, in order"),
)
chunks = sa.Table(
    "run_cases",
    _metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("cases", sa.LargeBinary, nullable=False, doc="zlib over one case of results.json a line"),
)


def _rename_runs(connection: sa.Connection) -> None:
    """In the first version the table had the name of one of Dagster's, which may stand in the same database."""
    inspector = sa.inspect(connection)
    if inspector.has_table("runs") and "chunks" in {column["name"] for column in inspector.get_columns("runs")}:
        connection.execute(sa.text("ALTER TABLE runs RENAME TO recorded_runs"))


SCHEMA = Schema(part="runs", tables=_metadata, changes=(_rename_runs,))


class RunHistory:
    """The runs in the database at a URL. Raises ScoreStoreUnavailable, InvalidSetting."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, SCHEMA)

    def __enter__(self) -> RunHistory:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def record(self, report: RunReport, *, before: Mapping[str, Any] | None = None) -> None:
        """Keep a run with its cases; a run that is recorded again takes the place of what it said before.

        `before`: header of an earlier execution under its id, whose spending is added.
        """
        header, dialect = results_header(report), self._database.dialect
        if before is not None:
            header |= _with_spending(header, before)
        digests = []
        for text in _chunked(case_entry(result) for result in report.results):
            digest = hashlib.sha256(text).hexdigest()
            digests.append(digest)
            row = {"digest": digest, "cases": zlib.compress(text, 3)}
            self._execute(dialect.insert(chunks).on_conflict_do_nothing(), row)
        row = {
            "run_id": report.info.run_id,
            "snapshot": report.info.snapshot,
            "dataset": report.info.dataset,
            "finished_at": header["finished_at"],
            "header": json.dumps(header, ensure_ascii=False, allow_nan=False),
            "chunks": " ".join(digests),
        }
        insert = dialect.insert(runs)
        keys = ["run_id", "snapshot"]
        values = {name: insert.excluded[name] for name in row if name not in keys}
        self._execute(insert.on_conflict_do_update(index_elements=keys, set_=values), row)

    def header(self, run_id: str, snapshot: str) -> dict[str, Any] | None:
        """results.json without its cases of this very run; None where there is none."""
        found = self._rows(sa.select(runs.c.header).where(runs.c.run_id == run_id, runs.c.snapshot == snapshot))
        return orjson.loads(found[0].header) if found else None

    def find(self, run_id: str, *, dataset: str | None = None, snapshot: str | None = None) -> RecordedRun:
        """The run with this id, or the only one whose id begins so; `snapshot` chooses of several that it reported on.

        Raises UnknownRun.
        """
        query = sa.select(runs).where(runs.c.run_id.startswith(run_id, autoescape=True)).order_by(runs.c.finished_at.desc())
        if dataset is not None:
            query = query.where(runs.c.dataset == dataset)
        if snapshot is not None:
            query = query.where(runs.c.snapshot == snapshot)
        found = self._rows(query.limit(10))
        ids = {row.run_id for row in found}
        of = f" of {dataset}" if dataset else ""
        if not found:
            known = [row.run_id for row in self._rows(sa.select(runs).order_by(runs.c.finished_at.desc()).limit(3))]
            newest = f"The newest are: {', '.join(known)}." if known else "It holds no run yet."
            raise UnknownRun(f"The score store holds no run `{run_id}`{of}. {newest} Every `evalvault run` is kept there.")
        if len(ids) > 1:
            raise UnknownRun(f"Several runs{of} begin with `{run_id}`: {', '.join(sorted(ids))}. Write more of the id.")
        return self._run(found[0])

    def latest(self, dataset: str, *, before: str, but: str) -> RecordedRun:
        """The newest run of a dataset that finished `before` (ISO time) and is not run `but`. Raises UnknownRun."""
        query = sa.select(runs).where(runs.c.dataset == dataset, runs.c.finished_at < before, runs.c.run_id != but)
        found = self._rows(query.order_by(runs.c.finished_at.desc()).limit(1))
        if not found:
            raise UnknownRun(
                f"The score store holds no earlier run of {dataset} than this one. Name a results file as --baseline, or score "
                "the earlier release first."
            )
        return self._run(found[0])

    def trend(self, dataset: str, *, until: str, limit: int = 30) -> list[TrendPoint]:
        """The last runs of a dataset that finished `until` then, the oldest first."""
        query = sa.select(runs.c.header).where(runs.c.dataset == dataset, runs.c.finished_at <= until)
        rows = self._rows(query.order_by(runs.c.finished_at.desc()).limit(limit))
        return [_point(orjson.loads(row.header)) for row in reversed(rows)]

    def headers(self, *, since: str = "", dataset: str | None = None) -> Iterator[dict[str, Any]]:
        """results.json without its cases of every run that ended at or after `since` (ISO time), the oldest first."""
        query = sa.select(runs.c.header).where(runs.c.finished_at >= since).order_by(runs.c.finished_at)
        if dataset is not None:
            query = query.where(runs.c.dataset == dataset)
        yield from (orjson.loads(row.header) for row in self._rows(query))

    def datasets(self) -> list[str]:
        """The names of all that were run."""
        return [row.dataset for row in self._rows(sa.select(runs.c.dataset).distinct().order_by(runs.c.dataset))]

    def _execute(self, statement: sa.Insert, row: dict[str, Any]) -> None:
        self._database.write(lambda connection: connection.execute(statement, row))

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        return self._database.read(lambda connection: connection.execute(query).all())

    def _run(self, row: Any) -> RecordedRun:
        digests = row.chunks.split()
        header = orjson.loads(row.header)

        @lru_cache(maxsize=8)
        def cases_of(digest: str) -> list[dict[str, Any]]:
            packed = self._rows(sa.select(chunks.c.cases).where(chunks.c.digest == digest))[0].cases
            return [orjson.loads(line) for line in zlib.decompress(packed).splitlines()]

        def entries() -> Iterator[tuple[str, Any]]:
            for digest in digests:
                yield from ((f"run {row.run_id}", case) for case in cases_of(digest))

        def entry(index: int) -> dict[str, Any]:
            return cases_of(digests[index // CHUNK_CASES])[index % CHUNK_CASES]

        return build_run(header, entries(), f"run {row.run_id}", entry)


def _with_spending(header: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What both executions asked of the judge and computed; no price where one of them has none."""

    def both(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one + other

    return {
        "usage": {name: both(value, before["usage"][name]) for name, value in header["usage"].items()},
        "total_tokens": header["total_tokens"] + before["total_tokens"],
        "total_cost_usd": both(header["total_cost_usd"], before["total_cost_usd"]),
        "cache": {**header["cache"], "misses": header["cache"]["misses"] + before["cache"]["misses"]},
    }


def _chunked(entries: Iterable[Any]) -> Iterator[bytes]:
    remaining = iter(entries)
    while some := list(islice(remaining, CHUNK_CASES)):
        yield b"".join(json.dumps(case, allow_nan=False).encode() + b"\n" for case in some)  # ASCII: any text has its line


def _point(header: dict[str, Any]) -> TrendPoint:
    interval = header["pass_rate_interval"]
    return TrendPoint(
        run_id=header["run_id"],
        snapshot=header["snapshot"],
        finished_at=header["finished_at"],
        judge=header["model_name"],
        pass_rate=header["pass_rate"],
        interval=(interval[0], interval[1]) if interval else None,
        coverage=header["coverage"],
        cases=header["total_test_cases"],
        cost_usd=header["total_cost_usd"],
        means={name: header[f"avg_{name}"] for name in header["metrics_evaluated"]},
    )
