"""The three states of a score, and what they make of a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase, Snapshot
from evalvault_pipeline.scoring.model import BatchScores, CaseResult, MetricScore


def score(value: float | None, *, threshold: float = 0.5, **more: Any) -> MetricScore:
    reason = "no_judge" if value is None else None
    return MetricScore(**{"case_id": "c", "metric": "m", "value": value, "threshold": threshold, "unmeasured": reason, **more})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.01, 1.01, 100.0])
def test_a_value_outside_0_to_1_is_refused(value: float):
    with pytest.raises(ValueError, match=r"m of c: .* is not in \[0, 1\]"):
        score(value)


def test_a_value_and_a_reason_for_having_none_exclude_each_other():
    with pytest.raises(ValueError, match="either a value or a reason"):
        score(0.5, unmeasured="no_judge")
    with pytest.raises(ValueError, match="either a value or a reason"):
        score(None, unmeasured=None)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_the_range_belong_to_it(value: float):
    assert score(value).value == value


def test_a_score_at_its_threshold_passes_and_an_unmeasured_one_does_neither():
    assert (score(0.5).passed, score(0.4999).passed, score(None).passed) == (True, False, None)


def test_a_score_that_is_better_when_lower_passes_at_its_threshold_and_below():
    low = {"lower_is_better": True}
    assert [score(value, **low).passed for value in (0.0, 0.5, 0.5001)] == [True, True, False]
    assert score(None, **low).passed is None


def test_how_far_a_score_falls_short_is_0_where_nothing_was_measured():
    assert [score(value).shortfall for value in (0.25, 0.75, None)] == [0.25, -0.25, 0.0]
    assert score(0.75, lower_is_better=True).shortfall == 0.25


@pytest.mark.parametrize("value", [0.4999999999, 0.5000000001])
def test_what_ragas_adds_to_its_divisors_decides_about_no_verdict(value: float):
    assert (score(value).passed, score(value, lower_is_better=True).passed) == (True, True)


def test_the_tokens_of_a_score_are_those_of_prompts_answers_and_embeddings():
    assert score(1.0, prompt_tokens=100, completion_tokens=10, embedding_tokens=1).tokens == 111


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.5], True),
        ([1.0, 0.4], False),
        ([1.0, None], None),
        ([0.4, None], False),
        ([None, 0.4], False),
        ([None, None], None),
        ([], None),
    ],
)
def test_a_case_fails_by_one_measured_score_and_passes_only_with_all_measured(
    values: list[float | None], expected: bool | None
):
    case = EvalCase(case_id="c", question="?", answer="!")
    assert CaseResult(case=case, scores=tuple(map(score, values))).passed is expected


def test_a_batch_has_the_key_of_its_partition_and_all_scores_in_the_order_of_its_cases(a_case: Callable[..., EvalCase]):
    results = tuple(
        CaseResult(case=a_case(case_id=name), scores=(score(1.0, case_id=name), score(0.0, case_id=name))) for name in "ba"
    )
    batch = BatchScores(snapshot=Snapshot(dataset="d", name="2026w47"), index=3, results=results)
    assert batch.key == "2026w47/0003"
    assert [item.case_id for item in batch.scores] == ["b", "b", "a", "a"]
