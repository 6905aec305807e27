"""The commands of the README and of CI, as processes of their own in a fresh project folder."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import jsonschema
import pytest

from evalvault_pipeline.publishing.results_file import results_schema
from evalvault_pipeline_tests.conftest import from_the_store
from evalvault_pipeline_tests.stack import UserProject, wait_for

DEFINITIONS = ("-m", "evalvault_pipeline.definitions")


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    return UserProject(tmp_path)


def stored_scores(project: UserProject) -> int:
    file = project.folder / "data" / "results" / "scores.sqlite"
    if not file.exists():
        return 0
    with sqlite3.connect(file, timeout=10) as connection:
        try:
            count: int = connection.execute("SELECT count(*) FROM scores").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
        return count


def big_dataset(project: UserProject, cases: int) -> Path:
    file = project.folder / "big.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(cases):
            contexts = [
                f"제{number}조 {word} 보험금은 {number}만원을 한도로 지급합니다." for word in ("입원", "통원", "수술", "진단")
            ]
            case = {
                "id": str(number),
                "question": "얼마인가요?",
                "answer": f"수술 보험금은 {number}만원입니다.",
                "contexts": contexts,
            }
            lines.write(json.dumps({**case, "ground_truth": case["answer"]}, ensure_ascii=False) + "\n")
    return file


def test_the_run_command_of_the_guide_scores_the_demo_dataset(project: UserProject) -> None:
    done = project.run(
        *"evalvault run data/datasets/insurance_qa/2026w47.json --metrics lexical_support,chrf".split(),
        *"--batch-size 20 --parallel --output results.json --report report.md --verbose".split(),
    )
    assert done.stdout.splitlines()[0] == "profile offline (default): no judge, LLM metrics stay unmeasured"
    assert "batch 4 of 4" in done.stderr
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    jsonschema.validate(results, results_schema(), cls=jsonschema.Draft202012Validator)
    assert (results["total_test_cases"], results["coverage"]) == (64, 1.0)
    assert results["pass_rate"] == results["passed_test_cases"] / 64 > 0.8
    assert "# insurance_qa 2026w47" in (project.folder / "report.md").read_text(encoding="utf-8")


def test_a_second_run_computes_nothing_and_says_so(project: UserProject) -> None:
    command = "evalvault run data/datasets/insurance_qa_en/2026w47.jsonl".split()
    assert "96 scores computed, 0 taken from the score store" in project.run(*command).stdout
    again = project.run(*command).stdout
    assert "nothing computed: all 96 scores were in the score store" in again


def test_the_dataset_of_the_catalog_gives_the_metrics_where_none_are_named(project: UserProject) -> None:
    done = project.run(*"evalvault run data/datasets/insurance_qa_en/2026w47.jsonl -o r.json".split())
    assert done.returncode == 0
    results = json.loads((project.folder / "r.json").read_text(encoding="utf-8"))
    assert results["metrics_evaluated"] == ["lexical_support", "chrf", "number_consistency", "no_answer_accuracy"]


def test_an_llm_metric_without_a_judge_is_unmeasured_and_the_way_out_is_named(project: UserProject) -> None:
    done = project.run(*"evalvault run data/datasets/insurance_qa_en/2026w47.jsonl -m chrf,faithfulness -o r.json".split())
    assert "faithfulness: no judge in profile offline: choose one with EVALVAULT_PROFILE=dev" in " ".join(done.stdout.split())
    results = json.loads((project.folder / "r.json").read_text(encoding="utf-8"))
    scores = [score for case in results["results"] for score in case["metrics"] if score["name"] == "faithfulness"]
    assert {(score["score"], score["passed"], score["unmeasured"]) for score in scores} == {(None, None, "no_judge")}
    assert results["avg_faithfulness"] is None


def test_a_run_without_llm_metrics_needs_no_key_of_its_profile(project: UserProject) -> None:
    command = "run data/datasets/insurance_qa_en/2026w47.jsonl -m exact_match --profile openai"
    assert "profile openai" in project.run("evalvault", *command.split()).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run nowhere.json -m chrf", "evalvault: nowhere.json: no such file."),
        ("run data/datasets/insurance_qa/2026w47.json -m chr", "evalvault: There is no metric `chr`. Did you mean `chrf`?"),
        ("run workspace.yaml -m chrf", "evalvault: workspace.yaml: no dataset format ends in `.yaml`."),
        ("backfill insurance", "evalvault: The catalog declares no dataset `insurance`. Did you mean `insurance_qa`?"),
        ("backfill insurance_qa --from 2026w4", "evalvault: Dataset `insurance_qa` has no snapshot `2026w4`."),
        (
            "run data/datasets/insurance_qa_en/2026w47.jsonl -m faithfulness --profile openai",
            "evalvault: `OPENAI_API_KEY` is not set, and profile `openai` needs it.",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_the_remedy_and_exit_code_2(project: UserProject, arguments: str, message: str) -> None:
    done = project.run("evalvault", *arguments.split(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_a_score_store_that_is_away_is_exit_code_3_without_its_password(project: UserProject) -> None:
    url = "postgresql://user:a-secret-word@127.0.0.1:1/none"
    done = project.run(*"evalvault run data/datasets/insurance_qa/2026w47.json".split(), check=False, EVALVAULT_STORE_URL=url)
    assert done.returncode == 3
    assert "The score store" in done.stderr and "a-secret-word" not in done.stderr + done.stdout


def test_bad_rows_are_refused_or_skipped_and_counted(project: UserProject) -> None:
    (project.folder / "d.jsonl").write_text(
        '{"id": "1", "question": "q", "answer": "a", "contexts": [], "ground_truth": "a"}\n{"id": "2"}\n', encoding="utf-8"
    )
    refused = project.run("evalvault", "run", "d.jsonl", "-m", "chrf", check=False)
    assert refused.returncode == 2 and "d.jsonl:2: question: is missing. Write the question." in refused.stderr
    project.run("evalvault", "run", "d.jsonl", "-m", "chrf", "--skip-bad-rows", "-o", "r.json")
    results = json.loads((project.folder / "r.json").read_text(encoding="utf-8"))
    assert results["total_test_cases"] == 1
    assert {row.split(": ")[0] for row in results["skipped_rows"]} == {"d.jsonl:2"}


def test_the_catalog_check_lists_every_snapshot_and_fails_on_a_bad_one(project: UserProject) -> None:
    assert project.run("evalvault", "catalog", "check").stdout.count("fine") == 5
    (project.folder / "data" / "datasets" / "insurance_qa" / "2026w48.json").write_text("{}", encoding="utf-8")
    done = project.run("evalvault", "catalog", "check", check=False)
    assert done.returncode == 2 and "has no list `test_cases`" in " ".join(done.stdout.split())


@pytest.mark.long
def test_many_cases_are_scored_by_several_processes_with_the_same_result(project: UserProject) -> None:
    file = big_dataset(project, 2000)
    command = ["evalvault", "run", str(file), "-m", "lexical_support,chrf", "-o"]
    alone = project.run(*command, "alone.json", "--no-parallel", EVALVAULT_RESULTS_DIR="alone")
    together = project.run(
        *command, "together.json", "--parallel", "--verbose", EVALVAULT_RESULTS_DIR="b", EVALVAULT_WORKERS="2"
    )
    assert "2 process(es)" in together.stderr and alone.returncode == 0
    ours, theirs = (json.loads((project.folder / f"{name}.json").read_text()) for name in ("alone", "together"))
    for results in (ours, theirs):
        for name in ("run_id", "started_at", "finished_at", "duration_seconds"):
            del results[name]
        for case in results["results"]:
            for score in case["metrics"]:
                del score["seconds"]
            del case["seconds"]
    assert ours == theirs


@pytest.mark.parametrize("parallel", [pytest.param("--no-parallel", marks=pytest.mark.long), "--parallel"])
def test_a_killed_run_goes_on_where_it_was_and_scores_nothing_twice(project: UserProject, parallel: str) -> None:
    file = big_dataset(project, 6000)
    command = ["evalvault", "run", str(file), "-m", "lexical_support,chrf", parallel, "-o", "results.json"]
    process = project.start(*command, EVALVAULT_WORKERS="2")
    wait_for(lambda: stored_scores(project) > 300, seconds=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)  # the worker processes notice within half a second that nobody waits for them
    kept = stored_scores(project)
    assert 300 < kept < 12000 and not (project.folder / "results.json").exists()
    time.sleep(1)
    assert stored_scores(project) == kept, "an orphan goes on scoring"
    project.run(*command, EVALVAULT_WORKERS="2")
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert results["cache"] == from_the_store(kept, 12000 - kept)
    assert stored_scores(project) == 12000


def test_ci_registers_the_snapshots_and_executes_the_job_over_a_range(project: UserProject) -> None:
    project.run("dagster", "job", "execute", *DEFINITIONS, "-j", "register_snapshots_job")
    tags = {
        "dagster/asset_partition_range_start": "2026w47/0001",
        "dagster/asset_partition_range_end": "2026w47/0007",
    }
    project.run("dagster", "job", "execute", *DEFINITIONS, "-j", "insurance_qa_evaluation_job", "--tags", json.dumps(tags))
    assert project.results("insurance_qa", "2026w47")["total_test_cases"] == 64
    worse = json.dumps({name: value.replace("w47", "w46") for name, value in tags.items()})
    done = project.run(
        *("dagster", "job", "execute", *DEFINITIONS, "-j", "insurance_qa_evaluation_job", "--tags", worse), check=False
    )
    assert done.returncode == 1
    assert project.results("insurance_qa", "2026w46")["pass_rate"] < 0.8


def test_assets_are_materialized_by_partition_and_by_range_from_the_command_line(project: UserProject) -> None:
    project.run("dagster", "job", "execute", *DEFINITIONS, "-j", "register_snapshots_job")
    select = ("dagster", "asset", "materialize", *DEFINITIONS, "--select", "group:insurance_qa_en")
    project.run(*select, "--partition", "2026w47/0002")
    report = project.results("insurance_qa_en", "2026w47")
    assert (report["batches"], report["total_test_cases"]) == (["2026w47/0002"], 10)
    project.run(*select, "--partition-range", "2026w47/0001...2026w47/0003")
    assert project.results("insurance_qa_en", "2026w47")["total_test_cases"] == 24


@pytest.mark.long
def test_the_steps_of_a_run_may_be_processes_of_their_own(project: UserProject) -> None:
    many = {"EVALVAULT_EXECUTOR": "multiprocess"}
    project.run("dagster", "job", "execute", *DEFINITIONS, "-j", "register_snapshots_job", **many)
    select = ("dagster", "asset", "materialize", *DEFINITIONS, "--select", "group:insurance_qa_en")
    done = project.run(*select, "--partition-range", "2026w47/0001...2026w47/0003", **many)
    assert "Launching subprocess for" in done.stdout + done.stderr
    assert project.results("insurance_qa_en", "2026w47")["total_test_cases"] == 24


@pytest.mark.long
def test_a_killed_dagster_run_goes_on_where_it_was(project: UserProject) -> None:
    with (project.folder / "data" / "catalog.toml").open("a", encoding="utf-8") as catalog:
        catalog.write(
            '\n[datasets.big]\nfiles = "datasets/big/*"\nmetrics = ["lexical_support", "chrf"]\nmin_pass_rate = 0.0\n'
        )
    folder = project.folder / "data" / "datasets" / "big"
    folder.mkdir()
    big_dataset(project, 6000).rename(folder / "w1.jsonl")
    command = ["evalvault", "backfill", "big"]
    process = project.start(*command, EVALVAULT_WORKERS="1")
    wait_for(lambda: stored_scores(project) > 300, seconds=120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = stored_scores(project)
    assert 300 < kept < 12000
    project.run(*command, EVALVAULT_WORKERS="1")
    assert project.results("big", "w1")["cache"] == from_the_store(kept, 12000 - kept)


@pytest.mark.long
def test_a_backfill_of_history_reports_on_each_snapshot_and_names_the_worse_one(project: UserProject) -> None:
    done = project.run("evalvault", "backfill", "insurance_qa", "--from", "2026w45", "--to", "2026w47", check=False)
    lines = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "insurance_qa 2026w46: " in lines and "pass_rate_at_least_minimum FAILED" in lines and "failed: 2026w46" in lines
    rates = {week: project.results("insurance_qa", week)["pass_rate"] for week in ("2026w45", "2026w46", "2026w47")}
    assert rates["2026w46"] < 0.8 < min(rates["2026w45"], rates["2026w47"])


def test_help_names_every_command(project: UserProject) -> None:
    text = project.run("evalvault", "--help").stdout
    assert all(name in text for name in ("run", "metrics", "backfill", "catalog", "version"))


KOREAN = "data/datasets/insurance_qa/2026w47.json"


def test_a_reader_that_has_seen_enough_loses_no_result(project: UserProject) -> None:
    evalvault = project.command("evalvault")[0]
    done = project.shell(f"'{evalvault}' run {KOREAN} -m chrf -o results.json | head -1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((project.folder / "results.json").read_text(encoding="utf-8"))["total_test_cases"] == 64


@pytest.mark.parametrize("encoding", ["cp949", "ascii"])
def test_a_console_without_the_characters_shows_something_else_and_loses_nothing(project: UserProject, encoding: str) -> None:
    done = project.run("evalvault", "run", KOREAN, "-m", "chrf", "-o", "r.json", PYTHONIOENCODING=encoding)
    assert "results: r.json" in done.stdout and (project.folder / "r.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run own.json -m chrf -o own.json", "the dataset, --output and --report must be different files"),
        ("run own.json -m chrf -o x.json --report x.json", "the dataset, --output and --report must be different files"),
        ("run own.json -m chrf -o data", "data cannot be written: it is a folder. Name a file."),
        ("run own.json -m chrf -o own.json/x/r.json", "cannot be written: "),
        ("run own.json -m chrf --batch-size 99999999999999999999", "less than or equal to 1000000"),
        ("run own.json -m chrf --fresh token_f1", "token_f1 is to be scored afresh, but is not among the metrics"),
    ],
)
def test_outputs_and_options_that_cannot_be_meant_are_refused_before_any_work(
    project: UserProject, arguments: str, message: str
) -> None:
    own = project.folder / "own.json"
    own.write_bytes((project.folder / KOREAN).read_bytes())
    done = project.run("evalvault", *arguments.split(), check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert own.read_bytes() == (project.folder / KOREAN).read_bytes()
    assert stored_scores(project) == 0


@pytest.mark.parametrize(
    ("environment", "exit_code", "message"),
    [
        ({"EVALVAULT_CATALOG": "none.toml"}, 2, "There is no catalog none.toml"),
        ({"DAGSTER_HOME": "relative"}, 2, "DAGSTER_HOME cannot be used: "),
        ({"DAGSTER_PG_HOST": "127.0.0.1", "DAGSTER_PG_USER": "u", "DAGSTER_PG_PASSWORD": "p", "DAGSTER_PG_PORT": "abc"}, 2, "DAGSTER_PG_PORT is `abc`"),
        ({"EVALVAULT_STORE_URL": "postgresql://127.0.0.1:1/db?user=u&password=a-secret"}, 3, "The score store postgresql://127.0.0.1:1/db does not answer"),
    ],
)  # fmt: skip
def test_a_backfill_that_cannot_begin_says_why_in_one_line(
    project: UserProject, environment: dict[str, str], exit_code: int, message: str
) -> None:
    done = project.run("evalvault", "backfill", "insurance_qa_en", check=False, **environment)
    said = done.stdout + done.stderr
    assert (done.returncode, "Traceback" in said, "a-secret" in said) == (exit_code, False, False), said
    assert message in " ".join(said.split())


def test_a_threshold_for_no_metric_is_refused_in_the_catalog_and_named_in_a_dataset(project: UserProject) -> None:
    cases = json.loads((project.folder / KOREAN).read_text(encoding="utf-8"))
    (project.folder / "d.json").write_text(json.dumps({**cases, "thresholds": {"chrff": 0.9}}), encoding="utf-8")
    done = project.run("evalvault", "run", "d.json", "-m", "chrf")
    assert "sets a threshold for `chrff`, which is no metric here" in done.stderr
    with (project.folder / "data" / "catalog.toml").open("a", encoding="utf-8") as catalog:
        catalog.write("[datasets.insurance_qa_en.thresholds]\nchrff = 0.9\n")
    done = project.run("evalvault", "run", "data/datasets/insurance_qa_en/2026w47.jsonl", check=False)
    assert done.returncode == 2 and "There is no metric `chrff`. Did you mean `chrf`?" in done.stderr


@pytest.mark.long
def test_two_that_register_at_once_leave_the_batches_in_order(project: UserProject) -> None:
    """`make dev` registers at its start, and a person may do the same beside it."""
    project.run("evalvault", "backfill", "insurance_qa", "--from", "2026w47")
    register = ("dagster", "job", "execute", *DEFINITIONS, "-j", "register_snapshots_job")
    started = [project.start(*register) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    with sqlite3.connect(project.folder / "data" / ".dagster" / "history" / "runs" / "index.db") as connection:
        rows = connection.execute(
            "SELECT partition FROM dynamic_partitions WHERE partitions_def_name LIKE 'insurance_qa_b%' ORDER BY id"
        )
        keys = [key for (key,) in rows]
    assert keys == [f"2026w{week}/{index:04d}" for week in (44, 45, 46, 47) for index in range(1, 8)]


def test_a_range_that_leaves_batches_out_is_judged_by_what_is_scored(project: UserProject) -> None:
    project.run("dagster", "job", "execute", *DEFINITIONS, "-j", "register_snapshots_job")
    tags = {"dagster/asset_partition_range_start": "2026w46/0001", "dagster/asset_partition_range_end": "2026w46/0003"}
    done = project.run(
        *("dagster", "job", "execute", *DEFINITIONS, "-j", "insurance_qa_evaluation_job", "--tags", json.dumps(tags)),
        check=False,
    )
    report = project.results("insurance_qa", "2026w46")
    assert (done.returncode, report["pass_rate"] < 0.8, len(report["missing_batches"])) == (0, True, 4)
    verdict = json.loads((project.folder / "data/results/insurance_qa/2026w46/verdict.json").read_text(encoding="utf-8"))
    assert verdict["outcome"] == "inconclusive", "27 cases are too few to say so"
    assert "This run goes on, and ends with exit code 0" in done.stderr
