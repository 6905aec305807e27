"""`comparison`, `verdict`, their checks, and the promotion of a baseline, on a real Dagster instance."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline_tests.defs.conftest import Project, cases_of
from evalvault_pipeline_tests.defs.test_assets import checks, failure_text

COMPARISON, VERDICT = dg.AssetKey(["demo", "comparison"]), dg.AssetKey(["demo", "verdict"])


def evaluate(project: Project, snapshot: str, count: int, bad: int = 0) -> dg.ExecuteInProcessResult:
    project.write(snapshot, cases_of(count, bad=bad))
    return project.run(range_tags(project.register(snapshot)))


def promote(project: Project, run_id: str, **config: Any) -> dg.ExecuteInProcessResult:
    job = project.definitions.resolve_job_def("promote_baseline_job")
    asked = {"run_id": run_id, "promoted_by": "kim", **config}
    return job.execute_in_process(
        instance=project.instance, run_config={"ops": {"promote_baseline": {"config": asked}}}, raise_on_error=False
    )


def metadata(project: Project, key: dg.AssetKey) -> dict[str, Any]:
    event = project.instance.get_latest_materialization_event(key)
    assert event is not None and event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def file_of(project: Project, name: str, snapshot: str = "2026w47") -> str:
    return project.results.file(snapshot, name).read_text(encoding="utf-8")


def test_without_a_baseline_nothing_is_compared_and_the_verdict_stands_on_the_minimum(project: Project) -> None:
    result = evaluate(project, "2026w47", 40)
    assert result.success
    assert checks(result) == {
        "every_case_scored": True,
        "not_worse_than_baseline": True,
        "pass_rate_at_least_minimum": True,
        "questions_resemble_the_reference": True,
    }
    assert metadata(project, COMPARISON)["baseline"] == "No baseline is promoted: evalvault baseline set RUN_ID"
    shown = metadata(project, VERDICT)
    assert (shown["outcome"], shown["snapshot"], shown["pass_rate"]) == ("pass", "2026w47", 1.0)
    assert json.loads(file_of(project, "verdict.json"))["outcome"] == "pass"
    assert shown["distributions"].count("](data:image/png;base64,") == 2, "one picture a metric"
    assert file_of(project, "report.html").lower().startswith("<!doctype html>")


def test_a_snapshot_worse_than_the_promoted_run_ends_the_run_and_shows_table_and_plot(project: Project) -> None:
    first = evaluate(project, "2026w46", 60)
    assert promote(project, first.run_id).success
    result = evaluate(project, "2026w47", 60, bad=8)
    assert not result.success
    assert checks(result)["not_worse_than_baseline"] is False
    shown = metadata(project, COMPARISON)
    assert (shown["pairs"], shown["newly_failing"], shown["newly_passing"]) == (60, 8, 0)
    assert shown["baseline"] == f"2026w46, run {first.run_id}"
    assert "| **pass rate** | 100.0 % | 86.7 % | -13.3 | 8 / 0 |" in shown["differences"], "narrow enough for the page"
    assert "](data:image/png;base64," in shown["scores"]
    assert "### Newly failing: 8" in file_of(project, "comparison.md")
    assert json.loads(file_of(project, "verdict.json"))["exit_code"] == 1, "written before the check ends the run"


def test_an_unchanged_snapshot_passes_against_the_promoted_run(project: Project) -> None:
    assert promote(project, evaluate(project, "2026w46", 60).run_id).success
    result = evaluate(project, "2026w47", 60)
    assert result.success and checks(result)["not_worse_than_baseline"]
    assert "no answer and no score differs" in metadata(project, VERDICT)["why"]


def test_an_inconclusive_verdict_ends_nothing_and_the_log_says_how_to_read_it(project: Project) -> None:
    assert promote(project, evaluate(project, "2026w46", 60).run_id).success
    result = evaluate(project, "2026w47", 60, bad=3)
    assert result.success
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "not_worse_than_baseline"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.description or "").startswith("2026w47: inconclusive, pass rate 95.0 % after 100.0 %")
    records = project.instance.all_logs(result.run_id)
    (told,) = [record.user_message for record in records if "Inconclusive is neither" in record.user_message]
    assert "This run goes on, and ends with exit code 0" in told


def test_nothing_is_promoted_by_itself_and_a_promotion_says_who_and_when(project: Project) -> None:
    first = evaluate(project, "2026w46", 60)
    assert not project.settings.baselines_dir.exists()
    assert promote(project, first.run_id, note="release 1").success
    (line,) = (project.settings.baselines_dir / "demo.promotions.jsonl").read_text(encoding="utf-8").splitlines()
    promotion = json.loads(line)
    assert (promotion["run_id"], promotion["promoted_by"], promotion["note"]) == (first.run_id, "kim", "release 1")
    assert promotion["promoted_at"].endswith("+00:00")


def test_a_promotion_of_an_unknown_run_fails_and_says_what_there_is(project: Project) -> None:
    first = evaluate(project, "2026w46", 4)
    result = promote(project, "none")
    assert not result.success
    assert f"holds no run `none`. The newest are: {first.run_id}." in failure_text(result)


def test_a_baseline_that_cannot_be_read_fails_the_comparison_by_name(project: Project) -> None:
    promote(project, evaluate(project, "2026w46", 30).run_id)
    file = project.settings.baselines_dir / "demo.json"
    file.write_text(file.read_text(encoding="utf-8")[:400], encoding="utf-8")
    result = evaluate(project, "2026w47", 30)
    assert not result.success
    assert "the copy is not whole" in failure_text(result)
    assert project.report("2026w47")["pass_rate"] == 1.0


@pytest.mark.parametrize("asset", [COMPARISON, VERDICT])
def test_a_verdict_alone_is_that_of_the_newest_report(project: Project, asset: dg.AssetKey) -> None:
    evaluate(project, "2026w46", 4)
    evaluate(project, "2026w47", 4)
    job = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset})
    assert job.execute_in_process(instance=project.instance, raise_on_error=False).success
    assert metadata(project, asset)["snapshot"] == "2026w47"


def test_a_verdict_before_any_report_says_what_to_do(project: Project) -> None:
    job = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={VERDICT})
    result = job.execute_in_process(instance=project.instance, raise_on_error=False)
    assert "Materialize demo/report first" in failure_text(result)
