"""One verdict on every surface: verdict.json, JUnit XML, Markdown, GitHub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from evalvault_pipeline.publishing.github import annotation_lines, outputs, tell_actions
from evalvault_pipeline.publishing.html import write_html
from evalvault_pipeline.publishing.junit import write_junit
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.verdict_file import verdict_content, verdict_schema, write_verdict
from evalvault_pipeline.publishing.verdict_markdown import COMMENT_LIMIT, comparison_markdown, marker, verdict_markdown
from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, Outcome, Verdict, decide
from evalvault_pipeline_tests.results_files import case, good

HOSTILE = "| a \n# b <script>x</script> `c` ]]> \x00 @everyone ::error::x"


@pytest.fixture
def verdict(results: Callable[..., Path]) -> Verdict:
    """60 pairs: 12 newly failing, 1 newly passing, 2 unmeasured now."""
    before = [case(f"c{n:02d}", good()) for n in range(60)]
    before[40] = case("c40", good(chrf=0.0))
    after = [case(f"c{n:02d}", good(faithfulness=0.2) if n < 12 else good(), answer=f"new {n}") for n in range(60)]
    after[50], after[51] = (case(f"c{n}", good(faithfulness=None)) for n in (50, 51))
    candidate = read_run(results(after, "after.json"))
    comparison = compare_runs(read_run(results(before, "before.json")), candidate)
    return decide(candidate, rules=GateRules(), comparison=comparison)


@pytest.fixture
def alone(results: Callable[..., Path]) -> Verdict:
    return decide(read_run(results([case("a", good()), case("b", good())])), rules=GateRules())


def test_verdict_json_follows_its_schema_and_says_what_the_gate_says(verdict: Verdict, alone: Verdict, tmp_path: Path):
    for one in (verdict, alone):
        write_verdict(tmp_path / "verdict.json", one)
        found = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
        jsonschema.validate(found, verdict_schema())
        assert (found["outcome"], found["exit_code"], found["headline"]) == (one.outcome.value, one.exit_code, one.headline)
    assert found["comparison"] is None


def test_verdict_json_has_the_figures_of_the_comparison(verdict: Verdict):
    found = verdict_content(verdict)
    comparison = found["comparison"]
    assert comparison is not None
    rate = comparison["pass_rate"]
    assert (rate["pairs"], rate["newly_failing"], rate["newly_passing"]) == (58, 12, 1)
    assert comparison["newly_failing"] == [f"c{n:02d}" for n in range(12)]
    assert (found["run"]["unmeasured_test_cases"], found["run"]["passed_test_cases"]) == (2, 46)


def test_a_schema_says_more_than_that_it_is_an_object(verdict: Verdict):
    content: dict[str, Any] = json.loads(json.dumps(verdict_content(verdict)))
    for broken in ({**content, "outcome": "green"}, {**content, "more": 1}, {**content, "exit_code": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, verdict_schema())


def test_the_same_input_gives_the_same_bytes(verdict: Verdict, tmp_path: Path):
    for name in ("1", "2"):
        write_verdict(tmp_path / name, verdict)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_junit_has_a_test_for_each_rule_and_case_and_skips_what_is_unmeasured(verdict: Verdict, tmp_path: Path):
    write_junit(tmp_path / "junit.xml", verdict)
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    counts = {name: int(root.get(name, "-1")) for name in ("tests", "failures", "skipped", "errors")}
    tests = list(root.iter("testcase"))
    failed, skipped = ([test for test in tests if test.find(tag) is not None] for tag in ("failure", "skipped"))
    assert counts == {"tests": len(tests), "failures": len(failed), "skipped": len(skipped), "errors": 0}
    assert len(tests) == 60 + len(verdict.findings)
    by_name = {test.get("name"): test for test in tests}
    element = by_name["c50"].find("skipped")
    assert element is not None and element.get("message") == "faithfulness unmeasured (judge_timeout): no answer within 60 s"
    element = by_name["c00"].find("failure")
    assert element is not None and "faithfulness 0.200 < 0.7" in (element.get("message") or "")
    assert by_name["not_worse_than_baseline"].find("failure") is not None


def test_junit_bears_any_text(results: Callable[..., Path], tmp_path: Path):
    cases = [case(HOSTILE, good(faithfulness=0.1), question=HOSTILE, answer=HOSTILE), case("b", good())]
    write_junit(tmp_path / "junit.xml", decide(read_run(results(cases)), rules=GateRules()))
    names = [test.get("name") for test in ElementTree.parse(tmp_path / "junit.xml").getroot().iter("testcase")]
    assert any(name and "<script>" in name for name in names)


def test_markdown_begins_with_its_marker_and_names_the_newly_failing_with_both_answers(verdict: Verdict):
    text = verdict_markdown(verdict)
    assert text.startswith(f"{marker('보험')}\n## 보험 2026w46: ❌ fail\n")
    assert "### Newly failing: 12" in text and "### Newly passing: 1" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| c03 |")]
    assert "c03 답변" in row and "new 3" in row and "faithfulness 0.900 → 0.200" in row
    assert "컨텍스트는 60일이라고 한다." in row, "the judge's reason"


def test_markdown_stays_below_githubs_limit_and_says_what_was_cut(results: Callable[..., Path]):
    count = 3000
    before = [case(f"case-{n:05d}", good(), answer="가" * 3000) for n in range(count)]
    after = [case(f"case-{n:05d}", good(faithfulness=0.1), answer="나" * 3000) for n in range(count)]
    candidate = read_run(results(after, "after.json"))
    comparison = compare_runs(read_run(results(before, "before.json")), candidate)
    text = verdict_markdown(decide(candidate, rules=GateRules(), comparison=comparison))
    assert len(text.encode()) <= COMMENT_LIMIT < 65_536
    assert "### Newly failing: 3000" in text and "more" in text
    assert len(comparison_markdown(comparison, limit=900).encode()) <= 900


def test_nothing_of_a_dataset_becomes_markup_in_the_comment(results: Callable[..., Path]):
    before = [case(f"{HOSTILE}{n}", good(), question=HOSTILE, answer=HOSTILE) for n in range(25)]
    after = [case(f"{HOSTILE}{n}", good(faithfulness=0.1), question=HOSTILE, answer=HOSTILE) for n in range(25)]
    candidate = read_run(results(after, "after.json", dataset_name="x --> <b>", snapshot=HOSTILE))
    comparison = compare_runs(read_run(results(before, "before.json")), candidate)
    text = verdict_markdown(decide(candidate, rules=GateRules(), comparison=comparison))
    assert "<script>" not in text and "<b>" not in text and "\n# b" not in text
    assert text.splitlines()[0].count("-->") == 1


def test_an_inconclusive_comment_says_how_to_read_it_and_what_it_counts_as(results: Callable[..., Path]):
    run = read_run(results([case("a", good())]))
    text = verdict_markdown(decide(run, rules=GateRules(inconclusive=Outcome.FAIL)))
    assert "Inconclusive is neither a pass nor a fail" in text and "Here it counts as a fail." in text


def test_a_rule_that_did_not_pass_is_an_annotation_of_its_level(verdict: Verdict, results: Callable[..., Path]):
    lines = list(annotation_lines(verdict))
    assert any(line.startswith("::error title=not_worse_than_baseline::") for line in lines)
    assert all("\n" not in line for line in lines)
    green = decide(read_run(results([case(f"c{n}", good()) for n in range(100)])), rules=GateRules())
    (notice,) = annotation_lines(green)
    assert notice.startswith("::notice title=보험 2026w46::PASS")


def test_the_job_summary_and_the_outputs_are_appended_to_the_runners_files(
    verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        (tmp_path / name).write_text("before\n")
        monkeypatch.setenv(name, str(tmp_path / name))
    tell_actions(verdict)
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text(encoding="utf-8").startswith("before\n<!-- evalvault: ")
    told = dict(line.split("=", 1) for line in (tmp_path / "GITHUB_OUTPUT").read_text(encoding="utf-8").splitlines()[1:])
    assert told == outputs(verdict)
    assert (told["outcome"], told["cases"], told["pass_rate"]) == ("fail", "60", f"{46 / 60:.4f}")
    assert capsys.readouterr().out.splitlines() == list(annotation_lines(verdict))


PHOENIX = "http://phoenix:6006/datasets/RGF0%3D/compare?experimentId=RXhw%3D"


def test_a_run_that_is_in_phoenix_is_linked_from_the_comment_and_the_page(results: Callable[..., Path], tmp_path: Path) -> None:
    experiment = {"url": PHOENIX, "compare_url": f"{PHOENIX}&experimentId=Mg%3D"}
    run = read_run(results([case("c1", good())], tracker_metadata={"phoenix": {"experiment": experiment}}))
    verdict = decide(run, rules=GateRules())
    told = verdict_markdown(verdict)
    assert f"Phoenix: [the experiment]({PHOENIX}) · [beside the baseline]({PHOENIX}&experimentId=Mg%3D)" in told
    write_html(tmp_path / "report.html", verdict)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f'<a href="{PHOENIX}">the experiment</a>' in page and "beside the baseline</a>" in page


@pytest.mark.parametrize("url", ["javascript:alert(1)", 'http://a/"><script>', "http://a/) [b](c", None, 3, "http://a/ b"])
def test_what_is_no_address_of_a_page_is_no_link(results: Callable[..., Path], url: object) -> None:
    run = read_run(results([case("c1", good())], tracker_metadata={"phoenix": {"experiment": {"url": url}}}))
    assert run.phoenix_links == {} and "Phoenix" not in verdict_markdown(decide(run, rules=GateRules()))
