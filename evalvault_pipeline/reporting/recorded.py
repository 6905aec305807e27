"""A run as it was recorded, read again: what comparisons, verdicts and charts are made from.

Files and the store are read in `publishing/recorded_runs.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.scoring.model import ROUNDING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


WEB_PAGE = re.compile(r"https?://[\w.:\[\]-]+(/[\w.,:/?=&%+~-]*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A run as it was recorded, case by case in columns of equal length.

    `values` holds a metric's score of each case, NaN where it is unmeasured; `metadata` what cases can be sliced by; `judges`
    the fingerprints that measured a metric (empty texts for deterministic ones). `entry` reads a case whole, by its position.
    """

    source: str
    header: Mapping[str, Any]
    case_ids: Sequence[str]
    input_digests: Sequence[str]
    case_digests: Sequence[str]
    values: Mapping[str, Floats]
    entry: Callable[[int], Mapping[str, Any]]
    metadata: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    judges: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return str(self.header["run_id"])

    @property
    def name(self) -> str:
        """Dataset and snapshot, for a title."""
        return f"{self.header['dataset_name']} {self.header['snapshot']}"

    @property
    def metrics(self) -> list[str]:
        return list(self.values)

    @property
    def phoenix_links(self) -> dict[str, str]:
        """`experiment` and `compare` in Phoenix, as far as the run was sent there; only what is an address of a web page."""
        about = (self.header.get("tracker_metadata") or {}).get("phoenix") or {}
        experiment = about.get("experiment") or {}
        links = {"experiment": experiment.get("url"), "compare": experiment.get("compare_url")}
        return {name: str(url) for name, url in links.items() if WEB_PAGE.fullmatch(str(url))}

    def lower_is_better(self, metric: str) -> bool:
        return bool(self.header["metric_summaries"][metric]["lower_is_better"])

    def threshold(self, metric: str) -> float:
        return float(self.header["thresholds"][metric])

    def version(self, metric: str) -> str:
        return str(self.header["metric_summaries"][metric]["version"])

    def noise(self, metric: str, figure: str) -> float:
        """`flip_rate` or `deviation` of the judge on this metric; 0 where it was not measured."""
        noise = self.header["metric_summaries"][metric].get("noise")
        return float(noise[figure]) if noise else 0.0

    @cached_property
    def decided(self) -> Floats:
        """1 where a case passed, 0 where it failed, NaN where only unmeasured scores keep it from passing."""
        return case_states(self, self.metrics, self.header["thresholds"])

    @property
    def passed(self) -> int:
        return int((self.decided == 1.0).sum())

    @property
    def failed(self) -> int:
        return int((self.decided == 0.0).sum())

    @property
    def unmeasured(self) -> int:
        return len(self.case_ids) - self.passed - self.failed

    @property
    def coverage(self) -> float:
        """Measured / wanted scores, missing batches' cases not counted."""
        wanted = len(self.case_ids) * len(self.values)
        return sum(int(known(values).sum()) for values in self.values.values()) / wanted if wanted else 0.0


def case_states(run: RecordedRun, metrics: Sequence[str], thresholds: Mapping[str, float]) -> Floats:
    """1 passed, 0 failed, NaN unmeasured for each case, by these metrics and thresholds."""
    import numpy as np

    failed = np.zeros(len(run.case_ids), dtype=bool)
    unknown = np.zeros(len(run.case_ids), dtype=bool) if metrics else np.ones(len(run.case_ids), dtype=bool)
    for metric in metrics:
        state = metric_states(run.values[metric], float(thresholds[metric]), run.lower_is_better(metric))
        failed |= state == 0.0
        unknown |= np.isnan(state)
    return np.where(failed, 0.0, np.where(unknown, np.nan, 1.0))


def metric_states(values: Floats, threshold: float, lower_is_better: bool) -> Floats:
    import numpy as np

    shortfall = values - threshold if lower_is_better else threshold - values
    return np.where(np.isnan(values), np.nan, (shortfall <= ROUNDING).astype(float))


def known(values: Floats) -> NDArray[np.bool_]:
    import numpy as np

    return ~np.isnan(values)


@dataclass(frozen=True, kw_only=True)
class TrendPoint:
    """One run of a dataset in its history; `means` holds the mean of each metric, `finished_at` is an ISO time in UTC."""

    run_id: str
    snapshot: str
    finished_at: str
    judge: str
    pass_rate: float
    interval: tuple[float, float] | None
    coverage: float
    cases: int
    cost_usd: float | None
    means: Mapping[str, float | None]
