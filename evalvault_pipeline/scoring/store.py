"""What is scored is never computed, or paid, again: one row per case content, metric version, judge and repeat.

Only measured values are kept; a failure is tried again by the next run. A case that a process is judging is claimed by it, so
that another one waits for its scores. SQLite by default, Postgres by URL, same code.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa

from evalvault_pipeline.scoring.database import Database, Schema

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
    sa.Column("judge_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("embedding_tokens", sa.Integer, nullable=False, server_default="0"),
)
claims = sa.Table(
    "claims",
    _metadata,
    sa.Column("case_digest", sa.String(64), primary_key=True),
    sa.Column("judge", sa.String(128), primary_key=True),
    sa.Column("owner", sa.String(160), nullable=False, doc="host:process:run"),
    sa.Column("renewed_at", sa.Double, nullable=False, doc="seconds since 1970"),
)
judge_calls = sa.Table(
    "judge_calls",
    _metadata,
    sa.Column("owner", sa.String(160), primary_key=True, doc="host:process:run"),
    sa.Column("judge", sa.String(200), nullable=False, doc="provider/model"),
    sa.Column("outcomes", sa.Text, nullable=False, doc="JSON object: answered, or why not -> calls that were sent"),
    sa.Column("in_flight", sa.Integer, nullable=False),
    sa.Column("in_flight_limit", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False, doc="seconds since 1970"),
)
SCHEMA = Schema(part="scores", tables=_metadata)
_LOOKUP_CHUNK = 500
_READ_NAMES = (
    "value",
    "seconds",
    "judge_calls",
    "prompt_tokens",
    "completion_tokens",
    "embedding_tokens",
    "cost_usd",
    "scored_at",
)
_READ = [scores.c.case_digest, scores.c.metric, scores.c.evidence, *(scores.c[name] for name in _READ_NAMES)]
CLAIM_SECONDS = 60.0
ScoredBy = tuple[str, str]  # (metric version, fingerprint of the judge; empty for a deterministic metric)


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
    judge_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost_usd: float | None = None
    scored_at: str = field(default="", compare=False)


class ScoreStore:
    """The score store at a URL; its tables are made where they are missing. A server that is restarted is waited for.

    Raises ScoreStoreUnavailable, InvalidSetting.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, SCHEMA)

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def find(
        self, digests: Iterable[str], *, metrics: Mapping[str, ScoredBy], repeat: int = 0
    ) -> dict[tuple[str, str], StoredScore]:
        """(case digest, metric) -> score, for `metrics` (name -> (version, judge)), where it is there."""
        if not metrics:
            return {}
        wanted = list(dict.fromkeys(digests))

        def look_up(connection: sa.Connection) -> dict[tuple[str, str], StoredScore]:
            found: dict[tuple[str, str], StoredScore] = {}
            for start in range(0, len(wanted), _LOOKUP_CHUNK):
                query = sa.select(*_READ).where(_are(wanted[start : start + _LOOKUP_CHUNK], metrics, repeat))
                for digest, metric, evidence, *values in connection.execute(query):
                    row = dict(zip(_READ_NAMES, values, strict=True))
                    found[digest, metric] = StoredScore(evidence=json.loads(evidence), **row)
            return found

        return self._database.read(look_up)

    def note_calls(self, owner: str, judge: str, outcomes: Mapping[str, int], *, in_flight: int, limit: int) -> None:
        """Keep what became of the calls that a run has sent so far, and how many it sends at once."""
        row = {
            "owner": owner,
            "judge": judge,
            "outcomes": to_json(dict(outcomes)),
            "in_flight": in_flight,
            "in_flight_limit": limit,
            "updated_at": time.time(),
        }
        insert = self._database.dialect.insert(judge_calls)
        values = {name: insert.excluded[name] for name in row if name != "owner"}
        counted = insert.on_conflict_do_update(index_elements=["owner"], set_=values)
        self._database.write(lambda connection: connection.execute(counted, row))

    def call_counts(self) -> list[Any]:
        """The rows of `judge_calls`, one for each run that asked a judge; `outcomes` is a mapping."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(judge_calls)).mappings().all()
        return [{**row, "outcomes": json.loads(row["outcomes"])} for row in rows]

    def save(
        self,
        rows: Sequence[tuple[ScoreKey, StoredScore]],
        *,
        done: Sequence[tuple[str, str]] = (),
        owner: str = "",
        older_than: str = "",
    ) -> None:
        """Keep these scores, in one transaction with the end of the `owner`'s claims on the `done` (case digest, judge).

        The first writer of a key wins: two processes do not overwrite each other.

        Only a score that is `older_than` this time gives way.
        """
        if not rows and not done:
            return
        now = timestamp()
        values = [
            {
                **vars(key),
                "value": score.value,
                "evidence": to_json(score.evidence),
                "seconds": score.seconds,
                "judge_calls": score.judge_calls,
                "prompt_tokens": score.prompt_tokens,
                "completion_tokens": score.completion_tokens,
                "embedding_tokens": score.embedding_tokens,
                "cost_usd": score.cost_usd,
                "scored_at": now,
            }
            for key, score in sorted(rows, key=lambda row: astuple(row[0]))  # one order for all: else Postgres may deadlock
        ]

        def keep(connection: sa.Connection) -> None:
            if values:
                connection.execute(_insert(self._database.dialect, older_than), values)
            for start in range(0, len(done), _LOOKUP_CHUNK):
                mine = sa.tuple_(claims.c.case_digest, claims.c.judge).in_(list(done[start : start + _LOOKUP_CHUNK]))
                connection.execute(sa.delete(claims).where(mine, claims.c.owner == owner))

        self._database.write(keep)

    def claim(self, digests: Sequence[str], *, judge: str, owner: str) -> set[str]:
        """Those of the cases that this owner may judge now; the others are being judged by another process.

        A claim ends with `save`, when its process ends (seen on the same host), or when it was not renewed for a minute.
        """
        now = time.time()
        values = [{"case_digest": digest, "judge": judge, "owner": owner, "renewed_at": now} for digest in sorted(set(digests))]

        def take(connection: sa.Connection) -> set[str]:
            mine: set[str] = set()
            for start in range(0, len(values), _LOOKUP_CHUNK):
                chunk = values[start : start + _LOOKUP_CHUNK]
                connection.execute(self._database.dialect.insert(claims).on_conflict_do_nothing(), chunk)
                these = sa.and_(claims.c.judge == judge, claims.c.case_digest.in_([value["case_digest"] for value in chunk]))
                for digest, _, holder, renewed_at in connection.execute(sa.select(claims).where(these)).all():
                    if holder == owner:
                        mine.add(digest)
                    elif _has_ended(holder, renewed_at, now):
                        same = (claims.c.case_digest == digest, claims.c.judge == judge, claims.c.owner == holder)
                        taken = connection.execute(sa.update(claims).where(*same).values(owner=owner, renewed_at=now))
                        if taken.rowcount:
                            mine.add(digest)
            return mine

        return self._database.write(take)

    def renew(self, owner: str) -> None:
        """Say that this owner is alive."""
        mine = sa.update(claims).where(claims.c.owner == owner)
        self._database.write(lambda connection: connection.execute(mine.values(renewed_at=time.time())))

    def release(self, owner: str) -> None:
        """Give up every claim of this owner."""
        self._database.write(lambda connection: connection.execute(sa.delete(claims).where(claims.c.owner == owner)))

    def count(self) -> int:
        """How many scores are kept."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(scores)).scalar_one()

    def forget(self, digests: Iterable[str], *, metrics: Mapping[str, ScoredBy], before: str = "9") -> None:
        """Drop what `find` would find, in every repeat, and was scored `before`; other versions and judges keep theirs."""
        wanted = list(digests)
        with self._database.writing() as connection:
            for start in range(0, len(wanted), _LOOKUP_CHUNK):
                these = _are(wanted[start : start + _LOOKUP_CHUNK], metrics, None)
                connection.execute(sa.delete(scores).where(these, scores.c.scored_at < before))


