"""The PII firewall beside the three patterns of the production guide: speed on four kinds of text, and what each finds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.measure import table
from benchmarks.synthetic import passages, write_cases
from evalvault_pipeline.cases.loading import read_cases
from evalvault_pipeline.cases.pii import find_pii
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline_tests.cases.labelled import Span, read_labelled, scored

GUIDE = {
    "PHONE": re.compile(r"\d{3}-\d{3,4}-\d{4}"),
    "EMAIL": re.compile(r"[\w.-]+@[\w.-]+"),
    "SSN": re.compile(r"\d{6}-\d{7}"),
}
REPEATS = 5


def guide(text: str) -> str:
    for label, pattern in GUIDE.items():
        text = pattern.sub(f"[{label}]", text)
    return text


def run(folder: Path, *, cases: int) -> str:
    """Measure and return the section as Markdown."""
    suite = [one.text for one in read_labelled("pii_suite.jsonl")]
    prose = [text for _, text in passages(4_000)]
    numbers = " ".join(map(str, range(10, 400)))
    texts = {
        "insurance passages of 250 characters, no personal data": prose,
        "the same, every second one with a labelled string": [
            f"{text} {suite[at // 2 % len(suite)]}" if at % 2 else text for at, text in enumerate(prose)
        ],
        "tables of numbers": [f"연령 보험료\n{numbers}"] * 200,
        "the labelled strings alone, 35 bytes each": suite * 10,
    }
    speeds = [[name, *(f"{speed:.1f} MB/s" for speed in _speeds(some, redacted, guide))] for name, some in texts.items()]
    found = [
        [
            f"`{name}`",
            *(f"{score.recall():.3f} / {score.precision():.3f}" for score in (scored(rows, _ours), scored(rows, _guide))),
        ]
        for name in ("pii_suite.jsonl", "pii_held_out.jsonl", "pii_fresh.jsonl", "pii_unseen.jsonl", "pii_unseen_2.jsonl")
        if (rows := read_labelled(name))
    ]
    return "\n".join(
        [
            "## The firewall",
            "",
            table(["text", "`redacted`", "the guide's three patterns"], speeds),
            "",
            table(["recall / precision on", "ours", "the guide's three patterns"], found),
            "",
            _reading(folder, cases),
        ]
    )


def _speeds(texts: list[str], *functions: Callable[[str], str]) -> list[float]:
    """Megabytes of UTF-8 a second of processor time, the best of several rounds in which all take turns."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    best = [float("inf")] * len(functions)
    for _ in range(REPEATS):
        for at, function in enumerate(functions):
            started = time.process_time()
            for text in texts:
                function(text)
            best[at] = min(best[at], time.process_time() - started)
    return [size / seconds for seconds in best]


def _reading(folder: Path, cases: int) -> str:
    file = folder / "cases.jsonl"
    write_cases(file, cases)
    took = dict.fromkeys(("off", "redact"), float("inf"))
    for _ in range(2):
        for policy in took:
            started = time.process_time()
            count = sum(1 for _ in read_cases(file, pii="redact" if policy == "redact" else "off"))
            took[policy] = min(took[policy], time.process_time() - started)
    assert count == cases
    size = file.stat().st_size / 1e6
    return (
        f'Reading {cases:,} cases ({size:.0f} MB of JSONL) takes {took["off"]:.1f} s of processor time with `pii = "off"`, '
        f"{took['redact']:.1f} s with `redact`."
    )


def _ours(text: str) -> Iterator[Span]:
    return ((one.start, one.end, one.kind.value) for one in find_pii(text))


def _guide(text: str) -> Iterable[Span]:
    """What the guide's patterns find, one after the other, each in what those before it left."""
    for label, pattern in GUIDE.items():
        for match in pattern.finditer(text):
            yield match.start(), match.end(), label
        text = pattern.sub(lambda match: "\x00" * len(match[0]), text)
