"""`results.json`: the contract with everything that reads our results.

The keys of the tool that this one replaces keep their names and places; the JSON Schema in `docs/results.schema.json` is
generated from the types below. A file is written beside its place and renamed, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, TextIO

from pydantic import Field
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from evalvault_pipeline.errors import UnknownCase, UnreadableFile, UnwritableFile
from evalvault_pipeline.reporting.report import Cost, MetricSummary, Noise, RunReport
from evalvault_pipeline.scoring.model import CaseResult, MetricScore

SCHEMA_VERSION = "1.1"
CASES_BEGIN = '  "results": ['  # a line of its own
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Interval = tuple[Share, Share] | None


class ScoreEntry(TypedDict):
    """One metric of one case. `score` is null where it could not be measured; `unmeasured` then holds the reason."""

    name: str
    score: Share | None
    threshold: Share
    passed: bool | None
    unmeasured: str | None
    reason: str | None
    evidence: dict[str, Any]
    version: str
    judge: str
    lower_is_better: bool
    from_store: bool
    seconds: float
    judge_calls: int
    tokens: int
    cost_usd: float | None


class CaseEntry(TypedDict):
    """One case. `all_passed` is null where only unmeasured scores keep it from passing.

    `tokens`, `cost_usd` (null: no known price) and `seconds` are what its scores took, whenever they were measured.
    """

    test_case_id: str
    all_passed: bool | None
    metrics: list[ScoreEntry]
    question: str
    answer: str
    ground_truth: str | None
    metadata: dict[str, Any]
    case_digest: str
    input_digest: str
    seconds: float
    tokens: int
    cost_usd: float | None


class UsageEntry(TypedDict):
    """What this run asked of the judge; `cost_usd` is null where a price is not known."""

    judge_calls: int
    prompt_tokens: int
    completion_tokens: int
    embedding_tokens: int
    cost_usd: float | None


class NoiseEntry(TypedDict):
    """The judge against itself: share of disagreeing pairs of judgements, and the values' standard deviation."""

    cases: int
    repeats: int
    flip_rate: Share
    deviation: float


class MetricEntry(TypedDict):
    """One metric over all cases; `mean` is over the measured ones, `passed_interval` is Wilson's, `mean_interval` bootstrap."""

    version: str
    threshold: Share
    measured: int
    unmeasured: dict[str, int]
    passed: int
    passed_interval: Interval
    mean: Share | None
    mean_interval: Interval
    median: Share | None
    quantiles: dict[str, Share]
    lower_is_better: bool
    usage: UsageEntry
    noise: NoiseEntry | None


class CacheEntry(TypedDict):
    """Scores taken from the score store, and scores computed in this run; what the former had cost was saved."""

    hits: int
    misses: int
    saved_tokens: int
    saved_cost_usd: float | None


class PiiEntry(TypedDict):
    """The dataset's policy for personal data; label -> how often it was set, in how many cases. Never a value."""

    policy: str
    masked: dict[str, int]
    cases: int


class ResultsFile(TypedDict):
    """A run's results. Besides these keys there is `avg_<metric>` for each metric: its mean, or null."""

    schema_version: str
    run_id: str
    dataset_name: str
    dataset_version: str
    dataset_digest: str
    snapshot: str
    language: str
    profile: str
    model_name: str
    judge: dict[str, Any]
    tokenizer: str
    started_at: str
    finished_at: str
    duration_seconds: float
    total_test_cases: int
    passed_test_cases: int
    failed_test_cases: int
    unmeasured_test_cases: int
    pass_rate: Share
    pass_rate_interval: Interval
    pass_rate_bounds: tuple[Share, Share]
    coverage: Share
    wanted_scores: int
    measured_scores: int
    unmeasured_by_reason: dict[str, int]
    unmeasured_details: list[str]
    total_tokens: int
    total_cost_usd: float | None
    usage: UsageEntry
    cache: CacheEntry
    skipped_rows: list[str]
    pii: PiiEntry
    batches: list[str]
    missing_batches: list[str]
    metrics_evaluated: list[str]
    thresholds: dict[str, Share]
    metric_summaries: dict[str, MetricEntry]
    tracker_metadata: dict[str, Any]
    results: NotRequired[list[CaseEntry]]


