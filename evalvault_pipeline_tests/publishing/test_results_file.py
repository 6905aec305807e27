"""`results.json`: its contract, its bytes, and what is on disk when writing fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import UnknownCase, UnreadableFile, UnwritableFile
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.publishing.results_file import find_case, replacing, results_header, results_schema, write_results
from evalvault_pipeline.reporting.report import RunReport, summarize
from evalvault_pipeline.scoring.model import CaseResult
from evalvault_pipeline.settings import load_settings

METRICS = ("lexical_support", "chrf", "faithfulness")
# What the tool that this one replaces wrote, and what its users' jq lines read.
ORIGINAL_KEYS = """run_id dataset_name dataset_version model_name started_at finished_at total_test_cases passed_test_cases pass_rate
    total_tokens total_cost_usd duration_seconds tracker_metadata metrics_evaluated thresholds results""".split()
CHANGING = {"run_id", "started_at", "finished_at", "duration_seconds", "seconds"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One case that passes but for the judge, one that fails, one without a reference; Korean, emoji, a quote."""
    cases = [
        {
            "id": "1",
            "question": "암 진단비는?",
            "answer": "3천만원입니다.",
            "contexts": ["3,000만원 지급"],
            "ground_truth": "3천만원입니다.",
        },
        {"id": "2", "question": "기간은?", "answer": '5년 "동안" 😀', "contexts": ["보험기간은 2년"], "ground_truth": "2년"},
        {
            "id": "3",
            "question": "한도는?",
            "answer": "알 수 없습니다.",
            "contexts": ["보험금"],
            "metadata": {"tags": ["ㄱ", None]},
        },
    ]
    path = tmp_path / "2026w47.json"
    content = {"name": "보험", "version": "v1", "thresholds": {"chrf": 0.4}, "test_cases": cases}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def written(dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """Scores the dataset with a store of its own and writes the results."""

    def write(name: str = "results.json") -> Path:
        settings = load_settings(tmp_path, EVALVAULT_RESULTS_DIR=str(tmp_path / f"{name}-run"), EVALVAULT_TOKENIZER="ngram")
        with evaluate_file(dataset, settings=settings, metrics=METRICS) as report:
            write_results(tmp_path / name, report)
        return tmp_path / name

    return write


@pytest.fixture
def report(written: Callable[..., Path], dataset: Path, tmp_path: Path) -> Iterator[RunReport]:
    settings = load_settings(tmp_path, EVALVAULT_RESULTS_DIR=str(tmp_path / "results"), EVALVAULT_TOKENIZER="ngram")
    with evaluate_file(dataset, settings=settings, metrics=METRICS) as found:
        yield found


def validator() -> jsonschema.Draft202012Validator:
    schema = results_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_a_file_of_results_is_valid_by_its_published_schema(written: Callable[..., Path]):
    validator().validate(json.loads(written().read_text(encoding="utf-8")))


def test_an_empty_run_is_valid_too(report: RunReport, tmp_path: Path):
    write_results(tmp_path / "empty.json", summarize([], info=report.info))
    content = json.loads((tmp_path / "empty.json").read_text(encoding="utf-8"))
    validator().validate(content)
    assert (content["results"], content["avg_chrf"]) == ([], None)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("results"),
        lambda content: content.update(surprise=1),
        lambda content: content.update(avg_chrf=1.5),
        lambda content: content["results"][0]["metrics"][0].update(score="0.5"),
        lambda content: content["results"][0]["metrics"][0].update(score=2),
        lambda content: content["results"][0].pop("test_case_id"),
    ],
)
def test_a_file_that_breaks_the_contract_is_not_valid(change: Callable[[Any], None], written: Callable[..., Path]):
    content = json.loads(written().read_text(encoding="utf-8"))
    change(content)
    assert not validator().is_valid(content)


def test_every_key_of_the_tool_that_this_one_replaces_is_in_its_place(written: Callable[..., Path]):
    content = json.loads(written().read_text(encoding="utf-8"))
    assert set(ORIGINAL_KEYS) <= set(content)
    assert [f"avg_{metric}" in content for metric in METRICS] == [True] * 3
    for entry in content["results"]:
        assert {"test_case_id", "all_passed", "metrics"} <= set(entry)
        assert all({"name", "score", "threshold", "passed"} <= set(metric) for metric in entry["metrics"])


