"""`evalvault status|usage|alert|serve-metrics` as a user runs them."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from evalvault_pipeline.cli_watching import _since
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.reporting.incidents import Board, Notice, Reported, Rules
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.doubles.receivers import Receiver
from evalvault_pipeline_tests.stack import UserProject, free_port, wait_for


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> UserProject:
    """A project whose Korean dataset was scored twice, and alerts."""
    user = UserProject(tmp_path_factory.mktemp("user") / "project")
    for week in ("2026w45", "2026w46"):
        user.run("evalvault", "run", f"data/datasets/insurance_qa/{week}.json", check=False)

    def change(board: Board) -> list[Notice]:
        values = {"pass_rate": 0.5, "low": 0.4, "high": 0.6, "coverage": 1.0, "threshold": 0.8, "min_coverage": 0.95}
        board.apply(
            Reported(id="1", dataset="insurance_qa", snapshot="2026w46", run_id="r", at=time.time(), evidence="e", **values)
        )
        return board.tell(time.time(), Rules())

    with AlertBook(f"sqlite:///{user.folder}/data/results/scores.sqlite") as book:
        book.change(change, channels=["webhook"])
    return user


def test_status_is_one_screen_with_what_to_do(user: UserProject) -> None:
    shown = user.run("evalvault", "status").stdout
    assert "insurance_qa" in shown
    assert "2026w46" in shown
    assert "firing (pass_rate)" in shown
    assert "insurance_qa-quality-1" in shown
    assert "evalvault explain" in shown
    assert "undelivered: insurance_qa-quality-1.1/webhook" in shown
    assert "never" in shown, "the English dataset was never scored"
    assert "evalvault backfill" in shown
    assert any(bar in shown for bar in "▁▂▃▄▅▆▇█")


def test_status_of_a_fresh_project_says_what_to_do_first(tmp_path: Path) -> None:
    shown = UserProject(tmp_path / "project").run("evalvault", "status").stdout
    assert shown.count("never") == 2


def test_a_named_store_that_was_not_there_is_no_quiet_emptiness(user: UserProject, tmp_path: Path) -> None:
    mistyped = {"EVALVAULT_STORE_URL": f"sqlite:///{tmp_path}/mistyped.sqlite"}
    said = f"there was no score store {tmp_path}/mistyped.sqlite: this one is new and empty"
    assert said in user.run("evalvault", "status", **mistyped).stderr
    assert said not in user.run("evalvault", "usage", **mistyped).stderr, "it is there now"
    assert user.run("evalvault", "status").stderr == ""


@pytest.mark.parametrize("by", ["run", "day", "dataset", "judge"])
def test_usage_has_a_line_for_each_and_a_total(user: UserProject, by: str) -> None:
    shown = user.run("evalvault", "usage", "--since", "7d", "--by", by).stdout
    assert "total" in shown
    assert {"run": "2026w46", "day": "20", "dataset": "insurance_qa", "judge": "none"}[by] in shown
    assert "0.0000 USD" in shown


def test_usage_since_a_day_to_come_is_nothing(user: UserProject) -> None:
    assert "insurance_qa" not in user.run("evalvault", "usage", "--since", "2999-01-01", "--by", "dataset").stdout


@pytest.mark.parametrize("since", ["yesterday", "7", "d7", "7y"])
def test_a_span_that_cannot_be_read_is_refused(user: UserProject, since: str) -> None:
    done = user.run("evalvault", "usage", "--since", since, check=False)
    assert (done.returncode, "no span of time" in done.stderr) == (2, True)


def test_usage_of_a_dataset_that_nobody_knows_is_refused_with_those_that_are_known(user: UserProject) -> None:
    done = user.run("evalvault", "usage", "--dataset", "nope", check=False)
    assert (done.returncode, "Known: insurance_qa, insurance_qa_en." in done.stderr) == (2, True), done.stderr
    assert "total" in user.run("evalvault", "usage", "--dataset", "insurance_qa_en").stdout, "declared, and never run"


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("2026-11-29T10:00+00:00", "2026-11-29T10:00:00+00:00"),
        ("2026-11-29T10:00Z", "2026-11-29T10:00:00+00:00"),
        ("2026-11-29T10:00", "2026-11-29T10:00:00+09:00"),
        ("2026-11-29", "2026-11-29T00:00:00+09:00"),
    ],
)
def test_an_offset_that_is_given_is_kept(text: str, since: str, settings: Settings) -> None:
    assert _since(text, settings) == datetime.fromisoformat(since)


def test_a_mute_of_more_than_a_year_is_refused(user: UserProject) -> None:
    done = user.run("evalvault", "alert", "mute", "insurance_qa_en", "--for", "99999w", check=False)
    assert (done.returncode, "more than 366 days" in done.stderr) == (2, True), done.stderr
    assert "insurance_qa_en" not in user.run("evalvault", "alert", "list").stdout


def test_an_incident_is_listed_acknowledged_and_muted(user: UserProject) -> None:
    assert "insurance_qa-quality-1: pass_rate in insurance_qa, open" in user.run("evalvault", "alert", "list").stdout
    user.run("evalvault", "alert", "ack", "insurance_qa-quality-1", "--by", "kim")
    assert "acknowledged by kim" in user.run("evalvault", "status").stdout
    assert "muted until" in user.run("evalvault", "alert", "mute", "insurance_qa", "--for", "2h").stdout
    assert "muted: insurance_qa" in user.run("evalvault", "alert", "list").stdout
    assert "muted" in user.run("evalvault", "status").stdout
    assert "not muted" in user.run("evalvault", "alert", "mute", "insurance_qa", "--for", "0m").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ack", "nobody-1"), "Open: insurance_qa-quality-1"),
        (("mute", "insurance"), "Did you mean `insurance_qa`?"),
        (("test",), "No alert channel is set up"),
    ],
)
def test_what_does_not_exist_is_refused_with_a_way_out(user: UserProject, arguments: tuple[str, ...], said: str) -> None:
    done = user.run("evalvault", "alert", *arguments, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_sample_goes_to_every_channel_and_the_exit_code_says_which_failed(user: UserProject) -> None:
    with Receiver() as receiver:
        both = {"SLACK_WEBHOOK_URL": f"{receiver.url}/webhook/canary", "EVALVAULT_ALERT_WEBHOOK_URL": f"{receiver.url}/hook"}
        done = user.run("evalvault", "alert", "test", **both)
        assert done.stdout.splitlines() == ["slack-webhook: sent", "webhook: sent"]
        assert len(receiver.messages) == 2
    done = user.run("evalvault", "alert", "test", check=False, **both)
    assert done.returncode == 3
    assert "canary" not in done.stdout + done.stderr


@pytest.fixture
def served(user: UserProject) -> Iterator[str]:
    port = free_port()
    server = user.start("evalvault", "serve-metrics", "--port", str(port))
    yield f"http://127.0.0.1:{port}/metrics"
    server.terminate()
    server.wait(timeout=60)


def test_serve_metrics_serves_what_was_scored(served: str) -> None:
    def text() -> str:
        try:
            with urllib.request.urlopen(served, timeout=10) as answer:
                found: str = answer.read().decode()
                return found
        except OSError:
            return ""

    shown = wait_for(text, seconds=120)
    assert 'evalvault_evaluations_total{dataset="insurance_qa",metric="chrf"} 2.0' in shown
    assert 'evalvault_alert_state{dataset="insurance_qa",state="firing"} 1.0' in shown


def test_a_run_keeps_its_log_beside_its_results(user: UserProject) -> None:
    text = (user.folder / "data" / "results" / "logs" / "evalvault.log").read_text(encoding="utf-8")
    assert " - evalvault_pipeline.evaluate - INFO - batch 1 of " in text
    assert "dataset=insurance_qa" in text
    assert "run=" in text
