"""docker-compose.yaml brought up for real over a copy of the demo data, and what must hold of it, sentence by sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.containers.debian import CommandFailed, cache_folder, run
from evalvault_pipeline_tests.containers.engine import Engine
from evalvault_pipeline_tests.containers.images import default_of

NAME = "evalvault-proof"
USER = 10001
PORT = 3000
SERVERS = ["code", "daemon", "exporter", "ollama", "phoenix", "postgres", "webserver"]
INTERNAL = ["daemon", "exporter", "ollama", "phoenix", "postgres"]
TOOLS = "for tool in gcc cc ld make pip pip3 uv git curl wget; do command -v $tool && exit 1; done; exit 0"
SEARCH = (
    "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('pip', 'setuptools', 'ensurepip', 'hatchling')))"
)
KEYS = {"openai_api_key": "sk-proof-0123456789abcdefghijkl", "slack_webhook_url": "http://127.0.0.1:9/services/T0/B0/proof"}
MINUTE = 60.0


class Checks:
    """Each a sentence that is true, or is told with what was found instead."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.count = 0

    def that(self, sentence: str, holds: Any, found: object = "") -> None:
        self.count += 1
        if not holds:
            self.failed.append(sentence)
        print(f"{'ok    ' if holds else 'FAILED'} {sentence}{'' if holds else f': {found}'}", flush=True)


