"""Log lines: one format, on standard error and in a file that several processes share, without a secret in them.

`configure_logging` is for the command line. Dagster has handlers of its own: there `redact_output` replaces secrets in every
record, in what is printed, and so in the compute logs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
HIDDEN = "[SECRET]"
_OURS = "_evalvault"
SHORTEST_SECRET = 6  # a shorter value would blot out ordinary words

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|WEBHOOK_URL|SMTP_URL|STORE_URL")
_PATTERNS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{8,}|\bxox[abeoprs]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}|\bhooks\.slack\.com/\S+|\bAKIA[0-9A-Z]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]+)?|(?<=Bearer )[A-Za-z0-9._~+/-]{8,}=*"
    r"|(?<=://)[^\s/@:]*:[^\s@]+(?=@)"
)
_known: set[str] = set()
_about: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)


def know_secrets(values: Iterable[str]) -> None:
    """Hide these values from now on, with those of the environment's variables that are named as secrets."""
    named = [value for name, value in os.environ.items() if _NAMES.search(name)]
    _known.update(value for value in (*values, *named) if len(value) >= SHORTEST_SECRET)


def without_secrets(text: str) -> str:
    """The text with `[SECRET]` in place of every known secret, and of what looks like one."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _PATTERNS.sub(HIDDEN, text)


@contextmanager
def log_context(**about: str) -> Iterator[None]:
    """`run`, `dataset`, `batch`: on each line that is logged inside."""
    token = _about.set({**(_about.get() or {}), **about})
    try:
        yield
    finally:
        _about.reset(token)


def configure_logging(
    *,
    verbose: bool,
    file: Path | None = None,
    max_mb: float = 20.0,
    keep_days: int = 30,
    form: str = "text",
    redact: Callable[[str], str] = str,
) -> None:
    """Log to standard error (INFO and above with `verbose`, otherwise warnings) and, INFO and above, to `file`.

    The file is rotated each day and at `max_mb`, by whichever of the processes that write to it comes first; none loses a
    line. `redact` is applied to each line as a whole, after secrets are hidden. Raises OSError for a folder that cannot
    be made.
    """
    formatter = _Lines(form, lambda text: redact(without_secrets(text)))
    stream = logging.StreamHandler()
    stream.setLevel(logging.INFO if verbose else logging.WARNING)
    handlers: list[logging.Handler] = [stream]
    if file is not None:
        handlers.append(_shared_file(file, max_mb, keep_days))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [one for one in root.handlers if getattr(one, _OURS, False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        setattr(handler, _OURS, True)  # replaced when logging is configured again
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "httpcore", "slack_sdk", "openai", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _hook(formatter.redact)


def redact_output(redact: Callable[[str], str] = str) -> None:
    """Hide secrets in every log record, on standard output and error, and in what ends this process; then `redact` them."""
    make = logging.getLogRecordFactory()
    if getattr(make, _OURS, False):
        return

    def hide(text: str) -> str:
        return redact(without_secrets(text))

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a mistaken log call: its handler says so
            return record
        record.msg, record.args = hide(text), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = hide("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return record

    setattr(factory, _OURS, True)  # not twice
    logging.setLogRecordFactory(factory)
    sys.stdout, sys.stderr = _Redacted(sys.stdout, hide), _Redacted(sys.stderr, hide)
    sys.excepthook = _hook(hide)


class _Lines(logging.Formatter):
    """Lines as text or JSON, whole ones redacted."""

    def __init__(self, form: str, redact: Callable[[str], str]) -> None:
        super().__init__(FORMAT)
        self._json, self.redact = form == "json", redact

    def format(self, record: logging.LogRecord) -> str:
        about = _about.get() or {}
        if not self._json:
            told = " ".join(f"{name}={value}" for name, value in about.items())
            first, *rest = super().format(record).split("\n")
            return self.redact("\n".join([f"{first} [{told}]" if told else first, *rest]))
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "logger": record.name,
            "level": record.levelname,
            "message": self.redact(record.getMessage()),
            **{name: self.redact(value) for name, value in about.items()},
        }
        if record.exc_info:
            line["exception"] = self.redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class _Redacted:
    """A stream of text whose lines are written as `hide` gives them. A line is held until it ends, or is flushed."""

    def __init__(self, stream: TextIO, hide: Callable[[str], str]) -> None:
        self._stream, self._hide, self._held = stream, hide, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        *lines, self._held = (self._held + text).split("\n")
        if lines:
            self._stream.write(self._hide("\n".join(lines)) + "\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._stream.write(self._hide(held))
        self._stream.flush()


def _hook(redact: Callable[[str], str]) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    def say(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        print(redact("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)

    return say


def _shared_file(file: Path, max_mb: float, keep_days: int) -> logging.Handler:
    from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

    file.parent.mkdir(parents=True, exist_ok=True)
    handler: logging.Handler = ConcurrentTimedRotatingFileHandler(
        filename=str(file),
        when="midnight",
        backupCount=keep_days,
        maxBytes=int(max_mb * 1_000_000),
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )
    handler.setLevel(logging.INFO)
    return handler
