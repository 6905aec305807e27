"""The report in the terminal: what comes from datasets is shown as it stands."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from evalvault_pipeline.publishing.terminal import print_catalog, print_metrics, print_report
from evalvault_pipeline.reporting.catalog_check import SnapshotState
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline_tests.publishing.test_markdown import failed, hostile_free, report

MARKUP = ["[red]x[/red]", "[/]", "[/red]", "[link=http://x.y]z[/link]", "[bold", "[0, 1]"]


def shown(run: RunReport, cases: int = 10) -> str:
    console = Console(file=StringIO(), width=300, force_terminal=False)
    print_report(run, console, cases=cases)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_text_of_the_dataset_is_shown_literally(text: str):
    case = failed(text, case_id=text, evidence={"missing": [text]})
    output = shown(report(case, dataset=text, snapshot=text, skipped_rows=[text]))
    assert f"{text} {text}" in output
    row = next(line for line in output.splitlines() if "chrf 0.250" in line)
    assert row.count(text) == 2
    assert output.count(text) == 6


def test_a_terminal_command_in_an_answer_is_not_sent_to_the_terminal():
    """Clear the screen, set the title, ring, go back to the start of the line."""
    output = shown(report(failed("\x1b[2J\x1b]0;title\x07 \r 답\x9b2J", evidence={"missing": ["\x1b[2J"]}), hostile_free()))
    assert not set(output) & {"\x1b", "\x07", "\r", "\x9b"}
    assert "�[2J" in output and "답" in output


def test_figures_unmeasured_details_and_the_number_of_skipped_rows_are_shown():
    output = shown(report(failed("x"), hostile_free(), skipped_rows=["a", "b"]))
    for text in ("insurance_qa 2026w47", "0 of 2 cases passed", "unmeasured: chrf: none", "bad rows were skipped: 2 faults"):
        assert text in output


def test_at_most_the_asked_number_of_worst_cases_is_shown():
    run = report(*(failed("x", f"case-{number}") for number in range(5)))
    assert [f"case-{number}" in shown(run, cases=2) for number in range(5)] == [True, True, False, False, False]
    assert "Worst cases (2 of 5 failed)" in shown(run, cases=2)
    assert "Worst cases" not in shown(run, cases=0)


def test_an_empty_run_can_be_shown():
    assert "0 of 0 cases passed" in shown(replace(report(), worst=()))


def test_every_metric_of_the_registry_is_listed_with_what_it_measures():
    console = Console(file=StringIO(), width=300)
    print_metrics(METRICS.values(), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(metric.name in output and metric.summary in output for metric in METRICS.values())
    assert "values in [0, 1]" in output


def test_a_problem_of_the_catalog_is_shown_literally_beside_what_is_fine():
    console = Console(file=StringIO(), width=300)
    states = [
        SnapshotState(dataset="qa", snapshot="w1"),
        SnapshotState(dataset="qa", snapshot="w2", problem="line 3: [/red] [x]"),
    ]
    print_catalog(states, console, title="/data/[/x]/catalog.toml")
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fine" in output and "line 3: [/red] [x]" in output and "/data/[/x]/catalog.toml" in output
