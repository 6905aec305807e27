"""JSON over HTTP to a judge, as lean as it gets: one aiohttp session, bytes in, bytes out.

The SDKs of the providers cost 5 to 9 ms of CPU a call, this 0.3 ms; they serve where speed does not matter. What a status
means for the call is said here, once for all providers.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.scoring.judges import CallFailed, JudgeSpec
from evalvault_pipeline.scoring.model import Reason

if TYPE_CHECKING:
    import aiohttp

RETRIED = frozenset({408, 409, 425, 500, 502, 504, 520, 521, 522, 523, 524, 529})
THROTTLED = frozenset({429, 503})
CONNECT_SECONDS = 10.0


class Transport:
    """A pool of connections to one server."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._spec = spec
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, Any] = {}

    async def open(self) -> None:
        import aiohttp

        proxies = any(os.environ.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"content-type": "application/json", "user-agent": "evalvault-pipeline"},
            skip_auto_headers=("user-agent",),
            trust_env=proxies,  # looked up for every request, so only where a proxy is set
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body). Raises CallFailed where there is no answer."""
        import aiohttp
        from yarl import URL

        assert self._session is not None, "the judge is not open"
        url = self._urls.get(path) or self._urls.setdefault(path, URL(self._spec.base_url + path))
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await response.read()
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            reason = os.strerror(number) if number and number > 0 else error.os_error  # a name that is unknown has -2
            where = f"{self._spec.shown_url}: {reason}"
            raise CallFailed(Reason.JUDGE_ERROR, f"no connection to {where}", retry=True, unreachable=True) from None
        except ValueError:  # a header or an address that HTTP cannot carry; the text may hold the key
            what = "the key or the address of the judge holds characters that HTTP cannot carry"
            raise CallFailed(Reason.JUDGE_ERROR, what, fatal=True) from None
        except (aiohttp.ClientError, OSError) as error:
            what = f"the connection to the judge broke: {type(error).__name__}"
            raise CallFailed(Reason.JUDGE_ERROR, what, retry=True, unreachable=True) from None


def failure(spec: JudgeSpec, status: int, headers: Mapping[str, str], message: str) -> CallFailed:
    """What an answer other than 200 means; `message` is what the server says."""
    said = short(without_secrets(message))  # in this order: a part of a key is a secret too
    if status in THROTTLED:
        detail = f"the judge is busy (HTTP {status}): {said}"
        return CallFailed(Reason.THROTTLED, detail, throttled=True, retry_after=retry_after(headers))
    if status in (401, 403):  # what the server says may quote the key
        detail = f"the judge refuses the key (HTTP {status})"
        return CallFailed(Reason.JUDGE_ERROR, detail, fatal=True)
    retry = status in RETRIED or status >= 500
    return CallFailed(Reason.JUDGE_ERROR, f"the judge failed (HTTP {status}): {said}", retry=retry)


def no_json(spec: JudgeSpec, body: bytes) -> CallFailed:
    """An answer with status 200 that is no answer: a gateway's page, or nothing."""
    said = short(without_secrets(body.decode("utf-8", "replace"))) or "nothing"
    return CallFailed(Reason.JUDGE_ERROR, f"the judge answered with what is no JSON of its API: {said}", retry=True)


def text_in(message: Mapping[str, Any]) -> str:
    """The text of a chat message, also where it comes in parts; empty where there is none. Raises TypeError, KeyError."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if not isinstance(content, str):
        raise TypeError("the content of a message is no text")
    return content


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or a date) or `retry-after-ms`; None where neither is there."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds and math.isfinite(wait := float(milliseconds)):
            return max(wait / 1000, 0.0)
        if value and re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(parsedate_to_datetime(value).timestamp() - time(), 0.0) if value else None
    except (ValueError, TypeError):
        return None


def short(text: str, limit: int = 200) -> str:
    """One line of a server's text; of an HTML page, what a person would read."""
    if "<html" in text[:500].lower() or "<!doctype" in text[:500].lower():
        text = "an HTML page: " + re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
