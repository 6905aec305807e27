"""Canaries in every source of secrets, everything run with everything failing, and no canary in anything that came out.

Searched are all files below the project and its home, every table of every database, what each process printed, and what each
server was sent besides the header or address where the secret belongs. The servers repeat whatever they are sent.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from evalvault_pipeline.secrets import SECRETS
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.doubles.secret_services import AwsSecrets, HttpDouble, VaultKv
from evalvault_pipeline_tests.stack import UserProject, free_port, wait_for

MARKER = "the marker that must be found"  # where no secret is looked for in vain
CANARIES = {
    "OPENAI_API_KEY": "canary-of-aws-1c8f20aa-77d0",
    "PHOENIX_API_TOKEN": "canary-of-vault-7be41d93",
    "SLACK_WEBHOOK_URL": "canary-of-a-named-file-9d02",
    "EVALVAULT_ALERT_WEBHOOK_URL": "canary-of-the-folder-55e1",
    "EVALVAULT_API_KEY": "canary-of-the-settings-file-31",
    "SMTP_URL": "canary-of-the-environment-e4",
    "EVALVAULT_STORE_URL": "canary-of-the-store-0b77",
    "DAGSTER_PG_PASSWORD": "canary-of-dagster-6a3c",
    "VAULT_TOKEN": "canary-of-the-token-48f9",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-account-d2",
}
CASE = {"id": "c1", "question": MARKER, "answer": "It is 3.", "contexts": ["It is 3."], "ground_truth": "It is 3."}
CATALOG = """
[datasets.demo]
files = "datasets/demo/*"
language = "en"
metrics = ["exact_match", "faithfulness"]
"""
JOBS = """
import logging, sys, warnings
import dagster as dg
from evalvault_pipeline.defs import alerts
alerts.RETRY_SECONDS = 0.01
import evalvault_pipeline.definitions as location
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.secrets import SECRETS, read_secret

@dg.op
@scrubbed
def crash(context: dg.OpExecutionContext) -> None:
    values = {name: read_secret(name) for name in SECRETS}
    text = " ".join(f"{name} {value.get_secret_value()}" for name, value in values.items() if value)
    print("printed", text)
    sys.stderr.write(f"written {text}\\n")
    warnings.warn(f"warned {text}")
    logging.getLogger("evalvault_pipeline.x").error("logged %s", text)
    logging.getLogger("somebody.else").error("logged %s", text)
    context.log.error(f"told {text}")
    try:
        raise ValueError(f"inner {text}")
    except ValueError as error:
        raise RuntimeError(f"outer {text}") from error

@dg.job(executor_def=dg.in_process_executor)
def crashing_job():
    crash()

defs = dg.Definitions.merge(location.defs, dg.Definitions(jobs=[crashing_job]))
"""


class Judge(OpenAIServer):
    """`kind`: "right" answers, "wrong" refuses the key, "telling" fails with 400; the last two repeat every header."""

    def __init__(self) -> None:
        super().__init__(record=True)
        self.kind = "right"
        self.sent: list[tuple[str, dict[str, str], bytes]] = []

    def _not_allowed(self, request: web.Request) -> web.Response | None:
        self.sent.append((request.path, {name.lower(): value for name, value in request.headers.items()}, b""))
        said = f"denied: {dict(request.headers)}"
        return None if self.kind == "right" else self.error({"wrong": 401, "telling": 400}[self.kind], said)


class Telling(HttpDouble):
    """Phoenix, Slack and a webhook that refuse what they are sent, and repeat it."""

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if (method, path.partition("?")[0]) == ("GET", "/v1/datasets"):
            return 200, b'{"data": []}'
        status = 422 if path.startswith("/v1/datasets/upload") else 401 if path.startswith("/v1/") else 403
        return status, json.dumps({"detail": f"{headers.get('authorization')} {method} {path} {dict(headers)}"}).encode()


@dataclass
class World:
    """The project, its servers, and what its processes printed, by command."""

    user: UserProject
    judge: Judge
    telling: Telling
    aws: AwsSecrets
    vault: VaultKv
    printed: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, *command: str, code: int, **environment: str) -> str:
        done = self.user.run(*command, check=False, **environment)
        self.printed[name] = done.stdout + done.stderr
        assert done.returncode == code, f"{name}: {done.returncode}\n{self.printed[name][-3000:]}"
        return self.printed[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything once; the planted files lie outside of what is searched."""
    folder = tmp_path_factory.mktemp("canaries")
    planted = folder / "planted"
    planted.mkdir()
    with Judge() as judge, Telling() as telling, AwsSecrets() as aws, VaultKv(CANARIES["VAULT_TOKEN"]) as vault:
        aws.secrets["evalvault/openai"] = json.dumps({"key": CANARIES["OPENAI_API_KEY"]})
        vault.secrets["evalvault"] = {"PHOENIX_API_TOKEN": CANARIES["PHOENIX_API_TOKEN"]}
        (planted / "slack").write_text(f"{telling.url}/services/T000/B000/{CANARIES['SLACK_WEBHOOK_URL']}")
        hook = f"{telling.url}/hook?token={CANARIES['EVALVAULT_ALERT_WEBHOOK_URL']}"
        (planted / "evalvault_alert_webhook_url").write_text(hook)
        (planted / "settings").write_text(f"EVALVAULT_API_KEY={CANARIES['EVALVAULT_API_KEY']}\n")
        smtp = quote(CANARIES["SMTP_URL"])
        user = UserProject(
            folder / "project",
            **{**aws.environment, "AWS_SECRET_ACCESS_KEY": CANARIES["AWS_SECRET_ACCESS_KEY"]},
            **vault.environment,
            EVALVAULT_PROFILE="openai",
            EVALVAULT_ENV_FILE=str(planted / "settings"),
            EVALVAULT_SECRETS_DIR=str(planted),
            EVALVAULT_AWS_SECRET="OPENAI_API_KEY=evalvault/openai#key",
            EVALVAULT_VAULT_PATH="secret/evalvault#PHOENIX_API_TOKEN",
            SLACK_WEBHOOK_URL_FILE=str(planted / "slack"),
            SMTP_URL=f"smtp://user:{smtp}@127.0.0.1:{free_port()}",
            EVALVAULT_ALERT_EMAIL_TO="a@b.invalid",
            OPENAI_BASE_URL=judge.base_url,
            PHOENIX_ENDPOINT=telling.url,
            EVALVAULT_CATALOG="data/small.toml",
        )
        (user.folder / "data" / "small.toml").write_text(CATALOG)
        snapshot = user.folder / "data" / "datasets" / "demo" / "2026w47.json"
        snapshot.parent.mkdir()
        snapshot.write_text(json.dumps({"test_cases": [CASE]}))
        (user.folder / "jobs.py").write_text(JOBS)
        found = World(user, judge, telling, aws, vault)
        everything(found)
        yield found


