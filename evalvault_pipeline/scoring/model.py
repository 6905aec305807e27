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

    NO_FIELD = "no_field"  # the case lacks what the metric needs
    NO_JUDGE = "no_judge"  # the profile has no judge
    UNPARSABLE = "unparsable"  # the judge's answer, even asked again, is no value of the metric
    TRUNCATED = "truncated"  # the prompt or the answer is longer than the model takes
    REFUSED = "refused"  # the judge declined to answer
    TIMEOUT = "timeout"  # the call, or the run, took too long
    THROTTLED = "throttled"  # the server sent the call away until we gave up
    BUDGET = "budget"  # the run's budget allows no further call
    JUDGE_ERROR = "judge_error"  # the server failed
    METRIC_ERROR = "metric_error"  # a deterministic metric failed


# ragas divides by sums with 1e-10 added: a perfect context_precision is 0.9999999999, and passes a threshold of 1.
ROUNDING = 1e-9


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

    `value` is in [0, 1]; None means that it could not be measured: `unmeasured` holds the reason and `detail` a sentence.
    That is neither a pass nor a zero. Higher is better unless `lower_is_better`. `metric_version` (with the prompt's version)
    and `judge` (a fingerprint) name exactly what measured. `seconds`, calls, tokens and `cost_usd` (None: the price is not
    known) are what measuring took, failed attempts included; `reused` says that an earlier run paid them all, and `noted` is
    the part (calls, tokens, dollars) that a run paid which ended before the score was whole. `repeat` above 0 is a
    measurement of the judge's noise.
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
    judge_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost_usd: float | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False
    lower_is_better: bool = False
    repeat: int = 0

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unmeasured is None):
            raise ValueError(f"{self.metric} of {self.case_id}: a score has either a value or a reason why it has none")
        if self.value is not None and not (math.isfinite(self.value) and 0.0 <= self.value <= 1.0):
            raise ValueError(f"{self.metric} of {self.case_id}: {self.value} is not in [0, 1]")

    @property
    def passed(self) -> bool | None:
        return None if self.value is None else self.shortfall <= ROUNDING

    @property
    def shortfall(self) -> float:
        """How far the value lies on the wrong side of its threshold; 0 or less where it passes, 0 where it is unmeasured."""
        if self.value is None:
            return 0.0
        return self.value - self.threshold if self.lower_is_better else self.threshold - self.value

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.embedding_tokens


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """A case with all its scores; `repeats` are further measurements of a case in the noise sample."""

    case: EvalCase
    scores: tuple[MetricScore, ...]
    repeats: tuple[MetricScore, ...] = ()

    @property
    def passed(self) -> bool | None:
        """False when a measured score is below its threshold, None when only unmeasured ones keep it from passing."""
        verdicts = [score.passed for score in self.scores]
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True


@dataclass(frozen=True, kw_only=True)
class BatchScores:
    """All scores of a batch, in the order of its cases, and who scored them.

    `judge_details` is what the judge's fingerprint stands for.
    """

    snapshot: Snapshot
    index: int
    results: tuple[CaseResult, ...]
    profile: str = "offline"
    judge: str = "none"
    tokenizer: str = ""
    judge_details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return batch_key(self.snapshot.name, self.index)

    @property
    def scores(self) -> tuple[MetricScore, ...]:
        return tuple(score for result in self.results for score in result.scores)
