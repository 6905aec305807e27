"""A run's report in the terminal: the figures, then the worst cases."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalvault_pipeline.publishing.markdown import failed_scores, headline, number, why
from evalvault_pipeline.reporting.catalog_check import SnapshotState
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.metrics import Metric
from evalvault_pipeline.scoring.model import CaseResult

# All but tab and newline; an escape sequence in an answer could clear the screen or write elsewhere.
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
            f"{metric.threshold:g}",
            str(metric.passed),
            f"{metric.measured}/{report.case_count}",
        )
    console.print(table)
    console.print(Text(headline(report), style="bold"))
    for detail in report.unmeasured_details:
        console.print(_text(f"unmeasured: {detail}", "yellow"))
    if report.info.skipped_rows:
        console.print(
            Text(f"bad rows were skipped: {len(report.info.skipped_rows)} faults (skipped_rows in the results)", "yellow")
        )
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
            scores.append(f"{score.metric} {number(score.value)} < {score.threshold:g}\n", style="red")
            if reason := why(score.evidence):
                scores.append(_text(f"{reason}\n"))
        scores.rstrip()
        text = _text(result.case.question, "bold").append(_text(f"\n{result.case.answer}", "not bold"))
        table.add_row(_text(result.case.case_id), text, scores)
    return table


def print_metrics(metrics: Iterable[Metric], console: Console) -> None:
    """Print the registry."""
    table = Table(title="Metrics (values in [0, 1], higher is better)", title_justify="left")
    for column in ("metric", "kind", "needs", "threshold", "LLM / embedding calls", "what it measures"):
        table.add_column(column, no_wrap=column == "metric")
    for metric in metrics:
        calls = f"{metric.judge_calls} / {metric.embedding_calls}"
        table.add_row(metric.name, metric.kind, ", ".join(metric.needs), f"{metric.threshold:g}", calls, metric.summary)
    console.print(table)


def print_catalog(states: Iterable[SnapshotState], console: Console, *, title: str) -> None:
    """Print what a check of the catalog found."""
    table = Table(title=_text(title), title_justify="left")
    for column in ("dataset", "snapshot", "cases", "batches", "language", "state"):
        table.add_column(column, no_wrap=column == "dataset")
    for item in states:
        state = Text("fine", "green") if item.problem is None else _text(item.problem, "red")
        table.add_row(item.dataset, item.snapshot, item.cases, item.batches, item.language, state)
    console.print(table)


def _text(text: str, style: str = "") -> Text:
    """Text that is shown as it stands: it comes from datasets, and must be neither rich's markup nor a terminal's command."""
    return Text(text.translate(_CONTROL), style=style)
