"""Results files as `evalvault run` writes them, with scores of a test's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalvault_pipeline.publishing.results_file import write_cases

THRESHOLDS = {"faithfulness": 0.7, "noise_sensitivity": 0.3, "chrf": 0.2}
Scores = dict[str, float | None]


def score(name: str, value: float | None, **changes: Any) -> dict[str, Any]:
    lower = name == "noise_sensitivity"
    passed = None if value is None else value <= THRESHOLDS[name] if lower else value >= THRESHOLDS[name]
    statements = [{"statement": "면책기간은 90일이다.", "verdict": 0, "reason": "컨텍스트는 60일이라고 한다."}]
    return {
        "name": name,
        "score": value,
        "threshold": THRESHOLDS[name],
        "passed": passed,
        "unmeasured": "judge_timeout" if value is None else None,
        "reason": "no answer within 60 s" if value is None else None,
        "evidence": {"statements": statements} if name == "faithfulness" and value is not None else {},
        "version": f"1+{name}",
        "judge": "gpt-5-mini/9f2c" if name != "chrf" else "",
        "lower_is_better": lower,
        "from_store": False,
        "seconds": 1.0,
        "judge_calls": 2,
        "tokens": 900,
        "cost_usd": 0.001,
        **changes,
    }


def case(name: str, scores: Scores, **changes: Any) -> dict[str, Any]:
    return {
        "test_case_id": name,
        "all_passed": None,
        "metrics": [score(metric, value) for metric, value in scores.items()],
        "question": f"{name}의 면책기간은?",
        "answer": f"{name} 답변",
        "ground_truth": "60일",
        "metadata": {"product": "cancer"},
        "case_digest": f"digest of {name}",
        "input_digest": f"input of {name}",
        "seconds": 1.0,
        "tokens": 900,
        "cost_usd": 0.001,
        **changes,
    }


def good(**changes: float | None) -> Scores:
    return {"faithfulness": 0.9, "noise_sensitivity": 0.1, "chrf": 0.6, **changes}


def write_results(file: Path, cases: list[dict[str, Any]], **header: Any) -> Path:
    """A results file of these cases; `header` changes what stands in it."""
    metrics = [one["name"] for one in cases[0]["metrics"]]
    usage = {"judge_calls": 4, "prompt_tokens": 700, "completion_tokens": 200, "embedding_tokens": 0, "cost_usd": 0.25}
    summaries = {}
    for metric in metrics:
        values = [one["score"] for entry in cases for one in entry["metrics"] if one["name"] == metric]
        lacking = sum(value is None for value in values)
        summaries[metric] = {
            "version": f"1+{metric}",
            "lower_is_better": metric == "noise_sensitivity",
            "mean_interval": None,
            "unmeasured": {"judge_timeout": lacking} if lacking else {},
            "usage": usage,
            "noise": None,
        }
    content = {
        "schema_version": "1.1",
        "run_id": f"run-of-{file.name}",
        "dataset_name": "보험",
        "snapshot": "2026w46",
        "dataset_version": "v7",
        "dataset_digest": "d1935t",
        "language": "ko",
        "profile": "offline",
        "tokenizer": "kiwi",
        "model_name": "openai/gpt-5-mini",
        "judge": {"temperature": 0},
        "started_at": "2026-11-24T04:01:43.919+00:00",
        "finished_at": "2026-11-24T05:13:46.911+00:00",
        "duration_seconds": 4323.0,
        "total_test_cases": len(cases),
        "passed_test_cases": sum(all(one["passed"] for one in entry["metrics"]) for entry in cases),
        "unmeasured_details": [],
        "total_tokens": 900,
        "total_cost_usd": 0.25,
        "usage": usage,
        "cache": {"hits": 3, "misses": 5, "saved_tokens": 100, "saved_cost_usd": None},
        "metrics_evaluated": metrics,
        "thresholds": {metric: THRESHOLDS[metric] for metric in metrics},
        "metric_summaries": summaries,
        "missing_batches": [],
        "skipped_rows": [],
        **header,
    }
    with file.open("w", encoding="utf-8") as open_file:
        write_cases(open_file, content, cases)
    return file
