"""A connection to Phoenix: where it is, its REST API and its own client, requests that outlast a restart of the server.

What is sent over it stands in `phoenix_upload.py` (datasets, experiments) and `tracing.py` (spans of the judge's calls).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.errors import InvalidSetting, PhoenixUnavailable, PipelineError
from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.secrets import Secret

if TYPE_CHECKING:
    from phoenix.client.resources.experiments import Experiments

# A server that restarts is waited for; one that was never there is not: the beginning asks once.
RESTART_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class PhoenixAccess:
    """Where Phoenix is. `sample_rate` is the share of cases whose judge calls are traced."""

    endpoint: str
    token: Secret | None = None
    sample_rate: float = 1.0
    project: str = "evalvault"

    @property
    def shown(self) -> str:
        """The address as it may be told: without user and password."""
        return shown(self.endpoint)

    @property
    def project_url(self) -> str:
        return f"{self.shown}/redirects/projects/{quote(self.project, safe='')}"


class PhoenixServer:
    """A connection to a Phoenix server. Raises PhoenixUnavailable, and InvalidSetting where it refuses the token."""

    def __init__(self, access: PhoenixAccess) -> None:
        self.access = access
        self.http = httpx.Client(
            base_url=access.endpoint,
            auth=Token(access),
            timeout=httpx.Timeout(60.0, connect=3.0),
            transport=_Persistent(limits=httpx.Limits(max_connections=4, max_keepalive_connections=4)),
        )

    def __enter__(self) -> PhoenixServer:
        try:
            with httpx.Client(base_url=self.access.endpoint, auth=Token(self.access), timeout=10.0) as once:
                self._checked(once.get("/v1/datasets", params={"limit": 1}))
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            self.http.close()
            raise self.unavailable(error) from None
        except PipelineError:
            self.http.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @cached_property
    def experiments(self) -> Experiments:
        """Phoenix's own client over this connection: made so, it reads no environment variable and no `.env.phoenix`."""
        from phoenix.client import Client

        return Client(http_client=self.http).experiments

    def get(self, path: str, **params: Any) -> Any:
        return self._json(self._send("GET", path, params=params))

    def post(self, path: str, body: Any, **params: Any) -> Any:
        return self._json(self._send("POST", path, params=params, json=body))

    def pages(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """The items of a listing, page after page."""
        cursor: str | None = None
        while True:
            found = self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            yield from found["data"]
            cursor = found.get("next_cursor")
            if not cursor:
                return

    def url(self, path: str) -> str:
        return f"{self.access.shown}{path}"

    def unavailable(self, error: Exception) -> PhoenixUnavailable:
        what = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
        return PhoenixUnavailable(
            f"Phoenix at {self.access.shown} does not answer ({what}). Start it (`make phoenix`), or set "
            "PHOENIX_ENDPOINT to where it runs. The run is kept: upload it later."
        )

    def _send(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            return self._checked(self.http.request(method, path, timeout=300.0, **given))
        except httpx.TransportError as error:
            raise self.unavailable(error) from None
        except httpx.HTTPStatusError as error:
            said = without_secrets(redacted(" ".join(error.response.text.split())))[:200]
            raise PhoenixUnavailable(
                f"Phoenix at {self.access.shown} refuses {method} {path} (HTTP {error.response.status_code}): {said}. The run "
                "is kept: upload it later."
            ) from None

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (401, 403):
            raise InvalidSetting(
                f"Phoenix at {self.access.shown} refuses the token (HTTP {response.status_code}). Check PHOENIX_API_TOKEN."
            )
        response.raise_for_status()
        return response

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:  # a web page: something else answers there
            raise PhoenixUnavailable(f"What answers at {self.access.shown} is no Phoenix. Check PHOENIX_ENDPOINT.") from None


class Token(httpx.Auth):
    """Sends the token as it is now with each request, and once more where it was rotated. Raises as `read_secret`."""

    def __init__(self, access: PhoenixAccess) -> None:
        self._token = access.token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._token.read() if self._token else None
        if self._token is None or token is None:
            if request.url.userinfo:  # of a proxy before Phoenix
                basic = httpx.BasicAuth(request.url.username, request.url.password)
                yield from basic.auth_flow(request)
            else:
                yield request
            return
        request.headers["authorization"] = f"Bearer {token.get_secret_value()}"
        response = yield request
        if response.status_code in (401, 403) and (other := self._token.read(refused=token)) not in (token, None):
            request.headers["authorization"] = f"Bearer {other.get_secret_value()}"
            yield request


class _Persistent(httpx.HTTPTransport):
    """Sends a request again while the server restarts. All our requests may be repeated but the creation of an experiment.

    After a failed request the server closes the connection, so that the next one on it breaks.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith("/experiments"):
            return super().handle_request(request)
        retrying = Retrying(
            stop=stop_after_delay(RESTART_SECONDS),
            wait=wait_exponential(multiplier=0.2, max=3.0),
            retry=retry_if_exception_type((httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError, _Busy)),
            reraise=True,
        )
        try:
            return retrying(self._once, request)
        except _Busy as busy:
            return busy.response

    def _once(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if response.status_code in (429, 502, 503, 504):
            response.read()
            raise _Busy(response)
        return response


class _Busy(Exception):
    def __init__(self, response: httpx.Response) -> None:
        self.response = response


def shown(url: str) -> str:
    """An address without a user and password in it."""
    parts = httpx.URL(url)
    return str(parts.copy_with(username=None, password=None)).rstrip("/")
