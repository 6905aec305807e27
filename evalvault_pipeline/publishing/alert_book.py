"""The states, the incidents and what is still to be told, in the database of the score store.

A change of the board and the notices that it makes are one transaction, so that a process killed anywhere loses no notice;
each notice is delivered to each channel, and told again until that channel took it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from evalvault_pipeline.errors import ScoreStoreUnavailable
from evalvault_pipeline.reporting.incidents import Board, Kind, Notice
from evalvault_pipeline.scoring.database import Database, Schema

ATTEMPTS = 20
LEASE_SECONDS = 300.0  # a delivery that was begun is not begun by another for so long: no channel takes longer
GIVE_UP_SECONDS = 3 * 86400.0
NO_THREADS = frozenset({"slack-webhook", "email", "webhook"})

_metadata = sa.MetaData()
boards = sa.Table(
    "alert_board",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)
deliveries = sa.Table(
    "alert_deliveries",
    _metadata,
    sa.Column("notice", sa.String(200), primary_key=True),
    sa.Column("channel", sa.String(40), primary_key=True),
    sa.Column("incident", sa.String(200), nullable=False, index=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("claimed_until", sa.Float, nullable=False, server_default="0"),
    sa.Column("delivered_at", sa.Float, nullable=True),
    sa.Column("reference", sa.String(200), nullable=True, doc="of the message, in channels that have threads"),
    sa.Column("error", sa.Text, nullable=True),
)
SCHEMA = Schema(part="alerts", tables=_metadata)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A notice on its way to one channel. `thread` is the message that opened its incident there."""

    notice: Notice
    channel: str
    created_at: float
    thread: str | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        return f"{self.notice.id}/{self.channel}"


class AlertBook:
    """Of the database at a URL. Raises ScoreStoreUnavailable, InvalidSetting."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, SCHEMA)

    def __enter__(self) -> AlertBook:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def board(self) -> Board:
        return Board(self._content()[1])

    def change(self, change: Callable[[Board], Iterable[Notice]], *, channels: Iterable[str] = ()) -> list[Notice]:
        """Change the board; the notices that `change` gives back are to be delivered to these channels.

        It may be called again where another process changed the board meanwhile.
        """
        names = list(channels)
        for _ in range(ATTEMPTS):
            version, content = self._content()
            board = Board(content)
            notices = list(change(board))
            if self._saved(version, board, notices, names):
                return notices
        raise ScoreStoreUnavailable("The alert states change all the time. Is more than one daemon running?")

    def add(self, notice: Notice, channels: Iterable[str]) -> None:
        """Let a notice that belongs to no incident be delivered; one of the same id that is there stays as it is."""
        insert = self._database.dialect.insert(deliveries).on_conflict_do_nothing()
        with self._database.writing() as connection:
            for channel in channels:
                connection.execute(insert, _row(notice, channel))

    def pending(self, now: float) -> list[Delivery]:
        """What is not delivered yet, the oldest first; given up after three days."""
        query = sa.select(deliveries).where(
            deliveries.c.delivered_at.is_(None), deliveries.c.created_at > now - GIVE_UP_SECONDS
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(deliveries.c.created_at, deliveries.c.notice)).all()
        return [self._delivery(row) for row in rows]

    def claim(self, notice: str, channel: str, now: float) -> Delivery | None:
        """Take a delivery in hand; None where it is delivered, or another process has it in hand."""
        mine = sa.and_(deliveries.c.notice == notice, deliveries.c.channel == channel)
        free = sa.and_(mine, deliveries.c.delivered_at.is_(None), deliveries.c.claimed_until <= now)
        with self._database.writing() as connection:
            taken = connection.execute(sa.update(deliveries).where(free).values(claimed_until=now + LEASE_SECONDS))
            if not taken.rowcount:
                return None
            row = connection.execute(sa.select(deliveries).where(mine)).one()
            thread = connection.execute(
                sa.select(deliveries.c.reference)
                .where(
                    deliveries.c.incident == row.incident,
                    deliveries.c.channel == channel,
                    deliveries.c.reference.is_not(None),
                )
                .order_by(deliveries.c.delivered_at)
                .limit(1)
            ).scalar()
        return self._delivery(row, thread)

    def delivered(self, delivery: Delivery, at: float, reference: str | None = None) -> None:
        self._update(delivery, delivered_at=at, reference=reference, error=None)

    def failed(self, delivery: Delivery, error: str) -> None:
        """Let it be tried again."""
        self._update(delivery, claimed_until=0.0, error=error[:500])

    def _update(self, delivery: Delivery, **values: Any) -> None:
        mine = (deliveries.c.notice == delivery.notice.id, deliveries.c.channel == delivery.channel)
        with self._database.writing() as connection:
            connection.execute(sa.update(deliveries).where(*mine).values(**values))

    def _content(self) -> tuple[int, dict[str, Any] | None]:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(boards).where(boards.c.id == 1)).one_or_none()
        return (row.version, json.loads(row.content)) if row else (0, None)

    def _saved(self, version: int, board: Board, notices: list[Notice], channels: list[str]) -> bool:
        values = {"id": 1, "version": version + 1, "content": json.dumps(board.content(), ensure_ascii=False)}
        with self._database.writing() as connection:
            if version:
                mine = sa.and_(boards.c.id == 1, boards.c.version == version)
                done = connection.execute(sa.update(boards).where(mine).values(**values))
            else:
                done = connection.execute(self._database.dialect.insert(boards).on_conflict_do_nothing(), values)
            if done.rowcount != 1:
                return False
            for row in (_row(notice, channel) for notice in notices for channel in channels if _wanted(notice, channel)):
                connection.execute(sa.insert(deliveries), row)
        return True

    def _delivery(self, row: Any, thread: str | None = None) -> Delivery:
        notice = Notice.of(json.loads(row.content))
        return Delivery(notice=notice, channel=row.channel, created_at=row.created_at, thread=thread, error=row.error)


def _wanted(notice: Notice, channel: str) -> bool:
    return not (notice.kind is Kind.UPDATED and channel in NO_THREADS)


def _row(notice: Notice, channel: str) -> dict[str, Any]:
    content = json.dumps(notice.content(), ensure_ascii=False)
    return {
        "notice": notice.id,
        "channel": channel,
        "incident": notice.incident,
        "content": content,
        "created_at": notice.at,
        "claimed_until": 0.0,
    }
