"""A guarded application on loopback, and requests to it written byte for byte."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evalvault_pipeline.access.answers import Receive, Send
from evalvault_pipeline.access.guard import Guard
from evalvault_pipeline.access.keys import ApiKey, Failures
from evalvault_pipeline.access.login import Login
from evalvault_pipeline.access.requests import Scope
from evalvault_pipeline.defs.webserver import web_server

KEY = "Evalvault-Key-0123456789-abcdef"


@dataclass
class Clock:
    """Of the guard; moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """All values of a header, in their order."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def error(self) -> str:
        found: str = json.loads(self.body)["error"]
        return found


@dataclass
class Site:
    """An application that says what it was asked, behind a guard. `passed`: what reached it."""

    clock: Clock = field(default_factory=Clock)
    passed: list[Scope] = field(default_factory=list)
    port: int = 0
    login: Login | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.passed.append(scope)
        if scope["type"] == "websocket":
            await self._echo(scope, receive, send)
            return
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"6"),
            (b"X-Frame-Options", b"ALLOWALL"),
            (b"set-cookie", b"theirs=1"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"inside"})

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text") or ""})

    def raw(self, request: str | bytes, *, source: str = "127.0.0.1") -> Answer:
        """Send these bytes from this address of loopback. `{host}` in a text is the host with its port."""
        content = request.format(host=f"127.0.0.1:{self.port}").encode("latin-1") if isinstance(request, str) else request
        with socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0)) as connection:
            connection.sendall(content)
            return read_answer(connection)

    def ask(
        self, target: str = "/", method: str = "GET", *headers: str, body: str = "", host: str = "", source: str = "127.0.0.1"
    ) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{self.port}'}", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body.encode('latin-1'))}")
        return self.raw(("\r\n".join(lines) + f"\r\n\r\n{body}").encode("latin-1"), source=source)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_in(self, *headers: str, key: str = KEY, target: str = "/", source: str = "127.0.0.1") -> Answer:
        headers = (f"Origin: {self.origin}", "Content-Type: application/x-www-form-urlencoded", *headers)
        return self.ask("/login", "POST", *headers, body=f"key={key}&next={target}", source=source)

    def session(self) -> str:
        """The `Cookie` header of a browser that has logged in."""
        return f"Cookie: {self.log_in().header('set-cookie').partition(';')[0]}"


def read_answer(connection: socket.socket) -> Answer:
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(first.split()[1]), headers, body)


@contextmanager
def served(
    key: str | None = KEY, *, login: Login | None = None, proxies: str | None = None, guarded: bool = True, **guard: Any
) -> Iterator[Site]:
    site = Site(login=login)
    if key and not login:
        site.login = Login(lambda: ApiKey(key), hours=12, clock=site.clock, failures=Failures(clock=site.clock))
    server = web_server(Guard(site, login=site.login, **guard) if guarded else site, proxies=proxies)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site.port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield site
        server.should_exit = True
        thread.join(10)
