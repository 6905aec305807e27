"""One file, scored in one call: what is refused, what is reported, and what costs nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline import evaluate
from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.cases.model import EvalCase, PiiReport, Snapshot
from evalvault_pipeline.errors import InvalidSetting, MalformedCases, UnknownMetric, UnreadableFile
from evalvault_pipeline.evaluate import Spool, evaluate_file, pii_policy, plan_scoring, worker_count
from evalvault_pipeline.scoring.engine import PARALLEL_FROM
from evalvault_pipeline.scoring.judging import Progress
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import CaseResult, MetricScore
from evalvault_pipeline.settings import Settings, load_settings

GOOD = {"question": "얼마인가요?", "answer": "3만원", "contexts": ["3만원 지급"], "ground_truth": "3만원"}


def dataset(path: Path, cases: list[Any], **header: Any) -> Path:
    path.write_text(json.dumps({"name": "qa", "test_cases": cases, **header}, ensure_ascii=False), encoding="utf-8")
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**GOOD, "id": f"c{number}", "answer": f"{number}만원"} for number in range(1, count + 1)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return dataset(tmp_path / "2026w47.json", numbered(12))


# What comes out -----------------------------------------------------------------------------------------------------------


def test_a_file_is_scored_and_its_cases_can_be_gone_through_as_often_as_wanted(file: Path, settings: Settings):
    with evaluate_file(file, settings=settings, metrics=["chrf", "exact_match"]) as report:
        assert (report.case_count, report.passed) == (12, 1)
        assert (report.info.snapshot, report.info.dataset, report.info.language) == ("2026w47", "qa", "ko")
        assert report.info.tokenizer == "ngram-1"
        ids = [result.case.case_id for result in report.results]
        assert ids == [result.case.case_id for result in report.results] == [f"c{number}" for number in range(1, 13)]


def test_an_unchanged_file_costs_nothing_the_second_time(file: Path, settings: Settings):
    with evaluate_file(file, settings=settings, metrics=["chrf"]) as first:
        assert (first.computed, first.reused) == (12, 0)
    with evaluate_file(file, settings=settings, metrics=["chrf"]) as second:
        assert (second.computed, second.reused) == (0, 12)
    assert second.metrics == first.metrics


def test_after_an_edit_one_case_is_computed(file: Path, settings: Settings):
    with evaluate_file(file, settings=settings, metrics=["chrf"]):
        pass
    cases = numbered(12)
    cases[4]["answer"] = "다른 답"
    dataset(file, cases)
    with evaluate_file(file, settings=settings, metrics=["chrf"]) as report:
        assert (report.computed, report.reused) == (1, 11)


def test_fresh_metrics_are_computed_again(file: Path, settings: Settings):
    for _ in range(2):
        with evaluate_file(file, settings=settings, metrics=["chrf", "exact_match"], fresh=["chrf"]) as report:
            pass
    assert (report.computed, report.reused) == (12, 12)


def test_progress_is_told_after_each_batch(file: Path, settings: Settings):
    told: list[tuple[Progress, int]] = []
    with evaluate_file(file, settings=settings, metrics=["chrf"], batch_size=5, progress=lambda *at: told.append(at)) as report:
        assert list(report.info.batches) == [f"2026w47/000{number}" for number in (1, 2, 3)]
    assert told == [(Progress(cases=done), 12) for done in (5, 10, 12)]


def test_the_metrics_are_the_catalogs_where_none_is_named(file: Path, settings: Settings):
    spec = DatasetSpec(
        name="insurance", folder=file.parent, files="*.json", metrics=("token_f1",), thresholds={"token_f1": 0.9}
    )
    with evaluate_file(file, settings=settings, spec=spec) as report:
        assert report.info.thresholds == {"token_f1": 0.9}
        assert report.info.dataset == "insurance"
    with evaluate_file(file, settings=settings, spec=spec, metrics=["chrf"]) as report:
        assert list(report.info.thresholds) == ["chrf"]


@pytest.mark.parametrize(
    ("argument", "in_file", "expected"),
    [(0.9, {"chrf": 0.8}, 0.9), (None, {"chrf": 0.8}, 0.8), (None, {}, 0.7), (0.0, {"chrf": 0.8}, 0.0)],
)
def test_the_threshold_is_the_arguments_else_the_files_else_the_catalogs(
    argument: float | None, in_file: dict[str, float], expected: float, tmp_path: Path, settings: Settings
):
    path = dataset(tmp_path / "w1.json", numbered(1), thresholds=in_file)
    spec = DatasetSpec(name="qa", folder=tmp_path, files="*.json", metrics=("chrf",), thresholds={"chrf": 0.7})
    with evaluate_file(path, settings=settings, spec=spec, threshold=argument) as report:
        assert report.metrics[0].threshold == expected


def test_without_a_judge_every_llm_score_is_unmeasured_and_says_how_to_get_one(file: Path, settings: Settings):
    with evaluate_file(file, settings=settings, metrics=["chrf", "faithfulness"]) as report:
        assert report.unmeasured_by_reason == {"no_judge": 12}
        assert (report.coverage, report.mean("faithfulness"), report.pass_rate) == (0.5, None, 0.0)
        assert report.unmeasured_details[0].startswith(
            "faithfulness: no judge in profile offline: choose one with EVALVAULT_PROFILE"
        )


def test_short_references_are_compared_as_they_are(tmp_path: Path, settings: Settings):
    """The tool that this one replaces made references under 6 characters the answer, and gave both cases a 1."""
    cases = [
        {**GOOD, "id": "wrong", "answer": "2년입니다", "ground_truth": "1억원"},
        {**GOOD, "id": "right", "answer": "1억원", "ground_truth": "1억원"},
        {**GOOD, "id": "none", "answer": "1억원", "ground_truth": None},
    ]
    path = dataset(tmp_path / "w1.json", cases)
    with evaluate_file(path, settings=settings, metrics=["exact_match", "token_f1", "chrf"]) as report:
        scores = {result.case.case_id: [score.value for score in result.scores] for result in report.results}
    assert scores == {"wrong": [0.0] * 3, "right": [1.0] * 3, "none": [None] * 3}


# What is refused ----------------------------------------------------------------------------------------------------------


def test_a_file_with_a_bad_row_is_refused_and_nothing_is_scored(tmp_path: Path, settings: Settings):
    path = dataset(tmp_path / "w1.json", [*numbered(2), {**GOOD, "id": "bad", "question": None}])
    with pytest.raises(MalformedCases, match="--skip-bad-rows"), evaluate_file(path, settings=settings, metrics=["chrf"]):
        pytest.fail("a bad row was scored")
    assert not settings.results_dir.exists()


def test_a_folder_is_not_called_a_missing_file(tmp_path: Path, settings: Settings):
    (tmp_path / "w1.json").mkdir()
    with (
        pytest.raises(UnreadableFile, match=r"w1\.json is a folder\. Name a file in it\."),
        evaluate_file(tmp_path / "w1.json", settings=settings, metrics=["chrf"]),
    ):
        pytest.fail("a folder was scored")


def test_bad_rows_that_are_skipped_are_listed_in_the_report(tmp_path: Path, settings: Settings):
    path = dataset(tmp_path / "w1.json", [*numbered(2), {**GOOD, "id": "bad", "question": None}, {**GOOD, "id": "c1"}])
    with evaluate_file(path, settings=settings, metrics=["chrf"], strict=False) as report:
        assert report.case_count == 2
        assert len(report.info.skipped_rows) == 2
        assert "question: is null" in report.info.skipped_rows[0]


def test_a_row_with_several_faults_is_one_and_a_case_that_shares_its_line_is_named_by_its_number(
    tmp_path: Path, settings: Settings
):
    bad = {**GOOD, "id": "bad", "question": None, "answer": None}
    path = dataset(tmp_path / "w1.json", [*numbered(2), bad, {**bad, "id": "worse"}])
    said = r"w1\.json: 2 bad rows\n.*w1\.json:1: case 3: question: is null"
    with pytest.raises(MalformedCases, match=said), evaluate_file(path, settings=settings, metrics=["chrf"]):
        pytest.fail("a bad row was scored")
    with evaluate_file(path, settings=settings, metrics=["chrf"], strict=False) as report:
        third, fourth = report.info.skipped_rows
    assert f"{path}:1: case 3: question: is null" in third and "answer: is null" in third
    assert f"{path}:1: case 4: " in fourth


def test_personal_data_is_masked_before_anything_is_scored_or_kept(tmp_path: Path, settings: Settings):
    told = "010-1234-5678로 연락, 3만원"
    path = dataset(
        tmp_path / "w1.json", [*numbered(2), {**GOOD, "id": "p", "answer": told, "ground_truth": "01012345678, 3만원"}]
    )
    with evaluate_file(path, settings=settings, metrics=["number_consistency"]) as report:
        last = list(report.results)[-1].case
        assert (last.answer, last.ground_truth) == ("[PHONE_1]로 연락, 3만원", "[PHONE_1], 3만원")
        assert report.info.pii == PiiReport(masked={"PHONE": 2}, cases=1)
        evaluate.record_run(report, store_url=settings.score_store_url)
    for kept in filter(Path.is_file, settings.results_dir.rglob("*")):
        assert b"1234-5678" not in kept.read_bytes() and b"01012345678" not in kept.read_bytes()


def test_a_phone_that_the_contexts_do_not_hold_is_still_a_number_that_is_not_found(tmp_path: Path, settings: Settings):
    """`[PHONE_2]` is neither `[PHONE_1]` nor the 2 of 2년."""
    contexts = ["고객센터 02-123-4567, 보험기간 2년"]
    answers = {"right": "02)123-4567로 전화하세요.", "wrong": "02-987-6543으로 전화하세요."}
    cases = [{**GOOD, "id": name, "answer": answer, "contexts": contexts} for name, answer in answers.items()]
    with evaluate_file(dataset(tmp_path / "w1.json", cases), settings=settings, metrics=["number_consistency"]) as report:
        scores = {result.case.case_id: result.scores[0] for result in report.results}
    assert (scores["right"].value, scores["wrong"].value) == (1.0, 0.0)
    assert scores["wrong"].evidence["not_found"] == ["[PHONE_2]"]


def test_block_refuses_the_file_and_skipping_scores_the_other_rows(tmp_path: Path, settings: Settings):
    path = dataset(tmp_path / "w1.json", [*numbered(2), {**GOOD, "id": "p", "answer": "010-1234-5678"}])
    with (
        pytest.raises(MalformedCases, match=r"answer: holds a phone number\. Take it out"),
        evaluate_file(path, settings=settings, metrics=["chrf"], pii="block"),
    ):
        pytest.fail("scored")
    assert not settings.results_dir.exists()
    with evaluate_file(path, settings=settings, metrics=["chrf"], pii="block", strict=False) as report:
        assert (report.case_count, len(report.info.skipped_rows), report.info.pii.policy) == (2, 1, "block")
        assert "1234" not in str(report.info.skipped_rows)


def test_off_scores_everything_as_it_stands_and_warns(tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture):
    path = dataset(tmp_path / "w1.json", [{**GOOD, "id": "p", "answer": "010-1234-5678"}])
    with evaluate_file(path, settings=settings, metrics=["chrf"], pii="off") as report:
        assert next(iter(report.results)).case.answer == "010-1234-5678"
    assert "qa: pii is off: personal data is NOT masked; the judge, the store and every file of the run hold it" in caplog.text


def test_the_policy_is_the_one_asked_for_then_the_catalogs_then_the_settings(settings: Settings):
    spec = DatasetSpec(name="qa", folder=Path(), files="x", metrics=("chrf",), pii="block")
    lax = settings.model_copy(update={"pii": "off"})
    assert pii_policy(settings, None) == "redact"
    assert (pii_policy(lax, None), pii_policy(lax, spec), pii_policy(lax, spec, "redact")) == ("off", "block", "redact")


@pytest.mark.parametrize(
    ("metrics", "error"),
    [(["chrf", "chrff"], UnknownMetric), ([], InvalidSetting)],
)
def test_a_wrong_metric_costs_no_reading_of_the_file(
    metrics: list[str], error: type[Exception], tmp_path: Path, settings: Settings
):
    """The file is not even there: had it been read, that would have been the complaint."""
    with pytest.raises(error), evaluate_file(tmp_path / "none.json", settings=settings, metrics=metrics):
        pytest.fail("scored")


def test_a_wrong_metric_that_is_to_be_fresh_costs_no_scoring(file: Path, settings: Settings):
    with (
        pytest.raises(UnknownMetric, match="`chrff`"),
        evaluate_file(file, settings=settings, metrics=["chrf"], fresh=["chrff"]),
    ):
        pytest.fail("scored")
    assert not settings.results_dir.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda cases: cases[11].update(answer="나중에"),
        lambda cases: cases.pop(),
        lambda cases: cases.insert(12, {**GOOD, "id": "new"}),
    ],
)
def test_a_file_that_changes_while_it_is_scored_is_refused(
    change: Callable[[list[dict[str, Any]]], Any], file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """It changes between the reading that checks and the one that scores."""

    def read_after_the_change(path: Path, **given: Any) -> Any:
        cases = numbered(12)
        change(cases)
        return original(dataset(path, cases), **given)

    original = evaluate.read_cases
    monkeypatch.setattr(evaluate, "read_cases", read_after_the_change)
    with (
        pytest.raises(UnreadableFile, match=r"2026w47.json changed while it was being scored. Run again"),
        evaluate_file(file, settings=settings, metrics=["chrf"]),
    ):
        pytest.fail("reported")


# Processes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cases", "workers", "parallel", "expected"),
    [(PARALLEL_FROM, 3, True, 3), (PARALLEL_FROM - 1, 3, True, 1), (PARALLEL_FROM, 3, False, 1), (PARALLEL_FROM, 1, True, 1)],
)
def test_processes_are_started_from_a_number_of_cases_on_and_only_when_wanted(
    cases: int, workers: int, parallel: bool, expected: int, tmp_path: Path
):
    settings = load_settings(tmp_path, EVALVAULT_WORKERS=workers)
    assert worker_count(settings, cases, parallel=parallel) == expected


def test_many_cases_are_scored_by_two_processes_as_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "w1.jsonl"
    lines = [
        json.dumps({**case, "contexts": [f"{number % 7}만원 지급"]}) for number, case in enumerate(numbered(PARALLEL_FROM))
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    found = []
    caplog.set_level(logging.INFO, logger="evalvault_pipeline")
    for parallel in (True, False):
        settings = load_settings(
            tmp_path,
            EVALVAULT_RESULTS_DIR=str(tmp_path / f"results-{parallel}"),
            EVALVAULT_TOKENIZER="ngram",
            EVALVAULT_WORKERS=2,
        )
        with evaluate_file(file, settings=settings, metrics=["lexical_support", "chrf"], parallel=parallel) as report:
            found.append((report.metrics, report.worst[0].case, [(result.case, result.passed) for result in report.results]))
    assert found[0] == found[1]
    assert [word in caplog.text for word in ("2 process(es)", "1 process(es)")] == [True, True]


# Plan and spool -----------------------------------------------------------------------------------------------------------


def test_a_plan_holds_thresholds_in_the_order_asked_for_and_what_to_say_without_a_judge(settings: Settings):
    plan = plan_scoring(
        ["token_f1", "chrf"],
        settings=settings,
        snapshot=Snapshot(dataset="qa", name="w1", thresholds={"chrf": 0.9}),
        fresh=["chrf"],
    )
    assert list(plan.thresholds.items()) == [("token_f1", METRICS["token_f1"].threshold), ("chrf", 0.9)]
    assert (plan.tokenizer, plan.fresh) == ("ngram", {"chrf"})
    assert "EVALVAULT_PROFILE=dev" in plan.no_judge


def a_result(number: int) -> CaseResult:
    case = EvalCase(
        case_id=f"c{number}",
        question="\u2028 줄\n바꿈 😀",
        answer="",
        contexts=("가", ""),
        ground_truth=None if number % 2 else "참",
        metadata={"중첩": {"목록": [1, None, 0.1 + 0.2]}},
    )
    scores = (
        MetricScore(
            case_id=case.case_id, metric="m", value=1 / 3, threshold=0.5, evidence={"왜": ["‘인용’"]}, seconds=0.1, reused=True
        ),
        MetricScore(case_id=case.case_id, metric="n", value=None, threshold=0.5, unmeasured="no_judge", detail="없음"),
    )
    return CaseResult(case=case, scores=scores)


def test_a_spool_gives_back_what_was_put_in_as_often_as_asked_and_takes_more_afterwards():
    """More than a read buffer, so that a reader who gives up leaves the file's position in its middle."""
    results = [a_result(number) for number in range(200)]
    with Spool() as spool:
        assert list(spool) == []
        spool.extend(results[:150])
        assert list(spool) == results[:150]
        next(iter(spool))
        spool.extend(results[150:])
        assert list(spool) == list(spool) == results
        assert len(spool) == 200


