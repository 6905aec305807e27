"""`verdict.json`: the decision on a run as a contract for machines; its JSON Schema is docs/verdict.schema.json.

It holds no time and no path: the same run, baseline and rules give the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from evalvault_pipeline.publishing.results_file import Interval, Share, replacing
from evalvault_pipeline.reporting.comparison import Comparison, Difference, SliceDifference
from evalvault_pipeline.reporting.gate import Verdict
from evalvault_pipeline.reporting.recorded import RecordedRun
from evalvault_pipeline.reporting.statistics import wilson_interval

SCHEMA_VERSION = "1.0"
OutcomeName = Literal["pass", "fail", "inconclusive"]
Span = tuple[float, float] | None


class RunEntry(TypedDict):
    """A run that the verdict stands on, counted from its cases' scores. `pass_rate` = passed / all cases."""

    run_id: str
    dataset_name: str
    snapshot: str
    dataset_version: str
    dataset_digest: str
    model_name: str
    metrics: dict[str, str]
    total_test_cases: int
    passed_test_cases: int
    failed_test_cases: int
    unmeasured_test_cases: int
    pass_rate: Share
    pass_rate_interval: Interval
    coverage: Share


class RulesEntry(TypedDict):
    """What the gate asked for."""

    min_pass_rate: Share
    margin: Share
    min_coverage: Share
    allow_judge_change: bool
    inconclusive: OutcomeName


class FindingEntry(TypedDict):
    """One rule's outcome and why; `figures` are shares of 1, counts and p-values by name."""

    rule: str
    outcome: OutcomeName
    sentence: str
    figures: dict[str, float | None]


class DifferenceEntry(TypedDict):
    """A figure in both runs over `pairs` cases; p-values are two-sided, the adjusted ones Holm's over the metrics."""

    pairs: int
    baseline: Share | None
    candidate: Share | None
    difference: float | None
    interval: Span
    newly_failing: int
    newly_passing: int
    p_value: Share
    p_value_adjusted: Share
    mcnemar_p_value: Share
    mcnemar_p_value_adjusted: Share
    noise: float
    lower_is_better: bool


class SliceEntry(TypedDict):
    """The pass rate of the pairs with one value of a metadata field; the p-value is adjusted over all slices."""

    key: str
    value: str
    pairs: int
    baseline: Share
    candidate: Share
    difference: float
    interval: Span
    newly_failing: int
    newly_passing: int
    p_value: Share
    p_value_adjusted: Share


class ComparisonEntry(TypedDict):
    """Candidate against baseline. `bounds`: the difference of pass rates in the worst and best case of what is unmeasured."""

    baseline: RunEntry
    pairs: int
    only_in_baseline: list[str]
    only_in_candidate: list[str]
    changed_inputs: list[str]
    warnings: list[str]
    comparable: bool
    identical: bool
    pass_rate: DifferenceEntry
    bounds: tuple[float, float]
    detectable_drop: Share
    judge_flip_rate: Share
    metrics: dict[str, DifferenceEntry]
    slices: list[SliceEntry]
    newly_failing: list[str]
    newly_passing: list[str]


class VerdictFile(TypedDict):
    """The verdict on a run. `exit_code` is that of `evalvault gate`: 0 pass, 1 fail, 4 inconclusive."""

    schema_version: str
    outcome: OutcomeName
    exit_code: int
    headline: str
    run: RunEntry
    rules: RulesEntry
    findings: list[FindingEntry]
    comparison: ComparisonEntry | None


def verdict_content(verdict: Verdict) -> VerdictFile:
    rules = verdict.rules
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": verdict.outcome.value,
        "exit_code": verdict.exit_code,
        "headline": verdict.headline,
        "run": _run(verdict.run),
        "rules": {
            "min_pass_rate": rules.min_pass_rate,
            "margin": rules.margin,
            "min_coverage": rules.min_coverage,
            "allow_judge_change": rules.allow_judge_change,
            "inconclusive": rules.inconclusive.value,
        },
        "findings": [
            {"rule": one.rule.value, "outcome": one.outcome.value, "sentence": one.sentence, "figures": dict(one.figures)}
            for one in verdict.findings
        ],
        "comparison": comparison_content(verdict.comparison) if verdict.comparison else None,
    }


def comparison_content(comparison: Comparison) -> ComparisonEntry:
    return {
        "baseline": _run(comparison.baseline),
        "pairs": comparison.pairs,
        "only_in_baseline": list(comparison.only_in_baseline),
        "only_in_candidate": list(comparison.only_in_candidate),
        "changed_inputs": list(comparison.changed_inputs),
        "warnings": list(comparison.warnings),
        "comparable": comparison.comparable,
        "identical": comparison.identical,
        "pass_rate": _difference(comparison.pass_rate),
        "bounds": comparison.bounds,
        "detectable_drop": comparison.detectable_drop,
        "judge_flip_rate": comparison.flip_rate,
        "metrics": {one.name: _difference(one) for one in comparison.metrics},
        "slices": [_slice(one) for one in comparison.slices],
        "newly_failing": list(comparison.newly_failing),
        "newly_passing": list(comparison.newly_passing),
    }


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write the file atomically."""
    with replacing(path) as file:
        json.dump(verdict_content(verdict), file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(VerdictFile).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"EvalVault verdict {SCHEMA_VERSION}"
    schema["additionalProperties"] = False
    return schema


def _run(run: RecordedRun) -> RunEntry:
    header, total = run.header, len(run.case_ids)
    return {
        "run_id": run.run_id,
        "dataset_name": str(header["dataset_name"]),
        "snapshot": str(header["snapshot"]),
        "dataset_version": str(header["dataset_version"]),
        "dataset_digest": str(header.get("dataset_digest", "")),
        "model_name": str(header["model_name"]),
        "metrics": {name: run.version(name) for name in run.metrics},
        "total_test_cases": total,
        "passed_test_cases": run.passed,
        "failed_test_cases": run.failed,
        "unmeasured_test_cases": run.unmeasured,
        "pass_rate": run.passed / total if total else 0.0,
        "pass_rate_interval": wilson_interval(run.passed, total),
        "coverage": run.coverage,
    }


def _difference(one: Difference) -> DifferenceEntry:
    return {
        "pairs": one.pairs,
        "baseline": one.baseline,
        "candidate": one.candidate,
        "difference": one.difference,
        "interval": one.interval,
        "newly_failing": one.newly_failing,
        "newly_passing": one.newly_passing,
        "p_value": one.p_value,
        "p_value_adjusted": one.adjusted,
        "mcnemar_p_value": one.flips_p_value,
        "mcnemar_p_value_adjusted": one.flips_adjusted,
        "noise": one.noise,
        "lower_is_better": one.lower_is_better,
    }


def _slice(one: SliceDifference) -> SliceEntry:
    return {
        "key": one.key,
        "value": one.value,
        "pairs": one.pairs,
        "baseline": one.baseline,
        "candidate": one.candidate,
        "difference": one.difference,
        "interval": one.interval,
        "newly_failing": one.newly_failing,
        "newly_passing": one.newly_passing,
        "p_value": one.p_value,
        "p_value_adjusted": one.adjusted,
    }
