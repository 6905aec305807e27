"""Log lines: one format, on standard error and in a file that several processes share, without a secret in them.

`configure_logging` is for the command line. Dagster has handlers of its own: there `redact_output` replaces secrets in every
record, in what is printed, and so in the compute logs, and `configure_logging` adds the file alone, for our lines.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote, urlsplit

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
HIDDEN = "[SECRET]"
_OURS = "_evalvault"
SHORTEST_SECRET = 6  # a shorter value would blot out ordinary words

_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|WEBHOOK_URL|SMTP_URL)(_|$)")
_PLACES = re.compile(r"_(FILE|DIR|PATH)$|^EVALVAULT_AWS_SECRET$")  # where a secret is, is none
# ASCII: to Unicode, Hangul is a letter, and a key that stands at a particle would have no end. `*`: OpenAI quotes a key so.
_PATTERNS = re.compile(
    r"\bsk-[A-Za-z0-9_*-]{8,}|\bxox[abeoprs]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}|\bhooks\.slack\.com/\S+|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[opsur]_[A-Za-z0-9]{10,}|\bgithub_pat_[A-Za-z0-9_]{10,}|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]+)?"
    r"|(?:(?<=://)|(?<=:/)(?!/))[^\s/@:]*:(?!\*\*\*@)[^\s@]+(?:@[^\s/@]+)*(?=@)",  # `:/`: a path that was a URL
    re.ASCII,
)
_IS = r"""(?:['"]?\s*[:=]\s*b?['"]?|['"]\s*,\s*b?['"])"""  # between a header and its value: as sent, in a dict, in a pair
_HEADERS = re.compile(
    rf"(\b(?:x-)?api[-_]key{_IS}|\bauthorization{_IS}(?:(?:basic|bearer|token) +)?|\bbearer +)[^\s'\",;]{{8,}}",
    re.ASCII | re.IGNORECASE,
)
_known: set[str] = set()
_about: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)


def know_secrets(values: Iterable[str]) -> None:
    """Hide these values from now on, with those of the environment's variables that are named as secrets.

    Of a URL the password alone too; all of them also as they are where `%40` is read as `@`, in a URL, and in JSON.
    """
    named = [value for name, value in os.environ.items() if _NAMES.search(name) and not _PLACES.search(name)]
    found = [part for value in (*values, *named) for part in (value, password_of(value))]
    _known.update(value for part in found for value in _spellings(part) if len(value) >= SHORTEST_SECRET)


def _spellings(part: str) -> set[str]:
    texts = {part, unquote(part)}
    in_urls = {form for text in texts for form in (quote(text), quote(text, safe=""), quote_plus(text))}
    in_json = {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in texts for ascii_only in (True, False)}
    return texts | in_urls | in_json


def password_of(url: str) -> str:
    """Of a URL; empty where it has none, or is none."""
    try:
        return urlsplit(url).password or ""
    except ValueError:  # no URL
        return ""


def without_known_secrets(text: str) -> str:
    """The text with `[SECRET]` in place of every known secret."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def without_secrets(text: str) -> str:
    """The same, and in place of what looks like one."""
    text = without_known_secrets(text)
    return _HEADERS.sub(rf"\1{HIDDEN}", _PATTERNS.sub(HIDDEN, text))


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
    verbose: bool = False,
    file: Path | None = None,
    max_mb: float = 20.0,
    keep_days: int = 30,
    form: str = "text",
    redact: Callable[[str], str] = str,
    file_only: str | None = None,
) -> None:
    """Log to standard error (INFO and above with `verbose`, otherwise warnings) and, INFO and above, to `file`.

    With `file_only`, the name of a logger, its lines go to the file, and all else stays as it is. The file is rotated each
    day and at `max_mb`, by whichever of the processes that write to it comes first; none loses a line. Then rotated files of
    days before the last `keep_days` are deleted. `redact` is applied to each line as a whole, after secrets are hidden.
    Raises OSError for a folder that cannot be made.
    """
    formatter = _Lines(form, lambda text: redact(without_secrets(text)))
    handlers: list[logging.Handler] = []
    if file_only is None:
        stream = logging.StreamHandler()
        stream.setLevel(logging.INFO if verbose else logging.WARNING)
        handlers.append(stream)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_Late(lambda: _shared_file(file, max_mb, keep_days)))
    logger = logging.getLogger(file_only)
    for old in [one for one in logger.handlers if getattr(one, _OURS, False)]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        setattr(handler, _OURS, True)  # replaced when logging is configured again
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if file_only is not None:
        return
    for noisy in ("httpx", "httpcore", "slack_sdk", "openai", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    _redact_tracebacks(formatter.redact)


def redact_traceback(redact: Callable[[str], str] = str) -> None:
    """Hide secrets in what ends this process or a thread of it; then `redact` it."""
    _redact_tracebacks(lambda text: redact(without_secrets(text)))


def redact_output(redact: Callable[[str], str] = str) -> None:
    """Hide secrets in every log record, on standard output and error, and in what ends this process; then `redact` it."""

    def hidden(text: str) -> str:
        return redact(without_secrets(text))

    make = logging.getLogRecordFactory()
    if getattr(make, _OURS, False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = hidden(_message(record)), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = hidden("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return record

    setattr(factory, _OURS, True)  # not twice
    logging.setLogRecordFactory(factory)
    sys.stdout, sys.stderr = _Redacted(sys.stdout, hidden), _Redacted(sys.stderr, hidden)
    redact_traceback(redact)


def _message(record: logging.LogRecord) -> str:
    """Also of a call whose arguments do not fit its text: logging itself would print them as they are."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args}"


class _Lines(logging.Formatter):
    """Lines as text or JSON, whole ones redacted."""

    def __init__(self, form: str, redact: Callable[[str], str]) -> None:
        super().__init__(FORMAT)
        self._json, self.redact = form == "json", redact

    def format(self, record: logging.LogRecord) -> str:
        about = _about.get() or {}
        record.msg, record.args = _message(record), ()
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
    """A stream of text whose lines are written redacted. A line is held until it ends, or is flushed."""

    def __init__(self, stream: TextIO, redact: Callable[[str], str]) -> None:
        self._stream, self._redact, self._held = stream, redact, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        *lines, self._held = (self._held + text).split("\n")
        if lines:
            self._stream.write(self._redact("\n".join(lines)) + "\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._stream.write(self._redact(held))
        self._stream.flush()


def _redact_tracebacks(redact: Callable[[str], str]) -> None:
    """Of what nobody catches: of the process, of a thread, of a destructor."""

    def say(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
        if kind is not SystemExit:
            print(redact("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)

    sys.excepthook = say
    threading.excepthook = lambda args: say(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: say(args.exc_type, args.exc_value, args.exc_traceback)


class _Late(logging.Handler):
    """A handler that is made for its first line: its package takes what else is installed with it, such as redis."""

    def __init__(self, make: Callable[[], logging.Handler]) -> None:
        super().__init__(logging.INFO)
        self._make = make
        self._made: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._made is None:
            self._made = self._make()
            self._made.setFormatter(self.formatter)
        self._made.emit(record)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
        super().close()


def _shared_file(file: Path, max_mb: float, keep_days: int) -> logging.Handler:
    from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

    class DaysKept(ConcurrentTimedRotatingFileHandler):
        """Rotated by size, too, so that its own count of files is no count of days."""

        def getFilesToDelete(self) -> list[str]:  # noqa: N802  its name there, called under the lock that processes share
            oldest = datetime.now().date() - timedelta(days=keep_days)
            rotated = re.compile(rf"{re.escape(file.name)}\.(\d{{4}}-\d\d-\d\d)(\.\d+)?")
            days = {one: found[1] for one in file.parent.iterdir() if (found := rotated.fullmatch(one.name))}
            return [str(one) for one, day in days.items() if day < oldest.isoformat()]

    return DaysKept(
        filename=str(file),
        when="midnight",
        backupCount=1,  # not 0, with which it deletes nothing
        maxBytes=int(max_mb * 1_000_000),
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )
