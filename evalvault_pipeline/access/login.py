"""Who is let in: programs by the key, browsers by a session that the key opens. The pages `/login` and `/logout`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlencode

from evalvault_pipeline.access.answers import Answer, Header, Receive, error, not_a_method, page, redirect, retry_after
from evalvault_pipeline.access.keys import ApiKey, Failures
from evalvault_pipeline.access.pages import NOT_FROM_HERE, WRONG_KEY, login_page, logout_page, wait
from evalvault_pipeline.access.requests import Request, local_target
from evalvault_pipeline.access.sessions import Sessions
from evalvault_pipeline.errors import PipelineError

FORM_BYTES = 8192
FORM_SECONDS = 10.0
KEY_SECONDS = 2.0  # for which a key that was read is used: a page of the UI asks for dozens of files at once

logger = logging.getLogger(__name__)


class Login:
    """Of a server with a key, which may be rotated while it serves: `read_key` raises PipelineError where there is none to use.

    Whoever asks this anything awaits `refresh` before. Raises as `read_key` for the first one.
    """

    def __init__(
        self,
        read_key: Callable[[], ApiKey],
        *,
        hours: float = 12.0,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        failures: Failures | None = None,
    ) -> None:
        self._read_key, self._seconds, self._clock, self._ticks = read_key, hours * 3600, clock, ticks
        self._failures = failures or Failures()
        self._reading, self._reader = asyncio.Lock(), ThreadPoolExecutor(1)  # AWS or Vault may be slow, and Dagster busy
        key = read_key()
        self._key: ApiKey | None = key  # None: nobody is let in
        self._sessions = self._sessions_of(key)
        self._read_at = ticks()

    async def refresh(self) -> Answer | None:
        """Take up a key that was rotated; sessions of the one before end. An answer where there is none to use."""
        async with self._reading:
            if self._ticks() - self._read_at >= KEY_SECONDS:
                await self._read_again()
        return None if self._key else error(503, "The key of this server cannot be read. Its log says why.")

    async def _read_again(self) -> None:
        try:
            self._key = await asyncio.get_running_loop().run_in_executor(self._reader, self._read_key)
        except PipelineError as problem:
            if self._key:
                logger.error("nobody is let in until the key can be read: %s", problem)
            self._key = None
        if self._key and self._key != self._sessions.key:
            logger.info("the key was rotated, and sessions of the one before have ended")
            self._sessions = self._sessions_of(self._key)
        self._read_at = self._ticks()

    def _sessions_of(self, key: ApiKey) -> Sessions:
        return Sessions(key, seconds=self._seconds, clock=self._clock)

    def refuses(self, request: Request) -> Answer | None:
        """None for who is let in. Where a key is sent, it alone counts."""
        keys = request.all(b"x-api-key")
        if keys:
            seconds = self._refused(request, keys)
            if seconds is None:
                return None
            if seconds:
                return error(429, "Too Many Requests", retry_after(seconds))
        elif self.session(request):
            return None
        elif request.wants_page:
            return redirect("/login" if request.target == "/" else f"/login?{urlencode({'next': request.target})}")
        return error(401, "Unauthorized", (b"www-authenticate", b'ApiKey realm="EvalVault"'))

    def session(self, request: Request) -> str | None:
        """The token of the browser's session, where it is alive."""
        return self._sessions.find(request.all(b"cookie"))

    def admission(self, request: Request) -> Callable[[], bool]:
        """Says, after `refresh`, whether who is not refused now is still to be let in: by this key, or by this session."""
        session, key = self.session(request), self._key
        if request.all(b"x-api-key") or session is None:
            return lambda: self._key == key
        return lambda: self._sessions.alive(session)

    async def answer(self, request: Request, receive: Receive) -> Answer | None:
        """The answer of `/login` and `/logout`; None for another path."""
        if request.path not in ("/login", "/logout"):
            return None
        if request.method == "POST":
            if not request.from_own_page() or request.media_type != "application/x-www-form-urlencoded":
                return page(403, login_page("/", NOT_FROM_HERE))
            if request.path == "/logout":
                return self._log_out(request)
            return self._log_in(request, await _form(receive))
        if request.method not in ("GET", "HEAD"):
            return not_a_method("GET", "HEAD", "POST")
        if request.path == "/logout":
            return page(200, logout_page())
        target = local_target(_only(parse_qs(request.query.decode("latin-1")), "next"))
        return redirect(target) if self.session(request) else page(200, login_page(target))

    def _log_in(self, request: Request, form: dict[str, list[str]]) -> Answer:
        target = local_target(_only(form, "next"))
        seconds = self._refused(request, [_only(form, "key").strip().encode()])
        if seconds == 0:
            return page(401, login_page(target, WRONG_KEY))
        if seconds is not None:
            return page(429, login_page(target, wait(seconds)), retry_after(seconds))
        logger.info("a browser at %s logged in", request.client)
        return redirect(target, self._cookie(request, self._sessions.open(), self._sessions.seconds))

    def _log_out(self, request: Request) -> Answer:
        if session := self.session(request):
            self._sessions.end(session)
            logger.info("a browser at %s logged out", request.client)
        return redirect("/login", self._cookie(request, "", 0))

    def _cookie(self, request: Request, value: str, seconds: int) -> Header:
        secure = "; Secure" if request.secure else ""
        text = f"{self._sessions.name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
        return b"set-cookie", text.encode()

    def _refused(self, request: Request, given: list[bytes]) -> int | None:
        """None for the key; 0 for another, or for two; else the seconds until this address may try again."""
        if seconds := self._failures.wait(request.client):
            return seconds
        if self._key and len(given) == 1 and self._key.matches(given[0]):
            return None
        self._failures.note(request.client)
        seconds = self._failures.wait(request.client)
        more = f"; the address has to wait {seconds} s" if seconds else ""
        logger.warning("a wrong key came from %s for %s %s%s", request.client, request.method, ascii(request.path[:200]), more)
        return 0


def _only(form: dict[str, list[str]], name: str) -> str:
    values = form.get(name, [])
    return values[0] if len(values) == 1 else ""


async def _form(receive: Receive) -> dict[str, list[str]]:
    """The fields of a form that was posted; none of one that is too large, too slow, or no form."""
    body, more = b"", True
    try:
        async with asyncio.timeout(FORM_SECONDS):
            while more and len(body) <= FORM_BYTES:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
        return {} if len(body) > FORM_BYTES else parse_qs(body.decode("ascii"), errors="strict", max_num_fields=10)
    except (TimeoutError, ValueError):
        return {}
