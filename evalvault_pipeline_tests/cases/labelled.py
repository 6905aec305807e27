"""Labelled strings for the rules of `cases/pii.py`, and how what is found is held against them.

A line of a `.jsonl` file is `{"text": ..., "spans": [[start, end, kind], ...]}`, all numbers made up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
Span = tuple[int, int, str]
Spans = Callable[[str], Iterable[Span]]


@dataclass(frozen=True)
class Labelled:
    text: str
    spans: frozenset[Span]


@dataclass
class Score:
    """Counts by kind. A span is a hit where kind and place are those of the label, brackets and spaces at its ends aside."""

    hits: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def recall(self, kind: str = "") -> float:
        return self._share(self.labels, kind)

    def precision(self, kind: str = "") -> float:
        return self._share(self.found, kind)

    def _share(self, of: Counter[str], kind: str) -> float:
        hits, count = (self.hits[kind], of[kind]) if kind else (self.hits.total(), of.total())
        return hits / count if count else 1.0


def read_labelled(name: str) -> list[Labelled]:
    rows = (json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [Labelled(row["text"], frozenset((start, end, kind) for start, end, kind in row["spans"])) for row in rows]


def scored(strings: Iterable[Labelled], spans: Spans) -> Score:
    score = Score()
    for one in strings:
        labels, found = ({_bare(one.text, span) for span in some} for some in (one.spans, spans(one.text)))
        for counter, some in ((score.labels, labels), (score.found, found), (score.hits, labels & found)):
            counter.update(kind for _, _, kind in some)
        if labels != found:
            missed, wrong = (
                [f"{kind} {one.text[start:end]}" for start, end, kind in sorted(some)]
                for some in (labels - found, found - labels)
            )
            score.faults.append(f"{one.text!r}: missed {missed}, wrongly found {wrong}")
    return score


def _bare(text: str, span: Span) -> Span:
    start, end, kind = span
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return start, end, kind
