"""From a report to Phoenix in one call: behind `evalvault run --tracker phoenix` and the assets in `defs/phoenix_assets.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evalvault_pipeline.errors import PhoenixUnavailable, PipelineError
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.phoenix import (
    PhoenixAccess,
    PhoenixDataset,
    PhoenixServer,
    shown,
    tracker_metadata,
    upload_dataset,
    upload_experiment,
)
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.settings import Settings


def phoenix_access(settings: Settings) -> PhoenixAccess:
    """Where Phoenix is, by the settings."""
    return PhoenixAccess(
        endpoint=settings.phoenix_endpoint,
        token=settings.phoenix_api_token,
        sample_rate=settings.phoenix_sample_rate,
        project=settings.phoenix_project,
    )


def dataset_in_phoenix(server: PhoenixServer, report: RunReport, *, name: str = "") -> PhoenixDataset:
    """Upload the cases that a report stands on. Cases are removed only where the report has all of its snapshot."""
    info = report.info
    whole = not info.missing_batches and not info.skipped_rows
    return upload_dataset(server, name or info.dataset, (result.case for result in report.results), whole=whole)


def track_in_phoenix(
    report: RunReport,
    settings: Settings,
    *,
    dataset: str = "",
    experiment: str = "",
    traces: Mapping[str, Any] | None = None,
) -> tuple[RunReport, PipelineError | None]:
    """Upload a run; (the report with `tracker_metadata["phoenix"]`, what kept the upload from being whole).

    The run is never lost for it: the same run, uploaded again, goes on where this upload ended.
    """
    access = phoenix_access(settings)
    error: PipelineError | None = None
    try:
        with PhoenixServer(access) as server:
            uploaded = dataset_in_phoenix(server, report, name=dataset)
            baseline = promoted_run(settings, report.info.dataset)
            made = upload_experiment(server, uploaded, report, name=experiment, baseline_run=baseline)
        about = tracker_metadata(access, uploaded, made, traces)
        if made.failed:
            error = PhoenixUnavailable(f"Phoenix refused {made.failed} cases; the log names them.")
    except PipelineError as failed:
        error = failed
        about = {"status": "failed", "endpoint": shown(access.endpoint), "error": str(failed)}
    return with_tracker(report, about), error


def promoted_run(settings: Settings, dataset: str) -> str | None:
    """The id of the run that is the dataset's baseline."""
    found = Baselines(settings.baselines_dir).find(dataset)
    return found.run_id if found else None


def with_tracker(report: RunReport, about: Mapping[str, Any]) -> RunReport:
    """The report that says of itself where it stands in Phoenix."""
    return replace(report, info=replace(report.info, notes={**report.info.notes, "phoenix": dict(about)}))
