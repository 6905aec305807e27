"""The registry: every metric by name, with what it needs, what it costs and when it passes.

How the deterministic ones are computed stands in `lexical_metrics.py`. The LLM metrics are ragas's (0.4.3); without a judge
they are reported as unmeasured, never replaced by something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Literal

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import InvalidSetting, UnknownMetric
from evalvault_pipeline.scoring import lexical_metrics as lexical
from evalvault_pipeline.scoring.korean import Tokenizer
from evalvault_pipeline.scoring.lexical_metrics import Outcome
from evalvault_pipeline.scoring.model import Reason, Unmeasured
from evalvault_pipeline.scoring.prompts import prompt_version

Score = Callable[[EvalCase, Tokenizer], Outcome]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is known of a metric before any case is seen. Values are in [0, 1], higher is better unless `lower_is_better`.

    `needs` names case fields (`catalog.rubric` stands in the catalog); `version` changes when a score could; `judge_calls` is
    what one case costs, as text where it depends on the case. `score` is None for an LLM metric, which asks the judge's
    model (`chat`), its embedding model (`embeddings`), or both.
    """

    name: str
    needs: tuple[str, ...]
    threshold: float
    summary: str
    version: str = "1"
    judge_calls: str = "0"
    embedding_calls: str = "0"
    tokenized: bool = False
    score: Score | None = None
    lower_is_better: bool = False
    chat: bool = False
    embeddings: bool = False
    steps: int = 1  # judge calls of a case that must wait for each other

    @property
    def kind(self) -> Literal["deterministic", "llm"]:
        return "deterministic" if self.score else "llm"

    def versioned(self, tokenizer: Tokenizer, *, language: str = "", rubric: Mapping[str, str] | None = None) -> str:
        """What decides about its values besides the judge: the version, and the tokenizer, prompts or rubric that it uses."""
        if self.tokenized:
            return f"{self.version}+{tokenizer.name}"
        if self.score is not None:
            return self.version
        parts = [f"ragas-{_ragas_version()}"]
        if self.chat and prompt_version(language):
            parts.append(prompt_version(language))
        if "catalog.rubric" in self.needs and rubric:
            parts.append("rubric-" + hashlib.sha256(repr(sorted(rubric.items())).encode()).hexdigest()[:8])
        return "+".join(parts)

    def lacking(self, case: EvalCase) -> Unmeasured | None:
        """Why this case cannot be measured, before any work is done."""
        for field in self.needs:
            if field == "contexts" and not any(case.contexts):
                return Unmeasured(reason=Reason.NO_FIELD, detail="the case has no contexts")
            if field == "ground_truth" and not case.ground_truth:
                return Unmeasured(reason=Reason.NO_FIELD, detail="the case has no ground_truth")
            if field == "answer" and self.score is None and not case.answer:
                return Unmeasured(reason=Reason.NO_FIELD, detail="the case's answer is empty")
        return None


def _lexical(
    name: str, needs: Sequence[str], threshold: float, summary: str, score: Score, *, tokenized: bool = False
) -> Metric:
    return Metric(name=name, needs=tuple(needs), threshold=threshold, summary=summary, score=score, tokenized=tokenized)


def _llm(
    name: str,
    needs: Sequence[str],
    threshold: float,
    calls: str,
    embeddings: str,
    summary: str,
    *,
    steps: int = 1,
    lower_is_better: bool = False,
) -> Metric:
    return Metric(
        name=name,
        needs=tuple(needs),
        threshold=threshold,
        summary=summary,
        judge_calls=calls,
        embedding_calls=embeddings,
        lower_is_better=lower_is_better,
        steps=steps,
        chat=calls != "0",
        embeddings=embeddings != "0",
    )


@lru_cache(maxsize=1)
def _ragas_version() -> str:
    """Of the installed package; importing it would cost three CPU-seconds."""
    return version("ragas")


