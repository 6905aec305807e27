"""The asset family of a dataset with a judge behind it: a double of OpenAI or Ollama on loopback, and a real instance."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline import evaluate
from evalvault_pipeline.defs.in_process_runs import evaluate_snapshot
from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.scoring.calls import Patience
from evalvault_pipeline.scoring.judging import Judging
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.defs.conftest import Project, cases_of
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.judge_answers import answer_for
from evalvault_pipeline_tests.doubles.ollama_models import OllamaModel
from evalvault_pipeline_tests.doubles.ollama_server import CHAT as OLLAMA_CHAT
from evalvault_pipeline_tests.doubles.ollama_server import EMBED, OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.stack import UserProject, free_port

SCORES, REPORT = dg.AssetKey(["demo", "scores"]), dg.AssetKey(["demo", "report"])
METRICS = ("exact_match", "faithfulness", "answer_relevancy")


class Judged:
    """The small project with a judge: its environment is what `dagster dev` would see."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self._monkeypatch = project, monkeypatch
        self.catalog()

    def catalog(self, metrics: tuple[str, ...] = METRICS, **keys: Any) -> None:
        lines = [f"{name} = {json.dumps(value)}" for name, value in {"batch_size": 2, "min_pass_rate": 0.0, **keys}.items()]
        text = f'[datasets.demo]\nfiles = "datasets/demo/*"\nlanguage = "en"\nmetrics = {json.dumps(metrics)}\n'
        (self.project.folder / "catalog.toml").write_text(text + "\n".join(lines), encoding="utf-8")

    def use(self, profile: str, **environment: str) -> None:
        """Settings as the environment gives them; faults are retried in milliseconds."""
        results = {"EVALVAULT_RESULTS_DIR": str(self.project.settings.results_dir), "EVALVAULT_TOKENIZER": "ngram"}
        for name, value in {"EVALVAULT_PROFILE": profile, **results, **environment}.items():
            self._monkeypatch.setenv(name, value)
        self.project.settings = load_settings(self.project.folder)
        patience = Patience(wait_min=0.01, wait_max=0.02, throttled=1.0)
        self._monkeypatch.setattr(evaluate, "Judging", partial(Judging, patience=patience))

    def openai(self, server: OpenAIServer | int, **environment: str) -> None:
        url = server.base_url if isinstance(server, OpenAIServer) else f"http://127.0.0.1:{server}/v1"
        self.use("openai", OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=url, **environment)

    def ollama(self, server: OllamaServer | int, **environment: str) -> None:
        url = server.url if isinstance(server, OllamaServer) else f"http://127.0.0.1:{server}"
        models = {"EVALVAULT_JUDGE_MODEL": "tiny", "EVALVAULT_EMBEDDING_MODEL": "tiny-embed"}
        self.use("dev", OLLAMA_BASE_URL=url, **models, **environment)

    def run(self, snapshot: str = "2026w47") -> dg.ExecuteInProcessResult:
        return self.project.run(range_tags(self.project.register(snapshot)))

    def newest(self, key: dg.AssetKey) -> dict[str, Any]:
        event = self.project.instance.get_latest_materialization_event(key)
        assert event is not None and event.asset_materialization is not None
        return values_of(event.asset_materialization.metadata)

    def batches(self) -> dict[str, dict[str, Any]]:
        """Batch -> metadata of its newest scores."""
        records = self.project.instance.fetch_materializations(SCORES, limit=100, ascending=True).records
        return {str(record.partition_key): values_of(record.asset_materialization.metadata) for record in records}  # type: ignore[union-attr]


def values_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


@pytest.fixture
def judged(project: Project, monkeypatch: pytest.MonkeyPatch) -> Judged:
    return Judged(project, monkeypatch)


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer(keys=["sk-test"]) as server:
        yield server


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


def why_failed(result: dg.ExecuteInProcessResult) -> str:
    """The innermost error of each failed step."""
    texts = []
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause is not None:
                error = error.cause
            texts.append(error.message)
    return "\n".join(texts)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


# Scored by a judge --------------------------------------------------------------------------------------------------------


