"""Intervals, tests and quantiles. Pure functions of numbers; the seed is fixed, so equal input gives equal output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
Z = 1.959963984540054  # standard normal quantile of 0.975
RESAMPLES = 1_000
SEED = 20_260_101
FLIP_RESAMPLES = 10_000
PAIRED_RESAMPLES = 2_000
GROUPS = 1_000  # a distribution of more values than 10 times this is resampled by groups of neighbours
POWER_Z = 0.8416212335729143  # standard normal quantile of 0.8


def wilson_interval(successes: int, total: int) -> tuple[float, float] | None:
    """95 % interval of a rate; None without observations. Source: Wilson, JASA 22, 1927, without continuity correction."""
    if not total:
        return None
    rate = successes / total
    centre = rate + Z * Z / (2 * total)
    spread = Z * math.sqrt(rate * (1 - rate) / total + Z * Z / (4 * total * total))
    scale = 1 + Z * Z / total
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == total else min(1.0, (centre + spread) / scale)
    return low, high


def bootstrap_mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean (Efron, 1979), 1,000 resamples; None for fewer than two values."""
    import numpy as np

    if len(values) < 2:
        return None
    sample = np.asarray(values, dtype=float)
    generator = np.random.default_rng(SEED)
    means = [float(sample[generator.integers(0, sample.size, sample.size)].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """`p05`, `p25`, `p50`, `p75`, `p95`, linearly interpolated; empty without values."""
    import numpy as np

    if not len(values):
        return {}
    points = (5, 25, 50, 75, 95)
    return {
        f"p{point:02d}": float(value) for point, value in zip(points, np.percentile(np.asarray(values), points), strict=True)
    }


def surely_below(successes: int, total: int, rate: float) -> bool:
    """Whether so few successes, or fewer, have a chance of 2.5 % at most where `rate` is the true one: exact binomial test."""
    from scipy.special import bdtr

    return total > 0 and float(bdtr(successes, total, rate)) <= (1 - CONFIDENCE) / 2


def exact_mcnemar(newly_failing: int, newly_passing: int) -> float:
    """Two-sided p-value that as many cases fail newly as pass. Source: McNemar, Psychometrika 12, 1947; exact binomial."""
    from scipy.special import bdtr

    changed = newly_failing + newly_passing
    return min(1.0, 2.0 * float(bdtr(min(newly_failing, newly_passing), changed, 0.5))) if changed else 1.0


def exact_worsening(newly_failing: int, newly_passing: int) -> float:
    """One-sided p-value of McNemar's exact test: so many cases fail newly, or more, when both directions are as likely."""
    from scipy.special import bdtrc

    return float(bdtrc(newly_failing - 1, newly_failing + newly_passing, 0.5)) if newly_failing else 1.0


def flip_interval(newly_failing: int, newly_passing: int, pairs: int) -> tuple[float, float] | None:
    """95 % interval of the difference of two pass rates over the same cases: a paired percentile bootstrap, 10,000 resamples.

    One case that newly fails and one that newly passes are added before resampling, so that a small sample without a change
    is not taken for a certainty. Source: Bonett and Price, J. Educ. Behav. Stat. 37, 2012 (there for a Wald interval).
    """
    import numpy as np

    if not pairs:
        return None
    total = pairs + 2
    shares = [(newly_failing + 1) / total, (newly_passing + 1) / total, (pairs - newly_failing - newly_passing) / total]
    counts = np.random.default_rng(SEED).multinomial(total, shares, size=FLIP_RESAMPLES)
    return _middle((counts[:, 1] - counts[:, 0]) / total)


def paired_mean_interval(differences: NDArray[np.float64]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean of paired differences, 2,000 resamples; None for fewer than two.

    Above 10,000 values, neighbours in the sorted order stand together in 1,000 groups, each at its mean.
    """
    import numpy as np

    size = differences.size
    if size < 2:
        return None
    generator = np.random.default_rng(SEED)
    if size > 10 * GROUPS:
        groups = np.array_split(np.sort(differences), GROUPS)
        values, shares = np.array([group.mean() for group in groups]), np.array([group.size for group in groups]) / size
        return _middle(generator.multinomial(size, shares, size=PAIRED_RESAMPLES) @ values / size)
    step = max(1, 1_000_000 // size)
    means = [
        differences[generator.integers(0, size, (min(step, PAIRED_RESAMPLES - start), size))].mean(axis=1)
        for start in range(0, PAIRED_RESAMPLES, step)
    ]
    return _middle(np.concatenate(means))


def _middle(figures: NDArray[np.float64]) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mean_below(differences: NDArray[np.float64], bound: float = 0.0) -> float:
    """One-sided p-value of the paired t-test that the mean difference is `bound` or more; 1 for fewer than two values."""
    from scipy.special import stdtr

    size = differences.size
    if size < 2:
        return 1.0
    gap = float(differences.mean()) - bound
    error = float(differences.std(ddof=1)) / math.sqrt(size)
    if error == 0.0:
        return 0.0 if gap < 0 else 1.0
    return float(stdtr(size - 1, gap / error))


def mean_differs(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of the paired t-test (Student, 1908); 1 where nothing differs or there are fewer than two values."""
    if differences.size < 2 or not differences.any():
        return 1.0
    below = mean_below(differences)
    return min(1.0, 2.0 * min(below, 1.0 - below))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given. Source: Holm, Scand. J. Statist. 6, 1979."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_drop(pairs: int, flip_rate: float = 0.0) -> float:
    """The smallest drop of the pass rate that McNemar's test finds in 8 of 10 comparisons of so many pairs; 1 where none is.

    `flip_rate` is the share of cases that change their verdict by the judge's noise alone. The test is one-sided at 2.5 %.
    Source: Connor, Biometrics 43, 1987; never less than the six newly failing cases that the exact test takes at the least.
    """
    if not pairs:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        drop = (low + high) / 2
        changed = min(drop + flip_rate, 1.0)
        needed = Z * math.sqrt(changed) + POWER_Z * math.sqrt(max(changed - drop * drop, 0.0))
        low, high = (low, drop) if drop * math.sqrt(pairs) >= needed else (drop, high)
    return min(1.0, max(high, 6 / pairs))


def percent(share: float, *, beside: float | None = None) -> str:
    """A share as a percentage with one decimal, and with more where it would read as all, as nothing, or as `beside`."""
    for decimals in (1, 2, 3):
        text = f"{100 * share:.{decimals}f}"
        if all(share == other or text != f"{100 * other:.{decimals}f}" for other in (0.0, 1.0, beside) if other is not None):
            break
    return f"{text} %"
