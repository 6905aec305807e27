"""From what Dagster saw to what the channels got: the sensor, its cursor, the alert book and the alert job."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline.defs import alerts
from evalvault_pipeline.defs.alerts import ROUND_SECONDS, backup_age_hours, evaluations_under_way
from evalvault_pipeline.defs.fencing import WITHIN_TAG
from evalvault_pipeline.defs.in_process_runs import PROCESS_TAG
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.reporting.incidents import Board, Kind, State
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline_tests.defs.conftest import CATALOG, Project, cases_of
from evalvault_pipeline_tests.doubles.receivers import Receiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as found:
        monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary-0000000000")
        monkeypatch.setenv("SLACK_CHANNEL", "C1")
        monkeypatch.setenv("SLACK_API_URL", f"{found.url}/api")
        yield found


@pytest.fixture
def project(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> Project:
    """Its snapshots are one batch each: alerts look at reports."""
    return Project(tmp_path, settings, instance, CATALOG.replace("batch_size = 2", "batch_size = 30"))


class Watched:
    """A project whose sensor and alert job are run by hand."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.cursor = project, None
        monkeypatch.setenv("EVALVAULT_RESULTS_DIR", str(project.settings.results_dir))
        monkeypatch.setenv("EVALVAULT_BASELINES_DIR", str(project.settings.baselines_dir))
        monkeypatch.setenv("EVALVAULT_CATALOG", str(project.folder / "catalog.toml"))
        self.keys: set[str] = set()

    @property
    def board(self) -> Board:
        with AlertBook(self.project.settings.score_store_url) as book:
            return book.board()

    def score(self, snapshot: str, *, bad: int, of: int = 30, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
        self.project.write(snapshot, cases_of(of, bad=bad))
        keys = self.project.register(snapshot)
        ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return self.project.run({**ends, **(tags or {})})

    def tick(self, *, keep_cursor: bool = True, deliver: bool = True) -> list[str]:
        """One tick; the run keys that were not asked for before, whose runs are done. Without its cursor kept: it was killed."""
        repository = self.project.definitions.get_repository_def()
        sensor = repository.get_sensor_def("pass_rate_alert_sensor")
        context = dg.build_sensor_context(instance=self.project.instance, repository_def=repository, cursor=self.cursor)
        result = sensor.evaluate_tick(context)
        if keep_cursor:
            self.cursor = result.cursor
        new = [request for request in result.run_requests or [] if request.run_key not in self.keys]
        for request in new if deliver else []:
            self.keys.add(str(request.run_key))
            self.deliver(request)
        return [str(request.run_key) for request in new]

    def deliver(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.project.definitions.resolve_job_def("alert_job")
        return job.execute_in_process(instance=self.project.instance, run_config=dict(request.run_config), raise_on_error=False)


@pytest.fixture
def watched(project: Project, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(project, monkeypatch)


def test_a_bad_snapshot_alerts_with_its_figures_cases_and_links(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALVAULT_DAGSTER_URL", "http://127.0.0.1:3000")
    watched.score("w1", bad=0)
    watched.tick()
    assert receiver.messages == []
    run = watched.score("w2", bad=20)
    assert len(watched.tick()) == 1
    (text,) = receiver.texts
    assert "demo" in text
    assert "w2" in text
    assert "33.3 %" in text
    assert "exact_match 1.000 → 0.333" in text
    assert "w1" in text
    assert text.count("What is the limit of plan") == 3, "three newly failing cases"
    assert f"http://127.0.0.1:3000/runs/{run.run_id}" in text
    assert "report.html" in text
    assert watched.board.datasets["demo"].state is State.FIRING
    assert watched.tick() == []
    watched.score("w3", bad=0)
    watched.tick()
    assert receiver.messages[-1]["thread_ts"] == "1700000000.000001"
    assert "Recovered" in receiver.texts[-1]
    assert len(receiver.messages) == 2


def test_every_report_counts_also_where_several_came_between_two_ticks(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    watched.score("w2", bad=20)
    watched.score("w3", bad=0)
    watched.score("w4", bad=20)
    watched.tick()
    board = watched.board
    assert [incident.closed_at is None for incident in board.incidents.values()] == [False, True]


def test_what_a_killed_tick_had_decided_is_told_once(watched: Watched, receiver: Receiver) -> None:
    """The decision is kept before the cursor is: the next tick reads the events again, and decides nothing twice."""
    watched.score("w1", bad=0)
    watched.tick()
    watched.score("w2", bad=20)
    first = watched.tick(keep_cursor=False, deliver=False)
    again = watched.tick(keep_cursor=False, deliver=False)
    assert first == again
    assert len(first) == 1
    watched.tick()
    watched.tick()
    assert len(receiver.messages) == 1


def test_an_instance_that_begins_anew_keeps_the_states(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=20)
    watched.tick()
    watched.cursor = None
    watched.tick()
    assert len(receiver.messages) == 1


def test_a_channel_that_is_down_gets_the_message_when_it_is_back(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(alerts, "RETRY_SECONDS", 0.01)
    receiver.faults = [500] * 100
    evaluated = watched.score("w1", bad=20)
    watched.tick()
    assert receiver.messages == []
    assert watched.tick() == [], "its run is not asked for a second time at once"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * ROUND_SECONDS + 1)
    receiver.faults = []
    assert len(watched.tick()) == 1
    assert len(receiver.messages) == 1
    assert evaluated.run_id


def test_a_delivery_that_another_process_has_in_hand_is_not_sent_twice(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=20)
    with AlertBook(watched.project.settings.score_store_url) as book:
        (key,) = watched.tick(deliver=False)
        notice = key.split("/")[0]
        assert book.claim(notice, "slack-bot", time.time()) is not None
        assert book.claim(notice, "slack-bot", time.time()) is None
        assert book.claim(notice, "slack-bot", time.time() + 3600) is not None, "who had it in hand was killed"


def test_a_run_that_fails_without_a_report_alerts_with_what_it_said(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    watched.project.write("w2", cases_of(4))
    watched.project.register("w2")
    (watched.project.folder / "datasets" / "demo" / "w2.json").write_text("{", encoding="utf-8")
    watched.project.run({"dagster/partition": "w2/0001"})
    watched.tick()
    (text,) = receiver.texts
    assert "the run failed" in text
    assert "w2.json" in text
    assert watched.board.datasets["demo"].state is State.NO_DATA


def test_a_run_whose_verdict_is_a_fail_is_no_failed_run(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    assert not watched.score("w2", bad=29).success
    watched.tick()
    assert watched.board.open_incidents[0].causes == ["pass_rate"]


def test_a_retry_of_a_run_that_has_alerted_says_it_no_second_time(watched: Watched, receiver: Receiver) -> None:
    """It reports the same under the same id: no message, and no update of the one that there is."""
    watched.score("w1", bad=0)
    watched.tick()
    run = watched.score("w2", bad=20)
    watched.tick()
    assert len(receiver.messages) == 1
    watched.project.retry(run.run_id, whole=True)
    watched.project.retry(run.run_id)
    assert watched.tick() == []
    assert len(receiver.messages) == 1


def test_a_backfill_of_old_snapshots_alerts_nobody(watched: Watched, receiver: Receiver) -> None:
    watched.project.write("w9", cases_of(30))
    watched.score("w1", bad=25, tags={"dagster/backfill": "b1"})
    watched.tick()
    watched.score("w9", bad=0)
    watched.tick()
    assert receiver.messages == []


def test_a_report_waits_for_the_verdict_of_its_run(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    run = watched.project.instance.create_run_for_job(
        watched.project.definitions.resolve_job_def("demo_evaluation_job"), status=dg.DagsterRunStatus.STARTED
    )
    metadata: dict[str, Any] = {
        **{"snapshot": "w2", "cases": 30, "failed_cases": 20, "unmeasured_cases": 0, "coverage": 1.0},
        "missing_batches": "none",
    }
    event = dg.AssetMaterialization(["demo", "report"], metadata=metadata)
    stored = dg.DagsterEvent(
        event_type_value="ASSET_MATERIALIZATION",
        job_name="demo_evaluation_job",
        event_specific_data=_materialized(event),
    )
    watched.project.instance.report_dagster_event(stored, run.run_id)
    watched.tick()
    assert watched.board.open_incidents == []
    watched.project.instance.report_run_failed(run)
    watched.tick()
    assert "pass_rate" in [cause for one in watched.board.open_incidents for cause in one.causes]


def _materialized(event: dg.AssetMaterialization) -> Any:
    from dagster._core.events import StepMaterializationData

    return StepMaterializationData(event, [])


def test_a_threshold_of_the_catalog_comes_first(watched: Watched, receiver: Receiver) -> None:
    catalog = watched.project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text(encoding="utf-8") + "alert_pass_rate = 0.1\n", encoding="utf-8")
    watched.score("w1", bad=20)
    watched.tick()
    assert receiver.messages == []


def test_a_channel_without_its_address_silences_no_other(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://127.0.0.1:9")
    watched.score("w1", bad=20)
    assert len(watched.tick()) == 1
    assert len(receiver.messages) == 1


def test_without_a_channel_the_states_are_kept_and_what_is_open_is_told_when_there_is_one(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary-0000000000")  # a channel set up by half
    watched.score("w1", bad=20)
    assert watched.tick() == []
    assert watched.board.datasets["demo"].state is State.FIRING
    assert [one.told_at for one in watched.board.open_incidents] == [None]
    with Receiver() as receiver:
        monkeypatch.setenv("SLACK_CHANNEL", "C1")
        monkeypatch.setenv("SLACK_API_URL", f"{receiver.url}/api")
        assert len(watched.tick()) == 1
        assert "33.3 %" in receiver.texts[0]


def test_what_came_and_went_without_a_channel_is_not_told_to_be_over(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.score("w1", bad=20)
    watched.tick()
    watched.score("w2", bad=0)
    with Receiver() as receiver:
        monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary-0000000000")
        monkeypatch.setenv("SLACK_CHANNEL", "C1")
        monkeypatch.setenv("SLACK_API_URL", f"{receiver.url}/api")
        assert watched.tick() == [] and receiver.messages == []


def test_an_alert_names_failing_cases_where_no_case_is_that_of_the_run_before(watched: Watched, receiver: Receiver) -> None:
    """A fresh sample each week cannot be compared case by case."""
    watched.score("w1", bad=0)
    watched.tick()
    fresh = [{**case, "id": f"fresh-{case['id']}"} for case in cases_of(30, bad=20)]
    watched.project.write("w2", fresh)
    keys = watched.project.register("w2")
    watched.project.run({"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]})
    watched.tick()
    (text,) = receiver.texts
    assert "Failing cases" in text and text.count("fresh-") == 3
    assert "against" not in text


def test_an_alert_that_a_second_run_confirms_is_held_against_the_last_good_run(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    watched.score("w2", bad=8)
    watched.tick()
    assert watched.board.datasets["demo"].state is State.WARNING and receiver.messages == []
    watched.score("w3", bad=9)
    watched.tick()
    (text,) = receiver.texts
    assert "exact_match 1.000 → 0.700" in text and "against: w1" in text
    assert text.count("What is the limit of plan") == 3


def test_the_age_of_the_newest_backup_is_that_of_its_data_and_half_ones_do_not_count(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
    assert backup_age_hours(tmp_path / "none", noon) is None
    for name in (".partial-x", "evalvault-20261124T100000Z.zip.copying", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "evalvault-20261124T110000Z.zip").mkdir()
    assert backup_age_hours(tmp_path, noon) is None
    for name in ("evalvault-20261123T020000Z.zip", "evalvault-20261124T020000Z.zip"):
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / "evalvault-20261123T020000Z.zip", (noon, noon))
    assert backup_age_hours(tmp_path, noon) == 10.0, "a copied file is no newer backup"


def test_no_secret_and_no_person_is_in_what_was_sent_or_kept(watched: Watched, receiver: Receiver) -> None:
    cases = cases_of(30, bad=30)
    for case in cases:
        case["question"] += " 010-1234-5678로 hong@example.invalid"
    watched.project.write("w1", cases)
    keys = watched.project.register("w1")
    watched.project.run({"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]})
    watched.tick()
    assert "010-1234" not in str(receiver.requests)
    assert "hong@" not in str(receiver.requests)
    database = Path(watched.project.settings.score_store_url.removeprefix("sqlite:///")).read_bytes()
    assert b"canary" not in database


def test_the_run_that_only_writes_the_report_again_has_paid_nothing(watched: Watched) -> None:
    """What another run scored is reused: a day's usage must not count it twice."""
    watched.score("w1", bad=0)
    first = watched.project.report("w1")
    assert first["cache"]["misses"] == 60
    job = watched.project.definitions.resolve_job_def("demo_evaluation_job")
    again = job.get_subset(asset_selection={dg.AssetKey(["demo", "report"])})
    again.execute_in_process(instance=watched.project.instance)
    second = watched.project.report("w1")
    assert (second["cache"]["misses"], second["cache"]["hits"]) == (0, 60)
    assert second["run_id"] != first["run_id"]


def test_the_digest_sums_up_the_day(watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.score("w1", bad=20)
    done = watched.project.definitions.resolve_job_def("daily_digest_job").execute_in_process(instance=watched.project.instance)
    assert done.success
    assert "demo: w1: 33.3 % (19.2 % – 51.2 %), coverage 100.0 %\n" in receiver.texts[-1]


def test_the_digest_says_how_a_dataset_stands_and_not_what_ended_last(watched: Watched, receiver: Receiver) -> None:
    from evalvault_pipeline.evaluate import evaluate_file, record_run

    watched.score("w2", bad=20)
    watched.tick()
    watched.score("w1", bad=0, tags={"dagster/backfill": "b1"})
    elsewhere = watched.project.folder / "elsewhere.json"
    elsewhere.write_text(json.dumps(cases_of(3)), encoding="utf-8")
    with evaluate_file(elsewhere, metrics=["exact_match"], settings=watched.project.settings) as report:
        record_run(report, store_url=watched.project.settings.score_store_url)
    watched.project.definitions.resolve_job_def("daily_digest_job").execute_in_process(instance=watched.project.instance)
    text = receiver.texts[-1]
    assert "demo: w2: 33.3 % (19.2 % – 51.2 %), coverage 100.0 %, alert\n" in text
    assert "elsewhere" not in text and "100.0 % (" not in text


def test_old_runs_are_cleared_away_and_what_they_scored_stays(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime, timedelta

    from evalvault_pipeline.defs.retention import delete_runs

    first, second = watched.score("w1", bad=0), watched.score("w2", bad=0)
    count, _ = delete_runs(watched.project.instance, older_than=datetime.now(UTC) - timedelta(days=1))
    assert count == 0
    count, _ = delete_runs(watched.project.instance, older_than=datetime.now(UTC) + timedelta(days=1))
    assert count == 1
    assert not watched.project.instance.has_run(first.run_id)
    assert watched.project.instance.has_run(second.run_id), "the newest run of a job stays"
    assert watched.project.report("w1")["run_id"] == first.run_id
    assert load_settings().retention_days == 365


def test_the_run_history_is_read_by_snapshot_of_a_run_that_reported_on_several(watched: Watched) -> None:
    from evalvault_pipeline.publishing.run_history import RunHistory

    watched.score("w1", bad=0)
    with RunHistory(watched.project.settings.score_store_url) as history:
        (header,) = history.headers()
        assert history.find(header["run_id"], snapshot="w1").header["snapshot"] == "w1"
        assert list(history.headers(since="9999")) == []
    assert json.dumps(header)


def test_a_dataset_that_the_weekly_job_cannot_begin_alerts(watched: Watched, receiver: Receiver) -> None:
    """The job has no run of that dataset: what it says itself is all that there is."""
    watched.score("w1", bad=0)
    watched.tick()
    (watched.project.folder / "datasets" / "demo" / "w2.json").write_text("{", encoding="utf-8")
    assert not watched.project.run({}, job="all_datasets_evaluation_job").success
    watched.tick()
    (text,) = receiver.texts
    assert "the run failed" in text
    assert "w2.json" in text
    assert "last report: w1, 100.0 %" in text, "the figures are not those of this run"
    assert watched.board.datasets["demo"].state is State.NO_DATA


def test_a_weekly_job_that_was_killed_alerts_for_every_dataset_without_a_report_since(
    watched: Watched, receiver: Receiver
) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    instance, job = watched.project.instance, watched.project.definitions.resolve_job_def("all_datasets_evaluation_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    watched.tick()
    (text,) = receiver.texts
    assert "its process died" in text


@pytest.mark.parametrize(("canceled", "messages"), [(True, 0), (False, 1)])
def test_what_a_canceled_weekly_run_had_begun_alerts_nobody(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, canceled: bool, messages: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    watched.score("w1", bad=0)
    watched.tick()
    monkeypatch.setattr("evalvault_pipeline.defs.assets.score_batches", interrupted)
    instance, job = watched.project.instance, watched.project.definitions.resolve_job_def("all_datasets_evaluation_job")
    weekly = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert not watched.score("w2", bad=0, tags={WITHIN_TAG: weekly.run_id}).success
    if canceled:
        instance.report_run_canceled(weekly)
    watched.tick()
    assert len(receiver.messages) == messages


def test_a_failed_backfill_of_history_alerts_nobody(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.score("w2", bad=0)
    watched.tick()
    (watched.project.folder / "datasets" / "demo" / "w1.json").write_text("{", encoding="utf-8")
    assert not watched.project.run({"dagster/partition": "w1/0001", "dagster/backfill": "b1"}).success
    watched.tick()
    assert receiver.messages == []


def test_a_step_after_the_report_that_fails_is_no_missing_report(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is full")

    watched.score("w1", bad=0)
    watched.tick()
    monkeypatch.setattr("evalvault_pipeline.defs.drift_asset.drift_of", broken)
    assert not watched.score("w2", bad=0).success
    watched.tick()
    assert receiver.messages == []
    assert watched.board.datasets["demo"].state is State.OK


def test_an_unexpected_error_is_told_in_its_own_words(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk of the database is full")

    watched.score("w1", bad=0)
    watched.tick()
    monkeypatch.setattr("evalvault_pipeline.defs.assets.summarize_snapshot", broken)
    watched.score("w2", bad=0)
    watched.tick()
    (text,) = receiver.texts
    assert "RuntimeError: the disk of the database is full" in text
    assert "Traceback" not in text


def test_a_killed_run_of_this_machine_is_found_by_the_sensor(watched: Watched, receiver: Receiver) -> None:
    watched.score("w1", bad=0)
    watched.tick()
    instance, job = watched.project.instance, watched.project.definitions.resolve_job_def("demo_evaluation_job")
    gone = {PROCESS_TAG: f"{platform.node()}:999999999"}
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=gone)
    watched.tick()
    assert watched.board.datasets["demo"].state is State.NO_DATA


def test_an_outage_is_not_told_while_evaluations_go_on(watched: Watched, receiver: Receiver) -> None:
    specs = list(watched.project.catalog.datasets.values())
    assert not evaluations_under_way(watched.project.instance, specs)
    job = watched.project.definitions.resolve_job_def("all_datasets_evaluation_job")
    watched.project.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert evaluations_under_way(watched.project.instance, specs)


def test_a_digest_reaches_each_channel_once_although_one_is_down(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALVAULT_ALERT_WEBHOOK_URL", "http://127.0.0.1:9/hook")
    watched.score("w1", bad=20)
    job = watched.project.definitions.resolve_job_def("daily_digest_job")
    for _ in range(2):
        assert job.execute_in_process(instance=watched.project.instance).success
    digests = [text for text in receiver.texts if "last 24 hours" in text]
    assert len(digests) == 1
    with AlertBook(watched.project.settings.score_store_url) as book:
        waiting = [one.channel for one in book.pending(time.time()) if one.notice.kind is Kind.DIGEST]
    assert waiting == ["webhook"]


def test_a_run_without_a_measured_score_is_no_0_percent_in_the_digest(
    watched: Watched, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = watched.project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text(encoding="utf-8").replace('["exact_match", "number_consistency"]', '["faithfulness"]'))
    watched.score("w1", bad=0)
    watched.project.definitions.resolve_job_def("daily_digest_job").execute_in_process(instance=watched.project.instance)
    assert "w1: nothing was measured" in receiver.texts[-1]
