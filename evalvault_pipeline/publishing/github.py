"""A verdict in GitHub Actions: annotations, the job summary, and outputs for later steps.

The pull request's comment is the Markdown of `verdict_markdown.py`; the workflow posts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from evalvault_pipeline.publishing.markdown import number
from evalvault_pipeline.publishing.verdict_markdown import verdict_markdown
from evalvault_pipeline.reporting.gate import Outcome, Verdict
from evalvault_pipeline.reporting.statistics import wilson_interval

SUMMARY_LIMIT = 1_000_000  # bytes; GitHub takes 1 MiB a step
LEVELS = {Outcome.PASS: "notice", Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "warning"}


def in_actions() -> bool:
    """Whether this process is a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation_lines(verdict: Verdict) -> Iterator[str]:
    """A workflow command for each rule that did not pass; one notice where all did."""
    told = [one for one in verdict.findings if one.outcome is not Outcome.PASS]
    for finding in told:
        yield f"::{LEVELS[finding.outcome]} title={_property(finding.rule.value)}::{_data(finding.sentence)}"
    if not told:
        yield f"::notice title={_property(verdict.run.name)}::{_data(verdict.headline)}"


def outputs(verdict: Verdict) -> dict[str, str]:
    """What later steps read as `steps.<id>.outputs.<name>`; each is one line."""
    run = verdict.run
    total = len(run.case_ids)
    low, high = wilson_interval(run.passed, total) or (0.0, 1.0)
    means = {name: run.header.get(f"avg_{name}") for name in run.metrics}
    found = {
        "outcome": verdict.outcome.value,
        "pass_rate": f"{run.passed / total:.4f}",
        "pass_rate_low": f"{low:.4f}",
        "pass_rate_high": f"{high:.4f}",
        "coverage": f"{run.coverage:.4f}",
        "cases": str(total),
        "metrics": ", ".join(f"{name} {number(mean)}" for name, mean in sorted(means.items())),
    }
    return {name: " ".join(value.split()) for name, value in found.items()}


def tell_actions(verdict: Verdict) -> None:
    """Print the annotations; append to the files that the runner names, where it does."""
    for line in annotation_lines(verdict):
        print(line)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(summary, verdict_markdown(verdict, limit=SUMMARY_LIMIT) + "\n")
    if output := os.environ.get("GITHUB_OUTPUT"):
        _append(output, "".join(f"{name}={value}\n" for name, value in outputs(verdict).items()))


def _append(file: str, text: str) -> None:
    with Path(file).open("a", encoding="utf-8", errors="replace") as open_file:
        open_file.write(text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
