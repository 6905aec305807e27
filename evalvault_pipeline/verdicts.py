"""From a run and the name of its baseline to the verdict, in one call: behind `evalvault compare|gate|report` and Dagster."""

from __future__ import annotations

from pathlib import Path

from evalvault_pipeline.errors import UnusableResults
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, Verdict, decide
from evalvault_pipeline.reporting.recorded import RecordedRun, TrendPoint
from evalvault_pipeline.settings import Settings

LATEST, PROMOTED = "latest", "promoted"


def find_baseline(name: str, run: RecordedRun, settings: Settings) -> RecordedRun:
    """The baseline that `name` stands for: a results file, `promoted`, `latest` (the run before), or a run id of the store.

    Raises UnknownRun, UnusableResults, UnreadableFile, ScoreStoreUnavailable.
    """
    dataset = str(run.header["dataset_name"])
    if name == PROMOTED:
        return Baselines(settings.baselines_dir).get(dataset)
    path = Path(name)
    if name != LATEST and (path.exists() or path.suffix or len(path.parts) > 1):
        return read_run(path)
    with RunHistory(settings.score_store_url) as history:
        if name == LATEST:
            return history.latest(dataset, before=_finished(run), but=run.run_id)
        return history.find(name)


def verdict_on(
    run: RecordedRun, baseline: RecordedRun | None, *, rules: GateRules, slice_keys: list[str] | None = None
) -> Verdict:
    """Compare, where there is a baseline, and decide. Raises UnusableResults."""
    if not run.case_ids:
        raise UnusableResults(f"{run.source} holds no case: nothing can be decided. Score a dataset that has some.")
    comparison = compare_runs(baseline, run, slice_keys=slice_keys) if baseline is not None else None
    return decide(run, rules=rules, comparison=comparison)


def trend_of(run: RecordedRun, settings: Settings) -> list[TrendPoint]:
    """The runs of this run's dataset up to it, the oldest first."""
    with RunHistory(settings.score_store_url) as history:
        return history.trend(str(run.header["dataset_name"]), until=_finished(run))


def _finished(run: RecordedRun) -> str:
    """When it ended, as ISO time; after all others where its file does not say."""
    return str(run.header.get("finished_at") or "9999")