def results_header(report: RunReport) -> dict[str, Any]:
    """Everything of the file but the cases."""
    info = report.info
    header: ResultsFile = {
        "schema_version": SCHEMA_VERSION,
        "run_id": info.run_id,
        "dataset_name": info.dataset,
        "dataset_version": info.dataset_version,
        "dataset_digest": report.dataset_digest,
        "snapshot": info.snapshot,
        "language": info.language,
        "profile": info.profile,
        "model_name": info.judge,
        "judge": dict(info.judge_details),
        "tokenizer": info.tokenizer,
        "started_at": _time(info.started_at),
        "finished_at": _time(info.finished_at),
        "duration_seconds": round((info.finished_at - info.started_at).total_seconds(), 3),
        "total_test_cases": report.case_count,
        "passed_test_cases": report.passed,
        "failed_test_cases": report.failed,
        "unmeasured_test_cases": report.unmeasured,
        "pass_rate": report.pass_rate,
        "pass_rate_interval": report.pass_rate_interval,
        "pass_rate_bounds": report.pass_rate_bounds,
        "coverage": report.coverage,
        "wanted_scores": report.wanted_scores,
        "measured_scores": report.measured_scores,
        "unmeasured_by_reason": report.unmeasured_by_reason,
        "unmeasured_details": list(report.unmeasured_details),
        "total_tokens": report.spent.tokens,
        "total_cost_usd": report.spent.dollars,
        "usage": _usage(report.spent),
        "cache": {
            "hits": report.reused,
            "misses": report.computed,
            "saved_tokens": report.saved.tokens,
            "saved_cost_usd": report.saved.dollars,
        },
        "skipped_rows": list(info.skipped_rows),
        "pii": {"policy": info.pii.policy, "masked": dict(info.pii.masked), "cases": info.pii.cases},
        "batches": list(info.batches),
        "missing_batches": list(info.missing_batches),
        "metrics_evaluated": [metric.name for metric in report.metrics],
        "thresholds": {metric.name: metric.threshold for metric in report.metrics},
        "metric_summaries": {metric.name: _metric_entry(metric) for metric in report.metrics},
        "tracker_metadata": dict(info.notes),
    }
    return {**header, **{f"avg_{metric.name}": metric.mean for metric in report.metrics}}


def case_entry(result: CaseResult) -> CaseEntry:
    case = result.case
    cost = Cost()
    for score in result.scores:
        cost.add(score)
    return {
        "test_case_id": case.case_id,
        "all_passed": result.passed,
        "metrics": [_score_entry(score) for score in result.scores],
        "question": case.question,
        "answer": case.answer,
        "ground_truth": case.ground_truth,
        "metadata": dict(case.metadata),
        "case_digest": case.digest,
        "input_digest": case.input_digest,
        "seconds": round(sum(score.seconds for score in result.scores), 6),
        "tokens": cost.tokens,
        "cost_usd": cost.dollars,
    }


def write_results(path: Path, report: RunReport) -> None:
    """Write the file atomically, one case a line, without holding the cases in memory."""
    with replacing(path) as file:
        write_cases(file, results_header(report), map(case_entry, report.results))


