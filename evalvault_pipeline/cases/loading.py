"""Read dataset files: one function per format, streaming, every bad row named with its line.

A file is read twice: `inspect_dataset` checks all of it before anything is scored, `read_cases` then streams the cases. Both
hand out cases behind the firewall (`redaction.py`). What makes a row a case stands in `rows.py`, encodings and JSON syntax in
`text_files.py`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evalvault_pipeline.cases.model import DatasetHeader, EvalCase, PiiReport, RowProblem
from evalvault_pipeline.cases.redaction import Firewall, Policy, redacted
from evalvault_pipeline.cases.rows import (
    ALIASES,
    REQUIRED,
    THRESHOLD_PREFIX,
    case_from_row,
    plain,
    threshold_of,
    with_canonical_names,
)
from evalvault_pipeline.cases.text_files import MAX_CASE_CHARS, JsonReader, bounded_lines, detect_encoding, json_fault
from evalvault_pipeline.errors import MalformedCases, UnreadableFile

Row = tuple[int, Any]  # (line, the raw row or what is wrong with it)
HeaderItems = dict[str, tuple[int, Any]]  # key -> (line, value), filled while the rows are read


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A dataset file, read once to its end. `digest` is a sha256 over ids and contents of its cases, as masked, in order."""

    path: Path
    header: DatasetHeader
    case_count: int
    problems: tuple[RowProblem, ...]
    digest: str
    hangul_share: float
    pii: PiiReport = field(default_factory=PiiReport)

    @property
    def language(self) -> str:
        """`ko` where at least a tenth of the letters of the questions are Hangul, else `en`."""
        return "ko" if self.hangul_share >= 0.1 else "en"


def inspect_dataset(path: Path, *, strict: bool = True, pii: Policy = "redact") -> DatasetSummary:
    """Check a dataset file; `pii` says what becomes of personal data in it.

    Raises UnreadableFile where the file as a whole cannot be used, MalformedCases (strict) where rows cannot.
    """
    items: HeaderItems = {}
    problems: list[RowProblem] = []
    content = ContentDigest()
    firewall = Firewall(pii)
    count = hangul = letters = 0
    for entry in _entries(path, items, firewall):
        if isinstance(entry, RowProblem):
            problems.append(entry)
            continue
        count += 1
        content.add(entry)
        hangul += sum("가" <= char <= "힣" for char in entry.question)
        letters += sum(map(str.isalpha, entry.question))
    if problems and strict:
        raise MalformedCases(str(path), problems)
    if not count:
        remedy = f"Every row is bad, the first so: {problems[0]}" if problems else "Write at least one."
        raise UnreadableFile(f"{path} has no cases. {remedy}")
    return DatasetSummary(
        path=path,
        header=_header(path, items, firewall),
        case_count=count,
        problems=tuple(problems),
        digest=content.hexdigest(),
        hangul_share=hangul / letters if letters else 0.0,
        pii=firewall.report,
    )


def read_cases(path: Path, *, pii: Policy = "redact") -> Iterator[EvalCase]:
    """The good cases of a file, in order; bad rows are left out (`inspect_dataset` names them)."""
    return (entry for entry in _entries(path, {}, Firewall(pii)) if isinstance(entry, EvalCase))


