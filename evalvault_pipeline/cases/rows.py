"""Turn a row, as a file holds it, into a case, or say what is wrong with it.

A row is a mapping from column or key to a raw value: text from CSV, typed cells from XLSX and Parquet, values from JSON.
How rows are found in a file stands in `loading.py`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

from evalvault_pipeline.cases.model import SCORED_METADATA, EvalCase, RowProblem
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.errors import UnreadableFile

# Names that ragas gives to the same columns.
ALIASES = {"user_input": "question", "response": "answer", "retrieved_contexts": "contexts", "reference": "ground_truth"}
REQUIRED = ("id", "question", "answer", "contexts")
THRESHOLD_PREFIX = "threshold_"
SHOWN_CHARS = 6  # of what should be a threshold: what is longer may be a telephone number
_SPREADSHEET_ERRORS = {"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# `[별표 1] 지급기준 ...` is how Korean policies open a paragraph: a short title in brackets, with text behind it.
_BRACKETED_TITLE = re.compile(r"""\[[^\[\]{}"',|]{1,40}\]\s*[^\s,|\]]""")
_KNOWN = {*REQUIRED, "ground_truth", "metadata"}


class _BadField(Exception):
    def __init__(self, field: str, found: str, remedy: str) -> None:
        super().__init__(field, found, remedy)
        self.field, self.found, self.remedy = field, found, remedy


def with_canonical_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with ragas's column names replaced by ours, where ours are not there too."""
    return {ALIASES[name] if name in ALIASES and ALIASES[name] not in row else name: row[name] for name in row}


def case_from_row(row: Any, *, path: str, line: int, cells: bool) -> EvalCase | list[RowProblem]:
    """The case in `row`, or all that is wrong with it.

    `cells`: the row comes from a table (CSV, XLSX, Parquet), where a list is written as text and an empty cell is missing.
    """
    if not isinstance(row, Mapping):
        return [RowProblem(path=path, line=line, field="case", found=f"is {_kind(row)}", remedy="Write an object.")]
    row = with_canonical_names(row)
    problems: list[RowProblem] = []
    values: dict[str, Any] = {}
    for name, read in _FIELDS.items():
        try:
            values[name] = read(row, cells)
        except _BadField as bad:
            problems.append(RowProblem(path=path, line=line, field=bad.field, found=bad.found, remedy=bad.remedy))
    return problems or EvalCase(**values)


def _case_id(row: Mapping[str, Any], cells: bool) -> str:
    return _required_text(row, "id", "Give every case an id of its own.", cells)


def _question(row: Mapping[str, Any], cells: bool) -> str:
    return _required_text(row, "question", "Write the question.", cells)


def _answer(row: Mapping[str, Any], cells: bool) -> str:
    remedy = "Write the answer"
    if not cells:
        text = _text(row.get("answer"), "answer")
        if text is None:
            raise _BadField("answer", _absence(row, "answer"), f'{remedy}; "" says that the system gave none.')
        return text
    return _required_text(row, "answer", f'{remedy}; to record that the system gave none, use JSON with "answer": "".', cells)


def _ground_truth(row: Mapping[str, Any], cells: bool) -> str | None:
    return _text(row.get("ground_truth"), "ground_truth") or None


def _contexts(row: Mapping[str, Any], cells: bool) -> tuple[str, ...]:
    value = row.get("contexts")
    if cells and _missing(value):
        value = []
    elif cells and isinstance(value, str):
        value = _list_of_cell(value, "contexts")
    if value is None:
        raise _BadField("contexts", _absence(row, "contexts"), "Write a list of texts; [] where nothing was retrieved.")
    if not isinstance(value, list | tuple):
        raise _BadField("contexts", f"is {_kind(value)}", 'Write a list of texts: ["...", "..."].')
    texts = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, str):
            raise _BadField("contexts", f"element {number} is {_kind(item)}", "Write each context as text.")
        texts.append(_text(item, "contexts") or "")  # an empty one keeps its rank: `context_ids` runs beside
    return tuple(texts)


