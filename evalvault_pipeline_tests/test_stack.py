"""Dagster's real webserver and daemon: a UI backfill, the sensor, the schedule, and the pages in a headless browser.

One stack serves all tests of this module; each works on snapshots of its own.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline_tests.stack import DagsterDev, UserProject, wait_for

pytestmark = pytest.mark.stack
LOCATION = {"repositoryLocationName": "evalvault_pipeline", "repositoryName": "__repository__"}
SHOTS = Path(os.environ.get("EVALVAULT_SCREENSHOTS") or "")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    project = UserProject(tmp_path_factory.mktemp("stack"))
    project.run("dagster", "job", "execute", "-m", "evalvault_pipeline.definitions", "-j", "register_snapshots_job")
    running = DagsterDev(project)
    yield running
    running.stop()


def finished(stack: DagsterDev, tag: dict[str, str], *, count: int = 1, seconds: float = 150) -> list[dict[str, Any]]:
    def done() -> list[dict[str, Any]] | None:
        runs = stack.runs(tag)
        ended = [run for run in runs if run["status"] in {"SUCCESS", "FAILURE", "CANCELED"}]
        return runs if len(ended) == len(runs) >= count else None

    found: list[dict[str, Any]] = wait_for(done, seconds=seconds, what=lambda: f"{stack.runs(tag)}")
    return found


def latest(stack: DagsterDev, *key: str) -> dict[str, Any]:
    """Metadata of the newest materialization of an asset, as the UI shows it."""
    found = stack.query(
        """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
             assetMaterializations(limit: 1) { runId metadataEntries { label
               ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue } ... on TextMetadataEntry { text } } }
             } } }""",
        key={"path": list(key)},
    )
    events = found["assetOrError"].get("assetMaterializations") or []
    if not events:
        return {}
    values = {
        entry["label"]: next((entry[kind] for kind in ("floatValue", "intValue", "text") if entry.get(kind) is not None), None)
        for entry in events[0]["metadataEntries"]
    }
    return {**values, "run_id": events[0]["runId"]}


@pytest.mark.long
def test_a_backfill_of_the_ui_scores_the_batches_of_a_snapshot_in_one_run_and_ends_with_its_report(stack: DagsterDev) -> None:
    assets = [{"path": ["insurance_qa", noun]} for noun in ("cases", "scores", "report")]
    keys = [f"2026w44/{index:04d}" for index in range(1, 8)]
    started = stack.query(
        """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
             __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        params={"assetSelection": assets, "partitionNames": keys},
    )["launchPartitionBackfill"]
    assert started["__typename"] == "LaunchBackfillSuccess", started
    status = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
    wait_for(
        lambda: stack.query(status, id=started["backfillId"])["partitionBackfillOrError"]["status"] == "COMPLETED_SUCCESS",
        seconds=180,
        what=lambda: str(stack.query(status, id=started["backfillId"])),
    )
    runs = finished(stack, {"dagster/backfill": started["backfillId"]})
    ranges = [{tag["key"]: tag["value"] for tag in run["tags"]}.get("dagster/asset_partition_range_end") for run in runs]
    assert ranges.count("2026w44/0007") == 1, "all batches in one run"
    assert {run["status"] for run in runs} == {"SUCCESS"}
    report = latest(stack, "insurance_qa", "report")
    assert (report["snapshot"], report["cases"]) == ("2026w44", 64)
    assert report["pass_rate"] == pytest.approx(stack.project.results("insurance_qa", "2026w44")["pass_rate"], abs=1e-4)


@pytest.mark.long
def test_the_sensor_scores_a_snapshot_whose_file_appears_and_again_when_it_changes(stack: DagsterDev) -> None:
    folder = stack.project.folder / "data" / "datasets" / "insurance_qa_en"
    selector = {**LOCATION, "sensorName": "new_snapshot_sensor"}
    start = "mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } } }"
    assert stack.query(start, selector=selector)["startSensor"]["__typename"] == "Sensor"
    file = folder / "2026w48.jsonl"
    shutil.copy(folder / "2026w47.jsonl", file)
    report = wait_for(lambda: snapshot_report(stack, "2026w48"), seconds=150)
    assert report["total_test_cases"] == 24
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:12]) + "\n", encoding="utf-8")
    wait_for(lambda: (snapshot_report(stack, "2026w48") or {}).get("total_test_cases") == 12, seconds=150)
    stop = "mutation($id: String!) { stopSensor(id: $id) { __typename } }"
    state = stack.query(
        "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor { sensorState { id } } } }",
        selector=selector,
    )
    assert (
        stack.query(stop, id=state["sensorOrError"]["sensorState"]["id"])["stopSensor"]["__typename"]
        == "StopSensorMutationResult"
    )


