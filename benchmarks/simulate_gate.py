"""How often the gate is wrong: pairs of simulated releases, unchanged ones and worse ones. `make simulate-gate` prints the tables.

A release answers 86 % of its cases rightly. Each run of the judge flips each verdict with the given probability, so that two runs
over the same answers differ. The gate is the product's own, with its default rules; beside it stand two rules of thumb.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np

from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, decide
from evalvault_pipeline.reporting.recorded import RecordedRun

RATE, THRESHOLD = 0.86, 0.7
SIZES, NOISES, DROPS = (50, 200, 1000), (0.0, 0.03, 0.08), (0.0, 0.05, 0.10)
CASES = {size: [f"c{number}" for number in range(size)] for size in SIZES}


def simulated(
    right: np.ndarray[Any, Any], flip: float, generator: np.random.Generator, *, told: bool, digests: list[str]
) -> RecordedRun:
    """A run over cases of which `right` are answered rightly, judged with noise; `told`: its report says how much."""
    size = right.size
    passes = right ^ (generator.random(size) < flip)
    values = np.where(passes, generator.uniform(0.75, 1.0, size), generator.uniform(0.1, 0.65, size))
    noise = {"cases": size, "repeats": 3, "flip_rate": 2 * flip * (1 - flip), "deviation": 0.1} if told and flip else None
    header = {
        "run_id": "simulated",
        "dataset_name": "simulated",
        "snapshot": "",
        "dataset_version": "1",
        "model_name": "judge",
        "thresholds": {"score": THRESHOLD},
        "metric_summaries": {"score": {"version": "1", "lower_is_better": False, "noise": noise}},
        "missing_batches": [],
        "skipped_rows": [],
        "total_test_cases": size,
        "passed_test_cases": int(passes.sum()),
    }
    return RecordedRun(
        source="a simulated run",
        header=header,
        case_ids=CASES[size],
        input_digests=CASES[size],
        case_digests=digests,
        values={"score": values},
        entry=lambda index: {},
        judges={"score": frozenset({"judge"})},
    )


def trial(size: int, flip: float, drop: float, told: bool, pairs: int, seed: int) -> Counter[str]:
    """Outcomes of so many pairs of releases, the second of which lost `drop` of all cases."""
    generator = np.random.default_rng([seed, size, int(1000 * flip), int(1000 * drop), told])
    rules = GateRules()
    found: Counter[str] = Counter()
    for _ in range(pairs):
        before = generator.random(size) < RATE
        after = before & (generator.random(size) >= drop / RATE)
        baseline = simulated(before, flip, generator, told=told, digests=CASES[size])
        candidate = simulated(after, flip, generator, told=told, digests=[f"{name}'" for name in CASES[size]])
        verdict = decide(candidate, rules=rules, comparison=compare_runs(baseline, candidate))
        found[verdict.outcome.value] += 1
        found[f"comparison {verdict.findings[-1].outcome.value}"] += 1
        found["drop rule"] += (baseline.passed - candidate.passed) / size >= 0.02
        found["rate rule"] += candidate.passed / size < 0.8
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    cells = list(product((True, False), NOISES, SIZES, DROPS))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(trial, size, flip, drop, told, arguments.pairs, arguments.seed) for told, flip, size, drop in cells]
        results = {cell: job.result() for cell, job in zip(cells, jobs, strict=True)}
    share = lambda cell, name: f"{100 * results[cell][name] / arguments.pairs:.1f} %"  # noqa: E731
    print(f"{arguments.pairs} pairs a row, seed {arguments.seed}\n")
    print("| judge noise | cases | unchanged: fail | inconclusive | pass | rule `drop >= 2 points` | rule `< 80 %` |")
    print("|---|---|---|---|---|---|---|")
    for flip, size in product(NOISES, SIZES):
        cell = (True, flip, size, 0.0)
        figures = [share(cell, name) for name in ("fail", "inconclusive", "pass", "drop rule", "rate rule")]
        print(f"| {flip:.0%} | {size:,} | {' | '.join(figures)} |")
    print(
        "\n| judge noise | cases | not worse than baseline, unchanged: pass | 5 points worse: fail | pass | 10 points worse: fail | pass |"
    )
    print("|---|---|---|---|---|---|---|")
    for flip, size in product(NOISES, SIZES):
        null, five, ten = ((True, flip, size, drop) for drop in DROPS)
        figures = [share(null, "comparison pass")]
        figures += [share(cell, f"comparison {name}") for cell in (five, ten) for name in ("fail", "pass")]
        print(f"| {flip:.0%} | {size:,} | {' | '.join(figures)} |")
    worst = max(results[cell]["fail"] for cell in cells if cell[3] == 0.0) / arguments.pairs
    print(f"\nhighest rate of false fails, judge noise in the reports or not: {worst:.1%}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                [{"told": a, "flip": b, "cases": c, "drop": d, **results[a, b, c, d]} for a, b, c, d in cells], file, indent=1
            )


if __name__ == "__main__":
    main()
