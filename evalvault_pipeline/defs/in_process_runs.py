"""Run evaluations in this process as Dagster runs: behind `evalvault backfill` and the job for all datasets."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline import errors
from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.defs.partitions import register_snapshot
from evalvault_pipeline.defs.retries import DATABASE_AWAY, MAX_RETRIES_TAG
from evalvault_pipeline.errors import InvalidSetting, PipelineError, ServiceUnavailable
from evalvault_pipeline.scoring.store import is_running

PROCESS_TAG = ".dagster/evalvault-process"  # Dagster's UI hides tags that begin so
BACKFILL_TAG = "evalvault/backfill"
TRACEBACK = "Traceback (most recent call last):"  # stands behind what an unexpected error said (scrubbing.py)
INTERRUPTIONS = {"KeyboardInterrupt", "DagsterExecutionInterruptedError"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the evaluation of a snapshot ended.

    `exit_code`: 0 fine, 1 its verdict is a fail, 2 wrong data or setting, 3 a service did not answer. `run_id` is
    "" where no run was made; `reported`: there is a report of it.
    """

    dataset: str
    snapshot: str
    run_id: str
    exit_code: int
    reported: bool = False
    line: str


def evaluate_snapshot(
    instance: dg.DagsterInstance,
    spec: DatasetSpec,
    snapshot: str,
    *,
    job: dg.JobDefinition,
    tags: Mapping[str, str] | None = None,
) -> Outcome:
    """Register the batches of a snapshot and run the dataset's job over them; `partitions_per_run` makes it several runs.

    Raises KeyboardInterrupt where this process was interrupted, or the run around this one is over: begin no other then. A run
    that somebody ended alone is an outcome as any other.
    """
    name = f"{spec.name} {snapshot}"
    try:
        registration = register_snapshot(instance, spec, snapshot)
    except PipelineError as error:
        line = redacted(f"{name}: {error}")
        return Outcome(dataset=spec.name, snapshot=snapshot, run_id="", exit_code=error.exit_code, line=line)
    bury_dead_runs(instance, job.name)
    outcome: Outcome | None = None
    for range_tags in registration.runs:
        result = job.execute_in_process(
            instance=instance,
            # Dagster cannot start such a run again: whoever executes it does.
            tags={**(tags or {}), **range_tags, PROCESS_TAG: _process(), MAX_RETRIES_TAG: "0"},
            raise_on_error=False,
            run_config=QUIET,
        )
        if _interrupted(result):
            raise KeyboardInterrupt
        words, exit_code = _said(instance, result.run_id, spec)
        outcome = Outcome(
            dataset=spec.name,
            snapshot=snapshot,
            run_id=result.run_id,
            exit_code=0 if result.success else exit_code,
            reported=_reported(result, spec),
            line=f"{name}: {words or ('done' if result.success else 'failed')} (run {result.run_id})",
        )
        if outcome.exit_code > 1:
            break
    assert outcome is not None, "a snapshot has at least one batch"
    return outcome


def why_failed(instance: dg.DagsterInstance, run_id: str) -> tuple[str | None, bool]:
    """(what ended a run, whether it was the judge); None where only its verdict was a fail: that is no failure of the run."""
    words: list[str] = []
    judge_down = checked = False
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = record.dagster_event
        assert event is not None, "it was asked for by its type"
        error = event.step_failure_data.error
        if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
            checked = True
            continue
        words += _why_failed(event.step_key or "", event.step_failure_data)[0]
        while error is not None:
            judge_down = judge_down or error.cls_name == "JudgeUnavailable"
            error = error.cause
    if words:
        return "; ".join(words), judge_down
    return (None if checked else "the run ended without a word: its process died, or it was ended"), False


