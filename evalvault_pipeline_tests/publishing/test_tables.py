"""Batches and scores as Parquet: there and back, and which of them a report stands on."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalvault_pipeline.cases.batches import batch_count, split_into_batches
from evalvault_pipeline.cases.model import Batch, EvalCase, PiiReport, Snapshot
from evalvault_pipeline.errors import UnknownSnapshot
from evalvault_pipeline.evaluate import summarize_snapshot
from evalvault_pipeline.publishing.tables import (
    ResultsFolder,
    SnapshotResults,
    read_batch,
    read_scores,
    write_batch,
    write_report,
    write_scores,
)
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.model import BatchScores, MetricScore
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.settings import Settings


def batches(count: int = 6, size: int = 2, *, version: str = "1", thresholds: dict[str, float] | None = None) -> list[Batch]:
    cases = [
        EvalCase(
            case_id=f"c{number}",
            question="얼마?",
            answer=f"{number}만원",
            contexts=(f"{number}만원",),
            ground_truth=None if number == 2 else f"{number}만원",
        )
        for number in range(1, count + 1)
    ]
    snapshot = Snapshot(
        dataset="qa", name="w1", version=version, batch_count=batch_count(count, size), thresholds=thresholds or {}
    )
    return list(split_into_batches(cases, snapshot=snapshot, batch_size=size))


class Results:
    """A results folder in which batches are scored as Dagster's assets score them."""

    def __init__(self, root: Path) -> None:
        self.folder = ResultsFolder(root=root, dataset="qa")
        self._url = f"sqlite:///{root}/scores.sqlite"
        self._clock = 1_000_000_000

    def score(
        self, batch: Batch, *, threshold: float = 0.5, metrics: tuple[str, ...] = ("chrf", "faithfulness")
    ) -> BatchScores:
        self._written(self.folder.cases_file(batch.key), lambda file: write_batch(file, batch))
        plan = ScoringPlan(thresholds=dict.fromkeys(metrics, threshold), tokenizer="ngram", no_judge="none")
        (scored,) = score_batches([batch], plan=plan, store_url=self._url)
        self._written(self.folder.scores_file(batch.key), lambda file: write_scores(file, scored))
        return scored

    def rewrite(self, scored: BatchScores) -> None:
        self._written(self.folder.scores_file(scored.key), lambda file: write_scores(file, scored))

    def cases_only(self, batch: Batch) -> None:
        self._written(self.folder.cases_file(batch.key), lambda file: write_batch(file, batch))

    def _written(self, file: Path, write: Any) -> None:
        """Written a second after all others: file systems keep time too coarsely to be waited for."""
        write(file)
        self._clock += 1
        os.utime(file, (self._clock, self._clock))

    @property
    def snapshot(self) -> SnapshotResults:
        return SnapshotResults(self.folder, "w1")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


# There and back -----------------------------------------------------------------------------------------------------------

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.builds(
            EvalCase,
            case_id=TEXT,
            question=TEXT,
            answer=TEXT,
            contexts=st.lists(TEXT, max_size=3).map(tuple),
            ground_truth=st.none() | TEXT,
            metadata=st.dictionaries(TEXT, JSON, max_size=3),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple)
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batch_comes_back_as_it_was_written(tmp_path: Path, cases: tuple[EvalCase, ...]):
    snapshot = Snapshot(dataset="보험", name="w1", version="‘1’", digest="d", batch_count=9, thresholds={"chrf": 0.1 + 0.2})
    batch = Batch(snapshot=snapshot, index=7, cases=cases)
    write_batch(tmp_path / "0007.parquet", batch)
    assert read_batch(tmp_path / "0007.parquet") == batch


