"""Batches as dynamic partitions: one set per dataset, `<dataset>_batches`, with keys `<snapshot>/<batch>`.

Cutting a dataset into batches is done in `cases/batches.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from evalvault_pipeline.cases.catalog import DatasetSpec, describe_snapshot
from evalvault_pipeline.cases.loading import inspect_dataset
from evalvault_pipeline.cases.model import Snapshot

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


def batch_partitions(dataset: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"{dataset}_batches")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What the partitions of a snapshot should be, against what they are."""

    snapshot: Snapshot
    new: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """Tags of a run over all batches of the snapshot."""
        return range_tags(self.snapshot.batch_keys)


def plan_registration(spec: DatasetSpec, snapshot: str, *, existing: Sequence[str]) -> Registration:
    """Read a snapshot's file and compare its batches with the registered ones. Raises UnreadableFile, MalformedCases."""
    described, _ = describe_snapshot(inspect_dataset(spec.snapshot_file(snapshot)), spec)
    wanted = described.batch_keys
    mine = [key for key in existing if snapshot_of(key) == snapshot]
    # The set keeps the order of insertion, and a range needs the batches of a snapshot side by side: one that grows moves to
    # the end, unless it is there already.
    grows = len(mine) < len(wanted)
    shared = min(len(mine), len(wanted))
    stays = mine[:shared] == wanted[:shared] and _side_by_side(mine, existing) and (not grows or _last(mine, existing))
    kept = set(mine) if stays else set()
    return Registration(
        snapshot=described,
        new=tuple(key for key in wanted if key not in kept),
        stale=tuple(key for key in mine if key not in kept or key not in wanted),
    )


def register_snapshot(instance: dg.DagsterInstance, spec: DatasetSpec, snapshot: str) -> Registration:
    """Make the partitions of a snapshot what its file says; materializations of batches that are gone stay in the history."""
    name = batch_partitions(spec.name).name or ""
    plan = plan_registration(spec, snapshot, existing=instance.get_dynamic_partitions(name))
    for key in plan.stale:
        instance.delete_dynamic_partition(name, key)
    if plan.new:
        instance.add_dynamic_partitions(name, list(plan.new))
    return plan


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


def _side_by_side(keys: Sequence[str], existing: Sequence[str]) -> bool:
    return not keys or list(existing[existing.index(keys[0]) :][: len(keys)]) == list(keys)


def _last(keys: Sequence[str], existing: Sequence[str]) -> bool:
    return not keys or existing[-1] == keys[-1]