def not_begun(instance: dg.DagsterInstance, run_id: str) -> dict[str, str] | None:
    """The datasets that `all_datasets_evaluation_job` could not begin a run of, and why; None where it broke down itself."""
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = record.dagster_event
        said = event.step_failure_data.user_failure_data if event else None
        if said is not None:
            return {name: str(value.value) for name, value in said.metadata.items()}
    return None


def bury_dead_runs(instance: dg.DagsterInstance, job: str) -> None:
    """Report runs of this job as failed whose process, on this machine, was killed; they would stay STARTED for ever."""
    for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED])):
        if process := dead_process(run):
            instance.report_run_failed(run, f"Its process {process} is gone; what it had scored is kept.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)  # its place in the pool `judge`


def dead_process(run: dg.DagsterRun) -> int | None:
    """The process of a run that was executed here, where it is gone; of another machine's processes nothing is known.

    Dagster copies tags to who executes a run again, in another process: his are not meant.
    """
    machine, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
    ours = run.parent_run_id is None and machine == platform.node() and process.isdigit()
    return int(process) if ours and not is_running(int(process)) else None


def dagster_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, or the one that ./dagster.yaml describes. Raises InvalidSetting, ServiceUnavailable."""
    home = os.environ.get("DAGSTER_HOME")
    if not home and not Path("dagster.yaml").is_file():
        raise InvalidSetting("There is no dagster.yaml here. Run this in the project's folder, or set DAGSTER_HOME.")
    try:
        return dg.DagsterInstance.get() if home else dg.DagsterInstance.from_config(str(Path.cwd()))
    except dg.DagsterInvariantViolationError as error:
        raise InvalidSetting(f"DAGSTER_HOME cannot be used: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:
        if type(error).__name__ not in DATABASE_AWAY:
            raise
        raise ServiceUnavailable(
            "Dagster's Postgres does not answer. Check DAGSTER_PG_HOST, DAGSTER_PG_PORT, user and password."
        ) from None


def _reported(result: dg.ExecuteInProcessResult, spec: DatasetSpec) -> bool:
    return any(event.asset_key == dg.AssetKey([spec.name, "report"]) for event in result.get_asset_materialization_events())


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether nobody had ended the run itself: then Dagster calls its interruption a failure."""
    errors = [event.job_failure_data.error for event in result.all_events if event.is_job_failure]
    return any(error is not None and error.cls_name in INTERRUPTIONS for error in errors)


def _process() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _said(instance: dg.DagsterInstance, run_id: str, spec: DatasetSpec) -> tuple[str, int]:
    """(the report's figures, what failed, and a line for each check that did not pass; the exit code of a failure)."""
    words: list[str] = []
    checks: list[str] = []
    exit_code = 1
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                state = "FAILED" if check.severity is dg.AssetCheckSeverity.ERROR else "WARNING"
                checks.append(f"\n  {check.check_name} {state}: {check.description}")
        elif event.is_step_materialization and event.asset_key == dg.AssetKey([spec.name, "report"]):
            metadata = event.materialization.metadata
            words.insert(0, f"{float(str(metadata['pass_rate'].value)):.1%} of {metadata['cases'].value} cases passed")
            words.append(f"results {metadata['results'].value}")
        elif event.is_step_failure:
            why, exit_code = _why_failed(event.step_key or "", event.step_failure_data)
            words += why
    return "; ".join(words) + "".join(checks), exit_code


def _why_failed(step: str, data: Any) -> tuple[list[str], int]:
    error = data.error
    if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
        return [], 1  # the check's own line says it
    while error is not None and error.cause is not None:
        error = error.cause
    kind = getattr(errors, error.cls_name or "", None) if error else None
    failure = data.user_failure_data.description if data.user_failure_data else None
    exit_code = kind.exit_code if isinstance(kind, type) and issubclass(kind, PipelineError) else 2
    said = failure or (error.message.partition(": ")[2] or error.message).strip() if error else "without a word"
    return [f"{step} failed: {said.partition(TRACEBACK)[0].strip()}"], exit_code
