"""A run's report as Markdown: for a file beside the results, a pull request, the Dagster UI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evalvault_pipeline.reporting.report import Cost, RunReport
from evalvault_pipeline.reporting.statistics import percent
from evalvault_pipeline.scoring.model import CaseResult, MetricScore


def report_markdown(report: RunReport, *, cases: int = 20) -> str:
    info = report.info
    noise = [*(f"- {plain(line)}" for line in noise_lines(report)), ""]
    lines = [
        f"# {plain(info.dataset)} {plain(info.snapshot)}: {percent(report.pass_rate)} passed",
        "",
        f"{headline(report)}",
        "",
        *metrics_table(report),
        "",
        *(noise if len(noise) > 1 else ()),
    ]
    if report.unmeasured_details:
        lines += ["## Not measured", "", *(f"- {plain(detail)}" for detail in report.unmeasured_details), ""]
    if info.skipped_rows:
        lines += [f"## Skipped rows: {len(info.skipped_rows)}", "", *(f"- {plain(row)}" for row in info.skipped_rows[:20]), ""]
    if info.pii.open:
        lines += [f"**pii is {info.pii}**", ""]
    if info.missing_batches:
        lines += [f"**Stands on {len(info.batches)} batches; not scored yet: {plain(', '.join(info.missing_batches))}**", ""]
    if report.worst:
        lines += ["## Worst cases", "", *worst_table(report.worst[:cases]), ""]
    lines += [
        "## Where this comes from",
        "",
        f"- run {plain(info.run_id)}, {info.started_at:%Y-%m-%d %H:%M} UTC, profile `{info.profile}`, judge `{info.judge}`",
        *judge_lines(report),
        f"- dataset version {plain(info.dataset_version)}, digest `{report.dataset_digest[:12]}`, language `{info.language}`",
        f"- personal data masked: {info.pii.counts} (policy `{info.pii.policy}`)",
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


def metrics_table(report: RunReport, *, narrow: bool = False) -> list[str]:
    """Each metric in a row; `narrow` for the Dagster UI, without interval and median."""
    head = ["metric", "mean", "95 % interval", "median", "threshold", "passed", "measured"]
    rows = [head, ["---"] * len(head)]
    for metric in report.metrics:
        span = f"{metric.mean_interval[0]:.3f} to {metric.mean_interval[1]:.3f}" if metric.mean_interval else "–"
        threshold = f"{'≤' if metric.lower_is_better else '≥'} {metric.threshold:g}"
        measured = f"{metric.measured} of {report.case_count}"
        rows.append([metric.name, number(metric.mean), span, number(metric.median), threshold, str(metric.passed), measured])
    return [f"| {' | '.join([*row[:2], *row[4:]] if narrow else row)} |" for row in rows]


def worst_table(worst: Iterable[CaseResult]) -> list[str]:
    rows = ["| case | question | answer | below its threshold |", "|---|---|---|---|"]
    for result in worst:
        failed = "; ".join(f"{score.metric} {number(score.value)}{_why(score)}" for score in failed_scores(result))
        case = result.case
        rows.append(f"| {cell(case.case_id)} | {cell(case.question)} | {cell(case.answer)} | {cell(failed)} |")
    return rows


def failed_scores(result: CaseResult) -> list[MetricScore]:
    return [score for score in result.scores if score.passed is False]


def judge_lines(report: RunReport) -> list[str]:
    """Who judged, with which versions of models and prompts, and what it took; nothing for a run without a judge."""
    details = report.info.judge_details
    if not details:
        return []
    named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items())
    versions = sorted({metric.version for metric in report.metrics if metric.version.startswith("ragas")})
    lines = [f"- judge: {plain(named)}", f"- metrics and prompts: {plain(', '.join(versions))}"]
    return [
        *lines,
        f"- this run asked for {cost_text(report.spent)}; scores from the store had taken {cost_text(report.saved)}",
    ]


def cost_text(cost: Cost) -> str:
    """Calls, tokens and money in a few words."""
    money = "" if not cost.tokens else ", no known price" if cost.dollars is None else f", ${cost.dollars:.4f}"
    return f"{cost.calls:,} LLM calls, {cost.tokens:,} tokens{money}"


def noise_lines(report: RunReport) -> list[str]:
    """How often the judge disagrees with itself, a line for each metric that was judged several times."""
    return [
        f"judge noise of {metric.name}: {percent(metric.noise.flip_rate)} of verdicts flip when judged again "
        f"({metric.noise.cases} cases, {metric.noise.repeats} times, standard deviation {metric.noise.deviation:.3f})"
        for metric in report.metrics
        if metric.noise is not None
    ]


def evidence_lines(evidence: Mapping[str, Any]) -> list[str]:
    """All of a score's evidence, a line for each statement, question, claim or figure."""
    lines: list[str] = []
    for name, value in evidence.items():
        label = name.replace("_", " ")
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            lines.append(f"{label}:")
            for item in value:
                lines += _judged_lines(item)
        elif isinstance(value, dict):
            lines.append(f"{label}:")
            lines += [f"  {line}" for line in evidence_lines(value)]
        elif isinstance(value, list) and sum(map(len, map(str, value))) > 80:
            lines += [f"{label}:", *(f"  {item}" for item in value)]
        else:
            lines.append(f"{label}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return lines


def _judged_lines(item: Mapping[str, Any]) -> list[str]:
    """A statement, question or context with its verdict; below it the reason."""
    mark = {1: "yes", 0: "NO "}.get(item.get("verdict", item.get("answered")), "   ")
    text = item.get("statement") or item.get("question") or (f"context {item['context']}" if "context" in item else "")
    known = {"verdict", "answered", "statement", "question", "reason", "context"}
    rest = "; ".join(line for line in evidence_lines({key: item[key] for key in item if key not in known}))
    lines = [f"  {mark} {text}{f' ({rest})' if rest else ''}".rstrip()]
    return [*lines, f"      {item['reason']}"] if item.get("reason") else lines


def why(evidence: Mapping[str, Any]) -> str:
    """The evidence in a few words, of what speaks against the case; empty where the value says it all."""
    refuted = [item for name in _JUDGED for item in evidence.get(name, ()) if item.get("verdict") == 0]
    if refuted:
        first = refuted[0]
        text = first.get("statement") or f"context {first.get('context')}"
        more = f" (and {len(refuted) - 1} more)" if len(refuted) > 1 else ""
        reason = f": {first['reason']}" if first.get("reason") else ""
        return f"not borne out: {text}{reason}{more}"
    if "feedback" in evidence:
        return f"rating {evidence['rating']}: {evidence['feedback']}"
    if "ratings" in evidence:
        return f"ratings {', '.join(map(str, evidence['ratings']))}"
    if "noncommittal" in evidence:  # the score is 0 where all replies say so, else the cosine
        declined = "cosine" not in evidence
        return "it is noncommittal" if declined else f"it answers: {evidence['questions'][0]}"
    if open_questions := [item["question"] for item in evidence.get("questions", ()) if not item["answered"]]:
        return f"it leaves open: {'; '.join(open_questions[:3])}"
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


_JUDGED = ("statements", "contexts", "answer_claims", "reference_claims")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _why(score: MetricScore) -> str:
    reason = why(score.evidence)
    return f" ({reason})" if reason else ""


def cell(text: str, limit: int = 160) -> str:
    flat = " ".join(text.split())
    return plain(flat if len(flat) <= limit else flat[: limit - 1] + "…")  # cut first: an escape is two characters


def plain(text: str) -> str:
    """Text that cannot be taken for Markdown or HTML: it comes from datasets."""
    flat = " ".join(text.split())
    for char in "\\|`*[]<>#~":
        flat = flat.replace(char, f"\\{char}") if char not in "<>" else flat.replace(char, {"<": "&lt;", ">": "&gt;"}[char])
    return flat
