"""What must be true of a report, as asset checks that live inside the report asset.

A failed blocking check of severity ERROR ends `dagster job execute` with exit code 1; the others only show red in the UI.
"""

from __future__ import annotations

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


def check_report(report: RunReport, *, min_pass_rate: float, min_coverage: float) -> list[dg.AssetCheckResult]:
    """The results of both checks.

    Where only unmeasured cases keep the pass rate below the minimum, nothing is known to be worse: that is a warning, which
    ends no run.
    """
    low, high = report.pass_rate_bounds
    inconclusive = low < min_pass_rate <= high
    missing = list(report.info.missing_batches)
    return [
        dg.AssetCheckResult(
            check_name=PASS_RATE,
            passed=report.pass_rate >= min_pass_rate,
            severity=dg.AssetCheckSeverity.WARN if inconclusive else dg.AssetCheckSeverity.ERROR,
            metadata={
                "snapshot": report.info.snapshot,
                "pass_rate": report.pass_rate,
                "minimum": min_pass_rate,
                "pass_rate_if_unmeasured_failed": low,
                "pass_rate_if_unmeasured_passed": high,
                "failed_cases": report.failed,
            },
            description=f"{report.info.snapshot}: pass rate {report.pass_rate:.1%}, at least {min_pass_rate:.1%} is wanted"
            + (f"; inconclusive, {report.unmeasured} cases are unmeasured" if inconclusive else ""),
        ),
        dg.AssetCheckResult(
            check_name=EVERY_CASE_SCORED,
            passed=report.coverage >= min_coverage and not missing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "snapshot": report.info.snapshot,
                "coverage": report.coverage,
                "minimum": min_coverage,
                "unmeasured": "\n".join(report.unmeasured_details) or "none",
                "missing_batches": ", ".join(missing) or "none",
            },
            description=f"{report.info.snapshot}: coverage {report.coverage:.1%}, {len(missing)} batches missing",
        ),
    ]
