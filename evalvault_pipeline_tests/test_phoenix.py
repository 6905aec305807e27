"""Runs in a real Phoenix: what arrives, what a repeated or interrupted upload does, and what happens where it does not answer."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.errors import PhoenixUnavailable
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline.tracking import track_in_phoenix
from evalvault_pipeline_tests.defs.conftest import Project
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.phoenix_server import RealPhoenix, skip_without_phoenix
from evalvault_pipeline_tests.stack import UserProject

METRICS = "chrf,number_consistency"
DEAD = "http://127.0.0.1:9"
PHONE, MAIL = "010-2345-6789", "kim@hospital.example"


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPhoenix]:
    skip_without_phoenix()
    with RealPhoenix(tmp_path_factory.mktemp("phoenix")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPhoenix]:
    skip_without_phoenix()
    with RealPhoenix(tmp_path_factory.mktemp("guarded"), auth=True) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    return UserProject(tmp_path / "project")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A dataset's name of the test's own: all tests share a server."""
    return str(request.node.name)[5:45]


def case(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"사례-{number:03d}",
        "question": f"상품 {number}의 한도는 얼마인가요?",
        "answer": f"상품 {number}의 한도는 {number}만원입니다.",
        "contexts": [f"상품 {number}의 한도는 {number}만원이다."],
        "ground_truth": f"상품 {number}의 한도는 {number}만원입니다.",
        "metadata": {"product": "cancer"},
        **changes,
    }


def write(project: UserProject, cases: list[dict[str, Any]], file: str = "cases.json") -> Path:
    path = project.folder / file
    path.write_text(json.dumps({"name": "보험", "test_cases": cases}), encoding="utf-8")
    return path


def command(file: Path, name: str, *options: str, metrics: str = METRICS) -> list[str]:
    tracked = ("--tracker", "phoenix", "--phoenix-dataset", name, "--phoenix-experiment", "release-2025w02")
    return ["evalvault", "run", str(file), "--metrics", metrics, "-o", "results.json", *tracked, *options]


def run(project: UserProject, phoenix: RealPhoenix, file: Path, name: str, *options: str, **given: str) -> dict[str, Any]:
    """Run as in the guide; `tracker_metadata["phoenix"]` of its results."""
    metrics = given.pop("metrics", METRICS)
    environment = {"PHOENIX_ENDPOINT": f"{phoenix.url}/v1/traces", "PHOENIX_API_TOKEN": phoenix.token, **given}
    project.run(*command(file, name, *options, metrics=metrics), **environment)
    return tracked(project)


def tracked(project: UserProject) -> dict[str, Any]:
    content = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["tracker_metadata"]["phoenix"]
    return found


def counts(about: dict[str, Any]) -> tuple[int, int, int]:
    return about["uploaded"], about["skipped"], about["failed"]


def test_a_run_arrives_with_its_cases_answers_scores_and_reasons(project: UserProject, phoenix: RealPhoenix, name: str) -> None:
    cases = [case(1), case(2, answer="9만원입니다."), case(3, ground_truth=None)]
    about = run(project, phoenix, write(project, cases), name)
    assert (about["status"], counts(about)) == ("complete", (3, 0, 0))
    dataset = phoenix.dataset(name)
    assert dataset is not None
    assert about["dataset"]["id"] == dataset["id"] and about["dataset"]["example_count"] == 3
    assert about["dataset"]["url"] == f"{phoenix.url}/datasets/{dataset['id'].replace('=', '%3D')}/examples"
    example = phoenix.examples(name)["사례-001"]
    assert (example["input"], example["output"]) == ({"question": cases[0]["question"]}, {"ground_truth": cases[0]["answer"]})
    assert example["metadata"] == {"product": "cancer", "contexts": cases[0]["contexts"]}
    (experiment,) = phoenix.experiments(name)
    assert (experiment["name"], experiment["id"]) == ("release-2025w02", about["experiment"]["id"])
    assert experiment["dataset_version_id"] == about["dataset"]["version_id"]
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert experiment["metadata"]["evalvault_run_id"] == results["run_id"]
    runs = {item["input"]["question"]: item for item in phoenix.runs(experiment["id"])}
    good, bad, bare = (runs[one["question"]] for one in cases)
    assert bad["output"] == {"answer": "9만원입니다."}
    scored = {item["name"]: item for item in bad["annotations"]}
    assert (scored["number_consistency"]["label"], scored["number_consistency"]["annotator_kind"]) == ("fail", "CODE")
    assert "9" in scored["number_consistency"]["explanation"]
    ours = results["results"][1]["metrics"]
    assert {item["name"]: item["score"] for item in ours} == pytest.approx({item: scored[item]["score"] for item in scored})
    assert {item["label"] for item in good["annotations"]} == {"pass"}
    unmeasured = next(item for item in bare["annotations"] if item["name"] == "chrf")
    assert (unmeasured["score"], unmeasured["error"].split(":")[0]) == (None, "no_field")