_ALL = (
    _lexical(
        "lexical_support",
        ("answer", "contexts"),
        0.5,
        "The least supported sentence: its content words in the contexts; 0 for a number, date or negation against them.",
        lexical.lexical_support,
        tokenized=True,
    ),
    _lexical(
        "number_consistency",
        ("answer", "contexts"),
        1.0,
        "Share of the answer's numbers, amounts, periods and dates that stand in the contexts.",
        lexical.number_consistency,
    ),
    _lexical("chrf", ("answer", "ground_truth"), 0.15, "Character n-gram F-score against the reference.", lexical.chrf),
    _lexical(
        "token_f1", ("answer", "ground_truth"), 0.3, "F1 of shared tokens with the reference.", lexical.token_f1, tokenized=True
    ),
    _lexical("exact_match", ("answer", "ground_truth"), 1.0, "Answer and reference are the same text.", lexical.exact_match),
    _lexical(
        "no_answer_accuracy",
        ("answer",),
        1.0,
        "The answer declines exactly where the question cannot be answered.",
        lexical.no_answer_accuracy,
    ),
    _lexical(
        "keyword_coverage",
        ("answer", "metadata.keywords"),
        1.0,
        "Share of the case's keywords that stand in the answer.",
        lexical.keyword_coverage,
    ),
    _lexical("hit_rate", ("references",), 1.0, "A relevant context was retrieved.", lexical.hit_rate, tokenized=True),
    _lexical("mrr", ("references",), 0.5, "1 / rank of the first relevant context.", lexical.mrr, tokenized=True),
    _lexical("ndcg", ("references",), 0.5, "Rank quality of the relevant contexts.", lexical.ndcg, tokenized=True),
    _lexical(
        "retrieval_precision",
        ("references",),
        0.3,
        "Relevant contexts / retrieved contexts.",
        lexical.retrieval_precision,
        tokenized=True,
    ),
    _lexical(
        "retrieval_recall",
        ("references",),
        0.7,
        "References found among the retrieved contexts / references.",
        lexical.retrieval_recall,
        tokenized=True,
    ),
    _llm("faithfulness", ("answer", "contexts"), 0.7, "2", "0", "Statements of the answer that the contexts support.", steps=2),
    _llm("answer_relevancy", ("answer",), 0.7, "3", "4", "How close questions made from the answer come to the question."),
    _llm(
        "context_precision",
        ("contexts", "ground_truth"),
        0.7,
        "1 a context",
        "0",
        "Contexts that are useful for the reference stand first (average precision).",
    ),
    _llm(
        "context_precision_without_reference",
        ("answer", "contexts"),
        0.7,
        "1 a context",
        "0",
        "Contexts that are useful for the answer stand first (average precision).",
    ),
    _llm("context_recall", ("contexts", "ground_truth"), 0.7, "1", "0", "Statements of the reference found in the contexts."),
    _llm(
        "factual_correctness", ("answer", "ground_truth"), 0.7, "4", "0", "Shared claims of answer and reference (F1).", steps=2
    ),
    _llm("semantic_similarity", ("answer", "ground_truth"), 0.7, "0", "2", "Cosine of answer and reference embeddings."),
    _llm("answer_accuracy", ("answer", "ground_truth"), 0.7, "2", "0", "The answer agrees with the reference: two ratings."),
    _llm("context_relevance", ("contexts",), 0.7, "2", "0", "The contexts can answer the question: two ratings."),
    _llm("response_groundedness", ("answer", "contexts"), 0.7, "2", "0", "The contexts bear out the answer: two ratings."),
    _llm(
        "noise_sensitivity",
        ("answer", "contexts", "ground_truth"),
        0.3,
        "3 + 2 a context",
        "0",
        "Share of the answer's statements that are wrong, and come from a relevant context.",
        steps=2,
        lower_is_better=True,
    ),
    _llm(
        "summary_score",
        ("answer", "contexts"),
        0.5,
        "3",
        "0",
        "The answer as a summary of the contexts: facts kept, and short.",
        steps=3,
    ),
    _llm("rubric", ("answer", "catalog.rubric"), 0.7, "1", "0", "A rating from 1 to 5 by the catalog's rubric, as a share."),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}


def metrics_by_name(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of these names, each once, in the order asked for. Raises UnknownMetric, or InvalidSetting for none."""
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not wanted:
        raise InvalidSetting("No metric is asked for. Name some: --metrics lexical_support,chrf (all: evalvault metrics)")
    for name in wanted:
        if name not in METRICS:
            raise UnknownMetric(name, known=METRICS)
    return tuple(METRICS[name] for name in wanted)


def thresholds_for(
    metrics: Iterable[Metric], *, argument: float | None, dataset: Mapping[str, float], catalog: Mapping[str, float]
) -> dict[str, float]:
    """The threshold of each metric: argument > dataset file > catalog > the metric's default."""
    return {
        metric.name: argument if argument is not None else dataset.get(metric.name, catalog.get(metric.name, metric.threshold))
        for metric in metrics
    }
