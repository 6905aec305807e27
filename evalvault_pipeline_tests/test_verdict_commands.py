"""`evalvault compare`, `gate`, `report` and `baseline` as processes: exit codes, files, and what bad input gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evalvault_pipeline.publishing.verdict_file import verdict_schema
from evalvault_pipeline_tests.results_files import case, good, write_results
from evalvault_pipeline_tests.stack import UserProject

WEEKS = ("2026w45", "2026w46", "2026w47")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> UserProject:
    """A project with a results file for each of three weeks, the second of which is worse."""
    found = UserProject(tmp_path_factory.mktemp("project"))
    for week in WEEKS:
        found.run("evalvault", "run", f"data/datasets/insurance_qa/{week}.json", "--output", f"{week}.json")
    return found


def run_id(project: UserProject, week: str) -> str:
    return str(json.loads((project.folder / f"{week}.json").read_text(encoding="utf-8"))["run_id"])


def gate(project: UserProject, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = project.run("evalvault", "gate", *arguments, check=False, **environment)
    return done.returncode, done.stdout, done.stderr


def test_compare_as_the_guide_writes_it_makes_a_page_of_what_changed(project: UserProject) -> None:
    done = project.run("evalvault", "compare", "2026w45.json", "2026w46.json", "--output", "comparison.md")
    text = (project.folder / "comparison.md").read_text(encoding="utf-8")
    assert "### Newly failing: " in text and "| **pass rate** |" in text and "cannot be seen" in text
    assert "comparison: comparison.md" in done.stdout and "newly failing" in done.stdout.lower()


@pytest.mark.parametrize(("name", "starts"), [("comparison.json", "{"), ("comparison.html", "<!doctype html>")])
def test_compare_writes_what_the_name_of_its_output_asks_for(project: UserProject, name: str, starts: str) -> None:
    project.run("evalvault", "compare", "2026w47.json", "--baseline", "2026w45.json", "--output", name)
    assert (project.folder / name).read_text(encoding="utf-8").lower().startswith(starts)


def test_a_worse_week_fails_the_gate_on_every_surface_alike(project: UserProject) -> None:
    code, shown, errors = gate(
        *(project, "2026w46.json", "--baseline", "2026w45.json", "--verdict", "verdict.json"),
        *("--junit", "junit.xml", "--markdown", "comment.md", "--html", "gate.html"),
    )
    assert (code, errors) == (1, "")
    verdict = json.loads((project.folder / "verdict.json").read_text(encoding="utf-8"))
    jsonschema.validate(verdict, verdict_schema())
    assert (verdict["outcome"], verdict["exit_code"]) == ("fail", 1)
    assert "❌ fail" in (project.folder / "comment.md").read_text(encoding="utf-8").splitlines()[1]
    assert 'name="outcome" value="fail"' in (project.folder / "junit.xml").read_text(encoding="utf-8")
    assert "fail" in shown and "<html" in (project.folder / "gate.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--min-pass-rate", "0.5"), 0),
        (("--min-pass-rate", "0.5", "--baseline", "same.json"), 0),
        ((), 4),
        (("--inconclusive", "pass"), 0),
        (("--inconclusive", "fail"), 1),
        (("--min-pass-rate", "0.99"), 1),
        (("--min-pass-rate", "0.99", "--inconclusive", "pass"), 1),
        (("--min-pass-rate", "2"), 2),
        (("--inconclusive", "green"), 2),
    ],
)
def test_the_exit_code_says_the_outcome(project: UserProject, options: tuple[str, ...], code: int) -> None:
    """With 64 cases only some minimums can be decided on."""
    (project.folder / "same.json").write_bytes((project.folder / "2026w45.json").read_bytes())
    assert gate(project, "2026w45.json", *options)[0] == code


def test_a_baseline_is_the_run_before_a_run_of_the_store_or_the_promoted_one(project: UserProject) -> None:
    assert "2026w45" in project.run("evalvault", "compare", "2026w46.json", "--baseline", "latest").stdout
    shown = project.run("evalvault", "compare", "2026w47.json", "--baseline", run_id(project, "2026w45")).stdout
    assert "2026w45" in shown
    nothing = project.run("evalvault", "compare", "2026w47.json", "--baseline", "promoted", check=False)
    assert (nothing.returncode, "evalvault baseline set RUN_ID" in nothing.stderr) == (2, True)
    promoted = project.run("evalvault", "baseline", "set", run_id(project, "2026w45"), "--by", "kim", "--note", "release 1")
    assert "promoted by kim" in promoted.stdout
    assert "2026w45" in project.run("evalvault", "compare", "2026w47.json", "--baseline", "promoted").stdout
    told = project.run("evalvault", "baseline", "show").stdout
    assert f"run {run_id(project, '2026w45')}" in told and "promoted by kim" in told and "release 1" in told
    assert project.run("evalvault", "baseline", "show", "nothing", check=False).returncode == 2


def test_the_report_of_a_run_is_one_file_in_the_language_asked_for(project: UserProject) -> None:
    project.run("evalvault", "report", "2026w46.json", "--baseline", "2026w45.json", "-o", "report.html", "--language", "en")
    text = (project.folder / "report.html").read_text(encoding="utf-8")
    assert 'lang="en"' in text and "http://" not in text.replace("http://www.w3.org", "")


def changed(project: UserProject, name: str, edit: Callable[[str], str]) -> str:
    (project.folder / name).write_text(edit((project.folder / "2026w46.json").read_text(encoding="utf-8")), encoding="utf-8")
    return name


def nothing_in_it(text: str) -> str:
    content = json.loads(text)
    return json.dumps({**content, "results": [], "total_test_cases": 0, "passed_test_cases": 0})


def first_case_twice(text: str) -> str:
    content = json.loads(text)
    return json.dumps({**content, "results": [*content["results"], content["results"][0]]})


def other_cases(text: str) -> str:
    content = json.loads(text)
    for number, one in enumerate(content["results"]):
        one["test_case_id"] = f"other-{number}"
    return json.dumps(content)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (nothing_in_it, "holds no case"),
        (other_cases, "have no case in common"),
        (first_case_twice, "stands twice"),
        (lambda text: text.replace('"score": 0', '"score": NaN, "was": 0', 1), "NaN is no score"),
        (lambda text: text.replace('"schema_version": "1.', '"schema_version": "9.', 1), "is of schema version 9."),
        (lambda text: text[: len(text) // 2], "not whole"),
        (lambda text: "", "not whole"),
        (lambda text: text.replace('"schema_version"', '"version"', 1), "has no schema_version"),
    ],
)
@pytest.mark.parametrize("place", ["candidate", "baseline"])
def test_a_file_that_no_run_wrote_gets_no_verdict(
    project: UserProject, edit: Callable[[str], str], said: str, place: str
) -> None:
    """A message of one line, exit code 2, and nothing left of the verdict before."""
    name = changed(project, "broken.json", edit)
    (project.folder / "stale.json").write_text('{"outcome": "pass"}')
    files = (name, "2026w45.json") if place == "candidate" else ("2026w45.json", name)
    code, shown, errors = gate(project, files[0], "--baseline", files[1], "--verdict", "stale.json")
    assert (code, shown) == (2, "")
    empty_baseline = place == "baseline" and edit is nothing_in_it
    assert ("no case in common" if empty_baseline else said) in errors
    assert len(errors.strip().splitlines()) == 1 and "Traceback" not in errors
    assert not (project.folder / "stale.json").exists()


def test_a_store_that_does_not_answer_is_exit_code_3_and_no_verdict(project: UserProject) -> None:
    dead = {"EVALVAULT_STORE_URL": "postgresql://nobody:none@127.0.0.1:9/none"}
    code, shown, errors = gate(project, "2026w46.json", "--baseline", "latest", "--verdict", "dead.json", **dead)
    assert (code, shown, (project.folder / "dead.json").exists()) == (3, "", False)
    assert "none@" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "2026w45.json"),
        ("compare", "2026w45.json", "2026w46.json", "--baseline", "latest"),
        ("compare", "2026w45.json", "none.json"),
        ("compare", "2026w45.json", "2026w46.json", "--output", "2026w46.json"),
        ("gate", "2026w46.json", "--verdict", "same.out", "--junit", "same.out"),
        ("gate", "2026w46.json", "--baseline", "no-such-run"),
        ("report", "2026w46.json", "--output", "2026w46.json"),
        ("baseline", "set", "no-such-run"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_harms_no_input(project: UserProject, arguments: tuple[str, ...]) -> None:
    before = (project.folder / "2026w46.json").read_bytes()
    assert project.run("evalvault", *arguments, check=False).returncode == 2
    assert (project.folder / "2026w46.json").read_bytes() == before


def test_in_github_actions_the_gate_annotates_and_tells_the_next_steps(project: UserProject) -> None:
    files = {name: project.folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = {"GITHUB_ACTIONS": "true", **{name: str(file) for name, file in files.items()}}
    code, shown, _ = gate(project, "2026w46.json", "--baseline", "2026w45.json", **environment)
    assert code == 1 and "::error title=" in shown
    assert "outcome=fail\n" in files["GITHUB_OUTPUT"].read_text(encoding="utf-8")
    assert "❌ fail" in files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")


def test_another_judge_is_inconclusive_unless_it_is_allowed(project: UserProject) -> None:
    def write(name: str, faithfulness: float, **header: Any) -> str:
        cases = [case(f"c{n:03d}", good(faithfulness=faithfulness if n < 40 else 0.9)) for n in range(200)]
        write_results(Path(project.folder, name), cases, **header)
        return name

    before, after = write("old-judge.json", 0.9, model_name="ollama/gemma3:1b"), write("new-judge.json", 0.1)
    assert gate(project, after, "--baseline", before, "--min-pass-rate", "0.5")[0] == 4
    assert gate(project, after, "--baseline", before, "--min-pass-rate", "0.5", "--allow-judge-change")[0] == 1
