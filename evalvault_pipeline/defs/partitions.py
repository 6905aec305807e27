"""Batches as dynamic partitions: one set per dataset, `<dataset>_batches`, with keys `<snapshot>/<batch>`.

Cutting a dataset into batches is done in `cases/batches.py`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from filelock import FileLock

from evalvault_pipeline.cases.catalog import DatasetSpec, describe_snapshot
from evalvault_pipeline.cases.loading import inspect_dataset
from evalvault_pipeline.cases.model import Snapshot, batch_key

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
SNAPSHOT_TAG = "evalvault/snapshot"  # for people who read the list of runs
LONGEST_TAG = 63


def batch_partitions(dataset: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"{dataset}_batches")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What the partitions of a dataset should be, against what they are.

    `remove` and `add` bring the set up to date; a batch that is only moved stands in both.
    """

    snapshot: Snapshot
    partitions_per_run: int | None
    remove: tuple[str, ...]
    add: tuple[str, ...]

    @property
    def new(self) -> tuple[str, ...]:
        return tuple(key for key in self.add if key not in set(self.remove))

    @property
    def stale(self) -> tuple[str, ...]:
        return tuple(key for key in self.remove if key not in set(self.add))

    @property
    def runs(self) -> list[dict[str, str]]:
        """Tags of the runs that score the snapshot: one, or as many as the catalog's `partitions_per_run` makes."""
        keys = self.snapshot.batch_keys
        size = self.partitions_per_run or len(keys)
        named = {SNAPSHOT_TAG: self.snapshot.name[:LONGEST_TAG]}
        return [{**named, **range_tags(keys[start : start + size])} for start in range(0, len(keys), size)]


def plan_registration(spec: DatasetSpec, snapshot: str, *, existing: Sequence[str]) -> Registration:
    """Read a snapshot's file and compare its batches with the registered ones. Raises UnreadableFile, MalformedCases.

    The set keeps the order of insertion, and a range runs over that order: so it is kept in the order of snapshots and
    batches, by adding again whatever has to stand behind a new batch.
    """
    described, _ = describe_snapshot(inspect_dataset(spec.snapshot_file(snapshot), pii=spec.pii), spec)
    others = [key for key in existing if snapshot_of(key) != snapshot]
    wanted = in_order([*others, *described.batch_keys])
    same = next((at for at, (old, new) in enumerate(zip(existing, wanted, strict=False)) if old != new), None)
    same = min(len(existing), len(wanted)) if same is None else same
    return Registration(
        snapshot=described,
        partitions_per_run=spec.partitions_per_run,
        remove=tuple(existing[same:]),
        add=tuple(wanted[same:]),
    )


def register_snapshot(instance: dg.DagsterInstance, spec: DatasetSpec, snapshot: str) -> Registration:
    """Make the partitions of a snapshot what its file says; materializations of batches that are gone stay in the history."""
    name = batch_partitions(spec.name).name or ""
    with FileLock(_lock_file(spec), timeout=600):  # two that register at once would add and remove each other's keys
        plan = plan_registration(spec, snapshot, existing=instance.get_dynamic_partitions(name))
        for key in plan.remove:
            instance.delete_dynamic_partition(name, key)
        if plan.add:
            instance.add_dynamic_partitions(name, list(plan.add))
    return plan


def _lock_file(spec: DatasetSpec) -> str:
    place = hashlib.sha256(str(spec.folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return str(Path(tempfile.gettempdir()) / f"evalvault-{place}-{spec.name}.lock")


def in_order(keys: Iterable[str]) -> list[str]:
    """Batch keys by snapshot and batch; Dagster hands them over in any order."""
    parts = ((snapshot, int(index)) for snapshot, _, index in (key.rpartition("/") for key in keys) if index.isdigit())
    return [batch_key(snapshot, index) for snapshot, index in sorted(parts)]


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    return {RANGE_START: keys[0], RANGE_END: keys[-1]}


def snapshot_of(key: str) -> str:
    return key.rpartition("/")[0]


def snapshots_in(tags: Mapping[str, str], existing: Sequence[str]) -> list[str]:
    """The snapshots that a run's tags ask for, in partition order; empty where they ask for none."""
    if PARTITION in tags:
        return [snapshot_of(tags[PARTITION])]
    if RANGE_START not in tags:
        return []
    ends = (tags[RANGE_START], tags[RANGE_END])
    if any(key not in existing for key in ends):
        return _unique(snapshot_of(key) for key in ends)
    first, last = (existing.index(key) for key in ends)
    return _unique(snapshot_of(key) for key in existing[first : last + 1])


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
