"""Promoted baselines and kept runs: by whom, when, in place of what, and found again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from evalvault_pipeline.errors import ScoreStoreUnavailable, UnknownRun, UnusableResults
from evalvault_pipeline.evaluate import evaluate_file, record_run
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.results_file import write_results
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.results_files import case, good

DEMO = PROJECT / "data" / "datasets" / "insurance_qa"


def test_a_promotion_keeps_the_run_and_who_when_and_why(results: Callable[..., Path], tmp_path: Path):
    baselines = Baselines(tmp_path / "baselines")
    file = results([case("a", good()), case("b", good(chrf=0.0))])
    baselines.promote(read_run(file), by="kim", note="release 1")
    second = baselines.promote(read_run(results([case("a", good())], "second.json")), by="lee")
    first, last = baselines.history("보험")
    assert (first.run_id, first.pass_rate, first.promoted_by, first.note, first.replaces) == (
        *("run-of-results.json", 0.5, "kim", "release 1"),
        None,
    )
    assert (last, last.replaces) == (second, "run-of-results.json")
    assert first.promoted_at <= last.promoted_at
    assert baselines.get("보험").run_id == "run-of-second.json"
    assert baselines.datasets() == ["보험"]


def test_a_baseline_is_the_run_as_it_was_though_its_file_goes(results: Callable[..., Path], tmp_path: Path):
    file = results([case("a", good())])
    text = file.read_text(encoding="utf-8")
    Baselines(tmp_path / "baselines").promote(read_run(file), by="kim")
    file.unlink()
    assert Baselines(tmp_path / "baselines").file("보험").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("partial", ["unmeasured", "missing"])
def test_a_run_that_is_not_whole_is_no_baseline_unless_forced(results: Callable[..., Path], tmp_path: Path, partial: str):
    header = {"missing_batches": ["w/0002"]} if partial == "missing" else {}
    run = read_run(results([case("a", good(chrf=None) if partial == "unmeasured" else good())], **header))
    baselines = Baselines(tmp_path / "baselines")
    with pytest.raises(UnusableResults, match="is not whole"):
        baselines.promote(run, by="kim")
    assert baselines.find("보험") is None
    assert baselines.promote(run, by="kim", force=True).run_id == run.run_id


def test_a_dataset_without_a_baseline_says_how_to_get_one(tmp_path: Path):
    with pytest.raises(UnknownRun, match="Promote one: evalvault baseline set RUN_ID"):
        Baselines(tmp_path).get("insurance_qa")


def scored(settings: Settings, week: str, metric: str = "chrf", output: Path | None = None) -> str:
    """Score a week of the demo data, keep the run; its id."""
    with evaluate_file(DEMO / f"{week}.json", settings=settings, metrics=[metric]) as report:
        record_run(report, store_url=settings.score_store_url)
        if output:
            write_results(output, report)
        return report.info.run_id


def test_every_run_is_kept_case_by_case_and_found_by_its_id_or_its_first_letters(settings: Settings, tmp_path: Path):
    first, second = (scored(settings, week, output=tmp_path / f"{week}.json") for week in ("2026w45", "2026w46"))
    with RunHistory(settings.score_store_url) as history:
        file, kept = read_run(tmp_path / "2026w45.json"), history.find(first[:12])
        assert (kept.case_ids, kept.header) == (file.case_ids, file.header)
        assert [dict(kept.entry(n)) for n in (0, 63)] == [dict(file.entry(n)) for n in (0, 63)]
        newest = read_run(tmp_path / "2026w46.json")
        dataset, finished = str(newest.header["dataset_name"]), str(newest.header["finished_at"])
        assert history.latest(dataset, before=finished, but=second).run_id == first
        assert [point.run_id for point in history.trend(dataset, until=finished)] == [first, second]
        assert [point.run_id for point in history.trend(dataset, until=str(file.header["finished_at"]))] == [first]


def test_a_run_that_is_not_there_names_the_newest_ones(settings: Settings):
    with RunHistory(settings.score_store_url) as history:
        with pytest.raises(UnknownRun, match=r"holds no run `nope`\. It holds no run yet"):
            history.find("nope")
        with pytest.raises(UnknownRun, match="holds no earlier run of demo"):
            history.latest("demo", before="9999", but="x")


def test_an_id_that_several_runs_begin_with_is_refused(settings: Settings):
    for metric in ("chrf", "token_f1"):
        scored(settings, "2026w45", metric)
    with RunHistory(settings.score_store_url) as history, pytest.raises(UnknownRun, match=r"Several runs.*Write more"):
        history.find("")


def test_an_unchanged_run_takes_no_room_for_its_cases(settings: Settings):
    def chunks() -> int:
        with sqlite3.connect(settings.score_store_url.removeprefix("sqlite:///")) as connection:
            return int(connection.execute("SELECT count(*) FROM run_cases").fetchone()[0])

    for _ in range(2):
        scored(settings, "2026w45")
    before = chunks()
    scored(settings, "2026w45")
    assert chunks() == before


def test_a_store_that_does_not_answer_is_told_from_a_run_that_is_unknown():
    with pytest.raises(ScoreStoreUnavailable):
        RunHistory("postgresql://nobody:none@127.0.0.1:9/none").find("x")
