"""Results files read again: whole ones as columns, and others not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from evalvault_pipeline.errors import UnreadableFile, UnusableResults
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline_tests.results_files import case, good

Results = Callable[..., Path]


def test_a_run_is_read_as_columns_and_each_case_by_its_place(results: Results):
    run = read_run(results([case("a", good()), case("b", good(chrf=None)), case("c", good(chrf=0.0))]))
    assert (run.case_ids, run.metrics) == (["a", "b", "c"], ["faithfulness", "noise_sensitivity", "chrf"])
    assert run.values["chrf"][0] == 0.6 and math.isnan(run.values["chrf"][1])
    assert (run.passed, run.failed, run.unmeasured, run.coverage) == (1, 1, 1, pytest.approx(8 / 9))
    assert [run.entry(index)["question"] for index in (2, 0)] == ["c의 면책기간은?", "a의 면책기간은?"]
    assert run.metadata == {"product": ["cancer"] * 3}


@pytest.mark.parametrize("indent", [None, 4])
def test_a_file_that_another_tool_formatted_is_the_same_run(results: Results, indent: int | None):
    file = results([case("a", good()), case("b", good())])
    before = read_run(file)
    entry = before.entry(1)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")), indent=indent), encoding="utf-8")
    again = read_run(file)
    assert (again.case_ids, again.entry(1)) == (before.case_ids, entry)


def test_metadata_that_is_no_category_is_left_out_and_lacking_values_are_none(results: Results):
    cases = [case("a", good(), metadata={"note": "x" * 100, "ok": True}), case("b", good(), metadata={"page": 3})]
    assert read_run(results(cases)).metadata == {"ok": ["true", None], "page": [None, "3"]}


def broken(file: Path, old: str, new: str) -> Path:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"score": 0.6', '"score": NaN', "NaN is no score; a score is in [0, 1], or null where unmeasured"),
        ('"score": 0.6', '"score": 1.2', "chrf is 1.2; a score is in [0, 1]"),
        ('"score": 0.6', '"score": true', "chrf is True; a score is in [0, 1]"),
        ('"test_case_id": "b"', '"test_case_id": "a"', "the id a stands twice"),
        ('"schema_version": "1.1"', '"schema_version": "2.0"', "is of schema version 2.0, this version reads 1."),
        ('"schema_version": "1.1",', "", "has no schema_version"),
        ('"thresholds"', '"bounds"', "lacks thresholds"),
        ('"metrics_evaluated": [', '"metrics_evaluated": [3, ', "metrics_evaluated.0: Input should be a valid string"),
        ('"lower_is_better": false', '"lower_is_better": 0', "metric_summaries.faithfulness.lower_is_better"),
        ('"faithfulness": 0.7', '"faithfulness": "0.7"', "thresholds.faithfulness: Input should be a valid number"),
        ('"missing_batches": []', '"missing_batches": 1', "missing_batches: Input should be a valid list"),
        ('"metadata": {"product": "cancer"}', '"metadata": "cancer"', "it is no case with id"),
        ('"test_case_id": "a"', '"test_case_id": 7', "it is no case with id"),
        ('"unmeasured": null, ', "", "it is no case with id"),
        ('"input_digest"', '"digest"', "it is no case with id, digests and metrics"),
    ],
)
def test_what_no_run_writes_is_refused_with_file_and_remedy(results: Results, old: str, new: str, said: str):
    file = broken(results([case("a", good()), case("b", good())]), old, new)
    with pytest.raises(UnusableResults) as refused:
        read_run(file)
    text = str(refused.value)
    assert text.startswith(str(file)) and said in text and "Score again with `evalvault run --output`." in text


def test_a_bad_score_is_named_with_its_line(results: Results):
    file = broken(results([case("a", good()), case("b", good(chrf=0.5))]), '"score": 0.5,', '"score": -Infinity,')
    line = next(n for n, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if "Infinity" in text)
    with pytest.raises(UnusableResults, match=rf"{file.name}:{line}: -Infinity is no score"):
        read_run(file)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_ends_in_its_middle_is_refused(results: Results, share: float):
    file = results([case(f"c{n}", good()) for n in range(20)])
    data = file.read_bytes().rstrip()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnusableResults, match=r"not whole|no JSON"):
        read_run(file)


def test_a_cut_between_two_cases_is_seen(results: Results):
    file = results([case(f"c{n}", good()) for n in range(20)])
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:-8]), encoding="utf-8")
    with pytest.raises(UnusableResults, match="ends in its middle, after line"):
        read_run(file)


@pytest.mark.parametrize("text", ["[]", "3", '{"a": 1}', '"text"'])
def test_json_that_is_no_results_file_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UnusableResults):
        read_run(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UnreadableFile, match=r"none.json cannot be read: No such file"):
        read_run(tmp_path / "none.json")


def test_a_run_that_was_read_stays_what_it_was_when_its_file_is_replaced(results: Callable[..., Path]) -> None:
    file = results([case(f"c{number}", good()) for number in range(5)])
    run = read_run(file)
    results([case("other", good())], "new.json", note="so that every line stands elsewhere" * 10).replace(file)
    assert [run.entry(number)["test_case_id"] for number in range(5)] == run.case_ids