def test_the_figures_are_where_a_jq_line_looks_for_them(written: Callable[..., Path]):
    """`.pass_rate`, `.avg_chrf`, `.results[] | select(.all_passed == false) | .test_case_id`."""
    content = json.loads(written().read_text(encoding="utf-8"))
    assert (content["dataset_name"], content["dataset_version"], content["snapshot"]) == ("보험", "v1", "2026w47")
    assert (content["pass_rate"], content["total_test_cases"], content["model_name"]) == (0.0, 3, "none")
    assert [entry["test_case_id"] for entry in content["results"] if entry["all_passed"] is False] == ["2"]
    assert [entry["all_passed"] for entry in content["results"]] == [None, False, None]
    assert content["thresholds"]["chrf"] == 0.4 and content["metrics_evaluated"] == list(METRICS)
    chrf = [entry["metrics"][1]["score"] for entry in content["results"]]
    assert chrf[0] == 1.0 and chrf[2] is None
    assert content["avg_chrf"] == pytest.approx((chrf[0] + chrf[1]) / 2)


def test_an_unmeasured_score_is_null_with_its_reason(written: Callable[..., Path]):
    content = json.loads(written().read_text(encoding="utf-8"))
    judged = content["results"][0]["metrics"][2]
    assert (judged["score"], judged["passed"], judged["unmeasured"]) == (None, None, "no_judge")
    assert "EVALVAULT_PROFILE" in judged["reason"]
    assert content["avg_faithfulness"] is None
    assert content["unmeasured_by_reason"] == {"no_field": 1, "no_judge": 3}
    assert content["coverage"] == pytest.approx(5 / 9)


def judged(report: RunReport) -> RunReport:
    """The report as if a judge had measured faithfulness; the first case was judged twice and the second is from the store."""
    results = []
    for number, result in enumerate(report.results):
        paid = {"judge": "openai/m@0", "judge_calls": 2, "prompt_tokens": 100, "completion_tokens": 10, "cost_usd": 0.5}
        said = {"statements": [{"statement": "가", "verdict": 1, "reason": "있다"}]}
        score = replace(result.scores[2], value=0.75, unmeasured=None, detail="", evidence=said, reused=number == 1, **paid)
        again = (replace(score, value=0.25, repeat=1),) if number == 0 else ()
        results.append(replace(result, scores=(*result.scores[:2], score), repeats=again))
    details = {"provider": "openai", "model": "m", "temperature": 0.01, "fingerprint": "openai/m@0"}
    return summarize(results, info=replace(report.info, judge="openai/m", judge_details=details))


def test_a_judged_run_says_who_judged_what_it_took_what_was_saved_and_how_noisy_it_is(report: RunReport, tmp_path: Path):
    write_results(tmp_path / "r.json", judged(report))
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    validator().validate(content)
    assert content["schema_version"] == "1.1"
    assert (content["model_name"], content["judge"]["fingerprint"]) == ("openai/m", "openai/m@0")
    usage = {"judge_calls": 6, "prompt_tokens": 300, "completion_tokens": 30, "embedding_tokens": 0, "cost_usd": 1.5}
    assert content["usage"] == content["metric_summaries"]["faithfulness"]["usage"] == usage
    assert (content["total_tokens"], content["total_cost_usd"]) == (330, 1.5)
    assert content["cache"] == {"hits": 1, "misses": 7, "saved_tokens": 110, "saved_cost_usd": 0.5}
    noise = {"cases": 1, "repeats": 2, "flip_rate": 1.0, "deviation": 0.25}
    assert content["metric_summaries"]["faithfulness"]["noise"] == noise
    assert content["metric_summaries"]["chrf"]["noise"] is None
    first, second = (entry["metrics"][2] for entry in content["results"][:2])
    assert (first["judge_calls"], first["tokens"], first["cost_usd"], first["from_store"]) == (2, 110, 0.5, False)
    assert second["from_store"] and first["evidence"]["statements"][0]["verdict"] == 1
    assert [entry["tokens"] for entry in content["results"]] == [110, 110, 110], "a case says what it took, whenever it was"


def test_a_price_that_is_not_known_is_null_and_not_0(report: RunReport, tmp_path: Path):
    results = [
        replace(result, scores=(replace(result.scores[0], judge_calls=1, prompt_tokens=5),)) for result in report.results
    ]
    write_results(tmp_path / "r.json", summarize(results, info=report.info))
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    validator().validate(content)
    assert (content["total_cost_usd"], content["usage"]["cost_usd"], content["cache"]["saved_cost_usd"]) == (None, None, 0.0)
    assert (content["results"][0]["cost_usd"], content["results"][0]["metrics"][0]["cost_usd"]) == (None, None)


def test_a_case_is_found_in_the_newest_results_that_hold_it(report: RunReport, tmp_path: Path):
    for number, name in enumerate(("old", "new", "other")):
        file = tmp_path / "runs" / "qa" / name / "results.json"
        kept = list(report.results)[: 2 if name == "other" else 3]
        write_results(file, summarize(kept, info=replace(report.info, run_id=name)))
        os.utime(file, (1_000_000_000 + number, 1_000_000_000 + number))
    file, header, entry = find_case("3", None, folder=tmp_path / "runs")
    assert (file.parent.name, header["run_id"], entry["question"]) == ("new", "new", "한도는?")
    assert "results" not in header
    old = tmp_path / "runs" / "qa" / "old" / "results.json"
    assert find_case("3", old, folder=tmp_path / "runs")[1]["run_id"] == "old"


