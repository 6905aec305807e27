"""What every double shares: an aiohttp server in a thread of its own, its bookkeeping, and the serving of faults.

A double says which routes it has, what its errors look like and how it answers; see `openai_server` and `ollama_server`.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aiohttp import web

from evalvault_pipeline_tests.doubles.faults import CONTENT_FAULTS, Fault, Script
from evalvault_pipeline_tests.doubles.judge_answers import answer_for, input_of, schema_in

Body = dict[str, Any]
Mind = Callable[..., Any]
"""`answer_for`, or what a test puts in its place: (schema, prompt, *, occurrence) -> answer."""

LARGEST_BODY_BYTES = 64 << 20
EMBEDDING_FAULTS = frozenset({"malformed", "out_of_schema"})
HTML_ERROR = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx/1.27.2</center>\r\n</body>\r\n</html>\r\n"
)


def token_count(text: str) -> int:
    """Tokens of a text, deterministic: a quarter of its UTF-8 bytes, and at least one."""
    return max(1, len(text.encode()) // 4)


def cut_to_tokens(text: str, tokens: int) -> str:
    """The beginning of a text that is `tokens` long."""
    return text.encode()[: tokens * 4].decode(errors="ignore")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a chat message, also where its content comes in parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def thought(mind: Mind, schema: Any, texts: Sequence[str], *, wants_json: bool, occurrence: int) -> Any:
    """The answer to a chat: by the schema that is sent, else by one written in a message, else a plain sentence.

    It answers the last message that has an input; one after it may only say what was wrong with the answer before.
    """
    wanted = schema or next((found for found in map(schema_in, texts) if found), None)
    if wanted is None:
        return {} if wants_json else f"You said: {texts[-1] if texts else ''}"
    asked = next((text for text in reversed(texts) if input_of(text)), texts[-1] if texts else "")
    return mind(wanted, asked, occurrence=occurrence)


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers={"Content-Type": content_type, **(headers or {})})


@dataclass(frozen=True)
class NotJSON:
    """A body that cannot be parsed, as it came."""

    raw: bytes


class LoopbackServer:
    """A server on 127.0.0.1 in its own thread; a context manager, and `start()`/`stop()` for those that come and go.

    `latency` is in seconds, or a function of the request's number. `script` decides per request what goes wrong (see
    `faults`). `limit` is how many requests it takes at once; one more is turned away. `parallel` is how many it works on at
    once; one more waits. `port` 0 takes a free one.

    Requests for work (chat, embeddings) are numbered from 1 as they arrive; only they are slow, faulty, limited or counted in
    `in_flight`. Bookkeeping may be read at any time, from any thread:

    - `calls`: requests by path, all of them; `answered`: good answers (200 and no fault) by path
    - `requests`: (path, body) of the requests for work, only with `record=True`
    - `in_flight`, `peak_in_flight`: requests for work that have come and are not answered yet
    - `latencies`: seconds that each good answer took; `faults`: how often each fault was served
    - `aborted`: requests whose client left before it had its answer
    """

    def __init__(
        self,
        *,
        latency: float | Callable[[int], float] = 0.0,
        script: Script | None = None,
        limit: int | None = None,
        parallel: int | None = None,
        record: bool = False,
        answer: Mind = answer_for,
        port: int = 0,
    ) -> None:
        self.latency, self.script, self.limit, self.parallel = latency, script, limit, parallel
        self.record, self.answer, self.port = record, answer, port
        self.requests: list[tuple[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.in_flight = self.peak_in_flight = self.aborted = 0
        self.latencies: list[float] = []
        self._numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(sys.maxsize)
        self._failure: BaseException | None = None

    # What a double says about itself

    def routes(self) -> Iterable[web.RouteDef]:
        """Its routes; those for work go through `work`."""
        raise NotImplementedError

    def broken(self, request: web.Request) -> web.Response:
        """500, in this server's own shape."""
        raise NotImplementedError

    def throttled(self, request: web.Request, retry_after: str | None) -> web.Response:
        """429: what a client gets that asks too much."""
        raise NotImplementedError

    def busy(self, request: web.Request, retry_after: str | None) -> web.Response:
        """503: what a client gets when the server has no room."""
        raise NotImplementedError

    def over_limit(self, request: web.Request) -> web.Response:
        """What a client gets that is one more than `limit`."""
        raise NotImplementedError

    def unrouted(self, request: web.Request, status: int) -> web.Response:
        """404 for a path that is not there, 405 for a method that a path does not take."""
        raise NotImplementedError

    async def died(self, request: web.Request, body: Body) -> web.StreamResponse:
        """What a client gets when the model falls over."""
        raise NotImplementedError

    # Coming and going

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Serve from a thread; returns when the port is open. After `stop()`, serves again on the same port."""
        ready = threading.Event()
        self._failure = None
        self._thread = threading.Thread(target=self._run, args=(ready,), name=type(self).__name__, daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close every connection, also the hanging ones."""
        if self._thread and self._loop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except OSError as failure:  # the port is taken
            self._failure = failure
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._slots = asyncio.Semaphore(sys.maxsize if self.parallel is None else self.parallel)
        application = web.Application(client_max_size=LARGEST_BODY_BYTES, middlewares=[self._counted])
        application.add_routes(self.routes())
        # Without handler_cancellation a client that leaves is noticed only when the answer is written.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024, reuse_address=True)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._closing.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.calls[request.path] += 1
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as missing:
            return self.unrouted(request, missing.status)

    # Work

    def work(
        self,
        refusal: Callable[[web.Request, Any], web.Response | None],
        answer: Callable[[web.Request, Body, Fault | None], Awaitable[web.StreamResponse]],
        *,
        spoils: Collection[str] = CONTENT_FAULTS,
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of a route for work: refused at once, or slow, or faulty, or answered.

        `refusal` sees the parsed body (`NotJSON` where it is none) and returns what is wrong with the request, or None.
        `spoils` are the faults in the content that make sense here; another one of them is no fault.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            number, began = next(self._numbers), time.perf_counter()
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            try:
                return await self._handled(request, number, began, refusal, answer, spoils)
            except asyncio.CancelledError:
                self.aborted += not self._closing.is_set()
                raise
            finally:
                self.in_flight -= 1

        return handle

    async def _handled(
        self,
        request: web.Request,
        number: int,
        began: float,
        refusal: Callable[[web.Request, Any], web.Response | None],
        answer: Callable[[web.Request, Body, Fault | None], Awaitable[web.StreamResponse]],
        spoils: Collection[str],
    ) -> web.StreamResponse:
        body = _parsed(await request.read())
        if self.record:
            self.requests.append((request.path, body))
        if self.limit is not None and self.in_flight > self.limit:
            return self.over_limit(request)
        refused = refusal(request, body)
        if refused is not None:
            return refused
        fault = self.script(number, body) if self.script else None
        if fault and fault.kind in CONTENT_FAULTS - set(spoils):
            fault = None
        if fault:
            self.faults[fault.kind] += 1
        if fault and fault.kind in ("throttle_429", "busy_503"):
            turned_away = self.throttled if fault.kind == "throttle_429" else self.busy
            return turned_away(request, fault.retry_after)
        async with self._slots:
            seconds = self.latency(number) if callable(self.latency) else self.latency
            if seconds > 0:
                await asyncio.sleep(seconds)
            if fault and fault.kind not in CONTENT_FAULTS:
                return await self._failed(request, body, fault)
            response = await answer(request, body, fault)
        if response.status == 200 and fault is None:
            self.answered[request.path] += 1
            self.latencies.append(time.perf_counter() - began)
        return response

    async def _failed(self, request: web.Request, body: Body, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await self._closing.wait()
                return _reset(request)
            case "reset":
                return _reset(request)
            case "dies":
                return await self.died(request, body)
            case "html":
                return web.Response(text=HTML_ERROR, status=502, content_type="text/html")
            case "empty":
                return web.Response(content_type="application/json")
        return self.broken(request)


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return NotJSON(raw)


def _reset(request: web.Request) -> web.Response:
    """Close the connection with RST, not FIN: the client's socket fails instead of ending."""
    if request.transport is not None:
        connection: socket.socket = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
