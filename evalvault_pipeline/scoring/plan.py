"""How a run scores: which metrics against which thresholds, in which language, with which rubric and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evalvault_pipeline.scoring.korean import choose_tokenizer
from evalvault_pipeline.scoring.metrics import METRICS, Metric
from evalvault_pipeline.scoring.store import timestamp


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """Metric -> threshold in report order, the tokenizer, and what to say where an LLM metric has no judge.

    `language` chooses the judge's prompts, `rubric` (score1_description ... score5_description) is that of the metric
    `rubric`. `fresh` names metrics whose stored scores are not used. A deterministic score counts as reused when the store held
    it before `started_at` (as `store.timestamp`). `profile` and `judge` name who scores.
    """

    thresholds: Mapping[str, float]
    tokenizer: Literal["auto", "kiwi", "ngram"]
    no_judge: str
    language: str = ""
    rubric: Mapping[str, str] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    profile: str = "offline"
    judge: str = "none"
    started_at: str = field(default_factory=timestamp)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(METRICS[name] for name in self.thresholds)

    def version(self, metric: Metric) -> str:
        """What decides about the metric's values in this run, besides the judge."""
        return metric.versioned(choose_tokenizer(self.tokenizer), language=self.language, rubric=self.rubric)

    @property
    def versions(self) -> dict[str, str]:
        return {metric.name: self.version(metric) for metric in self.metrics}