def test_what_the_firewall_did_comes_back_and_an_older_table_says_nothing_of_it(tmp_path: Path):
    pii = PiiReport(policy="redact", masked={"PHONE": 3}, cases=2)
    batch = replace(batches()[0], snapshot=Snapshot(dataset="qa", name="w1", pii=pii))
    file = tmp_path / "0001.parquet"
    write_batch(file, batch)
    assert read_batch(file).snapshot.pii == pii
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"evalvault"])
    del about["snapshot"]["pii"]
    pq.write_table(table.replace_schema_metadata({b"evalvault": json.dumps(about).encode()}), file)
    assert read_batch(file).snapshot.pii == PiiReport()


def test_scores_come_back_as_they_were_written_measured_or_not(results: Results):
    batch = batches()[0]
    scored = results.score(batch)
    assert [score.value is None for score in scored.scores] == [False, True, True, True]
    back = read_scores(results.folder.scores_file(batch.key), batch)
    assert back == scored
    assert read_scores(results.folder.scores_file(batch.key), read_batch(results.folder.cases_file(batch.key))) == scored


def test_unicode_evidence_comes_back(tmp_path: Path, results: Results):
    batch = batches()[0]
    scored = results.score(batch)
    odd = {"weakest": {"문장": '😀 ‘인용’ \u2028 "', "words": [None, 1, 0.5]}}
    first = replace(scored.results[0], scores=tuple(replace(score, evidence=odd) for score in scored.results[0].scores))
    changed = replace(scored, results=(first, *scored.results[1:]))
    write_scores(tmp_path / "s.parquet", changed)
    assert read_scores(tmp_path / "s.parquet", batch) == changed