def everything(world: World) -> None:
    file = "data/datasets/demo/2026w47.json"
    store = f"postgresql://user:{CANARIES['EVALVAULT_STORE_URL']}@127.0.0.1:9/scores"
    postgres = {"DAGSTER_PG_HOST": "127.0.0.1", "DAGSTER_PG_PORT": "9", "DAGSTER_PG_USER": "u"}
    wrong = f"{store.replace(':9', ':port')}"

    assert "...77d0" in world.run("check", "evalvault", "check-env", code=0, EVALVAULT_STORE_URL=store)
    world.run("run", "evalvault", "run", file, "--tracker", "phoenix", "-v", "-o", "results.json", code=0)
    world.judge.kind = "wrong"
    world.run("doctor", "evalvault", "doctor", code=2)
    world.judge.kind = "telling"
    world.run("backfill", "evalvault", "backfill", "demo", "-v", code=3, PHOENIX_ENABLED="true", EVALVAULT_JUDGE_MODEL="other")
    world.run("alerts", "evalvault", "alert", "test", code=3)
    job = ("dagster", "job", "execute", "-f", "jobs.py", "-j")
    home = {"DAGSTER_HOME": str(world.user.folder)}  # else its events are thrown away
    world.run("digest", *job, "daily_digest_job", code=0, **home)  # the channels are tried again by the sensor
    world.run("crash", *job, "crashing_job", code=1, EVALVAULT_STORE_URL=store, **home)
    world.run("dead store", "evalvault", "status", code=3, EVALVAULT_STORE_URL=store)
    world.run("no store", "evalvault", "status", code=2, EVALVAULT_STORE_URL=wrong)
    world.run("bad setting", "evalvault", "status", code=2, EVALVAULT_TIMEZONE=CANARIES["SMTP_URL"])
    two_lines = {"SLACK_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARIES['SLACK_WEBHOOK_URL']}\nand more"}
    world.run("bad secret", "evalvault", "alert", "test", code=3, **two_lines)
    password = CANARIES["DAGSTER_PG_PASSWORD"]
    world.run("dead dagster", "evalvault", "backfill", "demo", code=3, **postgres, DAGSTER_PG_PASSWORD=password)
    served(world)
    world.aws.fault, world.vault.token = "AccessDeniedException", "another"
    world.run("denied", "evalvault", "check-env", code=2)


def served(world: World) -> None:
    """The exporter, asked with a wrong key and with the right one."""
    port = free_port()
    log = world.user.folder / "metrics.log"
    process = world.user.start("evalvault", "serve-metrics", "--port", str(port), log=log)
    try:
        answers = [wait_for(lambda key=key: asked(port, key), seconds=120) for key in ("wrong", CANARIES["EVALVAULT_API_KEY"])]
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert [status for status, _ in answers] == [401, 200]
    world.printed["metrics"] = "".join(text for _, text in answers)


def asked(port: int, key: str) -> tuple[int, str] | None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"X-API-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


# --- the search


def canaries_in(content: bytes, *, but: str = "") -> set[str]:
    """Whose canary is there: as it is, percent-encoded, in base64, or its last eight characters."""
    forms = {
        name: [value.encode(), quote(value, safe="").encode(), base64.b64encode(value.encode()), value[-8:].encode()]
        for name, value in CANARIES.items()
    }
    return {name for name, some in forms.items() if name != but and any(form in content for form in some)}


