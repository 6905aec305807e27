"""Recorded runs, read again: a `results.json` as columns, without holding its texts in memory.

A file as we write it (a case on a line) is read line by line; one that was formatted by another tool is read whole. What cannot
be taken for a run's results is refused with file, line and remedy: a verdict must not rest on half a file.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic refuses that of typing before Python 3.12
)

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from evalvault_pipeline.errors import UnreadableFile, UnusableResults
from evalvault_pipeline.publishing.results_file import CASES_BEGIN, SCHEMA_VERSION, Share
from evalvault_pipeline.reporting.recorded import RecordedRun

LINE_END = b"\n"
SLICE_TEXT = 60  # longer texts are no category


class Noise(TypedDict):
    flip_rate: Share
    deviation: float


class Summary(TypedDict):
    version: str
    lower_is_better: bool
    noise: NotRequired[Noise | None]


class Header(TypedDict):
    """What a comparison takes from a results file's header; the rest of it may be as it likes."""

    run_id: str
    dataset_name: str
    snapshot: str
    dataset_version: str
    model_name: str
    metric_summaries: dict[str, Summary]
    thresholds: dict[str, Share]
    metrics_evaluated: Annotated[list[str], Field(min_length=1)]
    total_test_cases: int
    passed_test_cases: int
    missing_batches: list[str]
    skipped_rows: list[Any]


CASE_KEYS = {"test_case_id", "input_digest", "case_digest", "metrics"}
SCORE_KEYS = {"name", "score", "threshold", "lower_is_better", "evidence", "unmeasured", "reason"}
AGAIN = "Score again with `evalvault run --output`."


def read_run(path: Path) -> RecordedRun:
    """The run that a results file holds.

    Raises UnreadableFile where there is no such file, UnusableResults where it is cut off, is no results file of this schema,
    or holds what no run writes: a score outside [0, 1], an id twice.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line.rstrip() == CASES_BEGIN.encode():
                    return _read_lines(path)
        content = _parsed(path.read_bytes(), str(path), 1)
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror or error}. Name a file of `evalvault run`.") from None
    if not isinstance(content, dict):
        raise UnusableResults(f"{path} is no results file. {AGAIN}")
    entries = content.pop("results", None)
    if not isinstance(entries, list):
        check_header(content, str(path))
        raise UnusableResults(f"{path} has no list `results` of cases. {AGAIN}")
    return build_run(
        content, ((f"{path}: case {number}", entry) for number, entry in enumerate(entries, 1)), str(path), entries.__getitem__
    )


def _read_lines(path: Path) -> RecordedRun:
    offsets = array("q")
    lines = _Lines(path)

    def entry(index: int) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(lines.at(offsets[index]).strip().removesuffix(b","))
        return parsed

    with path.open("rb") as file:
        head = bytearray()
        place = number = 0
        for line in file:
            place, number = place + len(line), number + 1
            if line.rstrip() == CASES_BEGIN.encode():
                break
            head += line
        header = _parsed(bytes(head).rstrip().removesuffix(b",") + b"\n}", str(path), 1)

        def cases() -> Iterator[tuple[str, Any]]:
            nonlocal place, number
            for line in file:
                number += 1
                text = line.strip()
                if text == b"]":
                    if file.read().strip() != b"}":
                        raise UnusableResults(f"{path}:{number}: something stands after the cases. {AGAIN}")
                    return
                if text:
                    offsets.append(place)
                    yield f"{path}:{number}", _parsed(text.removesuffix(b","), str(path), number)
                place += len(line)
            raise UnusableResults(f"{path} ends in its middle, after line {number}: the copy is not whole. {AGAIN}")

        return build_run(header, cases(), str(path), entry)


class _Lines:
    """Lines of a file by where they begin: of this file, also when another one has taken its place meanwhile."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def __del__(self) -> None:
        self._file.close()

    def at(self, offset: int) -> bytes:
        self._file.seek(offset)
        return self._file.readline()


