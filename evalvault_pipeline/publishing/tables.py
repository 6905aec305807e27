"""Batches and their scores as Parquet files, one per batch: what a person opens, and what the report is made from.

<results>/<dataset>/<snapshot>/cases/0003.parquet
<results>/<dataset>/<snapshot>/scores/0003.parquet
<results>/<dataset>/<snapshot>/results.json, report.md, comparison.md, verdict.json, report.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.cases.loading import ContentDigest
from evalvault_pipeline.cases.model import Batch, EvalCase, PiiReport, Snapshot
from evalvault_pipeline.errors import NothingScored, UnknownSnapshot, UnreadableFile
from evalvault_pipeline.publishing.markdown import report_markdown
from evalvault_pipeline.publishing.results_file import replacing, write_results
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.model import BatchScores, CaseResult, MetricScore

if TYPE_CHECKING:
    import pyarrow as pa

_ABOUT = b"evalvault"


@dataclass(frozen=True, kw_only=True)
class ResultsFolder:
    """Where the results of one dataset lie. A batch is named by its partition key, `2026w47/0003`."""

    root: Path
    dataset: str

    def cases_file(self, key: str) -> Path:
        return self._batch_file(key, "cases")

    def scores_file(self, key: str) -> Path:
        return self._batch_file(key, "scores")

    def results_file(self, snapshot: str) -> Path:
        return self.root / self.dataset / snapshot / "results.json"

    def markdown_file(self, snapshot: str) -> Path:
        return self.root / self.dataset / snapshot / "report.md"

    def file(self, snapshot: str, name: str) -> Path:
        """A further file of a snapshot, such as verdict.json."""
        return self.root / self.dataset / snapshot / name

    def snapshots(self) -> list[str]:
        """Snapshots of which something was scored."""
        return sorted(folder.parent.name for folder in (self.root / self.dataset).glob("*/scores"))

    def unreported(self) -> list[str]:
        """Snapshots with scores newer than their report, or without one."""
        return [snapshot for snapshot in self.snapshots() if self._is_stale(snapshot)]

    def _is_stale(self, snapshot: str) -> bool:
        report = self.results_file(snapshot)
        newest = max((file.stat().st_mtime_ns for file in report.parent.glob("scores/*.parquet")), default=0)
        return newest > 0 and (not report.exists() or report.stat().st_mtime_ns < newest)

    def forget_older_cut(self, snapshot: Snapshot) -> None:
        """Remove the tables of batches that the snapshot no longer has."""
        for noun in ("cases", "scores"):
            for file in (self.root / self.dataset / snapshot.name / noun).glob("[0-9]*.parquet"):
                if file.stem.isdigit() and int(file.stem) > snapshot.batch_count:
                    file.unlink(missing_ok=True)

    def _batch_file(self, key: str, noun: str) -> Path:
        snapshot, _, index = key.rpartition("/")
        return self.root / self.dataset / snapshot / noun / f"{index}.parquet"


class SnapshotResults:
    """The scored cases of a snapshot, batch by batch from Parquet, as often as they are gone through.

    It stands on the batches of the newest version of the snapshot that were all scored in the same way (metrics, versions,
    thresholds) and whose scores belong to their cases; `missing` names the others.
    """

    def __init__(self, folder: ResultsFolder, snapshot: str, *, run_id: str = "") -> None:
        """With `run_id`, the scores of batches that another run scored count as reused: this run did not pay for them."""
        self._folder, self._run_id = folder, run_id
        cases = _about_files(folder.cases_file(f"{snapshot}/x").parent)
        scores = _about_files(folder.scores_file(f"{snapshot}/x").parent)
        if not cases or not scores:
            raise UnknownSnapshot(folder.dataset, snapshot, known=folder.snapshots())
        self.snapshot = _snapshot_of(_newest(cases))
        self.plan: dict[str, tuple[float, str]] = {
            metric: (threshold, version) for metric, (threshold, version) in _newest(scores)["plan"].items()
        }
        scored_by = _newest(scores)["scored_by"]
        self.profile, self.judge, self.tokenizer = scored_by["profile"], scored_by["judge"], scored_by["tokenizer"]
        self.judge_details: dict[str, Any] = scored_by.get("judge_details", {})
        self.keys = [
            key
            for index, key in enumerate(self.snapshot.batch_keys, start=1)
            if (name := f"{index:04d}") in cases
            and name in scores
            and _snapshot_of(cases[name][1]) == self.snapshot
            and scores[name][1]["plan"] == _newest(scores)["plan"]
            and scores[name][1]["scored_by"]["judge"] == self.judge
            and scores[name][1]["scored_by"].get("judge_details", {}) == self.judge_details
            and scores[name][1]["cases"] == cases[name][1]["cases"]
        ]
        scored = set(self.keys)
        self.missing = [key for key in self.snapshot.batch_keys if key not in scored]
        if not self.keys:
            raise NothingScored(
                f"No batch of {folder.dataset} {snapshot}, as its file is now, is scored. "
                f"Materialize {folder.dataset}/scores first."
            )

    def __iter__(self) -> Iterator[CaseResult]:
        for key in self.keys:
            by, scored = _scores_and_run(self._folder.scores_file(key), read_batch(self._folder.cases_file(key)))
            mine = not (self._run_id and by) or by == self._run_id
            yield from scored.results if mine else map(_reused, scored.results)

    @property
    def thresholds(self) -> dict[str, float]:
        return {metric: threshold for metric, (threshold, _) in self.plan.items()}

    @property
    def metric_versions(self) -> dict[str, str]:
        return {metric: version for metric, (_, version) in self.plan.items()}


def _about_files(folder: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """File stem -> (time of writing, what the file says about itself)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {}
    for file in sorted(folder.glob("[0-9]*.parquet")):
        try:
            found[file.stem] = (file.stat().st_mtime_ns, json.loads(pq.read_schema(file).metadata[_ABOUT]))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            raise UnreadableFile(f"{file} is no table of ours. Delete it, and materialize its batch again.") from None
    return found


