"""A real Phoenix server on loopback, from an environment of its own (`make setup-phoenix`), with SQLite in a folder."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from evalvault_pipeline_tests.conftest import PROJECT

PYTHON = Path(os.environ.get("EVALVAULT_PHOENIX_PYTHON") or PROJECT / ".venv-phoenix" / "bin" / "python")
START_SECONDS = 120.0


def skip_without_phoenix() -> None:
    if not PYTHON.exists():
        pytest.skip(f"there is no Phoenix at {PYTHON}: make setup-phoenix, or name its python in EVALVAULT_PHOENIX_PYTHON")


class RealPhoenix:
    """`restart` keeps address and database. With `auth`, `token` is a key that it takes."""

    def __init__(self, folder: Path, *, auth: bool = False) -> None:
        self._folder = folder
        self.port, self._grpc_port = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = f"a1{secrets.token_hex(24)}" if auth else ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "PHOENIX_WORKING_DIR": str(self._folder),
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(self._grpc_port),
        }
        if self.token:
            environment |= {
                "PHOENIX_ENABLE_AUTH": "true",
                "PHOENIX_SECRET": f"b2{self.token}",
                "PHOENIX_ADMIN_SECRET": self.token,
            }
        log = (self._folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [str(PYTHON), str(PROJECT / "deploy" / "start_phoenix.py")],
            cwd=self._folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=2.0).is_success:
                    return
            except httpx.HTTPError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()[-3000:]
                time.sleep(0.2)
        raise AssertionError("Phoenix does not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of the server so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str, **params: Any) -> Any:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        found = httpx.get(f"{self.url}/v1{path}", params=params, headers=headers, timeout=60.0)
        found.raise_for_status()
        return found.json()

    def dataset(self, name: str) -> dict[str, Any] | None:
        return next((item for item in self.get("/datasets", name=name)["data"] if item["name"] == name), None)

    def versions(self, name: str) -> int:
        dataset = self.dataset(name)
        return len(self.get(f"/datasets/{dataset['id']}/versions", limit=100)["data"]) if dataset else 0

    def examples(self, name: str) -> dict[str, dict[str, Any]]:
        dataset = self.dataset(name)
        assert dataset is not None
        return {item["id"]: item for item in self.get(f"/datasets/{dataset['id']}/examples")["data"]["examples"]}

    def experiments(self, name: str) -> list[dict[str, Any]]:
        dataset = self.dataset(name)
        return self.get(f"/datasets/{dataset['id']}/experiments")["data"] if dataset else []  # type: ignore[no-any-return]

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Runs with their evaluations (`annotations`), as Phoenix exports them."""
        found: list[dict[str, Any]] = self.get(f"/experiments/{experiment}/json")
        return found

    def run_count(self, experiment: str) -> int:
        return len(self.get(f"/experiments/{experiment}/runs", limit=1000)["data"])

    def spans(self, project: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            if all(item["name"] != project for item in self.get("/projects", name_contains=project)["data"]):
                return []  # no span has come yet
            page = self.get(f"/projects/{project}/spans", limit=1000, **cursor)
            found += page["data"]
            if not page["next_cursor"]:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def ingested(self, project: str, count: int, *, seconds: float = 60.0) -> list[dict[str, Any]]:
        """The spans of a project, when there are so many: the server takes them in from a queue."""
        until = time.monotonic() + seconds
        while len(found := self.spans(project)) < count and time.monotonic() < until:
            time.sleep(0.3)
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
