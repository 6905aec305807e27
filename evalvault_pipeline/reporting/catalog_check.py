"""Whether the catalog and every snapshot in it can be scored, before anything is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from evalvault_pipeline.cases.catalog import Catalog, describe_snapshot
from evalvault_pipeline.cases.loading import inspect_dataset
from evalvault_pipeline.cases.model import PiiReport
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.scoring.metrics import metrics_by_name


@dataclass(frozen=True, kw_only=True)
class SnapshotState:
    """What a check of the catalog found of one snapshot; `problem` None means that all is well."""

    dataset: str
    snapshot: str = "–"
    cases: str = "–"
    batches: str = "–"
    language: str = "–"
    pii: PiiReport = field(default_factory=PiiReport)
    problem: str | None = None


def check_catalog(catalog: Catalog) -> Iterator[SnapshotState]:
    """What is wrong, or fine, with every dataset and snapshot of a catalog; every file is read to its end."""
    if not catalog.datasets:
        yield SnapshotState(
            dataset="–", problem="the catalog declares no dataset; write [datasets.<name>], see docs/datasets.md"
        )
    for spec in catalog.datasets.values():
        try:
            metrics_by_name([*spec.metrics, *spec.thresholds])
            snapshots = spec.snapshots()
        except PipelineError as error:
            yield SnapshotState(dataset=spec.name, problem=str(error))
            continue
        if not snapshots:
            yield SnapshotState(dataset=spec.name, problem=f"no file matches {spec.folder / spec.files}; put a snapshot there")
        for snapshot, file in snapshots.items():
            try:
                found = inspect_dataset(file, pii=spec.pii)
            except PipelineError as error:
                yield SnapshotState(dataset=spec.name, snapshot=snapshot, problem=str(error))
                continue
            described, size = describe_snapshot(found, spec)
            yield SnapshotState(
                dataset=spec.name,
                snapshot=snapshot,
                cases=str(found.case_count),
                batches=f"{described.batch_count} of {size}",
                language=described.language,
                pii=found.pii,
            )