def test_the_same_cases_make_no_new_version_and_the_same_run_sends_nothing(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    file = write(project, [case(number) for number in range(12)])
    first = run(project, phoenix, file, name, "--run-id", "one")
    again = run(project, phoenix, file, name, "--run-id", "one")
    assert (counts(first), counts(again)) == ((12, 0, 0), (0, 12, 0))
    assert again["experiment"] == first["experiment"] and again["dataset"] == first["dataset"]
    other = run(project, phoenix, file, name, "--run-id", "two")
    assert other["experiment"]["id"] != first["experiment"]["id"]
    assert (phoenix.versions(name), len(phoenix.experiments(name))) == (1, 2)


def test_changed_cases_are_patched_removed_ones_go_and_all_others_keep_their_place(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    run(project, phoenix, write(project, [case(number) for number in range(5)]), name)
    before = phoenix.examples(name)
    changed = [case(0), case(1, ground_truth="모릅니다."), case(2, answer="다릅니다."), case(4), case(7)]
    about = run(project, phoenix, write(project, changed), name)
    after = phoenix.examples(name)
    assert set(after) == {"사례-000", "사례-001", "사례-002", "사례-004", "사례-007"}
    assert about["dataset"]["example_count"] == 5
    assert after["사례-001"]["output"] == {"ground_truth": "모릅니다."}
    assert all(after[key]["node_id"] == before[key]["node_id"] for key in set(after) & set(before))
    assert after["사례-002"]["updated_at"] == before["사례-002"]["updated_at"]  # an answer is no part of a dataset


def test_rows_that_were_skipped_remove_no_case(project: UserProject, phoenix: RealPhoenix, name: str) -> None:
    run(project, phoenix, write(project, [case(1), case(2)]), name)
    run(project, phoenix, write(project, [case(1), case(2, question="")]), name, "--skip-bad-rows")
    assert set(phoenix.examples(name)) == {"사례-001", "사례-002"}


@pytest.mark.parametrize(("policy", "phone", "mail"), [("redact", "[PHONE_1]", "[EMAIL_1]"), ("off", "[PHONE]", "[EMAIL]")])
def test_what_leaves_the_machine_is_redacted_also_where_the_dataset_is_not(
    project: UserProject, phoenix: RealPhoenix, name: str, policy: str, phone: str, mail: str
) -> None:
    told = f"{PHONE}로 연락하거나 {MAIL}로 보내세요. 주민번호 900101-1234567, 보험금 3,000만원, 2026-11-24."
    cases = [case(1, question=told, answer=told, ground_truth=told, contexts=[told], metadata={"note": told, "in": [told]})]
    name = f"{policy} {name}"
    run(project, phoenix, write(project, cases), name, "--pii", policy)
    (experiment,) = phoenix.experiments(name)
    sent = json.dumps([phoenix.examples(name), phoenix.runs(experiment["id"])], ensure_ascii=False)
    assert f"{phone}로 연락하거나 {mail}로" in sent and "주민번호 [SSN" in sent and "3,000만원, 2026-11-24" in sent
    assert not any(secret in sent for secret in (PHONE, MAIL, "1234567"))
    assert (PHONE in (project.folder / "results.json").read_text(encoding="utf-8")) is (policy == "off")


def test_ids_that_read_as_phoenixs_own_and_odd_ids_and_texts_arrive(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    own = "RGF0YXNldEV4YW1wbGU6MQ=="  # DatasetExample:1
    cases = [case(1, id=own), case(2, id="a b#c/한글"), case(3, answer='따옴표 " 와 🙂\n두 줄')]
    about = run(project, phoenix, write(project, cases), name)
    assert counts(about) == (3, 0, 0)
    assert set(phoenix.examples(name)) == {f"case {own}", "a b#c/한글", "사례-003"}


@pytest.mark.long
def test_an_upload_that_is_killed_at_five_points_goes_on_and_ends_with_exact_counts(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    total, chosen = 120, random.Random(20261124)
    file = write(project, [case(number) for number in range(total)])
    points = sorted(chosen.sample(range(1, total), 5))
    reached = []
    for point in points:
        process = project.start(*command(file, name, "--run-id", "killed"), PHOENIX_ENDPOINT=phoenix.url)
        try:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                experiments = phoenix.experiments(name)
                if experiments and phoenix.run_count(experiments[0]["id"]) >= point:
                    break
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        reached.append(phoenix.run_count(phoenix.experiments(name)[0]["id"]))
    assert reached == sorted(reached) and reached[0] < total
    about = run(project, phoenix, file, name, "--run-id", "killed")
    assert about["status"] == "complete" and about["failed"] == 0
    (experiment,) = phoenix.experiments(name)
    runs = phoenix.runs(experiment["id"])
    assert len(runs) == len({item["example_id"] for item in runs}) == total
    assert Counter(item["name"] for one in runs for item in one["annotations"]) == dict.fromkeys(METRICS.split(","), total)
    assert (phoenix.versions(name), len(phoenix.examples(name))) == (1, total)


@pytest.mark.long
def test_a_server_that_restarts_in_the_middle_is_waited_for(project: UserProject, tmp_path: Path, name: str) -> None:
    skip_without_phoenix()
    file = write(project, [case(number) for number in range(100)])
    with RealPhoenix(tmp_path / "restarted") as phoenix:
        process = project.start(*command(file, name), PHOENIX_ENDPOINT=phoenix.url)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            experiments = phoenix.experiments(name)
            if experiments and phoenix.run_count(experiments[0]["id"]) >= 10:
                break
        phoenix.stop()
        phoenix.start()
        assert process.wait(timeout=120) == 0
        about = tracked(project)
        assert about["status"] == "complete"
        (experiment,) = phoenix.experiments(name)
        runs = phoenix.runs(experiment["id"])
        assert len(runs) == 100 and sum(len(one["annotations"]) for one in runs) == 200


def test_where_phoenix_is_down_the_run_is_kept_and_can_be_sent_later(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    file = write(project, [case(1), case(2)])
    done = project.run(*command(file, name), PHOENIX_ENDPOINT=DEAD)
    about = tracked(project)
    assert (about["status"], about["endpoint"]) == ("failed", DEAD)
    assert "does not answer" in done.stderr and "Traceback" not in done.stderr
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert results["coverage"] == 1.0
    assert f"--run-id {results['run_id']}" in done.stderr
    later = run(project, phoenix, file, name, "--run-id", results["run_id"])
    assert counts(later) == (2, 0, 0)
    again = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert again["cache"]["misses"] == 0 and again["run_id"] == results["run_id"]


@pytest.mark.long
def test_a_server_that_is_gone_in_the_middle_is_waited_for_once_and_not_for_every_case(
    project: UserProject, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_phoenix()
    monkeypatch.setattr("evalvault_pipeline.publishing.phoenix.RESTART_SECONDS", 1.0)
    file = write(project, [case(number) for number in range(300)])
    with RealPhoenix(tmp_path / "gone") as phoenix:
        monkeypatch.setenv("PHOENIX_ENDPOINT", phoenix.url)
        settings = load_settings(tmp_path, EVALVAULT_TOKENIZER="ngram", EVALVAULT_RESULTS_DIR=str(tmp_path / "results"))
        with evaluate_file(file, settings=settings, metrics=["exact_match"]) as report:
            timer = threading.Timer(1.5, phoenix.stop)
            timer.start()
            began = time.monotonic()
            tracked_report, error = track_in_phoenix(report, settings, dataset=name)
            timer.join()
    assert isinstance(error, PhoenixUnavailable) and time.monotonic() - began < 20
    about = tracked_report.info.notes["phoenix"]
    assert about["status"] == "failed" and "does not answer" in about["error"]


def test_what_phoenix_refuses_whole_is_said_in_a_line(project: UserProject, phoenix: RealPhoenix) -> None:
    file = write(project, [case(1)])
    done = project.run(*command(file, "refused"), PHOENIX_ENDPOINT=f"{phoenix.url}/nowhere", check=False)
    assert "Traceback" not in done.stderr and done.returncode == 0
    assert tracked(project)["status"] == "failed"


def test_a_password_in_the_address_is_shown_nowhere(project: UserProject, phoenix: RealPhoenix, name: str) -> None:
    secret = "canary-4711"
    url = phoenix.url.replace("http://", f"http://kim:{secret}@")
    done = project.run(*command(write(project, [case(1)]), name), PHOENIX_ENDPOINT=url)
    assert tracked(project)["status"] == "complete"
    written = [path.read_text("utf-8", "replace") for path in project.folder.rglob("*.json")]
    assert not any(secret in text for text in [done.stdout, done.stderr, *written])


def test_what_answers_and_is_no_phoenix_is_named(project: UserProject, name: str) -> None:
    with OpenAIServer() as other:
        url = other.base_url.removesuffix("/v1")
        done = project.run(*command(write(project, [case(1)]), name), PHOENIX_ENDPOINT=url)
    assert "PHOENIX_ENDPOINT" in done.stderr and "Traceback" not in done.stderr
    assert tracked(project)["status"] == "failed"


def test_a_wrong_token_is_refused_before_anything_is_scored_and_is_shown_nowhere(
    project: UserProject, guarded: RealPhoenix, name: str
) -> None:
    wrong = "px-canary-8731940265"
    file = write(project, [case(1)])
    done = project.run(*command(file, name), check=False, PHOENIX_ENDPOINT=guarded.url, PHOENIX_API_TOKEN=wrong)
    assert done.returncode == 2
    assert "refuses the token (HTTP 401). Check PHOENIX_API_TOKEN." in done.stderr
    assert not (project.folder / "results.json").exists()
    written = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file()]
    assert not any(wrong.encode() in text for text in [done.stdout.encode(), done.stderr.encode(), *written])


def test_with_a_token_dataset_experiment_and_traces_arrive(project: UserProject, guarded: RealPhoenix, name: str) -> None:
    with OpenAIServer() as judge:
        about = judged(project, guarded, judge, name, 2)
    assert about["status"] == "complete" and about["traces"]["dropped"] == 0
    assert len(guarded.ingested(name, about["traces"]["exported"])) == about["traces"]["exported"]
    assert guarded.token not in (project.folder / "results.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tracker", "none"), "need --tracker phoenix"),
        (("--run-id", "a b"), "--run-id takes"),
        (("--tracker", "x"), "phoenix"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(project: UserProject, options: tuple[str, ...], said: str) -> None:
    done = project.run(*command(write(project, [case(1)]), "x", *options), check=False, PHOENIX_ENDPOINT=DEAD)
    assert done.returncode == 2 and said in " ".join(done.stderr.replace("│", " ").split())


# --- traces


def judged(
    project: UserProject, phoenix: RealPhoenix, judge: OpenAIServer, name: str, count: int, *options: str, **given: str
) -> dict[str, Any]:
    environment = {
        "EVALVAULT_PROFILE": "openai",
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": judge.base_url,
        "PHOENIX_PROJECT_NAME": name,
        **given,
    }
    file = write(project, [case(number, answer=f"{number}만원, {PHONE}입니다.") for number in range(count)])
    return run(project, phoenix, file, name, *options, metrics="faithfulness,answer_relevancy", **environment)


def test_each_case_has_a_trace_with_a_span_for_every_call_and_its_run_is_linked_to_it(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    with OpenAIServer() as judge:
        about = judged(project, phoenix, judge, name, 6)
        calls = judge.answered[CHAT]
    traces = about["traces"]
    assert (traces["cases"], traces["exported"], traces["dropped"], traces["annotations"]) == (6, 6 + calls, 0, 12)
    spans = phoenix.ingested(name, 6 + calls)
    roots = {item["context"]["trace_id"]: item for item in spans if item["parent_id"] is None}
    assert len(roots) == 6 and {item["span_kind"] for item in roots.values()} == {"EVALUATOR"}
    asked = [item for item in spans if item["parent_id"]]
    assert len(asked) == calls
    assert all(item["parent_id"] == roots[item["context"]["trace_id"]]["context"]["span_id"] for item in asked)
    assert Counter(item["name"] for item in asked) == {"faithfulness": 12, "answer_relevancy": 6}
    one = asked[0]["attributes"]
    assert asked[0]["span_kind"] == "LLM" and one["llm.model_name"] == "gpt-5-mini"
    assert one["llm.token_count.prompt"] > 0 and one["llm.token_count.completion"] > 0
    told = json.dumps(spans, ensure_ascii=False)
    assert "[PHONE_1]" in told and PHONE not in told and "OPENAI_API_KEY" not in told
    (experiment,) = phoenix.experiments(name)
    linked = phoenix.runs(experiment["id"])
    assert {item["trace_id"] for item in linked} == set(roots)
    root = next(iter(roots.values()))
    until = time.monotonic() + 30
    while time.monotonic() < until:
        path = f"/projects/{name}/span_annotations"
        if found := phoenix.get(path, span_ids=root["context"]["span_id"])["data"]:
            break
        time.sleep(0.3)
    assert {item["name"] for item in found} == {"faithfulness", "answer_relevancy"}


@pytest.mark.parametrize(("rate", "least", "most"), [("0.0", 0, 0), ("0.5", 3, 37)])
def test_the_sample_rate_holds_for_whole_cases(
    project: UserProject, phoenix: RealPhoenix, name: str, rate: str, least: int, most: int
) -> None:
    name = f"sampled-{rate[-1]}"
    with OpenAIServer() as judge:
        about = judged(project, phoenix, judge, name, 40, PHOENIX_SAMPLE_RATE=rate)
    cases = about["traces"].get("cases", 0)
    assert least <= cases <= most
    spans = phoenix.ingested(name, 4 * cases)
    assert len(spans) == 4 * cases  # the case, two calls of faithfulness, one of answer relevancy
    (experiment,) = phoenix.experiments(name)
    assert sum(item["trace_id"] is not None for item in phoenix.runs(experiment["id"])) == cases


def test_a_score_from_the_store_is_linked_to_the_trace_in_which_it_was_judged(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    with OpenAIServer() as judge:
        judged(project, phoenix, judge, name, 3, "--run-id", "first")
        again = judged(project, phoenix, judge, name, 3, "--run-id", "second")
    assert again["traces"]["cases"] == 0
    first, second = (
        {run["example_id"]: run["trace_id"] for run in phoenix.runs(item["id"])} for item in phoenix.experiments(name)
    )
    assert first == second and None not in first.values()


# --- Dagster


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def dagster_project(tmp_path: Path, instance: dg.DagsterInstance, endpoint: str, name: str, *, enabled: bool = True) -> Project:
    settings: Settings = load_settings(
        tmp_path,
        EVALVAULT_TOKENIZER="ngram",
        EVALVAULT_RESULTS_DIR=str(tmp_path / "results"),
        EVALVAULT_BASELINES_DIR=str(tmp_path / "baselines"),
        PHOENIX_ENABLED=str(enabled).lower(),
        PHOENIX_ENDPOINT=endpoint,
    )
    catalog = f'[datasets.demo]\nfiles = "datasets/demo/*"\nmetrics = ["exact_match"]\nphoenix_dataset = "{name}"\n'
    return Project(tmp_path / "project", settings, instance, catalog)


def materialized(instance: dg.DagsterInstance, noun: str) -> dict[str, Any] | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(["demo", noun]))
    return {key: value.value for key, value in event.asset_materialization.metadata.items()} if event else None  # type: ignore[union-attr]


def test_assets_send_every_snapshot_and_link_it_beside_the_promoted_baseline(
    tmp_path: Path, instance: dg.DagsterInstance, phoenix: RealPhoenix, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_ENDPOINT", phoenix.url)
    project = dagster_project(tmp_path, instance, phoenix.url, name)
    project.write("2026w46", [case(number) for number in range(4)])
    first = project.run(range_tags(project.register("2026w46")))
    assert first.success
    topics = [item for one in phoenix.runs(phoenix.experiments(name)[0]["id"]) for item in one["annotations"]]
    assert {(item["name"], item["score"]) for item in topics if item["name"] == "topic"} == {("topic", None)}
    assert sum(item["name"] == "topic" and bool(item["label"]) for item in topics) == 4
    promote = project.definitions.resolve_job_def("promote_baseline_job")
    config = {"ops": {"promote_baseline": {"config": {"run_id": first.run_id, "promoted_by": "kim"}}}}
    assert promote.execute_in_process(instance=instance, run_config=config).success
    project.write("2026w47", [case(number, answer="다른 답") for number in range(3)])
    second = project.run(range_tags(project.register("2026w47")))
    base, this = sorted(phoenix.experiments(name), key=lambda item: item["name"])
    assert [base["name"], this["name"]] == ["2026w46 demo", "2026w47 demo"]
    assert [item["metadata"]["evalvault_run_id"] for item in (base, this)] == [first.run_id, second.run_id]
    assert set(phoenix.examples(name)) == {"사례-000", "사례-001", "사례-002"}
    about = project.report("2026w47")["tracker_metadata"]["phoenix"]
    assert about["experiment"]["compare_url"].endswith(
        f"compare?experimentId={base['id'].replace('=', '%3D')}&experimentId={this['id'].replace('=', '%3D')}"
    )
    assert [tag["name"] for tag in phoenix.get(f"/experiments/{base['id']}/tags")["data"]] == ["baseline"]
    shown = materialized(instance, "phoenix_experiment")
    assert shown is not None
    assert (shown["uploaded"], shown["experiment"], shown["compare"]) == (
        3,
        about["experiment"]["url"],
        about["experiment"]["compare_url"],
    )
    dataset = materialized(instance, "phoenix_dataset")
    assert dataset is not None and dataset["dataset"] == about["dataset"]["url"]


def test_a_retry_of_a_run_that_failed_makes_no_second_experiment_and_a_changed_file_does(
    tmp_path: Path, instance: dg.DagsterInstance, phoenix: RealPhoenix, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_ENDPOINT", phoenix.url)
    project = dagster_project(tmp_path, instance, phoenix.url, name)
    project.write("2026w46", [case(number, answer="다른 답") for number in range(5)])
    root = project.run(range_tags(project.register("2026w46")))
    assert not root.success, "its verdict is a fail"
    for whole in (False, True):
        project.retry(root.run_id, whole=whole)
    (experiment,) = phoenix.experiments(name)
    assert experiment["metadata"]["evalvault_run_id"] == root.run_id
    assert phoenix.run_count(experiment["id"]) == 5
    project.write("2026w46", [case(number) for number in range(5)])
    assert project.retry(root.run_id, whole=True).is_success
    assert len(phoenix.experiments(name)) == 2


def test_off_nothing_is_recorded_and_the_graph_is_the_same(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    project = dagster_project(tmp_path, instance, DEAD, "off", enabled=False)
    project.write("2026w47", [case(1)])
    assert project.run(range_tags(project.register("2026w47"))).success
    assert materialized(instance, "phoenix_dataset") is None and materialized(instance, "phoenix_experiment") is None
    assert project.report("2026w47")["tracker_metadata"] == {}


def test_down_the_evaluation_goes_on_and_the_upload_can_be_materialized_later(
    tmp_path: Path, instance: dg.DagsterInstance, phoenix: RealPhoenix, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_ENDPOINT", DEAD)
    project = dagster_project(tmp_path, instance, DEAD, name)
    project.write("2026w47", [case(number) for number in range(3)])
    done = project.run(range_tags(project.register("2026w47")))
    assert done.success and materialized(instance, "report") is not None and materialized(instance, "verdict") is not None
    assert materialized(instance, "phoenix_experiment") is None
    keys = [dg.AssetKey(["demo", noun]) for noun in ("phoenix_dataset", "phoenix_experiment")]

    def upload() -> dg.ExecuteInProcessResult:
        job = project.definitions.resolve_job_def("demo_evaluation_job").get_subset(asset_selection=set(keys))
        return job.execute_in_process(instance=instance, raise_on_error=False)

    assert not upload().success
    monkeypatch.setenv("PHOENIX_ENDPOINT", phoenix.url)
    assert upload().success
    about = project.report("2026w47")["tracker_metadata"]["phoenix"]
    (experiment,) = phoenix.experiments(name)
    assert about["experiment"]["id"] == experiment["id"]
    assert experiment["metadata"]["evalvault_run_id"] == done.run_id == project.report("2026w47")["run_id"]


# --- in the browser


@pytest.mark.browser
def test_the_links_of_the_results_open_and_show_the_case_and_its_score(
    project: UserProject, phoenix: RealPhoenix, name: str
) -> None:
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    file = write(project, [case(1, id="limit-of-one"), case(2, answer="9만원입니다.")])
    settled = {"EVALVAULT_BASELINES_DIR": str(project.folder / "baselines")}
    run(project, phoenix, file, name, "--run-id", "base", **settled)
    project.run("evalvault", "baseline", "set", "base", "--by", "kim", **settled)
    about = run(project, phoenix, file, name, "--run-id", "next", **settled)
    compare = about["experiment"]["compare_url"]
    assert compare is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        for url in (about["experiment"]["url"], compare):
            page.goto(url)
            expect(page.get_by_text("limit-of-one").first).to_be_visible(timeout=30_000)
            expect(page.get_by_text("number_consistency").first).to_be_visible()
            expect(page.get_by_text("1.00").first).to_be_visible()
        page.goto(about["dataset"]["url"])
        expect(page.get_by_text("limit-of-one").first).to_be_visible(timeout=30_000)
        browser.close()


# --- a server that hangs


class Hanging:
    """Takes connections, and answers the first request only; then never again."""

    def __init__(self) -> None:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._held: list[Any] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._held.append(connection)
            if len(self._held) == 1:
                connection.recv(65536)
                body = b'{"data": [], "next_cursor": null}'
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
                connection.close()

    def close(self) -> None:
        self._socket.close()


def test_spans_that_a_hanging_server_does_not_take_are_counted_and_waited_for_in_bounded_time(
    project: UserProject,
) -> None:
    hanging = Hanging()
    file = write(project, [case(number) for number in range(20)])
    with OpenAIServer() as judge:
        environment = {
            "EVALVAULT_PROFILE": "openai",
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": judge.base_url,
            "PHOENIX_ENDPOINT": hanging.url,
        }
        began = time.monotonic()
        done = project.run(*command(file, "hanging", metrics="faithfulness"), **environment)
        took = time.monotonic() - began
    hanging.close()
    assert done.returncode == 0 and took < 60
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert results["coverage"] == 1.0
    traces = results["tracker_metadata"]["phoenix"]["traces"]
    assert (traces["cases"], traces["exported"], traces["dropped"]) == (20, 0, 60)


def test_importing_the_package_needs_no_phoenix() -> None:
    code = (
        "import sys, evalvault_pipeline.tracking; print([name for name in ('phoenix', 'opentelemetry') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
