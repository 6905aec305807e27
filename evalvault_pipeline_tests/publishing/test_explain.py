"""`evalvault explain` and the report say why: what the judge said stands beside the value, for every metric."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cli import main
from evalvault_pipeline.publishing.markdown import why
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judged import RUBRIC
from evalvault_pipeline_tests.scoring.test_evidence import CASE, KEPT, LLM_METRICS

Command = Callable[..., tuple[int, str, str]]
HOSTILE = "[red]not said[/red] \x1b[2J | `x` <b>"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the console script in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evalvault", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """The double, chosen by the environment, as a user chooses a judge."""
    with OpenAIServer() as server:
        monkeypatch.setenv("EVALVAULT_PROFILE", "openai")
        monkeypatch.setenv("EVALVAULT_JUDGE_MODEL", "gpt-4o-mini")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a catalog that has a rubric, and a dataset of two cases."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALVAULT_TOKENIZER", "ngram")
    rubric = "\n".join(f'{key} = "{text}"' for key, text in RUBRIC.items())
    dataset = f'[datasets.claims]\ndescription = "d"\nfiles = "claims/*"\nlanguage = "en"\nmetrics = ["rubric"]\n[datasets.claims.rubric]\n{rubric}\n'
    write(tmp_path / "data" / "catalog.toml", dataset)
    case = {"question": CASE.question, "answer": CASE.answer, "contexts": CASE.contexts, "ground_truth": CASE.ground_truth}
    cases = [{"id": "claims-0001", **case}, {"id": "claims-0002", **case, "answer": "Nobody knows.", "ground_truth": None}]
    write(tmp_path / "data" / "claims" / "w1.json", json.dumps({"name": "claims", "test_cases": cases}))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def texts_of(evidence: Any) -> Iterator[str]:
    """Every text and number in a score's evidence, as it should be printed; a verdict is printed as yes or NO."""
    if isinstance(evidence, Mapping):
        for name, value in evidence.items():
            if name not in ("verdict", "answered"):
                yield from texts_of(value)
    elif isinstance(evidence, list):
        for item in evidence:
            yield from texts_of(item)
    else:
        yield str(evidence)


def sections(printed: str) -> dict[str, str]:
    """Metric -> what is printed of it, in one line."""
    blocks = [" ".join(block.split()) for block in printed.split("\n\n")[1:]]
    return {block.split()[0]: block for block in blocks}


def test_explain_prints_the_evidence_of_every_metric(project: Path, judge: OpenAIServer, command: Command) -> None:
    """Statements, verdicts, reasons, questions, ratings and feedback: whoever doubts a number can read what it rests on."""
    done = command("run", "data/claims/w1.json", "-m", ",".join(LLM_METRICS), "-o", "results.json")
    assert done[0] == 0, done[2]
    calls = judge.calls.total()
    code, printed, _ = command("explain", "claims-0001", "--results", "results.json")
    assert (code, judge.calls.total()) == (0, calls), "explaining asks no judge"
    assert re.match(r"results.json: claims w1, run \w+, judge openai/gpt-4o-mini\n", printed)
    for text in (CASE.question, CASE.answer, CASE.ground_truth or ""):
        assert text in " ".join(printed.split())
    found = sections(printed)
    assert set(found) == set(LLM_METRICS)
    for name, evidence in KEPT.items():
        missing = [text for text in texts_of(evidence) if " ".join(text.split()) not in found[name]]
        assert missing == [], name
        assert "version ragas-0.4.3" in found[name] and "by openai/" in found[name]
    assert "yes The cancer benefit is 30,000 dollars. The given text says so. NO It is paid" in found["faithfulness"]
    assert found["faithfulness"].startswith("faithfulness 0.500 failed (passes at >= 0.7)")
    assert found["noise_sensitivity"].startswith("noise_sensitivity 0.000 passed (passes at <= 0.3)")


def test_explain_says_why_a_score_is_missing(project: Path, judge: OpenAIServer, command: Command) -> None:
    judge.answer = lambda schema, prompt, *, occurrence=0: {"reason": "r", "verdict": 7, "rating": 9}
    command("run", "data/claims/w1.json", "-m", "context_recall,response_groundedness", "-o", "results.json")
    found = sections(command("explain", "claims-0002", "--results", "results.json")[1])
    assert found["context_recall"].startswith("context_recall no_field: the case has no ground_truth unmeasured")
    assert found["response_groundedness"].startswith("response_groundedness unparsable: asked twice, the judge gave no usable")
    assert "`rating` is 9, and must be one of 0, 1, 2" in found["response_groundedness"]


def test_what_the_judge_says_is_printed_and_not_obeyed(project: Path, judge: OpenAIServer, command: Command) -> None:
    """A reason may hold rich's markup, an escape sequence or Markdown."""
    judge.answer = lambda schema, prompt, *, occurrence=0: {"feedback": HOSTILE, "score": 1}
    done = command("run", "data/claims/w1.json", "-m", "rubric", "-o", "results.json", "--report", "report.md")
    assert done[0] == 0, done[2]
    printed = command("explain", "claims-0001", "--results", "results.json")[1]
    assert "feedback: [red]not said[/red] �[2J | `x` <b>" in printed
    assert "\x1b[2J" not in printed + done[1]
    assert r"rating 1: \[red\]not said\[/red\]" in (project / "report.md").read_text(encoding="utf-8")


# Which file ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(project: Path, command: Command) -> Path:
    """A results file of a run without a judge."""
    done = command("run", "data/claims/w1.json", "-m", "chrf", "-o", "results.json")
    assert done[0] == 0, done[2]
    return project / "results.json"


