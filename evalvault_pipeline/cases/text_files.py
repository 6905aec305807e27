"""Text out of files that others wrote: encodings are recognised, lines are bounded, JSON is read value by value.

Own code where a library would do, for one reason: the line number of every value, which an error message needs.
What the text means stands in `loading.py`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from evalvault_pipeline.errors import UnreadableFile

# One case of 16 Mi characters is no case: a context of a whole book has about 1 Mi.
MAX_CASE_CHARS = 16 * 1024 * 1024
CHUNK = 1024 * 1024
# Korean in CP949, read as UTF-8, is broken in 50 % (a short phrase) to 87 % (the median) of its characters.
BROKEN_UTF8_SHARE = 0.4
_JSON_SPACE = " \t\n\r"

_HANGUL_RUN = re.compile("[가-힣]+")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def detect_encoding(path: Path) -> str:
    """`utf-8-sig`, `utf-16` (only with a byte order mark) or `cp949`, of which EUC-KR is a part.

    Reads the file once. Raises UnreadableFile for an empty file and for bytes that fit no encoding, with their line.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise UnreadableFile(f"{path} is empty. Write at least one case, or remove the file.")
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            line = _first_undecodable_line(path, encoding)
            if line is not None:
                name = encoding.removesuffix("-sig").upper()
                raise UnreadableFile(f"{path}:{line}: bytes that are not {name}, as the first are. Save it as UTF-8.")
            return encoding
    broken = _first_undecodable_line(path, "utf-8")
    if broken is None:
        return "utf-8"
    if _broken_share(path) < BROKEN_UTF8_SHARE:
        raise UnreadableFile(f"{path}:{broken}: bytes that are not UTF-8, in a file that otherwise is. Save it as UTF-8.")
    line = _first_undecodable_line(path, "cp949")
    if line is not None or not _reads_as_korean(path):
        at = line or broken
        raise UnreadableFile(f"{path}:{at}: bytes that are neither UTF-8 nor Korean CP949 (EUC-KR). Save the file as UTF-8.")
    return "cp949"


def _first_undecodable_line(path: Path, encoding: str) -> int | None:
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                return line + str(bytes(error.object)[: error.start], encoding, "replace").count("\n")
            if not chunk:
                return None


def _broken_share(path: Path) -> float:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    broken = foreign = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            text = decoder.decode(chunk)
            broken += text.count("\ufffd")
            foreign += sum(not piece.isascii() for piece in text)
    return broken / max(foreign, 1)


def _reads_as_korean(path: Path) -> bool:
    """Whether most Hangul of the CP949 text stands beside other Hangul; a curly quote of Windows-1252 makes lone syllables."""
    alone = together = 0
    with path.open(encoding="cp949", errors="replace") as file:
        while text := file.read(CHUNK):
            for run in _HANGUL_RUN.findall(text):
                if len(run) > 1:
                    together += len(run)
                else:
                    alone += 1
    return together > alone


def bounded_lines(handle: TextIO) -> Iterator[tuple[int, str | None]]:
    """(line number from 1, line with its end); None in place of a line longer than MAX_CASE_CHARS, which is not kept."""
    number = 0
    while line := handle.readline(MAX_CASE_CHARS):
        number += 1
        if len(line) < MAX_CASE_CHARS or line.endswith("\n"):
            yield number, line
            continue
        while line and not line.endswith("\n"):
            line = handle.readline(CHUNK)
        yield number, None


def json_fault(error: ValueError | RecursionError) -> str:
    """What `json` found wrong in a text of one line, with the column."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


class JsonReader:
    """Reads a JSON file value by value, with a buffer no longer than its longest value needs."""

    def __init__(self, path: Path, handle: TextIO) -> None:
        self._path = path
        self._handle = handle
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _JSON_SPACE:
                    return self._buffer[self._position]
                self._advance(self._position + 1)
            if not self._fill(CHUNK):
                return ""

    def expect(self, expected: str) -> None:
        """Make sure that one of the characters in `expected` comes next."""
        found = self.peek()
        if not found or found not in expected:
            wanted = " or ".join(f"`{char}`" for char in expected)
            raise self._error(f"expected {wanted}, found {f'`{found}`' if found else 'the end of the file'}")

    def take(self, expected: str) -> None:
        """Consume one of the characters in `expected`."""
        self.expect(expected)
        self._advance(self._position + 1)

    def end(self) -> None:
        """Make sure that nothing follows."""
        if found := self.peek():
            raise self._error(f"`{found}` stands after the end of the value")

    def value(self) -> tuple[int, Any]:
        """(line of its first character, the next value)."""
        if not self.peek():
            raise self._error("the file ends where a value should stand")
        line = self._line
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 8
                if cut_off and self._grow(line):
                    continue
                at = self._line + self._buffer.count("\n", self._position, error.pos)
                raise self._error(error.msg, line=at) from None
            except (RecursionError, ValueError) as error:
                raise self._error(json_fault(error), line=line) from None
            # A number may go on behind the buffer: `1`, `1.`, `1e` and `1e+` are all read as 1.
            if end >= len(self._buffer) - 2 and self._grow(line):
                continue
            self._advance(end)
            return line, value

    def items(self) -> Iterator[tuple[int, Any]]:
        """(line, element) for each element of the array that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            ended = self.peek() == "]"
            self.take(",]")
            if ended:
                return

    def _grow(self, line: int) -> bool:
        pending = len(self._buffer) - self._position
        if pending > MAX_CASE_CHARS:
            raise UnreadableFile(
                f"{self._path}:{line}: a value is longer than {MAX_CASE_CHARS:,} characters. Cut the contexts into passages."
            )
        return self._fill(max(CHUNK, pending))

    def _fill(self, size: int) -> bool:
        """Read on; False at the end of the file, where buffer and position stay as they are."""
        chunk = "" if self._ended else self._handle.read(size)
        self._ended = not chunk
        if chunk:
            self._buffer = self._buffer[self._position :] + chunk
            self._position = 0
        return bool(chunk)

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _error(self, message: str, line: int | None = None) -> UnreadableFile:
        return UnreadableFile(f"{self._path}:{line or self._line}: not valid JSON: {message}. Mend the file there.")
