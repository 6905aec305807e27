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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import orjson
from filelock import FileLock, Timeout

KEPT_SECONDS = 14 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Noted:
    """An answer as the journal keeps it: the texts of its replies, and what it cost."""

    texts: Sequence[str]
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None


class Journal:
    """The answers of this process, and those that ended processes left behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lock = FileLock(f"{self._path}.lock")
        self._left: dict[str, tuple[str, Noted]] = {}
        self._open: dict[str, list[str]] = {}  # case -> lines of it that no stored score has made needless

    def __enter__(self) -> Journal:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self._file = self._path.open("ab", buffering=0)
        for path in sorted(self._folder.glob("*.jsonl")):
            if path != self._path:
                self._take_over(path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Keep only what belongs to no stored score: calls of cases that failed in a later step."""
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
    def key(judge: str, shape: str, prompt: str, occurrence: int) -> str:
        """What an answer depends on: the judge, the shape asked for, the prompt, and how often it was asked before."""
        digest = hashlib.blake2b(f"{judge}\0{shape}\0{occurrence}\0".encode(), digest_size=16)
        text = prompt.encode("utf-8", "surrogatepass")
        for start in range(0, len(text), 2000):  # from 2,048 bytes on it would hand the interpreter to another thread
            digest.update(text[start : start + 2000])
        return digest.hexdigest()

    def find(self, key: str) -> Noted | None:
        """The answer that an ended process paid for."""
        return self._left[key][1] if key in self._left else None

    def note(self, key: str, *, case: str, answer: Noted) -> None:
        """Keep an answer; it is on its way to the disk when this returns."""
        fields = {
            "key": key,
            "case": case,
            "texts": answer.texts,
            "tokens": [answer.prompt_tokens, answer.completion_tokens],
            "cost": answer.cost_usd,
            "at": int(time.time()),
        }
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        self._file.write(line)
        self._open.setdefault(case, []).append(line.decode())

    def settled(self, cases: Iterable[str]) -> None:
        """All scores of these cases are stored: their answers are not needed any more."""
        for case in cases:
            self._open.pop(case, None)

    def _take_over(self, path: Path) -> None:
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return  # its process is alive
        try:
            oldest = time.time() - KEPT_SECONDS
            with suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines(keepends=True):
                    self._adopt(line, oldest)
                path.unlink(missing_ok=True)
        finally:
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)

    def _adopt(self, line: bytes, oldest: float) -> None:
        try:
            fields = orjson.loads(line)
        except ValueError:
            return  # the line in which its process died
        if fields["at"] < oldest:
            return
        noted = Noted(fields["texts"], fields["tokens"][0], fields["tokens"][1], fields["cost"])
        self._left[fields["key"]] = (fields["case"], noted)
        self._file.write(line)
        self._open.setdefault(fields["case"], []).append(line.decode())