def contents(file: Path) -> Iterator[bytes]:
    """A file as it is, and what is packed in it: rows of a database, inflated where they are deflated; a Parquet table."""
    raw = file.read_bytes()
    yield raw
    if raw.startswith(b"SQLite format 3"):
        yield from rows(file)
    if file.suffix == ".parquet":
        yield repr(pq.read_table(file).to_pylist()).encode()


def rows(file: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(file)) as connection:
        connection.text_factory = bytes
        tables = [name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for value in (value for row in connection.execute(f'SELECT * FROM "{table}"') for value in row):
                if isinstance(value, bytes):
                    yield value
                    try:
                        yield zlib.decompress(value)
                    except zlib.error:
                        continue


def files_of(world: World) -> list[Path]:
    home = Path(world.user.environment["HOME"])
    return [file for place in (world.user.folder, home) for file in place.rglob("*") if file.is_file()]


def test_no_file_and_no_row_of_any_database_holds_a_canary(world: World) -> None:
    files = files_of(world)
    held = {(file.name, *names) for file in files for part in contents(file) if (names := canaries_in(part))}
    assert held == set()
    marked = {file.suffix for file in files for part in contents(file) if MARKER.encode() in part}
    assert {".json", ".sqlite", ".parquet"} <= marked, "what is written is searched"
    runs = [file for file in files if file.parent.name == "runs" and file.suffix == ".db"]
    assert any(b"RuntimeError: outer OPENAI_API_KEY [SECRET]" in part for file in runs for part in rows(file))


def test_no_process_prints_a_canary(world: World) -> None:
    assert {name: found for name, text in world.printed.items() if (found := canaries_in(text.encode()))} == {}
    logs = [file.read_text(encoding="utf-8") for file in files_of(world) if file.suffix in (".out", ".err")]
    said = world.printed["crash"] + "".join(logs)  # Dagster shows what a step prints as long as it is in time for it
    for word in ("printed", "written", "logged", "told", "outer", "inner"):
        assert f"{word} OPENAI_API_KEY [SECRET] PHOENIX_API_TOKEN [SECRET]" in said, word
    assert all(f"{name} " in world.printed["crash"] for name in set(CANARIES) & set(SECRETS) - {"DAGSTER_PG_PASSWORD"})


def test_every_failure_is_told_with_what_it_is_about(world: World) -> None:
    """Else nothing would be proved by what is not there."""
    for name, said in {
        "run": "refuses POST /v1/datasets/upload (HTTP 422)",
        "doctor": "the judge refuses the key (HTTP 401)",
        "backfill": "[SECRET]",
        "alerts": "Slack does not take the message (HTTP 403)",
        "digest": "The webhook does not take the message (HTTP 403)",
        "dead store": "The score store postgresql://user:***@127.0.0.1:9/scores does not answer",
        "no store": "EVALVAULT_STORE_URL cannot be used",
        "bad setting": "`EVALVAULT_TIMEZONE` cannot be used",
        "bad secret": "`SLACK_WEBHOOK_URL` (environment) holds characters",
        "dead dagster": "Dagster's Postgres does not answer",
        "denied": "AWS Secrets Manager does not give evalvault/openai (AccessDeniedException)",
    }.items():
        assert said in world.printed[name], name
    assert "The mail server 127.0.0.1 does not take the message" in world.printed["alerts"]
    assert "Vault does not give evalvault" in world.printed["denied"].replace("secret/", "")


def test_no_server_is_sent_a_canary_but_where_it_belongs(world: World) -> None:
    sent = [("judge", path, headers, body) for path, headers, body in world.judge.sent]
    sent += [("judge", path, {}, json.dumps(body).encode()) for path, body in world.judge.requests]
    for name, double in (("telling", world.telling), ("aws", world.aws), ("vault", world.vault)):
        lowered = [
            ({key.lower(): value for key, value in headers.items()}, path, body) for _, path, headers, body in double.requests
        ]
        sent += [(name, path, headers, body) for headers, path, body in lowered]
    belongs = {"judge": "OPENAI_API_KEY", "vault": "VAULT_TOKEN", "telling": "PHOENIX_API_TOKEN"}
    seen = set()
    for server, path, headers, body in sent:
        assert canaries_in(body) == set(), (server, path)
        for header, value in headers.items():
            home = belongs.get(server, "") if header in ("authorization", "x-vault-token") else ""
            assert canaries_in(value.encode(), but=home) == set(), (server, path, header)
            seen |= canaries_in(value.encode())
        hidden = {"/services": "SLACK_WEBHOOK_URL", "/hook": "EVALVAULT_ALERT_WEBHOOK_URL"}
        home = next((name for start, name in hidden.items() if server == "telling" and path.startswith(start)), "")
        assert canaries_in(path.encode(), but=home) == set(), (server, path)
        seen |= canaries_in(path.encode())
    wanted = {*belongs.values(), "SLACK_WEBHOOK_URL", "EVALVAULT_ALERT_WEBHOOK_URL"}
    assert seen == wanted, "each was used, from its source"
    assert any(MARKER.encode() in body for _, _, _, body in sent)
