"""What is said of a catalog before anything is scored."""

from __future__ import annotations

import json
from pathlib import Path

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.reporting.catalog_check import SnapshotState, check_catalog

CASE = {"id": "1", "question": "얼마인가요?", "answer": "3만원", "contexts": ["3만원"]}


def check(folder: Path, catalog: str) -> list[SnapshotState]:
    (folder / "catalog.toml").write_text(catalog, encoding="utf-8")
    return list(check_catalog(load_catalog(folder / "catalog.toml")))


def dataset(folder: Path, name: str, cases: list[object]) -> None:
    (folder / "qa").mkdir(exist_ok=True)
    (folder / "qa" / name).write_text(json.dumps({"name": "qa", "test_cases": cases}), encoding="utf-8")


def test_a_good_snapshot_is_described_by_its_cases_batches_and_language(tmp_path: Path):
    dataset(tmp_path, "2026w47.json", [{**CASE, "id": str(number)} for number in range(12)])
    assert check(tmp_path, '[datasets.qa]\nfiles = "qa/*.json"\nmetrics = ["chrf"]') == [
        SnapshotState(dataset="qa", snapshot="2026w47", cases="12", batches="2 of 10", language="ko")
    ]


def test_a_bad_snapshot_does_not_hide_the_others(tmp_path: Path):
    dataset(tmp_path, "2026w46.json", [{**CASE, "question": None}])
    dataset(tmp_path, "2026w47.json", [CASE])
    bad, good = check(tmp_path, '[datasets.qa]\nfiles = "qa/*.json"\nmetrics = ["chrf"]')
    assert bad.snapshot == "2026w46" and bad.problem and "question: is null" in bad.problem
    assert good.snapshot == "2026w47" and good.problem is None


def test_a_metric_that_does_not_exist_is_named_whether_it_is_measured_or_given_a_threshold(tmp_path: Path):
    catalog = '[datasets.a]\nfiles = "*.json"\nmetrics = ["chfr"]\n[datasets.b]\nfiles = "*.json"\nmetrics = ["chrf"]\nthresholds = {mmr = 0.5}'
    problems = [state.problem or "" for state in check(tmp_path, catalog)]
    assert ["`chfr`" in problems[0], "`mmr`" in problems[1], len(problems)] == [True, True, 2]


def test_a_dataset_without_files_says_where_they_were_looked_for(tmp_path: Path):
    (state,) = check(tmp_path, '[datasets.qa]\nfiles = "qa/*.json"\nmetrics = ["chrf"]')
    assert state.problem == f"no file matches {tmp_path / 'qa/*.json'}; put a snapshot there"


def test_a_catalog_without_a_dataset_is_a_problem(tmp_path: Path):
    (state,) = check(tmp_path, "")
    assert state.problem and "declares no dataset" in state.problem