class ContentDigest:
    """sha256 over ids and contents of cases, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, case: EvalCase) -> None:
        self._hash.update(f"{case.case_id}\x1f{case.digest}\n".encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _entries(path: Path, items: HeaderItems, firewall: Firewall) -> Iterator[EvalCase | RowProblem]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise UnreadableFile(f"{path}: no dataset format ends in `{path.suffix}`. Save it as one of: {known}")
    if path.is_dir():
        raise UnreadableFile(f"{path} is a folder. Name a file in it.")
    if not path.is_file():
        raise UnreadableFile(f"{path}: no such file. Check the path; the catalog's datasets: evalvault catalog check")
    try:
        yield from _cases_of(path, reader(path, items), firewall)
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror or error}. Check the file and its permissions.") from None


def _cases_of(path: Path, rows: Iterator[Row], firewall: Firewall) -> Iterator[EvalCase | RowProblem]:
    first_line: dict[str, int] = {}
    last_line = 1
    for number, (line, row) in enumerate(rows, start=1):
        # In JSON several cases may stand in one line: then only their number tells which is meant.
        shares = path.suffix.lower() == ".json" and line == last_line
        last_line = line
        for entry in _case_of(path, line, row, firewall, first_line):
            yield replace(entry, row=number, shares_line=shares) if isinstance(entry, RowProblem) else entry


def _case_of(
    path: Path, line: int, row: object, firewall: Firewall, first_line: dict[str, int]
) -> Iterable[EvalCase | RowProblem]:
    """The case of a row, masked, or what is wrong with it. `first_line` is by case id, of the cases before."""
    if isinstance(row, RowProblem):
        return [row]
    case = case_from_row(row, path=str(path), line=line, cells=path.suffix.lower() in TABLES)
    if isinstance(case, list):
        return case
    if refused := firewall.refuse(case, path=str(path), line=line):
        return refused
    if case.case_id in first_line:
        found = f"`{case.case_id}` stands in line {first_line[case.case_id]} too"
        return [RowProblem(path=str(path), line=line, field="id", found=found, remedy="Give every case an id of its own.")]
    first_line[case.case_id] = line
    return [firewall.mask(case)]


def _read_json(path: Path, items: HeaderItems) -> Iterator[Row]:
    with path.open(encoding=detect_encoding(path)) as handle:
        json_file = JsonReader(path, handle)
        if json_file.peek() == "[":
            yield from json_file.items()
        else:
            yield from _read_json_object(path, json_file, items)
        json_file.end()


def _read_json_object(path: Path, json_file: JsonReader, items: HeaderItems) -> Iterator[Row]:
    found = False
    json_file.take("{")
    ended = json_file.peek() == "}"
    if ended:
        json_file.take("}")
    while not ended:
        json_file.expect('"')
        _line, key = json_file.value()
        json_file.take(":")
        if key == "test_cases" and json_file.peek() == "[":
            found = True
            yield from json_file.items()
        else:
            items[key] = json_file.value()
        ended = json_file.peek() == "}"
        json_file.take(",}")
    if not found:
        if "conversations" in items:
            raise UnreadableFile(f"{path}: holds conversations of several turns. Write one case per turn under `test_cases`.")
        raise UnreadableFile(f'{path}: has no list `test_cases`. Write {{"test_cases": [...]}} or a list of cases.')


def _read_json_lines(path: Path, items: HeaderItems) -> Iterator[Row]:
    with path.open(encoding=detect_encoding(path)) as handle:
        for number, line in bounded_lines(handle):
            if line is None:
                yield number, _too_long(path, number)
            elif line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    found = f"is not valid JSON: {json_fault(error)}"
                    yield number, _bad_row(path, number, "case", found, "Write one object per line.")


def _read_csv(path: Path, items: HeaderItems) -> Iterator[Row]:
    csv.field_size_limit(MAX_CASE_CHARS)
    too_long: list[int] = []
    with path.open(encoding=detect_encoding(path), newline="") as handle:

        def lines() -> Iterator[str]:
            for number, line in bounded_lines(handle):
                if line is None:
                    too_long.append(number)
                yield "\n" if line is None else line

        table = csv.reader(lines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header: list[str] | None = None
        while True:
            started = table.line_num + 1
            problem: RowProblem | None = None
            cells: list[str] = []
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = 'Put text with quotes in quotes, and write each quote inside it twice: "".'
                problem = _bad_row(path, started, "row", f"is not valid CSV: {error}", remedy)
            if too_long:  # the lines of this row; what was read around them is not what the row says
                problem = _too_long(path, too_long[0])
                too_long.clear()
            if problem:
                yield problem.line, problem
            elif not any(cell.strip() for cell in cells):
                continue
            elif header is None:
                header = _columns(path, started, cells)
            elif len(cells) != len(header):
                found = f"has {len(cells)} cells, the header has {len(header)}"
                yield started, _bad_row(path, started, "row", found, "Put text that holds the separator in quotes.")
            else:
                row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
                _collect_thresholds(path, started, row, items)
                yield started, row


def _read_xlsx(path: Path, items: HeaderItems) -> Iterator[Row]:
    header: list[str] | None = None
    for number, cells in enumerate(_sheet_rows(path), start=1):
        if all(cell is None or cell == "" for cell in cells):
            continue
        if header is None:
            header = _columns(path, number, ["" if cell is None else str(cell) for cell in cells])
            continue
        row = {name: cell for name, cell in zip(header, cells, strict=False) if name}
        _collect_thresholds(path, number, row, items)
        yield number, row


def _sheet_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    from zipfile import BadZipFile
    from zlib import error as ZlibError  # noqa: N812

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    # What damaged workbooks were seen to raise; SyntaxError is the base of the XML parsers' errors.
    broken_zip = (BadZipFile, ZlibError, InvalidFileException, EOFError, OSError, RuntimeError)
    broken_content = (SyntaxError, LookupError, ValueError, TypeError)
    try:
        workbook = load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = workbook.worksheets[0]
            sheet.reset_dimensions()  # some tools write a range that is too small, which would cut the rows
            yield from sheet.iter_rows(values_only=True)
        finally:
            workbook.close()
    except (*broken_zip, *broken_content) as error:
        why = redacted(str(error))
        raise UnreadableFile(f"{path}: is no workbook that can be opened ({why}). Save it again as .xlsx.") from None


def _read_parquet(path: Path, items: HeaderItems) -> Iterator[Row]:
    names: list[str] = []
    for number, cells in enumerate(_parquet_rows(path)):
        if not number:
            names = _columns(path, 1, [str(name) for name in cells])
            continue
        row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
        _collect_thresholds(path, number, row, items)
        yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """The column names, then the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield tuple(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        why = redacted(str(error))
        raise UnreadableFile(f"{path}: is no Parquet file that can be opened ({why}). Write it again.") from None


READERS: Mapping[str, Callable[[Path, HeaderItems], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".xlsx": _read_xlsx,
    ".parquet": _read_parquet,
}
TABLES = frozenset({".csv", ".tsv", ".xlsx", ".parquet"})


def _columns(path: Path, line: int, names: list[str]) -> list[str]:
    """The column names. In a file without a header they are a case, so of what they hold nobody is told more than of a case."""
    columns = [name.strip() for name in names]
    named = [name for name in columns if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise UnreadableFile(f"{path}:{line}: the column `{redacted(twice[0])}` stands there twice. Rename one.")
    missing = [name for name in REQUIRED if name not in with_canonical_names(dict.fromkeys(named))]
    if missing:
        also = ", ".join(f"{theirs} for {ours}" for theirs, ours in ALIASES.items())
        raise UnreadableFile(
            f"{path}:{line}: the columns {', '.join(missing)} are missing; found: {redacted(', '.join(named)) or 'none'}. "
            f"Add them (ragas's names are fine too: {also})."
        )
    return columns


def _collect_thresholds(path: Path, line: int, row: Mapping[str, Any], items: HeaderItems) -> None:
    for name in row:
        if isinstance(name, str) and name.startswith(THRESHOLD_PREFIX):
            metric = name.removeprefix(THRESHOLD_PREFIX)
            value = threshold_of(metric, row[name], path=str(path), line=line)
            if value is None:
                continue
            seen_line, seen = items.setdefault(name, (line, value))
            if seen != value:
                where = f"{path}:{line}: {redacted(name)}"
                raise UnreadableFile(f"{where}: is {value}, in line {seen_line} it is {seen}. Write one value.")


def _header(path: Path, items: HeaderItems, firewall: Firewall) -> DatasetHeader:
    texts = {name: str(plain(items[name][1])) for name in ("name", "version", "description") if items.get(name, (0, None))[1]}
    texts = firewall.mask_header(texts)
    metadata = items.get("metadata", (1, None))[1]
    line, declared = items.get("thresholds", (1, None))
    if not isinstance(declared, Mapping | None):
        raise UnreadableFile(f'{path}:{line}: thresholds: is no object. Write {{"metric": 0.7}}.')
    wanted = {str(name): (line, value) for name, value in (declared or {}).items()}
    wanted |= {name.removeprefix(THRESHOLD_PREFIX): item for name, item in items.items() if name.startswith(THRESHOLD_PREFIX)}
    thresholds = {name: threshold_of(name, value, path=str(path), line=line) for name, (line, value) in wanted.items()}
    return DatasetHeader(
        **{"name": path.stem, **texts},
        metadata=firewall.mask_header(plain(metadata)) if isinstance(metadata, Mapping) else {},
        thresholds={name: value for name, value in thresholds.items() if value is not None},
    )


def _too_long(path: Path, line: int) -> RowProblem:
    return _bad_row(path, line, "row", f"is longer than {MAX_CASE_CHARS:,} characters", "Cut the contexts into passages.")


def _bad_row(path: Path, line: int, field: str, found: str, remedy: str) -> RowProblem:
    return RowProblem(path=str(path), line=line, field=field, found=found, remedy=remedy)