def _insert(dialect: Any, older_than: str) -> sa.Insert:
    rows = dialect.insert(scores)
    if not older_than:
        return rows.on_conflict_do_nothing()  # type: ignore[no-any-return]
    keys = [column.name for column in scores.primary_key]
    values = {column.name: rows.excluded[column.name] for column in scores.columns if column.name not in keys}
    return rows.on_conflict_do_update(index_elements=keys, set_=values, where=scores.c.scored_at < older_than)  # type: ignore[no-any-return]


def _are(digests: Sequence[str], metrics: Mapping[str, ScoredBy], repeat: int | None) -> sa.ColumnElement[bool]:
    wanted = [(name, version, judge) for name, (version, judge) in metrics.items()]
    return sa.and_(
        scores.c.case_digest.in_(digests),
        sa.tuple_(scores.c.metric, scores.c.metric_version, scores.c.judge).in_(wanted),
        *(() if repeat is None else (scores.c.repeat == repeat,)),
    )


def new_owner() -> str:
    """A name for a run that claims cases: host, process, and a number of its own."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def _has_ended(owner: str, renewed_at: float, now: float) -> bool:
    host, pid, _ = owner.rsplit(":", 2)
    if host == socket.gethostname()[:100] and not is_running(int(pid)):
        return True
    return now - renewed_at > CLAIM_SECONDS


def is_running(pid: int) -> bool:
    """Whether a process of this machine is alive."""
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def to_json(value: Any) -> str:
    """Compact JSON; orjson writes it five times faster, but no lone surrogates, which a dataset may hold."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def timestamp() -> str:
    """Now in UTC, as the store writes it; the later one is the greater text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
