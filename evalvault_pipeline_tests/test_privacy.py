"""The firewall as a user meets it: personal data in every field of a file, and no trace of it in anything that a run leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.pii_words import Kind
from evalvault_pipeline_tests.cases.labelled import read_labelled, scored
from evalvault_pipeline_tests.cases.test_pii import spans
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.stack import UserProject

VALUES = {
    Kind.PHONE: "010-8417-2093",
    Kind.EMAIL: "gildong.hong@example.com",
    Kind.SSN: "900101-1284173",
    Kind.BUSINESS_NUMBER: "123-45-84179",
    Kind.PASSPORT: "M84172093",
    Kind.DRIVER_LICENSE: "11-20-841720-93",
    Kind.CARD: "4111-1111-1111-1111",
    Kind.ACCOUNT: "110-841-720931",
}
TOLD = (
    "연락처 {PHONE}로, 메일 {EMAIL}으로, 주민번호 {SSN}, 사업자번호 {BUSINESS_NUMBER}, 여권 {PASSPORT}, 면허 {DRIVER_LICENSE}, "
    "카드 {CARD}, 계좌 {ACCOUNT}. 보험금 3,000만원은 제12조에 따라 2026-11-24부터 지급합니다."
).format(**VALUES)
# Also in the spellings that other tools would leave, and as the numbers alone.
TRACES = [re.sub(r"\D", "", value)[-8:] for value in VALUES.values() if any(map(str.isdigit, value))] + [
    *VALUES.values(),
    "gildong",
]


@pytest.fixture
def judge() -> Iterator[OpenAIServer]:
    with OpenAIServer(record=True) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, judge: OpenAIServer) -> UserProject:
    return UserProject(
        tmp_path / "project", EVALVAULT_PROFILE="openai", OPENAI_API_KEY="a-key-of-loopback", OPENAI_BASE_URL=judge.base_url
    )


def personal(project: UserProject, name: str = "2026w47.json") -> Path:
    case = {
        "id": "p1",
        "question": TOLD,
        "answer": TOLD,
        "contexts": [TOLD, TOLD.replace("-", " ")],
        "ground_truth": TOLD,
        "metadata": {"note": TOLD, VALUES[Kind.EMAIL]: 1, "phone": 1084172093, "keywords": [VALUES[Kind.PHONE]]},
    }
    file = project.folder / "data" / "datasets" / "people" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps({"name": f"of {VALUES[Kind.EMAIL]}", "test_cases": [case]}, ensure_ascii=False), encoding="utf-8"
    )
    return file


def traces_in(text: bytes) -> list[str]:
    return [trace for trace in TRACES if trace.encode() in text]


def left_behind(folder: Path, *but: Path) -> dict[str, list[str]]:
    """File -> what stands in it of the values, of all files of a folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and file not in but]
    assert files
    return {str(file): found for file in files if (found := traces_in(file.read_bytes()))}


def test_no_judge_file_store_or_line_of_a_run_sees_personal_data(project: UserProject, judge: OpenAIServer) -> None:
    file = personal(project)
    done = project.run(
        *(
            "evalvault",
            "run",
            str(file),
            "-m",
            "faithfulness,answer_relevancy,number_consistency,keyword_coverage",
            "--verbose",
        ),
        *("-o", "results.json", "--report", "report.md"),
    )
    assert traces_in((done.stdout + done.stderr).encode()) == []
    assert judge.requests and traces_in(json.dumps(judge.requests, ensure_ascii=False).encode()) == []
    assert left_behind(project.folder, file) == {}
    results: dict[str, Any] = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    (case,) = results["results"]
    assert case["question"] == case["answer"] == case["ground_truth"]
    assert "연락처 [PHONE_1]로, 메일 [EMAIL_1]으로" in case["question"]
    assert "보험금 3,000만원은 제12조에 따라 2026-11-24부터" in case["question"]
    assert {kind.value for kind in Kind} <= set(results["pii"]["masked"])
    assert (results["pii"]["policy"], results["pii"]["cases"]) == ("redact", 1)
    scores = {score["name"]: score["score"] for score in case["metrics"]}
    assert scores["number_consistency"] == scores["keyword_coverage"] == 1.0  # answer, contexts and keyword still match
    assert "masked: 6 ACCOUNT" in (project.folder / "report.md").read_text(encoding="utf-8")


def test_nothing_that_dagster_keeps_holds_personal_data(project: UserProject) -> None:
    file = personal(project)
    with (project.folder / "data" / "catalog.toml").open("a", encoding="utf-8") as catalog:
        catalog.write('\n[datasets.people]\nfiles = "datasets/people/*"\nmetrics = ["chrf"]\n')
    done = project.run("evalvault", "backfill", "people", check=False)
    assert "(run " in done.stdout, done.stderr
    assert traces_in((done.stdout + done.stderr).encode()) == []
    assert left_behind(project.folder, file) == {}
    report = project.results("people", "2026w47")
    assert report["pii"]["masked"]["PHONE"] == 8
    checked = project.run("evalvault", "catalog", "check", COLUMNS="200")
    assert "8 PHONE" in checked.stdout


def test_a_file_whose_first_row_is_no_header_tells_nobody_of_the_people_in_it(project: UserProject) -> None:
    good = project.folder / "data" / "datasets" / "people" / "2026w47.csv"
    good.parent.mkdir()
    good.write_text("id,question,answer,contexts\nq1,얼마?,3만원,3만원\n", encoding="utf-8")
    catalog = '[datasets.people]\nfiles = "datasets/people/*"\nmetrics = ["chrf"]\n'
    (project.folder / "data" / "catalog.toml").write_text(catalog, encoding="utf-8")
    in_dagster = ("-m", "evalvault_pipeline.definitions")
    project.run("dagster", "job", "execute", *in_dagster, "-j", "register_snapshots_job")
    numbers = ",".join(VALUES[kind] for kind in (Kind.PHONE, Kind.SSN, Kind.EMAIL))
    good.write_text(f"p1,{numbers},계좌 {VALUES[Kind.ACCOUNT]}\n", encoding="utf-8")
    repeated, threshold = good.with_name("2026w48.csv"), good.with_name("2026w49.csv")
    repeated.write_text(f"p1,{VALUES[Kind.PHONE]},{VALUES[Kind.PHONE]}\n", encoding="utf-8")
    digits = re.sub(r"\D", "", VALUES[Kind.PHONE])[1:]
    header = "id,question,answer,contexts,threshold_chrf"
    threshold.write_text(f"{header}\nq1,얼마?,3만원,3만원,{digits}\n", encoding="utf-8")
    partition = ("--select", "people/cases", "--partition", "2026w47/0001")
    for command in (
        ("dagster", "asset", "materialize", *in_dagster, *partition),
        ("dagster", "job", "execute", *in_dagster, "-j", "register_snapshots_job"),
        ("dagster", "job", "execute", *in_dagster, "-j", "all_datasets_evaluation_job"),
        ("evalvault", "backfill", "people"),
        ("evalvault", "catalog", "check"),
        *(("evalvault", "run", str(file), "-m", "chrf") for file in (good, repeated, threshold)),
    ):
        done = project.run(*command, check=False, COLUMNS="400")
        assert done.returncode, command
        assert traces_in((done.stdout + done.stderr).encode()) == [], command
    assert left_behind(project.folder, good, repeated, threshold) == {}
    runs = (project.folder / "data" / ".dagster" / "history" / "runs").glob("*.db")
    assert sum(b"found: p1, [PHONE], [SSN], [EMAIL], " in file.read_bytes() for file in runs) >= 2


def test_block_refuses_the_file_before_the_judge_is_asked_and_skips_rows_on_demand(
    project: UserProject, judge: OpenAIServer
) -> None:
    file = personal(project)
    refused = project.run("evalvault", "run", str(file), "-m", "faithfulness", "--pii", "block", check=False)
    assert (refused.returncode, judge.requests) == (2, [])
    assert "question: holds a phone number and an e-mail address and" in refused.stderr
    assert traces_in((refused.stdout + refused.stderr).encode()) == []
    content = json.loads(file.read_text(encoding="utf-8"))
    content["test_cases"].append(
        {"id": "g", "question": "얼마?", "answer": "3만원", "contexts": ["3만원"], "ground_truth": "3만원"}
    )
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    options = ("-m", "chrf", "--skip-bad-rows", "-o", "results.json")
    project.run("evalvault", "run", str(file), *options, EVALVAULT_PII="block")
    results = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    assert (results["total_test_cases"], len(results["skipped_rows"]), results["pii"]["policy"]) == (1, 1, "block")
    assert left_behind(project.folder, file) == {}


def test_off_warns_in_the_log_and_in_the_report_and_the_log_is_still_redacted(project: UserProject) -> None:
    file = personal(project)
    done = project.run("evalvault", "run", str(file), *"-m chrf --pii off -o results.json --report report.md".split())
    assert "personal data is NOT masked" in done.stderr
    assert "pii is off: personal data is NOT masked" in " ".join(done.stdout.split())
    assert "**pii is off: personal data is NOT masked**" in (project.folder / "report.md").read_text(encoding="utf-8")
    assert VALUES[Kind.PHONE] in (project.folder / "results.json").read_text(encoding="utf-8")
    logs = project.folder / "data" / "results" / "logs"
    assert left_behind(logs) == {}


# --- what docs/privacy.md says


def figures(name: str) -> str:
    """Recall and precision on a labelled file, as docs/privacy.md prints them."""
    score = scored(read_labelled(name), spans)
    return f"{score.recall():.3f} | {score.precision():.3f}"


@pytest.mark.parametrize(
    "name", ["pii_suite.jsonl", "pii_held_out.jsonl", "pii_fresh.jsonl", "pii_unseen.jsonl", "pii_unseen_2.jsonl"]
)
def test_the_figures_of_the_privacy_page_are_those_measured_now(name: str) -> None:
    strings = read_labelled(name)
    page = (PROJECT / "docs" / "privacy.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("|") and name in line and "as they are now" in line)
    labels, negatives = sum(len(one.spans) for one in strings), sum(not one.spans for one in strings)
    assert f"| {len(strings)} | {labels} | {negatives} | {figures(name)} |" in row


def test_every_label_and_policy_is_documented() -> None:
    page = (PROJECT / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert all(f"`[{kind.value}_1]`" in page for kind in Kind)
    assert all(f"`{policy}`" in page for policy in ("redact", "block", "off"))