class Stack:
    """The compose project in a folder of its own: what a user has who has cloned the repository."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.folder = cache_folder() / "stack"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in ("docker-compose.yaml", "docker-compose.gpu.yaml", "deploy", "data/catalog.toml", "data/datasets"):
            source, target = PROJECT / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        self.data = self.folder / "data"
        demo = json.loads((self.data / "datasets" / "insurance_qa" / "2026w47.json").read_text(encoding="utf-8"))
        demo["test_cases"] = demo["test_cases"][:3]
        (self.data / "test.json").write_text(json.dumps({**demo, "name": "test"}, ensure_ascii=False), encoding="utf-8")
        run("sh", "deploy/make_secrets.sh", cwd=self.folder)
        for name, secret in KEYS.items():
            (self.folder / "secrets" / name).write_text(f"{secret}\n", encoding="utf-8")
        self.backups = self.folder / "backups"
        self.backups.mkdir()
        run("chown", "-R", f"{USER}:{USER}", self.data, self.backups)
        self.secrets = {path.name: path.read_text(encoding="utf-8").strip() for path in (self.folder / "secrets").iterdir()}

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.engine.docker("compose", "-p", NAME, *arguments, cwd=self.folder, check=check)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Service -> what `docker inspect` says of its container, those of `compose run` left out."""
        ids = self.engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={NAME}").split()
        labelled = [(found["Config"]["Labels"], found) for found in (self.engine.inspect(*ids) if ids else [])]
        return {
            labels["com.docker.compose.service"]: found
            for labels, found in labelled
            if labels["com.docker.compose.oneoff"] == "False"
        }

    def ask(self, path: str, *, body: Any = None, key: str | None = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def query(self, text: str, **variables: Any) -> Any:
        status, body = self.ask("/graphql", body={"query": text, "variables": variables}, key=self.secrets["evalvault_api_key"])
        found = json.loads(body)
        assert status == 200 and "errors" not in found, body
        return found["data"]


def wait_until(holds: Callable[[], Any], *, seconds: float) -> bool:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if holds():
            return True
        time.sleep(2)
    return False


def check_stack(engine: Engine, checks: Checks) -> None:
    stack = Stack(engine)
    stack.compose("down", "-v", "--remove-orphans")
    both = ("compose", "-f", "docker-compose.yaml", "-f", "docker-compose.gpu.yaml", "--profile", "cli", "config", "-q")
    told = engine.docker(*both, cwd=stack.folder, check=False)
    checks.that("docker compose reads the GPU's file too", not told, told)
    try:
        started = time.monotonic()
        told = ""
        try:
            stack.compose("up", "-d", "--wait", "--no-build")
        except CommandFailed as error:
            told = str(error)
        print(f"up after {time.monotonic() - started:.0f} s", flush=True)
        checks.that("docker compose up ends well", not told, told)
        healthy = [
            name for name, found in stack.containers().items() if found["State"].get("Health", {}).get("Status") == "healthy"
        ]
        checks.that(
            "every server is healthy", sorted(healthy) == SERVERS, f"{healthy}\n{told[-1500:]}\n{stack.compose('logs')[-5000:]}"
        )
        checks.that(
            "the models are pulled before the judge starts",
            "pulled gpt-oss-safeguard:20b" in stack.compose("logs", "ollama-pull"),
        )
        if sorted(healthy) != SERVERS:
            raise CommandFailed("The stack did not come up; nothing else can be checked.")
        _check_closed(stack, checks)
        _check_access(stack, checks)
        _check_run(stack, checks)
        _check_command(stack, checks)
        _check_backup(stack, checks)
        _check_secrets(stack, checks)
        print(engine.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"), flush=True)
        _check_restart(stack, checks)
    finally:
        stack.compose("down", "-v", "--remove-orphans")
    label = ["--filter", f"label=com.docker.compose.project={NAME}", "-q"]
    left = [engine.docker(*what, *label).strip() for what in (("ps", "-a"), ("volume", "ls"), ("network", "ls"))]
    checks.that("`down -v` leaves nothing", not any(left), left)


def _check_closed(stack: Stack, checks: Checks) -> None:
    containers = stack.containers()
    ports = {
        name: [
            (bound["HostIp"], bound["HostPort"])
            for bindings in (found["NetworkSettings"]["Ports"] or {}).values()
            for bound in bindings or []
        ]
        for name, found in containers.items()
    }
    published = {name: bound for name, bound in ports.items() if bound}
    checks.that(
        "only the webserver is published, on loopback", published == {"webserver": [("127.0.0.1", str(PORT))]}, published
    )
    networks = {name: sorted(found["NetworkSettings"]["Networks"]) for name, found in containers.items()}
    checks.that(
        "what needs no outside is on the internal network alone",
        all(networks[name] == [f"{NAME}_internal"] for name in INTERNAL),
        networks,
    )
    (internal,) = stack.engine.inspect(f"{NAME}_internal")
    checks.that("the internal network has no way out", internal["Internal"])
    open_ = {
        name: [why for why, wrong in _weaknesses(name, found["HostConfig"]).items() if wrong]
        for name, found in containers.items()
    }
    checks.that(
        "every container is read-only, without capabilities, with limits and rotated logs", not any(open_.values()), open_
    )
    processes = {name: stack.engine.docker("top", containers[name]["Id"], "-eo", "uid,pid,args") for name in SERVERS}
    roots = {name: told for name, told in processes.items() if any(line.split()[0] == "0" for line in told.splitlines()[1:])}
    checks.that("no process runs as root", not roots, roots)
    for place in ("/app/x", "/opt/evalvault/x", "/usr/local/x"):
        told = stack.compose("exec", "-T", "code", "sh", "-c", f"echo x >{place} && echo written", check=False)
        checks.that(f"nobody writes to {place}", "written" not in told and "Read-only" in told, told)
    for image in (default_of("EVALVAULT_IMAGE"), default_of("PHOENIX_IMAGE")):
        tools = stack.engine.docker("run", "--rm", "--network=none", "--entrypoint", "sh", image, "-c", f"{TOOLS}", check=False)
        found = [
            stack.engine.docker(
                "run", "--rm", "--network=none", "--entrypoint", python, image, "-c", f"{SEARCH} or print('clean')", check=False
            )
            for python in ("python", "/usr/local/bin/python3")
        ]
        checks.that(f"{image} has neither compiler nor pip", not tools.strip() and not any(found), (tools, found))
    version = stack.compose("exec", "-T", "code", "pg_dump", "--version")
    checks.that("pg_dump is of the server's major version", " 17." in version, version)


def _weaknesses(name: str, host: dict[str, Any]) -> dict[str, bool]:
    return {
        "writable": not host["ReadonlyRootfs"],
        "capabilities": host["CapDrop"] != ["ALL"] or bool(host["CapAdd"]) or host["Privileged"],
        "new privileges": "no-new-privileges:true" not in (host["SecurityOpt"] or []),
        "memory": not host["Memory"],
        "processors": not host["NanoCpus"] and name != "ollama",  # the judge takes what there is
        "processes": not host["PidsLimit"],
        "logs": host["LogConfig"]["Config"].get("max-file") is None,
    }


def _check_access(stack: Stack, checks: Checks) -> None:
    key = stack.secrets["evalvault_api_key"]
    asked = {"query": "{ version }"}
    checks.that(
        "without the key nobody asks Dagster", stack.ask("/graphql", body=asked)[0] == 401, stack.ask("/graphql", body=asked)
    )
    checks.that("a wrong key opens nothing", stack.ask("/graphql", body=asked, key=key[:-1] + "x")[0] == 401)
    status, page = stack.ask("/", key=key)
    checks.that("with the key there is the UI", status == 200 and "Dagster" in page, (status, page[:300]))
    ask = "import urllib.request as r; print(r.urlopen(r.Request('http://%s', headers=%s), timeout=20).status)"
    for service, address, headers in (
        ("exporter", "exporter:9464/metrics", "{}"),
        ("phoenix", "phoenix:6006/v1/projects", "{}"),
    ):
        told = stack.compose("exec", "-T", "code", "python", "-c", ask % (address, headers), check=False)
        checks.that(f"{service} refuses who has no key", "401" in told and "200" not in told, told[-300:])
    bearer = "{'Authorization': 'Bearer ' + open('/run/secrets/phoenix_api_token').read().strip()}"
    told = stack.compose("exec", "-T", "code", "python", "-c", ask % ("phoenix:6006/v1/projects", bearer), check=False)
    checks.that("phoenix takes the token of the code server", told.strip() == "200", told[-300:])
    told = stack.compose(
        "exec", "-T", "code", "python", "-c", "import socket; socket.create_connection(('phoenix', 4317), 5)", check=False
    )
    checks.that("phoenix's gRPC port is closed", "refused" in told, told[-200:])


def _check_run(stack: Stack, checks: Checks) -> None:
    launched = stack.query(
        "mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename"
        " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
        params={
            "selector": {
                "repositoryLocationName": "evalvault_pipeline",
                "repositoryName": "__repository__",
                "pipelineName": "all_datasets_evaluation_job",
            }
        },
    )["launchRun"]
    checks.that("a run is launched through GraphQL with the key", launched["__typename"] == "LaunchRunSuccess", launched)
    if launched["__typename"] != "LaunchRunSuccess":
        return
    status = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

    def state() -> str:
        return str(stack.query(status, id=launched["run"]["runId"])["runOrError"].get("status"))

    wait_until(lambda: state() in ("SUCCESS", "FAILURE", "CANCELED"), seconds=8 * MINUTE)
    checks.that(
        "it ends in SUCCESS", state() == "SUCCESS", f"{state()}\n{stack.compose('logs', '--tail', '60', 'code', 'daemon')}"
    )
    results = stack.data / "results" / "insurance_qa" / "2026w47" / "results.json"
    cases = json.loads(results.read_text(encoding="utf-8"))["total_test_cases"] if results.is_file() else None
    checks.that("its results are in the data folder", cases == 64, cases)
    checks.that("and belong to the user of the containers", results.is_file() and results.stat().st_uid == USER)


def _check_command(stack: Stack, checks: Checks) -> None:
    guides = ["run", "-T", "--rm", "evalvault", "run", "/app/data/test.json", "--metrics", "faithfulness"]
    started = time.monotonic()
    told = stack.compose(*guides, check=False)
    print(f"the guide's command took {time.monotonic() - started:.0f} s", flush=True)
    checks.that("the guide's command says the judged metric", "faithfulness" in told and "rror" not in told, told[-3000:])
    told = stack.compose(*guides, "--output", "/app/data/results/test.json", check=False)
    file = stack.data / "results" / "test.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    scores = [metric["score"] for case in result.get("results", []) for metric in case["metrics"]]
    judged = len(scores) == 3 and all(score is not None for score in scores)
    checks.that(
        "each case is judged by the stand-in",
        judged and "gpt-oss-safeguard" in result["model_name"],
        f"{scores} {told[-3000:]}",
    )
    phoenix = (result.get("tracker_metadata") or {}).get("phoenix", {})
    checks.that("the run is in Phoenix", phoenix.get("status") == "complete", phoenix)


def _check_backup(stack: Stack, checks: Checks) -> None:
    told = stack.compose("run", "-T", "--rm", "evalvault", "backup", check=False)
    files = list(stack.backups.glob("evalvault-*.zip"))
    checks.that("a backup is in the folder of backups", len(files) == 1 and files[0].stat().st_uid == USER, told[-3000:])
    if not files:
        return
    restore = ["run", "-T", "--rm", "evalvault", "restore", f"/backups/{files[0].name}"]
    told = stack.compose(*restore, "--check", check=False)
    checks.that("it is whole, with Dagster's runs", "whole:" in told and "Dagster: 1 part" in told, told[-3000:])
    place = ["--to", "/tmp/data", "--dagster-url", "postgresql://evalvault@postgres/dagster"]
    told = stack.compose(*restore, *place, check=False)
    checks.that("restore has the password, and takes no database in use", "is not empty" in told, told[-3000:])


def _check_secrets(stack: Stack, checks: Checks) -> None:
    containers = [found["Id"] for found in stack.containers().values()]
    images = [default_of(name) for name in ("EVALVAULT_IMAGE", "PHOENIX_IMAGE")]
    places = {
        "docker inspect": json.dumps(stack.engine.inspect(*containers, *images)),
        "docker history": "".join(stack.engine.docker("history", "--no-trunc", image) for image in images),
        "the logs": stack.compose("logs", "--no-color"),
        "the data folder": "".join(path.read_bytes().decode("latin-1") for path in stack.data.rglob("*") if path.is_file()),
    }
    for place, text in places.items():
        found = [name for name, value in stack.secrets.items() if value and value in text]
        checks.that(f"no secret is in {place}", not found, found)


def _check_restart(stack: Stack, checks: Checks) -> None:
    victims = ["code", "exporter", "postgres"]
    for name in victims:
        os.kill(stack.containers()[name]["State"]["Pid"], signal.SIGKILL)

    def back() -> bool:
        found = [stack.containers()[name] for name in victims]
        return all(one["RestartCount"] == 1 and one["State"]["Health"]["Status"] == "healthy" for one in found)

    started = time.monotonic()
    came_back = wait_until(back, seconds=4 * MINUTE)
    print(f"back after {time.monotonic() - started:.0f} s", flush=True)
    checks.that("what is killed is started again, and is healthy", came_back, stack.compose("ps"))
    answered = wait_until(
        lambda: stack.ask("/graphql", body={"query": "{ version }"}, key=stack.secrets["evalvault_api_key"])[0] == 200,
        seconds=MINUTE,
    )
    checks.that("the webserver answers again", answered)
