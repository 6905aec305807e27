"""The asset family of a dataset, run on a real Dagster instance."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline.defs.in_process_runs import PROCESS_TAG, bury_dead_runs, evaluate_snapshot
from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.errors import ScoreStoreUnavailable
from evalvault_pipeline.publishing.tables import read_batch, read_scores
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline_tests.conftest import from_the_store
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
    assert "| exact_match | 0.900 | ≥ 1 | 9 | 10 of 10 |" in metadata["metrics"].value, "narrow enough for the page"
    assert metadata["dataset_digest"].value == project.report("2026w47")["dataset_digest"][:16]


def test_where_the_results_folder_is_served_the_ui_links_to_it(project: Project) -> None:
    project.settings = project.settings.model_copy(update={"reports_url": "http://127.0.0.1:8080/results"})
    project.write("2026w47", cases_of(4))
    project.run(range_tags(project.register("2026w47")))
    shown = project.instance.get_latest_materialization_event(REPORT).asset_materialization.metadata
    assert shown["report"] == dg.MetadataValue.url("http://127.0.0.1:8080/results/demo/2026w47/report.md")
    shown = project.instance.get_latest_materialization_event(dg.AssetKey(["demo", "verdict"])).asset_materialization.metadata
    assert shown["report"] == dg.MetadataValue.url("http://127.0.0.1:8080/results/demo/2026w47/report.html")


def test_a_run_is_tagged_with_its_snapshot_for_the_list_of_runs(project: Project) -> None:
    name = "2026w47-" + "x" * 80
    project.write(name, cases_of(2))
    evaluate_snapshot(project.instance, project.spec, name, job=project.definitions.resolve_job_def("demo_evaluation_job"))
    (run,) = project.instance.get_runs()
    assert run.tags["evalvault/snapshot"] == name[:63], "Dagster refuses a longer value"


def personal_cases() -> list[dict[str, Any]]:
    cases = cases_of(3)
    cases[0]["answer"] += " Call 010-1234-5678 or write to hong@example.invalid."
    return cases


def test_what_was_masked_stands_at_the_cases_and_at_the_report_as_counts(project: Project) -> None:
    project.write("2026w47", personal_cases())
    project.run(range_tags(project.register("2026w47")))
    for key in (CASES, REPORT):
        event = project.instance.get_latest_materialization_event(key)
        metadata = event.asset_materialization.metadata
        told = [metadata[name].value for name in ("personal_data", "masked", "masked_cases")]
        assert told == ["1 EMAIL, 1 PHONE in 1 case", 2, 1]
    assert project.report("2026w47")["pii"] == {"policy": "redact", "masked": {"EMAIL": 1, "PHONE": 1}, "cases": 1}
    batch = read_batch(project.results.cases_file("2026w47/0001"))
    assert batch.cases[0].answer.endswith("Call [PHONE_1] or write to [EMAIL_1].")


def test_block_refuses_the_snapshot_by_line_and_field(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    file = project.write("2026w47", cases_of(3))
    tags = range_tags(project.register("2026w47"))
    catalog.write_text(catalog.read_text() + 'pii = "block"\n')
    project.write("2026w47", personal_cases())
    result = project.run(tags)
    assert not result.success
    assert f"{file}:1: case 1: answer: holds a phone number and an e-mail address. Take it out" in failure_text(result)
    assert materialized(project, CASES) == []


def test_off_warns_in_the_runs_log_and_in_the_ui(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + 'pii = "off"\n')
    project.write("2026w47", personal_cases())
    result = project.run(range_tags(project.register("2026w47")))
    warned = "demo 2026w47: pii is off: personal data is NOT masked"
    lines = [record.message for record in project.instance.all_logs(result.run_id) if record.level == logging.WARNING]
    assert any(warned in line for line in lines)
    event = project.instance.get_latest_materialization_event(REPORT)
    assert event.asset_materialization.metadata["personal_data"].value == "off: personal data is NOT masked"
    assert "010-1234-5678" in read_batch(project.results.cases_file("2026w47/0001")).cases[0].answer


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
    assert project.report("2026w47")["cache"] == from_the_store(0, 10)
    project.run(tags)
    assert project.report("2026w47")["cache"] == from_the_store(10, 0)


def test_a_changed_snapshot_is_scored_anew_and_pays_for_the_changed_case_only(project: Project) -> None:
    project.write("2026w47", cases_of(5))
    project.run(range_tags(project.register("2026w47")))
    changed = cases_of(7)
    changed[0]["answer"] = "The limit is 99 dollars."
    project.write("2026w47", changed)
    project.run(range_tags(project.register("2026w47")))
    report = project.report("2026w47")
    assert (report["total_test_cases"], report["cache"]) == (7, from_the_store(8, 6))
    assert report["passed_test_cases"] == 6


def test_batches_of_an_older_version_of_the_file_are_left_out_and_named(project: Project) -> None:
    project.write("2026w47", cases_of(4))
    project.run(range_tags(project.register("2026w47")))
    project.write("2026w47", cases_of(4, bad=2))
    project.run({"dagster/partition": project.register("2026w47")[0]})
    report = project.report("2026w47")
    assert (report["batches"], report["missing_batches"], report["pass_rate"]) == (["2026w47/0001"], ["2026w47/0002"], 0.0)


def test_a_worse_snapshot_ends_the_run_with_a_failure_and_still_has_its_report(project: Project) -> None:
    project.write("2026w47", cases_of(10, bad=6))
    result = project.run(range_tags(project.register("2026w47")))
    assert not result.success
    assert checks(result) == {
        "every_case_scored": True,
        "not_worse_than_baseline": True,
        "pass_rate_at_least_minimum": False,
        "questions_resemble_the_reference": True,
    }
    assert project.report("2026w47")["pass_rate"] == 0.4


def test_the_minimum_of_the_catalog_comes_before_that_of_the_settings(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + "min_pass_rate = 0.5\n")
    project.write("2026w47", cases_of(10, bad=6))
    assert project.run(range_tags(project.register("2026w47"))).success


def test_metrics_without_a_judge_are_unmeasured_and_lower_the_coverage_not_the_mean(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text().replace('"number_consistency"', '"faithfulness"'))
    project.write("2026w47", cases_of(4))
    result = project.run(range_tags(project.register("2026w47")))
    report = project.report("2026w47")
    assert (report["coverage"], report["avg_exact_match"], report["avg_faithfulness"]) == (0.5, 1.0, None)
    assert (report["pass_rate_bounds"], report["unmeasured_by_reason"]) == ([0.0, 1.0], {"no_judge": 4})
    assert checks(result) == {
        "every_case_scored": False,
        "not_worse_than_baseline": True,
        "pass_rate_at_least_minimum": False,
        "questions_resemble_the_reference": True,
    }
    assert result.success, "nothing is known to be worse, so nothing fails"
    shown = {check.check_name: check.description or "" for check in result.get_asset_check_evaluations()}
    assert shown["pass_rate_at_least_minimum"] == ("2026w47: inconclusive, no case was measured, so there is no pass rate")


def test_a_bad_row_refuses_the_snapshot_with_file_line_and_remedy(project: Project) -> None:
    cases = cases_of(4)
    project.write("2026w47", cases)
    tags = range_tags(project.register("2026w47"))
    cases[2]["contexts"] = "no list"
    file = project.write("2026w47", cases)
    result = project.run(tags)
    assert not result.success
    text = failure_text(result)
    assert f"{file}:1: case 3: contexts: is text" in text and 'Write a list of texts: ["...", "..."].' in text
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
    shown = [
        (r.asset_materialization.metadata["snapshot"].value, r.asset_materialization.metadata["pass_rate"].value)
        for r in records
    ]
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


def test_a_run_over_several_snapshots_fails_where_any_of_them_is_worse(project: Project) -> None:
    project.write("2026w46", cases_of(10, bad=6))
    project.write("2026w47", cases_of(4))
    keys = [*project.register("2026w46"), *project.register("2026w47")]
    result = project.run(range_tags(keys))
    assert not result.success
    shown = {check.check_name: check for check in result.get_asset_check_evaluations()}["pass_rate_at_least_minimum"]
    assert (shown.description or "").startswith("2026w46: pass rate 40.0 % of 10 cases (95 % interval ")
    assert project.report("2026w47")["pass_rate"] == 1.0


def test_a_range_whose_end_stands_before_its_start_is_refused(project: Project) -> None:
    project.write("2026w47", cases_of(6))
    keys = project.register("2026w47")
    result = project.run(range_tags(keys[::-1]))
    assert not result.success
    assert "its end stands before its start" in failure_text(result)


def test_tables_of_an_older_cut_are_removed_and_take_no_part(project: Project) -> None:
    project.write("2026w47", cases_of(8))
    project.run(range_tags(project.register("2026w47")))
    project.write("2026w47", cases_of(3))
    project.run(range_tags(project.register("2026w47")))
    for noun in (project.results.cases_file, project.results.scores_file):
        assert [noun(f"2026w47/000{index}").exists() for index in (1, 2, 3, 4)] == [True, True, False, False]
    assert project.report("2026w47")["total_test_cases"] == 3


def test_no_report_is_made_of_nothing(project: Project) -> None:
    """A pass rate of zero cases would be a failure that turns into a number."""
    project.write("2026w47", cases_of(4))
    project.run(range_tags(project.register("2026w47")))
    project.write("2026w47", cases_of(4, bad=4))
    everything = project.definitions.resolve_implicit_global_asset_job_def()
    cases_only = everything.get_subset(asset_selection={CASES})
    assert cases_only.execute_in_process(instance=project.instance, tags=range_tags(project.register("2026w47"))).success
    result = everything.get_subset(asset_selection={REPORT}).execute_in_process(instance=project.instance, raise_on_error=False)
    assert not result.success
    assert "No batch of demo 2026w47, as its file is now, is scored. Materialize demo/scores first." in failure_text(result)
    assert project.report("2026w47")["pass_rate"] == 1.0


def test_a_report_names_what_scored_it_not_the_settings_of_the_day(project: Project) -> None:
    project.write("2026w47", cases_of(2))
    project.run(range_tags(project.register("2026w47")))
    project.settings = project.settings.model_copy(update={"profile_name": "dev", "tokenizer": "auto"})
    report = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={REPORT})
    assert report.execute_in_process(instance=project.instance).success
    found = project.report("2026w47")
    assert (found["profile"], found["model_name"], found["tokenizer"]) == ("offline", "none", "ngram-1")


def test_the_duration_of_a_report_is_that_of_its_run(project: Project) -> None:
    project.write("2026w47", cases_of(2))
    result = project.run(range_tags(project.register("2026w47")))
    record = project.instance.get_run_record_by_id(result.run_id)
    started = datetime.fromisoformat(project.report("2026w47")["started_at"]).timestamp()
    assert record is not None and record.start_time == pytest.approx(started, abs=0.01)


def test_batches_that_ended_before_a_failure_are_kept(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("2026w47", cases_of(6))
    tags = range_tags(project.register("2026w47"))

    def fail_on_the_last(*_: object, **__: object) -> None:
        if project.results.scores_file("2026w47/0002").exists():
            raise ScoreStoreUnavailable("gone")

    original = ScoreStore.save

    def save(self: ScoreStore, rows: Any, **more: Any) -> None:
        fail_on_the_last()
        original(self, rows, **more)

    monkeypatch.setattr(ScoreStore, "save", save)
    assert not project.run(tags).success
    assert project.results.scores_file("2026w47/0002").exists()
    monkeypatch.undo()
    assert project.run(tags).success
    assert project.report("2026w47")["cache"] == from_the_store(8, 4)


def test_a_killed_run_is_reported_as_failed_by_the_next_one(project: Project) -> None:
    job = project.definitions.resolve_job_def("demo_evaluation_job")
    tags = {PROCESS_TAG: f"{platform.node()}:999999999"}
    dead = project.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    alive = project.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: f"{platform.node()}:{os.getpid()}"}
    )
    bury_dead_runs(project.instance, job.name)
    states = [project.instance.get_run_by_id(run.run_id) for run in (dead, alive)]
    assert [run.status for run in states if run] == [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED]


def test_partitions_per_run_of_the_catalog_spread_a_snapshot_over_runs(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + "partitions_per_run = 2\n")
    project.write("2026w47", cases_of(9))
    job = project.definitions.resolve_job_def("demo_evaluation_job")
    outcome = evaluate_snapshot(project.instance, project.spec, "2026w47", job=job)
    assert outcome.exit_code == 0 and "100.0% of 9 cases passed" in outcome.line
    assert len(project.instance.get_runs(dg.RunsFilter(job_name=job.name))) == 3
    assert project.report("2026w47")["missing_batches"] == []


@pytest.mark.parametrize(
    ("fault", "exit_code", "said"),
    [
        (lambda project: project.write("2026w47", cases_of(4, bad=4)), 1, "pass_rate_at_least_minimum FAILED"),
        (lambda project: project.write("2026w47", [{"id": ""}]), 2, "Give every case an id of its own"),
    ],
)
def test_the_outcome_of_a_snapshot_tells_worse_from_wrong(project: Project, fault: Any, exit_code: int, said: str) -> None:
    fault(project)
    outcome = evaluate_snapshot(
        project.instance, project.spec, "2026w47", job=project.definitions.resolve_job_def("demo_evaluation_job")
    )
    assert (outcome.exit_code, said in outcome.line) == (exit_code, True), outcome.line


def test_an_interruption_ends_what_would_go_on_with_other_snapshots(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evalvault_pipeline.defs.assets.score_batches", interrupted)
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + CATALOG_OF_ANOTHER)
    project.write("2026w47", cases_of(4))
    (project.folder / "datasets" / "other").mkdir()
    shutil.copy(project.folder / "datasets" / "demo" / "2026w47.json", project.folder / "datasets" / "other" / "2026w47.json")
    with pytest.raises(KeyboardInterrupt):
        evaluate_snapshot(
            project.instance, project.spec, "2026w47", job=project.definitions.resolve_job_def("demo_evaluation_job")
        )
    project.run({}, job="all_datasets_evaluation_job")
    begun = [run.job_name for run in project.instance.get_runs()]
    assert sorted(begun) == ["all_datasets_evaluation_job", "demo_evaluation_job", "demo_evaluation_job"]


def test_a_dataset_whose_run_somebody_ended_keeps_no_other_from_its_evaluation(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*given: Any, **options: Any) -> Any:
        if demo := project.instance.get_runs(
            dg.RunsFilter(job_name="demo_evaluation_job", statuses=[dg.DagsterRunStatus.STARTED])
        ):
            project.instance.report_run_canceled(demo[0])
            raise dg.DagsterExecutionInterruptedError
        return score_batches(*given, **options)

    monkeypatch.setattr("evalvault_pipeline.defs.assets.score_batches", ended)
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + CATALOG_OF_ANOTHER)
    file = project.write("2026w47", cases_of(4))
    (project.folder / "datasets" / "other").mkdir()
    shutil.copy(file, project.folder / "datasets" / "other" / "2026w47.json")
    assert not project.run({}, job="all_datasets_evaluation_job").success
    ends = {run.job_name: run.status.value for run in project.instance.get_runs()}
    assert ends == {
        "all_datasets_evaluation_job": "FAILURE",
        "demo_evaluation_job": "CANCELED",
        "other_evaluation_job": "SUCCESS",
    }


def test_a_score_store_that_is_away_is_told_from_bad_data(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALVAULT_STORE_URL", "sqlite:////proc/none/scores.sqlite")
    project.write("2026w47", cases_of(4))
    job = project.definitions.resolve_job_def("demo_evaluation_job")
    outcome = evaluate_snapshot(project.instance, project.spec, "2026w47", job=job)
    assert outcome.exit_code == 3, outcome.line
    assert "score store" in outcome.line


def test_a_stray_file_names_itself_and_stops_no_other_dataset(project: Project) -> None:
    catalog = project.folder / "catalog.toml"
    catalog.write_text(catalog.read_text() + CATALOG_OF_ANOTHER)
    folder = project.folder / "datasets" / "other"
    folder.mkdir()
    (folder / "2026w47 (1).json").write_text("[]")
    project.write("2026w47", cases_of(4))
    result = project.run({}, job="all_datasets_evaluation_job")
    assert not result.success and "2026w47 (1).json: a snapshot's name is made of" in failure_text(result)
    assert project.report("2026w47")["pass_rate"] == 1.0
    assert project.catalog.owner_of(project.folder / "datasets" / "demo" / "2026w47.json") == project.spec


def test_the_run_file_is_json_that_names_profile_and_digest(project: Project) -> None:
    project.write("2026w47", cases_of(2))
    project.run(range_tags(project.register("2026w47")))
    text = project.results.results_file("2026w47").read_text(encoding="utf-8")
    assert json.loads(text)["profile"] == "offline"
    assert len(json.loads(text)["dataset_digest"]) == 64
