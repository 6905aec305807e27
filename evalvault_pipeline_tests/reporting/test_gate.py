"""The gate: what makes a run pass, fail, or neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, Outcome, Rule, Verdict, decide
from evalvault_pipeline_tests.results_files import case, good

Results = Callable[..., Path]
Cases = list[dict[str, Any]]


def cases(count: int, *, bad: range = range(0), unmeasured: range = range(0), **scores: float) -> Cases:
    def values(number: int) -> dict[str, float | None]:
        if number in unmeasured:
            return good(faithfulness=None)
        return good(faithfulness=0.65, **scores) if number in bad else good(**scores)

    return [case(f"c{number:03d}", values(number), answer=f"answer {number}") for number in range(count)]


def verdict(results: Results, after: Cases, before: Cases | None = None, **rules: Any) -> Verdict:
    candidate = read_run(results(after, "after.json"))
    comparison = None
    if before is not None:
        for number, one in enumerate(before):
            one["case_digest"] = f"before {number}"
        comparison = compare_runs(read_run(results(before, "before.json")), candidate)
    return decide(candidate, rules=GateRules(**rules), comparison=comparison)


def outcome(found: Verdict, rule: Rule) -> Outcome:
    finding = found.finding(rule)
    assert finding is not None
    return finding.outcome


@pytest.mark.parametrize(
    ("count", "bad", "expected"),
    [
        (200, 10, Outcome.PASS),
        (200, 36, Outcome.INCONCLUSIVE),
        (200, 44, Outcome.INCONCLUSIVE),
        (200, 60, Outcome.FAIL),
        (2, 1, Outcome.INCONCLUSIVE),
        (10, 6, Outcome.FAIL),
    ],
)
def test_the_floor_fails_only_beyond_chance_and_passes_only_with_its_interval(
    results: Results, count: int, bad: int, expected: Outcome
):
    found = verdict(results, cases(count, bad=range(bad)))
    assert outcome(found, Rule.PASS_RATE) is expected is found.outcome
    assert found.exit_code == {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 4}[expected]


def test_unmeasured_cases_keep_the_floor_from_failing_and_from_passing(results: Results):
    """60 of 200 failed; with 40 unmeasured it could be 140 of 200, which is still too low, or with 60 just enough."""
    assert outcome(verdict(results, cases(200, bad=range(60), unmeasured=range(150, 200))), Rule.PASS_RATE) is Outcome.FAIL
    maybe = cases(200, bad=range(36), unmeasured=range(100, 200))
    assert outcome(verdict(results, maybe), Rule.PASS_RATE) is Outcome.INCONCLUSIVE
    green = cases(200, unmeasured=range(140, 200))
    found = verdict(results, green)
    assert "pass rate 100.0 % of 140 measured cases of 200 (" in found.findings[1].sentence
    assert outcome(found, Rule.PASS_RATE) is Outcome.INCONCLUSIVE
    assert "60 cases unmeasured: had they failed, it would be too low" in found.findings[1].sentence


def test_low_coverage_and_missing_batches_are_inconclusive_and_never_green(results: Results):
    found = verdict(results, cases(200, unmeasured=range(60)))
    assert (outcome(found, Rule.EVERY_CASE_SCORED), found.exit_code) == (Outcome.INCONCLUSIVE, 4)
    part = decide(read_run(results(cases(200), missing_batches=["w/0002"])), rules=GateRules())
    assert (part.outcome, part.findings[0].sentence[-30:]) == (Outcome.INCONCLUSIVE, "; 1 batches are not scored yet")


def test_a_run_without_any_score_has_no_pass_rate(results: Results):
    found = verdict(results, cases(30, unmeasured=range(30)))
    assert "no case was measured" in found.findings[1].sentence
    assert found.outcome is Outcome.INCONCLUSIVE


def test_a_clear_drop_fails(results: Results):
    found = verdict(results, cases(200, bad=range(20)), cases(200))
    assert (outcome(found, Rule.NOT_WORSE), found.exit_code) == (Outcome.FAIL, 1)
    assert "20 newly failing, 0 newly passing" in found.headline


def test_a_drop_within_the_margin_passes_where_the_cases_can_tell(results: Results):
    found = verdict(results, cases(400, bad=range(2)), cases(400), margin=0.05)
    assert found.outcome is Outcome.PASS


def test_a_drop_that_may_be_chance_is_inconclusive_and_says_what_could_be_seen(results: Results):
    found = verdict(results, cases(60, bad=range(3)), cases(60))
    assert outcome(found, Rule.NOT_WORSE) is Outcome.INCONCLUSIVE
    assert "with 60 pairs of cases a drop under" in (found.findings[2].sentence)


def test_fewer_than_twenty_pairs_decide_nothing(results: Results):
    found = verdict(results, cases(19, bad=range(19)), cases(19), min_pass_rate=0.0)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "19 pairs of cases are too few to compare" in found.headline


def test_unmeasured_pairs_that_could_undo_a_fail_make_it_inconclusive(results: Results):
    """8 newly failing; 12 of the baseline's failures are unmeasured now, and may all have been mended."""
    before = cases(100, bad=range(50, 62))
    after = cases(100, bad=range(8), unmeasured=range(50, 62))
    found = verdict(results, after, before, min_coverage=0.0, min_pass_rate=0.0)
    assert outcome(found, Rule.NOT_WORSE) is Outcome.INCONCLUSIVE
    assert "had the unmeasured cases passed, it would not be significant" in found.findings[2].sentence