def test_the_judge_of_the_profile_measures_the_llm_metrics_of_every_batch(judged: Judged, openai: OpenAIServer) -> None:
    judged.openai(openai)
    judged.project.write("2026w47", cases_of(5))
    assert judged.run().success
    report = judged.project.report("2026w47")
    assert (report["coverage"], report["model_name"], report["profile"]) == (1.0, "openai/gpt-5-mini", "openai")
    assert report["avg_faithfulness"] == 1.0 and 0.0 < report["avg_answer_relevancy"] <= 1.0
    assert report["judge"]["fingerprint"].startswith("openai/gpt-5-mini@")
    (judges,) = {score["judge"] for case in report["results"] for score in case["metrics"] if score["name"] == "faithfulness"}
    assert judges.startswith("openai/gpt-5-mini@")


def test_a_batch_of_the_ui_shows_what_it_asked_of_the_judge_and_they_add_up_to_the_report(
    judged: Judged, openai: OpenAIServer
) -> None:
    """faithfulness asks twice, answer_relevancy once for three replies and once for all embeddings."""
    judged.openai(openai)
    judged.project.write("2026w47", cases_of(5))
    judged.run()
    batches, report = judged.batches(), judged.newest(REPORT)
    assert {key: found["judge_calls"] for key, found in batches.items()} == {
        "2026w47/0001": 6,
        "2026w47/0002": 6,
        "2026w47/0003": 3,
    }
    assert openai.calls[CHAT] == report["judge_calls"] == 15
    assert sum(found["tokens"] for found in batches.values()) == report["tokens"] > 0


def test_the_report_shows_what_the_judge_cost(judged: Judged, openai: OpenAIServer) -> None:
    """gpt-5-mini costs 0.25 and 2 dollars for a million tokens of prompts and answers, its embeddings 0.02."""
    judged.openai(openai)
    judged.project.write("2026w47", cases_of(5))
    judged.run()
    usage = judged.project.report("2026w47")["usage"]
    cost = (0.25 * usage["prompt_tokens"] + 2 * usage["completion_tokens"] + 0.02 * usage["embedding_tokens"]) / 1e6
    assert usage["embedding_tokens"] > 0 and usage["cost_usd"] == pytest.approx(cost)
    assert judged.newest(REPORT)["cost_usd"] == pytest.approx(cost, abs=1e-6)


def test_a_judge_without_a_known_price_shows_tokens_and_no_dollars(judged: Judged, ollama: OllamaServer) -> None:
    judged.ollama(ollama)
    judged.project.write("2026w47", cases_of(3))
    assert judged.run().success
    shown = judged.newest(REPORT)
    assert shown["tokens"] > 0 and "cost_usd" not in shown
    report = judged.project.report("2026w47")
    assert (report["coverage"], report["model_name"], report["total_cost_usd"]) == (1.0, "ollama/tiny", None)
    assert report["judge"]["weights"] and report["judge"]["num_ctx"] == 8192


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_materializing_again_asks_the_judge_nothing_and_says_what_that_saved(
    judged: Judged, kind: str, request: pytest.FixtureRequest
) -> None:
    server: OpenAIServer | OllamaServer = request.getfixturevalue(kind)
    getattr(judged, kind)(server)
    judged.project.write("2026w47", cases_of(5))
    judged.run()
    asked = {path: server.calls[path] for path in (CHAT, EMBEDDINGS, OLLAMA_CHAT, EMBED)}
    first = judged.newest(REPORT)
    assert judged.run().success
    assert {path: server.calls[path] for path in asked} == asked
    again = judged.newest(REPORT)
    assert (again["judge_calls"], again["tokens"], again["tokens_saved"]) == (0, 0, first["tokens"])
    assert {found["judge_calls"] for found in judged.batches().values()} == {0}
    assert (again["scores_computed"], again["scores_from_store"]) == (0, 15)
    assert again.get("saved_usd") == first.get("cost_usd") and "cost_usd" not in again
    means = [name for name in first if name.startswith("mean_")]
    assert [again[name] for name in means] == [first[name] for name in means]


