"""`evalvault check-env`: every variable with its source, secrets masked, and every fault at once with the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalvault_pipeline.check_env import EnvironmentCheck, State, check_environment
from evalvault_pipeline.settings import CELERY_VARIABLES, DAGSTER_VARIABLES, PROCESS_VARIABLES, variables
from evalvault_pipeline_tests.doubles.secret_services import AwsSecrets
from evalvault_pipeline_tests.stack import UserProject

KEY = "sk-canary-0123456789abcdefWXYZ"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a catalog, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalog.toml").write_text("")
    return tmp_path


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSecrets]:
    with AwsSecrets() as double:
        for name, value in double.environment.items():
            monkeypatch.setenv(name, value)
        yield double


def checked(profile: str = "", **environment: str) -> EnvironmentCheck:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return check_environment(options={"EVALVAULT_PROFILE": profile} if profile else {})


def told(found: EnvironmentCheck, state: State) -> dict[str, str]:
    """Area -> what is said of it, of the lines in this state."""
    return {one.area: one.said for one in found.findings if one.state is state}


def test_every_variable_has_a_line_with_its_source(project: Path) -> None:
    (project / ".env.test").write_text("EVALVAULT_PROFILE=dev\nOLLAMA_BASE_URL=gpu:11434\n")
    found = checked(EVALVAULT_ENV="test", EVALVAULT_TOKENIZER="ngram", EVALVAULT_PROFILE="")
    assert {row.variable for row in found.rows} == {*variables(), *DAGSTER_VARIABLES, *PROCESS_VARIABLES}
    sources = {row.variable: (row.value, row.source) for row in found.rows}
    assert sources["EVALVAULT_PROFILE"] == ("dev", ".env.test")
    assert sources["OLLAMA_BASE_URL"] == ("http://gpu:11434", ".env.test"), "completed"
    assert sources["EVALVAULT_TOKENIZER"] == ("ngram", "environment")
    assert sources["EVALVAULT_EXECUTOR"] == ("in_process", "default")
    assert sources["PHOENIX_ENABLED"] == ("false", "default")
    assert sources["EVALVAULT_WORKERS"] == sources["OPENAI_API_KEY"] == ("", "not set")
    assert (found.profile, found.judge, found.file, found.exit_code) == ("dev", "ollama/gemma3:1b", f"{project}/.env.test", 0)
    assert checked("prod", EVALVAULT_ENV="test").rows[0].source == "option"


def test_secrets_are_masked_and_named_with_their_source(project: Path, aws: AwsSecrets) -> None:
    (project / "slack").write_text(f"https://slack.invalid/services/{KEY}")
    aws.secrets["evalvault/openai"] = KEY
    found = checked(
        "openai",
        EVALVAULT_AWS_SECRET="evalvault/openai",
        SLACK_WEBHOOK_URL_FILE="slack",
        EVALVAULT_API_KEY="canary-short",
        EVALVAULT_STORE_URL="postgresql://user:canary-pw@db/scores",
        OPENAI_BASE_URL="http://user:canary-user@gateway/v1",
        EVALVAULT_JUDGE_MODEL=KEY,
    )
    rows = {row.variable: (row.value, row.source) for row in found.rows}
    assert rows["OPENAI_API_KEY"] == ("...WXYZ", "AWS Secrets Manager evalvault/openai")
    assert rows["SLACK_WEBHOOK_URL"] == ("...WXYZ", "SLACK_WEBHOOK_URL_FILE slack")
    assert rows["EVALVAULT_API_KEY"] == ("***", "environment")
    assert rows["EVALVAULT_STORE_URL"] == ("postgresql://user:***@db/scores", "environment")
    assert rows["OPENAI_BASE_URL"] == ("http://gateway/v1", "environment")
    assert found.exit_code == 0
    assert "canary" not in repr(found), "a key in the wrong variable is not shown either"
    assert "OPENAI_API_KEY from AWS Secrets Manager evalvault/openai" in [one.said for one in found.findings]


def test_every_fault_is_named_and_none_of_their_values(project: Path, aws: AwsSecrets) -> None:
    aws.fault = "AccessDeniedException"
    aws.secrets["evalvault/phoenix"] = KEY
    found = checked(
        "openai",
        EVALVAULT_WORKERS=KEY,
        EVALVAULT_TIMEZONE=KEY,
        EVALVAULT_AWS_SECRET="PHOENIX_API_TOKEN=evalvault/phoenix",
        SLACK_BOT_TOKEN=KEY,
        SMTP_URL="smtp://mail.invalid",
        EVALVAULT_ALERT_WEBHOOK_URL_FILE=f"{project}/gone",
        EVALVAULT_BACKUPS_DIR=f"{project}/none",
        EVALVAULT_RESULTS_DIR="/proc/results",
        EVALVAULT_CATALOG="other.toml",
        DAGSTER_PG_HOST="db",
        EVALVAULT_PROFIL="prod",
    )
    assert found.exit_code == 2
    missing = [one.said for one in found.findings if one.state is State.MISSING]
    for part in (
        "`EVALVAULT_WORKERS` cannot be used",
        "`EVALVAULT_TIMEZONE` cannot be used: no such time zone; write an IANA name",
        "`OPENAI_API_KEY` is not set, and profile `openai` needs it. Export it",
        "AWS Secrets Manager does not give evalvault/phoenix (AccessDeniedException). Allow secretsmanager:GetSecretValue",
        f"EVALVAULT_ALERT_WEBHOOK_URL_FILE {project}/gone cannot be read: No such file or directory. Mount it",
        "SLACK_CHANNEL is not. Name the channel's id.",
        "EVALVAULT_ALERT_EMAIL_TO is not. Name who is to be told.",
        "there is no such folder. Make the first backup",
        "/proc/results cannot be written by this user: No such file or directory. Set EVALVAULT_RESULTS_DIR",
        "other.toml is not there, and Dagster needs it",
        "DAGSTER_PG_USER, DAGSTER_PG_PASSWORD is not. Set both.",
    ):
        assert any(part in said for said in missing), part
    assert told(found, State.ADVICE)["settings"] == "EVALVAULT_PROFIL is read by nothing here. Did you mean EVALVAULT_PROFILE?"
    values = {row.variable: row.value for row in found.rows}
    assert (values["EVALVAULT_WORKERS"], values["PHOENIX_API_TOKEN"]) == ("(cannot be used)", "(cannot be read)")
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EVALVAULT_ENV": "gone"}, "there is no file"),
        ({"EVALVAULT_ENV_FILE": "gone"}, "there is no file"),
        ({"EVALVAULT_STORE_URL": "canary://"}, "EVALVAULT_STORE_URL is no URL of SQLite or Postgres. Write sqlite"),
        ({"EVALVAULT_STORE_URL": "postgresql+asyncpg://u@h/d"}, "EVALVAULT_STORE_URL is no URL of SQLite or Postgres"),
        ({"EVALVAULT_STORE_URL": "postgresql://u:pa@canary@h/d"}, "an @ in its password is not written %40"),
        ({"EVALVAULT_STORE_URL": "dagster"}, "EVALVAULT_STORE_URL is `dagster`, but DAGSTER_PG_HOST is not set"),
        ({"SLACK_WEBHOOK_URL": "canary"}, "SLACK_WEBHOOK_URL cannot be used. Write https://"),
        ({"SMTP_URL": "canary", "EVALVAULT_ALERT_EMAIL_TO": "a@b.invalid"}, "SMTP_URL cannot be used. Write smtp://"),
        ({"EVALVAULT_ALERT_WEBHOOK_URL": "http://[canary"}, "EVALVAULT_ALERT_WEBHOOK_URL cannot be used. Write https://"),
        ({"EVALVAULT_CODE_SERVER_PORT": "99999"}, "EVALVAULT_CODE_SERVER_PORT is no port"),
        ({"EVALVAULT_ENV": "x" * 300}, "there is no file"),
        ({"EVALVAULT_AWS_SECRET": "a#b"}, "`EVALVAULT_AWS_SECRET` cannot be used"),
        ({"EVALVAULT_SECRETS_DIR": "gone"}, "there is no such folder"),
        ({"OPENAI_API_KEY": "two\nlines of canary"}, "`OPENAI_API_KEY` (environment) holds characters"),
        ({"EVALVAULT_PROFILE": "production"}, "`EVALVAULT_PROFILE` cannot be used"),
        ({"EVALVAULT_PROFILE": "gguf"}, "`EVALVAULT_GGUF` is not set"),
        ({"EVALVAULT_PROFILE": "gguf", "EVALVAULT_GGUF": "gone.gguf"}, "there is no such file"),
        (
            {"EVALVAULT_WEB_HOSTS": "localhost,eval.example"},
            "The Dagster UI (EVALVAULT_WEB_HOSTS) would be open to everybody on eval.example",
        ),
        (
            {"EVALVAULT_WEB_HOSTS": "eval.example", "EVALVAULT_API_KEY": "short"},
            "on eval.example with a key that is too short",
        ),
        ({"EVALVAULT_METRICS_HOST": "0.0.0.0"}, "The exporter (EVALVAULT_METRICS_HOST) would be open to everybody on 0.0.0.0"),
        ({"EVALVAULT_EXECUTOR": "celery"}, "EVALVAULT_CELERY_BROKER, EVALVAULT_CELERY_BACKEND is not set"),
        (
            {"EVALVAULT_EXECUTOR": "celery", "EVALVAULT_CELERY_BROKER": "redis://:canary@db"},
            "EVALVAULT_CELERY_BACKEND is not set",
        ),
    ],
)
def test_a_fault_alone_is_exit_code_2(project: Path, environment: dict[str, str], said: str) -> None:
    found = checked(**environment)
    (missing,) = [one for one in found.findings if one.state is State.MISSING]
    assert said in missing.said and "canary" not in repr(found)
    assert found.exit_code == 2


@pytest.mark.parametrize(("name", "package", "extra"), [("celery", "celery", "celery"), ("k8s", "dagster_k8s", "kubernetes")])
def test_an_executor_whose_package_is_missing_is_a_fault(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    celery = dict.fromkeys(CELERY_VARIABLES, "redis://127.0.0.1:9/0")
    missing = told(checked(EVALVAULT_EXECUTOR=name, **celery), State.MISSING)
    assert f"{package} is not installed: pip install 'evalvault-pipeline[{extra}]'" in missing["executor"]


def test_a_name_that_resembles_none_of_ours_gets_no_guess(project: Path) -> None:
    assert told(checked(EVALVAULT_TYPO="1"), State.ADVICE)["settings"] == (
        "EVALVAULT_TYPO is read by nothing here. See docs/configuration.md."
    )


def test_a_line_of_the_file_that_sets_nothing_is_a_fault(project: Path) -> None:
    (project / ".env.test").write_text("EVALVAULT_PROFILE=dev\nOPENAI_API_KEY sk-canary\n")
    found = checked(EVALVAULT_ENV="test")
    assert ".env.test:2: this is no NAME=value" in told(found, State.MISSING)["settings"]
    assert found.exit_code == 2 and "canary" not in repr(found)


def test_a_server_that_others_reach_without_a_key_is_a_fault_for_each_of_both(project: Path) -> None:
    found = checked("prod", EVALVAULT_WEB_HOSTS="eval.example", EVALVAULT_METRICS_HOST="::")
    missing = [one.said for one in found.findings if one.state is State.MISSING]
    assert len(missing) == 2 and all("docs/access.md" in said for said in missing)
    assert "docs/access.md" in told(checked("prod"), State.ADVICE)["access"]


def test_a_key_that_cannot_be_read_guards_nothing(project: Path) -> None:
    found = checked(EVALVAULT_API_KEY_FILE="gone", EVALVAULT_METRICS_HOST="0.0.0.0")
    assert "EVALVAULT_API_KEY_FILE gone cannot be read" in told(found, State.MISSING)["access"]
    assert "access" not in told(found, State.OK)


def test_dagsters_postgres_is_read_from_the_settings_file(project: Path) -> None:
    (project / ".env.test").write_text(
        "DAGSTER_PG_HOST=db\nDAGSTER_PG_USER=u\nDAGSTER_PG_PORT=1\nDAGSTER_PG_PASSWORD=canary-pw\n"
    )
    found = checked(EVALVAULT_ENV="test", DAGSTER_PG_PORT="6432")
    rows = {row.variable: (row.value, row.source) for row in found.rows}
    assert rows["DAGSTER_PG_HOST"] == ("db", ".env.test")
    assert rows["DAGSTER_PG_PORT"] == ("6432", "environment")
    assert rows["DAGSTER_PG_DB"] == ("", "not set")
    assert told(found, State.OK)["dagster"] == "Postgres, db:6432"
    assert found.exit_code == 0


@pytest.mark.parametrize("name", PROCESS_VARIABLES)
def test_what_only_the_process_environment_may_set_is_a_fault_in_the_settings_file(project: Path, name: str) -> None:
    (project / ".env.test").write_text(f"{name}=redis://:canary@db:6379/0\n")
    found = checked(EVALVAULT_ENV="test")
    assert told(found, State.MISSING)["settings"] == (
        f"{name} stands in .env.test, and is read from the process environment only. Export it."
    )
    assert found.exit_code == 2 and "canary" not in repr(found)
    with_both = checked(EVALVAULT_ENV="test", **{name: "redis://:canary@db:6379/1"})
    assert {row.variable: (row.value, row.source) for row in with_both.rows}[name] == (
        "redis://[SECRET]@db:6379/1",
        "environment",
    )
    faults = [one.said for one in with_both.findings if one.state in (State.ADVICE, State.MISSING)]
    assert all(name not in said or "is no port" in said for said in faults)


def test_a_store_beside_dagsters_tables_is_fine(project: Path) -> None:
    dagster = {"DAGSTER_PG_HOST": "db", "DAGSTER_PG_USER": "u", "DAGSTER_PG_PASSWORD": "canary-password"}
    found = checked(EVALVAULT_STORE_URL="dagster", **dagster)
    assert found.exit_code == 0 and "canary" not in repr(found)
    assert {row.variable: row.value for row in found.rows}["EVALVAULT_STORE_URL"] == "dagster"
    assert told(found, State.OK)["store"] == "postgresql+psycopg2://u:***@db:5432/dagster"


@pytest.mark.parametrize(
    "name", ["EVALVAULT_ALERT_EMAIL_TO", "EVALVAULT_JUDGE_MODEL", "DAGSTER_PG_USER", "EVALVAULT_CELERY_BROKER"]
)
def test_a_bracket_that_is_not_closed_breaks_nothing(project: Path, name: str) -> None:
    assert {row.variable: row.value for row in checked(**{name: "http://[x"}).rows}[name] == "(no address)"


@pytest.mark.parametrize("port", ["\xb2", "0", "65536", "-1"])
def test_a_port_of_postgres_is_one(project: Path, port: str) -> None:
    found = checked(DAGSTER_PG_HOST="db", DAGSTER_PG_USER="u", DAGSTER_PG_PASSWORD="canary-password", DAGSTER_PG_PORT=port)
    assert f"DAGSTER_PG_PORT is `{port}`. Write a number from 1 to 65535" in told(found, State.MISSING)["dagster"]


def test_a_catalog_that_cannot_be_read_is_a_fault(project: Path) -> None:
    (project / "broken.toml").write_text("[datasets")
    assert "broken.toml" in told(checked(EVALVAULT_CATALOG="broken.toml"), State.MISSING)["catalog"]


@pytest.mark.parametrize("text", ["EVALVAULT_MIN_PASS_RATE\n", "sk-canary\n", "E\0V\0=\0a\0\n\0"])
def test_a_line_without_a_value_is_a_fault_and_not_repeated(project: Path, text: str) -> None:
    (project / ".env.test").write_text(f"# ours\n{text}")
    found = checked(EVALVAULT_ENV="test")
    assert "this is no NAME=value" in told(found, State.MISSING)["settings"] and "canary" not in repr(found)


def test_a_plain_env_file_that_nobody_may_read_is_a_fault(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied")

    (project / ".env").write_text("X=1\n")
    monkeypatch.setattr(Path, "read_text", denied)
    assert ".env cannot be read: Permission denied" in told(checked(), State.MISSING)["settings"]


def test_a_plain_env_file_is_a_fault(project: Path) -> None:
    (project / ".env").write_text("EVALVAULT_PROFILE=prod\n")
    assert "Rename it to .env.<name>" in told(checked(), State.MISSING)["settings"]


def test_production_is_advised_of_each_point_of_the_guides_checklist(project: Path) -> None:
    bare = checked("prod")
    assert bare.exit_code == 0, "it can run without"
    assert set(told(bare, State.ADVICE)) == {"judge", "phoenix", "alerts", "access", "backups"}
    assert all(". " in said for said in told(bare, State.ADVICE).values()), "what is so, then what to do"
    (project / "backups").mkdir()
    whole = checked(
        "prod",
        OLLAMA_BASE_URL="http://ollama-prod:11434",
        PHOENIX_ENABLED="true",
        PHOENIX_ENDPOINT="http://phoenix-prod:6006/v1/traces",
        SLACK_WEBHOOK_URL="https://slack.invalid/services/T000/B000/X",
        EVALVAULT_API_KEY="a-key-of-more-than-24-characters",
        EVALVAULT_BACKUPS_DIR="backups",
    )
    assert {one.state for one in whole.findings} == {State.OK}
    lines = told(whole, State.OK)
    assert {"secrets", "judge", "phoenix", "results", "logs", "alerts", "access", "backups", "dagster", "catalog"} <= set(lines)
    assert lines["logs"].endswith("evalvault.log, rotated each day and at 20 MB, 30 days are kept")
    assert lines["alerts"] == "slack-webhook"


@pytest.mark.parametrize("profile", ["offline", "dev"])
def test_development_is_advised_of_nothing(project: Path, profile: str) -> None:
    assert told(checked(profile), State.ADVICE) == {}


def test_a_secret_in_a_settings_file_is_read_and_advised_against(project: Path) -> None:
    (project / ".env.test").write_text(f"OPENAI_API_KEY={KEY}\n")
    found = checked("openai", EVALVAULT_ENV="test")
    assert told(found, State.ADVICE)["secrets"].startswith("OPENAI_API_KEY stands in .env.test as it is. Keep it in a mounted")
    assert found.exit_code == 0 and "canary" not in repr(found)


def test_the_command_prints_the_table_and_ends_with_2_where_something_is_missing(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project", OPENAI_API_KEY=KEY)
    fine = user.run("evalvault", "check-env", "--profile", "openai")
    lines = fine.stdout.splitlines()
    assert lines[0] == "profile openai: judge openai/gpt-5-mini; settings file: none"
    assert any(line.split() == ["OPENAI_API_KEY", "...WXYZ", "environment"] for line in lines)
    assert "canary" not in fine.stdout + fine.stderr
    bad = user.run("evalvault", "check-env", "--profile", "openai", check=False, OPENAI_API_KEY="")
    assert bad.returncode == 2 and "missing  judge:     `OPENAI_API_KEY` is not set" in bad.stdout