def write_cases(file: TextIO, header: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> None:
    """The text of a results file: its header, then a case a line."""
    head = json.dumps(header, ensure_ascii=False, indent=2, allow_nan=False)
    file.write(head.removesuffix("\n}"))
    file.write(f",\n{CASES_BEGIN}")
    for number, case in enumerate(cases):
        line = json.dumps(case, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
        file.write(f"{',' if number else ''}\n    {line}")
    file.write("\n  ]\n}\n")


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file that we wrote. Raises UnreadableFile."""
    lines = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.rstrip("\n") == CASES_BEGIN:
                    break
                lines.append(line)
        header: dict[str, Any] = json.loads("".join(lines).rstrip().removesuffix(",") + "\n}")
    except (OSError, ValueError):
        raise UnreadableFile(f"{path} is no results file of ours. Materialize the report of this snapshot first.") from None
    return header


def find_case(case_id: str, file: Path | None, *, folder: Path) -> tuple[Path, dict[str, str], CaseEntry]:
    """(file, its header, the case) of a results file: the given one, else the newest of the results folder with this case.

    A file of the folder that cannot be read hides no older one. Raises UnreadableFile, or UnknownCase where no file holds the
    case.
    """
    files = [file] if file else sorted(folder.glob("*/*/results.json"), key=lambda path: -path.stat().st_mtime_ns)
    known: list[str] = []
    unreadable: UnreadableFile | None = None
    for path in files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            header = {name: content[name] for name in ("run_id", "dataset_name", "snapshot", "model_name")}
            entries = content["results"]
            for entry in entries:
                if entry["test_case_id"] == case_id:
                    return path, header, entry
            known += [str(entry["test_case_id"]) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            unreadable = unreadable or UnreadableFile(
                f"{path} is no results file. Name one that `evalvault run --output` wrote."
            )
    if unreadable:
        raise unreadable
    where = str(file) if file else f"{folder / '*/*/results.json'}; --results names another file"
    raise UnknownCase(case_id, known=known, where=where)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends well, and leaves no trace when it does not.

    Raises UnwritableFile where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_writable(path)
        with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UnwritableFile(f"{path} cannot be written: {error.strerror or error}. Name another file.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_writable(path: Path) -> None:
    """Make the folder of an output. Raises UnwritableFile where a file could not stand there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFile(f"{path} cannot be written: {error.strerror or error}. Name another file.") from None
    if path.is_dir():
        raise UnwritableFile(f"{path} cannot be written: it is a folder. Name a file.")


def results_schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(ResultsFile).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"EvalVault results {SCHEMA_VERSION}"
    schema["patternProperties"] = {"^avg_": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]}}
    schema["additionalProperties"] = False
    schema["required"] = [*schema["required"], "results"]
    return schema


def _score_entry(score: MetricScore) -> ScoreEntry:
    return {
        "name": score.metric,
        "score": score.value,
        "threshold": score.threshold,
        "passed": score.passed,
        "unmeasured": score.unmeasured,
        "reason": score.detail or None,
        "evidence": dict(score.evidence),
        "version": score.metric_version,
        "judge": score.judge,
        "lower_is_better": score.lower_is_better,
        "from_store": score.reused,
        "seconds": score.seconds,
        "judge_calls": score.judge_calls,
        "tokens": score.tokens,
        "cost_usd": score.cost_usd if score.tokens else 0.0,
    }


def _metric_entry(metric: MetricSummary) -> MetricEntry:
    return {
        "version": metric.version,
        "threshold": metric.threshold,
        "measured": metric.measured,
        "unmeasured": dict(metric.unmeasured),
        "passed": metric.passed,
        "passed_interval": metric.passed_interval,
        "mean": metric.mean,
        "mean_interval": metric.mean_interval,
        "median": metric.median,
        "quantiles": dict(metric.quantiles),
        "lower_is_better": metric.lower_is_better,
        "usage": _usage(metric.cost),
        "noise": None if metric.noise is None else _noise(metric.noise),
    }


def _usage(cost: Cost) -> UsageEntry:
    return {
        "judge_calls": cost.calls,
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "embedding_tokens": cost.embedding_tokens,
        "cost_usd": cost.dollars,
    }


def _noise(noise: Noise) -> NoiseEntry:
    return {
        "cases": noise.cases,
        "repeats": noise.repeats,
        "flip_rate": noise.flip_rate,
        "deviation": noise.deviation,
    }


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
