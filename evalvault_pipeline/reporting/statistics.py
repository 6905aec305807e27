"""Intervals and quantiles. Pure functions of numbers; the seed is fixed, so equal input gives equal output."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95
Z = 1.959963984540054  # standard normal quantile of 0.975
RESAMPLES = 1_000
SEED = 20_260_101


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
