"""What scoring yields: one `MetricScore` per case and metric, in three states.

measured (a number in [0, 1]), or unmeasured with a reason from a closed list; a failure is never a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evalvault_pipeline.cases.model import EvalCase, Snapshot, batch_key


class Reason(StrEnum):
    """Why a score could not be measured."""

    NO_FIELD = "no_field"
    NO_JUDGE = "no_judge"
    OUT_OF_RANGE = "out_of_range"
    METRIC_ERROR = "metric_error"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric's value in [0, 1] and what it rests on."""

    value: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """No value: the reason, and a sentence for the reader."""

    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricScore:
    """One metric's verdict on one case.

    `value` is in [0, 1], higher is better; None means that it could not be measured: `unmeasured` holds the reason and
    `detail` a sentence. That is neither a pass nor a zero. `seconds` is the time that computing it took; `reused` says that
    the value came from the score store. `metric_version` and `judge` name exactly what measured.
    """

    case_id: str
    metric: str
    value: float | None
    threshold: float
    unmeasured: str | None = None
    detail: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    metric_version: str = ""
    judge: str = ""
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused: bool = False

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unmeasured is None):
            raise ValueError(f"{self.metric} of {self.case_id}: a score has either a value or a reason why it has none")
        if self.value is not None and not (math.isfinite(self.value) and 0.0 <= self.value <= 1.0):
            raise ValueError(f"{self.metric} of {self.case_id}: {self.value} is not in [0, 1]")

    @property
    def passed(self) -> bool | None:
        return None if self.value is None else self.value >= self.threshold


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """A case with all its scores."""

    case: EvalCase
    scores: tuple[MetricScore, ...]

    @property
    def passed(self) -> bool | None:
        """False when a measured score is below its threshold, None when only unmeasured ones keep it from passing."""
        verdicts = [score.passed for score in self.scores]
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True


@dataclass(frozen=True, kw_only=True)
class BatchScores:
    """All scores of a batch, in the order of its cases, and who scored them."""

    snapshot: Snapshot
    index: int
    results: tuple[CaseResult, ...]
    profile: str = "offline"
    judge: str = "none"
    tokenizer: str = ""

    @property
    def key(self) -> str:
        return batch_key(self.snapshot.name, self.index)

    @property
    def scores(self) -> tuple[MetricScore, ...]:
        return tuple(score for result in self.results for score in result.scores)
