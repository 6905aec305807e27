"""The verdict on a run: pass, fail or inconclusive, and why.

A gate must fail no unchanged release (5 % of the time at most) and pass none that it cannot vouch for; what lies between is
inconclusive, a state of its own. The rules, their error rates and their power: docs/verdicts.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from evalvault_pipeline.errors import UnusableResults
from evalvault_pipeline.reporting.comparison import Comparison, Difference
from evalvault_pipeline.reporting.recorded import RecordedRun
from evalvault_pipeline.reporting.statistics import exact_worsening, holm, percent, surely_below, wilson_interval

ERROR_RATE = 0.025  # of each side of a 95 % interval, and of each test that fails a run
MINIMUM_PAIRS = 20


class Outcome(StrEnum):
    """What the gate says."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 4}[self]


class Rule(StrEnum):
    """What is asked of a run; each is named by the sentence that is true when all is well."""

    EVERY_CASE_SCORED = "every_case_scored"
    PASS_RATE = "pass_rate_at_least_minimum"  # noqa: S105  no password
    NOT_WORSE = "not_worse_than_baseline"


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a gate asks for. Rates and margins are shares of 1; `inconclusive` is the outcome that CI takes it for."""

    min_pass_rate: float = 0.8
    margin: float = 0.02
    min_coverage: float = 0.95
    allow_judge_change: bool = False
    inconclusive: Outcome = Outcome.INCONCLUSIVE


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule's outcome, the sentence that says why, and the figures in it."""

    rule: Rule
    outcome: Outcome
    sentence: str
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The one decision on a run, which every surface renders: fail before inconclusive before pass over its findings."""

    run: RecordedRun
    rules: GateRules
    findings: tuple[Finding, ...]
    comparison: Comparison | None = None

    @property
    def outcome(self) -> Outcome:
        outcomes = {finding.outcome for finding in self.findings}
        return next((one for one in (Outcome.FAIL, Outcome.INCONCLUSIVE) if one in outcomes), Outcome.PASS)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 inconclusive, unless the rules say what an inconclusive one counts as."""
        return (self.rules.inconclusive if self.outcome is Outcome.INCONCLUSIVE else self.outcome).exit_code

    @property
    def headline(self) -> str:
        """The outcome, and the first sentence that made it."""
        deciding = next((one for one in self.findings if one.outcome is self.outcome), None)
        return f"{self.outcome.value.upper()}: {deciding.sentence}" if deciding else self.outcome.value.upper()

    def finding(self, rule: Rule) -> Finding | None:
        return next((one for one in self.findings if one.rule is rule), None)


def decide(run: RecordedRun, *, rules: GateRules, comparison: Comparison | None = None) -> Verdict:
    """The verdict on `run`, against `comparison`'s baseline where there is one. Raises UnusableResults for an empty run."""
    if not run.case_ids:
        raise UnusableResults(f"{run.source} holds no case: nothing can be decided. Score a dataset that has some.")
    findings = [_coverage(run, rules), _floor(run, rules)]
    if comparison is not None:
        findings.append(_not_worse(comparison, rules))
    return Verdict(run=run, rules=rules, findings=tuple(findings), comparison=comparison)


def _coverage(run: RecordedRun, rules: GateRules) -> Finding:
    missing = run.header["missing_batches"]
    low = run.coverage < rules.min_coverage
    sentence = f"coverage {percent(run.coverage)}, at least {percent(rules.min_coverage)} is wanted"
    if run.unmeasured:
        sentence += f"; {_cases(run.unmeasured)} unmeasured"
    if missing:
        sentence += f"; {len(missing)} batches are not scored yet"
    return Finding(
        rule=Rule.EVERY_CASE_SCORED,
        outcome=Outcome.INCONCLUSIVE if low or missing else Outcome.PASS,
        sentence=sentence,
        figures={"value": run.coverage, "minimum": rules.min_coverage, "unmeasured_cases": run.unmeasured},
    )


def _floor(run: RecordedRun, rules: GateRules) -> Finding:
    """Fail where the exact test says so, even if all unmeasured cases had passed; pass where the interval lies above."""
    minimum, total = rules.min_pass_rate, len(run.case_ids)
    decided = run.passed + run.failed
    interval = wilson_interval(run.passed, decided)
    rate = run.passed / decided if decided else None
    figures = {
        "value": rate,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "minimum": minimum,
    }
    if rate is None or interval is None:
        return _finding(Rule.PASS_RATE, Outcome.INCONCLUSIVE, "no case was measured, so there is no pass rate", figures)
    low, high = interval
    counted = f"{decided} measured cases of {total}" if run.unmeasured else _cases(decided)
    sentence = (
        f"pass rate {percent(rate, beside=minimum)} of {counted} (95 % interval {percent(low)} to {percent(high)}), "
        f"at least {percent(minimum)} is wanted"
    )
    if surely_below(run.passed, decided, minimum) and surely_below(run.passed + run.unmeasured, total, minimum):
        return _finding(Rule.PASS_RATE, Outcome.FAIL, sentence, figures)
    if low < minimum:
        why = "the interval reaches below it" if rate >= minimum else "chance could have made it so low"
        return _finding(Rule.PASS_RATE, Outcome.INCONCLUSIVE, f"{sentence}, and {why}: more cases would tell", figures)
    if surely_below(run.passed, total, minimum):
        unknown = f"{_cases(run.unmeasured)} unmeasured: had they failed, it would be too low"
        return _finding(Rule.PASS_RATE, Outcome.INCONCLUSIVE, f"{sentence}; {unknown}", figures)
    return _finding(Rule.PASS_RATE, Outcome.PASS, sentence, figures)


