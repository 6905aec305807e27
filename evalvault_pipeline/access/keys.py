"""The key that clients send as `X-API-Key`: when one is needed, whether what was sent is it, who was wrong too often.

The first two are the same for the webserver (guard.py) and for the exporter (publishing/prometheus.py). Only the webserver
has those wait who were wrong too often: the exporter tells figures alone, and a scraper with an old key is to be served again
as soon as it has the new one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from evalvault_pipeline.errors import InvalidSetting

SHORTEST_KEY = 24
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class ApiKey:
    """A key, kept as its hash: what was sent is compared in a time that tells neither where it differs nor how long it is."""

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("an empty key would open to everybody")
        self._digest = hashlib.sha256(text.encode()).digest()

    def matches(self, given: bytes) -> bool:
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and hmac.compare_digest(self._digest, other._digest)

    def __hash__(self) -> int:
        return hash(self._digest)

    def derived(self, purpose: str) -> bytes:
        """A key for something else, from which this one cannot be told."""
        return hmac.digest(self._digest, purpose.encode(), "sha256")


def required_key(text: str | None, *, host: str, what: str) -> ApiKey | None:
    """The key of a server that is reached under `host`; None: none is set, and only this machine is served.

    Raises InvalidSetting where others could reach it without a key, or with one that can be guessed. `what` is served.
    """
    if is_loopback(host):
        return ApiKey(text) if text else None
    remedy = (
        f"Set EVALVAULT_API_KEY to at least {SHORTEST_KEY} characters (`openssl rand -hex 24` makes a key), "
        "or serve 127.0.0.1 alone (docs/access.md)."
    )
    if not text:
        raise InvalidSetting(f"{what} would be open to everybody on {host or 'every address'}. {remedy}")
    if len(text) < SHORTEST_KEY:
        raise InvalidSetting(f"{what} would be open on {host or 'every address'} with a key that is too short. {remedy}")
    return ApiKey(text)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what binds `host`. Another name than `localhost` is not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Failures:
    """How often each address has been wrong of late: at most `most` times in `seconds`, then it has to wait.

    Of the newest `addresses` only, so that nobody can fill the memory. An IPv6 address counts as its /64.
    """

    def __init__(
        self,
        *,
        most: int = 10,
        seconds: float = 60.0,
        addresses: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._seconds, self._addresses, self._clock = most, seconds, addresses, clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> failures, when they are forgotten

    def wait(self, address: str) -> int:
        """Whole seconds until this address may try again; 0: now."""
        count, until = self._counts.get(_network(address), (0, 0.0))
        return max(math.ceil(until - self._clock()), 0) if count >= self._most else 0

    def note(self, address: str) -> None:
        """One more failure."""
        name, now = _network(address), self._clock()
        count, until = self._counts.pop(name, (0, 0.0))
        self._counts[name] = (count + 1, until) if now < until else (1, now + self._seconds)
        while len(self._counts) > self._addresses:
            self._counts.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a socket of the file system, or what a proxy calls its client
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
