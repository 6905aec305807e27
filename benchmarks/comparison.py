"""Two runs over 100,000 cases each compared and decided on, beside a bare script of pandas and statsmodels."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import measured, table
from evalvault_pipeline.publishing.results_file import write_cases

THRESHOLDS = {"faithfulness": 0.7, "answer_relevancy": 0.6, "context_precision": 0.5}
# The same two files paired, their pass rates tested and their means taken: no interval, no slice, no case named.
BARE_SCRIPT = """
import json, sys
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
def frame(path):
    cases = json.load(open(path, encoding="utf-8"))["results"]
    rows = [(case["test_case_id"], case["all_passed"], *(one["score"] for one in case["metrics"])) for case in cases]
    return pd.DataFrame(rows).set_index(0)
both = frame(sys.argv[1]).join(frame(sys.argv[2]), lsuffix="_before", rsuffix="_after")
print(mcnemar(pd.crosstab(both["1_before"], both["1_after"]), exact=True).pvalue)
print(both.mean())
"""


def run(folder: Path, *, cases: int) -> str:
    """Measure and return the section as Markdown."""
    before, after = (_results(folder / f"{name}.json", cases, rate) for name, rate in (("before", 0.97), ("after", 0.96)))
    size = sum(Path(folder, file).stat().st_size for file in (before, after)) / 1e6
    evalvault = [sys.executable, "-m", "evalvault_pipeline.cli"]
    gate = ["gate", after, "--baseline", before, "--min-pass-rate", "0", "--margin", "1", "--verdict", "verdict.json"]
    commands = {
        "`evalvault compare`, to `comparison.md`": [*evalvault, "compare", before, after, "--output", "comparison.md"],
        "`evalvault gate --baseline`, to `verdict.json`": [*evalvault, *gate],
        "bare script of json, pandas and statsmodels": [sys.executable, "-c", BARE_SCRIPT, before, after],
    }
    rows = []
    for title, command in commands.items():
        took = measured(command, cwd=folder, environment={"EVALVAULT_RESULTS_DIR": str(folder / "results")})
        rows.append([title, f"{took.wall:.1f} s", f"{took.cpu:.1f} s", f"{took.peak_mb:.0f} MB"])
    head = f"## {cases:,} pairs of cases compared, two results files of together {size:.0f} MB"
    return f"{head}\n\n{table(['', 'wall', 'processor', 'peak memory, all processes'], rows)}"


def _results(file: Path, cases: int, rate: float) -> str:
    """Write a results file whose cases pass each metric with chance `rate`; its name."""
    usage = {"judge_calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "embedding_tokens": 0, "cost_usd": None}
    summary = {"version": "1", "lower_is_better": False, "mean_interval": None, "unmeasured": {}, "usage": usage, "noise": None}
    header = {
        "schema_version": "1.1",
        "run_id": file.stem,
        "dataset_name": "bench",
        "snapshot": file.stem,
        "dataset_version": "1",
        "model_name": "judge",
        "finished_at": "2026-01-01T00:00:00+00:00",
        "thresholds": THRESHOLDS,
        "metrics_evaluated": list(THRESHOLDS),
        "metric_summaries": dict.fromkeys(THRESHOLDS, summary),
        "total_test_cases": cases,
        "passed_test_cases": 0,
        "missing_batches": [],
        "skipped_rows": [],
    }
    with file.open("w", encoding="utf-8") as open_file:
        write_cases(open_file, header, _cases(file.stem, cases, rate))
    return file.name


def _cases(name: str, cases: int, rate: float) -> Iterator[dict[str, Any]]:
    generator = random.Random(name)
    products = ("암보험", "운전자보험", "실손의료보험", "연금저축", "여행자보험")
    reason = "컨텍스트는 이 진술을 뒷받침한다. " * 3
    statements = [{"statement": f"진술 {number}", "verdict": 1, "reason": reason} for number in range(4)]
    for number in range(cases):
        scores = []
        for metric, threshold in THRESHOLDS.items():
            passed = generator.random() < rate
            value = round(generator.uniform(threshold, 1.0) if passed else generator.uniform(0.0, threshold - 0.01), 6)
            scores.append(
                {
                    "name": metric,
                    "score": value,
                    "threshold": threshold,
                    "passed": passed,
                    "unmeasured": None,
                    "reason": None,
                    "evidence": {"statements": statements},
                    "version": "1",
                    "judge": "judge/1",
                    "lower_is_better": False,
                }
            )
        yield {
            "test_case_id": f"case-{number}",
            "all_passed": all(score["passed"] for score in scores),
            "metrics": scores,
            "question": f"{number}번 계약의 보험금은 얼마인가요?",
            "answer": f"보험금은 {number}만원입니다. {name}",
            "metadata": {"product": products[number % len(products)]},
            "case_digest": f"{name}{number}",
            "input_digest": f"{number:064d}",
        }
