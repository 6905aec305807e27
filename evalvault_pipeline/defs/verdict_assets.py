"""The end of a dataset's assets: report -> comparison (with the promoted baseline) -> verdict.

What is compared and decided stands in the room `reporting`; the same functions run behind `evalvault compare` and `gate`.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.defs.checks import check_verdicts, verdict_check_specs
from evalvault_pipeline.defs.partitions import batch_partitions, snapshots_in
from evalvault_pipeline.defs.retries import attempts
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.publishing import charts
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.html import write_html
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.results_file import replacing
from evalvault_pipeline.publishing.tables import ResultsFolder
from evalvault_pipeline.publishing.verdict_file import write_verdict
from evalvault_pipeline.publishing.verdict_markdown import (
    HOW_TO_READ,
    MARKS,
    comparison_markdown,
    difference_table,
    verdict_markdown,
)
from evalvault_pipeline.reporting.comparison import Comparison
from evalvault_pipeline.reporting.gate import MINIMUM_PAIRS, GateRules, Outcome, Rule, Verdict
from evalvault_pipeline.reporting.recorded import RecordedRun, known
from evalvault_pipeline.reporting.statistics import exact_worsening
from evalvault_pipeline.settings import Settings
from evalvault_pipeline.verdicts import trend_of, verdict_on

NO_BASELINE = "No baseline is promoted: evalvault baseline set RUN_ID"


def verdict_assets(spec: DatasetSpec, settings: Settings) -> list[dg.AssetsDefinition]:
    """`<dataset>/comparison` and `<dataset>/verdict`, for each snapshot that the run reported on."""
    folder = ResultsFolder(root=settings.results_dir, dataset=spec.name)
    common: dict[str, Any] = {
        "group_name": spec.name,
        "owners": list(spec.owners),
        "backfill_policy": dg.BackfillPolicy.single_run(),
    }
    rules = gate_rules(spec, settings)

    @dg.asset(
        key=[spec.name, "comparison"],
        deps=[[spec.name, "report"]],
        description="A snapshot against the promoted baseline, case by case: what changed, by how much, and how sure that is.",
        dagster_type=dg.Nothing,
        kinds={"markdown"},
        **common,
    )
    @scrubbed
    def comparison(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster refuses a parameter here
        verdicts = _verdicts(context, spec, settings, rules)
        metadata = [_compared(verdict, folder) for verdict in verdicts]
        for earlier in metadata[:-1]:
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=earlier))
        return dg.MaterializeResult(metadata=metadata[-1])

    @dg.asset(
        key=[spec.name, "verdict"],
        deps=[[spec.name, "report"], [spec.name, "comparison"]],
        description="Pass, fail or inconclusive: whether a snapshot is good enough, and no worse than the promoted baseline.",
        kinds={"json", "html"},
        check_specs=verdict_check_specs(dg.AssetKey([spec.name, "verdict"])),
        **common,
    )
    @scrubbed
    def verdict(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster refuses a parameter here
        verdicts = _verdicts(context, spec, settings, rules)
        metadata = [_decided(one, folder, settings) for one in verdicts]
        for one in verdicts:
            _tell(context, one)
        for earlier in metadata[:-1]:
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=earlier))
        return dg.MaterializeResult(metadata=metadata[-1], check_results=check_verdicts(verdicts))

    return [comparison, verdict]


def gate_rules(spec: DatasetSpec, settings: Settings) -> GateRules:
    """The rules of a dataset: the catalog's minimum over that of the settings."""
    return GateRules(
        min_pass_rate=settings.min_pass_rate if spec.min_pass_rate is None else spec.min_pass_rate,
        margin=settings.margin,
        min_coverage=settings.gate_min_coverage,
    )


def _verdicts(context: dg.AssetExecutionContext, spec: DatasetSpec, settings: Settings, rules: GateRules) -> list[Verdict]:
    folder = ResultsFolder(root=settings.results_dir, dataset=spec.name)
    try:
        baseline = Baselines(settings.baselines_dir).find(spec.name)
        files = [folder.results_file(snapshot) for snapshot in reported_snapshots(context, spec, folder)]
        return [verdict_on(read_run(file), baseline, rules=rules) for file in files]
    except PipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def reported_snapshots(context: dg.AssetExecutionContext, spec: DatasetSpec, folder: ResultsFolder) -> list[str]:
    """Those that this run reported on; else those that its tags name; else the newest with a report."""
    existing = context.instance.get_dynamic_partitions(batch_partitions(spec.name).name or "")
    there = [snapshot for snapshot in folder.snapshots() if folder.results_file(snapshot).exists()]
    wanted = reported_in_this_run(context, spec) or snapshots_in(context.run.tags, existing) or there[-1:]
    if not wanted:
        raise dg.Failure(f"{spec.name} has no report yet. Materialize {spec.name}/report first.", allow_retries=False)
    return list(dict.fromkeys(wanted))


def reported_in_this_run(context: dg.AssetExecutionContext, spec: DatasetSpec) -> list[str]:
    """The snapshots on which the run of this step has reported, or the one that it retries."""
    report = dg.AssetKey([spec.name, "report"])
    of_type = dg.DagsterEventType.ASSET_MATERIALIZATION
    return [
        str(event.dagster_event.materialization.metadata["snapshot"].value)
        for run_id in attempts(context.instance, context.run)
        for event in context.instance.all_logs(run_id, of_type=of_type)
        if event.dagster_event and event.dagster_event.asset_key == report
    ]


