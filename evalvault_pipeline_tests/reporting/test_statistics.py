"""Intervals and quantiles against closed forms, published values and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalvault_pipeline.reporting.statistics import (
    Z,
    bootstrap_mean_interval,
    detectable_drop,
    exact_mcnemar,
    exact_worsening,
    flip_interval,
    holm,
    mean_below,
    mean_differs,
    paired_mean_interval,
    percent,
    quantiles,
    surely_below,
    wilson_interval,
)

SHARES = st.floats(min_value=0.0, max_value=1.0)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval_has_its_published_values(successes: int, total: int, low: float, high: float):
    """81 of 263 is the example of Newcombe, Statistics in Medicine 17, 1998, method 3."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(
    st.integers(min_value=1, max_value=10_000).flatmap(lambda n: st.tuples(st.integers(min_value=0, max_value=n), st.just(n)))
)
def test_the_ends_of_wilsons_interval_solve_its_equation_and_hold_the_rate(pair: tuple[int, int]):
    """|p - rate| = z * sqrt(p(1 - p) / n) at both ends p."""
    successes, total = pair
    rate = successes / total
    interval = wilson_interval(successes, total)
    assert interval and 0.0 <= interval[0] <= rate <= interval[1] <= 1.0
    for end in interval:
        assert abs(end - rate) == pytest.approx(Z * math.sqrt(end * (1 - end) / total), abs=1e-6)


def test_without_observations_there_is_no_interval():
    assert wilson_interval(0, 0) is None
    assert bootstrap_mean_interval([]) is None


def test_one_value_says_nothing_about_the_spread_of_its_mean():
    assert bootstrap_mean_interval([0.5]) is None


@given(st.lists(SHARES, min_size=2, max_size=30))
@settings(max_examples=30)
def test_a_bootstrap_interval_is_the_same_twice_inside_0_to_1_and_holds_the_mean(values: list[float]):
    interval = bootstrap_mean_interval(values)
    assert interval == bootstrap_mean_interval(values)
    assert interval and 0.0 <= interval[0] <= interval[1] <= 1.0
    assert interval[0] - 1e-9 <= math.fsum(values) / len(values) <= interval[1] + 1e-9


def test_a_bootstrap_interval_is_about_the_normal_one_for_many_values():
    """Mean +- 1.96 * s / sqrt(n) for 400 values, half 0 and half 1: 0.5 +- 0.049."""
    low, high = bootstrap_mean_interval([0.0, 1.0] * 200) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.451, abs=0.01), pytest.approx(0.549, abs=0.01))


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_mean_interval([1.0] * 10) == (1.0, 1.0)


@given(st.lists(SHARES, min_size=1, max_size=50))
def test_quantiles_are_numpys(values: list[float]):
    points = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
    assert quantiles(values) == pytest.approx({name: np.quantile(values, at) for name, at in points.items()}, abs=1e-12)


def test_without_values_there_are_no_quantiles():
    assert quantiles([]) == {}


FLIPS = [(0, 0), (1, 0), (0, 1), (6, 0), (9, 2), (2, 9), (25, 25), (140, 101), (1, 900)]


@pytest.mark.parametrize(("failing", "passing"), FLIPS)
def test_mcnemars_exact_test_is_that_of_statsmodels(failing: int, passing: int):
    from statsmodels.stats.contingency_tables import mcnemar

    peer = mcnemar([[50, failing], [passing, 7]], exact=True).pvalue
    assert exact_mcnemar(failing, passing) == pytest.approx(peer if failing + passing else 1.0, abs=1e-9)


@pytest.mark.parametrize(("failing", "passing"), FLIPS)
def test_the_one_sided_test_is_scipys_binomial_test(failing: int, passing: int):
    from scipy.stats import binomtest

    peer = binomtest(failing, failing + passing, 0.5, alternative="greater").pvalue if failing + passing else 1.0
    assert exact_worsening(failing, passing) == pytest.approx(peer, abs=1e-9)


@pytest.mark.parametrize(("passed", "total"), [(5, 10), (4, 10), (60, 64), (140, 200), (0, 1), (780, 1000)])
def test_a_rate_is_surely_below_where_scipys_binomial_test_says_so(passed: int, total: int):
    from scipy.stats import binomtest

    assert surely_below(passed, total, 0.8) == (binomtest(passed, total, 0.8, alternative="less").pvalue <= 0.025)


