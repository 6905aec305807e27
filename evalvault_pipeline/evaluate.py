"""The whole way of the data in one call: what `evalvault run` does, without Dagster.

The same functions, in the same order, stand behind the Dagster assets in `defs/assets.py`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalvault_pipeline.cases.batches import split_into_batches
from evalvault_pipeline.cases.catalog import DatasetSpec, describe_snapshot
from evalvault_pipeline.cases.loading import inspect_dataset, read_cases
from evalvault_pipeline.cases.model import EvalCase, PiiReport, Snapshot, by_row
from evalvault_pipeline.cases.redaction import Policy
from evalvault_pipeline.errors import InvalidSetting, NothingScored, UnreadableFile
from evalvault_pipeline.logs import log_context
from evalvault_pipeline.publishing.results_file import read_header
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.publishing.tables import ResultsFolder, SnapshotResults
from evalvault_pipeline.reporting.report import RunInfo, RunReport, summarize
from evalvault_pipeline.scoring.calls import Tracer
from evalvault_pipeline.scoring.engine import PARALLEL_FROM, score_batches
from evalvault_pipeline.scoring.estimate import Estimate
from evalvault_pipeline.scoring.judges import judge_spec
from evalvault_pipeline.scoring.judging import Judging, Progress, estimate_batches
from evalvault_pipeline.scoring.korean import choose_tokenizer
from evalvault_pipeline.scoring.metrics import METRICS, metrics_by_name, thresholds_for
from evalvault_pipeline.scoring.model import CaseResult, MetricScore
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.scoring.providers import identify
from evalvault_pipeline.scoring.store import ScoreStore, to_json
from evalvault_pipeline.scoring.usage import Budget
from evalvault_pipeline.settings import Settings

log = logging.getLogger(__name__)


def plan_scoring(
    metrics: Iterable[str],
    *,
    settings: Settings,
    snapshot: Snapshot,
    spec: DatasetSpec | None = None,
    threshold: float | None = None,
    fresh: Iterable[str] = (),
) -> ScoringPlan:
    """How to score a snapshot with these metrics. Raises UnknownMetric."""
    chosen = metrics_by_name(metrics)
    again = [name.strip() for name in fresh if name.strip()]
    unasked = [name for name in again if name not in {metric.name for metric in chosen}]
    if unasked:
        metrics_by_name(unasked)
        raise InvalidSetting(f"{', '.join(unasked)} is to be scored afresh, but is not among the metrics. Add it to --metrics.")
    if spec:
        metrics_by_name([*spec.metrics, *spec.thresholds])
    for name in snapshot.thresholds:
        if name not in METRICS:
            log.warning("%s %s sets a threshold for `%s`, which is no metric here", snapshot.dataset, snapshot.name, name)
    return ScoringPlan(
        thresholds=thresholds_for(
            chosen, argument=threshold, dataset=snapshot.thresholds, catalog=spec.thresholds if spec else {}
        ),
        tokenizer=settings.tokenizer,
        no_judge=settings.profile.no_judge,
        language=snapshot.language,
        rubric=spec.rubric if spec else {},
        fresh=frozenset(again),
        profile=settings.profile.name,
        judge=settings.profile.judge if any(metric.score is None for metric in chosen) else "none",
    )


def judging_with(
    settings: Settings,
    plan: ScoringPlan,
    *,
    spec: DatasetSpec | None = None,
    budget: str | None = None,
    tracer: Tracer | None = None,
) -> Judging | None:
    """The judge of the profile, asked for the identity of its models; None where no metric needs one, or there is none.

    Raises JudgeUnavailable, InvalidSetting, MissingSetting.
    """
    if all(metric.score for metric in plan.metrics):
        return None
    settings.require_judge()
    chosen = judge_spec(settings)
    if chosen is None:
        return None
    repeats = spec.judge_repeats if spec and spec.judge_repeats else settings.judge_repeats
    limit = budget or settings.budget
    judging = Judging(
        identity=identify(chosen),
        chats=any(metric.chat for metric in plan.metrics),
        embeds=any(metric.embeddings for metric in plan.metrics),
        journal=settings.results_dir / "journal",
        budget=Budget.parse(limit) if limit else Budget(),
        deadline_seconds=settings.run_deadline_seconds,
        repeats=repeats,
        tracer=tracer,
    )
    judging.new_spending()  # a budget that cannot be kept is refused before anything is scored
    return judging


def estimate_file(
    path: Path,
    *,
    settings: Settings,
    spec: DatasetSpec | None = None,
    metrics: Sequence[str] = (),
    threshold: float | None = None,
    strict: bool = True,
    fresh: Sequence[str] = (),
    budget: str | None = None,
    pii: Policy | None = None,
) -> dict[str, tuple[int, int, Estimate]]:
    """Metric -> (scores to measure, scores in the store, what measuring takes) for the LLM metrics of a dataset file.

    No model is called. Raises as `evaluate_file` does.
    """
    policy = pii_policy(settings, spec, pii)
    summary = inspect_dataset(path, strict=strict, pii=policy)
    snapshot, size = describe_snapshot(summary, spec)
    wanted = list(metrics) or list(spec.metrics if spec else ())
    plan = plan_scoring(wanted, settings=settings, snapshot=snapshot, spec=spec, threshold=threshold, fresh=fresh)
    judging = judging_with(settings, plan, spec=spec, budget=budget)
    if judging is None:
        return {}
    with ScoreStore(settings.score_store_url) as store:
        batches = split_into_batches(read_cases(path, pii=policy), snapshot=snapshot, batch_size=size)
        return estimate_batches(batches, plan=plan, judging=judging, store=store)


def pii_policy(settings: Settings, spec: DatasetSpec | None, asked: Policy | None = None) -> Policy:
    """What becomes of personal data: as asked, else as the catalog says, else as the settings say for a file outside of it."""
    return asked or (spec.pii if spec else settings.pii)


def pii_warning(dataset: str, report: PiiReport) -> str | None:
    """What a log must say of a dataset that is not behind the firewall."""
    return f"{dataset}: pii is {report}; the judge, the store and every file of the run hold it" if report.open else None


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
    budget: str | None = None,
    run_id: str | None = None,
    pii: Policy | None = None,
    tracer: Tracer | None = None,
    progress: Callable[[Progress, int], None] | None = None,
) -> Iterator[RunReport]:
    """Check, score and summarize one dataset file; the report's results can be gone through while the context is open.

    `metrics` empty means those of `spec`, `pii` None its policy for personal data. `progress` is told (how far it is, all
    cases) after each batch and, with a judge, as it goes. Raises UnreadableFile, MalformedCases (strict), UnknownMetric,
    ScoreStoreUnavailable, JudgeUnavailable.
    """
    started = datetime.now(UTC)
    wanted = list(metrics) or list(spec.metrics if spec else ())
    metrics_by_name(wanted)  # a wrong name costs no reading of a large file
    policy = pii_policy(settings, spec, pii)
    summary = inspect_dataset(path, strict=strict, pii=policy)
    snapshot, size = describe_snapshot(summary, spec, batch_size=batch_size)
    if warning := pii_warning(snapshot.dataset, snapshot.pii):
        log.warning("%s", warning)
    plan = plan_scoring(wanted, settings=settings, snapshot=snapshot, spec=spec, threshold=threshold, fresh=fresh)
    batches = split_into_batches(read_cases(path, pii=policy), snapshot=snapshot, batch_size=size)
    judging = judging_with(settings, plan, spec=spec, budget=budget, tracer=tracer)
    workers = worker_count(settings, summary.case_count, parallel=parallel)
    total = snapshot.batch_count
    log.info("%s: %d cases in %d batches of %d, %d process(es)", path, summary.case_count, total, size, workers)
    with Spool() as spool:
        stream = score_batches(
            batches,
            plan=plan,
            store_url=settings.score_store_url,
            workers=workers,
            judging=judging,
            on_progress=(lambda state: progress(state, summary.case_count)) if progress else None,
        )
        details: Mapping[str, Any] = {}
        for scored in stream:
            details = scored.judge_details
            spool.extend(scored.results)
            reused = sum(score.reused for score in scored.scores)
            with log_context(batch=scored.key):
                log.info("batch %d of %d: %d scores, %d from the store", scored.index, total, len(scored.scores), reused)
            if progress and judging is None:
                progress(Progress(cases=len(spool)), summary.case_count)
        report = summarize(
            spool,
            info=run_info(
                snapshot,
                thresholds=plan.thresholds,
                metric_versions=plan.versions,
                profile=plan.profile,
                judge=plan.judge,
                judge_details=details,
                tokenizer=choose_tokenizer(plan.tokenizer).name,
                run_id=run_id or uuid.uuid4().hex,
                started_at=started,
                skipped_rows=by_row(summary.problems),
            ),
        )
        if report.dataset_digest != summary.digest:
            raise UnreadableFile(f"{path} changed while it was being scored. Run again; what is unchanged costs nothing.")
        yield _ended_now(report)


def run_info(
    snapshot: Snapshot,
    *,
    thresholds: Mapping[str, float],
    metric_versions: Mapping[str, str],
    profile: str,
    judge: str,
    tokenizer: str,
    run_id: str,
    started_at: datetime,
    judge_details: Mapping[str, Any] | None = None,
    skipped_rows: Sequence[str] = (),
    batches: Sequence[str] = (),
    missing_batches: Sequence[str] = (),
) -> RunInfo:
    """Where the figures of a run that ends now come from."""
    return RunInfo(
        run_id=run_id,
        dataset=snapshot.dataset,
        snapshot=snapshot.name,
        dataset_version=snapshot.version,
        language=snapshot.language,
        profile=profile,
        judge=judge,
        judge_details=judge_details or {},
        tokenizer=tokenizer,
        thresholds=thresholds,
        metric_versions=metric_versions,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        skipped_rows=skipped_rows,
        pii=snapshot.pii,
        batches=batches or snapshot.batch_keys,
        missing_batches=missing_batches,
    )


def summarize_snapshot(folder: ResultsFolder, snapshot: str, *, run_id: str, started_at: datetime) -> RunReport:
    """The report of a snapshot from the tables of its batches.

    Raises UnknownSnapshot or NothingScored where there is nothing to report on, UnreadableFile where the file was changed
    while its batches were written.
    """
    results = SnapshotResults(folder, snapshot, run_id=run_id)
    report = summarize(
        results,
        info=run_info(
            results.snapshot,
            thresholds=results.thresholds,
            metric_versions=results.metric_versions,
            profile=results.profile,
            judge=results.judge,
            judge_details=results.judge_details,
            tokenizer=results.tokenizer,
            run_id=run_id,
            started_at=started_at,
            batches=results.keys,
            missing_batches=results.missing,
        ),
    )
    whole = results.snapshot.digest
    if whole and not results.missing and report.dataset_digest != whole:
        raise UnreadableFile(
            f"{folder.dataset} {snapshot} changed while its batches were written. Materialize {folder.dataset}/cases again."
        )
    return _ended_now(replace(report, dataset_digest=whole or report.dataset_digest))


def recorded_report(folder: ResultsFolder, snapshot: str) -> RunReport:
    """The report that was written for a snapshot, with its cases: of the same run, and of the same time.

    Raises UnreadableFile where there is none, NothingScored where the snapshot was scored again since.
    """
    if folder.results_file(snapshot).exists() and snapshot in folder.unreported():
        again = f"{folder.dataset} {snapshot} was scored again since its report was written."
        raise NothingScored(f"{again} Materialize {folder.dataset}/report first.")
    header = read_header(folder.results_file(snapshot))
    started, ended = (datetime.fromisoformat(header[name]) for name in ("started_at", "finished_at"))
    report = summarize_snapshot(folder, snapshot, run_id=header["run_id"], started_at=started)
    return replace(report, info=replace(report.info, finished_at=ended, notes=header["tracker_metadata"]))


def record_run(report: RunReport, *, store_url: str, before: Mapping[str, Any] | None = None) -> None:
    """Keep the run in the store's history, for baselines and trends. Raises ScoreStoreUnavailable.

    `before`: what `recorded_before` said of an earlier execution under its id, whose spending is added.
    """
    with RunHistory(store_url) as history:
        history.record(report, before=before)


def recorded_before(report: RunReport, *, store_url: str) -> Mapping[str, Any] | None:
    """The header that the history holds under the run's id. Raises ScoreStoreUnavailable."""
    with RunHistory(store_url) as history:
        return history.header(report.info.run_id, report.info.snapshot)


def _ended_now(report: RunReport) -> RunReport:
    return replace(report, info=replace(report.info, finished_at=datetime.now(UTC)))


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
            scores, repeats = ([_values(score) for score in some] for some in (result.scores, result.repeats))
            self._file.write(to_json([_fields(result.case), scores, repeats]) + "\n")
            self._count += 1

    def __iter__(self) -> Iterator[CaseResult]:
        self._file.flush()
        self._file.seek(0)
        for line in self._file:
            case, scores, repeats = json.loads(line)
            case["contexts"] = tuple(case["contexts"])
            measured = [tuple(MetricScore(**score) for score in some) for some in (scores, repeats)]
            yield CaseResult(case=EvalCase(**case), scores=measured[0], repeats=measured[1])


_SCORE_FIELDS = tuple(MetricScore.__dataclass_fields__)


def _values(score: MetricScore) -> dict[str, Any]:
    return {name: getattr(score, name) for name in _SCORE_FIELDS}


def _fields(case: EvalCase) -> dict[str, Any]:
    return {name: getattr(case, name) for name in EvalCase.__dataclass_fields__}
