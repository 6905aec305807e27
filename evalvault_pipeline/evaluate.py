"""The whole way of the data in one call: what `evalvault run` does, without Dagster.

The same functions, in the same order, stand behind the Dagster assets in `defs/assets.py`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalvault_pipeline.cases.batches import batch_count, split_into_batches
from evalvault_pipeline.cases.catalog import DatasetSpec, batch_size_of, language_of
from evalvault_pipeline.cases.loading import inspect_dataset, read_cases
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import UnreadableFile
from evalvault_pipeline.reporting.report import RunInfo, RunReport, summarize
from evalvault_pipeline.scoring.engine import PARALLEL_FROM, ScoringPlan, score_batches
from evalvault_pipeline.scoring.korean import choose_tokenizer
from evalvault_pipeline.scoring.metrics import metrics_by_name, thresholds_for
from evalvault_pipeline.scoring.model import CaseResult, MetricScore
from evalvault_pipeline.settings import Settings

log = logging.getLogger(__name__)


def plan_scoring(
    metrics: Iterable[str],
    *,
    settings: Settings,
    dataset_thresholds: dict[str, float],
    catalog_thresholds: dict[str, float],
    threshold: float | None = None,
    fresh: Iterable[str] = (),
) -> ScoringPlan:
    """How to score with these metrics. Raises UnknownMetric."""
    chosen = metrics_by_name(metrics)
    return ScoringPlan(
        thresholds=thresholds_for(chosen, argument=threshold, dataset=dataset_thresholds, catalog=catalog_thresholds),
        tokenizer=settings.tokenizer,
        no_judge=settings.profile.no_judge,
        fresh=frozenset(metric.name for metric in metrics_by_name(fresh)) if fresh else frozenset(),
    )


def worker_count(settings: Settings, case_count: int, *, parallel: bool = True) -> int:
    """Processes that score `case_count` cases: one, unless there are enough cases to pay for starting more."""
    if not parallel or case_count < PARALLEL_FROM:
        return 1
    return settings.workers or os.cpu_count() or 1


@contextmanager
def evaluate_file(
    path: Path,
    *,
    settings: Settings,
    spec: DatasetSpec | None = None,
    metrics: Sequence[str] = (),
    batch_size: int | None = None,
    parallel: bool = True,
    threshold: float | None = None,
    strict: bool = True,
    fresh: Sequence[str] = (),
    run_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[RunReport]:
    """Check, score and summarize one dataset file; the report's results can be gone through while the context is open.

    `metrics` empty means those of `spec`. `progress` is told (cases done, all cases) after each batch. Raises
    UnreadableFile, MalformedCases (strict), UnknownMetric, ScoreStoreUnavailable.
    """
    started = datetime.now(UTC)
    wanted = list(metrics) or list(spec.metrics if spec else ())
    metrics_by_name(wanted)  # a wrong name costs no reading of a large file
    summary = inspect_dataset(path, strict=strict)
    plan = plan_scoring(
        wanted,
        settings=settings,
        dataset_thresholds=dict(summary.header.thresholds),
        catalog_thresholds=dict(spec.thresholds) if spec else {},
        threshold=threshold,
        fresh=fresh,
    )
    name = spec.name if spec else summary.header.name
    size = batch_size or batch_size_of(spec, summary)
    batches = split_into_batches(read_cases(path), dataset=name, snapshot=path.stem, batch_size=size)
    workers = worker_count(settings, summary.case_count, parallel=parallel)
    total = batch_count(summary.case_count, size)
    log.info("%s: %d cases in %d batches of %d, %d process(es)", path, summary.case_count, total, size, workers)
    with Spool() as spool:
        for scored in score_batches(batches, plan=plan, store_url=settings.score_store_url, workers=workers):
            spool.extend(scored.results)
            reused = sum(score.reused for score in scored.scores)
            log.info("batch %d of %d: %d scores, %d from the store", scored.index, total, len(scored.scores), reused)
            if progress:
                progress(len(spool), summary.case_count)
        report = summarize(
            spool,
            info=RunInfo(
                run_id=run_id or uuid.uuid4().hex,
                dataset=name,
                snapshot=path.stem,
                dataset_version=summary.header.version,
                started_at=started,
                finished_at=datetime.now(UTC),
                skipped_rows=[str(problem) for problem in summary.problems],
                **scoring_info(plan, settings=settings, language=language_of(spec, summary)),
            ),
        )
        if report.dataset_digest != summary.digest:
            raise UnreadableFile(f"{path} changed while it was being scored. Run again; what is unchanged costs nothing.")
        yield report


def scoring_info(plan: ScoringPlan, *, settings: Settings, language: str) -> dict[str, Any]:
    """The part of RunInfo that says how was scored."""
    tokenizer = choose_tokenizer(plan.tokenizer)
    return {
        "profile": settings.profile.name,
        "judge": settings.profile.judge,
        "tokenizer": tokenizer.name,
        "language": language,
        "thresholds": plan.thresholds,
        "metric_versions": {metric.name: metric.versioned(tokenizer) for metric in plan.metrics},
    }


class Spool:
    """Case results on disk, so that a large run does not fill the memory; re-iterable, gone when closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115  closed in __exit__
        self._count = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def extend(self, results: Iterable[CaseResult]) -> None:
        self._file.seek(0, os.SEEK_END)
        for result in results:
            scores = [{name: getattr(score, name) for name in _SCORE_FIELDS} for score in result.scores]
            self._file.write(json.dumps([vars_of(result.case), scores], ensure_ascii=False) + "\n")
            self._count += 1

    def __iter__(self) -> Iterator[CaseResult]:
        self._file.flush()
        self._file.seek(0)
        for line in self._file:
            case, scores = json.loads(line)
            case["contexts"] = tuple(case["contexts"])
            yield CaseResult(case=EvalCase(**case), scores=tuple(MetricScore(**score) for score in scores))


_SCORE_FIELDS = tuple(MetricScore.__dataclass_fields__)


def vars_of(case: EvalCase) -> dict[str, Any]:
    return {name: getattr(case, name) for name in EvalCase.__dataclass_fields__}
