"""From a report to Phoenix in one call: behind `evalvault run --tracker phoenix` and the assets in `defs/phoenix_assets.py`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evalvault_pipeline.errors import PhoenixUnavailable, PipelineError, SecretUnavailable
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.phoenix import PhoenixAccess, PhoenixServer
from evalvault_pipeline.publishing.phoenix_upload import (
    PhoenixDataset,
    PhoenixExperiment,
    tracker_metadata,
    upload_dataset,
    upload_experiment,
)
from evalvault_pipeline.publishing.tracing import JudgeTracer
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.secrets import Secret
from evalvault_pipeline.settings import Settings

log = logging.getLogger(__name__)


def phoenix_access(settings: Settings) -> PhoenixAccess:
    """Where Phoenix is, by the settings."""
    return PhoenixAccess(
        endpoint=settings.phoenix_endpoint,
        token=Secret(name="PHOENIX_API_TOKEN", sources=settings),
        sample_rate=settings.phoenix_sample_rate,
        project=settings.phoenix_project,
    )


def judge_tracer(access: PhoenixAccess, *, run_id: str, dataset: str) -> JudgeTracer | None:
    """The tracer of a run; None where nothing is to be traced, or Phoenix does not answer: then nothing waits for it.

    Raises InvalidSetting where Phoenix refuses the token: nothing is paid before it is mended.
    """
    try:
        with PhoenixServer(access):
            return JudgeTracer(access, run_id=run_id, dataset=dataset) if access.sample_rate else None
    except SecretUnavailable as error:
        log.warning("judge calls are not traced: %s", error)
        return None
    except PhoenixUnavailable:
        log.warning("Phoenix at %s does not answer: judge calls are not traced", access.shown)
        return None


def cases_to_phoenix(server: PhoenixServer, report: RunReport, *, name: str = "") -> PhoenixDataset:
    """Upload the cases that a report stands on. Cases are removed only where the report has all of its snapshot."""
    info = report.info
    whole = not info.missing_batches and not info.skipped_rows
    return upload_dataset(server, name or info.dataset, (result.case for result in report.results), whole=whole)


def run_to_phoenix(
    server: PhoenixServer,
    dataset: PhoenixDataset,
    report: RunReport,
    settings: Settings,
    *,
    name: str = "",
    traces: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[RunReport, PhoenixExperiment]:
    """Upload answers and scores beside the promoted baseline's; the report then says where they are.

    `labels` holds the topic of each case, by its id.
    """
    baseline = Baselines(settings.baselines_dir).find(report.info.dataset)
    base_run = baseline.run_id if baseline else None
    experiment = upload_experiment(server, dataset, report, name=name, baseline_run=base_run, labels=labels or {})
    return with_tracker(report, tracker_metadata(server.access, dataset, experiment, traces)), experiment


def track_in_phoenix(
    report: RunReport,
    settings: Settings,
    *,
    dataset: str = "",
    experiment: str = "",
    traces: Mapping[str, Any] | None = None,
) -> tuple[RunReport, PipelineError | None]:
    """Upload a run whole; (the report with `tracker_metadata["phoenix"]`, what kept the upload from being whole).

    The run is never lost for it: the same run, uploaded again, goes on where this upload ended.
    """
    access = phoenix_access(settings)
    try:
        with PhoenixServer(access) as server:
            uploaded = cases_to_phoenix(server, report, name=dataset)
            report, made = run_to_phoenix(server, uploaded, report, settings, name=experiment, traces=traces)
    except PipelineError as error:
        about = {"status": "failed", "endpoint": access.shown, "error": str(error)}
        return with_tracker(report, {**about, **({"traces": dict(traces)} if traces else {})}), error
    return report, PhoenixUnavailable(f"Phoenix refused {made.failed} cases; the log names them.") if made.failed else None


def with_tracker(report: RunReport, about: Mapping[str, Any]) -> RunReport:
    """The report that says of itself where it stands in Phoenix."""
    return replace(report, info=replace(report.info, notes={**report.info.notes, "phoenix": dict(about)}))
