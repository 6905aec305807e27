"""OpenAI's stand-in as a process of its own, which can be killed; what it has answered is counted in a file that outlives it.

python -m evalvault_pipeline_tests.doubles.judge_process PORT LATENCY_SECONDS COUNT_FILE
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from aiohttp import web

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.doubles.serving import Body
from evalvault_pipeline_tests.stack import free_port


class CountingServer(OpenAIServer):
    """A byte for each chat call, just before its answer is sent."""

    def __init__(self, port: int, latency: float, count: Path) -> None:
        super().__init__(port=port, latency=latency)
        self._count = count.open("ab", buffering=0)

    async def _chat(self, request: web.Request, body: Body, fault: Fault | None) -> web.Response:
        answer = await super()._chat(request, body, fault)
        self._count.write(b".")
        return answer


class JudgeProcess:
    """Runs `python -m evalvault_pipeline_tests.doubles.judge_process`; `kill` and `start` keep the port and the count."""

    def __init__(self, folder: Path, latency: float) -> None:
        self.port, self.latency, self._count = free_port(), latency, folder / "judge-calls"
        self._count.touch()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> int:
        return self._count.stat().st_size

    def start(self) -> None:
        command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
        arguments = [str(self.port), str(self.latency), str(self._count)]
        self._process = subprocess.Popen([*command, *arguments], cwd=PROJECT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def main() -> None:
    port, latency, count = sys.argv[1:]
    with CountingServer(int(port), float(latency), Path(count)):
        print("ready", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
