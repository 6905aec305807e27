"""Jobs: one per dataset over a range of its batches, one for all datasets, one that only registers partitions."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec
from evalvault_pipeline.defs.launch import evaluate_snapshot
from evalvault_pipeline.defs.partitions import register_snapshot
from evalvault_pipeline.errors import PipelineError


def evaluation_job_name(dataset: str) -> str:
    return f"{dataset}_evaluation_job"


def dataset_job(spec: DatasetSpec) -> Any:
    """`<dataset>_evaluation_job`: cases, scores and report of the batches that the run's tags name."""
    return dg.define_asset_job(
        evaluation_job_name(spec.name),
        selection=dg.AssetSelection.groups(spec.name),
        description=f"Score batches of {spec.name} and report on their snapshots.",
    )


def all_datasets_job(catalog: Catalog, job_named: Callable[[str], dg.JobDefinition]) -> dg.JobDefinition:
    """`all_datasets_evaluation_job`: the newest snapshot of every dataset, one run each inside this one.

    Dagster refuses one job over several partition sets, so this job registers the batches and runs the datasets' jobs.
    """

    @dg.op
    def evaluate_newest_snapshots(context: dg.OpExecutionContext) -> None:
        failed = []
        for spec in catalog.datasets.values():
            try:
                newest = list(spec.snapshots())[-1:]
            except PipelineError as error:
                failed.append(str(error))
                continue
            if not newest:
                context.log.warning(f"{spec.name}: no snapshot matches {spec.folder / spec.files}")
            for snapshot in newest:
                outcome = evaluate_snapshot(context.instance, spec, snapshot, job=job_named(evaluation_job_name(spec.name)))
                (context.log.error if outcome.exit_code else context.log.info)(outcome.line)
                if outcome.exit_code:
                    failed.append(outcome.line)
        if failed:
            raise dg.Failure("\n".join(failed), allow_retries=False)

    @dg.job(name="all_datasets_evaluation_job", description="Score the newest snapshot of every dataset of the catalog.")
    def all_datasets_evaluation_job() -> None:
        evaluate_newest_snapshots()

    return all_datasets_evaluation_job


def register_job(catalog: Catalog) -> dg.JobDefinition:
    """`register_snapshots_job`: make the partitions what the files say, on an instance where no sensor runs (CI)."""

    @dg.op
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
