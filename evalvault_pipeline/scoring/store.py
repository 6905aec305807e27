"""What is scored is never computed, or paid, again: one row per case content, metric version, judge and repeat.

Only measured values are kept; a failure is tried again by the next run. SQLite by default, Postgres by URL, same code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from evalvault_pipeline.errors import InvalidSetting, ScoreStoreUnavailable

_metadata = sa.MetaData()
scores = sa.Table(
    "scores",
    _metadata,
    sa.Column("case_digest", sa.String(64), primary_key=True),
    sa.Column("metric", sa.String(64), primary_key=True),
    sa.Column("metric_version", sa.String(128), primary_key=True),
    sa.Column("judge", sa.String(128), primary_key=True, doc="fingerprint of the judge; empty for a deterministic metric"),
    sa.Column("repeat", sa.Integer, primary_key=True, doc="0, or the number of the repeat that measures judge noise"),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("cost_usd", sa.Double, nullable=True, doc="null where the model's price is unknown"),
    sa.Column("scored_at", sa.String(32), nullable=False),
)
_LOOKUP_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class ScoreKey:
    """What a value depends on."""

    case_digest: str
    metric: str
    metric_version: str
    judge: str = ""
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class StoredScore:
    """A measured value as the store keeps it."""

    value: float
    evidence: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    scored_at: str = field(default="", compare=False)


class ScoreStore:
    """The score store at a URL; its table is made where it is missing. Raises ScoreStoreUnavailable."""

    def __init__(self, url: str) -> None:
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
            _create_tables(self._engine)

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def find(
        self, digests: Iterable[str], *, metrics: Mapping[str, str], judge: str = "", repeat: int = 0
    ) -> dict[tuple[str, str], StoredScore]:
        """(case digest, metric) -> score, for `metrics` (name -> version), where it is there."""
        wanted = list(dict.fromkeys(digests))
        found: dict[tuple[str, str], StoredScore] = {}
        with self._reported(), self._engine.connect() as connection:
            for start in range(0, len(wanted), _LOOKUP_CHUNK):
                query = sa.select(scores).where(_are(wanted[start : start + _LOOKUP_CHUNK], metrics, judge, repeat))
                for row in connection.execute(query):
                    found[row.case_digest, row.metric] = StoredScore(
                        value=row.value,
                        evidence=json.loads(row.evidence),
                        seconds=row.seconds,
                        prompt_tokens=row.prompt_tokens,
                        completion_tokens=row.completion_tokens,
                        cost_usd=row.cost_usd,
                        scored_at=row.scored_at,
                    )
        return found

    def save(self, rows: Sequence[tuple[ScoreKey, StoredScore]]) -> None:
        """Keep these scores, in one transaction. The first writer of a key wins: two processes do not overwrite each other."""
        if not rows:
            return
        now = timestamp()
        values = [
            {
                **vars(key),
                "value": score.value,
                "evidence": json.dumps(score.evidence, ensure_ascii=False, separators=(",", ":")),
                "seconds": score.seconds,
                "prompt_tokens": score.prompt_tokens,
                "completion_tokens": score.completion_tokens,
                "cost_usd": score.cost_usd,
                "scored_at": now,
            }
            for key, score in rows
        ]
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        with self._reported(), self._engine.begin() as connection:
            connection.execute(dialect.insert(scores).on_conflict_do_nothing(), values)

    def count(self) -> int:
        """How many scores are kept."""
        with self._reported(), self._engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(scores)).scalar_one()

    def forget(self, digests: Iterable[str], *, metrics: Mapping[str, str], judge: str = "", repeat: int = 0) -> None:
        """Drop what `find` would find, so that it is scored again; other versions and judges keep theirs."""
        wanted = list(digests)
        with self._reported(), self._engine.begin() as connection:
            for start in range(0, len(wanted), _LOOKUP_CHUNK):
                connection.execute(sa.delete(scores).where(_are(wanted[start : start + _LOOKUP_CHUNK], metrics, judge, repeat)))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise ScoreStoreUnavailable(
                f"The score store {self._shown} does not answer: {cause}. Check EVALVAULT_STORE_URL and the server or folder."
            ) from None


def _are(digests: Sequence[str], metrics: Mapping[str, str], judge: str, repeat: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        scores.c.case_digest.in_(digests),
        sa.tuple_(scores.c.metric, scores.c.metric_version).in_(list(metrics.items())),
        scores.c.judge == judge,
        scores.c.repeat == repeat,
    )


def shown_url(url: str) -> str:
    """The URL without password and query, either of which may hold a secret."""
    return sa.make_url(url).set(query={}).render_as_string(hide_password=True)


def timestamp() -> str:
    """Now in UTC, as the store writes it; the later one is the greater text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")  # what dagster-postgres brings; SQLAlchemy 2.1 takes psycopg 3
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


def _create_tables(engine: sa.Engine) -> None:
    try:
        _metadata.create_all(engine)
    except SQLAlchemyError:
        _metadata.create_all(engine)  # another process made them between the look and the making