def test_unmeasured_pairs_that_could_undo_a_pass_make_it_inconclusive(results: Results):
    found = verdict(results, cases(1000, unmeasured=range(40)), cases(1000))
    assert outcome(found, Rule.NOT_WORSE) is Outcome.INCONCLUSIVE
    assert "had the unmeasured cases failed, it would be significantly worse" in found.findings[2].sentence


def test_a_metric_that_is_clearly_worse_fails_though_every_case_still_passes(results: Results):
    worse = [case(f"c{n:03d}", good(chrf=0.5 + 0.001 * (n % 7))) for n in range(100)]
    found = verdict(results, worse, cases(100))
    assert found.outcome is Outcome.FAIL
    assert "clearly worse: chrf 0.503 after 0.600" in found.headline


def test_the_same_answers_and_scores_pass_however_few_cases_could_tell(results: Results):
    same = cases(30)
    run = read_run(results(same, "same.json"))
    comparison = compare_runs(run, read_run(results(same, "again.json")))
    finding = decide(run, rules=GateRules(), comparison=comparison).finding(Rule.NOT_WORSE)
    assert finding is not None
    assert (finding.outcome, finding.sentence) == (Outcome.PASS, "no answer and no score differs in 30 pairs of cases")


def test_another_judge_decides_nothing_unless_it_is_allowed(results: Results):
    before = read_run(results(cases(200), "before.json", model_name="ollama/gemma3:1b"))
    after = read_run(results(cases(200, bad=range(30)), "after.json"))
    comparison = compare_runs(before, after)
    found = decide(after, rules=GateRules(min_pass_rate=0.5), comparison=comparison)
    assert (found.outcome, "another judge" in found.headline) == (Outcome.INCONCLUSIVE, True)
    allowed = decide(after, rules=GateRules(min_pass_rate=0.5, allow_judge_change=True), comparison=comparison)
    assert allowed.outcome is Outcome.FAIL


@pytest.mark.parametrize(("taken", "code"), [(Outcome.PASS, 0), (Outcome.FAIL, 1), (Outcome.INCONCLUSIVE, 4)])
def test_what_an_inconclusive_verdict_counts_as_changes_the_exit_code_and_not_the_outcome(
    results: Results, taken: Outcome, code: int
):
    found = verdict(results, cases(10), inconclusive=taken)
    assert (found.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, code)


def test_a_wider_margin_never_turns_a_pass_into_a_fail(results: Results):
    order = [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    for bad in (0, 4, 8, 14, 30):
        found = [
            order.index(outcome(verdict(results, cases(200, bad=range(bad)), cases(200), margin=margin), Rule.NOT_WORSE))
            for margin in (0.0, 0.02, 0.05, 0.2)
        ]
        assert found == sorted(found), bad
