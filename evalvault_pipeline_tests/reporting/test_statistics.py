"""Intervals and quantiles against closed forms, published values and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalvault_pipeline.reporting.statistics import Z, bootstrap_mean_interval, quantiles, wilson_interval

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
@settings(max_examples=30, deadline=None)
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
