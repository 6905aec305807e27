"""Batches as partitions: what is registered when a snapshot appears, grows, shrinks or goes."""

from __future__ import annotations

import pytest

from evalvault_pipeline.defs.partitions import RANGE_END, RANGE_START, batch_partitions, register_snapshot, snapshots_in
from evalvault_pipeline.errors import UnknownSnapshot
from evalvault_pipeline_tests.defs.conftest import Project, cases_of


def registered(project: Project) -> list[str]:
    return list(project.instance.get_dynamic_partitions("demo_batches"))


def test_a_snapshot_becomes_one_partition_per_batch_that_a_person_can_read(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    assert project.register("2026w47") == ["2026w47/0001", "2026w47/0002", "2026w47/0003"] == registered(project)


def test_registering_twice_changes_nothing(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    project.register("2026w47")
    again = register_snapshot(project.instance, project.spec, "2026w47")
    assert (again.new, again.stale, len(registered(project))) == ((), (), 3)


def test_a_snapshot_that_grows_or_shrinks_has_the_batches_of_its_file(project: Project) -> None:
    for count, batches in [(5, 3), (8, 4), (2, 1), (5, 3)]:
        project.write("2026w47", cases_of(count))
        project.register("2026w47")
        assert registered(project) == [f"2026w47/{index:04d}" for index in range(1, batches + 1)]


def test_the_batches_stay_in_the_order_of_snapshots_when_an_older_one_grows_or_comes_late(project: Project) -> None:
    """A range of partitions runs over the order of insertion: out of order it would leave out or add whole snapshots."""
    for snapshot, count in [("2026w46", 2), ("2026w47", 4), ("2026w46", 6), ("2026w44", 2), ("2026w45", 1)]:
        project.write(snapshot, cases_of(count))
        project.register(snapshot)
    order = registered(project)
    assert order == sorted(order) and len(order) == 7
    again = register_snapshot(project.instance, project.spec, "2026w46")
    assert (again.add, again.remove) == ((), ())


def test_the_batches_of_an_older_snapshot_that_shrinks_stay_where_they_are(project: Project) -> None:
    project.write("2026w46", cases_of(6))
    project.write("2026w47", cases_of(2))
    project.register("2026w46")
    project.register("2026w47")
    project.write("2026w46", cases_of(4))
    project.register("2026w46")
    assert registered(project) == ["2026w46/0001", "2026w46/0002", "2026w47/0001"]


def test_a_removed_snapshot_keeps_its_partitions(project: Project) -> None:
    project.write("2026w47", cases_of(2)).unlink()
    project.write("2026w48", cases_of(2))
    project.instance.add_dynamic_partitions("demo_batches", ["2026w47/0001"])
    with pytest.raises(UnknownSnapshot, match="no snapshot `2026w47`"):
        project.register("2026w47")
    project.register("2026w48")
    assert registered(project) == ["2026w47/0001", "2026w48/0001"]


def test_the_snapshots_of_a_run_are_read_from_its_tags() -> None:
    keys = ["a/0001", "a/0002", "b/0001", "c/0001"]
    assert snapshots_in({"dagster/partition": "b/0001"}, keys) == ["b"]
    assert snapshots_in({RANGE_START: "a/0002", RANGE_END: "c/0001"}, keys) == ["a", "b", "c"]
    assert snapshots_in({}, keys) == []


def test_every_dataset_has_a_partition_set_of_its_own() -> None:
    assert batch_partitions("demo").name == "demo_batches"
