"""What the engine computes, what it takes from the store, and what survives a crash."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.batches import batch_count, split_into_batches
from evalvault_pipeline.cases.model import Batch, EvalCase, Snapshot
from evalvault_pipeline.errors import ScoreStoreUnavailable, ServiceUnavailable
from evalvault_pipeline.scoring import engine
from evalvault_pipeline.scoring import plan as planning
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.korean import NgramTokenizer, Tokenizer
from evalvault_pipeline.scoring.lexical_metrics import Outcome
from evalvault_pipeline.scoring.metrics import METRICS, Metric
from evalvault_pipeline.scoring.model import BatchScores, Measured, MetricScore, Reason, Unmeasured
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.scoring.store import ScoreStore

NO_JUDGE = "no judge in profile offline: choose one with EVALVAULT_PROFILE=dev"


class Counted:
    """A metric function that notes whom it scored, and does what it is told at the n-th call."""

    def __init__(self, *, at: int = 0, does: Callable[[], Outcome] | None = None) -> None:
        self.scored: list[str] = []
        self._at, self._does = at, does

    def __call__(self, case: EvalCase, tokenizer: Tokenizer) -> Outcome:
        self.scored.append(case.case_id)
        if self._does and len(self.scored) == self._at:
            return self._does()
        return Measured(value=len(case.answer) / 100, evidence={"answer": case.answer})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'scores.sqlite'}"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts a metric of the test's own into the registry."""

    def put(score: Callable[[EvalCase, Tokenizer], Outcome], name: str = "counted", **changes: Any) -> Any:
        metric = Metric(**{"name": name, "needs": (), "threshold": 0.5, "summary": "A test's.", "score": score, **changes})
        monkeypatch.setattr(planning, "METRICS", {**planning.METRICS, name: metric})
        return score

    return put


def cases_of(count: int, **changes: Any) -> list[EvalCase]:
    return [
        EvalCase(
            **{
                "case_id": f"c{number}",
                "question": "?",
                "answer": f"보험금은 {number}만원입니다.",
                "contexts": (f"보험금은 {number - number % 2}만원을 지급합니다.",),
                "ground_truth": f"{number}만원",
                **changes,
            }
        )
        for number in range(1, count + 1)
    ]


def batches_of(cases: list[EvalCase], size: int = 5) -> list[Batch]:
    snapshot = Snapshot(dataset="d", name="s", batch_count=batch_count(len(cases), size))
    return list(split_into_batches(cases, snapshot=snapshot, batch_size=size))


def plan(*metrics: str, threshold: float = 0.5, fresh: Iterable[str] = ()) -> ScoringPlan:
    return ScoringPlan(
        thresholds=dict.fromkeys(metrics, threshold), tokenizer="ngram", no_judge=NO_JUDGE, fresh=frozenset(fresh)
    )


def run(cases: list[EvalCase], how: ScoringPlan, url: str, **more: Any) -> list[MetricScore]:
    return [score for batch in score_batches(batches_of(cases), plan=how, store_url=url, **more) for score in batch.scores]


def stripped(batches: Iterable[BatchScores]) -> list[Any]:
    """Results without the time that each took."""
    return [
        (batch.key, [replace(score, seconds=0.0) for score in batch.scores], [result.case for result in batch.results])
        for batch in batches
    ]


# What is computed, and what is not --------------------------------------------------------------------------------------


