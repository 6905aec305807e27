"""`drift_report` on a real Dagster instance: its reference, its check, its files, its embedder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.defs.conftest import Project, cases_of
from evalvault_pipeline_tests.doubles.openai_server import EMBEDDINGS, OpenAIServer

CHECK = "questions_resemble_the_reference"


def others(count: int) -> list[dict[str, Any]]:
    """Cases of quite another topic."""
    return [
        {**case, "question": f"How do I cancel the travel booking of ticket {case['id']} after a delayed flight?"}
        for case in cases_of(count)
    ]


def evaluate(project: Project, snapshot: str, cases: list[dict[str, Any]]) -> dg.ExecuteInProcessResult:
    project.write(snapshot, cases)
    return project.run(range_tags(project.register(snapshot)))


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return next(one for one in result.get_asset_check_evaluations() if one.check_name == CHECK)


def content(project: Project, snapshot: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.results.file(snapshot, "drift.json").read_text(encoding="utf-8"))
    return found


def test_new_questions_are_a_warning_that_ends_no_run(project: Project) -> None:
    first = evaluate(project, "2026w46", cases_of(40))
    assert first.success and check(first).passed and "no earlier snapshot" in (check(first).description or "")
    same = evaluate(project, "2026w47", cases_of(40))
    assert check(same).passed and content(project, "2026w47")["reference"] == "2026w46"
    moved = evaluate(project, "2026w48", others(40))
    assert moved.success
    assert not check(moved).passed and check(moved).severity is dg.AssetCheckSeverity.WARN
    assert "do not resemble those of 2026w47" in (check(moved).description or "")
    event = project.instance.get_latest_materialization_event(dg.AssetKey(["demo", "drift_report"]))
    assert event is not None and event.asset_materialization is not None
    shown = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert shown["psi_questions"] > 0.25 and shown["p_mmd_questions"] < 0.01 and shown["reference"] == "2026w47"
    assert shown["map"].startswith("![map](data:image/png;base64,")
    assert Path(str(shown["html"])).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_reference_is_the_promoted_baselines_snapshot(project: Project) -> None:
    first = evaluate(project, "2026w46", cases_of(30))
    job = project.definitions.resolve_job_def("promote_baseline_job")
    config = {"ops": {"promote_baseline": {"config": {"run_id": first.run_id, "promoted_by": "kim"}}}}
    assert job.execute_in_process(instance=project.instance, run_config=config).success
    evaluate(project, "2026w47", others(30))
    evaluate(project, "2026w48", others(30))
    assert content(project, "2026w48")["reference"] == "2026w46"
    assert not content(project, "2026w48")["resembles"]


@pytest.fixture
def judge() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def judged(tmp_path: Path, project: Project, judge: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Project:
    values = {
        "EVALVAULT_PROFILE": "openai",
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": judge.base_url,
        "EVALVAULT_TOKENIZER": "ngram",
        "EVALVAULT_RESULTS_DIR": str(tmp_path / "results"),
        "EVALVAULT_BASELINES_DIR": str(tmp_path / "baselines"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    project.settings = load_settings(tmp_path)
    return project


def test_the_judges_embedder_gives_the_vectors_and_no_text_is_paid_twice(judged: Project, judge: OpenAIServer) -> None:
    evaluate(judged, "2026w46", cases_of(10))
    assert content(judged, "2026w46")["embedder"] == "openai/text-embedding-3-small"
    texts = judge.answered[EMBEDDINGS]
    assert texts > 0
    evaluate(judged, "2026w47", cases_of(10))
    first = judge.answered[EMBEDDINGS]
    evaluate(judged, "2026w48", cases_of(10))
    assert judge.answered[EMBEDDINGS] == first


def test_an_embedder_that_does_not_answer_leaves_lexical_vectors_and_a_note(judged: Project, judge: OpenAIServer) -> None:
    judge.stop() if hasattr(judge, "stop") else judge.__exit__(None, None, None)
    result = evaluate(judged, "2026w46", cases_of(10))
    found = content(judged, "2026w46")
    assert result.success and found["embedder"].startswith("lexical")
    assert "gives no vectors" in found["notes"][0]
