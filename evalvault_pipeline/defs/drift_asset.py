"""`<dataset>/drift_report`: whether the questions of a snapshot still resemble those of the reference one."""

import base64
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.defs.verdict_assets import reported_snapshots
from evalvault_pipeline.drifting import drift_of
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.publishing.drift_page import drift_tables, write_drift
from evalvault_pipeline.publishing.tables import ResultsFolder
from evalvault_pipeline.reporting.drift import Drift
from evalvault_pipeline.settings import Settings

CHECK = "questions_resemble_the_reference"


def drift_asset(spec: DatasetSpec, settings: Settings) -> dg.AssetsDefinition:
    """The drift report of each snapshot that the run reported on."""
    folder = ResultsFolder(root=settings.results_dir, dataset=spec.name)
    key = dg.AssetKey([spec.name, "drift_report"])

    @dg.asset(
        key=key,
        deps=[[spec.name, "report"]],
        group_name=spec.name,
        owners=list(spec.owners),
        backfill_policy=dg.BackfillPolicy.single_run(),
        description="A map of the questions with their topics, and how far they, answers and scores moved from the reference.",
        kinds={"html"},
        check_specs=[
            dg.AssetCheckSpec(CHECK, asset=key, description="No test says, at 1 %, that the questions are others than before.")
        ],
    )
    @scrubbed
    def drift_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster refuses a parameter here
        try:
            drifts = [drift_of(folder, snapshot, settings) for snapshot in reported_snapshots(context, spec, folder)]
            metadata = [_written(drift, folder) for drift in drifts]
        except PipelineError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        for earlier in metadata[:-1]:
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=earlier))
        moved = [drift for drift in drifts if not drift.resembles]
        check = dg.AssetCheckResult(
            check_name=CHECK,
            passed=not moved,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(f"{drift.current.snapshot}: {drift.sentence}" for drift in (moved or drifts[-1:])),
        )
        return dg.MaterializeResult(metadata=metadata[-1], check_results=[check])

    return drift_report


def _written(drift: Drift, folder: ResultsFolder) -> dict[str, Any]:
    files = write_drift(folder.results_file(drift.current.snapshot).parent, drift)
    picture = base64.b64encode(files["png"].read_bytes()).decode()
    figures = {f"{shift.statistic.lower().replace('²', '').replace(' ', '_')}_{shift.name}": shift for shift in drift.shifts}
    asked = {name: shift for name, shift in figures.items() if not name.startswith("difference")}
    return {
        "snapshot": drift.current.snapshot,
        "reference": drift.reference.snapshot if drift.reference else "none",
        "embedder": drift.embedder,
        **{name: round(shift.value, 4) for name, shift in asked.items() if shift.value is not None},
        **{f"p_{name}": round(shift.p_value, 4) for name, shift in asked.items() if shift.p_value is not None},
        "map": dg.MetadataValue.md(f"![map](data:image/png;base64,{picture})"),
        "tables": dg.MetadataValue.md(drift_tables(drift)),
        **{name: dg.MetadataValue.path(str(file)) for name, file in files.items()},
    }
