"""Run evaluations in this process as Dagster runs: behind `evalvault backfill` and the job for all datasets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.defs.partitions import register_snapshot
from evalvault_pipeline.errors import InvalidSetting, PipelineError

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the evaluation of a snapshot ended. `run_id` is "" where no run was made; `reported`: there is a report of it."""

    dataset: str
    snapshot: str
    run_id: str
    ok: bool
    reported: bool = False
    line: str


def evaluate_snapshot(instance: dg.DagsterInstance, spec: DatasetSpec, snapshot: str, *, job: dg.JobDefinition) -> Outcome:
    """Register the batches of a snapshot and run the dataset's job over them."""
    try:
        registration = register_snapshot(instance, spec, snapshot)
    except PipelineError as error:
        return Outcome(dataset=spec.name, snapshot=snapshot, run_id="", ok=False, line=f"{spec.name} {snapshot}: {error}")
    result = job.execute_in_process(instance=instance, tags=registration.tags, raise_on_error=False, run_config=QUIET)
    return Outcome(
        dataset=spec.name,
        snapshot=snapshot,
        run_id=result.run_id,
        ok=result.success,
        reported=_reported(result, spec),
        line=f"{spec.name} {snapshot}: {_said(instance, result.run_id, spec, ok=result.success)} (run {result.run_id})",
    )


def _reported(result: dg.ExecuteInProcessResult, spec: DatasetSpec) -> bool:
    return any(event.asset_key == dg.AssetKey([spec.name, "report"]) for event in result.get_asset_materialization_events())


def dagster_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, or the one that ./dagster.yaml describes."""
    if os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.get()
    if not Path("dagster.yaml").is_file():
        raise InvalidSetting("There is no dagster.yaml here. Run this in the project's folder, or set DAGSTER_HOME.")
    return dg.DagsterInstance.from_config(str(Path.cwd()))


def _said(instance: dg.DagsterInstance, run_id: str, spec: DatasetSpec, *, ok: bool) -> str:
    """The report's figures, and what failed, from the events of a run."""
    words = []
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                words.append(f"{check.check_name} FAILED: {check.description}")
        elif event.is_step_materialization and event.asset_key == dg.AssetKey([spec.name, "report"]):
            metadata = event.materialization.metadata
            words.insert(0, f"{float(str(metadata['pass_rate'].value)):.1%} of {metadata['cases'].value} cases passed")
            words.append(f"results {metadata['results'].value}")
        elif event.is_step_failure:
            words += _why_failed(event.step_key or "", event.step_failure_data)
    return "; ".join(words) or ("done" if ok else "failed")


def _why_failed(step: str, data: Any) -> list[str]:
    error = data.error
    if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
        return []  # the check's own line says it
    failure = data.user_failure_data.description if data.user_failure_data else None
    return [f"{step} failed: {failure or (error.cause or error).message.strip() if error else 'without a word'}"]