def _not_worse(comparison: Comparison, rules: GateRules) -> Finding:
    """Non-inferiority of the pass rate within the margin, and no metric's mean clearly beyond it."""
    rate = comparison.pass_rate
    margin = rules.margin + rate.noise
    figures = _figures(comparison, rules, margin)
    if not comparison.comparable and not rules.allow_judge_change:
        told = "; ".join(
            warning for warning in comparison.warnings if warning.startswith(("another judge", "another version of "))
        )
        sentence = f"not comparable with the baseline: {told}. Score the baseline again, or allow it with --allow-judge-change"
        return _finding(Rule.NOT_WORSE, Outcome.INCONCLUSIVE, sentence, figures)
    if comparison.identical:
        return _finding(Rule.NOT_WORSE, Outcome.PASS, f"no answer and no score differs in {_pairs(comparison.pairs)}", figures)
    sentence = _drop_sentence(comparison, rules, margin)
    if rate.pairs < MINIMUM_PAIRS:
        few = f"{_pairs(rate.pairs)} are too few to compare; {MINIMUM_PAIRS} are wanted at the least"
        return _finding(Rule.NOT_WORSE, Outcome.INCONCLUSIVE, few, figures)
    worse = _clearly_worse(comparison, rules)
    if _is_worse(rate.newly_failing, rate.newly_passing, rate.pairs, margin):
        if _is_worse(*comparison.best, comparison.pairs, margin):
            return _finding(Rule.NOT_WORSE, Outcome.FAIL, _with_metrics(sentence, worse), figures)
        unknown = "had the unmeasured cases passed, it would not be significant"
        return _finding(Rule.NOT_WORSE, Outcome.INCONCLUSIVE, f"{sentence}; {unknown}", figures)
    if worse:
        return _finding(Rule.NOT_WORSE, Outcome.FAIL, _with_metrics(sentence, worse), figures)
    assert rate.interval is not None, "there are pairs"
    if rate.interval[0] < -margin:
        unseen = f"with {_pairs(rate.pairs)} a drop under {_points(comparison.detectable_drop)} cannot be seen"
        return _finding(
            Rule.NOT_WORSE, Outcome.INCONCLUSIVE, f"{sentence}: the interval reaches beyond the margin; {unseen}", figures
        )
    if _is_worse(*comparison.worst, comparison.pairs, margin):
        unknown = "had the unmeasured cases failed, it would be significantly worse"
        return _finding(Rule.NOT_WORSE, Outcome.INCONCLUSIVE, f"{sentence}; {unknown}", figures)
    return _finding(Rule.NOT_WORSE, Outcome.PASS, sentence, figures)


def _is_worse(newly_failing: int, newly_passing: int, pairs: int, margin: float) -> bool:
    drop = (newly_failing - newly_passing) / pairs if pairs else 0.0
    return drop > margin and exact_worsening(newly_failing, newly_passing) <= ERROR_RATE


def _clearly_worse(comparison: Comparison, rules: GateRules) -> list[Difference]:
    """Metrics whose mean got worse by more than the margin, beyond chance: one-sided, corrected by Holm."""
    tested = [metric for metric in comparison.metrics if metric.pairs >= MINIMUM_PAIRS]
    p_values = holm([metric.beyond(rules.margin + metric.noise) for metric in tested])
    return [metric for metric, p_value in zip(tested, p_values, strict=True) if p_value <= ERROR_RATE]


def _drop_sentence(comparison: Comparison, rules: GateRules, margin: float) -> str:
    rate = comparison.pass_rate
    if rate.baseline is None or rate.candidate is None or rate.interval is None:
        return f"no pair of cases is measured in both runs ({_pairs(comparison.pairs)})"
    noise = f", of which {_points(rate.noise)} for the judge's noise" if rate.noise else ""
    return (
        f"pass rate {percent(rate.candidate)} after {percent(rate.baseline)} over {_pairs(rate.pairs)}: "
        f"{_points(rate.candidate - rate.baseline, sign=True)} (95 % interval {_points(rate.interval[0], sign=True)} to "
        f"{_points(rate.interval[1], sign=True)}, margin {_points(margin)}{noise}); {rate.newly_failing} newly failing, "
        f"{rate.newly_passing} newly passing, p = {rate.p_value:.3g}"
    )


def _with_metrics(sentence: str, worse: list[Difference]) -> str:
    told = [f"{one.name} {one.candidate:.3f} after {one.baseline:.3f}" for one in worse]
    return f"{sentence}; clearly worse: {', '.join(told)}" if told else sentence


def _figures(comparison: Comparison, rules: GateRules, margin: float) -> dict[str, float | None]:
    rate = comparison.pass_rate
    low, high = rate.interval or (None, None)
    worst, best = comparison.bounds
    return {
        "pairs": rate.pairs,
        "difference": rate.difference,
        "low": low,
        "high": high,
        "p_value": rate.p_value,
        "margin": rules.margin,
        "noise_margin": rate.noise,
        "effective_margin": margin,
        "worst": worst,
        "best": best,
        "detectable_drop": comparison.detectable_drop,
        "newly_failing": rate.newly_failing,
        "newly_passing": rate.newly_passing,
    }


def _finding(rule: Rule, outcome: Outcome, sentence: str, figures: Mapping[str, float | None]) -> Finding:
    return Finding(rule=rule, outcome=outcome, sentence=sentence, figures=figures)


def _points(share: float, *, sign: bool = False) -> str:
    return f"{100 * share:{'+' if sign else ''}.1f} points"


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _pairs(count: int) -> str:
    return "1 pair of cases" if count == 1 else f"{count} pairs of cases"