def snapshot_report(stack: DagsterDev, snapshot: str) -> dict[str, Any] | None:
    try:
        return stack.project.results("insurance_qa_en", snapshot)
    except FileNotFoundError:
        return None


def test_the_schedule_runs_the_newest_snapshots_through_the_queue_of_the_daemon(stack: DagsterDev) -> None:
    selector = {**LOCATION, "scheduleName": "weekly_evaluation_schedule"}
    tick = stack.query(
        """mutation($selector: ScheduleSelector!, $at: Float) { scheduleDryRun(selectorData: $selector, timestamp: $at) {
             __typename ... on DryRunInstigationTick { evaluationResult { runRequests { runKey tags { key value } } } }
             ... on PythonError { message } } }""",
        selector=selector,
        at=1795392000.0,
    )["scheduleDryRun"]
    requests = tick["evaluationResult"]["runRequests"]
    assert len(requests) == 1
    stack.query(
        """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
             __typename ... on PythonError { message } } }""",
        params={
            "selector": {**LOCATION, "pipelineName": "all_datasets_evaluation_job"},
            "executionMetadata": {"tags": [{"key": "test/schedule", "value": "dry"}]},
        },
    )
    runs = finished(stack, {"test/schedule": "dry"})
    assert [run["status"] for run in runs] == ["SUCCESS"]
    assert stack.project.results("insurance_qa", "2026w47")["total_test_cases"] == 64
    state = stack.query(
        """query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) { ... on Schedule {
             cronSchedule executionTimezone futureTicks(limit: 1) { results { timestamp } } } } }""",
        selector=selector,
    )["scheduleOrError"]
    assert (state["cronSchedule"], state["executionTimezone"]) == ("0 9 * * 1", "Asia/Seoul")
    assert state["futureTicks"]["results"][0]["timestamp"] % (7 * 86400) == (4 * 86400), "Monday 00:00 UTC is 09:00 in Seoul"


def test_nothing_is_written_outside_the_data_folder(stack: DagsterDev) -> None:
    there = {path.name for path in stack.project.folder.iterdir() if not path.name.startswith(".tmp_dagster_home_")}
    assert there == {"data", "dagster.yaml", "workspace.yaml", "dagster-dev.log"}
    with sqlite3.connect(stack.project.folder / "data" / ".dagster" / "history" / "runs.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone()[0] > 0


@pytest.mark.browser
def test_a_person_materializes_a_snapshot_in_the_ui_and_reads_the_pass_rate(stack: DagsterDev, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        shots = SHOTS if SHOTS.name else tmp_path
        page.goto(f"{stack.url}/asset-groups")
        page.get_by_text("insurance_qa", exact=True).first.wait_for()
        page.goto(f"{stack.url}/locations/evalvault_pipeline/asset-groups/insurance_qa")
        page.get_by_role("button", name="Materialize all").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Select a partition or create one").click()
        page.get_by_placeholder("Filter partitions").fill("2026w45")
        for index in range(1, 8):
            page.locator("span").filter(has_text=f"2026w45/{index:04d}").first.click()
        page.screenshot(path=shots / "1-partitions.png")
        page.keyboard.press("Escape")
        dialog.get_by_text("7 partitions selected").wait_for()
        page.screenshot(path=shots / "2-launch.png")
        dialog.get_by_role("button", name="Launch backfill").click()
        wait_for(lambda: latest(stack, "insurance_qa", "report").get("snapshot") == "2026w45", seconds=180)
        page.goto(f"{stack.url}/assets/insurance_qa/report")
        row = page.get_by_role("row").filter(has_text="pass_rate").first
        row.wait_for()
        rate = stack.project.results("insurance_qa", "2026w45")["pass_rate"]
        assert f"{round(rate, 4):g}" in row.inner_text()
        page.screenshot(path=shots / "3-report.png")
        page.goto(f"{stack.url}/assets/insurance_qa/scores?view=partitions&partition=2026w45%2F0003")
        page.get_by_text("passed_cases").wait_for()
        page.screenshot(path=shots / "4-batch.png")
        page.goto(f"{stack.url}/assets/insurance_qa/verdict?view=checks")
        page.get_by_text("pass_rate_at_least_minimum").first.wait_for()
        page.screenshot(path=shots / "5-checks.png")
        page.goto(f"{stack.url}/assets/insurance_qa/verdict")
        page.get_by_role("row").filter(has_text="outcome").first.wait_for()
        page.screenshot(path=shots / "6-verdict.png", full_page=True)
        browser.close()


def test_the_services_end_when_they_are_told_to(stack: DagsterDev) -> None:
    stack.stop()
    time.sleep(1)
    with pytest.raises(OSError, match="refused"):
        stack.query("{ version }")
