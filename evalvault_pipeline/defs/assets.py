"""The asset family of a dataset: cases -> scores (one partition per batch) -> report (one materialization per snapshot).

What is computed stands in the rooms `cases`, `scoring` and `reporting`; the same functions run behind `evalvault run`.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.batches import split_into_batches
from evalvault_pipeline.cases.catalog import DatasetSpec, describe_snapshot
from evalvault_pipeline.cases.loading import inspect_dataset, read_cases
from evalvault_pipeline.cases.model import Batch, PiiReport
from evalvault_pipeline.defs.checks import check_reports, report_check_specs
from evalvault_pipeline.defs.drift_asset import drift_asset
from evalvault_pipeline.defs.fencing import Fence
from evalvault_pipeline.defs.io_managers import BatchStream, ScoreStream, StoredBatches
from evalvault_pipeline.defs.partitions import batch_partitions, in_order, snapshot_of, snapshots_in
from evalvault_pipeline.defs.phoenix_assets import phoenix_assets
from evalvault_pipeline.defs.retries import published_as, waited_out
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.defs.verdict_assets import place_of, verdict_assets
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.evaluate import judging_with, pii_warning, plan_scoring, record_run, summarize_snapshot
from evalvault_pipeline.logs import log_context
from evalvault_pipeline.publishing.markdown import metrics_table, worst_table
from evalvault_pipeline.publishing.phoenix import PhoenixAccess
from evalvault_pipeline.publishing.tables import ResultsFolder, write_report
from evalvault_pipeline.publishing.tracing import JudgeTracer
from evalvault_pipeline.reporting.report import Cost, RunReport
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.judging import Judging
from evalvault_pipeline.scoring.model import BatchScores
from evalvault_pipeline.scoring.providers import JudgeAccess
from evalvault_pipeline.settings import Settings
from evalvault_pipeline.tracking import judge_tracer

log = logging.getLogger(__name__)  # its lines are events of the run too: dagster.yaml, python_logs

CASE_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("id", "string", description="unique in its snapshot"),
        dg.TableColumn("question", "string"),
        dg.TableColumn("answer", "string", description="the answer under test"),
        dg.TableColumn("contexts", "list<string>", description="retrieved passages in rank order"),
        dg.TableColumn("ground_truth", "string", description="the reference answer, if there is one"),
        dg.TableColumn("metadata", "string", description="JSON object"),
    ]
)
SCORE_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("case_id", "string"),
        dg.TableColumn("metric", "string"),
        dg.TableColumn("value", "double", description="in [0, 1]; null where it could not be measured"),
        dg.TableColumn("threshold", "double"),
        dg.TableColumn("passed", "bool", description="null where unmeasured"),
        dg.TableColumn("unmeasured", "string", description="the reason"),
        dg.TableColumn("evidence", "string", description="JSON object: what the value rests on"),
        dg.TableColumn("metric_version", "string"),
        dg.TableColumn("seconds", "double"),
    ]
)

PROGRESS_LINES = 20
DIGEST_SHOWN = 16  # characters; results.json has all


def dataset_assets(spec: DatasetSpec, settings: Settings) -> list[dg.AssetsDefinition]:
    """`<dataset>/cases`, `<dataset>/scores` and `<dataset>/report`, then comparison and verdict."""
    partitions = batch_partitions(spec.name)
    policy = dg.BackfillPolicy.multi_run(spec.partitions_per_run) if spec.partitions_per_run else dg.BackfillPolicy.single_run()
    common: dict[str, Any] = {"group_name": spec.name, "owners": list(spec.owners)}
    folder = ResultsFolder(root=settings.results_dir, dataset=spec.name)

    @dg.asset(
        key=[spec.name, "cases"],
        description=f"{spec.description} The cases of a batch, checked, as they are scored.".strip(),
        partitions_def=partitions,
        backfill_policy=policy,
        io_manager_key="cases_io",
        kinds={"parquet"},
        metadata={"dagster/column_schema": CASE_COLUMNS, "files": str(spec.folder / spec.files)},
        **common,
    )
    @scrubbed
    def cases(context: dg.AssetExecutionContext) -> BatchStream:
        keys = list(context.partition_keys)
        if not keys:
            raise dg.Failure("The range holds no batch: its end stands before its start.", allow_retries=False)
        # Every file is checked before the first batch is written: a bad row refuses its snapshot whole.
        snapshots = {name: spec.snapshot_file(name) for name in dict.fromkeys(map(snapshot_of, in_order(keys)))}
        described = {name: describe_snapshot(_inspected(file, spec), spec) for name, file in snapshots.items()}
        unknown = [key for key in keys if key not in described[snapshot_of(key)][0].batch_keys]
        if unknown:
            gone = ", ".join(unknown)
            raise dg.Failure(
                f"These batches are no part of their snapshot any more: {gone}. Choose others; "
                "register_snapshots_job brings the partitions up to date.",
                allow_retries=False,
            )
        wanted = set(keys)
        for key in keys:
            metadata = pii_metadata(described[snapshot_of(key)][0].pii)
            context.add_asset_metadata(metadata, asset_key=context.asset_key, partition_key=key)
        for snapshot, _ in described.values():
            if warning := pii_warning(f"{spec.name} {snapshot.name}", snapshot.pii):
                context.log.warning(warning)

        def batches() -> Iterator[Batch]:
            for name, (snapshot, size) in described.items():
                for batch in split_into_batches(read_cases(snapshots[name], pii=spec.pii), snapshot=snapshot, batch_size=size):
                    if batch.key in wanted:
                        yield batch

        return BatchStream(batches())

    @dg.asset(
        key=[spec.name, "scores"],
        ins={"cases": dg.AssetIn(key=[spec.name, "cases"])},
        description=f"Every case of a batch scored with {', '.join(spec.metrics)}.",
        partitions_def=partitions,
        backfill_policy=policy,
        io_manager_key="scores_io",
        kinds={"parquet"},
        metadata={"dagster/column_schema": SCORE_COLUMNS},
        # Without a judge there is nothing to wait for, and a killed run would keep its slot.
        pool="judge" if settings.profile.provider else None,
        **common,
    )
    @scrubbed
    def scores(
        context: dg.AssetExecutionContext,
        cases: StoredBatches,
        score_store: dg.ResourceParam[str],
        judge: dg.ResourceParam[JudgeAccess],
        phoenix: dg.ResourceParam[PhoenixAccess | None],
    ) -> ScoreStream:
        log.info("profile %s, judge %s", judge.profile, judge.spec.name if judge.spec else "none")
        tracer = _tracer(context, phoenix, judge, spec)

        def scored_batches() -> Iterator[BatchScores]:
            lines = max(len(cases) // PROGRESS_LINES, 1)  # a line is an event in Dagster's database, of about 5 ms
            fence = Fence(context.instance, context.run)
            stream = _scored(cases, spec, settings, store_url=score_store, tracer=tracer, fence=fence)
            try:
                for done, scored in enumerate(stream, start=1):
                    context.add_asset_metadata(_batch_metadata(scored), asset_key=context.asset_key, partition_key=scored.key)
                    if done % lines == 0 or done == len(cases):
                        with log_context(batch=scored.key):
                            log.info("%d of %d batches scored, the last was %s", done, len(cases), scored.key)
                    yield scored
            except Exception as error:
                if again := waited_out(context, error):
                    raise again from error
                raise
            finally:
                if tracer is not None:
                    context.log.info(f"traces in Phoenix: {tracer.finish()}")

        return ScoreStream(scored_batches())

    @dg.asset(
        key=[spec.name, "report"],
        deps=[[spec.name, "cases"], [spec.name, "scores"]],
        description="Pass rate, coverage and every metric of a snapshot; its materializations are the history of the dataset.",
        backfill_policy=dg.BackfillPolicy.single_run(),
        io_manager_key="report_io",
        dagster_type=dg.Any,
        kinds={"json"},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.alert_no_data_hours)),
        check_specs=report_check_specs(dg.AssetKey([spec.name, "report"])),
        **common,
    )
    @scrubbed
    def report(context: dg.AssetExecutionContext, score_store: dg.ResourceParam[str]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster refuses a parameter here
        existing = context.instance.get_dynamic_partitions(partitions.name or "")
        wanted = snapshots_in(context.run.tags, existing) or folder.unreported() or folder.snapshots()[-1:]
        if not wanted:
            nothing = f"No batch of {spec.name} is scored yet. Materialize {spec.name}/scores first."
            raise dg.Failure(nothing, allow_retries=False)
        Fence(context.instance, context.run).check()
        started = datetime.fromtimestamp(_run_start(context), UTC)
        run_id = published_as(context.instance, context.run)
        reports = [_reported(folder, snapshot, run_id, started) for snapshot in wanted]
        for one in reports:
            record_run(one, store_url=score_store)
        for earlier in reports[:-1]:
            write_report(folder, earlier)
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=report_metadata(earlier, folder, settings)))
        return dg.MaterializeResult(
            value=reports[-1],
            metadata=report_metadata(reports[-1], folder, settings),
            check_results=check_reports(reports, min_coverage=settings.min_coverage),
        )

    others = [*verdict_assets(spec, settings), drift_asset(spec, settings), *phoenix_assets(spec, settings)]
    return [cases, scores, report, *others]


def report_metadata(report: RunReport, folder: ResultsFolder, settings: Settings) -> dict[str, Any]:
    """What the UI shows of a report; the numbers are plotted over the materializations."""
    snapshot = report.info.snapshot
    figures: dict[str, float | int] = {
        "pass_rate": round(report.pass_rate, 4),
        "coverage": round(report.coverage, 4),
        "cases": report.case_count,
        "failed_cases": report.failed,
        "unmeasured_cases": report.unmeasured,
        "scores_computed": report.computed,
        "scores_from_store": report.reused,
        "judge_calls": report.spent.calls,
        "tokens": report.spent.tokens,
        "tokens_saved": report.saved.tokens,
        "seconds": round((report.info.finished_at - report.info.started_at).total_seconds(), 3),
    }
    if report.spent.tokens and report.spent.dollars is not None:
        figures["cost_usd"] = round(report.spent.dollars, 6)
    if report.saved.tokens and report.saved.dollars is not None:
        figures["saved_usd"] = round(report.saved.dollars, 6)
    for metric in report.metrics:
        if metric.noise is not None:
            figures[f"flip_rate_{metric.name}"] = round(metric.noise.flip_rate, 4)
    means = {f"mean_{metric.name}": round(metric.mean, 4) for metric in report.metrics if metric.mean is not None}
    tables = {"metrics": metrics_table(report, narrow=True), "worst_cases": worst_table(report.worst)}
    return {
        "snapshot": snapshot,
        **figures,
        **means,
        "judge": report.info.judge,
        "language": report.info.language,
        "unmeasured_reasons": dg.MetadataValue.json(report.unmeasured_by_reason),
        "missing_batches": ", ".join(report.info.missing_batches) or "none",
        **pii_metadata(report.info.pii),
        "dataset_digest": report.dataset_digest[:DIGEST_SHOWN],
        "results": place_of(folder.results_file(snapshot), settings),
        "report": place_of(folder.markdown_file(snapshot), settings),
        **{name: dg.MetadataValue.md("\n".join(lines)) for name, lines in tables.items()},
    }


def pii_metadata(pii: PiiReport) -> dict[str, Any]:
    """The policy of a snapshot and how often it masked what; the number of labels is plotted."""
    return {"personal_data": str(pii), "masked": sum(pii.masked.values()), "masked_cases": pii.cases}


def _inspected(file: Path, spec: DatasetSpec) -> Any:
    try:
        return inspect_dataset(file, pii=spec.pii)
    except PipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _reported(folder: ResultsFolder, snapshot: str, run_id: str, started_at: datetime) -> RunReport:
    try:
        return summarize_snapshot(folder, snapshot, run_id=run_id, started_at=started_at)
    except PipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _run_start(context: dg.AssetExecutionContext) -> float:
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return (record.start_time if record else None) or time.time()


def _tracer(
    context: dg.AssetExecutionContext, phoenix: PhoenixAccess | None, judge: JudgeAccess, spec: DatasetSpec
) -> JudgeTracer | None:
    if phoenix is None or judge.spec is None:
        return None
    try:
        return judge_tracer(phoenix, run_id=published_as(context.instance, context.run), dataset=spec.name)
    except PipelineError as error:  # an evaluation does not wait for its traces; the upload says it again
        context.log.error(str(error))
        return None


def _scored(
    cases: StoredBatches, spec: DatasetSpec, settings: Settings, *, store_url: str, tracer: JudgeTracer | None, fence: Fence
) -> Iterator[BatchScores]:
    began: dict[str, Any] = {"at": time.monotonic()}
    for _, keys in groupby(cases, key=snapshot_of):
        chosen = list(keys)
        first = cases[chosen[0]]
        plan = plan_scoring(spec.metrics, settings=settings, snapshot=first.snapshot, spec=spec)
        judging = _shared(judging_with(settings, plan, spec=spec, tracer=tracer), began)
        batches: Iterable[Batch] = (cases[key] for key in chosen)
        # In this process: several runs share the cores, and no worker can outlive a run that is killed.
        for scored in score_batches(batches, plan=plan, store_url=store_url, judging=judging, on_progress=fence.check):
            yield scored
            fence.check()


def _shared(judging: Judging | None, began: dict[str, Any]) -> Judging | None:
    """One budget and one deadline for all snapshots of a run."""
    if judging is None:
        return None
    left = judging.deadline_seconds
    if left is not None:
        left = max(left - (time.monotonic() - began["at"]), 0.001)
    return replace(judging, spending=began.setdefault("spending", judging.new_spending()), deadline_seconds=left)


def _batch_metadata(scored: BatchScores) -> dict[str, Any]:
    measured = [score for score in scored.scores if score.value is not None]
    spent = Cost()
    for score in (score for result in scored.results for score in (*result.scores, *result.repeats) if not score.reused):
        spent.add(score)
    return {
        "dagster/partition_row_count": len(scored.scores),
        "cases": len(scored.results),
        "passed_cases": sum(result.passed is True for result in scored.results),
        "failed_cases": sum(result.passed is False for result in scored.results),
        "unmeasured_scores": len(scored.scores) - len(measured),
        "scores_from_store": sum(score.reused for score in measured),
        "judge_calls": spent.calls,
        "tokens": spent.tokens,
    }
