"""Production on loopback: `deploy/dagster.yaml`, `deploy/workspace.yaml`, Postgres, code server, daemon, guarded webserver, judge.

Each part can be killed, and started again where it was. Used by test_drill.py and by `make drill`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.judge_process import JudgeProcess
from evalvault_pipeline_tests.judged_project import JudgedProject
from evalvault_pipeline_tests.postgres_server import PostgresServer
from evalvault_pipeline_tests.stack import children_of, free_port, wait_for

DATASET = "judged"
RETRIES = 6
API_KEY = "the key of the tests, 32 letters"


class ProductionStack:
    """`changes` are made in the text of deploy/dagster.yaml, for tests that cannot wait for its times."""

    def __init__(self, folder: Path, *, latency: float, in_flight: int = 8, changes: dict[str, str] | None = None) -> None:
        self.folder, self.in_flight = folder, in_flight
        for name in ("postgres", "home", "logs"):
            (folder / name).mkdir(parents=True)
        self.postgres = PostgresServer(folder / "postgres")
        self.judge = JudgeProcess(folder, latency)
        self._ports = {"code": free_port(), "webserver": free_port()}
        self.project = JudgedProject(
            folder / "project",
            self.judge.base_url,
            datasets=(DATASET,),
            in_flight=in_flight,
            EVALVAULT_STORE_URL="dagster",
            EVALVAULT_API_KEY=API_KEY,
            DAGSTER_HOME=str(folder / "home"),
            DAGSTER_COMPUTE_LOGS=str(folder / "logs"),
            DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR="1",  # as in docker-compose.yaml
            EVALVAULT_CODE_SERVER_HOST="127.0.0.1",
            EVALVAULT_CODE_SERVER_PORT=str(self._ports["code"]),
            **self.postgres.variables("dagster"),
        )
        instance = (PROJECT / "deploy" / "dagster.yaml").read_text(encoding="utf-8")
        for old, new in (changes or {}).items():
            assert old in instance
            instance = instance.replace(old, new)
        (folder / "home" / "dagster.yaml").write_text(instance, encoding="utf-8")
        self._workspace = str(PROJECT / "deploy" / "workspace.yaml")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.postgres.start()
        self.postgres.create("dagster")
        self.judge.start()
        register = "dagster job execute -m evalvault_pipeline.definitions -j register_snapshots_job"
        self.project.run(*register.split())  # it makes the tables too, which several must not do at once
        for part in ("code", "webserver", "daemon"):
            self.start(part)
        self.wait_for("code", "webserver")
        return self

    def __exit__(self, *_: object) -> None:
        for part in list(self._processes):
            self.kill(part)
        self.judge.kill()
        self.postgres.stop()

    def start(self, part: str) -> None:
        """Start `code`, `daemon` or `webserver`; the judge and Postgres start themselves."""
        host, port = "127.0.0.1", str(self._ports.get(part, 0))
        commands = {
            "code": f"dagster api grpc -h {host} -p {port} -m evalvault_pipeline.definitions",
            "daemon": f"dagster-daemon run -w {self._workspace}",
            "webserver": f"evalvault webserver --host {host} --port {port} --workspace {self._workspace}",
        }
        self._processes[part] = self.project.start(*commands[part].split(), log=self.folder / f"{part}.log")

    def kill(self, part: str) -> None:
        """SIGKILL for a process and all that it has started, as for a container."""
        process = self._processes.pop(part)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_worker(self) -> None:
        """SIGKILL for the process that executes a run."""
        (worker,) = self._workers()
        os.kill(worker, signal.SIGKILL)

    def restart(self, part: str) -> None:
        """Kill a part, and bring it back at once."""
        if part == "worker":
            self.kill_worker()
        elif part in ("judge", "postgres"):
            server = self.judge if part == "judge" else self.postgres
            server.kill()
            server.start()
        else:
            self.kill(part)
            self.start(part)

    def wait_for(self, *parts: str) -> None:
        answers = {"code": self._code_answers, "webserver": self._webserver_answers}
        for part in parts:
            wait_for(answers[part], seconds=120, what=lambda part=part: self.said(part))  # type: ignore[misc]

    def said(self, part: str) -> str:
        return (self.folder / f"{part}.log").read_text(errors="replace")[-4000:]

    def query(self, text: str, **variables: Any) -> Any:
        body = json.dumps({"query": text, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self._ports['webserver']}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", "X-API-Key": API_KEY})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        return found["data"]

    def backfill(self, snapshot: str, *, batches: int) -> str:
        """Launch a backfill of the UI over these batches; its id."""
        assets = [{"path": [DATASET, noun]} for noun in ("cases", "scores", "report")]
        keys = [f"{snapshot}/{index:04d}" for index in range(1, batches + 1)]
        tags = [{"key": "dagster/max_retries", "value": str(RETRIES)}]
        found = self.query(
            """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"assetSelection": assets, "partitionNames": keys, "tags": tags},
        )["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return str(found["backfillId"])

    def ended(self, backfill: str) -> str | None:
        """How a backfill has ended; None while it has not."""
        found = self.postgres.execute("dagster", f"SELECT status FROM bulk_actions WHERE key = '{backfill}'")
        return None if found[0][0] == "REQUESTED" else str(found[0][0])

    def statuses(self) -> list[str]:
        """Of the runs that score, the oldest first."""
        query = "SELECT status FROM runs WHERE pipeline_name <> 'register_snapshots_job' ORDER BY id"
        return [str(status) for (status,) in self.postgres.execute("dagster", query)]

    def scores(self) -> int:
        if self.postgres.execute("dagster", "SELECT to_regclass('scores')")[0][0] is None:
            return 0
        return int(str(self.postgres.execute("dagster", "SELECT count(*) FROM scores")[0][0]))

    def answered(self, calls: int, *, seconds: float = 120) -> None:
        """Wait until the judge has answered so many calls in all."""
        wait_for(lambda: self.judge.answered >= calls, seconds=seconds, what=self._everything_said)

    def until(self, true: Callable[[], Any], *, seconds: float) -> Any:
        return wait_for(true, seconds=seconds, what=self._everything_said)

    def _workers(self) -> list[int]:
        children = children_of(self._processes["code"].pid)
        return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def _code_answers(self) -> bool:
        command = self.project.command("dagster", "api", "grpc-health-check", "-p", str(self._ports["code"]))
        return (
            subprocess.run(command, capture_output=True, env=self.project.environment, cwd=self.project.folder).returncode == 0
        )

    def _webserver_answers(self) -> bool:
        """With a query of each of its tables: after Postgres was away, the first one on each old connection fails."""
        tables = "runsOrError(limit: 1) { __typename } assetsOrError(limit: 1) { __typename }"
        try:
            self.query(f"{{ {tables} partitionBackfillsOrError(limit: 1) {{ __typename }} }}")
            found = self.query("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
        except OSError:
            return False
        return all(entry["loadStatus"] == "LOADED" for entry in found["workspaceOrError"]["locationEntries"])

    def _everything_said(self) -> str:
        return f"{self.statuses()}, {self.judge.answered} calls\n" + "\n".join(map(self.said, ("daemon", "code")))
