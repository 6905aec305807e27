"""What is evaluated: a case, a dataset's header, a batch, and a row that cannot become a case.

Pure values. Files are read in `loading.py`; a dataset's place in the catalog is `catalog.DatasetSpec`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

# Metadata that metrics read, and which therefore belongs to a case's content (scoring/metrics.py).
SCORED_METADATA = ("answerable", "context_ids", "keywords", "reference_context_ids", "reference_contexts")


@dataclass(frozen=True, kw_only=True)
class EvalCase:
    """One question with the answer under test.

    `contexts` are the retrieved passages in rank order; `ground_truth` is the reference answer, None where there is none.
    `answer` may be empty: the system said nothing. Texts are in Unicode NFC without outer white space.
    """

    case_id: str
    question: str
    answer: str
    contexts: tuple[str, ...] = ()
    ground_truth: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """sha256 over all that a metric can see: equal digests have equal scores. The id is not part of it."""
        scored = {name: self.metadata[name] for name in SCORED_METADATA if self.metadata.get(name) is not None}
        return _digest([self.question, self.answer, list(self.contexts), self.ground_truth, scored])

    @cached_property
    def input_digest(self) -> str:
        """sha256 over what was asked (question and reference): the same in two releases of one dataset."""
        return _digest([self.question, self.ground_truth])


@dataclass(frozen=True, kw_only=True)
class DatasetHeader:
    """What a dataset file says about itself. `thresholds` holds what the file sets, metric -> [0, 1]."""

    name: str
    version: str = "1.0.0"
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PiiReport:
    """What the firewall did to a dataset: its policy, label -> how often it was set, in how many cases. Counts only."""

    policy: str = "redact"
    masked: Mapping[str, int] = field(default_factory=dict)
    cases: int = 0

    @property
    def open(self) -> bool:
        """Whether personal data is let through."""
        return self.policy == "off"

    @property
    def counts(self) -> str:
        counts = ", ".join(f"{count} {label}" for label, count in self.masked.items())
        return f"{counts} in {self.cases} {'case' if self.cases == 1 else 'cases'}" if counts else "none"

    def __str__(self) -> str:
        return "off: personal data is NOT masked" if self.open else self.counts


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of a dataset: what each of its batches says about the whole.

    `digest` is that of the file's cases, as they are masked; `batch_count` is how many batches they make.
    """

    dataset: str
    name: str
    version: str = "1.0.0"
    language: str = "en"
    digest: str = ""
    batch_count: int = 1
    thresholds: Mapping[str, float] = field(default_factory=dict)
    pii: PiiReport = field(default_factory=PiiReport)

    @property
    def batch_keys(self) -> list[str]:
        return [batch_key(self.name, index) for index in range(1, self.batch_count + 1)]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A slice of a snapshot, scored as one Dagster partition. `index` counts from 1."""

    snapshot: Snapshot
    index: int
    cases: tuple[EvalCase, ...]

    @property
    def key(self) -> str:
        """The partition key: `2026w47/0003`."""
        return batch_key(self.snapshot.name, self.index)


def batch_key(snapshot: str, index: int) -> str:
    return f"{snapshot}/{index:04d}"


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """Why a row of a file is not a case: where it stands, what was found, and how to mend it.

    `line` counts from 1 (in a spreadsheet: the row); for Parquet it is the row number, header not counted. `row` is the number
    of the case in the file, from 1; it is said where the case shares its line with another (`shares_line`).
    """

    path: str
    line: int
    field: str
    found: str
    remedy: str
    row: int = 0
    shares_line: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {f'case {self.row}: ' if self.shares_line else ''}{self.said}"

    @property
    def said(self) -> str:
        return f"{self.field}: {self.found}. {self.remedy}"


def by_row(problems: Iterable[RowProblem]) -> list[str]:
    """One text for each bad row, with all its faults. Those of a row stand together."""
    told = []
    for _, (first, *others) in groupby(problems, key=lambda one: (one.line, one.row)):
        told.append(" ".join((str(first), *(one.said for one in others))))
    return told


def _digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
