"""`evalvault webserver` over a real project: every route without a key, viewers, and a browser that evil pages want to use.

Two servers, one of them read-only with a key of its own, serve all tests of this module. No daemon runs: what is launched
stays queued.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from evalvault_pipeline_tests.access.served import KEY, Site, served
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import UserProject, Webserver, wait_for

pytestmark = pytest.mark.stack
VIEWER_KEY = "Viewer-Key-0123456789-abcdef"
HEADER = f"X-API-Key: {KEY}"
JSON = "Content-Type: application/json"
LOCATION = {"repositoryLocationName": "evalvault_pipeline", "repositoryName": "__repository__"}
LAUNCH = (
    "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename ... on LaunchRunSuccess { run { runId } } } }"
)
PARAMS = {"selector": {**LOCATION, "pipelineName": "register_snapshots_job"}, "mode": "default"}
INLINE = (
    "mutation { launchRun(executionParams: {selector: {repositoryLocationName: \"evalvault_pipeline\", "
    "repositoryName: \"__repository__\", pipelineName: \"register_snapshots_job\"}, mode: \"default\"}) { __typename } }"
)  # fmt: skip


@dataclass
class Running:
    full: Webserver
    viewer: Webserver

    @property
    def site(self) -> Site:
        """The full one, to be asked byte for byte."""
        return Site(port=self.full.port)

    def run_count(self) -> int:
        return len(self.full.query("{ runsOrError { ... on Runs { results { runId } } } }")["runsOrError"]["results"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    project = UserProject(tmp_path_factory.mktemp("webserver"))
    with chdir(project.folder), dg.DagsterInstance.from_config(".") as instance:
        instance.get_runs()  # makes the databases: two servers that both do so would break them
    both = Running(Webserver(project, KEY), Webserver(project, VIEWER_KEY, "--read-only"))
    both.full.wait_until_ready()
    both.viewer.wait_until_ready()
    yield both
    both.full.tell_to_end()
    both.viewer.stop()
    both.full.stop()


# --- every route

EXAMPLES = {"path": "some/file.out", "asset_key": "some/asset", "run_id": "RUN"}


@cache
def routes() -> list[tuple[str, str, str]]:
    """(path as Dagster declares it, a path that it matches, method) of each route, and of ours."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import EmptyWorkspaceTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from starlette.routing import Mount, Route, WebSocketRoute

    with dg.instance_for_test() as instance, WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        app = create_app_from_workspace_process_context(context)
    found = [(path, path, method) for path in ("/healthz", "/login", "/logout") for method in ("GET", "POST")]
    for route in app.routes:
        if isinstance(route, Mount):
            folder = Path(str(route.app.directory))  # type: ignore[attr-defined]
            file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
            found.append((f"{route.path}/...", f"{route.path}/{file.relative_to(folder).as_posix()}", "GET"))
        elif isinstance(route, WebSocketRoute):
            found.append((route.path, route.path, "WebSocket"))
        else:
            assert isinstance(route, Route)
            path = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: EXAMPLES[found[1]], route.path)
            found += [(route.path, path, method) for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


def tried(site: Site) -> list[tuple[str, ...]]:
    """The rows of the table: route, method, and the status without a key, with a wrong one, for a page, with the key."""
    addresses = count(1)
    rows = []
    run_id = launch(site)
    for route, template, method in routes():
        path = template.replace("RUN", run_id)
        if method == "WebSocket":
            statuses = [handshake(site, *headers) for headers in ((), ("X-API-Key: wrong",), (HEADER,))]
            rows.append((route, method, statuses[0], statuses[1], "-", statuses[2]))
            continue

        def status(*headers: str, path: str = path, method: str = method) -> str:
            body = '{"query": "{ version }"}' if method == "POST" else ""
            return f"{site.ask(path, method, *headers, body=body, source=f'127.0.1.{next(addresses)}').status}"

        kind = (JSON,) if method == "POST" else ()
        pages = [] if method == "POST" else [status("Accept: text/html")]
        rows.append((route, method, status(*kind), status(*kind, "X-API-Key: wrong"), *(pages or ["-"]), status(*kind, HEADER)))
    return sorted(rows)


def launch(site: Site) -> str:
    answer = site.ask("/graphql", "POST", HEADER, JSON, body=json.dumps({"query": LAUNCH, "variables": {"p": PARAMS}}))
    run_id: str = json.loads(answer.body)["data"]["launchRun"]["run"]["runId"]
    return run_id


def handshake(site: Site, *headers: str, origin: str = "") -> str:
    more = [tuple(header.split(": ", 1)) for header in headers] + ([("Origin", origin)] if origin else [])
    try:
        with connect(f"ws://127.0.0.1:{site.port}/graphql", subprotocols=["graphql-ws"], additional_headers=more) as socket:  # type: ignore[list-item,arg-type]
            socket.send(json.dumps({"type": "connection_init"}))
            return "101" if json.loads(socket.recv(timeout=20)) == {"type": "connection_ack"} else "?"
    except InvalidStatus as refusal:
        return str(refusal.response.status_code)


OPEN = {"/healthz", "/login", "/logout"}


def test_no_route_answers_without_the_key(running: Running) -> None:
    rows = tried(running.site)
    assert len(rows) > 25
    for route, method, without, wrong, page, _ in rows:
        if route not in OPEN:
            refusal = {"GET": ("401", "401", "303"), "POST": ("401", "401", "-"), "WebSocket": ("403", "403", "-")}
            assert (without, wrong, page) == refusal[method], route
    assert {(row[0], row[1], row[5]) for row in rows} >= {
        ("/server_info", "GET", "200"),
        ("/graphql", "WebSocket", "101"),
        ("/favicon.png", "GET", "200"),
        ("/_next/...", "GET", "200"),
        ("/{path:path}", "GET", "200"),
        ("/report_asset_materialization/{asset_key:path}", "POST", "200"),
        ("/download_debug/{run_id:str}", "GET", "200"),
    }
    table = "".join(f"| `{route}` | {' | '.join(rest)} |\n" for route, *rest in rows)
    assert table in (PROJECT / "docs" / "access.md").read_text(encoding="utf-8"), f"docs/access.md should say:\n{table}"


def test_what_is_refused_tells_nothing_but_that(running: Running) -> None:
    for _, path, method in routes():
        if path not in OPEN and method in ("GET", "POST"):
            answer = running.site.ask(path, method, JSON)
            assert answer.body == b'{"error":"Unauthorized"}'
            assert {name for name, _ in answer.headers} == {
                *"date content-type content-length connection cache-control content-security-policy".split(),
                *"x-content-type-options x-frame-options referrer-policy www-authenticate".split(),
                *"cross-origin-resource-policy cross-origin-opener-policy".split(),
            }


def test_the_key_is_in_no_log(running: Running) -> None:
    running.site.ask(f"/{KEY}?X-API-Key={KEY}", "GET", f"X-API-Key: {KEY}x")
    logs = running.full.project.folder / "data" / "results" / "logs" / "evalvault.log"
    text = wait_for(lambda: logs.exists() and logs.read_text(encoding="utf-8"), seconds=120)
    assert "a wrong key came from 127.0.0.1 for GET '/[SECRET]'" in text
    for file in running.full.project.folder.rglob("*"):
        if file.is_file() and file.suffix in {".log", ".db", ".txt", ""}:
            assert KEY.encode() not in file.read_bytes(), file


def test_it_does_not_start_for_others_without_a_long_key(running: Running) -> None:
    for key in (" ", KEY[:23]):
        done = running.full.project.run("evalvault", "webserver", "--host", "0.0.0.0", check=False, EVALVAULT_API_KEY=key)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Set EVALVAULT_API_KEY to at least 24 characters (`openssl rand -hex 24` makes a key)" in done.stderr


# --- launching, and viewers


def test_a_program_launches_with_the_key(running: Running) -> None:
    before = running.run_count()
    assert running.full.query(LAUNCH, p=PARAMS)["launchRun"]["__typename"] == "LaunchRunSuccess"
    assert running.run_count() == before + 1


def test_graphql_over_a_websocket_is_for_subscriptions_only(running: Running) -> None:
    before = running.run_count()
    with connect(  # type: ignore[call-overload]
        f"ws://127.0.0.1:{running.full.port}/graphql", subprotocols=["graphql-ws"], additional_headers={"X-API-Key": KEY}
    ) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        socket.recv(timeout=20)
        socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": INLINE}}))
        answer = json.loads(socket.recv(timeout=20))
    assert answer["type"] == "error" or answer["payload"]["errors"], answer
    assert running.run_count() == before


def refused(answer: Any) -> bool:
    """Somewhere in it, Dagster says that this is not allowed."""
    return any(said in json.dumps(answer) for said in ("UnauthorizedError", "You do not have permission"))


def mutations(run_id: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Mutation -> (declared variables, call, variables): what a person at the UI can do to runs, assets and schedules."""
    job = {**LOCATION, "pipelineName": "register_snapshots_job"}
    sensor = {**LOCATION, "sensorName": "new_snapshot_sensor"}
    schedule = {**LOCATION, "scheduleName": "weekly_evaluation_schedule"}
    partitions = {"repositorySelector": LOCATION, "partitionsDefName": "insurance_qa_batches"}
    return {
        "launchRun": ("$p: ExecutionParams!", "executionParams: $p", {"p": {"selector": job, "mode": "default"}}),
        "launchMultipleRuns": ("$p: [ExecutionParams!]!", "executionParamsList: $p", {"p": [{"selector": job, "mode": "default"}]}),
        "launchRunReexecution": ("$p: ReexecutionParams", "reexecutionParams: $p", {"p": {"parentRunId": run_id, "strategy": "ALL_STEPS"}}),
        "launchPartitionBackfill": ("$p: LaunchBackfillParams!", "backfillParams: $p", {"p": {"assetSelection": [{"path": ["insurance_qa", "cases"]}], "partitionNames": ["2026w44/0001"]}}),
        "deleteRun": ("$p: String!", "runId: $p", {"p": run_id}),
        "terminateRun": ("$p: String!", "runId: $p", {"p": run_id}),
        "terminateRuns": ("$p: [String!]!", "runIds: $p", {"p": [run_id]}),
        "wipeAssets": ("$p: [PartitionsByAssetSelector!]!", "assetPartitionRanges: $p", {"p": [{"assetKey": {"path": ["insurance_qa", "report"]}}]}),
        "reportRunlessAssetEvents": ("$p: ReportRunlessAssetEventsParams!", "eventParams: $p", {"p": {"eventType": "ASSET_MATERIALIZATION", "assetKey": {"path": ["insurance_qa", "report"]}}}),
        "startSchedule": ("$p: ScheduleSelector!", "scheduleSelector: $p", {"p": schedule}),
        "resetSchedule": ("$p: ScheduleSelector!", "scheduleSelector: $p", {"p": schedule}),
        "scheduleDryRun": ("$p: ScheduleSelector!", "selectorData: $p, timestamp: 1.0", {"p": schedule}),
        "startSensor": ("$p: SensorSelector!", "sensorSelector: $p", {"p": sensor}),
        "setSensorCursor": ("$p: SensorSelector!", "sensorSelector: $p", {"p": sensor}),
        "sensorDryRun": ("$p: SensorSelector!", 'selectorData: $p, cursor: "x"', {"p": sensor}),
        "reloadRepositoryLocation": ("$p: String!", "repositoryLocationName: $p", {"p": "evalvault_pipeline"}),
        "shutdownRepositoryLocation": ("$p: String!", "repositoryLocationName: $p", {"p": "evalvault_pipeline"}),
        "reloadWorkspace": ("", "", {}),
        "addDynamicPartition": ("$p: RepositorySelector!", 'repositorySelector: $p, partitionsDefName: "insurance_qa_batches", partitionKey: "x"', {"p": LOCATION}),
        "deleteDynamicPartitions": ("$p: RepositorySelector!", 'repositorySelector: $p, partitionsDefName: "insurance_qa_batches", partitionKeys: ["2026w44/0001"]', {"p": partitions["repositorySelector"]}),
    }  # fmt: skip


def test_viewers_see_and_change_nothing(running: Running) -> None:
    run_id = launch(running.site)
    status = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    state = running.viewer.query(status, id=run_id), running.run_count()
    for name, (declared, arguments, variables) in mutations(run_id).items():
        head = f"mutation({declared})" if declared else "mutation"
        call = f"{name}({arguments})" if arguments else name
        told = {
            "launchMultipleRuns": "... on LaunchMultipleRunsResult { launchMultipleRunsResult { __typename } }",
            "terminateRun": "... on TerminateRunFailure { message }",
            "terminateRuns": "... on TerminateRunsResult { terminateRunResults { ... on TerminateRunFailure { message } } }",
        }.get(name, "... on PythonError { className message }")
        answer = running.viewer.query(f"{head} {{ {call} {{ __typename {told} }} }}", **variables)
        assert refused(answer), (name, answer)
    for path in ("materialization", "check", "observation"):
        done = Site(port=running.viewer.port).ask(
            f"/report_asset_{path}/x", "POST", f"X-API-Key: {VIEWER_KEY}", JSON, body="{}"
        )
        assert (done.status, "Not authorized" in done.error) == (401, True)
    assert state == (running.full.query(status, id=run_id), running.run_count())
    assert state[0] == {"runOrError": {"status": "QUEUED"}}


def test_the_key_of_viewers_opens_the_viewers_server_only(running: Running) -> None:
    assert running.site.ask("/", "GET", f"X-API-Key: {VIEWER_KEY}", source="127.0.2.1").status == 401
    assert Site(port=running.viewer.port).ask("/", "GET", HEADER, source="127.0.2.1").status == 401
    cookies = [
        Site(port=server.port).log_in(key=key).header("set-cookie")
        for server, key in ((running.full, KEY), (running.viewer, VIEWER_KEY))
    ]
    both = "Cookie: " + "; ".join(cookie.partition(";")[0] for cookie in cookies)
    assert running.site.ask("/", "GET", both).status == 200, "a browser sends the cookies of both, for ports do not part them"
    assert running.site.ask("/", "GET", f"Cookie: {cookies[1].partition(';')[0]}").status == 401


# --- a browser

ATTACKS = """<!doctype html><title>evil</title><body>
<iframe name=a></iframe><iframe name=b></iframe><iframe name=c></iframe>
<form id=a target=a method=post action="TARGET/graphql?query=MUTATION" enctype="text/plain"><input name=x></form>
<form id=b target=b method=post action="TARGET/graphql?query=MUTATION"><input name=x></form>
<form id=c target=c method=get action="TARGET/graphql"><input name=query value='PLAIN'></form>
<script>
const done = [], note = (name) => (value) => done.push(name + ":" + value);
const body = JSON.stringify({query: `PLAIN`});
const image = new Image(); image.onload = note("image"); image.onerror = note("image");
image.src = "TARGET/graphql?query=MUTATION";
for (const form of document.forms) form.submit();
const send = (name, options) => fetch("TARGET/graphql?query=MUTATION", {credentials: "include", ...options})
  .then((answer) => note(name)(answer.status), note(name));
send("get", {mode: "no-cors"});
send("simple", {method: "POST", mode: "no-cors", body});
send("none", {method: "POST", mode: "no-cors", body: new Blob([body])});
send("cors", {method: "POST", body, headers: {"Content-Type": "application/json"}});
send("key", {method: "POST", body, headers: {"Content-Type": "application/json", "X-API-Key": "x"}});
const socket = new WebSocket("SOCKET/graphql", "graphql-ws");
socket.onopen = note("socket open"); socket.onerror = note("socket");
window.attacked = () => done.length >= 7 && done;
</script><a id=link href="TARGET/runs">runs</a>"""


@contextmanager
def evil_page(target: str) -> Iterator[str]:
    """A page on another port that tries all that a page can, against `target`; gives its address on `localhost`."""
    content = ATTACKS.replace("TARGET", target).replace("SOCKET", target.replace("http", "ws"))
    content = content.replace("MUTATION", quote(INLINE)).replace("PLAIN", INLINE)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            """Nothing is to be said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield launched
        launched.close()


def log_in(page: Any, url: str, key: str = KEY) -> None:
    page.goto(url)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.browser
def test_a_person_logs_in_sees_the_assets_launches_and_logs_out(running: Running, browser: Any) -> None:
    page = browser.new_page()
    frames: list[Any] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    log_in(page, f"{running.full.url}/asset-groups", key="wrong")
    assert "키가 맞지 않습니다" in page.get_by_role("alert").inner_text()
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("insurance_qa", exact=True).first.wait_for()
    assert page.url == f"{running.full.url}/asset-groups"
    assert page.evaluate("document.cookie") == "", "no script reads the session"
    before = running.run_count()
    run_id = page.evaluate(
        """([query, p]) => fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"},
             body: JSON.stringify({query, variables: {p}})}).then((answer) => answer.json())
             .then((found) => found.data.launchRun.run.runId)""",
        [LAUNCH, PARAMS],
    )
    assert running.run_count() == before + 1
    page.goto(f"{running.full.url}/runs/{run_id}")
    wait_for(lambda: page.wait_for_timeout(100) or any(run_id in str(frame) for frame in frames), seconds=120)
    page.goto(f"{running.full.url}/logout")
    page.get_by_role("button", name="Log out").click()
    page.goto(f"{running.full.url}/runs")
    assert page.url == f"{running.full.url}/login?next=%2Fruns"
    page.close()


@pytest.mark.browser
def test_the_login_needs_no_javascript(running: Running, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, f"{running.full.url}/server_info")
    assert "dagster_version" in page.content()
    context.close()


@pytest.mark.browser
def test_no_page_of_others_does_anything_with_a_persons_session(running: Running, browser: Any) -> None:
    """Neither of another host nor of another port of this one, to which the browser does send the cookie."""
    context = browser.new_context()
    page = context.new_page()
    log_in(page, f"{running.full.url}/asset-groups")
    page.get_by_text("insurance_qa", exact=True).first.wait_for()
    before = running.run_count()
    with evil_page(running.full.url) as evil:
        for url in (evil.replace("localhost", "127.0.0.1"), evil):
            other = context.new_page()
            other.goto(url)
            done = wait_for(lambda other=other: other.evaluate("attacked()"), seconds=120)
            assert not [told for told in done if told.startswith("socket open")], done
            assert running.run_count() == before
        other.locator("#link").click()
        other.get_by_text("register_snapshots_job").first.wait_for()
        assert other.url == f"{running.full.url}/runs", "a link of others does lead a person who is logged in to the UI"
    assert running.run_count() == before
    context.close()


@pytest.mark.browser
def test_what_the_evil_page_tries_would_reach_a_server_without_a_guard(browser: Any) -> None:
    """Else the test above would show nothing."""
    with served(guarded=False) as site, evil_page(site.origin) as evil:
        page = browser.new_page()
        page.goto(evil)
        done = wait_for(lambda: page.evaluate("attacked()"), seconds=120)
        page.close()
    assert "socket open:[object Event]" in done
    asked = [scope for scope in site.passed if scope["path"] == "/graphql"]
    kinds = [dict(scope["headers"]).get(b"content-type") for scope in asked if scope.get("method") == "POST"]
    assert {b"text/plain", b"application/x-www-form-urlencoded", b"text/plain;charset=UTF-8", None} <= set(kinds)
    assert sum(scope.get("method") == "GET" and b"launchRun" in scope["query_string"] for scope in asked) >= 3
