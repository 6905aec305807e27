"""The guard around Dagster's webserver, which has no login and obeys any web page. Pure ASGI: it knows nothing of Dagster.

Only what passes every rule reaches the application, so a path that the guard and the application read differently opens
nothing. In this order: the host, the site that asks, who asks (login.py), what is asked. docs/access.md tells the rules,
docs/decisions/0018-access.md the reasons.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from evalvault_pipeline.access.answers import (
    Answer,
    Message,
    Receive,
    Send,
    error,
    hardened,
    not_a_method,
    page,
    refuse_websocket,
    say,
)
from evalvault_pipeline.access.keys import LOOPBACK_NAMES
from evalvault_pipeline.access.login import Login
from evalvault_pipeline.access.pages import onward_page
from evalvault_pipeline.access.requests import Request, Scope

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

EVERY_ADDRESS = {"", "0.0.0.0", "::"}  # noqa: S104 - bound, but no name: browsers take 0.0.0.0 for this machine
_SECRET_HEADERS = (b"x-api-key", b"cookie")


class Guard:
    """Lets to `app` who has the key, or a session that was opened with it.

    `login` None: everybody who reaches the port is let in, and every other rule holds. `hosts`: names under which this
    server may be asked, besides those of loopback and the address that a connection came to.
    """

    def __init__(self, app: Application, *, login: Login | None, hosts: Iterable[str] = ()) -> None:
        self._app, self._login = app, login
        self._hosts = frozenset({*LOOPBACK_NAMES, *(host.lower() for host in hosts)}) - EVERY_ADDRESS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        answer = _health(request) or self._misplaced(request)
        if answer is None and self._login is not None:
            answer = await self._login.refresh() or await self._login.answer(request, receive) or self._login.refuses(request)
        answer = answer or _misused(request)
        if answer is not None:
            await say(send, answer)
        else:
            await self._app(_without_secrets(scope), receive, hardened(send))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        by_key = self._login is not None and bool(request.all(b"x-api-key"))
        refused = (
            self._misplaced(request)
            or (await self._login.refresh() or self._login.refuses(request) if self._login else None)
            or not (by_key or request.has_own_origin())  # a browser always says whose page asks
        )
        if refused:
            await refuse_websocket(receive, send)
            return
        if self._login is not None:
            receive, send = _while_admitted(self._login, self._login.admission(request), receive, send)
        await self._app(_without_secrets(scope), receive, send)

    def _misplaced(self, request: Request) -> Answer | None:
        """Not asked under a name of ours, or on behalf of another site's page."""
        if not request.path.startswith("/"):
            return error(400, "The target of the request must be a path.")
        if not request.names_this_server(self._hosts):
            return error(421, "This host name is not served. The operator can add it to EVALVAULT_WEB_HOSTS.")
        if self._login is None and request.forwarded:
            return error(403, "A proxy stands in front of a server without a key. The operator must set EVALVAULT_API_KEY.")
        if not request.is_foreign():
            return None
        if request.is_followed_link():
            return page(200, onward_page(request.target))
        return error(403, "Requests of other sites are refused.")


def _while_admitted(login: Login, admitted: Callable[[], bool], receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Both ways of a WebSocket until its session or its key ends, by its time, by a log-out or a rotation; then closes it."""
    closed = False

    async def ended() -> bool:
        nonlocal closed
        lasts = await login.refresh() is None and admitted()
        if not lasts and not closed:
            closed = True
            await send({"type": "websocket.close", "code": 1008})
        return closed

    async def receive_while_admitted() -> Message:
        message = await receive()
        over = message["type"] != "websocket.disconnect" and await ended()
        return {"type": "websocket.disconnect", "code": 1008} if over else message

    async def send_while_admitted(message: Message) -> None:
        if not await ended():
            await send(message)

    return receive_while_admitted, send_while_admitted


def _health(request: Request) -> Answer | None:
    """Whether the process answers: the one thing that is open, to anybody and under any name."""
    return Answer(200, "ok\n") if request.path == "/healthz" and request.method in ("GET", "HEAD") else None


def _misused(request: Request) -> Answer | None:
    """What a page could have a browser send without asking first, and methods that the webserver does not have."""
    if request.method not in ("GET", "HEAD", "POST"):
        return not_a_method("GET", "HEAD", "POST")
    if not request.path.isprintable():  # `/graphql%0a` is the route of GraphQL too
        return error(400, "No address here has a line end or another control character.")
    if request.method == "POST":
        return None if request.media_type == "application/json" else error(415, "Only application/json is taken.")
    if request.path.strip("/").lower() == "graphql" and request.query:
        return error(405, "GraphQL is asked by POST.", (b"allow", b"POST"))
    return None


def _without_secrets(scope: Scope) -> Scope:
    """The application never sees the key or the session, and so cannot tell them to anybody."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name.lower() not in _SECRET_HEADERS]}
