"""A dataset's assets in Phoenix: `phoenix_dataset` -> `phoenix_experiment`, for each snapshot that the run reported on.

They stand beside the verdict, not before it: where Phoenix does not answer, an evaluation goes on, and these two can be
materialized later. Without PHOENIX_ENABLED they record nothing.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.defs.verdict_assets import reported_in_this_run, reported_snapshots
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.evaluate import record_run, recorded_report
from evalvault_pipeline.publishing.phoenix import PhoenixAccess, PhoenixServer
from evalvault_pipeline.publishing.phoenix_upload import PhoenixDataset, dataset_at
from evalvault_pipeline.publishing.results_file import replacing, write_results
from evalvault_pipeline.publishing.tables import ResultsFolder
from evalvault_pipeline.settings import Settings
from evalvault_pipeline.tracking import cases_to_phoenix, run_to_phoenix


def phoenix_assets(spec: DatasetSpec, settings: Settings) -> list[dg.AssetsDefinition]:
    """`<dataset>/phoenix_dataset` and `<dataset>/phoenix_experiment`."""
    folder = ResultsFolder(root=settings.results_dir, dataset=spec.name)
    common: dict[str, Any] = {
        "group_name": spec.name,
        "owners": list(spec.owners),
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "output_required": False,
        "dagster_type": dg.Nothing,
        # One upload at a time: the server has one writer. Where it is off, a killed run must not keep the slot.
        "pool": "phoenix" if settings.phoenix_enabled else None,
        "kinds": {"phoenix"},
    }

    @dg.asset(
        key=[spec.name, "phoenix_dataset"],
        deps=[[spec.name, "report"]],
        description="The cases of a snapshot as a dataset in Phoenix, by their ids; an unchanged one makes no new version.",
        **common,
    )
    @scrubbed
    def phoenix_dataset(context: dg.AssetExecutionContext, phoenix: dg.ResourceParam[PhoenixAccess | None]) -> Iterator[Any]:
        yield from _uploaded(context, spec, folder, phoenix, upload_cases)

    @dg.asset(
        key=[spec.name, "phoenix_experiment"],
        deps=[[spec.name, "phoenix_dataset"], [spec.name, "drift_report"]],
        description="The answers and scores of a run as an experiment in Phoenix, beside that of the promoted baseline.",
        **common,
    )
    @scrubbed
    def phoenix_experiment(
        context: dg.AssetExecutionContext,
        phoenix: dg.ResourceParam[PhoenixAccess | None],
        score_store: dg.ResourceParam[str],
    ) -> Iterator[Any]:
        def upload_run(server: PhoenixServer, snapshot: str) -> dict[str, Any]:
            report = recorded_report(folder, snapshot)
            dataset = _kept(server, folder, snapshot) or cases_to_phoenix(server, report, name=spec.phoenix_dataset)
            report, experiment = run_to_phoenix(server, dataset, report, settings, labels=_topics(folder, snapshot))
            write_results(folder.results_file(snapshot), report)
            record_run(report, store_url=score_store)
            urls = {"experiment": experiment.url, **({"compare": experiment.compare_url} if experiment.compare_url else {})}
            return {
                "snapshot": snapshot,
                **experiment.counts,
                **{name: dg.MetadataValue.url(url) for name, url in urls.items()},
            }

        yield from _uploaded(context, spec, folder, phoenix, upload_run)

    def upload_cases(server: PhoenixServer, snapshot: str) -> dict[str, Any]:
        dataset = cases_to_phoenix(server, recorded_report(folder, snapshot), name=spec.phoenix_dataset)
        with replacing(folder.file(snapshot, "phoenix.json")) as file:
            json.dump(dataset.about, file, indent=2)
        return {
            "snapshot": snapshot,
            "cases": len(dataset.nodes),
            "version": dataset.version_id,
            "dataset": dg.MetadataValue.url(dataset.url),
        }

    return [phoenix_dataset, phoenix_experiment]


def _uploaded(
    context: dg.AssetExecutionContext,
    spec: DatasetSpec,
    folder: ResultsFolder,
    access: PhoenixAccess | None,
    upload: Callable[[PhoenixServer, str], dict[str, Any]],
) -> Iterator[Any]:
    """One materialization per snapshot. What fails, fails the run only where it is no evaluation."""
    if access is None:
        context.log.info("Phoenix is off: set PHOENIX_ENABLED=true to send runs there")
        return
    try:
        with PhoenixServer(access) as server:
            metadata = [upload(server, snapshot) for snapshot in reported_snapshots(context, spec, folder)]
    except PipelineError as error:
        if not reported_in_this_run(context, spec):
            raise dg.Failure(str(error), allow_retries=False) from None
        context.log.error(f"{error} Materialize {context.asset_key.to_user_string()} when it is back.")
        return
    for earlier in metadata[:-1]:
        context.log_event(dg.AssetMaterialization(context.asset_key, metadata=earlier))
    yield dg.MaterializeResult(metadata=metadata[-1])


def _topics(folder: ResultsFolder, snapshot: str) -> dict[str, str]:
    """The cluster of each case, by the drift report."""
    file = folder.file(snapshot, "drift.json")
    if not file.exists():
        return {}
    labels: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["labels"]
    return labels


def _kept(server: PhoenixServer, folder: ResultsFolder, snapshot: str) -> PhoenixDataset | None:
    """The version of the dataset that this snapshot was uploaded as, where this server still has it."""
    file = folder.file(snapshot, "phoenix.json")
    if not file.exists():
        return None
    about = json.loads(file.read_text(encoding="utf-8"))
    return dataset_at(server, about["id"], name=about["name"], version_id=about["version_id"])