def test_a_changed_case_is_all_that_is_judged_again(judged: Judged, openai: OpenAIServer) -> None:
    judged.openai(openai)
    judged.project.write("2026w47", cases_of(5))
    judged.run()
    before = openai.calls[CHAT]
    changed = cases_of(5)
    changed[3]["answer"] = "The limit is 4 dollars a year."
    judged.project.write("2026w47", changed)
    judged.run()
    assert openai.calls[CHAT] - before == 3
    assert {key: found["judge_calls"] for key, found in judged.batches().items()} == {
        "2026w47/0001": 0,
        "2026w47/0002": 3,
        "2026w47/0003": 0,
    }


def test_a_model_that_was_pulled_again_is_another_judge(judged: Judged) -> None:
    """Same name, other weights: old scores are not mixed with new ones."""

    class PulledAgain(OllamaModel):
        digest = "5" * 64

    port = free_port()
    judged.catalog(("exact_match", "faithfulness"))
    judged.project.write("2026w47", cases_of(2))
    fingerprints = []
    for model in (OllamaModel(name="tiny"), PulledAgain(name="tiny")):
        with OllamaServer(models=[model, "tiny-embed"], port=port) as server:
            judged.ollama(server)
            assert judged.run().success
            assert server.calls[OLLAMA_CHAT] == 4
        fingerprints.append(judged.project.report("2026w47")["judge"]["fingerprint"])
    assert fingerprints[0] != fingerprints[1]


def test_a_run_outside_of_the_main_thread_is_judged_as_well(judged: Judged, openai: OpenAIServer) -> None:
    """Dagster runs steps where it likes; the judge's loop is its own."""
    judged.openai(openai)
    judged.project.write("2026w47", cases_of(2))
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(judged.run().success))
    thread.start()
    thread.join(180)
    assert done == [True]


# The judge against itself -------------------------------------------------------------------------------------------------


