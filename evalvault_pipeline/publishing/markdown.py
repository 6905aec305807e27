"""A run's report as Markdown: for a file beside the results, a pull request, the Dagster UI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.model import CaseResult, MetricScore


def report_markdown(report: RunReport, *, cases: int = 20) -> str:
    info = report.info
    lines = [
        f"# {_plain(info.dataset)} {_plain(info.snapshot)}: {percent(report.pass_rate)} passed",
        "",
        f"{headline(report)}",
        "",
        *metrics_table(report),
        "",
    ]
    if report.unmeasured_details:
        lines += ["## Not measured", "", *(f"- {_plain(detail)}" for detail in report.unmeasured_details), ""]
    if info.skipped_rows:
        lines += [f"## Skipped rows: {len(info.skipped_rows)}", "", *(f"- {_plain(row)}" for row in info.skipped_rows[:20]), ""]
    if info.missing_batches:
        lines += [f"**Stands on {len(info.batches)} batches; not scored yet: {_plain(', '.join(info.missing_batches))}**", ""]
    if report.worst:
        lines += ["## Worst cases", "", *worst_table(report.worst[:cases]), ""]
    lines += [
        "## Where this comes from",
        "",
        f"- run {_plain(info.run_id)}, {info.started_at:%Y-%m-%d %H:%M} UTC, profile `{info.profile}`, judge `{info.judge}`",
        f"- dataset version {_plain(info.dataset_version)}, digest `{report.dataset_digest[:12]}`, language `{info.language}`",
        f"- tokens by `{info.tokenizer}`; {report.computed} scores computed, {report.reused} taken from the score store",
        "",
    ]
    return "\n".join(lines)


def headline(report: RunReport) -> str:
    """One sentence: pass rate with interval, and coverage."""
    low, high = report.pass_rate_interval or (0.0, 1.0)
    text = (
        f"{report.passed} of {report.case_count} cases passed ({percent(report.pass_rate)}, "
        f"95 % interval {percent(low)} to {percent(high)}); coverage {percent(report.coverage)}."
    )
    if report.unmeasured:
        worst, best = report.pass_rate_bounds
        text += f" {report.unmeasured} cases are unmeasured: the pass rate is between {percent(worst)} and {percent(best)}."
    return text


def metrics_table(report: RunReport) -> list[str]:
    rows = ["| metric | mean | 95 % interval | median | threshold | passed | measured |", "|---|---|---|---|---|---|---|"]
    for metric in report.metrics:
        span = f"{metric.mean_interval[0]:.3f} to {metric.mean_interval[1]:.3f}" if metric.mean_interval else "–"
        rows.append(
            f"| {metric.name} | {number(metric.mean)} | {span} | {number(metric.median)} | {metric.threshold:g} "
            f"| {metric.passed} | {metric.measured} of {report.case_count} |"
        )
    return rows


def worst_table(worst: Iterable[CaseResult]) -> list[str]:
    rows = ["| case | question | answer | below its threshold |", "|---|---|---|---|"]
    for result in worst:
        failed = "; ".join(f"{score.metric} {number(score.value)}{_why(score)}" for score in failed_scores(result))
        case = result.case
        rows.append(f"| {_cell(case.case_id)} | {_cell(case.question)} | {_cell(case.answer)} | {_cell(failed)} |")
    return rows


def failed_scores(result: CaseResult) -> list[MetricScore]:
    return [score for score in result.scores if score.passed is False]


def why(evidence: Mapping[str, Any]) -> str:
    """The evidence of a deterministic metric in a few words; empty where the value says it all."""
    weakest = evidence.get("weakest") or evidence
    if weakest.get("contradicted_by"):
        return f"the context says: {weakest['contradicted_by']}"
    missing = weakest.get("numbers_not_found") or evidence.get("not_found") or evidence.get("missing")
    if missing:
        return f"not found: {', '.join(missing)}"
    if weakest.get("words_not_found"):
        return f"not in the contexts: {', '.join(weakest['words_not_found'][:8])}"
    if "declined" in evidence:
        return "it declined" if evidence["declined"] else "it did not decline"
    return ""


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _why(score: MetricScore) -> str:
    reason = why(score.evidence)
    return f" ({reason})" if reason else ""


def _cell(text: str, limit: int = 160) -> str:
    flat = " ".join(text.split())
    return _plain(flat if len(flat) <= limit else flat[: limit - 1] + "…")  # cut first: an escape is two characters


def _plain(text: str) -> str:
    """Text that cannot be taken for Markdown or HTML: it comes from datasets."""
    flat = " ".join(text.split())
    for char in "\\|`*[]<>#~":
        flat = flat.replace(char, f"\\{char}") if char not in "<>" else flat.replace(char, {"<": "&lt;", ">": "&gt;"}[char])
    return flat
