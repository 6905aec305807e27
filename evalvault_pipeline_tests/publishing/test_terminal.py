"""The report in the terminal: what comes from datasets is shown as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from evalvault_pipeline.cases.model import PiiReport
from evalvault_pipeline.publishing.results_file import case_entry
from evalvault_pipeline.publishing.terminal import (
    print_catalog,
    print_estimate,
    print_examination,
    print_explanation,
    print_incidents,
    print_metrics,
    print_report,
    print_status,
)
from evalvault_pipeline.reporting.catalog_check import SnapshotState
from evalvault_pipeline.reporting.incidents import Board, Incident
from evalvault_pipeline.reporting.overview import DatasetOverview, overview
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.doctor import Finding
from evalvault_pipeline.scoring.estimate import Estimate
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline_tests.publishing.test_markdown import failed, hostile_free, judged, report
from evalvault_pipeline_tests.reporting.test_overview import header, nothing

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
    for text in ("insurance_qa 2026w47", "0 of 2 cases passed", "unmeasured: chrf: none", "bad rows that were skipped: 2 ("):
        assert text in output


def test_what_was_masked_is_shown_where_there_was_something_and_a_firewall_that_is_off_always():
    assert "personal data masked: 2 PHONE in 1 case" in shown(report(failed("x"), pii=PiiReport(masked={"PHONE": 2}, cases=1)))
    assert "pii is off: personal data is NOT masked" in shown(report(failed("x"), pii=PiiReport(policy="off")))
    assert "personal data" not in shown(report(failed("x")))


def printed(print_it: Callable[[Console], None]) -> str:
    console = Console(file=StringIO(), width=300, force_terminal=False)
    print_it(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_threshold_says_on_which_side_of_it_a_value_passes():
    above, below = shown(report(failed("x"))), shown(report(failed("x", value=0.75, lower_is_better=True)))
    assert ">= 0.5" in above and "chrf 0.250 < 0.5" in above
    assert "<= 0.5" in below and "chrf 0.750 > 0.5" in below
    listed = printed(lambda console: print_metrics(METRICS.values(), console))
    assert next(line for line in listed.splitlines() if "noise_sensitivity" in line).count("<= 0.3") == 1
    assert next(line for line in listed.splitlines() if " faithfulness " in line).count(">= 0.7") == 1


def test_the_noise_of_the_judge_stands_below_the_figures():
    assert "judge noise of chrf: 100.0 % of verdicts flip when judged again (1 cases, 2 times" in shown(
        report(judged(1.0, 0.0))
    )


def test_an_estimate_says_what_is_to_be_measured_and_what_it_will_cost():
    estimated = {
        "faithfulness": (3, 2, Estimate(calls=6, prompt_tokens=1_500, completion_tokens=300, dollars=0.25)),
        "semantic_similarity": (4, 1, Estimate(embedding_tokens=40, dollars=0.5)),
    }
    output = printed(lambda console: print_estimate(estimated, console, judge="openai/m"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    assert "What openai/m would be asked (an estimate)" in output
    assert rows == [
        ["faithfulness", "3", "2", "6", "1,500", "300", "0", "$0.2500"],
        ["semantic_similarity", "4", "1", "0", "0", "0", "40", "$0.5000"],
        ["all", "", "", "6", "1,500", "300", "40", "$0.7500"],
    ]


def test_an_estimate_without_a_price_and_one_without_a_judge_say_so():
    unknown = {"faithfulness": (1, 0, Estimate(calls=2, prompt_tokens=5, dollars=None))}
    assert printed(lambda console: print_estimate(unknown, console, judge="ollama/m")).count("no known price") == 2
    assert printed(lambda console: print_estimate({}, console, judge="none")) == ("this run asks no judge: nothing to pay\n")


@pytest.mark.parametrize("text", [*MARKUP, "\x1b[2J"])
def test_an_explanation_shows_the_texts_of_dataset_and_judge_as_they_stand(text: str):
    case = failed(text, evidence={"statements": [{"statement": text, "verdict": 0, "reason": text}], text: text}, judge=text)
    output = printed(lambda console: print_explanation(case_entry(case), console))
    seen = text.replace("\x1b", "�")
    assert output.count(seen) >= 7 and "\x1b" not in output


def test_an_explanation_tells_passed_from_failed_from_unmeasured():
    passed, low = failed("x", value=0.5), failed("x", lower_is_better=True, value=0.75)
    texts = [
        printed(lambda console, case=case: print_explanation(case_entry(case), console))
        for case in (passed, low, hostile_free())
    ]
    assert "chrf  0.500  passed (passes at >= 0.5)" in texts[0]
    assert "chrf  0.750  failed (passes at <= 0.5)" in texts[1]
    assert "chrf  no_field: none  unmeasured (passes at >= 0.5)" in texts[2]


def test_an_examination_names_what_failed_and_what_to_do():
    findings = [
        Finding(what="server", found="http://localhost answers"),
        Finding(what="model", found="[/red] is not there", fine=False, remedy="Run `ollama pull [/red]`."),
    ]
    assert printed(lambda console: print_examination(findings, console)) == (
        "fine   server: http://localhost answers\nFAILED model: [/red] is not there\n       Run `ollama pull [/red]`.\n"
    )


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


def test_the_status_shows_a_dash_and_the_way_out_where_nothing_was_measured():
    now = datetime(2026, 11, 25, tzinfo=UTC)
    runs = {"qa": [header("2026w46", 17), nothing("2026w47", 24)]}
    console = Console(file=StringIO(), width=300, force_terminal=False)
    print_status(overview({"qa": ["2026w46", "2026w47"]}, runs, Board(), now=now.timestamp()), [], console, now=now)
    row = next(line for line in console.file.getvalue().splitlines() if "qa" in line)  # type: ignore[attr-defined]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        "qa",
        "2026w47",
        "–",
        "▇·",
        "0.0 %",
        "–",
        "nothing was measured: faithfulness: no judge in profile offline",
    ]


def test_an_incident_is_listed_with_when_it_opened_was_taken_up_and_closed():
    at = datetime(2026, 11, 25, 7, 4, tzinfo=UTC).timestamp()
    kept = {"key": "qa/quality", "opened_at": at, "causes": ["pass_rate"], "hit": ["qa"]}
    incidents = [
        Incident(id="qa-1", **kept, told_at=at, acknowledged_by="kim", acknowledged_at=at + 60, closed_at=at + 420),
        Incident(id="qa-2", **kept, told_at=at),
        Incident(id="qa-3", **kept),
    ]
    console = Console(file=StringIO(), width=300, force_terminal=False)
    print_incidents(incidents, Board(), console, now=datetime(2026, 11, 25, 8, tzinfo=UTC))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "qa-1: pass_rate in qa, opened 2026-11-25 07:04 UTC, acknowledged by kim 2026-11-25 07:05 UTC, closed 2026-11-25 07:11 UTC",
        "qa-2: pass_rate in qa, open since 2026-11-25 07:04 UTC",
        "qa-3: pass_rate in qa, open since 2026-11-25 07:04 UTC, not told yet",
    ]


def test_a_status_shows_what_a_pass_rate_may_be_where_cases_are_unmeasured():
    values = dict.fromkeys(("judge", "next_step"), "") | {"pass_rates": [], "causes": [], "incidents": [], "muted": False}
    common = {"dataset": "qa", "snapshot": "w1", "finished_at": "2026-11-25T07:00:00+00:00", "state": None, **values}
    lines = [
        DatasetOverview(**common, pass_rate=0.5, coverage=0.6, interval=(0.4, 0.6), bounds=(0.5, 0.9)),
        DatasetOverview(**common, pass_rate=0.7, coverage=1.0, interval=(0.6, 0.8), bounds=None),
    ]
    console = Console(file=StringIO(), width=200, force_terminal=False)
    print_status(lines, [], console, now=datetime(2026, 11, 25, 8, tzinfo=UTC))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0 % – 90.0 %" in shown and "not all measured" in shown and "40.0 %" not in shown
    assert "70.0 %" in shown and "60.0 % – 80.0 %" in shown


def test_a_mute_that_is_over_is_not_listed():
    now = datetime(2026, 11, 25, tzinfo=UTC)
    board = Board()
    board.mute("over", now.timestamp())
    board.mute("qa", (now + timedelta(hours=1)).timestamp())
    console = Console(file=StringIO(), width=300, force_terminal=False)
    print_incidents([], board, console, now=now)
    listed = console.file.getvalue()  # type: ignore[attr-defined]
    assert listed.splitlines() == ["no incident is open", "muted: qa until 2026-11-25 01:00 UTC"]
