"""What a run means: pass rate, coverage, each metric's distribution, the worst cases.

Pure: scores come in as case results, one after the other, and only figures are kept. Files are written in `publishing/`.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import pstdev
from typing import Any

from evalvault_pipeline.cases.loading import ContentDigest
from evalvault_pipeline.cases.model import PiiReport
from evalvault_pipeline.reporting.statistics import bootstrap_mean_interval, quantiles, wilson_interval
from evalvault_pipeline.scoring.model import CaseResult, MetricScore

WORST_CASES = 20
UNMEASURED_DETAILS = 20


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Where a run's figures come from. `judge` is `provider/model` or `none`; times are aware, in UTC."""

    run_id: str
    dataset: str
    snapshot: str
    dataset_version: str
    profile: str
    judge: str
    tokenizer: str
    language: str
    started_at: datetime
    finished_at: datetime
    thresholds: Mapping[str, float]
    metric_versions: Mapping[str, str]
    skipped_rows: Sequence[str] = ()
    batches: Sequence[str] = ()
    missing_batches: Sequence[str] = ()
    judge_details: Mapping[str, Any] = field(default_factory=dict)
    pii: PiiReport = field(default_factory=PiiReport)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Cost:
    """What judging took. `dollars` is None as soon as one part of it has no known price."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    dollars: float | None = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.embedding_tokens

    def add(self, score: MetricScore) -> None:
        """What the run of this score paid for it: all but what is `noted` of an earlier one."""
        noted = score.noted
        self.calls += score.judge_calls - noted.get("calls", 0)
        self.prompt_tokens += score.prompt_tokens - noted.get("prompt_tokens", 0)
        self.completion_tokens += score.completion_tokens - noted.get("completion_tokens", 0)
        self.embedding_tokens += score.embedding_tokens
        if score.tokens or score.judge_calls:
            self._add_dollars(None if score.cost_usd is None else score.cost_usd - (noted.get("cost_usd") or 0.0))

    def add_noted(self, score: MetricScore) -> None:
        """What an earlier run paid, which ended before this score was whole."""
        if noted := score.noted:
            self.calls += noted["calls"]
            self.prompt_tokens += noted["prompt_tokens"]
            self.completion_tokens += noted["completion_tokens"]
            self._add_dollars(noted["cost_usd"])

    def _add_dollars(self, dollars: float | None) -> None:
        self.dollars = None if self.dollars is None or dollars is None else self.dollars + dollars


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How a judge disagrees with itself: `cases` were judged `repeats` times.

    `flip_rate` is the share of pairs of judgements of a case of which one passed and the other failed; `deviation` the mean
    over cases of the values' standard deviation.
    """

    cases: int
    repeats: int
    flip_rate: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric over all cases. `mean` and its 95 % interval are over the measured cases; None without any.

    `cost` is what this run paid for it; `noise` is None where no case was judged more than once.
    """

    name: str
    version: str
    threshold: float
    measured: int
    passed: int
    unmeasured: Mapping[str, int]
    mean: float | None
    mean_interval: tuple[float, float] | None
    quantiles: Mapping[str, float]
    lower_is_better: bool = False
    cost: Cost = field(default_factory=Cost)
    noise: Noise | None = None

    @property
    def median(self) -> float | None:
        return self.quantiles.get("p50")

    @property
    def passed_interval(self) -> tuple[float, float] | None:
        return wilson_interval(self.passed, self.measured)


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All figures of a run; `results` can be gone through again, case by case, in dataset order.

    `pass_rate` = passed / all cases; its bounds let the unmeasured cases all fail or all pass. `coverage` = measured /
    wanted scores. `worst` holds failed cases, the furthest from their thresholds first. `spent` is what this run paid for its
    judge, failed calls and repeats included; `saved` is what the scores taken from the store had cost.
    """

    info: RunInfo
    dataset_digest: str
    case_count: int
    passed: int
    failed: int
    metrics: tuple[MetricSummary, ...]
    worst: tuple[CaseResult, ...]
    unmeasured_details: tuple[str, ...]
    spent: Cost
    saved: Cost
    computed: int
    reused: int
    results: Iterable[CaseResult]

    @property
    def unmeasured(self) -> int:
        """Cases that neither passed nor failed."""
        return self.case_count - self.passed - self.failed

    @property
    def pass_rate(self) -> float:
        return self.passed / self.case_count if self.case_count else 0.0

    @property
    def pass_rate_interval(self) -> tuple[float, float] | None:
        return wilson_interval(self.passed, self.case_count)

    @property
    def pass_rate_bounds(self) -> tuple[float, float]:
        """Pass rate if every unmeasured case failed, and if every one passed."""
        if not self.case_count:
            return 0.0, 1.0
        return self.passed / self.case_count, (self.passed + self.unmeasured) / self.case_count

    @property
    def wanted_scores(self) -> int:
        return self.case_count * len(self.metrics)

    @property
    def measured_scores(self) -> int:
        return sum(metric.measured for metric in self.metrics)

    @property
    def coverage(self) -> float:
        return self.measured_scores / self.wanted_scores if self.wanted_scores else 0.0

    @property
    def unmeasured_by_reason(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for metric in self.metrics:
            total.update(metric.unmeasured)
        return dict(sorted(total.items()))

    def mean(self, metric: str) -> float | None:
        return next(item.mean for item in self.metrics if item.name == metric)


def summarize(results: Iterable[CaseResult], *, info: RunInfo) -> RunReport:
    """The report over `results`, which must be re-iterable. A case that is unmeasured neither passes nor counts as zero."""
    content = ContentDigest()
    values = {name: array("d") for name in info.thresholds}
    passed_scores: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {name: Counter() for name in info.thresholds}
    details: dict[str, tuple[str, str]] = {}  # detail without its figures -> the first of them, the case that has it
    detailed: Counter[str] = Counter()
    verdicts: Counter[bool | None] = Counter()
    worst: list[tuple[float, int, CaseResult]] = []
    spent, saved, costs = Cost(), Cost(), {name: Cost() for name in info.thresholds}
    pairs: dict[str, list[list[MetricScore]]] = {name: [] for name in info.thresholds}
    lower: set[str] = set()
    reused = count = 0
    for number, result in enumerate(results):
        count += 1
        content.add(result.case)
        verdicts[result.passed] += 1
        if result.passed is False:
            heapq.heappush(worst, (shortfall(result.scores), -number, result))
            if len(worst) > WORST_CASES:
                heapq.heappop(worst)
        for score in result.scores:
            if score.value is None:
                reasons[score.metric][str(score.unmeasured)] += 1
                detail = f"{score.metric}: {score.detail}"
                kind = re.sub(r"\d+", "", detail)
                if kind in details or len(details) < UNMEASURED_DETAILS:
                    details.setdefault(kind, (detail, result.case.case_id))
                    detailed[kind] += 1
            else:
                values[score.metric].append(score.value)
                passed_scores[score.metric] += bool(score.passed)
            if score.lower_is_better:
                lower.add(score.metric)
            reused += score.reused
        for score in (*result.scores, *result.repeats):
            (saved if score.reused else spent).add(score)
            saved.add_noted(score)
            if not score.reused:
                costs[score.metric].add(score)
        for name in {score.metric for score in result.repeats}:
            pairs[name].append([one for one in (*result.scores, *result.repeats) if one.metric == name])
    metrics = tuple(
        MetricSummary(
            name=name,
            version=info.metric_versions[name],
            threshold=threshold,
            measured=len(values[name]),
            passed=passed_scores[name],
            unmeasured=dict(sorted(reasons[name].items())),
            mean=math.fsum(values[name]) / len(values[name]) if values[name] else None,
            mean_interval=bootstrap_mean_interval(values[name]),
            quantiles=quantiles(values[name]),
            lower_is_better=name in lower,
            cost=costs[name],
            noise=judge_noise(pairs[name]),
        )
        for name, threshold in info.thresholds.items()
    )
    return RunReport(
        info=info,
        dataset_digest=content.hexdigest(),
        case_count=count,
        passed=verdicts[True],
        failed=verdicts[False],
        metrics=metrics,
        worst=tuple(result for _, _, result in sorted(worst, key=lambda item: (-item[0], -item[1]))),
        unmeasured_details=tuple(
            f"{detail} ({f'{detailed[kind]} cases, such as' if detailed[kind] > 1 else 'case'} {case_id})"
            for kind, (detail, case_id) in details.items()
        ),
        spent=spent,
        saved=saved,
        computed=sum(metric.measured for metric in metrics) - reused,
        reused=reused,
        results=results,
    )


def shortfall(scores: Iterable[MetricScore]) -> float:
    """How far a case is from its thresholds, summed over its metrics; 0 for a case that passes."""
    return sum(max(score.shortfall, 0.0) for score in scores)


def judge_noise(judged: Iterable[Sequence[MetricScore]]) -> Noise | None:
    """How often the judgements of one metric on the same case disagree; each item is all judgements of one case."""
    several = [[score for score in scores if score.value is not None] for scores in judged]
    several = [scores for scores in several if len(scores) > 1]
    if not several:
        return None
    flips = possible = 0
    for scores in several:
        passed = sum(bool(score.passed) for score in scores)
        flips += passed * (len(scores) - passed)
        possible += len(scores) * (len(scores) - 1) // 2
    deviations = [pstdev([score.value for score in scores if score.value is not None]) for scores in several]
    return Noise(
        cases=len(several),
        repeats=max(len(scores) for scores in several),
        flip_rate=flips / possible,
        deviation=math.fsum(deviations) / len(deviations),
    )
