"""Jobs: one per dataset over a range of its batches, one for all; others register partitions and promote a baseline."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec
from evalvault_pipeline.defs.fencing import WITHIN_TAG
from evalvault_pipeline.defs.in_process_runs import evaluate_snapshot
from evalvault_pipeline.defs.partitions import register_snapshot
from evalvault_pipeline.defs.retries import retry_tags
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.settings import Settings

ALL_DATASETS_JOB, DAILY_JOB = "all_datasets_evaluation_job", "daily_evaluation_job"
DAILY_HOUR = 7
FIRST_DAY = "2026-01-01"  # of the days that can be made up for


def evaluation_job_name(dataset: str) -> str:
    return f"{dataset}_evaluation_job"


def dataset_job(spec: DatasetSpec, settings: Settings) -> Any:
    """`<dataset>_evaluation_job`: cases, scores, report and verdict of the batches that the run's tags name."""
    return dg.define_asset_job(
        evaluation_job_name(spec.name),
        selection=dg.AssetSelection.groups(spec.name),
        description=f"Score batches of {spec.name} and report on their snapshots.",
        tags=retry_tags(settings),
    )


def all_datasets_job(catalog: Catalog, job_named: Callable[[str], dg.JobDefinition], settings: Settings) -> dg.JobDefinition:
    """`all_datasets_evaluation_job`: the newest snapshot of every dataset, one run each inside this one.

    Dagster refuses one job over several partition sets, so this job registers the batches and runs the datasets' jobs.
    """

    @dg.op
    @scrubbed
    def evaluate_newest_snapshots(context: dg.OpExecutionContext) -> None:
        _evaluate_newest(context, catalog, job_named)

    @dg.job(
        name=ALL_DATASETS_JOB,
        description="Score the newest snapshot of every dataset of the catalog.",
        tags=retry_tags(settings),
    )
    def all_datasets_evaluation_job() -> None:
        evaluate_newest_snapshots()

    return all_datasets_evaluation_job


def daily_job(catalog: Catalog, job_named: Callable[[str], dg.JobDefinition], settings: Settings) -> dg.JobDefinition:
    """`daily_evaluation_job`: the same for a day, as its files were at DAILY_HOUR of that day: also for one that was missed."""
    days = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone=settings.timezone, end_offset=1)

    @dg.op
    @scrubbed
    def evaluate_snapshots_of_the_day(context: dg.OpExecutionContext) -> None:
        _evaluate_newest(context, catalog, job_named, before=context.partition_time_window.start.replace(hour=DAILY_HOUR))

    @dg.job(
        name=DAILY_JOB,
        description=f"Score the snapshot of every dataset that was the newest at {DAILY_HOUR:02d}:00 of a day.",
        partitions_def=days,
        tags=retry_tags(settings),
    )
    def daily_evaluation_job() -> None:
        evaluate_snapshots_of_the_day()

    return daily_evaluation_job


def _evaluate_newest(
    context: dg.OpExecutionContext,
    catalog: Catalog,
    job_named: Callable[[str], dg.JobDefinition],
    before: datetime | None = None,
) -> None:
    failed, not_begun = [], {}
    for spec in catalog.datasets.values():
        try:
            snapshots = spec.snapshots()
        except PipelineError as error:
            failed.append(str(error))
            not_begun[spec.name] = str(error)
            continue
        there = [name for name, file in snapshots.items() if before is None or file.stat().st_mtime <= before.timestamp()]
        if not there:
            when = f" and was there by {before:%Y-%m-%d %H:%M}" if before else ""
            context.log.warning(f"{spec.name}: no snapshot matches {spec.folder / spec.files}{when}")
        for snapshot in there[-1:]:
            job, tags = job_named(evaluation_job_name(spec.name)), {WITHIN_TAG: context.run_id}
            outcome = evaluate_snapshot(context.instance, spec, snapshot, job=job, tags=tags)
            (context.log.error if outcome.exit_code else context.log.info)(outcome.line)
            if outcome.exit_code:
                failed.append(outcome.line)
            if not outcome.run_id:
                not_begun[spec.name] = outcome.line
    if failed:
        raise dg.Failure("\n".join(failed), metadata=not_begun, allow_retries=False)


def register_job(catalog: Catalog) -> dg.JobDefinition:
    """`register_snapshots_job`: make the partitions what the files say, on an instance where no sensor runs (CI)."""

    @dg.op
    @scrubbed
    def register_every_snapshot(context: dg.OpExecutionContext) -> None:
        failed = []
        for spec in catalog.datasets.values():
            try:
                snapshots = list(spec.snapshots())
            except PipelineError as error:
                failed.append(str(error))
                continue
            for snapshot in snapshots:
                try:
                    plan = register_snapshot(context.instance, spec, snapshot)
                except PipelineError as error:
                    failed.append(str(error))
                    continue
                keys = plan.snapshot.batch_keys
                context.log.info(f"{spec.name}: {keys[0]} to {keys[-1]}, {len(plan.new)} new, {len(plan.stale)} removed")
        if failed:
            raise dg.Failure("\n".join(failed), allow_retries=False)

    @dg.job(name="register_snapshots_job", description="Register every snapshot of the catalog as batch partitions.")
    def register_snapshots_job() -> None:
        register_every_snapshot()

    return register_snapshots_job


def promote_job(settings: Settings) -> dg.JobDefinition:
    """`promote_baseline_job`: make a run the baseline of its dataset; who, when and why is kept."""

    @dg.op(
        config_schema={
            "run_id": dg.Field(str, description="The run of a report, as its results.json names it."),
            "promoted_by": dg.Field(str, description="Who promotes it."),
            "note": dg.Field(str, is_required=False, default_value="", description="Why."),
            "force": dg.Field(bool, is_required=False, default_value=False, description="Also a run that is not whole."),
        }
    )
    @scrubbed
    def promote_baseline(context: dg.OpExecutionContext, score_store: dg.ResourceParam[str]) -> None:
        asked = context.op_config
        try:
            with RunHistory(score_store) as history:
                run = history.find(asked["run_id"])
                promotion = Baselines(settings.baselines_dir).promote(
                    run, by=asked["promoted_by"], note=asked["note"], force=asked["force"]
                )
        except PipelineError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        context.log.info(f"{run.name}, run {promotion.run_id}, is the baseline now; before: {promotion.replaces or 'none'}")

    @dg.job(name="promote_baseline_job", description="Make a run the baseline that later runs of its dataset are held against.")
    def promote_baseline_job() -> None:
        promote_baseline()

    return promote_baseline_job
