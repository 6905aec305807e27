"""Judged runs as a user starts them: what they cost, what they keep, and what becomes of them when they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.scoring.usage import Budget
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import cases_of, judged, ollama_spec, openai_spec
from evalvault_pipeline_tests.stack import UserProject

CANARY = "sk-canary-0123456789abcdefghij"
TWO = "faithfulness,answer_relevancy"
IN_FLIGHT = 8


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(keys={CANARY}, echo_key="whole") as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: OpenAIServer) -> UserProject:
    return UserProject(
        tmp_path / "project",
        EVALVAULT_PROFILE="openai",
        OPENAI_API_KEY=CANARY,
        OPENAI_BASE_URL=server.base_url,
        EVALVAULT_MAX_CONCURRENCY=str(IN_FLIGHT),
    )


def dataset(project: UserProject, count: int, **edited: str) -> Path:
    """A dataset file; `edited` replaces the answers of some cases."""
    rows = [
        {
            "id": case.case_id,
            "question": case.question,
            "answer": edited.get(case.case_id, case.answer),
            "contexts": list(case.contexts),
            "ground_truth": case.ground_truth,
        }
        for case in cases_of(count)
    ]
    file = project.folder / "cases.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def run(project: UserProject, file: Path, *options: str, **environment: str) -> dict[str, Any]:
    project.run("evalvault", "run", str(file), "-m", TWO, "-o", "results.json", *options, **environment)
    found: dict[str, Any] = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    return found


def scores(results: dict[str, Any]) -> dict[tuple[str, str], float | None]:
    return {(case["test_case_id"], score["name"]): score["score"] for case in results["results"] for score in case["metrics"]}


def test_a_second_run_asks_nothing_and_an_edited_case_costs_its_own_calls(project: UserProject, server: OpenAIServer) -> None:
    first = run(project, dataset(project, 50))
    assert (server.answered[CHAT], first["usage"]["judge_calls"], first["coverage"]) == (150, 150, 1.0)
    again = run(project, dataset(project, 50))
    assert (server.answered[CHAT], again["usage"]["judge_calls"], again["cache"]["hits"]) == (150, 0, 100)
    assert again["cache"]["saved_tokens"] == first["total_tokens"]
    assert again["cache"]["saved_cost_usd"] == pytest.approx(first["total_cost_usd"])
    assert scores(again) == scores(first)
    edited = run(project, dataset(project, 50, c7="It pays nothing at all, whatever happens."))
    assert (server.answered[CHAT], edited["usage"]["judge_calls"]) == (153, 3)
    fresh = run(project, dataset(project, 50), "--fresh", "faithfulness")
    assert (server.answered[CHAT], fresh["usage"]["judge_calls"]) == (253, 100)


def test_a_dry_run_calls_no_model_and_says_how_many_calls_the_run_then_makes(
    project: UserProject, server: OpenAIServer
) -> None:
    file = dataset(project, 20)
    said = project.run("evalvault", "run", str(file), "-m", TWO, "--dry-run").stdout
    assert not server.calls[CHAT]
    assert told_calls(said) == run(project, file)["usage"]["judge_calls"] == 60


def told_calls(said: str) -> int:
    """The LLM calls that a dry run tells."""
    total = next(line for line in said.splitlines() if line.startswith("│ all"))
    return int(total.split("│")[4])


@pytest.mark.parametrize(
    "killed_after", [5, pytest.param(40, marks=pytest.mark.long), pytest.param(110, marks=pytest.mark.long)]
)
def test_a_killed_run_loses_no_more_than_the_calls_in_flight(
    project: UserProject, server: OpenAIServer, killed_after: int
) -> None:
    server.latency = 0.05
    file = dataset(project, 50)
    process = project.start("evalvault", "run", str(file), "-m", TWO, "-o", "results.json")
    ends = time.monotonic() + 60
    while server.answered[CHAT] < killed_after and time.monotonic() < ends:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the server ends what was in flight
    paid = server.answered[CHAT]
    said = project.run("evalvault", "run", str(file), "-m", TWO, "--dry-run").stdout
    began = time.monotonic()
    results = run(project, file)
    assert results["coverage"] == 1.0
    assert results["usage"]["judge_calls"] == server.answered[CHAT] - paid == told_calls(said)
    kept = sum(metric["judge_calls"] for case in results["results"] for metric in case["metrics"])
    kept -= results["usage"]["judge_calls"]
    assert kept >= paid - IN_FLIGHT
    assert 150 <= server.answered[CHAT] <= 150 + IN_FLIGHT
    assert time.monotonic() - began < 45, "it waited for the claims of a dead process"
    assert not list((project.folder / "data" / "results" / "journal").glob("*.jsonl"))


def test_a_run_that_is_sent_to_phoenix_later_under_its_id_keeps_what_it_has_spent(
    project: UserProject, server: OpenAIServer
) -> None:
    file = dataset(project, 2)
    command = ("evalvault", "run", str(file), "-m", TWO, "--run-id", "nightly")
    project.run(*command)
    paid = server.answered[CHAT]
    project.run(*command)
    assert server.answered[CHAT] == paid == 6
    shown = project.run("evalvault", "usage", "--by", "run").stdout
    (line,) = [line for line in shown.splitlines() if "nightly" in line]
    assert line.replace("│", " ").split()[3:5] == ["1", "6"], "a run, and its calls"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_says_how_to_go_on_and_pays_nothing_twice(
    project: UserProject, server: OpenAIServer, number: signal.Signals
) -> None:
    server.latency = 0.2
    log, file = project.folder / "run.log", dataset(project, 50)
    process = project.start("evalvault", "run", str(file), "-m", TWO, log=log)
    ends = time.monotonic() + 60
    while server.answered[CHAT] < 10 and time.monotonic() < ends:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "calls of the judge are in flight: their answers are read, for 5 s at most." in said
    assert said.endswith("is kept: run the same command again.\n")
    server.latency = 0.0
    assert run(project, file)["coverage"] == 1.0
    assert server.calls[CHAT] == 150


def backfill_under_way(project: UserProject, server: OpenAIServer, log: Path | None = None) -> subprocess.Popen[bytes]:
    """A judged backfill of `insurance_qa_en`, of which ten calls are answered."""
    catalog = project.folder / "data" / "catalog.toml"
    english = catalog.read_text(encoding="utf-8").replace(
        'metrics = ["lexical_support", "chrf"', 'metrics = ["faithfulness", "chrf"'
    )
    catalog.write_text(english, encoding="utf-8")
    server.latency = 0.2
    process = project.start("evalvault", "backfill", "insurance_qa_en", log=log)
    ends = time.monotonic() + 90
    while server.answered[CHAT] < 10 and time.monotonic() < ends:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backfill_begins_no_other_snapshot(
    project: UserProject, server: OpenAIServer, number: signal.Signals
) -> None:
    folder, log = project.folder / "data" / "datasets" / "insurance_qa_en", project.folder / "run.log"
    (folder / "2026w48.jsonl").write_bytes((folder / "2026w47.jsonl").read_bytes())
    process = backfill_under_way(project, server, log)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said and said.endswith("is kept: run the same command again.\n")
    assert server.calls[CHAT] < 2 * 24
    assert not list((project.folder / "data" / "results").glob("insurance_qa_en/*/results.json"))


def test_a_killed_backfill_gives_its_place_at_the_judge_back(project: UserProject, server: OpenAIServer) -> None:
    """It held the slot of Dagster's pool `judge`, and the next backfill waited for it for ever."""
    process = backfill_under_way(project, server)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.latency = 0.0
    done = project.run("evalvault", "backfill", "insurance_qa_en", check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert project.results("insurance_qa_en", "2026w47")["coverage"] == 1.0
    assert server.answered[CHAT] <= 2 * 24 + IN_FLIGHT


def test_two_processes_on_one_dataset_pay_once_and_say_the_same(project: UserProject, server: OpenAIServer) -> None:
    server.latency = 0.05
    file = dataset(project, 40)
    command = project.command("evalvault", "run", str(file), "-m", TWO, "-o")
    both = [
        subprocess.Popen(
            [*command, name], cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for name in ("one.json", "two.json")
    ]
    said = [process.communicate(timeout=120)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    one, two = (json.loads((project.folder / name).read_text(encoding="utf-8")) for name in ("one.json", "two.json"))
    assert server.answered[CHAT] == one["usage"]["judge_calls"] + two["usage"]["judge_calls"] == 120
    assert scores(one) == scores(two)


def test_a_wrong_key_is_found_nowhere(project: UserProject, server: OpenAIServer) -> None:
    """The server repeats the whole key in its answer, as careless gateways do."""
    wrong = "sk-wrong-key-9876543210"
    file = dataset(project, 5)
    for command in (["run", str(file), "-m", TWO, "--verbose"], ["doctor"]):
        done = project.run("evalvault", *command, check=False, OPENAI_API_KEY=wrong)
        assert done.returncode == 2 and "key" in done.stdout + done.stderr
        assert wrong not in done.stdout + done.stderr
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if wrong.encode() in path.read_bytes()]


def test_the_right_key_is_in_no_file_either(project: UserProject) -> None:
    done = project.run("evalvault", "run", str(dataset(project, 5)), "-m", TWO, "-o", "results.json", "--verbose")
    assert CANARY not in done.stdout + done.stderr
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sqlite" for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_a_dead_judge_ends_the_command_with_exit_3_and_a_remedy(project: UserProject) -> None:
    done = project.run(
        "evalvault", "run", str(dataset(project, 5)), "-m", TWO, check=False, OPENAI_BASE_URL="http://127.0.0.1:9/v1"
    )
    assert done.returncode == 3
    assert "does not answer" in done.stderr and "evalvault doctor" in done.stderr


def test_a_budget_stops_the_judge_cleanly_and_is_kept(project: UserProject, server: OpenAIServer) -> None:
    results = run(project, dataset(project, 50), "--budget", "40ktok")
    assert 0 < results["total_tokens"] <= 40_000
    assert results["unmeasured_by_reason"] == {"budget": results["wanted_scores"] - results["measured_scores"]}
    assert 0.0 < results["coverage"] < 1.0
    assert scores(run(project, dataset(project, 50))).keys() == scores(results).keys()


def test_tokens_and_cost_are_those_of_the_server(project: UserProject, server: OpenAIServer) -> None:
    """Every case's own figures add up to the run's, which are what the server counted."""
    results = run(project, dataset(project, 30))
    usage = results["usage"]
    assert sum(case["tokens"] for case in results["results"]) == results["total_tokens"]
    assert sum(case["cost_usd"] for case in results["results"]) == pytest.approx(results["total_cost_usd"])
    chat = usage["prompt_tokens"] * 0.25e-6 + usage["completion_tokens"] * 2e-6
    assert results["total_cost_usd"] == pytest.approx(chat + usage["embedding_tokens"] * 0.02e-6)
    assert usage["judge_calls"] == server.answered[CHAT]


def test_a_model_without_a_known_price_has_tokens_and_no_cost(project: UserProject) -> None:
    file = dataset(project, 3)
    results = run(project, file, EVALVAULT_JUDGE_MODEL="our-own-model")
    assert results["total_tokens"] > 0 and results["total_cost_usd"] is None
    for dry in ([], ["--dry-run"]):
        budget = ["--budget", "1USD", *dry]
        done = project.run(
            "evalvault", "run", str(file), "-m", TWO, *budget, check=False, EVALVAULT_JUDGE_MODEL="our-own-model"
        )
        assert done.returncode == 2 and "Mtok" in done.stderr


@pytest.mark.parametrize("text", ["5", "USD", "5EUR", "-1USD", "Mtok 2", ""])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidSetting, match="such as --budget 5USD"):
        Budget.parse(text)


def test_short_answers_and_references_go_to_the_judge_as_they_are(tmp_path: Path) -> None:
    """The original tool put the answer in the place of a reference of under six characters."""
    with OpenAIServer(record=True) as server:
        cases = cases_of(2, answer="네", ground_truth="20년")
        found = judged(cases, openai_spec(server), tmp_path, ["faithfulness", "context_recall", "factual_correctness"])
        sent = [json.dumps(body, ensure_ascii=False) for path, body in server.requests if path == CHAT]
    assert found.reasons <= {"unparsable"} and found.error is None
    assert any("20년" in text for text in sent) and any("네" in text for text in sent)


def test_what_a_case_lacks_is_said_and_never_a_zero(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        metrics = ["faithfulness", "context_recall", "answer_relevancy"]
        found = judged(cases_of(1, case_id="bare", ground_truth=None), openai_spec(server), tmp_path, metrics)
        silent = judged(cases_of(1, answer=""), openai_spec(server), tmp_path / "silent", metrics)
    bare = found.scores["bare", "context_recall"]
    assert (bare.value, bare.unmeasured, bare.detail) == (None, "no_field", "the case has no ground_truth")
    assert {score.detail for score in silent.scores.values() if score.value is None} == {"the case's answer is empty"}


def test_a_case_that_stands_twice_is_paid_once(tmp_path: Path) -> None:
    one = cases_of(1)[0]
    twins = [one, cases_of(1, case_id="twin")[0]]
    assert twins[0].digest == twins[1].digest
    with OpenAIServer() as server:
        found = judged(twins, openai_spec(server), tmp_path)
        assert server.answered[CHAT] == 3 == sum(score.judge_calls for score in found.paid)
    assert found.scores["c1", "faithfulness"].value == found.scores["twin", "faithfulness"].value


def test_three_questions_are_one_call_where_the_server_gives_several_replies(tmp_path: Path) -> None:
    with OpenAIServer() as several, OpenAIServer(native_n=False) as one:
        judged(cases_of(10), openai_spec(several, max_concurrency=1), tmp_path / "several", ["answer_relevancy"])
        judged(cases_of(10), openai_spec(one, max_concurrency=1), tmp_path / "one", ["answer_relevancy"])
        assert (several.answered[CHAT], one.answered[CHAT]) == (10, 30)


def test_calls_in_flight_reach_the_limit_and_never_exceed_it(tmp_path: Path) -> None:
    with OpenAIServer(latency=0.05) as server:
        judged(cases_of(30), openai_spec(server, max_concurrency=16), tmp_path)
        assert server.peak_in_flight == 16


def test_ollama_is_told_not_to_cut_a_prompt_and_one_that_is_too_long_is_no_score(tmp_path: Path) -> None:
    cases = [*cases_of(2), *cases_of(1, case_id="long", contexts=1, answer="The plan pays. " * 3000)]
    with OllamaServer(models=["tiny", "tiny-embed"], record=True) as server:
        found = judged(cases, ollama_spec(server, num_ctx=4096), tmp_path, ["faithfulness"])
        chats = [body for path, body in server.requests if path == "/api/chat"]
    for body in chats:
        assert (body["truncate"], body["think"], body["stream"]) == (False, False, False)
        assert body["options"]["num_ctx"] == 4096 and body["keep_alive"] and body["format"]["type"] == "object"
    score = found.scores["long", "faithfulness"]
    assert (score.value, score.unmeasured) == (None, "truncated") and "OLLAMA_NUM_CTX" in score.detail
    assert found.scores["c1", "faithfulness"].value is not None


def test_the_judges_noise_is_measured_on_a_fixed_sample_and_not_paid_twice(project: UserProject, server: OpenAIServer) -> None:
    first = run(project, dataset(project, 50), EVALVAULT_JUDGE_REPEATS="3")
    noise = first["metric_summaries"]["faithfulness"]["noise"]
    assert (noise["repeats"], noise["flip_rate"]) == (3, 0.0) and 0.05 * 50 <= noise["cases"] <= 0.1 * 50
    paid = server.answered[CHAT]
    assert paid == 150 + 2 * 3 * noise["cases"]
    assert run(project, dataset(project, 50), EVALVAULT_JUDGE_REPEATS="3")["usage"]["judge_calls"] == 0
    assert server.answered[CHAT] == paid


@pytest.mark.live
@pytest.mark.skipif(not os.environ.get("OLLAMA_HOST"), reason="OLLAMA_HOST names no Ollama server")
def test_a_real_ollama_scores_two_cases(project: UserProject) -> None:
    host = os.environ["OLLAMA_HOST"]
    url = host if "://" in host else f"http://{host}"
    results = run(project, dataset(project, 2), EVALVAULT_PROFILE="dev", OLLAMA_BASE_URL=url)
    assert results["measured_scores"] > 0
