"""What the guard says itself, and the headers that it puts on every answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from evalvault_pipeline.access.pages import POLICY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

HEADERS: list[Header] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),  # Dagster shows a notebook in a frame of its own page
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Answer:
    """An answer that is sent in place of the application's."""

    status: int
    body: str = ""
    kind: bytes = b"text/plain; charset=utf-8"
    headers: tuple[Header, ...] = ()


def page(status: int, html: str, *headers: Header) -> Answer:
    return Answer(status, html, b"text/html; charset=utf-8", headers)


def error(status: int, sentence: str, *headers: Header) -> Answer:
    return Answer(status, json.dumps({"error": sentence}, separators=(",", ":")), b"application/json", headers)


def redirect(target: str, *headers: Header) -> Answer:
    return Answer(303, headers=((b"location", target.encode()), *headers))


def not_a_method(*allowed: str) -> Answer:
    return error(405, "Method Not Allowed", (b"allow", ", ".join(allowed).encode()))


def retry_after(seconds: int) -> Header:
    return b"retry-after", str(seconds).encode()


async def say(send: Send, answer: Answer) -> None:
    body = answer.body.encode()
    headers = [
        (b"content-type", answer.kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", POLICY),
        *HEADERS,
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Before the handshake: the client is answered 403, and a page learns no more than that it failed."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


def hardened(send: Send) -> Send:
    """Sends answers of the application with our headers in place of its own; no shared cache may keep them."""
    ours = {name for name, _ in HEADERS}

    async def send_hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            theirs = [(name.lower(), value) for name, value in message.get("headers", []) if name.lower() not in ours]
            cached = any(name == b"cache-control" for name, _ in theirs)
            more = [(b"content-security-policy", b"frame-ancestors 'self'")]  # beside theirs: a browser obeys both
            more += [] if cached else [(b"cache-control", b"private")]
            message = {**message, "headers": [*theirs, *HEADERS, *more]}
        await send(message)

    return send_hardened
