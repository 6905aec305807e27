"""A run's report in the terminal: the figures, then the worst cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalvault_pipeline.cases.model import PiiReport
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.publishing.alert_book import Delivery
from evalvault_pipeline.publishing.markdown import evidence_lines, failed_scores, headline, noise_lines, number, why
from evalvault_pipeline.publishing.results_file import CaseEntry
from evalvault_pipeline.publishing.verdict_markdown import reach_lines
from evalvault_pipeline.reporting.catalog_check import SnapshotState
from evalvault_pipeline.reporting.comparison import Comparison
from evalvault_pipeline.reporting.gate import Outcome, Verdict
from evalvault_pipeline.reporting.incidents import Board, Incident, State
from evalvault_pipeline.reporting.overview import DatasetOverview
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.reporting.spending import Spent
from evalvault_pipeline.reporting.statistics import CONFIDENCE, percent
from evalvault_pipeline.scoring.doctor import Finding
from evalvault_pipeline.scoring.estimate import Estimate
from evalvault_pipeline.scoring.metrics import Metric
from evalvault_pipeline.scoring.model import CaseResult

# All but tab and newline; an escape sequence in an answer could clear the screen or write elsewhere.
NAMES_SHOWN = 20
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")


def print_report(report: RunReport, console: Console, *, cases: int) -> None:
    """Print the report with at most `cases` of the worst cases."""
    table = Table(title=_text(f"{report.info.dataset} {report.info.snapshot}"), title_justify="left")
    for column in ("metric", "mean", "95 % interval", "median", "threshold", "passed", "measured"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=column == "metric")
    for metric in report.metrics:
        span = f"{metric.mean_interval[0]:.3f} – {metric.mean_interval[1]:.3f}" if metric.mean_interval else "–"
        table.add_row(
            metric.name,
            number(metric.mean),
            span,
            number(metric.median),
            f"{'<=' if metric.lower_is_better else '>='} {metric.threshold:g}",
            str(metric.passed),
            f"{metric.measured}/{report.case_count}",
        )
    console.print(table)
    console.print(Text(headline(report), style="bold"))
    for line in noise_lines(report):
        console.print(_text(line))
    for detail in report.unmeasured_details:
        console.print(_text(f"unmeasured: {detail}", "yellow"))
    if report.info.skipped_rows:
        console.print(
            Text(f"bad rows that were skipped: {len(report.info.skipped_rows)} (skipped_rows in the results)", "yellow")
        )
    if told := _pii(report.info.pii):
        console.print(told)
    if report.worst and cases:
        console.print(_worst(report.worst[:cases], f"Worst cases ({min(cases, len(report.worst))} of {report.failed} failed)"))


def _worst(worst: Iterable[CaseResult], title: str) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("case", max_width=30, overflow="fold")
    table.add_column("question and answer", ratio=3, overflow="fold")
    table.add_column("below its threshold", ratio=2, overflow="fold")
    for result in worst:
        scores = Text()
        for score in failed_scores(result):
            sign = ">" if score.lower_is_better else "<"
            scores.append(f"{score.metric} {number(score.value)} {sign} {score.threshold:g}\n", style="red")
            if reason := why(score.evidence):
                scores.append(_text(f"{reason}\n"))
        scores.rstrip()
        text = _text(result.case.question, "bold").append(_text(f"\n{result.case.answer}", "not bold"))
        table.add_row(_text(result.case.case_id), text, scores)
    return table


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print the decision, the comparison that it stands on, and what each rule says."""
    if verdict.comparison is not None:
        print_comparison(verdict.comparison, console)
    styles = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow"}
    for finding in verdict.findings:
        console.print(_text(f"{finding.outcome.value:<12} {finding.rule.value}: {finding.sentence}", styles[finding.outcome]))
    taken = verdict.rules.inconclusive
    counted = (
        f", which counts as a {taken.value}" if verdict.outcome is Outcome.INCONCLUSIVE and taken is not verdict.outcome else ""
    )
    console.print(_text(f"verdict: {verdict.outcome.value}{counted} ({verdict.run.name}, run {verdict.run.run_id})", "bold"))


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what changed between two runs, and the cases whose verdict changed."""
    before, after = comparison.baseline, comparison.candidate
    console.print(_text(f"{after.name} (run {after.run_id}) against {before.name} (run {before.run_id})"), soft_wrap=True)
    for warning in comparison.warnings:
        console.print(_text(f"not only the answers differ: {warning}", "yellow"), soft_wrap=True)
    table = Table()
    for column in ("", "baseline", "candidate", "difference", "95 % interval", "newly failing", "newly passing", "p"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=not column)
    for one in (comparison.pass_rate, *comparison.metrics):
        change = "–" if one.difference is None else f"{one.difference:+.3f}"
        span = "–" if one.interval is None else f"{one.interval[0]:+.3f} to {one.interval[1]:+.3f}"
        table.add_row(
            one.name.replace("pass_rate", "pass rate"),
            number(one.baseline),
            number(one.candidate),
            change,
            span,
            str(one.newly_failing),
            str(one.newly_passing),
            f"{one.adjusted:.3g}",
        )
    console.print(table)
    for line in reach_lines(comparison):
        console.print(_text(line), soft_wrap=True)
    for title, names in (
        ("newly failing", comparison.newly_failing),
        ("newly passing", comparison.newly_passing),
        ("only in the baseline", comparison.only_in_baseline),
        ("only in the candidate", comparison.only_in_candidate),
        ("with another question or reference, not compared", comparison.changed_inputs),
    ):
        if names:
            shown = ", ".join(names[:NAMES_SHOWN]) + (
                f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            )
            console.print(_text(f"{title} ({len(names)}): {shown}"), soft_wrap=True)
    for part in comparison.slices:
        if part.adjusted <= 1 - CONFIDENCE:
            change = f"{percent(part.candidate)} passed after {percent(part.baseline)}"
            console.print(_text(f"slice {part.key} = {part.value}: {change}, p = {part.adjusted:.3g}"), soft_wrap=True)


def print_estimate(estimated: Mapping[str, tuple[int, int, Estimate]], console: Console, *, judge: str) -> None:
    """Print what a run would ask of the judge."""
    if not estimated:
        console.print("this run asks no judge: nothing to pay")
        return
    table = Table(title=f"What {judge} would be asked (an estimate)", title_justify="left")
    for column in ("metric", "to measure", "in the store", "LLM calls", "prompt tokens", "answer tokens", "embedded", "cost"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    total = sum((cost for _, _, cost in estimated.values()), Estimate())
    rows = [(name, str(missing), str(stored), cost) for name, (missing, stored, cost) in estimated.items()]
    for name, missing, stored, cost in [*rows, ("all", "", "", total)]:
        dollars = "no known price" if cost.dollars is None else f"${cost.dollars:.4f}"
        counts = (cost.calls, cost.prompt_tokens, cost.completion_tokens, cost.embedding_tokens)
        table.add_row(name, missing, stored, *(f"{count:,}" for count in counts), dollars)
    console.print(table)


def print_explanation(entry: CaseEntry, console: Console) -> None:
    """Print a case with all its scores and the evidence of each."""
    console.print(_text(f"question      {entry['question']}", "bold"))
    console.print(_text(f"answer        {entry['answer'] or '(none)'}"))
    if entry["ground_truth"]:
        console.print(_text(f"ground truth  {entry['ground_truth']}"))
    for score in entry["metrics"]:
        state = {True: ("passed", "green"), False: ("failed", "red"), None: ("unmeasured", "yellow")}[score["passed"]]
        sign = "<=" if score["lower_is_better"] else ">="
        value = f"{score['unmeasured']}: {score['reason']}" if score["score"] is None else f"{score['score']:.3f}"
        console.print()
        console.print(_text(f"{score['name']}  {value}  {state[0]} (passes at {sign} {score['threshold']:g})", state[1]))
        for line in evidence_lines(score["evidence"]):
            console.print(_text(f"  {line}"))
        by = f" by {score['judge']}" if score["judge"] else ""
        console.print(_text(f"  version {score['version']}{by}, {score['tokens']} tokens, {score['seconds']:.1f} s", "dim"))


def print_examination(findings: Iterable[Finding], console: Console) -> None:
    """Print what `evalvault doctor` found."""
    for finding in findings:
        console.print(
            _text(f"{'fine' if finding.fine else 'FAILED':6} {finding.what}: {finding.found}", "" if finding.fine else "red")
        )
        if finding.remedy:
            console.print(_text(f"       {finding.remedy}"))


def print_metrics(metrics: Iterable[Metric], console: Console) -> None:
    """Print the registry."""
    table = Table(title="Metrics (values in [0, 1])", title_justify="left")
    for column in ("metric", "kind", "needs", "passes at", "LLM / embedding calls", "what it measures"):
        table.add_column(column, no_wrap=column == "metric")
    for metric in metrics:
        calls = f"{metric.judge_calls} / {metric.embedding_calls}"
        passes = f"{'<=' if metric.lower_is_better else '>='} {metric.threshold:g}"
        table.add_row(metric.name, metric.kind, ", ".join(metric.needs), passes, calls, metric.summary)
    console.print(table)


def print_catalog(states: Iterable[SnapshotState], console: Console, *, title: str) -> None:
    """Print what a check of the catalog found."""
    table = Table(title=_text(title), title_justify="left")
    for column in ("dataset", "snapshot", "cases", "batches", "language", "state"):
        table.add_column(column, no_wrap=column == "dataset")
    for item in states:
        masked = _pii(item.pii)
        fine = Text.assemble(("fine", "green"), "; " if masked else "", masked)
        state = fine if item.problem is None else _text(redacted(item.problem), "red")
        table.add_row(item.dataset, item.snapshot, item.cases, item.batches, item.language, state)
    console.print(table)


def _pii(pii: PiiReport) -> Text:
    """What was masked, or that nothing is; empty where there was nothing to mask."""
    if pii.open:
        return Text(f"pii is {pii}", "yellow")
    return Text(f"personal data masked: {pii}") if pii.masked else Text()


def _text(text: str, style: str = "") -> Text:
    """Text that is shown as it stands: it comes from datasets, and must be neither rich's markup nor a terminal's command."""
    return Text(text.translate(_CONTROL), style=style)


def print_status(lines: Sequence[DatasetOverview], waiting: Sequence[Delivery], console: Console, *, now: datetime) -> None:
    """Print the screen of the person on call."""
    table = Table(title="EvalVault", title_justify="left")
    for column in ("dataset", "last whole run", "pass rate", "trend", "coverage", "alert", "next"):
        table.add_column(column, justify="right" if column in ("pass rate", "coverage") else "left", overflow="fold")
    for line in lines:
        table.add_row(
            _text(line.dataset),
            _text(f"{line.snapshot}\n{_ago(line.finished_at, now)}" if line.finished_at else "never"),
            _pass_rate(line),
            line.trend,
            "–" if line.coverage is None else percent(line.coverage),
            _alert_state(line),
            _text(line.next_step),
        )
    console.print(table)
    for line in lines:
        for incident in line.incidents:
            who = f", acknowledged by {incident.acknowledged_by}" if incident.acknowledged_by else ""
            console.print(_text(f"open: {incident.id}, {', '.join(incident.causes)}{who}", "red"), soft_wrap=True)
    for delivery in waiting:
        why = f": {delivery.error}" if delivery.error else ""
        console.print(_text(f"undelivered: {delivery.id}{why}", "yellow"), soft_wrap=True)


def _pass_rate(line: DatasetOverview) -> str:
    """With its interval; where cases are unmeasured, what it may be."""
    if line.pass_rate is None:
        return "–"
    if line.bounds is not None:
        return f"{percent(line.bounds[0])} – {percent(line.bounds[1])}\nnot all measured"
    span = f"\n{percent(line.interval[0])} – {percent(line.interval[1])}" if line.interval else ""
    return f"{percent(line.pass_rate)}{span}"


def _alert_state(line: DatasetOverview) -> Text:
    styles = {
        State.OK: "green",
        State.WARNING: "yellow",
        State.FIRING: "bold red",
        State.NO_DATA: "red",
        State.INCONCLUSIVE: "yellow",
    }
    if line.state is None:
        return Text("–")
    told = line.state.value.replace("_", " ") + (f" ({', '.join(line.causes)})" if line.causes else "")
    return Text(f"{told}, muted" if line.muted else told, styles[line.state])


def _ago(finished_at: str, now: datetime) -> str:
    hours = (now - datetime.fromisoformat(finished_at)).total_seconds() / 3600
    if hours < 1:
        return "under an hour ago"
    return f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"


def print_usage(lines: Sequence[Spent], console: Console, *, by: str, since: datetime) -> None:
    """Print a line for each group, and the total."""
    table = Table(title=f"since {since:%Y-%m-%d %H:%M %Z}", title_justify="left")
    head = ["run", "dataset", "snapshot"] if by == "run" else [by]
    columns = ("runs", "calls", "tokens", "cost", "scores", "from store", "tokens saved", "hours")
    for column in (*head, *columns):
        table.add_column(column, justify="left" if column in head else "right", overflow="fold")
    *groups, total = lines
    for one in groups:
        table.add_row(*map(_text, one.key), *_spent(one))
    table.add_section()
    table.add_row("total", *[""] * (len(head) - 1), *_spent(total))
    console.print(table)


def _spent(one: Spent) -> list[str]:
    cost = "no known price" if one.dollars is None else f"{one.dollars:.4f} USD"
    counts = [one.scores, one.scores_from_store, one.saved_tokens]
    return [
        str(one.runs),
        f"{one.calls:,}",
        f"{one.tokens:,}",
        cost,
        *(f"{count:,}" for count in counts),
        f"{one.seconds / 3600:.2f}",
    ]


def _minute(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def print_incidents(incidents: Sequence[Incident], board: Board, console: Console, *, now: datetime) -> None:
    """Print a line for each incident, and for each mute that holds."""
    if not incidents:
        console.print("no incident is open")
    for one in incidents:
        times = [f"open since {_minute(one.opened_at)}" if one.closed_at is None else f"opened {_minute(one.opened_at)}"]
        if one.acknowledged_by:
            at = f" {_minute(one.acknowledged_at)}" if one.acknowledged_at else ""
            times.append(f"acknowledged by {one.acknowledged_by}{at}")
        if one.closed_at is not None:
            times.append(f"closed {_minute(one.closed_at)}")
        if one.told_at is None:
            times.append("not told yet" if one.closed_at is None else "never told")
        told = f"{one.id}: {', '.join(one.causes)} in {', '.join(one.hit)}, {', '.join(times)}"
        console.print(_text(told), soft_wrap=True)
    for name, until in board.mutes.items():
        ends = datetime.fromtimestamp(until, UTC)
        if ends <= now:
            continue
        console.print(f"muted: {'all' if name == '*' else name} until {ends:%Y-%m-%d %H:%M} UTC", soft_wrap=True)