def test_without_a_file_the_newest_of_the_results_folder_is_explained(results: Path, command: Command) -> None:
    for number, snapshot in enumerate(("w2", "w1")):
        copy = write(
            results.parent / "data" / "results" / "claims" / snapshot / "results.json", results.read_text(encoding="utf-8")
        )
        os.utime(copy, (1_800_000_000 + number, 1_800_000_000 + number))
    code, printed, _ = command("explain", "claims-0001")
    assert (code, printed.split(":")[0]) == (0, str(Path("data/results/claims/w1/results.json")))


def test_an_older_file_is_explained_where_only_it_has_the_case(results: Path, command: Command) -> None:
    content = json.loads(results.read_text(encoding="utf-8"))
    folder = results.parent / "data" / "results" / "claims"
    os.utime(write(folder / "old" / "results.json", json.dumps(content)), (1_800_000_000, 1_800_000_000))
    content["results"] = content["results"][:1]
    os.utime(write(folder / "new" / "results.json", json.dumps(content)), (1_800_000_009, 1_800_000_009))
    assert "old" in command("explain", "claims-0002")[1].split(":")[0]


@pytest.mark.parametrize(
    ("asked", "said"), [("claims-001", "Did you mean `claims-0001`?"), ("xyz", "Known: claims-0001, claims-0002.")]
)
def test_an_unknown_case_is_named_with_one_that_is_near(asked: str, said: str, results: Path, command: Command) -> None:
    code, _, error = command("explain", asked, "--results", "results.json")
    assert (code, error.count("\n")) == (2, 1)
    assert error == f"evalvault: No results hold a case `{asked}` (looked in results.json). {said}\n"


def test_without_any_results_the_way_to_some_is_named(project: Path, command: Command) -> None:
    code, _, error = command("explain", "claims-0001")
    assert code == 2
    assert "looked in data/results/*/*/results.json; --results names another file" in error
    assert "evalvault run --output" in error


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "not JSON",
        "[]",
        "7",
        '{"name": "claims", "test_cases": []}',
        '{"results": 7}',
        '{"results": [{"id": "claims-0001"}]}',
        '{"results": [{"test_case_id": "claims-0001"}]}',
    ],
)
def test_a_file_that_is_no_results_file_is_named(content: str | None, project: Path, command: Command) -> None:
    if content is not None:
        write(project / "other.json", content)
    code, _, error = command("explain", "claims-0001", "--results", "other.json")
    assert code == 2
    assert error == "evalvault: other.json is no results file. Name one that `evalvault run --output` wrote.\n"


def test_a_broken_newer_file_of_the_folder_hides_no_older_one(project: Path, judge: OpenAIServer, command: Command) -> None:
    old, new = (project / "data" / "results" / "claims" / week / "results.json" for week in ("w1", "w2"))
    assert command("run", "data/claims/w1.json", "-m", "faithfulness", "-o", str(old))[0] == 0
    write(new, "{")
    os.utime(new, (2_000_000_000, 2_000_000_000))
    assert command("explain", "claims-0001")[0] == 0
    code, _, error = command("explain", "claims-0009")
    assert code == 2 and f"{new.relative_to(project)} is no results file" in error


# The report ---------------------------------------------------------------------------------------------------------------


def test_the_reports_worst_cases_say_why(project: Path, judge: OpenAIServer, command: Command) -> None:
    done = command("run", "data/claims/w1.json", "-m", "faithfulness,rubric,answer_accuracy", "--report", "report.md")
    assert done[0] == 0, done[2]
    report = (project / "report.md").read_text(encoding="utf-8")
    (row,) = [line for line in report.splitlines() if line.startswith("| claims-0001")]
    assert "faithfulness 0.500 (not borne out: It is paid within 3 days.: The given text does not say so.)" in row
    (terminal,) = [done[1][done[1].index("Worst cases") :]]
    assert "not borne out: It is paid within 3 days." in " ".join(terminal.replace("│", " ").split())


WHY = {
    "faithfulness": "not borne out: It is paid within 3 days.",
    "answer_relevancy": "it answers: What is known about",
    "context_precision_without_reference": "context 2: The given text does not say so.",
    "factual_correctness": "(and 1 more)",
    "answer_accuracy": "ratings 0, 0",
    "context_relevance": "ratings 2, 2",
    "response_groundedness": "ratings 1, 1",
    "noise_sensitivity": "It is paid within 3 days.",
    "rubric": "rating 1: The given text does not say so.",
}


@pytest.mark.parametrize("name", WHY)
def test_the_reason_of_each_metric_is_what_speaks_against_the_case(name: str) -> None:
    assert WHY[name] in why(KEPT[name])


@pytest.mark.parametrize("name", ["context_precision", "context_recall", "semantic_similarity"])
def test_where_nothing_speaks_against_the_case_no_reason_is_made_up(name: str) -> None:
    assert why(KEPT[name]) == ""


def test_a_bad_summary_is_one_that_leaves_questions_open() -> None:
    assert "Is '000' mentioned?" in why(KEPT["summary_score"])


def test_one_noncommittal_reply_of_three_is_not_the_reason() -> None:
    """ragas makes the score 0 only where all three are; else the cosine is the score."""
    evidence = {"questions": ["q1", "q2", "q3"], "noncommittal": 1, "cosine": 0.3}
    assert why(evidence) == "it answers: q1"
    assert why({"questions": ["q1", "q2", "q3"], "noncommittal": 3}) == "it is noncommittal"