def test_a_table_can_be_opened_by_others_with_the_verdict_in_a_column(results: Results):
    batch = batches()[0]
    results.score(batch)
    rows = pq.read_table(results.folder.scores_file(batch.key)).to_pylist()
    assert [(row["case_id"], row["metric"], row["passed"], row["unmeasured"]) for row in rows] == [
        ("c1", "chrf", True, None),
        ("c1", "faithfulness", None, "no_judge"),
        ("c2", "chrf", None, "no_field"),
        ("c2", "faithfulness", None, "no_judge"),
    ]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    case = EvalCase(case_id="x", question="?", answer="!", metadata={"value": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_batch(tmp_path / "cases" / "0001.parquet", replace(batches()[0], cases=(case,)))
    assert list(tmp_path.rglob("*.*")) == []


JUDGED = {
    "metric_version": "ragas-0.4.3+ko-1",
    "judge": "openai/gpt-5-mini@0123456789abcdef",
    "seconds": 1.25,
    "judge_calls": 2,
    "prompt_tokens": 2_345,
    "completion_tokens": 67,
    "embedding_tokens": 8,
    "cost_usd": 0.000123,
}
DETAILS = {"provider": "openai", "model": "gpt-5-mini", "temperature": 0.01, "fingerprint": JUDGED["judge"]}


def as_judged(scored: BatchScores, **changes: Any) -> BatchScores:
    """The batch as a judge scored it: faithfulness measured, its first case three times, once without success."""
    results = []
    for result in scored.results:
        chrf, faithfulness = result.scores
        first = replace(faithfulness, value=0.75, unmeasured=None, detail="", **JUDGED)
        results.append(replace(result, scores=(chrf, first)))
    first = results[0].scores[1]
    failed = replace(first, value=None, unmeasured="timeout", detail="no answer in 120 s", repeat=2, cost_usd=None)
    results[0] = replace(results[0], repeats=(replace(first, value=0.25, repeat=1, reused=True), failed))
    named = {"judge": "openai/gpt-5-mini", "profile": "openai", "judge_details": DETAILS}
    return replace(scored, results=tuple(results), **{**named, **changes})


def test_what_a_judge_said_and_took_comes_back_with_its_repeats(tmp_path: Path, results: Results):
    batch = batches()[0]
    scored = as_judged(results.score(batch))
    write_scores(tmp_path / "s.parquet", scored)
    back = read_scores(tmp_path / "s.parquet", batch)
    assert back == scored
    assert [[score.repeat for score in result.repeats] for result in back.results] == [[1, 2], []]
    assert {score.repeat for score in back.scores} == {0}
    assert (back.judge, back.judge_details) == ("openai/gpt-5-mini", DETAILS)


def test_a_metric_that_is_better_when_lower_says_so_in_the_table(tmp_path: Path, results: Results):
    batch = batches()[0]
    scored = results.score(batch)
    lower = tuple(
        replace(result, scores=tuple(replace(score, lower_is_better=True) for score in result.scores))
        for result in scored.results
    )
    write_scores(tmp_path / "s.parquet", replace(scored, results=lower))
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert (rows[0]["value"], rows[0]["passed"], rows[0]["lower_is_better"]) == (1.0, False, True)
    assert read_scores(tmp_path / "s.parquet", batch).results == lower


def test_every_field_of_a_score_is_a_column_and_a_repeat_is_a_row(tmp_path: Path, results: Results):
    scored = as_judged(results.score(batches()[0]))
    write_scores(tmp_path / "s.parquet", scored)
    table = pq.read_table(tmp_path / "s.parquet")
    assert set(table.column_names) == {"passed", *(field.name for field in fields(MetricScore))}
    rows = [(row["case_id"], row["metric"], row["repeat"], row["passed"]) for row in table.to_pylist()]
    assert rows == [
        ("c1", "chrf", 0, True),
        ("c1", "faithfulness", 0, True),
        ("c1", "faithfulness", 1, False),
        ("c1", "faithfulness", 2, None),
        ("c2", "chrf", 0, None),
        ("c2", "faithfulness", 0, True),
    ]


# What a report stands on --------------------------------------------------------------------------------------------------


def test_a_snapshot_whose_batches_are_all_scored_has_no_missing_ones_and_its_cases_in_order(results: Results):
    for batch in reversed(batches()):
        results.score(batch)
    assert (results.snapshot.keys, results.snapshot.missing) == (["w1/0001", "w1/0002", "w1/0003"], [])
    assert [item.case.case_id for item in results.snapshot] == [f"c{number}" for number in range(1, 7)]
    twice = results.snapshot
    assert list(twice) == list(twice)


def test_batches_not_scored_yet_are_missing_and_left_out_of_the_figures(results: Results, settings: Settings):
    for batch in batches()[:2]:
        results.score(batch)
    results.cases_only(batches()[2])
    report = summarize_snapshot(results.folder, "w1", run_id="r", started_at=datetime.now(UTC))
    assert list(report.info.missing_batches) == ["w1/0003"]
    assert (report.case_count, list(report.info.batches)) == (4, ["w1/0001", "w1/0002"])


def test_batches_of_an_older_version_of_the_snapshot_are_missing(results: Results):
    for batch in batches():
        results.score(batch)
    results.score(batches(version="2")[1])
    assert results.snapshot.snapshot.version == "2"
    assert (results.snapshot.keys, results.snapshot.missing) == (["w1/0002"], ["w1/0001", "w1/0003"])


def test_batches_scored_with_other_thresholds_are_missing(results: Results):
    for batch in batches():
        results.score(batch)
    results.score(batches()[2], threshold=0.9)
    assert results.snapshot.thresholds == {"chrf": 0.9, "faithfulness": 0.9}
    assert (results.snapshot.keys, results.snapshot.missing) == (["w1/0003"], ["w1/0001", "w1/0002"])


def test_batches_scored_with_other_metrics_are_missing(results: Results):
    for batch in batches():
        results.score(batch)
    results.score(batches()[0], metrics=("chrf",))
    assert list(results.snapshot.metric_versions) == ["chrf"]
    assert results.snapshot.missing == ["w1/0002", "w1/0003"]


def test_batches_of_another_judge_are_missing_whatever_they_say(results: Results):
    """Values of two judges, or of one model pulled again, are no one distribution."""
    scored = [results.score(batch) for batch in batches()]
    other = {**DETAILS, "fingerprint": "openai/gpt-5-mini@fedcba9876543210"}
    for batch, details in zip(scored, (DETAILS, other, other), strict=True):
        results.rewrite(as_judged(batch, judge_details=details))
    assert (results.snapshot.keys, results.snapshot.missing) == (["w1/0002", "w1/0003"], ["w1/0001"])
    assert results.snapshot.judge_details == other
    results.rewrite(as_judged(scored[0], judge="ollama/gemma3:1b", judge_details={}))
    assert (results.snapshot.keys, results.snapshot.judge) == (["w1/0001"], "ollama/gemma3:1b")


def test_the_noise_of_the_judge_and_what_it_took_come_from_the_tables(results: Results):
    for batch in batches():
        results.rewrite(as_judged(results.score(batch)))
    report = summarize_snapshot(results.folder, "w1", run_id="r", started_at=datetime.now(UTC))
    noise = report.metrics[1].noise
    assert noise is not None
    assert (noise.cases, noise.repeats, noise.flip_rate) == (3, 2, 1.0)
    assert (report.spent.calls, report.saved.calls) == (2 * (6 + 3), 2 * 3), "a repeat that failed is paid as well"
    assert report.spent.dollars is None and report.saved.dollars == pytest.approx(3 * 0.000123)
    assert (report.info.judge, report.info.judge_details) == ("openai/gpt-5-mini", DETAILS)


def test_a_batch_whose_cases_changed_after_it_was_scored_is_missing(results: Results):
    for batch in batches():
        results.score(batch)
    edited = batches()[1]
    results.cases_only(replace(edited, cases=(edited.cases[0], replace(edited.cases[1], answer="다른 답"))))
    assert results.snapshot.missing == ["w1/0002"]
    assert "다른 답" not in [item.case.answer for item in results.snapshot]


def test_a_batch_that_a_shorter_version_no_longer_has_is_not_counted(results: Results):
    for batch in batches(6):
        results.score(batch)
    for batch in batches(4):
        results.score(batch)
    assert (results.snapshot.keys, results.snapshot.missing) == (["w1/0001", "w1/0002"], [])


def test_a_snapshot_of_which_nothing_is_scored_is_unknown_and_the_scored_ones_are_named(results: Results):
    results.score(batches()[0])
    with pytest.raises(UnknownSnapshot, match=r"`qa` has no snapshot `w2`. Known: w1\."):
        SnapshotResults(results.folder, "w2")


def test_cases_without_scores_are_no_results(results: Results):
    results.cases_only(batches()[0])
    with pytest.raises(UnknownSnapshot):
        _ = results.snapshot


def test_a_snapshot_is_unreported_until_its_report_is_newer_than_its_scores(results: Results, settings: Settings):
    assert results.folder.unreported() == []
    for batch in batches():
        results.score(batch)
    assert results.folder.unreported() == results.folder.snapshots() == ["w1"]
    write_report(results.folder, summarize_snapshot(results.folder, "w1", run_id="r", started_at=datetime.now(UTC)))
    assert results.folder.unreported() == []
    assert results.folder.markdown_file("w1").read_text(encoding="utf-8").startswith("# qa w1")
    scores = results.folder.scores_file("w1/0002")
    later = results.folder.results_file("w1").stat().st_mtime + 10
    os.utime(scores, (later, later))
    assert results.folder.unreported() == ["w1"]


def test_a_report_can_be_written_over_and_over_to_the_same_figures(results: Results, settings: Settings):
    for batch in batches():
        results.score(batch)
    report = summarize_snapshot(results.folder, "w1", run_id="r", started_at=datetime.now(UTC))
    write_report(results.folder, report)
    first = results.folder.results_file("w1").read_bytes()
    write_report(results.folder, report)
    assert results.folder.results_file("w1").read_bytes() == first
