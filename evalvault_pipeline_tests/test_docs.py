"""The docs say what the code does: generated parts are current, names are complete, links resolve, examples run."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from evalvault_pipeline.cases.catalog import DatasetSpec, load_catalog
from evalvault_pipeline.cases.loading import READERS, inspect_dataset, read_cases
from evalvault_pipeline.cases.model import SCORED_METADATA
from evalvault_pipeline.cases.rows import ALIASES
from evalvault_pipeline.cases.text_files import MAX_CASE_CHARS
from evalvault_pipeline.errors import MalformedCases, PipelineError
from evalvault_pipeline.publishing import results_file
from evalvault_pipeline.reporting.catalog_check import check_catalog
from evalvault_pipeline.reporting.gate import Outcome
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.scoring.store import scores
from evalvault_pipeline.settings import DAGSTER_VARIABLES, PROCESS_VARIABLES, PROFILES, variables
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import BIN, UserProject

DOCS = PROJECT / "docs"
TEXTS = sorted([*PROJECT.glob("*.md"), *DOCS.rglob("*.md")])
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HOSTS = {"127.0.0.1", "localhost", "postgres", "keepachangelog.com"}


def test_no_page_holds_a_mark_for_what_is_still_to_be_written() -> None:
    marks = [f"{file.name}: {line}" for file in TEXTS for line in file.read_text("utf-8").splitlines() if line.isupper()]
    assert [mark for mark in marks if mark.split(": ", 1)[1].isalpha()] == []


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next of its level."""
    level = heading.split()[0]
    return text.split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    return [match["content"] for match in FENCE.finditer(text) if match["language"] == language]


def in_code(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


# --- what is generated


@pytest.mark.parametrize(
    "name", ["architecture.md", "cli.md", "configuration.md", "datasets.md", "metrics.md", "secrets.md", "results.schema.json"]
)
def test_the_generated_parts_are_what_the_code_says(name: str) -> None:
    """After a change that is meant: make docs, and read the diff."""
    assert generator().pages()[DOCS / name] == page(name)


def test_the_check_of_the_docs_ends_with_0_when_all_is_current() -> None:
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_of_the_docs_names_a_file_that_is_out_of_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {DOCS / "cli.md": "something else"}
    monkeypatch.setattr(generator(), "pages", lambda: old)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as end:
        generator().main()
    assert end.value.code == 1
    assert capsys.readouterr().err == "docs/cli.md is out of date: make docs\n"
    assert page("cli.md") != "something else"


# --- what must be named


def test_every_command_and_option_is_documented() -> None:
    text = page("cli.md")
    for name, command in generator().cli_commands():
        described = section(text, f"## {name}")
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts):
                if param.param_type_name == "option" and option != "--help":
                    assert re.search(rf"`{option}[ `]", described), f"{name} {option}"


def test_every_exit_code_is_documented() -> None:
    codes = {error.exit_code for error in _subclasses(PipelineError)} | {0, 1}
    codes |= {outcome.exit_code for outcome in Outcome}
    documented = set(re.findall(r"^\| (\d) \|", page("cli.md"), re.MULTILINE))
    assert documented == {str(code) for code in codes}


def _subclasses(error: type[PipelineError]) -> set[type[PipelineError]]:
    return {error}.union(*(_subclasses(child) for child in error.__subclasses__()))


def test_every_setting_and_profile_is_documented() -> None:
    assert {*variables(), *DAGSTER_VARIABLES, *PROCESS_VARIABLES, *PROFILES} <= in_code(page("configuration.md"))


def test_every_metric_has_its_row_its_formula_and_its_limits() -> None:
    text = page("metrics.md")
    limits = section(text, "## Evidence and limits")
    for metric in METRICS.values():
        assert f"| `{metric.name}` | " in text
        if metric.kind == "deterministic":
            assert f"\n### {metric.name}\n" in text
            assert f"| `{metric.name}` | " in limits
    assert all(
        "Source: " in section(text, f"### {metric.name}") for metric in METRICS.values() if metric.kind == "deterministic"
    )


