"""What must be true of a report and of a verdict, as asset checks that live inside the assets.

A failed blocking check of severity ERROR ends `dagster job execute` with exit code 1; the others only show in the UI. Blocking
checks stand on the verdict, the last asset of its job, so that nothing is left out where they end the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from evalvault_pipeline.reporting.gate import Finding, Outcome, Rule, Verdict
from evalvault_pipeline.reporting.report import RunReport


def report_check_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            Rule.EVERY_CASE_SCORED.value,
            asset=asset,
            description="Measured / wanted scores is at least EVALVAULT_MIN_COVERAGE, and no batch is missing.",
        )
    ]


def verdict_check_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            Rule.PASS_RATE.value,
            asset=asset,
            blocking=True,
            description="The pass rate, with its interval, is at least the minimum of the dataset.",
        ),
        dg.AssetCheckSpec(
            Rule.NOT_WORSE.value,
            asset=asset,
            blocking=True,
            description="The pass rate is no lower than the promoted baseline's, within EVALVAULT_MARGIN.",
        ),
    ]


def check_reports(reports: Sequence[RunReport], *, min_coverage: float) -> list[dg.AssetCheckResult]:
    """Whether every case of the reports of a run is scored; a warning, which ends no run."""
    partial = [report for report in reports if report.coverage < min_coverage or report.info.missing_batches]
    shown = (partial or list(reports))[-1]
    return [
        dg.AssetCheckResult(
            check_name=Rule.EVERY_CASE_SCORED.value,
            passed=not partial,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "snapshot": shown.info.snapshot,
                "coverage": round(shown.coverage, 4),
                "minimum": min_coverage,
                "unmeasured": "\n".join(shown.unmeasured_details) or "none",
                "missing_batches": ", ".join(shown.info.missing_batches) or "none",
            },
            description="; ".join(
                f"{report.info.snapshot}: coverage {report.coverage:.1%}, {len(report.info.missing_batches)} batches missing"
                for report in (partial or [shown])
            ),
        )
    ]


def check_verdicts(verdicts: Sequence[Verdict]) -> list[dg.AssetCheckResult]:
    """A result for each blocking rule over all verdicts of a run: an error where one fails, a warning where one cannot tell."""
    return [_check(rule, verdicts) for rule in (Rule.PASS_RATE, Rule.NOT_WORSE)]


def _check(rule: Rule, verdicts: Sequence[Verdict]) -> dg.AssetCheckResult:
    found = [(verdict, finding) for verdict in verdicts if (finding := verdict.finding(rule))]
    if not found:
        nothing = "No baseline is promoted, so nothing is compared: evalvault baseline set RUN_ID"
        return dg.AssetCheckResult(check_name=rule.value, passed=True, description=nothing)
    failed, unsure = (
        [pair for pair in found if pair[1].outcome is outcome] for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)
    )
    shown = failed or unsure or found
    verdict, finding = shown[-1]
    return dg.AssetCheckResult(
        check_name=rule.value,
        passed=not failed and not unsure,
        severity=dg.AssetCheckSeverity.WARN if unsure and not failed else dg.AssetCheckSeverity.ERROR,
        metadata={
            "snapshot": str(verdict.run.header["snapshot"]),
            "outcome": finding.outcome.value,
            **{name: round(float(value), 4) for name, value in finding.figures.items() if value is not None},
        },
        description="; ".join(_line(one, told) for one, told in shown),
    )


def _line(verdict: Verdict, finding: Finding) -> str:
    said = "inconclusive, " if finding.outcome is Outcome.INCONCLUSIVE else ""
    return f"{verdict.run.header['snapshot']}: {said}{finding.sentence}"
