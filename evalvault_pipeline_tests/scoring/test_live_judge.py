"""Two cases by a real judge, where the environment names one: `OLLAMA_HOST`, or `OPENAI_API_KEY` (with `OPENAI_BASE_URL`).

EVALVAULT_JUDGE_MODEL and EVALVAULT_EMBEDDING_MODEL choose other models than the profile's. `pytest -m live` runs only these.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.settings import load_settings

pytestmark = pytest.mark.live

NAMED = {
    name: os.environ[name]
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "EVALVAULT_JUDGE_MODEL", "EVALVAULT_EMBEDDING_MODEL")
    if os.environ.get(name)
}
OLLAMA_HOST = os.environ.get("OLLAMA_HOST")
JUDGES = [
    pytest.param(
        {"EVALVAULT_PROFILE": "dev", "OLLAMA_BASE_URL": OLLAMA_HOST or ""},
        marks=pytest.mark.skipif(not OLLAMA_HOST, reason="no real Ollama: set OLLAMA_HOST"),
        id="ollama",
    ),
    pytest.param(
        {"EVALVAULT_PROFILE": "openai"},
        marks=pytest.mark.skipif("OPENAI_API_KEY" not in NAMED, reason="no real OpenAI server: set OPENAI_API_KEY"),
        id="openai",
    ),
]
CONTEXTS = ["The cancer benefit is 30,000 dollars. It is paid within 3 business days of the diagnosis."]
CASES = [
    {
        "id": "right",
        "question": "How much is the cancer benefit, and when is it paid?",
        "answer": "The cancer benefit is 30,000 dollars and is paid within 3 business days of the diagnosis.",
        "contexts": CONTEXTS,
    },
    {
        "id": "wrong",
        "question": "How much is the cancer benefit, and when is it paid?",
        "answer": "Lake Baikal is the deepest lake on Earth. It freezes over in January.",
        "contexts": CONTEXTS,
    },
]


@pytest.mark.parametrize("judge", JUDGES)
def test_a_real_judge_tells_a_right_answer_from_a_wrong_one(judge: dict[str, str], tmp_path: Path) -> None:
    """Through all of the way: measured, explained, counted; and a second run asks nothing."""
    dataset = tmp_path / "live.json"
    dataset.write_text(json.dumps({"name": "live", "test_cases": CASES}), encoding="utf-8")
    settings = load_settings(tmp_path, EVALVAULT_RESULTS_DIR=str(tmp_path / "results"), **NAMED, **judge)
    metrics = ["faithfulness", "answer_relevancy"]
    with evaluate_file(dataset, settings=settings, metrics=metrics) as report:
        found = {(score.case_id, score.metric): score for result in report.results for score in result.scores}
    assert {key: score.detail for key, score in found.items() if score.value is None} == {}
    for metric in metrics:
        assert (found["right", metric].value or 0.0) > (found["wrong", metric].value or 0.0)
        assert found["right", metric].evidence
        assert found["right", metric].tokens > 0
    with evaluate_file(dataset, settings=settings, metrics=metrics) as again:
        assert (again.computed, again.reused, again.spent.calls) == (0, 4, 0)
