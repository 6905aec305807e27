"""Everything of a code location put together: every dataset of the catalog as assets, jobs, a schedule, a sensor."""

from __future__ import annotations

import warnings

import dagster as dg

from evalvault_pipeline.cases.catalog import Catalog
from evalvault_pipeline.defs.alerts import alert_job, digest_job, pass_rate_alert_sensor
from evalvault_pipeline.defs.assets import dataset_assets
from evalvault_pipeline.defs.backups import backup_job
from evalvault_pipeline.defs.executors import executor_named
from evalvault_pipeline.defs.io_managers import CasesIOManager, ReportIOManager, ScoresIOManager
from evalvault_pipeline.defs.jobs import all_datasets_job, daily_job, dataset_job, promote_job, register_job
from evalvault_pipeline.defs.resources import JudgeResource, PhoenixResource, ScoreStoreResource
from evalvault_pipeline.defs.retention import retention_job
from evalvault_pipeline.defs.schedules import (
    backup_schedule,
    daily_schedule,
    digest_schedule,
    retention_schedule,
    weekly_schedule,
)
from evalvault_pipeline.defs.sensors import new_snapshot_sensor
from evalvault_pipeline.publishing.phoenix import shown
from evalvault_pipeline.scoring.metrics import metrics_by_name
from evalvault_pipeline.settings import Settings


def build_definitions(settings: Settings, catalog: Catalog) -> dg.Definitions:
    """The code location for these settings and this catalog."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill_policy, which the design stands on
    for spec in catalog.datasets.values():
        metrics_by_name([*spec.metrics, *spec.thresholds])
    specs = list(catalog.datasets.values())
    jobs = [dataset_job(spec, settings) for spec in specs]

    def job_named(name: str) -> dg.JobDefinition:
        return definitions.resolve_job_def(name)

    everything, daily = all_datasets_job(catalog, job_named, settings), daily_job(catalog, job_named, settings)
    alerts, digest, retention, backup = alert_job(), digest_job(), retention_job(), backup_job()
    results_dir = str(settings.results_dir)
    definitions = dg.Definitions(
        assets=[asset for spec in specs for asset in dataset_assets(spec, settings)],
        jobs=[*jobs, everything, daily, register_job(catalog), promote_job(settings), alerts, digest, retention, backup],
        schedules=[
            weekly_schedule(everything, settings),
            daily_schedule(daily, settings),
            digest_schedule(digest, settings),
            retention_schedule(retention, settings),
            backup_schedule(backup, settings),
        ],
        sensors=[
            *([new_snapshot_sensor(catalog, jobs)] if jobs else []),
            pass_rate_alert_sensor(catalog, settings, alerts),
        ],
        resources={
            "cases_io": CasesIOManager(results_dir=results_dir),
            "scores_io": ScoresIOManager(results_dir=results_dir),
            "report_io": ReportIOManager(results_dir=results_dir),
            "score_store": ScoreStoreResource(default_url=settings.default_store_url),
            "phoenix": PhoenixResource(enabled=settings.phoenix_enabled, endpoint=shown(settings.phoenix_endpoint)),
            "judge": JudgeResource(profile=settings.profile.name, judge=settings.profile.judge),
        },
        executor=executor_named(settings.executor),
    )
    return definitions
