"""Where alerts go, on loopback: Slack's webhook and Web API, any webhook, each with the faults that the real ones have."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

HANG = "hang"
RESET = "reset"


class Receiver:
    """Answers `/webhook` as Slack's incoming webhook does, `/api/...` as its Web API, `/hook` as anybody's.

    `faults` are taken one by one before it answers rightly: an HTTP status, `HANG` or `RESET`.
    """

    def __init__(self, *faults: int | str, hang_seconds: float = 30.0, retry_after: int = 1) -> None:
        self.faults = list(faults)
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # every one, refused ones too
        self.messages: list[dict[str, Any]] = []  # those that were taken
        self.updates: list[dict[str, Any]] = []
        self.deleted: set[str] = set()  # messages that somebody has deleted in Slack
        self.lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = receiver._parsed(self.rfile.read(size), self.headers.get("Content-Type", ""))
                with receiver.lock:
                    receiver.requests.append((self.path, body, dict(self.headers)))
                    fault = receiver.faults.pop(0) if receiver.faults else None
                if fault == HANG:
                    time.sleep(hang_seconds)
                    return
                if fault == RESET:
                    self.connection.close()
                    return
                if isinstance(fault, int):
                    self.answer(fault, b"error", {"Retry-After": str(retry_after)} if fault == 429 else {})
                    return
                self.answer(200, *receiver._take(self.path, body))

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def texts(self) -> list[str]:
        return [message.get("text", "") for message in self.messages]

    def _parsed(self, body: bytes, kind: str) -> dict[str, Any]:
        if "json" in kind:
            found: dict[str, Any] = json.loads(body)
            return found
        return {name: json.loads(value) if name == "blocks" else value for name, value in parse_qsl(body.decode())}

    def _take(self, path: str, body: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        with self.lock:
            if path.endswith("chat.update") and body["ts"] in self.deleted:
                refused = {"ok": False, "error": "message_not_found"}
                return json.dumps(refused).encode(), {"Content-Type": "application/json"}
            if path.endswith("chat.update"):
                self.updates.append(body)
                return json.dumps({"ok": True, "ts": body["ts"]}).encode(), {"Content-Type": "application/json"}
            self.messages.append(body)
            if path.startswith("/api/"):
                answer = {"ok": True, "ts": f"1700000000.{len(self.messages):06d}", "channel": body["channel"]}
                return json.dumps(answer).encode(), {"Content-Type": "application/json"}
        return b"ok", {}