def _list_of_cell(cell: str, field: str) -> list[Any]:
    text = cell.strip()
    if not text.startswith("[") or _BRACKETED_TITLE.match(text):
        return [part for part in (piece.strip() for piece in text.split("|")) if part]
    try:
        return list(json.loads(text))
    except (ValueError, RecursionError):
        python_list = "; it looks like a Python list" if text.startswith("['") else ""
        raise _BadField(
            field, f"starts with `[` but is not a JSON array{python_list}", 'Write ["...", "..."], with double quotes.'
        ) from None


def _metadata(row: Mapping[str, Any], cells: bool) -> dict[str, Any]:
    value = row.get("metadata")
    if cells and isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise _BadField("metadata", "is not valid JSON", 'Write an object: {"product": "auto"}.') from None
    if value is None or _missing(value):
        value = {}
    if not isinstance(value, Mapping):
        raise _BadField("metadata", f"is {_kind(value)}", 'Write an object: {"product": "auto"}.')
    extra = {
        name: _scored_cell(name, row[name]) if cells else row[name]
        for name in row
        if name not in _KNOWN and not (cells and (_missing(row[name]) or row[name] == "" or name.startswith(THRESHOLD_PREFIX)))
    }
    try:
        metadata: dict[str, Any] = plain({**extra, **value})
    except RecursionError:
        raise _BadField("metadata", "is nested too deeply", "Flatten it.") from None
    if not isinstance(metadata.get("answerable"), bool | None):
        raise _BadField("answerable", f"is {_kind(metadata['answerable'])}", "Write true or false.")
    return metadata


def _scored_cell(name: str, cell: Any) -> Any:
    """The cell as JSON would hold it, where metrics read the column: `answerable` is true or false, the others are lists."""
    if name not in SCORED_METADATA or not isinstance(cell, str):
        return cell
    if name == "answerable":
        return {"true": True, "false": False}.get(cell.strip().lower(), cell)
    return _list_of_cell(cell, name)


_FIELDS = {
    "case_id": _case_id,
    "question": _question,
    "answer": _answer,
    "contexts": _contexts,
    "ground_truth": _ground_truth,
    "metadata": _metadata,
}


def _required_text(row: Mapping[str, Any], field: str, remedy: str, cells: bool) -> str:
    text = _text(row.get(field), field)
    if not text:
        raise _BadField(field, "is empty" if text == "" or cells else _absence(row, field), remedy)
    return text


def _text(value: Any, field: str) -> str | None:
    """The value as text in NFC; None where nothing stands. A number keeps its digits: 1 is `1`, never `1.0`."""
    if _missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | date | datetime | time):
        raise _BadField(field, f"is {_kind(value)}", "Write text.")
    if isinstance(value, float) and math.isinf(value):
        raise _BadField(field, "is infinite", "Write text.")
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value.replace("\r\n", "\n")).strip()
    elif isinstance(value, datetime):
        text = value.isoformat(sep=" ") if value.time() != time() else value.date().isoformat()
    elif isinstance(value, date | time):
        text = value.isoformat()
    else:
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if "\x00" in text:
        raise _BadField(field, "contains a NUL byte", "Remove it.")
    if _SURROGATE.search(text):
        raise _BadField(field, "contains half of a surrogate pair", "Write the character as UTF-8.")
    if text.lower() == "nan":
        raise _BadField(
            field, f"is `{text}`, which a data frame writes for a missing value", "Write the text, or leave it out."
        )
    if text in _SPREADSHEET_ERRORS:
        raise _BadField(field, f"is the spreadsheet error {text}", "Mend the formula.")
    return text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _absence(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        return "is missing"
    return "is null" if row[field] is None else "is NaN"


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}")


def plain(value: Any) -> Any:
    """A value as JSON and UTF-8 can hold it: NaN becomes None, a date its ISO text, half a surrogate pair `?`."""
    if _missing(value):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value if isinstance(value, int | float | bool) else str(value)


def threshold_of(metric: str, value: Any, *, path: str, line: int) -> float | None:
    """A threshold in [0, 1]; None where the file says null or nothing. Raises UnreadableFile for anything else."""
    if _missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if number is None or not 0.0 <= number <= 1.0:
        text = str(value)
        found = f"`{text}`" if len(text) <= SHOWN_CHARS else f"{len(text)} characters long"
        raise UnreadableFile(
            f"{path}:{line}: threshold of {redacted(metric)}: is {found}. Write a number from 0 to 1, or null for the default."
        )
    return number
