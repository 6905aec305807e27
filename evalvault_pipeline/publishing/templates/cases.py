"""The cases that the HTML report writes out: which ones, in which order, and what it says of each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evalvault_pipeline.publishing.markdown import evidence_lines, why
from evalvault_pipeline.reporting.comparison import Comparison
from evalvault_pipeline.reporting.recorded import RecordedRun, metric_states

MOST_CASES = 500
LEAST_OF_EACH = 60  # of each kind of case, so that no filter comes up empty where a run has hundreds of failures
LONGEST_TEXT = 8_000
MOST_EVIDENCE_LINES = 150
_KINDS = ("newly_failing", "failed", "newly_passing", "unmeasured", "passed")


def chosen_cases(run: RecordedRun, comparison: Comparison | None) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """((kind, position) of the cases to write out, the worst first; how many of each kind are left out)."""
    import numpy as np

    short = np.zeros(len(run.case_ids))
    for name in run.metrics:
        shortfall = (run.values[name] - run.threshold(name)) * (1 if run.lower_is_better(name) else -1)
        short += np.nan_to_num(np.maximum(shortfall, 0.0))
    changed = {
        name: kind for kind in ("newly_failing", "newly_passing") for name in (getattr(comparison, kind) if comparison else ())
    }
    kinds: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    for index in np.argsort(-short, kind="stable").tolist():
        state = run.decided[index]
        plain = "unmeasured" if math.isnan(state) else "passed" if state else "failed"
        kinds[changed.get(run.case_ids[index], plain)].append(index)
    shares = {kind: min(len(kinds[kind]), LEAST_OF_EACH if kind != "passed" else 0) for kind in _KINDS}
    for kind in _KINDS:
        shares[kind] += min(len(kinds[kind]) - shares[kind], MOST_CASES - sum(shares.values()))
    chosen = [(kind, index) for kind in _KINDS for index in kinds[kind][: shares[kind]]]
    return chosen, {kind: left for kind in _KINDS if (left := len(kinds[kind]) - shares[kind])}


def case_views(
    run: RecordedRun, comparison: Comparison | None, chosen: Sequence[tuple[str, int]], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Read in the order of the file: a store keeps neighbouring cases together."""
    baseline = comparison.baseline if comparison else None
    unlike = {*comparison.only_in_candidate, *comparison.changed_inputs} if comparison else set()
    wanted = {run.case_ids[index] for _, index in chosen} - unlike
    places = [(index, name) for index, name in enumerate(baseline.case_ids if baseline else ()) if name in wanted]
    before = {name: baseline.entry(index) for index, name in places} if baseline else {}
    entries = {index: run.entry(index) for index in sorted(index for _, index in chosen)}
    return [_case(run, kind, index, entries[index], before.get(run.case_ids[index]), labels) for kind, index in chosen]


def _case(
    run: RecordedRun,
    kind: str,
    index: int,
    entry: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    labels: Mapping[str, str],
) -> dict[str, Any]:
    state = run.decided[index]
    old = {score["name"]: score.get("score") for score in before["metrics"]} if before else {}
    scores = [_score(run, index, score, old) for score in entry["metrics"] if score["name"] in run.values]

    def text(value: Any) -> str:
        whole = "" if value is None else str(value)
        return whole if len(whole) <= LONGEST_TEXT else f"{whole[:LONGEST_TEXT]}… {labels['cut']}"

    return {
        "anchor": anchor(index),
        "id": run.case_ids[index],
        "state": "unmeasured" if math.isnan(state) else "passed" if state else "failed",
        "change": kind if kind in {"newly_failing", "newly_passing"} else "",
        "not_passed": " ".join(str(run.metrics.index(score["name"])) for score in scores if score["state"] != "passed"),
        "question": text(entry.get("question")),
        "answer": text(entry.get("answer")),
        "before": text(before.get("answer")) if before else None,
        "reference": text(entry.get("ground_truth")),
        "metadata": [
            (key, text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
            for key, value in (entry.get("metadata") or {}).items()
        ],
        "scores": scores,
        "compared": bool(before),
    }


def _score(run: RecordedRun, index: int, score: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    name, evidence = score["name"], score.get("evidence") or {}
    state = metric_states(run.values[name][index], run.threshold(name), run.lower_is_better(name))
    lines = evidence_lines(evidence)
    return {
        "name": name,
        "value": score.get("score"),
        "before": old.get(name),
        "threshold": passes_at(run, name),
        "state": "unmeasured" if math.isnan(state) else "passed" if state else "failed",
        "unmeasured": score.get("unmeasured"),
        "reason": score.get("reason"),
        "why": "" if state == 1.0 else why(evidence),
        "lines": [*lines[:MOST_EVIDENCE_LINES], *(["…"] if len(lines) > MOST_EVIDENCE_LINES else [])],
        "version": score.get("version", ""),
        "judge": score.get("judge", ""),
        "from_store": bool(score.get("from_store")),
    }


def anchor(index: int) -> str:
    return f"case-{index + 1}"


def passes_at(run: RecordedRun, metric: str) -> str:
    return f"{'≤' if run.lower_is_better(metric) else '≥'} {run.threshold(metric):g}"