# The original tool's datasets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["insurance_qa_korean", "sample_dataset"])
def test_a_dataset_of_the_original_tool_scores_alike_in_each_of_its_formats(
    name: str, original_data: Path, settings: Settings
) -> None:
    metrics = [metric.name for metric in METRICS.values() if metric.kind == "deterministic"]
    found = []
    for suffix in ("json", "csv", "xlsx"):
        with evaluate_file(original_data / f"{name}.{suffix}", settings=settings, metrics=metrics, threshold=0.5) as report:
            scores = [(s.case_id, s.metric, s.value, s.unmeasured) for result in report.results for s in result.scores]
            found.append((report.pass_rate, report.coverage, report.dataset_digest, scores))
    assert found[0] == found[1] == found[2]
    assert len(found[0][3]) == len(metrics) * (5 if name.startswith("insurance") else 4)


@pytest.mark.parametrize("case_id", ["kr-001", "kr-002"])
def test_a_short_reference_of_the_original_tools_dataset_is_never_replaced_by_the_answer(
    case_id: str, original_data: Path, settings: Settings
) -> None:
    """The original compared the answer with itself where the reference has fewer than 6 characters, and scored 1.0."""
    with evaluate_file(
        original_data / "insurance_qa_korean.json", settings=settings, metrics=["exact_match", "chrf"]
    ) as report:
        result = next(result for result in report.results if result.case.case_id == case_id)
    assert len(result.case.ground_truth or "") < 6
    assert [score.value for score in result.scores if score.metric == "exact_match"] == [0.0]
    assert all(score.value is not None and score.value < 0.9 for score in result.scores)