def test_a_second_run_over_unchanged_cases_computes_nothing_and_says_the_same(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    first = run(cases_of(12), plan("counted"), url)
    second = run(cases_of(12), plan("counted"), url)
    assert len(counted.scored) == 12
    assert {score.reused for score in first} == {False} and {score.reused for score in second} == {True}
    assert [replace(score, reused=True) for score in first] == second


def test_after_an_edit_only_the_edited_case_is_computed(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    cases = cases_of(12)
    run(cases, plan("counted"), url)
    cases[6] = replace(cases[6], answer="다른 답")
    scores = run(cases, plan("counted"), url)
    assert counted.scored[12:] == ["c7"]
    assert [score.case_id for score in scores if not score.reused] == ["c7"]


def test_a_new_id_or_place_costs_nothing(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    cases = cases_of(12)
    run(cases, plan("counted"), url)
    renamed = [replace(case, case_id=f"new-{case.case_id}") for case in reversed(cases)]
    scores = run(renamed, plan("counted"), url)
    assert len(counted.scored) == 12
    assert [score.case_id for score in scores] == [case.case_id for case in renamed]


def test_a_metric_added_later_is_computed_alone(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    run(cases_of(3), plan("counted"), url)
    registered(Counted(), name="other")
    scores = run(cases_of(3), plan("counted", "other"), url)
    assert len(counted.scored) == 3
    assert [(score.metric, score.reused) for score in scores] == [("counted", True), ("other", False)] * 3


def test_another_threshold_costs_no_computing_and_changes_the_verdict(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    low = run(cases_of(3), plan("counted", threshold=0.0), url)
    high = run(cases_of(3), plan("counted", threshold=1.0), url)
    assert len(counted.scored) == 3
    assert {score.passed for score in low} == {True} and {score.passed for score in high} == {False}


def test_a_new_version_of_a_metric_is_computed_and_the_old_scores_stay(url: str, registered: Callable[..., Any]):
    registered(Counted())
    run(cases_of(3), plan("counted"), url)
    counted = registered(Counted(), version="2")
    run(cases_of(3), plan("counted"), url)
    assert len(counted.scored) == 3
    with ScoreStore(url) as store:
        assert store.count() == 6


def test_another_tokenizer_computes_what_uses_one_and_nothing_else(
    url: str, registered: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    class Other(NgramTokenizer):
        name = "other-1"

    counted = registered(Counted())
    tokenized = registered(Counted(), name="tokenized", tokenized=True)
    run(cases_of(3), plan("counted", "tokenized"), url)
    for module in (engine, planning):
        monkeypatch.setattr(module, "choose_tokenizer", lambda choice: Other())
    scores = run(cases_of(3), plan("counted", "tokenized"), url)
    assert (len(counted.scored), len(tokenized.scored)) == (3, 6)
    assert {score.metric_version for score in scores} == {"1", "1+other-1"}


def test_cases_of_equal_content_share_one_row_and_each_has_its_score(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    twins = [replace(case, answer="같은 답", ground_truth="같음", contexts=("같음",)) for case in cases_of(7)]
    scores = run(twins, plan("counted"), url)
    with ScoreStore(url) as store:
        assert store.count() == 1
    assert counted.scored == ["c1"]
    assert [score.case_id for score in scores] == [f"c{number}" for number in range(1, 8)]
    assert len({score.value for score in scores}) == 1


def test_a_fresh_metric_is_computed_again_and_the_others_keep_their_scores(url: str, registered: Callable[..., Any]):
    counted, other = registered(Counted()), registered(Counted(), name="other")
    run(cases_of(3), plan("counted", "other"), url)
    scores = run(cases_of(3), plan("counted", "other", fresh=["counted"]), url)
    assert (len(counted.scored), len(other.scored)) == (6, 3)
    assert [(score.metric, score.reused) for score in scores] == [("counted", False), ("other", True)] * 3
    run(cases_of(3), plan("counted", "other"), url)
    assert (len(counted.scored), len(other.scored)) == (6, 3)


def test_a_fresh_score_takes_the_place_of_the_stored_one(url: str, registered: Callable[..., Any]):
    registered(lambda case, tokenizer: Measured(value=0.25))
    run(cases_of(3), plan("counted"), url)
    registered(lambda case, tokenizer: Measured(value=0.75))
    run(cases_of(3), plan("counted", fresh=["counted"]), url)
    assert {score.value for score in run(cases_of(3), plan("counted"), url)} == {0.75}


def test_a_fresh_metric_that_is_not_wanted_keeps_its_scores(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    registered(Counted(), name="other")
    run(cases_of(3), plan("counted"), url)
    run(cases_of(3), plan("other", fresh=["counted"]), url)
    run(cases_of(3), plan("counted"), url)
    assert len(counted.scored) == 3


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_was_scored_before_a_crash_is_kept_and_the_next_run_scores_the_rest(
    end: type[BaseException], url: str, registered: Callable[..., Any]
):
    def crash() -> Outcome:
        raise end

    registered(Counted(at=7, does=crash))
    with pytest.raises(end):
        run(cases_of(12), plan("counted"), url)
    with ScoreStore(url) as store:
        assert store.count() == 6
    counted = registered(Counted())
    scores = run(cases_of(12), plan("counted"), url)
    assert counted.scored == [f"c{number}" for number in range(7, 13)]
    assert [score.reused for score in scores] == [True] * 6 + [False] * 6


# What cannot be measured --------------------------------------------------------------------------------------------------


def test_a_metric_of_the_judge_is_unmeasured_without_one_and_names_the_way_out(url: str):
    for score in run(cases_of(2), plan("faithfulness", "semantic_similarity"), url):
        assert (score.value, score.unmeasured, score.passed) == (None, Reason.NO_JUDGE, None)
        assert score.detail == NO_JUDGE


@pytest.mark.parametrize("metric", ["chrf", "token_f1", "exact_match", "factual_correctness", "context_recall"])
def test_a_case_without_a_reference_is_unmeasured_and_not_0(metric: str, url: str):
    (score,) = run(cases_of(1, ground_truth=None), plan(metric), url)
    assert (score.value, score.unmeasured, score.detail) == (None, "no_field", "the case has no ground_truth")


@pytest.mark.parametrize("metric", ["lexical_support", "number_consistency", "faithfulness"])
def test_a_case_without_contexts_is_unmeasured_and_not_0(metric: str, url: str):
    (score,) = run(cases_of(1, contexts=()), plan(metric), url)
    assert (score.value, score.unmeasured, score.detail) == (None, "no_field", "the case has no contexts")


@pytest.mark.parametrize("metric", ["hit_rate", "mrr", "ndcg", "retrieval_precision", "retrieval_recall"])
def test_a_retriever_that_found_nothing_scores_0(metric: str, url: str):
    (score,) = run(cases_of(1, contexts=()), plan(metric), url)
    assert (score.value, score.passed) == (0.0, False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.001, 1.001])
def test_a_metric_that_gives_no_number_in_0_to_1_is_unmeasured_and_leaves_the_others_alone(
    value: float, url: str, registered: Callable[..., Any]
):
    registered(Counted(at=2, does=lambda: Measured(value=value)))
    scores = run(cases_of(3), plan("counted"), url)
    assert [score.unmeasured for score in scores] == [None, "metric_error", None]
    assert scores[1].value is None and scores[1].detail == f"counted gave {value}, which is not in [0, 1]"


def test_only_measured_values_are_kept_and_the_rest_is_tried_again(url: str, registered: Callable[..., Any]):
    away = Unmeasured(reason=Reason.NO_FIELD, detail="away")
    registered(Counted(at=2, does=lambda: away))
    run(cases_of(3), plan("counted", "faithfulness"), url)
    with ScoreStore(url) as store:
        assert store.count() == 2
    counted = registered(Counted())
    scores = run(cases_of(3), plan("counted"), url)
    assert counted.scored == ["c2"] and {score.unmeasured for score in scores} == {None}


# Order and processes ------------------------------------------------------------------------------------------------------


def test_scores_stand_in_the_order_of_batches_cases_and_the_metrics_asked_for(url: str):
    scores = run(cases_of(7), plan("token_f1", "chrf"), url)
    assert [(score.case_id, score.metric) for score in scores] == [
        (f"c{number}", metric) for number in range(1, 8) for metric in ("token_f1", "chrf")
    ]


def test_batches_are_scored_one_by_one_as_they_are_asked_for(url: str, registered: Callable[..., Any]):
    counted = registered(Counted())
    scored = score_batches(iter(batches_of(cases_of(10))), plan=plan("counted"), store_url=url)
    assert next(scored).index == 1
    assert len(counted.scored) == 5


def test_two_processes_score_the_same_in_the_same_order_as_one(tmp_path: Path):
    how = plan("lexical_support", "chrf", "hit_rate", "faithfulness")
    one, two = (f"sqlite:///{tmp_path / name}.sqlite" for name in ("one", "two"))
    batches = batches_of(cases_of(31))
    alone = stripped(score_batches(batches, plan=how, store_url=one))
    together = stripped(score_batches(iter(batches), plan=how, store_url=two, workers=2))
    assert together == alone
    with ScoreStore(one) as first, ScoreStore(two) as second:
        assert first.count() == second.count() == 31 * 3


def test_a_store_that_is_away_is_reported_before_any_process_is_started(tmp_path: Path):
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path}/file/s.sqlite"
    with pytest.raises(ScoreStoreUnavailable):
        next(score_batches(batches_of(cases_of(1)), plan=plan("chrf"), store_url=url, workers=2))
    assert active_children() == []


def test_a_killed_process_is_an_error_with_the_way_out_and_what_was_scored_is_kept(url: str):
    cases = cases_of(400)
    scored = score_batches(batches_of(cases), plan=plan("chrf"), store_url=url, workers=2)
    first = next(scored)
    for child in active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(
        ServiceUnavailable, match=r"scoring process died.+is kept: run the same command again, with --no-parallel"
    ):
        list(scored)
    with ScoreStore(url) as store:
        kept = store.find([case.digest for case in cases], metrics={"chrf": (METRICS["chrf"].version, "")})
    assert {(result.case.digest, "chrf") for result in first.results} <= set(kept)
    rest = run(cases, plan("chrf"), url)
    assert [score.reused for score in rest].count(True) == len(kept) < len(rest) == 400


def test_a_run_that_is_given_up_leaves_no_process_behind(url: str):
    scored = score_batches(batches_of(cases_of(40)), plan=plan("chrf"), store_url=url, workers=2)
    next(scored)
    scored.close()
    assert active_children() == []


def test_evidence_is_json_whatever_the_texts_hold(url: str):
    texts = {"answer": '‘암’ 😀 \x1b[31m "\\ \u2028 2억원 그리고 없는 낱말', "contexts": ("다른 말",)}
    names = [name for name, metric in METRICS.items() if metric.score]
    first = run(cases_of(1, **texts), plan(*names), url)
    assert run(cases_of(1, **texts), plan(*names), url) == [replace(score, reused=score.value is not None) for score in first]
    json.dumps([dict(score.evidence) for score in first], allow_nan=False)


def test_a_metric_that_raises_leaves_its_case_unmeasured_and_the_others_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault in a metric is no zero and costs no other case; the next run tries again, for nothing is stored."""

    def picky(case: EvalCase, tokenizer: Tokenizer) -> Measured:
        if case.case_id == "c2":
            raise RuntimeError("too strange a text")
        return Measured(value=1.0)

    monkeypatch.setitem(planning.METRICS, "chrf", replace(METRICS["chrf"], score=picky))
    cases = tuple(EvalCase(case_id=f"c{n}", question="q", answer=f"a{n}", ground_truth="g") for n in (1, 2, 3))
    plan = ScoringPlan(thresholds={"chrf": 0.5}, tokenizer="ngram", no_judge="none")
    with ScoreStore(f"sqlite:///{tmp_path / 'scores.sqlite'}") as store:
        scored = engine.score_batch(
            Batch(snapshot=Snapshot(dataset="d", name="s"), index=1, cases=cases), plan=plan, store=store
        )
        assert store.count() == 2
    assert [(score.value, score.unmeasured) for score in scored.scores] == [(1.0, None), (None, "metric_error"), (1.0, None)]
    assert scored.scores[1].detail == "RuntimeError: too strange a text"


def test_a_score_counts_as_reused_only_where_the_store_held_it_before_the_run(url: str):
    """Equal contents within one run share a row, and who comes first is chance: the figure must not depend on it."""
    same = [replace(case, question="q", answer="a", ground_truth="a") for case in cases_of(40)]
    for workers in (1, 2):
        found = score_batches(batches_of(same), plan=plan("chrf"), store_url=f"{url}-{workers}", workers=workers)
        assert [score.reused for scored in found for score in scored.scores] == [False] * 40