class Fickle:
    """Supports a statement the first time it is asked, and not the second, and so on."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    def __call__(self, schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
        answer = answer_for(schema, prompt, occurrence=occurrence)
        if isinstance(answer, dict) and any(isinstance(item, dict) for item in answer.get("statements", ())):
            self._asked[prompt] += 1
            for item in answer["statements"]:
                item["verdict"] = self._asked[prompt] % 2
        return answer


@pytest.mark.parametrize("place", ["catalog", "environment"])
def test_the_report_shows_how_often_the_judge_disagrees_with_itself(judged: Judged, place: str) -> None:
    """One case of the only batch is judged three times: yes, no, yes. Two pairs of three disagree."""
    judged.catalog(("faithfulness",), batch_size=10, **({"judge_repeats": 3} if place == "catalog" else {}))
    judged.project.write("2026w47", cases_of(4))
    with OpenAIServer(answer=Fickle()) as server:
        judged.openai(server, **({"EVALVAULT_JUDGE_REPEATS": "3"} if place == "environment" else {}))
        judged.run()
        assert server.calls[CHAT] == 2 * (4 + 2)
    assert judged.newest(REPORT)["flip_rate_faithfulness"] == pytest.approx(2 / 3, abs=1e-4)
    summary = judged.project.report("2026w47")["metric_summaries"]["faithfulness"]
    assert (summary["measured"], summary["noise"]["cases"], summary["noise"]["repeats"]) == (4, 1, 3)
    assert judged.newest(REPORT)["judge_calls"] == 12


def test_the_calls_of_repeats_stand_in_the_figures_of_their_batch(judged: Judged, openai: OpenAIServer) -> None:
    judged.catalog(("faithfulness",), batch_size=10, judge_repeats=3)
    judged.project.write("2026w47", cases_of(4))
    judged.openai(openai)
    judged.run()
    (batch,) = judged.batches().values()
    report = judged.newest(REPORT)
    assert (batch["judge_calls"], batch["tokens"]) == (report["judge_calls"], report["tokens"])


def test_repeats_are_kept_and_not_asked_for_again(judged: Judged, openai: OpenAIServer) -> None:
    judged.catalog(("faithfulness",), batch_size=10, judge_repeats=2)
    judged.project.write("2026w47", cases_of(4))
    judged.openai(openai)
    judged.run()
    asked = openai.calls[CHAT]
    judged.run()
    assert openai.calls[CHAT] == asked == 2 * (4 + 1)
    assert judged.newest(REPORT)["flip_rate_faithfulness"] == 0.0


# A judge that is away -----------------------------------------------------------------------------------------------------


def test_a_dead_judge_fails_the_run_with_a_sentence_that_says_what_to_do(judged: Judged) -> None:
    port = free_port()
    judged.openai(port)
    judged.project.write("2026w47", cases_of(5))
    result = judged.run()
    assert not result.success
    assert re.search(
        rf"JudgeUnavailable: The judge openai/gpt-5-mini does not answer: no connection to http://127.0.0.1:{port}/v1: .+\. "
        r"What was scored is kept: when it is back \(`evalvault doctor` checks it\), run the same command again\.$",
        why_failed(result).strip(),
    )
    assert not judged.project.results.results_file("2026w47").exists()


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_the_outcome_of_a_dead_judge_is_that_of_a_service_that_does_not_answer(judged: Judged, kind: str) -> None:
    getattr(judged, kind)(free_port())
    judged.project.write("2026w47", cases_of(5))
    job = judged.project.definitions.resolve_job_def("demo_evaluation_job")
    outcome = evaluate_snapshot(judged.project.instance, judged.project.spec, "2026w47", job=job)
    assert (outcome.exit_code, outcome.reported) == (3, False), outcome.line
    assert "does not answer" in outcome.line and "Traceback" not in outcome.line


def test_a_refused_key_is_a_wrong_setting_and_stands_nowhere(judged: Judged) -> None:
    key = "sk-a-secret-of-the-test"
    with OpenAIServer(keys=["sk-other"], echo_key="whole") as server:
        judged.use("openai", OPENAI_API_KEY=key, OPENAI_BASE_URL=server.base_url)
        judged.project.write("2026w47", cases_of(5))
        job = judged.project.definitions.resolve_job_def("demo_evaluation_job")
        outcome = evaluate_snapshot(judged.project.instance, judged.project.spec, "2026w47", job=job)
    assert outcome.exit_code == 2 and "the judge refuses the key (HTTP 401)" in outcome.line
    logs = "\n".join(str(record) for record in judged.project.instance.all_logs(outcome.run_id))
    assert key not in logs + outcome.line
    written = [path.read_bytes() for path in judged.project.folder.rglob("*") if path.is_file()]
    assert not [content for content in written if key.encode() in content]


def test_a_run_with_the_judge_back_goes_on_where_the_dead_one_ended(judged: Judged) -> None:
    """After 8 answers every connection is reset. What was answered is asked no second time, also where its case was open."""
    port = free_port()
    judged.catalog(("exact_match", "faithfulness"))
    judged.project.write("2026w47", cases_of(40))
    dying = OpenAIServer(port=port, script=lambda number, body: Fault("reset") if number > 8 else None)
    with dying:
        judged.openai(dying, EVALVAULT_MAX_CONCURRENCY="2")
        result = judged.run()
        assert not result.success and "does not answer" in why_failed(result)
        answered = dying.answered[CHAT]
    with ScoreStore(judged.project.settings.score_store_url) as store:
        kept = store.count()
    with OpenAIServer(port=port) as back:
        assert judged.run().success
        assert answered == 8 and back.calls[CHAT] == 80 - answered
    report = judged.project.report("2026w47")
    assert (report["coverage"], report["avg_faithfulness"]) == (1.0, 1.0)
    assert (report["cache"]["hits"], report["missing_batches"]) == (kept, []) and kept > 0


def test_batches_that_were_judged_before_the_judge_died_are_kept_as_tables(judged: Judged) -> None:
    judged.catalog(("faithfulness",))
    judged.project.write("2026w47", cases_of(80))
    with OpenAIServer(script=lambda number, body: Fault("reset") if number > 60 else None) as dying:
        judged.openai(dying, EVALVAULT_MAX_CONCURRENCY="2")
        result = judged.run()
        assert not result.success and "does not answer" in why_failed(result)
    assert judged.project.results.scores_file("2026w47/0001").exists()


# A judge that is paid no more ---------------------------------------------------------------------------------------------


def test_the_coverage_check_fails_where_the_budget_left_cases_unmeasured(judged: Judged, openai: OpenAIServer) -> None:
    """Nothing is known to be worse, so the run does not fail; the next one goes on with the rest."""
    judged.catalog(("exact_match", "faithfulness"), judge_repeats=1)
    judged.openai(openai, EVALVAULT_BUDGET="5ktok")
    judged.project.write("2026w47", cases_of(10))
    result = judged.run()
    assert result.success
    report = judged.project.report("2026w47")
    assert set(report["unmeasured_by_reason"]) == {"budget"} and 0.5 < report["coverage"] < 1.0
    assert 0 < report["total_tokens"] <= 5_000
    (detail,) = report["unmeasured_details"]
    unmeasured = report["unmeasured_by_reason"]["budget"]
    assert detail.startswith(f"faithfulness: the budget of 5,000 tokens allows no further call ({unmeasured} cases, such as c")
    found = checks(result)
    assert (found["every_case_scored"].passed, found["every_case_scored"].severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found["every_case_scored"].metadata["coverage"].value == report["coverage"]
    assert "the budget of 5,000 tokens allows no further call" in str(found["every_case_scored"].metadata["unmeasured"].value)
    assert sum(found["unmeasured_scores"] for found in judged.batches().values()) == report["unmeasured_by_reason"]["budget"]
    judged.openai(openai, EVALVAULT_BUDGET="1Mtok")
    assert all(check.passed for check in checks(judged.run()).values())
    assert openai.calls[CHAT] == 20, "what was measured under the budget is not paid again"


def test_coverage_may_be_less_than_all_where_the_settings_say_so(judged: Judged, openai: OpenAIServer) -> None:
    judged.catalog(("exact_match", "faithfulness"))
    judged.openai(openai, EVALVAULT_BUDGET="5ktok", EVALVAULT_MIN_COVERAGE="0.5")
    judged.project.write("2026w47", cases_of(10))
    assert checks(judged.run())["every_case_scored"].passed


def test_a_budget_is_for_a_run_and_not_for_each_of_its_snapshots(judged: Judged, openai: OpenAIServer) -> None:
    judged.catalog(("faithfulness",), batch_size=10)
    judged.openai(openai, EVALVAULT_BUDGET="5ktok")
    others = [{**case, "answer": f"{case['answer']} Yes."} for case in cases_of(10)]
    judged.project.write("2026w46", others)
    judged.project.write("2026w47", cases_of(10))
    keys = [*judged.project.register("2026w46"), *judged.project.register("2026w47")]
    judged.project.run(range_tags(keys))
    assert sum(judged.project.report(snapshot)["total_tokens"] for snapshot in ("2026w46", "2026w47")) <= 5_000


# The command --------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_backfill_without_its_judge_exits_with_3_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    project = UserProject(
        tmp_path / "project",
        EVALVAULT_PROFILE="dev",
        OLLAMA_BASE_URL=f"http://127.0.0.1:{port}",
        EVALVAULT_JUDGE_MODEL="tiny",
        EVALVAULT_EMBEDDING_MODEL="tiny-embed",
        PYTHONPATH=str(PROJECT),
    )
    with (project.folder / "data" / "catalog.toml").open("a", encoding="utf-8") as catalog:
        metrics = '["chrf", "faithfulness"]'
        catalog.write(f'\n[datasets.judged]\nfiles = "datasets/judged/*"\nmetrics = {metrics}\nmin_pass_rate = 0.0\n')
    (project.folder / "data" / "datasets" / "judged").mkdir()
    file = project.folder / "data" / "datasets" / "judged" / "2026w47.json"
    file.write_text(json.dumps({"test_cases": cases_of(6)}), encoding="utf-8")
    command = ("evalvault", "backfill", "judged")
    away = project.run(*command, check=False)
    assert away.returncode == 3, away.stdout + away.stderr
    assert away.stdout.splitlines()[0] == "profile dev: judge ollama/tiny"
    said = " ".join(away.stdout.split())
    assert f"Ollama at http://127.0.0.1:{port} does not answer: " in said and "evalvault doctor" in said
    assert "Traceback" not in away.stdout + away.stderr and "failed: 2026w47" in said
    with OllamaServer(port=port) as server:
        project.run(*command)
        assert server.calls[OLLAMA_CHAT] == 12
        again = project.run(*command)
        assert server.calls[OLLAMA_CHAT] == 12
    assert "nothing computed: all 12 scores were in the score store" in again.stdout
    assert project.results("judged", "2026w47")["coverage"] == 1.0
