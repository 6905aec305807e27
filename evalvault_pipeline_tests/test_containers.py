"""Dockerfile, compose files and their scripts, as far as they can be judged without an engine; `make test-containers` has one."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalvault_pipeline import __version__
from evalvault_pipeline.settings import PROFILES
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import BIN

COMPOSE, GPU, DOCKERFILE = "docker-compose.yaml", "docker-compose.gpu.yaml", PROJECT / "Dockerfile"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / COMPOSE).read_text(encoding="utf-8"))["services"]
ONCE = {"evalvault", "ollama-pull", "ollama-folder"}
OLLAMA = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$1" in
  serve) exec sleep 60 ;;
  show) test "$2" = "$THERE" ;;
esac
"""


def passes(*command: str) -> str:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=PROJECT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def defaults() -> dict[str, str]:
    """Variables of the compose files with what is taken where they are not set."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (PROJECT / COMPOSE).read_text(encoding="utf-8")))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert not passes("hadolint", "--no-color", "Dockerfile")


def test_the_compose_files_are_what_the_specification_knows() -> None:
    assert not passes("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE, GPU)


def test_docker_compose_reads_both_files_together(tmp_path: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", COMPOSE, "-f", GPU, "--profile", "cli", "config", "-q"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_image_has_a_version_that_can_be_replaced_by_a_digest() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert all(re.fullmatch(r"\$\{\w+:-[\w./-]+:\d[\w.-]*\}", image) for image in images.values()), images
    assert defaults()["EVALVAULT_IMAGE"] == f"evalvault:{__version__}"


def test_versions_that_belong_together_agree() -> None:
    known = defaults()
    locked = re.search(r"^arize-phoenix==(\S+)", (PROJECT / "requirements-phoenix.lock").read_text(), re.MULTILINE)
    assert locked and known["PHOENIX_IMAGE"] == f"evalvault-phoenix:{locked[1]}"
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert f"ARG PYTHON_IMAGE={known['PYTHON_IMAGE']}\n" in text
    assert f"ARG POSTGRES_CLIENT={known['POSTGRES_CLIENT']}\n" in text
    server = re.match(r"postgres:(\d+)", known["POSTGRES_IMAGE"])
    assert server and known["POSTGRES_CLIENT"] == f"postgresql-client-{server[1]}", "an older pg_dump refuses a newer server"


def test_only_the_webserver_is_published_on_loopback_and_from_a_network_that_has_a_way_out() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"webserver": ["127.0.0.1:${EVALVAULT_PORT:-3000}:3000"]}
    assert set(SERVICES["webserver"]["networks"]) == {"internal", "edge"}
    networks = yaml.safe_load((PROJECT / COMPOSE).read_text(encoding="utf-8"))["networks"]
    assert networks["internal"] == {"internal": True} and not networks["edge"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_read_only_bounded_and_not_root(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert name == "phoenix" or re.search(r"\d{3,5}", service["user"]), "the image phoenix has its user in itself"
    if name not in ONCE:
        assert service["restart"] == "unless-stopped" and service["stop_grace_period"] in ("30s", "60s")
        assert name == "phoenix" or service["healthcheck"]["test"][0] == "CMD"


def test_what_a_service_waits_for_is_healthy_or_has_ended_well() -> None:
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    for name, awaited in waits.items():
        for other, how in awaited.items():
            ends = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how == {"condition": ends}, (name, other)
    assert {"postgres", "code"} <= set(waits["webserver"]) and {"postgres", "code", "ollama"} <= set(waits["daemon"])


def test_a_backfill_waits_for_a_code_server_that_comes_back_later_than_the_daemon() -> None:
    """`make drill` kills both at once; without this variable Dagster fails the backfill."""
    assert SERVICES["daemon"]["environment"]["DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"] == "1"


def test_backups_are_written_to_a_folder_of_the_host_by_whoever_writes_them() -> None:
    """`backup_job` runs in `code`, `evalvault backup` and `restore` in `evalvault`; their root file system is read-only."""
    for name in ("code", "evalvault"):
        assert SERVICES[name]["environment"]["EVALVAULT_BACKUPS_DIR"] == "/backups"
        assert SERVICES[name]["environment"]["DAGSTER_PG_HOST"] == "postgres"
        assert SERVICES[name]["volumes"] == [*SERVICES["daemon"]["volumes"], "${EVALVAULT_BACKUPS:-./backups}:/backups"]
    others = [name for name, service in SERVICES.items() if "EVALVAULT_BACKUPS_DIR" in service.get("environment", {})]
    assert sorted(others) == ["code", "evalvault"]
    assert "/backups/" in (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_page_restores_to_the_server_and_user_whose_password_the_container_has() -> None:
    page = (PROJECT / "docs" / "deployment.md").read_text(encoding="utf-8")
    known = SERVICES["evalvault"]["environment"]
    user, host, database = (known[f"DAGSTER_PG_{name}"] for name in ("USER", "HOST", "DB"))
    assert "docker compose run --rm evalvault backup\n" in page
    assert f"--to /app/data --force --dagster-url postgresql://{user}@{host}/{database}\n" in page


def test_secrets_are_files_and_no_variable() -> None:
    text = (PROJECT / COMPOSE).read_text(encoding="utf-8")
    declared = yaml.safe_load(text)["secrets"]
    assert all(value == {"file": f"${{EVALVAULT_SECRETS:-./secrets}}/{name}"} for name, value in declared.items())
    for name, service in SERVICES.items():
        variables = [key for key in service.get("environment", {}) if re.search("KEY|PASSWORD|SECRET|TOKEN|WEBHOOK", key)]
        assert all(key.endswith("_FILE") for key in variables), (name, variables)


def test_who_is_told_of_dagsters_postgres_has_its_password_too() -> None:
    """Else the exporter would end at once where EVALVAULT_STORE_URL is `dagster`."""
    told = {name for name, service in SERVICES.items() if "DAGSTER_PG_HOST" in service.get("environment", {})}
    password = {"source": "postgres_password", "target": "dagster_pg_password"}
    assert {"exporter", "code", "daemon"} <= told
    assert [name for name in sorted(told) if password not in SERVICES[name]["secrets"]] == []


def test_make_secrets_writes_what_compose_mounts_and_keeps_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "openai_api_key").write_text("kept", encoding="utf-8")
    script = ["sh", str(PROJECT / "deploy" / "make_secrets.sh")]
    subprocess.run(script, env={**os.environ, "EVALVAULT_SECRETS": str(folder)}, check=True, capture_output=True)
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    declared = yaml.safe_load((PROJECT / COMPOSE).read_text(encoding="utf-8"))["secrets"]
    assert set(written) == set(declared)
    assert written["openai_api_key"] == "kept" and written["slack_webhook_url"] == ""
    ours = [value for name, value in written.items() if name not in ("openai_api_key", "slack_webhook_url")]
    assert len(set(ours)) == 5 and all(re.fullmatch(r"aA1[0-9a-f]{48}", value) for value in ours)
    subprocess.run(script, env={**os.environ, "EVALVAULT_SECRETS": str(folder)}, check=True, capture_output=True)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == written


def test_a_new_secrets_folder_is_closed_to_other_users_of_the_machine(tmp_path: Path) -> None:
    script = ["sh", str(PROJECT / "deploy" / "make_secrets.sh")]
    subprocess.run(script, env={**os.environ, "EVALVAULT_SECRETS": str(tmp_path / "new")}, check=True, capture_output=True)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("environment", "pulled"),
    [
        ({}, [PROFILES["prod"].model, PROFILES["prod"].embedding_model]),
        ({"EVALVAULT_PROFILE": "dev"}, [PROFILES["dev"].model, PROFILES["dev"].embedding_model]),
        ({"EVALVAULT_PROFILE": "openai"}, []),
        ({"EVALVAULT_JUDGE_MODEL": "llama3:8b"}, ["llama3:8b", PROFILES["prod"].embedding_model]),
        ({"THERE": "gpt-oss-safeguard:20b"}, [PROFILES["prod"].embedding_model]),
    ],
)
def test_the_models_of_the_profile_are_pulled_where_they_are_not_there(
    environment: dict[str, str], pulled: list[str], tmp_path: Path
) -> None:
    (tmp_path / "ollama").write_text(OLLAMA, encoding="utf-8")
    (tmp_path / "ollama").chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "THERE": "", **environment}
    subprocess.run(["sh", str(PROJECT / "deploy" / "pull_models.sh")], env=given, check=True, capture_output=True, timeout=30)
    asked = [line.split() for line in calls.read_text(encoding="utf-8").splitlines()]
    assert [words[1] for words in asked if words[0] == "pull"] == pulled


def test_phoenix_gets_its_secrets_from_files_and_starts_closed(tmp_path: Path) -> None:
    stub = tmp_path / "phoenix" / "server"
    stub.mkdir(parents=True)
    for folder in (stub.parent, stub):
        (folder / "__init__.py").touch()
    (stub / "main.py").write_text("import os\ndef main():\n    print(dict(os.environ))\n", encoding="utf-8")
    (tmp_path / "secret").write_text("of-a-file\n", encoding="utf-8")
    (tmp_path / "empty").touch()

    def start(file: str) -> subprocess.CompletedProcess[str]:
        given = {"PYTHONPATH": str(tmp_path), "PHOENIX_SECRET_FILE": str(tmp_path / file), "PHOENIX_HOST": "0.0.0.0"}
        command = [sys.executable, str(PROJECT / "deploy" / "start_phoenix.py")]
        return subprocess.run(command, env=given, capture_output=True, text=True)

    told = start("secret").stdout
    assert "'PHOENIX_SECRET': 'of-a-file'" in told and "PHOENIX_SECRET_FILE" not in told
    assert "'PHOENIX_HOST': '0.0.0.0'" in told and "'PHOENIX_ENABLE_MCP_SERVER': 'false'" in told
    empty = start("empty")
    assert empty.returncode == 1 and "is empty" in empty.stderr


def test_the_build_is_given_nothing_but_what_it_copies() -> None:
    lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert let_in == {name for line in copied for name in line.split()} and lines[1] == "*"
    assert all((PROJECT / name).exists() for name in let_in)


def test_the_dockerfile_needs_no_frontend_and_ends_without_root() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "# syntax" not in text and "PYTHONDONTWRITEBYTECODE" not in text
    assert all(re.fullmatch(r"\d+:\d+", user) for user in re.findall(r"^USER (.*)$", text, re.MULTILINE))
    for stage in ("phoenix", "evalvault"):
        body = text.partition(f" AS {stage}\n")[2].partition("\nFROM ")[0]
        assert "USER 10001:10001" in body and "HEALTHCHECK" in body


def test_the_gpu_is_asked_for_in_the_override_alone() -> None:
    devices = yaml.safe_load((PROJECT / GPU).read_text(encoding="utf-8"))["services"]
    assert list(devices) == ["ollama"]
    assert devices["ollama"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert all("reservations" not in service["deploy"]["resources"] for service in SERVICES.values())