def test_a_case_that_no_results_hold_is_named_with_the_nearest_or_the_command_that_writes_some(
    report: RunReport, tmp_path: Path
):
    file = tmp_path / "results.json"
    results = [replace(result, case=replace(result.case, case_id=f"kr-00{result.case.case_id}")) for result in report.results]
    write_results(file, summarize(results, info=report.info))
    with pytest.raises(
        UnknownCase, match=r"No results hold a case `kr-01` \(looked in .*results.json\). Did you mean `kr-001`\?"
    ):
        find_case("kr-01", file, folder=tmp_path)
    with pytest.raises(
        UnknownCase,
        match=r"looked in .*\*/\*/results.json; --results names another file\). Write results with `evalvault run --output",
    ):
        find_case("kr-01", None, folder=tmp_path / "empty")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": [{}]}', '{"results": {"a": 1}}', "\udcff"])
def test_a_file_that_is_no_results_file_is_named(content: str, tmp_path: Path):
    (tmp_path / "r.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnreadableFile, match=r"r.json is no results file. Name one that `evalvault run --output` wrote."):
        find_case("1", tmp_path / "r.json", folder=tmp_path)


def test_one_case_is_one_line(written: Callable[..., Path]):
    lines = written().read_text(encoding="utf-8").split("\n")
    cases = [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith('    {"test_case_id"')]
    assert [case["test_case_id"] for case in cases] == ["1", "2", "3"]


def test_korean_and_emoji_are_readable_in_the_file(written: Callable[..., Path]):
    text = written().read_text(encoding="utf-8")
    assert "암 진단비는?" in text and "😀" in text and "ㄱ" in text


def test_the_same_input_gives_the_same_bytes_but_for_run_id_and_times(written: Callable[..., Path]):
    """Two runs with stores of their own; the digits of times are masked, everything else is compared byte by byte."""
    first, second = (_masked(written(name).read_text(encoding="utf-8")) for name in ("a.json", "b.json"))
    assert first == second
    assert first.count('"MASKED"') >= 4


def _masked(text: str) -> str:
    for item in sorted({json.dumps(value) for value in _values_of(json.loads(text))}, key=len, reverse=True):
        for key in CHANGING:
            text = text.replace(f'"{key}": {item}', f'"{key}": "MASKED"')
    return text


def _values_of(content: object) -> list[Any]:
    if isinstance(content, list):
        return [value for item in content for value in _values_of(item)]
    if isinstance(content, dict):
        mine = [value for key, value in content.items() if key in CHANGING]
        return mine + [value for item in content.values() for value in _values_of(item)]
    return []


class Broken:
    """Results that break off after the first case."""

    def __init__(self, results: list[CaseResult], error: BaseException) -> None:
        self._results, self._error = results, error

    def __iter__(self) -> Iterator[CaseResult]:
        yield self._results[0]
        raise self._error


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left on device"), UnwritableFile), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_file_whose_writing_breaks_off_leaves_the_old_one_and_no_other(
    error: BaseException, raised: type[BaseException], report: RunReport, tmp_path: Path
):
    path = tmp_path / "out" / "results.json"
    write_results(path, report)
    before = path.read_bytes()
    with pytest.raises(raised):
        write_results(path, replace(report, results=Broken(list(report.results), error)))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_new_file_whose_writing_breaks_off_is_not_there(tmp_path: Path):
    with pytest.raises(TypeError), replacing(tmp_path / "new" / "file.md") as file:
        file.writelines(["half", None])  # type: ignore[list-item]
    assert list((tmp_path / "new").iterdir()) == []


def test_nan_cannot_come_into_the_file(report: RunReport, tmp_path: Path):
    results = list(report.results)
    case = EvalCase(case_id="x", question="?", answer="!", metadata={"value": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(tmp_path / "out" / "nan.json", replace(report, results=[replace(results[0], case=case)]))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_header_holds_everything_but_the_cases(report: RunReport, tmp_path: Path):
    write_results(tmp_path / "results.json", report)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    del content["results"]
    assert content == json.loads(json.dumps(results_header(report)))


def test_an_output_that_cannot_stand_where_it_is_wanted_is_refused_with_the_reason(report: RunReport, tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path, reason in [(tmp_path, "it is a folder"), (tmp_path / "file" / "r.json", "cannot be written: ")]:
        with pytest.raises(UnwritableFile, match=reason):
            write_results(path, report)
