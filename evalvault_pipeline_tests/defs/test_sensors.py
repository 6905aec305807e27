"""`new_snapshot_sensor`: what a tick asks for when files appear, change, go, or are bad."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg
import pytest

from evalvault_pipeline.defs import sensors
from evalvault_pipeline_tests.defs.conftest import Project, cases_of


def settled(file: Path, *, seconds_ago: float = 60) -> None:
    moment = time.time() - seconds_ago
    os.utime(file, (moment, moment))


def tick(project: Project, cursor: str | None = None) -> dg.SensorExecutionData:
    repository = project.definitions.get_repository_def()
    context = dg.build_sensor_context(instance=project.instance, repository_def=repository, cursor=cursor)
    return repository.get_sensor_def("new_snapshot_sensor").evaluate_tick(context)


def test_a_new_snapshot_is_registered_and_run_over_all_its_batches(project: Project) -> None:
    settled(project.write("2026w47", cases_of(5)))
    requests = tick(project).run_requests or []
    assert [(request.job_name, request.tags["dagster/asset_partition_range_start"]) for request in requests] == [
        ("demo_evaluation_job", "2026w47/0001")
    ]
    assert requests[0].tags["dagster/asset_partition_range_end"] == "2026w47/0003"
    assert len(project.instance.get_dynamic_partitions("demo_batches")) == 3


def test_the_request_of_the_sensor_can_be_run(project: Project) -> None:
    settled(project.write("2026w47", cases_of(3)))
    request = (tick(project).run_requests or [])[0]
    tags = {name: value for name, value in request.tags.items() if name.startswith("dagster/asset_partition_range")}
    assert project.run(tags).success


def test_an_unchanged_file_asks_for_nothing(project: Project) -> None:
    settled(project.write("2026w47", cases_of(5)))
    cursor = tick(project).cursor
    again = tick(project, cursor)
    assert (again.run_requests, again.skip_message) == ([], "no snapshot is new or changed")


def test_a_changed_file_becomes_new_batches_under_a_new_run_key(project: Project) -> None:
    file = project.write("2026w47", cases_of(3))
    settled(file)
    first = tick(project)
    settled(project.write("2026w47", cases_of(9)), seconds_ago=30)
    second = tick(project, first.cursor)
    keys = [request.run_key for data in (first, second) for request in data.run_requests or []]
    assert len(set(keys)) == 2
    assert len(project.instance.get_dynamic_partitions("demo_batches")) == 5


def test_a_file_that_goes_back_to_what_it_was_is_run_again(project: Project) -> None:
    """Dagster drops a request whose run key it has seen, so the key holds the time of writing, not the content."""
    keys, cursor = [], None
    for count, seconds_ago in [(3, 90), (5, 60), (3, 30)]:
        settled(project.write("2026w47", cases_of(count)), seconds_ago=seconds_ago)
        data = tick(project, cursor)
        cursor = data.cursor
        keys += [request.run_key for request in data.run_requests or []]
    assert len(set(keys)) == 3


def test_a_changed_batch_size_of_the_catalog_becomes_new_batches(project: Project) -> None:
    settled(project.write("2026w47", cases_of(6)))
    cursor = tick(project).cursor
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text().replace("batch_size = 2", "batch_size = 3"))
    assert len(tick(project, cursor).run_requests or []) == 1
    assert project.instance.get_dynamic_partitions("demo_batches") == ["2026w47/0001", "2026w47/0002"]


def test_a_changed_policy_for_personal_data_scores_the_snapshot_again(project: Project) -> None:
    settled(project.write("2026w47", cases_of(2)))
    cursor = tick(project).cursor
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + 'pii = "off"\n')
    again = tick(project, cursor)
    assert len(again.run_requests or []) == 1
    assert tick(project, again.cursor).run_requests == []


def test_a_tick_that_takes_too_long_stops_and_the_next_one_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for week in ("2026w45", "2026w46", "2026w47"):
        settled(project.write(week, cases_of(2)))
    clock = iter(range(0, 1000, 15))
    monkeypatch.setattr(sensors.time, "monotonic", lambda: next(clock))
    first = tick(project)
    monkeypatch.undo()
    second = tick(project, first.cursor)
    weeks = [
        request.tags["dagster/asset_partition_range_start"] for data in (first, second) for request in data.run_requests or []
    ]
    assert len(first.run_requests or []) == 1
    assert sorted(weeks) == ["2026w45/0001", "2026w46/0001", "2026w47/0001"]


def test_a_snapshot_is_spread_over_as_many_runs_as_the_catalog_says(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + "partitions_per_run = 2\n")
    settled(project.write("2026w47", cases_of(9)))
    requests = tick(project).run_requests or []
    ranges = [
        (request.tags["dagster/asset_partition_range_start"][-1], request.tags["dagster/asset_partition_range_end"][-1])
        for request in requests
    ]
    assert ranges == [("1", "2"), ("3", "4"), ("5", "5")]
    assert len({request.run_key for request in requests}) == 3


def test_a_file_that_is_still_being_written_waits_for_the_next_tick(project: Project) -> None:
    file = project.write("2026w47", cases_of(3))
    first = tick(project)
    assert first.run_requests == []
    settled(file)
    assert len(tick(project, first.cursor).run_requests or []) == 1


def test_a_bad_file_is_named_and_the_others_are_run(project: Project) -> None:
    settled(project.write("2026w46", [{"id": "", "question": "q"}]))
    settled(project.write("2026w47", cases_of(3)))
    data = tick(project)
    assert len(data.run_requests or []) == 1
    project.write("2026w48", [])
    settled(project.folder / "datasets" / "demo" / "2026w48.json")
    message = tick(project, data.cursor).skip_message or ""
    assert "2026w48.json has no cases" in message
    assert "2026w46" not in message, "a file that was named once is not read again before it changes"


def test_a_removed_file_leaves_its_partitions(project: Project) -> None:
    file = project.write("2026w47", cases_of(3))
    settled(file)
    cursor = tick(project).cursor
    file.unlink()
    assert tick(project, cursor).run_requests == []
    assert len(project.instance.get_dynamic_partitions("demo_batches")) == 2
