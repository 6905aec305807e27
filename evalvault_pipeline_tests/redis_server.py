"""A real Redis server on loopback, of the machine's own package, which keeps what it is told on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

from evalvault_pipeline_tests.stack import free_port, wait_for


class RedisServer:
    """Celery's broker is its database 0, its result backend database 1. `kill` is SIGKILL; `start` goes on with what was kept."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no Redis server is installed (Debian: apt-get install redis-server)")
        self.port, self._folder, self._program = free_port(), folder, program
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log, cwd=self._folder)
        wait_for(self._answers, seconds=120)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def variables(self) -> dict[str, str]:
        url = f"redis://127.0.0.1:{self.port}"
        return {"EVALVAULT_CELERY_BROKER": f"{url}/0", "EVALVAULT_CELERY_BACKEND": f"{url}/1"}

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