def test_every_reason_why_a_score_is_unmeasured_is_documented() -> None:
    assert {f"`{reason.value}`" for reason in Reason} <= set(
        re.findall(r"`\w+`", section(page("metrics.md"), "## Why a score is unmeasured"))
    )


def test_every_asset_job_sensor_schedule_and_check_is_explained_outside_the_listing() -> None:
    listing = (PROJECT / "evalvault_pipeline_tests" / "definitions.txt").read_text(encoding="utf-8")
    text = FENCE.sub("", page("architecture.md"))
    for dataset in load_catalog(PROJECT / "data" / "catalog.toml").datasets:
        listing = re.sub(rf"\b{dataset}(?=[/_])(?!_en[/_])", "<dataset>", listing)
    kinds = ("asset", "check", "job", "schedule", "sensor")
    names = {line.split()[1] for line in listing.splitlines() if line.split()[0] in kinds}
    assert {"<dataset>/report", "new_snapshot_sensor", "every_case_scored"} <= names
    assert names <= in_code(text)


def test_every_catalog_key_file_ending_alias_and_scored_metadata_is_documented() -> None:
    named = in_code(page("datasets.md"))
    assert set(DatasetSpec.model_fields) - {"name", "folder"} <= named
    assert set(READERS) <= named
    assert {*ALIASES, *SCORED_METADATA} <= named
    assert f"{MAX_CASE_CHARS:,}" in page("datasets.md")


def test_every_key_of_the_results_and_every_column_of_the_tables_is_documented() -> None:
    named = in_code(page("results.md"))
    for kind in (
        results_file.ResultsFile,
        results_file.MetricEntry,
        results_file.CaseEntry,
        results_file.ScoreEntry,
        results_file.CacheEntry,
    ):
        assert set(get_type_hints(kind)) <= named, kind.__name__
    assert set(scores.columns.keys()) <= named


# --- links, commands, names


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_every_link_and_picture_resolves(file: Path) -> None:
    for match in LINK.finditer(FENCE.sub("", file.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        linked = (file.parent / target).resolve() if target else file
        assert linked.exists(), f"{file.name}: {match['target']}"
        if anchor:
            assert anchor in _anchors(linked), f"{file.name}: {match['target']}"


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_docs_is_in_the_index() -> None:
    linked = {match["target"] for match in LINK.finditer(page("README.md"))}
    pages = {file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md")} - {"README.md"}
    assert pages <= linked


def test_every_make_target_that_the_docs_name_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(file.read_text(encoding="utf-8") for file in TEXTS)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "dev", "check"} <= named <= targets


def tracked() -> list[Path]:
    if not (PROJECT / ".git").exists():
        return TEXTS
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    return [path for name in listed if (path := PROJECT / name).exists()]


def test_no_text_names_a_host_of_others_or_a_folder_of_one_machine() -> None:
    plain = {"Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"}
    for file in {*TEXTS, *(file for file in tracked() if file.suffix == ".md" or file.name in plain)}:
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"[a-z]://(?:\S+@)?([\w.-]+)", text)) - {"user"} <= HOSTS | {"folder", "host"}, file.name
        assert not re.search(r"(?<![\w.])/(?:work|root|tmp|home|Users)/\w", text), file.name


def test_both_readmes_have_the_same_headings_and_the_same_code() -> None:
    english, korean = ((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))
    ours, theirs = (re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE) for text in (english, korean))
    assert ours == theirs
    assert [match.group() for match in FENCE.finditer(english)] == [match.group() for match in FENCE.finditer(korean)]
    pictures = [
        [match["target"] for match in LINK.finditer(text) if match.group().startswith("!")] for text in (english, korean)
    ]
    assert pictures[0] == pictures[1]


# --- examples


FORMATS = [
    (kind, block) for kind in ("json", "jsonl", "csv") for block in blocks(page("datasets.md").split("## Bad rows")[0], kind)
]


