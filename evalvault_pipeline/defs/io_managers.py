"""Where Dagster keeps what the assets hand on: Parquet per batch, JSON and Markdown per report, all written atomically.

The files' layout and their contents stand in `publishing/tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from evalvault_pipeline.cases.model import Batch
from evalvault_pipeline.defs.partitions import in_order
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.publishing.tables import (
    ResultsFolder,
    read_batch,
    write_batch,
    write_report,
    write_scores,
)
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.model import BatchScores


@dataclass(frozen=True)
class BatchStream:
    """Batches on their way to disk: read once, one in memory at a time."""

    batches: Iterable[Batch]


class StoredBatches(Mapping[str, Batch]):
    """Partition key -> batch, read from its file when asked for."""

    def __init__(self, folder: ResultsFolder, keys: Iterable[str]) -> None:
        self._folder = folder
        self._keys = tuple(keys)

    def __getitem__(self, key: str) -> Batch:
        return read_batch(self._folder.cases_file(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True)
class ScoreStream:
    """Scores on their way to disk, each batch written as it ends."""

    batches: Iterable[BatchScores]


class _FolderIOManager(dg.ConfigurableIOManager):
    results_dir: str

    def folder(self, context: dg.OutputContext | dg.InputContext) -> ResultsFolder:
        return ResultsFolder(root=Path(self.results_dir), dataset=context.asset_key.path[0])


class CasesIOManager(_FolderIOManager):
    """`cases/<batch>.parquet`; tables of batches that the snapshot no longer has are removed."""

    @scrubbed
    def handle_output(self, context: dg.OutputContext, obj: BatchStream) -> None:
        folder = self.folder(context)
        written = {}
        for batch in obj.batches:
            write_batch(folder.cases_file(batch.key), batch)
            written[batch.snapshot.name] = batch.snapshot
        for snapshot in written.values():
            folder.forget_older_cut(snapshot)

    def load_input(self, context: dg.InputContext) -> StoredBatches:
        return StoredBatches(self.folder(context), in_order(context.asset_partition_keys))


class ScoresIOManager(_FolderIOManager):
    """`scores/<batch>.parquet`."""

    @scrubbed
    def handle_output(self, context: dg.OutputContext, obj: ScoreStream) -> None:
        folder = self.folder(context)
        for scored in obj.batches:
            write_scores(folder.scores_file(scored.key), scored, run_id=context.run_id)

    def load_input(self, context: dg.InputContext) -> None:
        raise dg.DagsterInvariantViolationError("Read scores with publishing.tables.SnapshotResults, beside their cases.")


class ReportIOManager(_FolderIOManager):
    """`results.json` and `report.md`."""

    @scrubbed
    def handle_output(self, context: dg.OutputContext, obj: RunReport) -> None:
        write_report(self.folder(context), obj)

    def load_input(self, context: dg.InputContext) -> None:
        raise dg.DagsterInvariantViolationError("Read the report's results.json.")