def _newest(files: dict[str, tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    return max(files.values(), key=lambda item: item[0])[1]


def _snapshot_of(about: dict[str, Any]) -> Snapshot:
    return Snapshot(**{**about["snapshot"], "pii": PiiReport(**about["snapshot"].get("pii", {}))})


def write_report(folder: ResultsFolder, report: RunReport) -> None:
    """Write results.json and report.md of a snapshot, each atomically."""
    snapshot = report.info.snapshot
    write_results(folder.results_file(snapshot), report)
    with replacing(folder.markdown_file(snapshot)) as file:
        file.write(report_markdown(report))


def write_batch(path: Path, batch: Batch) -> None:
    import pyarrow as pa

    schema = pa.schema(
        {
            "id": pa.string(),
            "question": pa.string(),
            "answer": pa.string(),
            "contexts": pa.list_(pa.string()),
            "ground_truth": pa.string(),
            "metadata": pa.string(),
        }
    )
    rows = [
        {
            "id": case.case_id,
            "question": case.question,
            "answer": case.answer,
            "contexts": list(case.contexts),
            "ground_truth": case.ground_truth,
            "metadata": _json(case.metadata),
        }
        for case in batch.cases
    ]
    cases = _digest_of(batch.cases)
    _write(path, rows, schema, {"snapshot": asdict(batch.snapshot), "index": batch.index, "cases": cases})


def read_batch(path: Path) -> Batch:
    about, rows = _read(path)
    return Batch(
        snapshot=_snapshot_of(about),
        index=about["index"],
        cases=tuple(
            EvalCase(
                case_id=row["id"],
                question=row["question"],
                answer=row["answer"],
                contexts=tuple(row["contexts"]),
                ground_truth=row["ground_truth"],
                metadata=json.loads(row["metadata"]),
            )
            for row in rows
        ),
    )


_AS_JSON = ("evidence", "noted")


def write_scores(path: Path, scored: BatchScores, *, run_id: str = "") -> None:
    """`run_id` is the run that scored the batch."""
    import pyarrow as pa

    schema = pa.schema(
        {
            "case_id": pa.string(),
            "metric": pa.string(),
            "value": pa.float64(),
            "threshold": pa.float64(),
            "passed": pa.bool_(),
            "unmeasured": pa.string(),
            "detail": pa.string(),
            "evidence": pa.string(),
            "metric_version": pa.string(),
            "judge": pa.string(),
            "seconds": pa.float64(),
            "judge_calls": pa.int64(),
            "prompt_tokens": pa.int64(),
            "completion_tokens": pa.int64(),
            "embedding_tokens": pa.int64(),
            "cost_usd": pa.float64(),
            "noted": pa.string(),
            "reused": pa.bool_(),
            "lower_is_better": pa.bool_(),
            "repeat": pa.int64(),
        }
    )
    rows = [
        {
            **{name: getattr(score, name) for name in schema.names if name not in _AS_JSON},
            **{name: _json(getattr(score, name)) for name in _AS_JSON},
        }
        for result in scored.results
        for score in (*result.scores, *result.repeats)
    ]
    cases = _digest_of(result.case for result in scored.results)
    plan = {score.metric: [score.threshold, score.metric_version] for score in scored.scores}
    about = {"snapshot": asdict(scored.snapshot), "index": scored.index, "cases": cases, "plan": plan, "run_id": run_id}
    by = {
        "profile": scored.profile,
        "judge": scored.judge,
        "tokenizer": scored.tokenizer,
        "judge_details": dict(scored.judge_details),
    }
    _write(path, rows, schema, {**about, "scored_by": by})


def read_scores(path: Path, batch: Batch) -> BatchScores:
    """The scores of `batch`, in the order of its cases."""
    return _scores_and_run(path, batch)[1]


def _scores_and_run(path: Path, batch: Batch) -> tuple[str, BatchScores]:
    """(the run that scored `batch`, its scores); "" where an earlier version wrote the file."""
    by_case: dict[str, list[MetricScore]] = {}
    about, rows = _read(path)
    for row in rows:
        del row["passed"]
        for name in _AS_JSON:
            row[name] = json.loads(row.get(name) or "{}")
        by_case.setdefault(row["case_id"], []).append(MetricScore(**row))
    results = tuple(_case_result(case, by_case.get(case.case_id, ())) for case in batch.cases)
    scored = BatchScores(snapshot=batch.snapshot, index=batch.index, results=results, **about["scored_by"])
    return about.get("run_id", ""), scored


def _reused(result: CaseResult) -> CaseResult:
    scores, repeats = (tuple(replace(score, reused=True) for score in some) for some in (result.scores, result.repeats))
    return replace(result, scores=scores, repeats=repeats)


def _case_result(case: EvalCase, scores: Iterable[MetricScore]) -> CaseResult:
    every = tuple(scores)
    return CaseResult(
        case=case,
        scores=tuple(score for score in every if not score.repeat),
        repeats=tuple(score for score in every if score.repeat),
    )


def _digest_of(cases: Iterable[EvalCase]) -> str:
    content = ContentDigest()
    for case in cases:
        content.add(case)
    return content.hexdigest()


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, about: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=schema.with_metadata({_ABOUT: _json(about).encode()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    return json.loads(table.schema.metadata[_ABOUT]), table.to_pylist()


def _json(value: Any) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