def _parsed(text: bytes, source: str, line: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"{source}:{line + error.lineno - 1}"
    if found := re.search(rb"[:\[,]\s*(-?(?:NaN|Infinity))\b", text):
        where = f"{source}:{line + text.count(LINE_END, 0, found.start(1))}"
        raise UnusableResults(
            f"{where}: {found[1].decode()} is no score; a score is in [0, 1], or null where unmeasured. {AGAIN}"
        )
    if not text.strip() or not text.rstrip().endswith((b"}", b"]")):
        raise UnusableResults(f"{where}: the file ends in its middle: the copy is not whole. {AGAIN}")
    raise UnusableResults(f"{where}: it is no JSON. {AGAIN}")


def check_header(header: Any, source: str) -> None:
    """Raises UnusableResults unless this is the header of a results file that we can read."""
    version = header.get("schema_version") if isinstance(header, dict) else None
    if version is None:
        raise UnusableResults(
            f"{source} has no schema_version, so `evalvault run` did not write it (the earlier tool's files lack what pairs "
            f"cases). {AGAIN}"
        )
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise UnusableResults(f"{source} is of schema version {version}, this version reads {SCHEMA_VERSION}. {AGAIN}")
    if lacking := [name for name in Header.__annotations__ if name not in header]:
        raise UnusableResults(f"{source} lacks {', '.join(lacking)}. {AGAIN}")
    try:
        _header_type().validate_python(header, strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UnusableResults(f"{source}: {where}: {error.errors()[0]['msg']}. {AGAIN}") from None
    for name in header["metrics_evaluated"]:
        if name not in header["thresholds"] or name not in header["metric_summaries"]:
            raise UnusableResults(f"{source} has no threshold or summary of its metric {name}. {AGAIN}")


@cache
def _header_type() -> TypeAdapter[Header]:
    return TypeAdapter(Header)


def build_run(
    header: Mapping[str, Any],
    cases: Iterable[tuple[str, Any]],
    source: str,
    entry: Callable[[int], Mapping[str, Any]],
) -> RecordedRun:
    """Columns from (where it stands, case) after (case); `source` names the run in messages. Raises UnusableResults."""
    import numpy as np

    check_header(header, source)
    metrics = list(header["metrics_evaluated"])
    values = {name: array("d") for name in metrics}
    judges: dict[str, set[str]] = {name: set() for name in metrics}
    places: dict[str, int] = {}
    input_digests: list[str] = []
    case_digests: list[str] = []
    metadata: dict[str, list[str | None]] = {}
    for where, case in cases:
        if not _is_case(case):
            raise UnusableResults(f"{where}: it is no case with id, digests and metrics. {AGAIN}")
        name, scores = case["test_case_id"], {score["name"]: score for score in case["metrics"]}
        if name in places:
            raise UnusableResults(f"{where}: the id {name} stands twice, so cases cannot be paired by it. {AGAIN}")
        count = places[name] = len(places)
        input_digests.append(case["input_digest"])
        case_digests.append(case["case_digest"])
        for metric in metrics:
            score = scores.get(metric, {})
            value = score.get("score")
            if value is None:
                values[metric].append(math.nan)
                continue
            values[metric].append(_checked(value, where, metric))
            judges[metric].add(score.get("judge") or "")
        for key, value in (case.get("metadata") or {}).items():
            text = value if isinstance(value, str) else str(value).lower() if isinstance(value, int) else None
            if text is not None and len(text) <= SLICE_TEXT:
                column = metadata.setdefault(key, [])
                if len(column) < count:
                    column.extend([None] * (count - len(column)))
                column.append(text)
    for column in metadata.values():
        column.extend([None] * (len(places) - len(column)))
    return RecordedRun(
        source=source,
        header=header,
        case_ids=list(places),
        input_digests=input_digests,
        case_digests=case_digests,
        values={name: np.frombuffer(column, dtype=np.float64) if column else np.empty(0) for name, column in values.items()},
        metadata=metadata,
        judges={name: frozenset(found) for name, found in judges.items()},
        entry=entry,
    )


def _is_case(case: Any) -> bool:
    """Whether it has what is read of a case here, and what is shown of one; a schema would take seconds for 100,000."""
    return (
        type(case) is dict
        and case.keys() >= CASE_KEYS
        and type(case["test_case_id"]) is str
        and type(case["input_digest"]) is str
        and type(case["case_digest"]) is str
        and type(case.get("metadata") or {}) is dict
        and type(case.get("seconds") or 0.0) in (float, int)
        and type(case["metrics"]) is list
        and all(map(_is_score, case["metrics"]))
    )


def _is_score(score: Any) -> bool:
    return (
        type(score) is dict
        and score.keys() >= SCORE_KEYS
        and type(score["name"]) is str
        and type(score["threshold"]) in (float, int)
        and type(score["lower_is_better"]) is bool
        and type(score["evidence"]) is dict
        and type(score.get("judge") or "") is str
    )


def _checked(score: Any, where: str, metric: str) -> float:
    if type(score) in (float, int) and 0.0 <= score <= 1.0:
        return float(score)
    raise UnusableResults(f"{where}: {metric} is {score!r:.40}; a score is in [0, 1], or null where unmeasured. {AGAIN}")
