"""What must be true of a report, as asset checks that live inside the report asset.

A failed blocking check of severity ERROR ends `dagster job execute` with exit code 1; the others only show red in the UI.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from evalvault_pipeline.reporting.report import RunReport

EVERY_CASE_SCORED = "every_case_scored"
PASS_RATE = "pass_rate_at_least_minimum"  # noqa: S105  no password


def report_check_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            PASS_RATE, asset=asset, blocking=True, description="The pass rate is at least the minimum of the dataset."
        ),
        dg.AssetCheckSpec(
            EVERY_CASE_SCORED,
            asset=asset,
            description="Measured / wanted scores is at least EVALVAULT_MIN_COVERAGE, and no batch is missing.",
        ),
    ]


def check_reports(reports: Sequence[RunReport], *, min_pass_rate: float, min_coverage: float) -> list[dg.AssetCheckResult]:
    """The results of both checks over all reports of a run; they fail where any snapshot fails.

    Where only unmeasured cases keep the pass rate below the minimum, nothing is known to be worse: that is a warning, which
    ends no run. Missing batches excuse nothing: what is scored is judged.
    """
    worse = [report for report in reports if report.pass_rate < min_pass_rate]
    surely = [report for report in worse if report.pass_rate_bounds[1] < min_pass_rate]
    partial = [report for report in reports if report.coverage < min_coverage or report.info.missing_batches]
    shown = (surely or worse or list(reports))[-1]
    incomplete = (partial or list(reports))[-1]
    low, high = shown.pass_rate_bounds
    return [
        dg.AssetCheckResult(
            check_name=PASS_RATE,
            passed=not worse,
            severity=dg.AssetCheckSeverity.ERROR if surely or not worse else dg.AssetCheckSeverity.WARN,
            metadata={
                "snapshot": shown.info.snapshot,
                "pass_rate": shown.pass_rate,
                "minimum": min_pass_rate,
                "pass_rate_if_unmeasured_failed": low,
                "pass_rate_if_unmeasured_passed": high,
                "failed_cases": shown.failed,
            },
            description="; ".join(_pass_rate_line(report, min_pass_rate) for report in (worse or [shown])),
        ),
        dg.AssetCheckResult(
            check_name=EVERY_CASE_SCORED,
            passed=not partial,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "snapshot": incomplete.info.snapshot,
                "coverage": incomplete.coverage,
                "minimum": min_coverage,
                "unmeasured": "\n".join(incomplete.unmeasured_details) or "none",
                "missing_batches": ", ".join(incomplete.info.missing_batches) or "none",
            },
            description="; ".join(
                f"{report.info.snapshot}: coverage {report.coverage:.1%}, {len(report.info.missing_batches)} batches missing"
                for report in (partial or [incomplete])
            ),
        ),
    ]


def _pass_rate_line(report: RunReport, min_pass_rate: float) -> str:
    line = f"{report.info.snapshot}: pass rate {report.pass_rate:.1%}, at least {min_pass_rate:.1%} is wanted"
    if report.pass_rate < min_pass_rate <= report.pass_rate_bounds[1]:
        line += f"; inconclusive, {report.unmeasured} cases are unmeasured"
    return line
