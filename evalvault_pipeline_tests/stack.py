"""A project folder as a user has it, and Dagster's real webserver and daemon over it, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evalvault_pipeline_tests.conftest import PROJECT

BIN = Path(sys.executable).parent


class UserProject:
    """A copy of the project's own files, without anything that a run has written."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        for name in ("dagster.yaml", "workspace.yaml", "data/catalog.toml", "data/datasets"):
            source, target = PROJECT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(folder.with_name(f"{folder.name}-home")),
            "EVALVAULT_TOKENIZER": "ngram",
            **environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash."""
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240
        )

    def start(self, *arguments: str, log: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start in a session of its own, with SIGINT at its default: Dagster copies SIGINT's handler to SIGTERM."""
        output = log.open("wb") if log else subprocess.DEVNULL
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def results(self, dataset: str, snapshot: str) -> dict[str, Any]:
        file = self.folder / "data" / "results" / dataset / snapshot / "results.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


class Services:
    """A command that serves Dagster's UI over a project on loopback."""

    def __init__(self, project: UserProject, *command: str, log: str, key: str | None = None) -> None:
        self.project = project
        self.log = project.folder / log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        environment = {"EVALVAULT_API_KEY": key} if key else {}
        self._process = project.start(*command, str(self.port), log=self.log, **environment)

    def wait_until_ready(self) -> None:
        wait_for(lambda: self._answers(), seconds=120, what=lambda: self.log.read_text(errors="replace")[-3000:])

    def query(self, text: str, **variables: Any) -> Any:
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, self._headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        return found["data"]

    def runs(self, tag: Mapping[str, str]) -> list[dict[str, Any]]:
        """Runs that carry these tags, the newest first."""
        found = self.query(
            "query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) "
            "{ ... on Runs { results { runId status jobName tags { key value } } } } }",
            tags=[{"key": key, "value": value} for key, value in tag.items()],
        )
        results: list[dict[str, Any]] = found["runsOrError"]["results"]
        return results

    @property
    def process_id(self) -> int:
        """Of its first process, whose group all the others are in."""
        return self._process.pid

    def forget(self) -> None:
        """Wait for what was killed."""
        self._process.wait()

    def tell_to_end(self) -> None:
        self._process.terminate()

    def stop(self) -> None:
        self.tell_to_end()
        try:
            self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            location = self.query("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
        except OSError:
            return False
        return all(entry["loadStatus"] == "LOADED" for entry in location["workspaceOrError"]["locationEntries"])


class DagsterDev(Services):
    """What `make dev` starts: webserver, daemon and their code servers."""

    def __init__(self, project: UserProject) -> None:
        super().__init__(project, "evalvault", "webserver", "--daemon", "--port", log="dagster-dev.log")
        self.wait_until_ready()


class Webserver(Services):
    """`evalvault webserver`, which is not ready yet."""

    def __init__(self, project: UserProject, key: str, *options: str) -> None:
        super().__init__(project, "evalvault", "webserver", *options, "--port", log=f"webserver{''.join(options)}.log", key=key)


def wait_for(true: Callable[[], Any], *, seconds: float, what: Callable[[], str] = lambda: "") -> Any:
    """The first true value; fails with what `what` says after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not true within {seconds} s\n{what()}")


def children_of(parent: int) -> list[int]:
    """Process ids of the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
