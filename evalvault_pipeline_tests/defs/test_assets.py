"""The asset family of a dataset, run on a real Dagster instance."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import pytest

from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.publishing.tables import read_batch, read_scores
from evalvault_pipeline_tests.defs.conftest import Project, cases_of

SCORES = dg.AssetKey(["demo", "scores"])
CASES = dg.AssetKey(["demo", "cases"])
REPORT = dg.AssetKey(["demo", "report"])


def materialized(project: Project, key: dg.AssetKey) -> list[str | None]:
    records = project.instance.fetch_materializations(key, limit=100, ascending=True).records
    return [record.partition_key for record in records]


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(
        f"{event.step_failure_data.user_failure_data.description if event.step_failure_data.user_failure_data else ''}"
        for event in result.all_events
        if event.is_step_failure
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_range_is_scored_in_one_run_with_one_materialization_a_batch_and_one_report(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    result = project.run(range_tags(project.register("2026w47")))
    assert result.success
    keys = ["2026w47/0001", "2026w47/0002", "2026w47/0003"]
    assert sorted(map(str, materialized(project, CASES))) == sorted(map(str, materialized(project, SCORES))) == keys
    assert materialized(project, REPORT) == [None]
    report = project.report("2026w47")
    assert (report["total_test_cases"], report["pass_rate"], report["coverage"], report["batches"]) == (5, 1.0, 1.0, keys)
    assert report["run_id"] == result.run_id


def test_the_report_shows_its_figures_and_its_worst_cases_in_the_ui(project: Project) -> None:
    project.write("2026w47", cases_of(10, bad=1))
    project.run(range_tags(project.register("2026w47")))
    event = project.instance.get_latest_materialization_event(REPORT)
    metadata = event.asset_materialization.metadata
    assert metadata["pass_rate"].value == 0.9
    assert metadata["snapshot"].value == "2026w47"
    assert metadata["mean_exact_match"].value == 0.9
    assert "| c1 |" in metadata["worst_cases"].value
    assert metadata["results"].value == str(project.results.results_file("2026w47"))


def test_a_batch_of_the_ui_shows_how_its_cases_did(project: Project) -> None:
    project.write("2026w47", cases_of(4, bad=1))
    project.run(range_tags(project.register("2026w47")))
    records = project.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=SCORES, asset_partitions=["2026w47/0001"]), limit=1
    ).records
    metadata = records[0].asset_materialization.metadata
    assert (metadata["passed_cases"].value, metadata["failed_cases"].value, metadata["cases"].value) == (1, 1, 2)


def test_the_tables_are_what_was_scored(project: Project) -> None:
    project.write("2026w47", cases_of(3, bad=1))
    project.run(range_tags(project.register("2026w47")))
    batch = read_batch(project.results.cases_file("2026w47/0002"))
    scored = read_scores(project.results.scores_file("2026w47/0002"), batch)
    assert [case.case_id for case in batch.cases] == ["c3"]
    assert [(score.metric, score.value) for score in scored.scores] == [("exact_match", 1.0), ("number_consistency", 1.0)]


def test_a_single_batch_can_be_run_and_the_report_says_which_batches_it_stands_on(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    project.register("2026w47")
    result = project.run({"dagster/partition": "2026w47/0002"})
    assert result.success
    report = project.report("2026w47")
    assert (report["batches"], report["missing_batches"]) == (["2026w47/0002"], ["2026w47/0001", "2026w47/0003"])
    assert (report["total_test_cases"], checks(result)["every_case_scored"]) == (2, False)


def test_a_second_run_takes_every_score_from_the_store(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    tags = range_tags(project.register("2026w47"))
    project.run(tags)
    assert project.report("2026w47")["cache"] == {"hits": 0, "misses": 10}
    project.run(tags)
    assert project.report("2026w47")["cache"] == {"hits": 10, "misses": 0}


def test_a_changed_snapshot_is_scored_anew_and_pays_for_the_changed_case_only(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    project.run(range_tags(project.register("2026w47")))
    changed = cases_of(7)
    changed[0]["answer"] = "The limit is 99 dollars."
    project.write("2026w47", changed)
    project.run(range_tags(project.register("2026w47")))
    report = project.report("2026w47")
    assert (report["total_test_cases"], report["cache"]) == (7, {"hits": 8, "misses": 6})
    assert report["passed_test_cases"] == 6


def test_batches_of_an_older_version_of_the_file_are_left_out_and_named(project: Project) -> None:
    project.write("2026w47", cases_of(4))
    project.run(range_tags(project.register("2026w47")))
    project.write("2026w47", cases_of(4, bad=2))
    project.run({"dagster/partition": project.register("2026w47")[0]})
    report = project.report("2026w47")
    assert (report["batches"], report["missing_batches"], report["pass_rate"]) == (["2026w47/0001"], ["2026w47/0002"], 0.0)


def test_a_worse_snapshot_ends_the_run_with_a_failure_and_still_has_its_report(project: Project) -> None:
    project.write("2026w47", cases_of(10, bad=5))
    result = project.run(range_tags(project.register("2026w47")))
    assert not result.success
    assert checks(result) == {"pass_rate_at_least_minimum": False, "every_case_scored": True}
    assert project.report("2026w47")["pass_rate"] == 0.5


def test_the_minimum_of_the_catalog_comes_before_that_of_the_settings(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + "min_pass_rate = 0.5\n")
    project.write("2026w47", cases_of(10, bad=5))
    assert project.run(range_tags(project.register("2026w47"))).success


def test_metrics_without_a_judge_are_unmeasured_and_lower_the_coverage_not_the_mean(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text().replace('"number_consistency"', '"faithfulness"'))
    project.write("2026w47", cases_of(4))
    result = project.run(range_tags(project.register("2026w47")))
    report = project.report("2026w47")
    assert (report["coverage"], report["avg_exact_match"], report["avg_faithfulness"]) == (0.5, 1.0, None)
    assert (report["pass_rate_bounds"], report["unmeasured_by_reason"]) == ([0.0, 1.0], {"no_judge": 4})
    assert checks(result) == {"every_case_scored": False, "pass_rate_at_least_minimum": False}
    assert result.success, "nothing is known to be worse, so nothing fails"
    shown = {check.check_name: check.description or "" for check in result.get_asset_check_evaluations()}
    assert shown["pass_rate_at_least_minimum"].endswith("inconclusive, 4 cases are unmeasured")


def test_a_bad_row_refuses_the_snapshot_with_file_line_and_remedy(project: Project) -> None:
    cases = cases_of(4)
    project.write("2026w47", cases)
    tags = range_tags(project.register("2026w47"))
    cases[2]["contexts"] = "no list"
    file = project.write("2026w47", cases)
    result = project.run(tags)
    assert not result.success
    text = failure_text(result)
    assert f"{file}:1: contexts: is text" in text and 'Write a list of texts: ["...", "..."].' in text
    assert materialized(project, CASES) == []


def test_a_batch_that_its_snapshot_no_longer_has_is_refused_by_name(project: Project) -> None:
    project.write("2026w47", cases_of(2))
    project.register("2026w47")
    project.instance.add_dynamic_partitions("demo_batches", ["2026w47/0009"])
    result = project.run({"dagster/partition": "2026w47/0009"})
    assert not result.success
    assert "no part of their snapshot any more: 2026w47/0009" in failure_text(result)


def test_a_removed_snapshot_leaves_its_history(project: Project) -> None:
    file = project.write("2026w47", cases_of(4))
    project.run(range_tags(project.register("2026w47")))
    file.unlink()
    assert len(materialized(project, SCORES)) == 2
    assert project.results.results_file("2026w47").exists()
    result = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={REPORT})
    assert result.execute_in_process(instance=project.instance).success


def test_a_run_over_several_snapshots_reports_on_each_in_order(project: Project) -> None:
    project.write("2026w46", cases_of(4))
    project.write("2026w47", cases_of(10, bad=1))
    keys = [*project.register("2026w46"), *project.register("2026w47")]
    assert project.run(range_tags(keys)).success
    records = project.instance.fetch_materializations(REPORT, limit=10, ascending=True).records
    shown = [(r.asset_materialization.metadata["snapshot"].value, r.asset_materialization.metadata["pass_rate"].value) for r in records]
    assert shown == [("2026w46", 1.0), ("2026w47", 0.9)]


def test_a_report_without_a_range_covers_every_snapshot_with_newer_scores(project: Project) -> None:
    """An asset backfill runs the unpartitioned report in a run of its own, which knows no range."""
    for snapshot in ("2026w46", "2026w47"):
        project.write(snapshot, cases_of(2))
        keys = project.register(snapshot)
        job = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={CASES, SCORES})
        assert job.execute_in_process(instance=project.instance, tags=range_tags(keys)).success
    report = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={REPORT})
    assert report.execute_in_process(instance=project.instance).success
    records = project.instance.fetch_materializations(REPORT, limit=10, ascending=True).records
    assert [r.asset_materialization.metadata["snapshot"].value for r in records] == ["2026w46", "2026w47"]


def test_a_report_before_any_score_says_what_to_do(project: Project) -> None:
    report = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={REPORT})
    result = report.execute_in_process(instance=project.instance, raise_on_error=False)
    assert "Materialize demo/scores first" in failure_text(result)


def test_thresholds_of_the_dataset_file_come_before_those_of_the_catalog(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + "[datasets.demo.thresholds]\nexact_match = 0.9\nnumber_consistency = 0.4\n")
    project.write("2026w47", cases_of(2), thresholds={"exact_match": 0.2, "chrf": None})
    project.run(range_tags(project.register("2026w47")))
    assert project.report("2026w47")["thresholds"] == {"exact_match": 0.2, "number_consistency": 0.4}


def test_all_datasets_are_evaluated_by_one_job_that_registers_their_newest_snapshots(project: Project) -> None:
    project.write("2026w46", cases_of(2))
    project.write("2026w47", cases_of(4))
    assert project.run({}, job="all_datasets_evaluation_job").success
    assert not project.results.results_file("2026w46").exists()
    assert project.report("2026w47")["total_test_cases"] == 4


def test_the_job_for_all_datasets_fails_with_the_word_of_the_one_that_failed(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + CATALOG_OF_ANOTHER)
    (project.folder / "datasets" / "other").mkdir()
    (project.folder / "datasets" / "other" / "w1.json").write_text("[")
    project.write("2026w47", cases_of(4))
    result = project.run({}, job="all_datasets_evaluation_job")
    assert not result.success
    assert "other w1: " in failure_text(result) and "not valid JSON" in failure_text(result)
    assert project.report("2026w47")["pass_rate"] == 1.0


CATALOG_OF_ANOTHER = '\n[datasets.other]\nfiles = "datasets/other/*"\nmetrics = ["chrf"]\n'


def test_registering_every_snapshot_makes_a_fresh_instance_ready_for_a_range(project: Project) -> None:
    project.write("2026w46", cases_of(2))
    project.write("2026w47", cases_of(4))
    assert project.run({}, job="register_snapshots_job").success
    assert project.instance.get_dynamic_partitions("demo_batches") == ["2026w46/0001", "2026w47/0001", "2026w47/0002"]


def test_the_weekly_schedule_asks_once_a_monday_in_the_zone_of_the_settings(project: Project) -> None:
    repository = project.definitions.get_repository_def()
    schedule = repository.get_schedule_def("weekly_evaluation_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 9 * * 1", "Asia/Seoul")
    context = dg.build_schedule_context(
        instance=project.instance, scheduled_execution_time=datetime(2026, 11, 23, tzinfo=UTC), repository_def=repository
    )
    requests = schedule.evaluate_tick(context).run_requests
    assert [request.run_key for request in requests or []] == ["2026-11-23"]


@pytest.mark.parametrize(("per_run", "expected"), [(None, None), (3, 3)])
def test_partitions_per_run_of_the_catalog_spread_a_snapshot_over_runs(project: Project, per_run: int | None, expected: int | None) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + (f"partitions_per_run = {per_run}\n" if per_run else ""))
    node = project.definitions.resolve_asset_graph().get(SCORES)
    assert node.backfill_policy.max_partitions_per_run == expected


def test_the_run_file_is_json_that_names_profile_and_digest(project: Project) -> None:
    project.write("2026w47", cases_of(2))
    project.run(range_tags(project.register("2026w47")))
    text = project.results.results_file("2026w47").read_text(encoding="utf-8")
    assert json.loads(text)["profile"] == "offline"
    assert len(json.loads(text)["dataset_digest"]) == 64