@pytest.mark.parametrize(("kind", "content"), FORMATS, ids=[kind for kind, _ in FORMATS])
def test_an_example_of_a_dataset_file_loads(tmp_path: Path, kind: str, content: str) -> None:
    file = tmp_path / f"helpdesk.{kind}"
    file.write_text(content, encoding="utf-8")
    assert inspect_dataset(file).case_count == 2
    assert next(read_cases(file)).case_id == "reset"


def test_the_example_of_a_table_sets_a_threshold_and_the_metadata_that_metrics_read(tmp_path: Path) -> None:
    file = tmp_path / "helpdesk.csv"
    file.write_text(dict(FORMATS)["csv"], encoding="utf-8")
    assert inspect_dataset(file).header.thresholds == {"chrf": 0.3}
    first = next(read_cases(file))
    assert first.metadata == {"answerable": True, "keywords": ["Settings", "Reset password"], "product": "portal"}
    assert len(first.contexts) == 2


def test_the_example_that_makes_a_workbook_and_a_parquet_file_makes_the_same_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("helpdesk.csv").write_text(dict(FORMATS)["csv"], encoding="utf-8")
    (example,) = blocks(page("datasets.md"), "python")
    exec(example, {})
    digests = {inspect_dataset(Path(f"helpdesk.{ending}")).digest for ending in ("csv", "xlsx", "parquet")}
    assert len(digests) == 1


def test_the_example_of_bad_rows_is_refused_with_the_messages_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = section(page("datasets.md"), "## Bad rows")
    Path("bad.csv").write_text(blocks(bad, "csv")[0], encoding="utf-8")
    with pytest.raises(MalformedCases) as refusal:
        inspect_dataset(Path("bad.csv"))
    assert f"evalvault: {refusal.value}\n" == blocks(bad, "text")[0]


def test_the_example_of_the_catalog_has_every_key_and_is_fine(tmp_path: Path) -> None:
    (example,) = blocks(page("datasets.md"), "toml")
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(example, encoding="utf-8")
    file = tmp_path / "datasets" / "helpdesk" / "2026-11.json"
    file.parent.mkdir(parents=True)
    file.write_text(dict(FORMATS)["json"], encoding="utf-8")
    spec = load_catalog(catalog).dataset("helpdesk")
    assert spec.model_fields_set == set(DatasetSpec.model_fields)
    assert [state.problem for state in check_catalog(load_catalog(catalog))] == [None]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> UserProject:
    return UserProject(tmp_path_factory.mktemp("readme"))


