"""A comparison or a verdict as Markdown: `comparison.md`, the comment on a pull request, the job summary, the Dagster UI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalvault_pipeline.publishing.markdown import cell, number, plain, why
from evalvault_pipeline.reporting.comparison import CaseChange, Comparison, Difference
from evalvault_pipeline.reporting.gate import Outcome, Verdict
from evalvault_pipeline.reporting.recorded import RecordedRun
from evalvault_pipeline.reporting.statistics import percent
from evalvault_pipeline.scoring.model import ROUNDING

COMMENT_LIMIT = 65_000  # bytes; GitHub takes 65,536 characters
NAMES_SHOWN = 50
MARKS = {Outcome.PASS: "✅ pass", Outcome.FAIL: "❌ fail", Outcome.INCONCLUSIVE: "❔ inconclusive"}
HOW_TO_READ = (
    "Inconclusive is neither a pass nor a fail: these cases cannot tell. Add cases, measure what is unmeasured, or widen the "
    "margin; `--inconclusive pass` or `fail` says what CI takes it for."
)


def marker(dataset: str) -> str:
    """The first line of a comment, by which the next run finds it and writes it anew."""
    return f"<!-- evalvault: {plain(dataset).replace('--', '-')} -->"


def verdict_markdown(verdict: Verdict, *, limit: int = COMMENT_LIMIT) -> str:
    """The verdict with its comparison in at most `limit` bytes: long lists are cut, and say so."""
    return _fitting(lambda shown: _verdict_lines(verdict, shown), limit)


def comparison_markdown(comparison: Comparison, *, limit: int = COMMENT_LIMIT) -> str:
    """The comparison alone, as `verdict_markdown`."""
    title = f"# {plain(comparison.candidate.name)} against {plain(comparison.baseline.name)}"
    return _fitting(lambda shown: [title, "", *comparison_lines(comparison, shown=shown), *_sources(comparison)], limit)


def _fitting(lines: Any, limit: int) -> str:
    for shown in (NAMES_SHOWN, 20, 10, 5, 2, 0):
        text = "\n".join(lines(shown))
        if len(text.encode()) <= limit:
            return text
    cut = text.encode()[: limit - 100].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{cut}\n\nCut here: the whole stands in the report and in verdict.json.\n"


def _verdict_lines(verdict: Verdict, shown: int) -> list[str]:
    run = verdict.run
    lines = [marker(str(run.header["dataset_name"])), f"## {plain(run.name)}: {MARKS[verdict.outcome]}", ""]
    lines += ["| rule | outcome | why |", "|---|---|---|"]
    lines += [f"| {one.rule.value} | {MARKS[one.outcome]} | {cell(one.sentence, 2000)} |" for one in verdict.findings]
    lines.append("")
    if links := run.phoenix_links:
        named = {"experiment": "the experiment", "compare": "beside the baseline"}
        lines += [f"Phoenix: {' · '.join(f'[{named[name]}]({url})' for name, url in links.items())}", ""]
    if verdict.outcome is Outcome.INCONCLUSIVE:
        taken = verdict.rules.inconclusive
        counted = "" if taken is Outcome.INCONCLUSIVE else f" Here it counts as a {taken.value}."
        lines += [f"{HOW_TO_READ}{counted}", ""]
    if verdict.comparison is not None:
        return [*lines, *comparison_lines(verdict.comparison, shown=shown), *_sources(verdict.comparison)]
    rows = [f"| {name} | {number(run.header.get(f'avg_{name}'))} | {_bound(run, name)} |" for name in run.metrics]
    lines += ["| metric | mean | threshold |", "|---|---|---|", *rows, ""]
    return [*lines, "No baseline was given, so nothing is said about a change.", "", *_source("run", run)]


def comparison_lines(comparison: Comparison, *, shown: int = NAMES_SHOWN) -> list[str]:
    lines: list[str] = []
    if comparison.warnings:
        lines += ["**Not only the answers differ:**", "", *(f"- {plain(warning)}" for warning in comparison.warnings), ""]
    corrected = "p-values of metrics are corrected for their number (Holm)."
    lines += [*difference_table(comparison), "", " ".join([*reach_lines(comparison), corrected]), ""]
    lines += _changed("Newly failing", comparison.newly_failing, comparison.newly_failing_cases, comparison, shown)
    lines += _changed("Newly passing", comparison.newly_passing, comparison.newly_passing_cases, comparison, min(shown, 10))
    lines += _slice_lines(comparison)
    for title, names in (
        ("Only in the baseline", comparison.only_in_baseline),
        ("Only in the candidate", comparison.only_in_candidate),
        ("With another question or reference than before, and so not compared", comparison.changed_inputs),
    ):
        if names:
            lines += [f"**{title} ({len(names)}):** {_names(names, shown)}", ""]
    return lines


def difference_table(comparison: Comparison, *, narrow: bool = False) -> list[str]:
    """Pass rate and metrics before and after; `narrow` for the Dagster UI, without interval and tests."""
    head = [
        "figure",
        "baseline",
        "candidate",
        "difference",
        "95 % interval",
        "newly failing / passing",
        "p (t-test)",
        "p (McNemar)",
    ]
    rate = comparison.pass_rate
    rows = [
        head,
        ["---"] * len(head),
        _row(rate, "**pass rate**", lambda value: "–" if value is None else percent(value), 100.0, ""),
    ]
    for one in comparison.metrics:
        name = f"{one.name} (lower is better)" if one.lower_is_better else one.name
        rows.append(_row(one, name, number, 1.0, f"{one.adjusted:.3g}"))
    return [f"| {' | '.join([*row[:4], row[5]] if narrow else row)} |" for row in rows]


def _row(one: Difference, name: str, shown: Any, scale: float, t_test: str) -> list[str]:
    digits = ".1f" if scale > 1 else ".3f"
    change = "–" if one.difference is None else f"{scale * one.difference:+{digits}}"
    span = "–" if one.interval is None else f"{scale * one.interval[0]:+{digits}} to {scale * one.interval[1]:+{digits}}"
    flips = f"{one.newly_failing} / {one.newly_passing}"
    return [name, shown(one.baseline), shown(one.candidate), change, span, flips, t_test or "–", f"{one.flips_adjusted:.3g}"]


def reach_lines(comparison: Comparison) -> list[str]:
    """What so many cases can show, and between what the difference lies where something is unmeasured."""
    rate = comparison.pass_rate
    lines = [f"{rate.pairs} of {comparison.pairs} pairs of cases are measured in both runs."]
    if comparison.identical:
        return [*lines, "No answer and no score differs."]
    lines.append(f"With {rate.pairs} pairs a drop under {100 * comparison.detectable_drop:.1f} points cannot be seen.")
    if comparison.flip_rate:
        lines.append(f"The judge changes its mind on {percent(comparison.flip_rate)} of the cases.")
    worst, best = comparison.bounds
    if worst != best:
        unknown = "Some cases are measured in one of the runs only"
        lines.append(f"{unknown}: the pass rate's difference lies between {signed(worst)} and {signed(best)}.")
    return lines


def _changed(title: str, names: Sequence[str], cases: Sequence[CaseChange], comparison: Comparison, shown: int) -> list[str]:
    if not names:
        return []
    lines = [f"### {title}: {len(names)}", ""]
    if shown:
        lines += ["| case | question | baseline answer | candidate answer | scores |", "|---|---|---|---|---|"]
        lines += [_change_row(case, comparison.candidate) for case in cases[:shown]]
        lines.append("")
    rest = names[min(shown, len(cases)) :]
    return [*lines, f"{'Also' if shown else 'Cases'}: {_names(rest, NAMES_SHOWN)}", ""] if rest else lines


def _change_row(case: CaseChange, candidate: RecordedRun) -> str:
    before = {score["name"]: score for score in case.before["metrics"]}
    told = []
    for score in case.after["metrics"]:
        old, new = before.get(score["name"], {}).get("score"), score.get("score")
        if old is None or new is None or abs(old - new) > ROUNDING:
            told.append(f"{score['name']} {number(old)} → {number(new)}{_because(score)}")
    texts = (case.after.get("question"), case.before.get("answer"), case.after.get("answer"), "; ".join(told))
    return f"| {cell(case.case_id)} | {' | '.join(cell(str(text or ''), 240) for text in texts)} |"


def _because(score: Mapping[str, Any]) -> str:
    reason = score.get("reason") or why(score.get("evidence") or {})
    return f" ({reason})" if reason else ""


def _slice_lines(comparison: Comparison) -> list[str]:
    if not comparison.slices:
        return []
    lines = ["### Slices", "", "| slice | pairs | baseline | candidate | difference | 95 % interval | p (Holm) |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in comparison.slices:
        span = "–" if one.interval is None else f"{100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f}"
        lines.append(
            f"| {cell(one.key)} = {cell(one.value)} | {one.pairs} | {percent(one.baseline)} | {percent(one.candidate)} "
            f"| {100 * one.difference:+.1f} | {span} | {one.adjusted:.3g} |"
        )
    few = f"{comparison.too_small_slices} slices have too few pairs to say anything." if comparison.too_small_slices else ""
    return [*lines, "", *([few, ""] if few else [])]


def _sources(comparison: Comparison) -> list[str]:
    return [*_source("baseline", comparison.baseline), *_source("candidate", comparison.candidate)]


def _source(label: str, run: RecordedRun) -> list[str]:
    digest = str(run.header.get("dataset_digest", ""))[:12]
    return [
        f"- {label}: {plain(run.name)}, run `{plain(run.run_id)}`, judge `{plain(str(run.header['model_name']))}`, "
        f"{len(run.case_ids)} cases, dataset digest `{digest}`"
    ]


def _names(names: Iterable[str], shown: int) -> str:
    every = [cell(name) for name in names]
    limit = max(shown, 5)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def _bound(run: RecordedRun, metric: str) -> str:
    return f"{'≤' if run.lower_is_better(metric) else '≥'} {run.threshold(metric):g}"


def signed(share: float) -> str:
    """A difference of rates in points."""
    return f"{100 * share:+.1f} points"
