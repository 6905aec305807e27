"""What a request says of itself, read as strictly as a guard must: a header that is there twice says nothing.

A browser says truly where a request comes from (`Origin`, `Sec-Fetch-Site`), whichever page made it; programs may say
anything, and need the key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, MutableMapping
from typing import Any
from urllib.parse import quote

Scope = MutableMapping[str, Any]

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_LOCAL_TARGET = re.compile(r"/(?![/\\])[\x21-\x7e]*")
_PORTS = {"http": "80", "https": "443"}
_FORWARDING = (
    *(b"forwarded", b"via", b"x-real-ip", b"cf-connecting-ip"),
    *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-forwarded-server"),
)


class Request:
    """The head of an HTTP request or of a WebSocket's handshake. `method` of the latter is `WEBSOCKET`."""

    def __init__(self, scope: Scope) -> None:
        self.path: str = scope["path"]
        self.method: str = scope.get("method", "WEBSOCKET")
        self.secure = scope.get("scheme") in ("https", "wss")
        self.query: bytes = scope.get("query_string", b"")
        self.client: str = (scope.get("client") or ("",))[0]
        self._server: str = (scope.get("server") or ("",))[0]
        self._headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name.lower(), []).append(value)

    def all(self, name: bytes) -> list[bytes]:
        return self._headers.get(name, [])

    def one(self, name: bytes) -> str | None:
        """The value of a header that is there once; None where it is missing or there again."""
        values = self.all(name)
        return values[0].decode("latin-1").strip() if len(values) == 1 else None

    @property
    def target(self) -> str:
        """Path and query, as a link within this server."""
        query = f"?{self.query.decode('latin-1')}" if self.query else ""
        return local_target(quote(self.path) + query)

    @property
    def wants_page(self) -> bool:
        """A person looks at a page, rather than a script or a picture being loaded."""
        html = any(b"text/html" in value for value in self.all(b"accept"))
        return self.method in ("GET", "HEAD") and html and self.one(b"sec-fetch-mode") in (None, "navigate")

    @property
    def forwarded(self) -> bool:
        """A proxy says that it stands in front."""
        return any(name in self._headers for name in _FORWARDING)

    @property
    def media_type(self) -> str:
        return (self.one(b"content-type") or "").partition(";")[0].strip().lower()

    def names_this_server(self, names: Container[str]) -> bool:
        """`Host` is one of these names, or the address that the connection came to.

        A page can have its own name resolve to this machine (DNS rebinding); then its name stands here, and is none of ours.
        """
        found = _AUTHORITY.fullmatch(self.one(b"host") or "")
        if found is None:
            return False
        host = _canonical(found["host"])
        return host in names or host == _canonical(self._server)

    def is_foreign(self) -> bool:
        """Made by a page of another origin: also by one on another port of the same host, to which cookies are sent."""
        if self.all(b"origin"):
            return not self.has_own_origin()
        return bool(self.all(b"sec-fetch-site")) and self.one(b"sec-fetch-site") not in ("same-origin", "none")

    def has_own_origin(self) -> bool:
        """`Origin` is there and is ours. Over a proxy that does not tell its scheme, either scheme is."""
        scheme, _, authority = (self.one(b"origin") or "").lower().partition("://")
        origin, host = _AUTHORITY.fullmatch(authority), _AUTHORITY.fullmatch((self.one(b"host") or "").lower())
        if scheme not in _PORTS or (self.secure and scheme != "https") or origin is None or host is None:
            return False
        default = _PORTS[scheme]
        return (origin["host"], origin["port"] or default) == (host["host"], host["port"] or default)

    def from_own_page(self) -> bool:
        """A browser says that a page of ours made it. More than not being foreign: silence is no proof."""
        return self.has_own_origin() or (not self.all(b"origin") and self.one(b"sec-fetch-site") == "same-origin")

    def is_followed_link(self) -> bool:
        """A person followed a link of another page, such as one in Slack, and looks at the answer in a window of its own."""
        document = self.one(b"sec-fetch-mode") == "navigate" and self.one(b"sec-fetch-dest") == "document"
        return self.method == "GET" and document and not self.all(b"origin")


def local_target(text: str) -> str:
    """`text` where it is a path of this server, else `/`: `//host` and `/\\host` would lead elsewhere."""
    return text if _LOCAL_TARGET.fullmatch(text) and "\\" not in text else "/"


def _canonical(host: str) -> str:
    """An address in its one form, `::ffff:10.0.0.1` as IPv4; a name in lower case."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower()
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
