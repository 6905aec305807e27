"""The registry: which metrics there are, what each needs, and which threshold holds."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import InvalidSetting, UnknownMetric
from evalvault_pipeline.scoring.korean import NgramTokenizer, choose_tokenizer
from evalvault_pipeline.scoring.metrics import METRICS, Metric, metrics_by_name, thresholds_for
from evalvault_pipeline.scoring.model import Measured, Reason
from evalvault_pipeline.scoring.prompts import prompt_version

LLM = [metric for metric in METRICS.values() if metric.kind == "llm"]
NEEDY = [(metric, field) for metric in METRICS.values() for field in ("contexts", "ground_truth") if field in metric.needs]


def test_every_metric_has_a_threshold_it_can_meet_a_sentence_and_a_version():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert 0.0 < metric.threshold <= 1.0
        assert metric.summary and metric.summary.endswith(".")
        assert metric.version


def test_the_metrics_of_the_judge_are_ragass_and_have_no_stand_in():
    """Their version is that of the installed ragas, and of our prompts where a model is asked in Korean."""
    assert {metric.name for metric in LLM} == {
        "faithfulness",
        "answer_relevancy",
        "context_precision",
        "context_precision_without_reference",
        "context_recall",
        "factual_correctness",
        "semantic_similarity",
        "answer_accuracy",
        "context_relevance",
        "response_groundedness",
        "noise_sensitivity",
        "summary_score",
        "rubric",
    }
    assert all(metric.score is None and (metric.chat or metric.embeddings) for metric in LLM)
    ragas = f"ragas-{version('ragas')}"
    assert {metric.versioned(NgramTokenizer(), language="en") for metric in LLM} == {ragas}
    korean = {metric.name: metric.versioned(NgramTokenizer(), language="ko") for metric in LLM}
    assert {name for name, found in korean.items() if found == ragas} == {"semantic_similarity"}
    assert set(korean.values()) == {ragas, f"{ragas}+{prompt_version('ko')}"}


def test_another_rubric_is_another_version_of_the_metric_that_rates_by_it():
    one, other = ({f"score{level}_description": text for level in range(1, 6)} for text in ("a", "b"))
    rated = METRICS["rubric"]
    versions = {rated.versioned(NgramTokenizer(), rubric=rubric) for rubric in (one, other, dict(reversed(one.items())))}
    assert len(versions) == 2
    assert len({METRICS["faithfulness"].versioned(NgramTokenizer(), rubric=rubric) for rubric in (one, other)}) == 1


@pytest.mark.parametrize("metric", LLM, ids=lambda metric: metric.name)
def test_what_a_metric_of_the_judge_costs_is_said(metric: Metric):
    assert (metric.judge_calls, metric.embedding_calls) != ("0", "0")


@pytest.mark.parametrize(("metric", "field"), NEEDY, ids=lambda item: item if isinstance(item, str) else item.name)
def test_a_case_without_a_needed_field_is_unmeasured_and_never_0(metric: Metric, field: str, a_case: Callable[..., EvalCase]):
    assert metric.lacking(a_case()) is None
    lacking = metric.lacking(a_case(contexts=()) if field == "contexts" else a_case(ground_truth=None))
    assert lacking and lacking.reason is Reason.NO_FIELD and lacking.detail == f"the case has no {field}"


def test_contexts_that_are_all_empty_are_none(a_case: Callable[..., EvalCase]):
    assert METRICS["lexical_support"].lacking(a_case(contexts=("", "")))
    assert METRICS["lexical_support"].lacking(a_case(contexts=("", "보험금"))) is None


def test_the_tokenizer_belongs_to_the_version_exactly_where_it_decides_about_the_value(a_case: Callable[..., EvalCase]):
    """Two tokenizers that cut differently: a metric whose value follows must say so, or the store would mix them."""

    class Other(NgramTokenizer):
        name = "other-1"

        def content(self, text: str) -> frozenset[str]:
            return frozenset({text})

        def tokens(self, text: str) -> tuple[str, ...]:
            return (text,)

    case = a_case(metadata={"keywords": ["암"], "answerable": True})
    ngram, other = NgramTokenizer(), Other()
    for metric in METRICS.values():
        if metric.score:
            ours, theirs = metric.score(case, ngram), metric.score(case, other)
            assert isinstance(ours, Measured) and isinstance(theirs, Measured)
            assert metric.tokenized or ours == theirs, metric.name
            assert (metric.versioned(ngram) != metric.versioned(other)) is metric.tokenized


def test_kiwi_and_ngram_scores_never_share_a_row_of_the_store():
    pytest.importorskip("kiwipiepy")
    versions = {METRICS["lexical_support"].versioned(choose_tokenizer(name)) for name in ("kiwi", "ngram")}
    assert len(versions) == 2


def test_metrics_come_once_each_in_the_order_asked_for():
    assert [metric.name for metric in metrics_by_name(["chrf", " exact_match ", "", "chrf"])] == ["chrf", "exact_match"]


def test_a_misspelt_metric_is_answered_with_the_right_one():
    with pytest.raises(UnknownMetric, match=r"no metric `faithfullness`. Did you mean `faithfulness`\?"):
        metrics_by_name(["faithfullness"])


@pytest.mark.parametrize("names", [[], ["", " "]])
def test_asking_for_no_metric_is_refused_with_an_example(names: list[str]):
    with pytest.raises(InvalidSetting, match="--metrics"):
        metrics_by_name(names)


def test_the_threshold_is_the_arguments_else_the_datasets_else_the_catalogs_else_the_metrics():
    chosen = metrics_by_name(["chrf", "token_f1", "exact_match"])
    dataset, catalog = {"chrf": 0.9}, {"chrf": 0.8, "token_f1": 0.7}
    assert thresholds_for(chosen, argument=None, dataset=dataset, catalog=catalog) == {
        "chrf": 0.9,
        "token_f1": 0.7,
        "exact_match": METRICS["exact_match"].threshold,
    }
    assert set(thresholds_for(chosen, argument=0.6, dataset=dataset, catalog=catalog).values()) == {0.6}


def test_a_threshold_of_0_is_a_threshold():
    chosen = metrics_by_name(["chrf"])
    assert thresholds_for(chosen, argument=0.0, dataset={"chrf": 0.9}, catalog={}) == {"chrf": 0.0}
    assert thresholds_for(chosen, argument=None, dataset={"chrf": 0.0}, catalog={"chrf": 0.9}) == {"chrf": 0.0}
