"""The answers of calls whose scores are not stored yet, so that a run that is killed between two steps pays neither again.

One file per process beside the score store, a line per answer, written before the call's slot is given free: `kill -9` loses
the calls in flight and nothing else. A file whose process has ended is taken over by the next run. Scores themselves are
kept in `store.py`.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from filelock import FileLock, Timeout

from evalvault_pipeline.errors import UnwritableFile

KEPT_SECONDS = 14 * 24 * 3600


@dataclass(slots=True)
class Bill:
    """Tokens and dollars of one or more calls; `cost_usd` is None where a price is not known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    calls: int = 0

    def add(self, other: Bill) -> None:
        self.calls += other.calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        known = self.cost_usd is not None and other.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None


@dataclass(frozen=True, slots=True)
class Noted:
    """An answer as the journal keeps it: its text, and what it cost."""

    text: str
    bill: Bill


class Journal:
    """The answers of this process, and those that ended processes left behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lock = FileLock(f"{self._path}.lock")
        self._left: dict[str, Noted] = {}
        self._open: dict[str, list[str]] = {}  # score -> lines for it, until it is stored

    def __enter__(self) -> Journal:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from None
        for path in sorted(self._folder.glob("*.jsonl")):
            if path != self._path:
                self._take_over(path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Keep only what belongs to no stored score: the answers for scores that failed in a later step."""
        self._file.close()
        lines = [line for kept in self._open.values() for line in kept]
        if lines:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(lines), encoding="utf-8")
            temporary.replace(self._path)
        else:
            self._path.unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)

    @staticmethod
    def key(judge: str, shape: str, prompt: str) -> str:
        """What an answer depends on: the judge, the shape asked for, the prompt."""
        digest = hashlib.blake2b(f"{judge}\0{shape}\0".encode(), digest_size=16)
        text = prompt.encode("utf-8", "surrogatepass")
        for start in range(0, len(text), 2000):  # from 2,048 bytes on it would hand the interpreter to another thread
            digest.update(text[start : start + 2000])
        return digest.hexdigest()

    @property
    def scores(self) -> list[str]:
        """The scores for which answers are kept."""
        return list(self._open)

    def find(self, key: str) -> Noted | None:
        """The answer that an ended process paid for."""
        return self._left.get(key)

    def note(self, score: str, texts: Mapping[str, str], bill: Bill) -> None:
        """Keep the replies of one call by their keys; they are on their way to the disk when this returns."""
        paid = [bill.prompt_tokens, bill.completion_tokens, bill.cost_usd, bill.calls]
        fields = {"score": score, "at": int(time.time()), "texts": texts, "paid": paid}
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        self._append(line)
        self._open.setdefault(score, []).append(line.decode())

    def settled(self, scores: Iterable[str]) -> None:
        """These scores are stored: the answers for them are not needed any more."""
        done = [score for score in scores if self._open.pop(score, None)]
        if done:
            self._append(orjson.dumps({"settled": done}, option=orjson.OPT_APPEND_NEWLINE))

    def _append(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UnwritableFile:
        return UnwritableFile(
            f"{self._folder} cannot be written: {error.strerror or error}. The judge's answers are kept there: make room or "
            "give the right to write, or set EVALVAULT_RESULTS_DIR to another folder."
        )

    @staticmethod
    def paid(folder: Path) -> dict[str, Bill]:
        """Score -> what has been paid for it by answers that are kept, of running processes too; nothing is taken over."""
        bills: dict[str, Bill] = {}
        for path in sorted(folder.glob("*.jsonl")):
            with suppress(FileNotFoundError, PermissionError):
                for _, fields in _kept(path):
                    bills.setdefault(fields["score"], Bill()).add(fields["paid"])
        return bills

    def _take_over(self, path: Path) -> None:
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, PermissionError):
            return  # its process is alive, or somebody else's
        try:
            with suppress(FileNotFoundError, PermissionError):
                for line, fields in _kept(path):
                    self._adopt(line, **fields)
                path.unlink(missing_ok=True)
        finally:
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)

    def _adopt(self, line: bytes, *, score: str, at: float, texts: Mapping[str, str], paid: Bill) -> None:
        for key, text in texts.items():
            self._left[key] = Noted(text, paid)
            paid = Bill()  # the first reply of a call carries its cost
        self._append(line)
        self._open.setdefault(score, []).append(line.decode())


def _kept(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a journal, and what they hold, for scores that are not stored yet."""
    oldest = time.time() - KEPT_SECONDS
    kept: dict[str, list[tuple[bytes, dict[str, Any]]]] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        fields = _fields(line)
        for score in fields.get("settled", ()):
            kept.pop(score, None)  # what is noted for it later is of a later run
        if fields.get("at", 0) >= oldest:
            kept.setdefault(fields["score"], []).append((line, fields))
    return [entry for entries in kept.values() for entry in entries]


def _fields(line: bytes) -> dict[str, Any]:
    """The content of a line; nothing for the one in which its process died, and for one of another version."""
    try:
        fields = orjson.loads(line)
        if "settled" in fields:
            return {"settled": list(fields["settled"])}
        texts, paid = dict(fields["texts"]), Bill(*fields["paid"])
        return {"score": str(fields["score"]), "at": float(fields["at"]), "texts": texts, "paid": paid}
    except (ValueError, KeyError, TypeError):
        return {}