def shell(project: UserProject, commands: str) -> subprocess.CompletedProcess[str]:
    """Run a block of a page as a person pastes it, with our commands on the path."""
    path = f"{BIN}:{project.environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", commands],
        cwd=project.folder,
        env={**project.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_persons_own_data_is_scored_as_the_readme_says(project: UserProject) -> None:
    own = section((PROJECT / "README.md").read_text(encoding="utf-8"), "## Your own data in five minutes")
    file = project.folder / "data" / "datasets" / "helpdesk" / "2026-11.csv"
    assert file.relative_to(project.folder).as_posix() in in_code(own)
    file.parent.mkdir()
    file.write_text(blocks(own, "csv")[0], encoding="utf-8")
    first, second = blocks(own, "bash")
    scored = shell(project, first)
    assert (scored.returncode, scored.stderr) == (0, "")
    assert "1 of 2 cases passed" in scored.stdout and "not found: 20" in scored.stdout
    assert (project.folder / "results.json").is_file()
    (lines,) = blocks(own, "toml")
    assert len(lines.splitlines()) == 3
    with (project.folder / "data" / "catalog.toml").open("a", encoding="utf-8") as catalog:
        catalog.write(f"\n{lines}")
    check, backfill = second.splitlines()
    checked = shell(project, check)
    assert checked.returncode == 0 and "helpdesk" in checked.stdout
    done = shell(project, backfill)
    assert done.returncode == 0 and "inconclusive, pass rate 50.0 % of 2 cases" in done.stdout
    assert project.results("helpdesk", "2026-11")["passed_test_cases"] == 1


def test_the_second_week_of_the_readme_fails_the_gate_and_leaves_its_files(project: UserProject) -> None:
    (commands,) = blocks(section((PROJECT / "README.md").read_text(encoding="utf-8"), "## Is this release worse?"), "bash")
    done = shell(project, commands)
    assert (done.returncode, done.stderr) == (1, "")
    verdict = json.loads((project.folder / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict["outcome"], verdict["exit_code"]) == ("fail", 1)
    assert "Newly failing" in (project.folder / "comparison.md").read_text(encoding="utf-8")
    assert (project.folder / "report.html").stat().st_size > 50_000


def test_the_python_of_the_readme_prints_the_failed_case(project: UserProject) -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    file = project.folder / "data" / "datasets" / "helpdesk" / "2026-11.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text(blocks(readme, "csv")[0], encoding="utf-8")
    (project.folder / "own.py").write_text(blocks(readme, "python")[0], encoding="utf-8")
    done = project.run("python", "own.py")
    assert done.stdout.startswith("0.5 0.81") and done.stdout.endswith(" ['hours']\n")


def test_the_commands_of_ci_score_a_snapshot_on_a_fresh_instance(project: UserProject) -> None:
    (commands,) = blocks(section((PROJECT / "README.md").read_text(encoding="utf-8"), "## In CI"), "bash")
    done = shell(project, commands)
    assert done.returncode == 0, done.stderr[-3000:]
    assert project.results("insurance_qa", "2026w47")["total_test_cases"] == 64


def test_the_settings_file_of_the_configuration_page_is_read(project: UserProject) -> None:
    (commands,) = blocks(page("configuration.md"), "bash")
    done = shell(project, commands.replace("=0.9", "=9"))
    assert done.returncode == 2 and "EVALVAULT_MIN_PASS_RATE" in done.stderr
    assert shell(project, commands).returncode == 0


def test_the_excerpt_of_the_demo_is_what_the_demo_prints_but_for_the_figures(project: UserProject) -> None:
    """The figures are those of the Korean tokenizer, which is not loaded here."""
    excerpt = blocks(section((PROJECT / "README.md").read_text(encoding="utf-8"), "## Two commands"), "text")[0]
    done = shell(project, "EVALVAULT_PROFILE=offline evalvault backfill insurance_qa --from 2026w47 --cases 5")
    printed = {_shape(line) for line in done.stdout.splitlines()}
    for line in excerpt.splitlines():
        assert line == "..." or "scores computed" in line or _shape(line) in printed, line


def _shape(line: str) -> str:
    return re.sub(r"\d[\d.]*", "0", re.sub(r" \(run [0-9a-f-]+\)", "", line)).rstrip()


@pytest.fixture(scope="module")
def results(project: UserProject) -> dict[str, Any]:
    project.run(*"evalvault run data/datasets/insurance_qa_en/2026w47.jsonl -m chrf,faithfulness -o results.json".split())
    found: dict[str, Any] = json.loads((project.folder / "results.json").read_text(encoding="utf-8"))
    return found


def test_the_keys_that_the_results_page_names_are_in_a_results_file(results: dict[str, Any]) -> None:
    keys = {
        key
        for row in re.findall(r"^\| (`.+?`) \|", section(page("results.md"), "## results.json"), re.MULTILINE)
        for key in in_code(row)
    }
    assert {key.replace("<metric>", "chrf") for key in keys} <= set(results)
    assert set(results) - {"avg_chrf", "avg_faithfulness"} <= keys


def test_the_jq_lines_of_the_results_page_work_on_a_results_file(project: UserProject, results: dict[str, Any]) -> None:
    (lines,) = blocks(page("results.md"), "bash")
    named = {name for line in lines.splitlines() for name in re.findall(r"\.([a-z_]+)", line.removesuffix("results.json"))}
    score = results["results"][0]["metrics"][0]
    known = {*results, *results["results"][0], *score, *results["metric_summaries"]["chrf"], "key", "value"}
    assert named <= known
    if shutil.which("jq"):
        for line in lines.splitlines()[:-1]:
            assert shell(project, line).stderr == "", line