def _compared(verdict: Verdict, folder: ResultsFolder) -> dict[str, Any]:
    """Write comparison.md; what the UI shows of it."""
    snapshot = str(verdict.run.header["snapshot"])
    file = folder.file(snapshot, "comparison.md")
    comparison = verdict.comparison
    with replacing(file) as open_file:
        open_file.write(comparison_markdown(comparison) if comparison else f"{NO_BASELINE}\n")
    if comparison is None:
        return {"snapshot": snapshot, "baseline": NO_BASELINE}
    rate = comparison.pass_rate
    figures = {"difference": rate.difference, "difference_low": (rate.interval or (None,))[0]}
    return {
        "snapshot": snapshot,
        "baseline": f"{comparison.baseline.header['snapshot']}, run {comparison.baseline.run_id}",
        **{name: round(float(value), 4) for name, value in figures.items() if value is not None},
        "pairs": rate.pairs,
        "newly_failing": len(comparison.newly_failing),
        "newly_passing": len(comparison.newly_passing),
        "unpaired": len(comparison.only_in_baseline) + len(comparison.only_in_candidate) + len(comparison.changed_inputs),
        "differences": dg.MetadataValue.md("\n".join(difference_table(comparison, narrow=True))),
        "changes": dg.MetadataValue.md(comparison_markdown(comparison, limit=30_000)),
        "scores": dg.MetadataValue.md(_plots(comparison)),
        "comparison": dg.MetadataValue.path(str(file)),
    }


def _plots(comparison: Comparison) -> str:
    """Each metric in the baseline (across) and the candidate (up), as pictures that Markdown can hold."""
    return _pictures(
        {
            one.name: charts.scatter_png(*one.scores, threshold=comparison.candidate.threshold(one.name), title=one.name)
            for one in comparison.metrics
            if one.pairs
        }
    )


def _distributions(run: RecordedRun) -> str:
    """How many cases have which score, a picture for each metric of which anything was measured."""
    return _pictures(
        {
            name: charts.histogram_png(
                values, threshold=run.threshold(name), lower_is_better=run.lower_is_better(name), title=name
            )
            for name, values in run.values.items()
            if known(values).any()
        }
    )


def _pictures(pictures: Mapping[str, bytes]) -> str:
    """Pictures that Markdown can hold."""
    return "\n".join(f"![{name}](data:image/png;base64,{base64.b64encode(data).decode()})" for name, data in pictures.items())


def _decided(verdict: Verdict, folder: ResultsFolder, settings: Settings) -> dict[str, Any]:
    """Write verdict.json and report.html; what the UI shows of them."""
    run = verdict.run
    snapshot = str(run.header["snapshot"])
    files = {"verdict": folder.file(snapshot, "verdict.json"), "report": folder.file(snapshot, "report.html")}
    write_verdict(files["verdict"], verdict)
    told = verdict.finding(Rule.NOT_WORSE)
    worse = verdict.comparison.pass_rate if verdict.comparison else None
    language = "ko" if run.header.get("language") == "ko" else "en"
    write_html(files["report"], verdict, trend=trend_of(run, settings), language=language)
    return {
        "snapshot": snapshot,
        "outcome": verdict.outcome.value,
        "pass_rate": round(run.passed / len(run.case_ids), 4),
        **({"not_worse": told.outcome.value, "not_worse_because": told.sentence} if told else {}),
        **(
            {"comparable": verdict.comparison.comparable and worse.pairs >= MINIMUM_PAIRS}
            if verdict.comparison and worse
            else {}
        ),
        **({"worse_p_value": round(exact_worsening(worse.newly_failing, worse.newly_passing), 6)} if worse else {}),
        "evidence": evidence_of(run),
        "why": dg.MetadataValue.md(verdict_markdown(verdict, limit=30_000)),
        "distributions": dg.MetadataValue.md(_distributions(run)),
        **{name: place_of(file, settings) for name, file in files.items()},
    }


def place_of(file: Path, settings: Settings) -> dg.MetadataValue[Any]:
    """The address of a file of the results folder, where that is served (EVALVAULT_REPORTS_URL); else its path."""
    if settings.reports_url is None:
        return dg.MetadataValue.path(str(file))
    return dg.MetadataValue.url(f"{settings.reports_url}/{file.relative_to(settings.results_dir).as_posix()}")


def evidence_of(run: RecordedRun) -> str:
    """What was measured, in one word: the same for a run whose scores all came from the store."""
    content = hashlib.sha256("".join(run.case_digests).encode())
    for name in sorted(run.values):
        content.update(run.values[name].tobytes())
    return content.hexdigest()[:16]


def _tell(context: dg.AssetExecutionContext, verdict: Verdict) -> None:
    said = f"{verdict.run.name}: {MARKS[verdict.outcome]}. {verdict.headline}"
    if verdict.outcome is Outcome.PASS:
        context.log.info(said)
    elif verdict.outcome is Outcome.FAIL:
        context.log.error(said)
    else:
        context.log.warning(f"{said}. {HOW_TO_READ} This run goes on, and ends with exit code 0.")