@settings(max_examples=15)  # the peer takes 0.2 s
@given(st.lists(SHARES, min_size=1, max_size=12))
def test_holms_correction_is_that_of_statsmodels(p_values: list[float]):
    from statsmodels.stats.multitest import multipletests

    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-9)


@pytest.mark.parametrize("bound", [-0.02, 0.0, 0.1])
@pytest.mark.parametrize("size", [2, 3, 20, 500])
def test_the_paired_t_test_is_scipys(size: int, bound: float):
    from scipy.stats import ttest_1samp

    differences = np.random.default_rng(size).normal(-0.01, 0.2, size)
    one_sided = ttest_1samp(differences, bound, alternative="less").pvalue
    assert mean_below(differences, bound) == pytest.approx(one_sided, abs=1e-9)
    assert mean_differs(differences) == pytest.approx(ttest_1samp(differences, 0.0).pvalue, abs=1e-9)


def test_differences_without_spread_are_decided_by_their_sign():
    assert mean_below(np.full(5, -0.5)) == 0.0
    assert mean_below(np.zeros(5)) == mean_differs(np.zeros(5)) == 1.0
    assert mean_below(np.array([-1.0])) == 1.0


@pytest.mark.parametrize(("failing", "passing", "pairs"), [(12, 3, 200), (0, 0, 40), (30, 30, 1000)])
def test_the_interval_of_a_difference_of_rates_is_that_of_bonett_and_price(failing: int, passing: int, pairs: int):
    """Their Wald interval over the same two added cases, which many resamples come near."""
    low, high = flip_interval(failing, passing, pairs) or (0.0, 0.0)
    worse, better = (failing + 1) / (pairs + 2), (passing + 1) / (pairs + 2)
    spread = Z * math.sqrt((worse + better - (worse - better) ** 2) / (pairs + 2))
    assert (low, high) == (pytest.approx(better - worse - spread, abs=0.012), pytest.approx(better - worse + spread, abs=0.012))
    assert flip_interval(failing, passing, pairs) == (low, high), "the seed is fixed"


def test_a_paired_interval_of_many_values_in_groups_is_about_that_of_all():
    differences = np.random.default_rng(7).normal(-0.01, 0.2, 10_001)
    low, high = paired_mean_interval(differences) or (0.0, 0.0)
    error = Z * differences.std(ddof=1) / math.sqrt(differences.size)
    mean = differences.mean()
    assert (low, high) == (pytest.approx(mean - error, abs=3e-4), pytest.approx(mean + error, abs=3e-4))


def test_without_pairs_there_is_no_interval_of_a_difference():
    assert flip_interval(0, 0, 0) is None
    assert paired_mean_interval(np.array([0.1])) is None


def test_the_smallest_drop_that_can_be_seen_is_seen_in_eight_of_ten_comparisons():
    """Without noise the exact test needs six newly failing cases; with noise Connor's formula gives 80 % power."""
    assert detectable_drop(60) == pytest.approx(max(detectable_drop(60), 6 / 60))
    assert detectable_drop(0) == 1.0
    drop = detectable_drop(400, 0.1)
    generator = np.random.default_rng(3)
    flips = generator.multinomial(400, [0.05 + drop, 0.05, 0.9 - drop], size=4000)
    seen = np.mean([exact_worsening(int(worse), int(better)) <= 0.025 for worse, better, _ in flips])
    assert 0.72 <= seen <= 0.88


@pytest.mark.parametrize(
    ("share", "beside", "text"),
    [
        (0.5, None, "50.0 %"),
        (0.0, None, "0.0 %"),
        (1.0, None, "100.0 %"),
        (0.9996, None, "99.96 %"),
        (0.00004, None, "0.004 %"),
        (0.7996, 0.8, "79.96 %"),
        (0.8, 0.8, "80.0 %"),
        (0.7, 0.8, "70.0 %"),
    ],
)
def test_a_share_reads_as_all_nothing_or_its_limit_only_where_it_is(share: float, beside: float | None, text: str) -> None:
    assert percent(share, beside=beside) == text
