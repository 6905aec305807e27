"""Dagster's real daemon, ended by SIGKILL between report, decision, delivery and cursor: no alert is lost, at most one repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline_tests.doubles.receivers import HANG, Receiver
from evalvault_pipeline_tests.stack import DagsterDev, UserProject, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.long]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(hang_seconds=60.0) as found:
        yield found


def asked(user: UserProject, query: str, *values: Any) -> list[Any]:
    """Rows of the score store; none while its tables are not made yet."""
    file = user.folder / "data" / "results" / "scores.sqlite"
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            found = connection.execute(query, values).fetchall()
            connection.commit()
            return found
    except sqlite3.OperationalError:
        return []


def kill(stack: DagsterDev) -> None:
    """Everything of the stack at once, as a machine that loses its power."""
    os.killpg(stack.process_id, signal.SIGKILL)
    stack.forget()


def opened(receiver: Receiver) -> list[str]:
    return [message["text"] for message in receiver.messages if message["text"].startswith("[경보]")]


def test_a_daemon_that_is_killed_anywhere_loses_no_alert(tmp_path: Path, receiver: Receiver) -> None:
    user = UserProject(
        tmp_path / "project",
        SLACK_BOT_TOKEN="xoxb-canary-000000000000",
        SLACK_CHANNEL="C1",
        SLACK_API_URL=f"{receiver.url}/api",
    )
    snapshots = user.folder / "data" / "datasets" / "insurance_qa"
    later = {name: (snapshots / name).read_bytes() for name in ("2026w46.json", "2026w47.json")}
    for name in later:
        (snapshots / name).unlink()
    user.run("evalvault", "backfill", "insurance_qa", "--from", "2026w45", check=False)
    stack = DagsterDev(user)
    try:
        wait_for(lambda: asked(user, "SELECT content FROM alert_board WHERE content LIKE '%2026w45%'"), seconds=120)
        # 1. After the report, before the sensor saw it.
        kill(stack)
        (snapshots / "2026w46.json").write_bytes(later["2026w46.json"])
        user.run("evalvault", "backfill", "insurance_qa", "--from", "2026w46", check=False)
        assert asked(user, "SELECT notice FROM alert_deliveries") == []
        stack = DagsterDev(user)
        # 2. After the decision, before the delivery.
        wait_for(lambda: asked(user, "SELECT notice FROM alert_deliveries"), seconds=120)
        receiver.faults.append(HANG)
        kill(stack)
        before = len(receiver.messages)
        stack = DagsterDev(user)
        # 3. While Slack has the message in hand, or has just taken it.
        wait_for(lambda: receiver.requests, seconds=120)
        kill(stack)
        asked(user, "UPDATE alert_deliveries SET created_at = created_at - 600, claimed_until = 0")  # ten minutes later
        stack = DagsterDev(user)
        wait_for(lambda: asked(user, "SELECT 1 FROM alert_deliveries WHERE delivered_at IS NOT NULL"), seconds=120)
        assert before <= 1
        assert 1 <= len(opened(receiver)) <= 2, "one, and at most one repeated"
    finally:
        stack.stop()
    assert "canary" not in str([message for _, message, _ in receiver.requests])
