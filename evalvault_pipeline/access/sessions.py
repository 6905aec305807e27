"""Sessions of browsers: a cookie that the key signs, so that nothing is kept, and a new key ends them all."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable

from evalvault_pipeline.access.keys import ApiKey

_TOKEN = re.compile(r"(?P<signed>(?P<until>[0-9]{1,12})\.(?P<id>[0-9a-f]{32}))\.(?P<signature>[0-9a-f]{64})")


class Sessions:
    """Opens, finds and ends sessions. `name` is that of the cookie.

    It comes from the key: two servers on one host share their cookies whatever their ports, and would else log each
    other's users out. What was ended is remembered until it would have expired, by this process alone.
    """

    def __init__(self, key: ApiKey, *, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.key, self._secret, self.seconds, self._clock = key, key.derived("session"), int(seconds), clock
        self.name = f"evalvault_{key.derived('cookie').hex()[:12]}"
        self._ended: dict[str, int] = {}

    def open(self) -> str:
        """The value of a new session's cookie."""
        signed = f"{int(self._clock()) + self.seconds}.{secrets.token_hex(16)}"
        return f"{signed}.{self._signature(signed)}"

    def alive(self, token: str) -> bool:
        found = _TOKEN.fullmatch(token)
        return (
            found is not None
            and hmac.compare_digest(self._signature(found["signed"]), found["signature"])
            and int(found["until"]) > self._clock()
            and found["id"] not in self._ended
        )

    def end(self, token: str) -> None:
        """Log out. Only a session that is alive is remembered, so nobody without the key can fill the memory."""
        if self.alive(token):
            until, name, _ = token.split(".")
            now = self._clock()
            self._ended = {name: end for name, end in self._ended.items() if end > now} | {name: int(until)}

    def find(self, cookies: Iterable[bytes]) -> str | None:
        """The token of the first session that is alive in `Cookie` headers."""
        pairs = (pair.strip().partition("=") for header in cookies for pair in header.decode("latin-1").split(";"))
        return next((value for name, _, value in pairs if name == self.name and self.alive(value)), None)

    def _signature(self, signed: str) -> str:
        return hmac.new(self._secret, signed.encode(), "sha256").hexdigest()
