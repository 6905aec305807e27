"""What a run means: pass rate, bounds, coverage, means and the worst cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.reporting.report import WORST_CASES, Cost, RunInfo, RunReport, judge_noise, shortfall, summarize
from evalvault_pipeline.reporting.statistics import bootstrap_mean_interval, quantiles, wilson_interval
from evalvault_pipeline.scoring.model import CaseResult, MetricScore

THRESHOLDS = {"chrf": 0.5, "faithfulness": 0.5}
Values = Sequence[float | None]


def info(thresholds: Mapping[str, float] = THRESHOLDS) -> RunInfo:
    now = datetime(2026, 11, 16, tzinfo=UTC)
    return RunInfo(
        run_id="r",
        dataset="d",
        snapshot="s",
        dataset_version="1",
        profile="offline",
        judge="none",
        tokenizer="ngram-1",
        language="ko",
        started_at=now,
        finished_at=now,
        thresholds=thresholds,
        metric_versions=dict.fromkeys(thresholds, "1"),
    )


def result(case_id: str, values: Values, **more: Any) -> CaseResult:
    """A case with one value per metric of THRESHOLDS; None is unmeasured."""
    scores = tuple(
        MetricScore(
            **{
                "case_id": case_id,
                "metric": metric,
                "value": value,
                "threshold": threshold,
                "unmeasured": "no_judge" if value is None else None,
                "detail": "no judge" if value is None else "",
                **more,
            }
        )
        for (metric, threshold), value in zip(THRESHOLDS.items(), values, strict=True)
    )
    return CaseResult(case=EvalCase(case_id=case_id, question="?", answer="!"), scores=scores)


def report(*rows: Values) -> RunReport:
    return summarize([result(f"c{number}", row) for number, row in enumerate(rows, start=1)], info=info())


def test_the_pass_rate_has_every_case_below_it_and_an_unmeasured_case_neither_passes_nor_fails():
    """Passed, failed by one, failed though the other is unmeasured, unmeasured."""
    run = report([1.0, 0.5], [1.0, 0.4], [0.4, None], [1.0, None])
    assert (run.case_count, run.passed, run.failed, run.unmeasured) == (4, 1, 2, 1)
    assert run.pass_rate == 0.25
    assert run.pass_rate_interval == wilson_interval(1, 4)


def test_the_bounds_of_the_pass_rate_let_the_unmeasured_cases_fail_and_pass():
    assert report([1.0, 0.5], [0.4, None], [1.0, None], [1.0, None]).pass_rate_bounds == (0.25, 0.75)
    assert report([1.0, 1.0], [0.0, 0.0]).pass_rate_bounds == (0.5, 0.5)


def test_coverage_is_measured_scores_of_wanted_scores():
    run = report([1.0, None], [0.4, None], [1.0, 1.0])
    assert (run.measured_scores, run.wanted_scores, run.coverage) == (4, 6, pytest.approx(2 / 3))
    assert run.unmeasured_by_reason == {"no_judge": 2}
    assert run.unmeasured_details == ("faithfulness: no judge (2 cases, such as c1)",)


def test_details_that_differ_in_their_figures_only_are_told_once_and_hide_no_others():
    rows = [
        result(f"c{number}", (None, None), detail=f"the prompt of {9000 + number} tokens is too long") for number in range(50)
    ]
    run = summarize([*rows, result("last", (None, None), detail="the judge declined")], info=info())
    told = ("the prompt of 9000 tokens is too long (50 cases, such as c0)", "the judge declined (case last)")
    assert run.unmeasured_details == tuple(f"{name}: {detail}" for detail in told for name in THRESHOLDS)


def test_means_intervals_and_quantiles_are_over_the_measured_values_alone():
    run = report([0.2, None], [0.4, 1.0], [0.9, None])
    chrf, faithfulness = run.metrics
    assert chrf.mean == pytest.approx(0.5) and faithfulness.mean == 1.0
    assert chrf.mean_interval == bootstrap_mean_interval([0.2, 0.4, 0.9]) and faithfulness.mean_interval is None
    assert chrf.quantiles == quantiles([0.2, 0.4, 0.9]) and chrf.median == pytest.approx(0.4)
    assert (chrf.measured, chrf.passed, chrf.unmeasured) == (3, 1, {})
    assert (faithfulness.measured, faithfulness.passed, faithfulness.unmeasured) == (1, 1, {"no_judge": 2})
    assert chrf.passed_interval == wilson_interval(1, 3)
    assert run.mean("faithfulness") == 1.0


def test_a_metric_that_nothing_measured_has_no_mean_and_not_0():
    metric = report([1.0, None], [1.0, None]).metrics[1]
    assert (metric.mean, metric.mean_interval, metric.median, metric.passed_interval) == (None, None, None, None)


def test_a_run_without_cases_has_figures_and_no_certainty():
    run = summarize([], info=info())
    assert (run.pass_rate, run.pass_rate_interval, run.pass_rate_bounds, run.coverage) == (0.0, None, (0.0, 1.0), 0.0)
    assert (run.case_count, run.worst, run.unmeasured_by_reason, run.mean("chrf")) == (0, (), {}, None)


def test_the_worst_case_is_the_furthest_below_its_thresholds_over_all_metrics():
    """0.3 + 0.3 below is worse than 0.5 below once; what is above its threshold does not make up for it."""
    run = report([0.0, 1.0], [0.2, 0.2], [0.49, 1.0], [1.0, 1.0], [0.0, None])
    assert [item.case.case_id for item in run.worst] == ["c2", "c1", "c5", "c3"]


def test_equally_bad_cases_stand_in_the_order_of_the_dataset_and_the_first_are_kept():
    run = report(*[[0.0, 1.0]] * (WORST_CASES + 5))
    assert [item.case.case_id for item in run.worst] == [f"c{number}" for number in range(1, WORST_CASES + 1)]


def test_a_worse_case_late_in_a_long_dataset_drives_out_the_last_of_the_equally_bad():
    run = report(*[[0.4, 1.0]] * (WORST_CASES + 5), [0.0, 1.0])
    assert [item.case.case_id for item in run.worst] == [
        f"c{WORST_CASES + 6}",
        *(f"c{number}" for number in range(1, WORST_CASES)),
    ]


def test_a_shortfall_counts_what_is_below_only():
    assert shortfall(result("c", [0.25, 1.0]).scores) == 0.25
    assert shortfall(result("c", [1.0, None]).scores) == 0.0


def test_a_score_that_is_better_when_lower_falls_short_above_its_threshold():
    scores = result("c", [0.75, 0.25], lower_is_better=True).scores
    assert [score.passed for score in scores] == [False, True]
    assert [score.shortfall for score in scores] == [0.25, -0.25]
    assert shortfall(scores) == 0.25
    worst = summarize(
        [result("a", [0.6, 0.0], lower_is_better=True), result("b", [0.9, 0.0], lower_is_better=True)], info=info()
    )
    assert [item.case.case_id for item in worst.worst] == ["b", "a"]
    assert {metric.lower_is_better for metric in worst.metrics} == {True}


def test_a_value_that_ragas_rounds_off_passes_a_threshold_of_1_and_one_that_is_less_does_not():
    """A perfect context_precision of ragas 0.4.3 is 0.9999999999: it divides by sums to which 1e-10 is added."""
    (perfect, _), (less, _) = (result("c", [value, 0.0], threshold=1.0).scores for value in (0.9999999999, 0.999999))
    assert (perfect.passed, less.passed) == (True, False)
    assert summarize([result("c", [0.9999999999, 1.0], threshold=1.0)], info=info()).worst == ()


def test_scores_from_the_store_are_told_from_computed_ones_and_so_are_their_tokens():
    rows = [
        result("a", [1.0, 1.0], reused=True, prompt_tokens=10, completion_tokens=1),
        result("b", [1.0, 1.0], prompt_tokens=5),
        result("c", [1.0, None]),
    ]
    run = summarize(rows, info=info())
    assert (run.reused, run.computed) == (2, 3)
    assert (run.spent.prompt_tokens, run.spent.completion_tokens, run.spent.tokens) == (10, 0, 10)
    assert (run.saved.prompt_tokens, run.saved.completion_tokens, run.saved.tokens) == (20, 2, 22)


# What it cost -------------------------------------------------------------------------------------------------------------


def paid(cost_usd: float | None, **more: Any) -> MetricScore:
    return result("c", [1.0, 1.0], cost_usd=cost_usd, **more).scores[0]


def test_a_cost_adds_up_calls_tokens_and_dollars():
    cost = Cost()
    cost.add(paid(0.25, judge_calls=2, prompt_tokens=100, completion_tokens=10))
    cost.add(paid(0.5, judge_calls=0, embedding_tokens=7))
    assert (cost.calls, cost.prompt_tokens, cost.completion_tokens, cost.embedding_tokens) == (2, 100, 10, 7)
    assert (cost.tokens, cost.dollars) == (117, 0.75)


@pytest.mark.parametrize("prices", [(0.25, None, 0.5), (None, 0.25, 0.5), (0.25, 0.5, None), (None, None, None)])
def test_dollars_are_not_known_as_soon_as_one_price_is_not(prices: tuple[float | None, ...]):
    """A sum without what has no price would be taken for the whole."""
    cost = Cost()
    for price in prices:
        cost.add(paid(price, judge_calls=1, prompt_tokens=10))
    assert (cost.dollars, cost.tokens) == (None, 10 * len(prices))


def test_a_score_that_asked_no_judge_costs_nothing_whatever_its_price():
    cost = Cost()
    cost.add(paid(None))
    assert cost == Cost() and cost.dollars == 0.0


def test_calls_that_failed_and_repeats_are_paid_by_the_run_and_by_their_metric():
    failed = result("a", [None, None], judge_calls=1, prompt_tokens=5)
    again = replace(failed.scores[0], value=1.0, unmeasured=None, repeat=1, prompt_tokens=7)
    run = summarize([replace(failed, repeats=(again,))], info=info())
    assert (run.spent.calls, run.spent.tokens) == (3, 17)
    assert {metric.name: metric.cost.tokens for metric in run.metrics} == {"chrf": 12, "faithfulness": 5}
    assert (run.case_count, run.measured_scores) == (1, 0), "a repeat is no score of its case"


def test_what_the_store_saved_is_no_cost_of_this_run():
    run = summarize(
        [
            result("a", [1.0, 1.0], reused=True, judge_calls=1, prompt_tokens=5, cost_usd=0.25),
            result("b", [1.0, 1.0], judge_calls=1, prompt_tokens=3, cost_usd=0.125),
        ],
        info=info(),
    )
    assert (run.spent.calls, run.spent.tokens, run.spent.dollars) == (2, 6, 0.25)
    assert (run.saved.calls, run.saved.tokens, run.saved.dollars) == (2, 10, 0.5)
    assert sum(metric.cost.tokens for metric in run.metrics) == 6


# The judge against itself -------------------------------------------------------------------------------------------------


def judged(*values: float | None) -> tuple[MetricScore, ...]:
    """All judgements of one case, at a threshold of 0.5."""
    return tuple(replace(result("c", [value, 0.0], judge="j").scores[0], repeat=number) for number, value in enumerate(values))


def test_the_flip_rate_is_the_share_of_pairs_of_judgements_that_disagree():
    """Of 1, 1, 0 two pairs in three disagree; of 1, 0 the one there is; of 1, 1, 1 none of three: 3 of 7."""
    noise = judge_noise([judged(1.0, 1.0, 0.0), judged(1.0, 0.0), judged(1.0, 1.0, 1.0)])
    assert noise is not None
    assert (noise.cases, noise.repeats, noise.flip_rate) == (3, 3, pytest.approx(3 / 7))


def test_values_may_vary_without_a_verdict_flipping():
    """Standard deviations 0.1 (of 0.6 and 0.8) and 0: 0.05 in the mean."""
    noise = judge_noise([judged(0.6, 0.8), judged(0.1, 0.1)])
    assert noise is not None
    assert (noise.flip_rate, noise.deviation) == (0.0, pytest.approx(0.05))


def test_a_judgement_that_failed_is_none_and_a_case_with_one_left_tells_nothing():
    noise = judge_noise([judged(1.0, None, 0.0), judged(1.0, None), judged(None, None), judged()])
    assert noise is not None
    assert (noise.cases, noise.repeats, noise.flip_rate) == (1, 2, 1.0)
    assert judge_noise([]) is None and judge_noise([judged(1.0), judged(None, 0.5)]) is None


def test_the_noise_of_a_metric_is_over_its_cases_that_were_judged_again():
    first = result("a", [1.0, 1.0])
    run = summarize(
        [replace(first, repeats=(replace(first.scores[1], value=0.0, repeat=1),)), result("b", [1.0, 1.0])], info=info()
    )
    chrf, faithfulness = run.metrics
    assert chrf.noise is None and faithfulness.noise is not None
    assert (faithfulness.noise.cases, faithfulness.noise.repeats, faithfulness.noise.flip_rate) == (1, 2, 1.0)
    assert (faithfulness.mean, faithfulness.measured, run.pass_rate) == (1.0, 2, 1.0), "the first judgement counts"


@given(st.lists(st.lists(st.none() | st.floats(min_value=0.0, max_value=1.0), max_size=5), max_size=6))
def test_the_flip_rate_is_what_counting_the_pairs_gives(rows: list[list[float | None]]):
    pairs = [
        (one >= 0.5 - 1e-9) != (other >= 0.5 - 1e-9)
        for row in rows
        for one, other in combinations([value for value in row if value is not None], 2)
    ]
    noise = judge_noise(judged(*row) for row in rows)
    if not pairs:
        assert noise is None
        return
    assert noise is not None
    assert noise.flip_rate == pytest.approx(sum(pairs) / len(pairs))
    assert 0.0 <= noise.deviation <= 0.5


# The digest, and that all adds up ------------------------------------------------------------------------------------------


def test_the_digest_of_a_run_depends_on_contents_ids_and_order():
    rows = [result("a", [1.0, 1.0]), result("b", [1.0, 1.0])]
    digest = summarize(rows, info=info()).dataset_digest
    assert digest == summarize([result("a", [0.0, None]), result("b", [0.0, 0.0])], info=info()).dataset_digest
    assert digest != summarize(rows[::-1], info=info()).dataset_digest
    assert digest != summarize(rows[:1], info=info()).dataset_digest


@given(st.lists(st.tuples(*[st.none() | st.floats(min_value=0.0, max_value=1.0)] * 2), max_size=12))
def test_the_figures_of_any_run_add_up(rows: list[tuple[float | None, float | None]]):
    run = report(*rows)
    assert run.passed + run.failed + run.unmeasured == run.case_count == len(rows)
    low, high = run.pass_rate_bounds
    assert 0.0 <= low <= run.pass_rate <= high <= 1.0
    assert run.measured_scores + sum(run.unmeasured_by_reason.values()) == run.wanted_scores
    assert len(run.worst) == run.failed
    gaps = [shortfall(item.scores) for item in run.worst]
    assert gaps == sorted(gaps, reverse=True)
