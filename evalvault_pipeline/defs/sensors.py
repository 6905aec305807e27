"""What starts a run without the clock: a snapshot file that appears or changes."""

import json
import time
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.defs.jobs import evaluation_job_name
from evalvault_pipeline.defs.partitions import register_snapshot
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.errors import PipelineError

# A file that was written to a moment ago may not be whole yet.
SETTLED_SECONDS = 5.0
# Dagster ends a tick after 60 s and forgets what it found; the next tick goes on where this one stopped.
TICK_SECONDS = 20.0


def new_snapshot_sensor(catalog: Catalog, jobs: list[Any]) -> dg.SensorDefinition:
    """`new_snapshot_sensor`: registers a new or changed snapshot's batches and requests a run over them.

    The cursor holds size and time of each file that was dealt with, and the catalog's batch size and policy for personal
    data. A snapshot whose file is removed keeps its partitions and its history. A bad file is named in the tick, and tried
    again when it changes.
    """

    @dg.sensor(
        name="new_snapshot_sensor",
        jobs=jobs,
        minimum_interval_seconds=30,
        description="Scores a snapshot when its file appears or changes.",
    )
    @scrubbed
    def watch_snapshots(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        seen: dict[str, list[int]] = json.loads(context.cursor or "{}")
        requests: list[dg.RunRequest] = []
        problems: list[str] = []
        end = time.monotonic() + TICK_SECONDS
        for spec in catalog.datasets.values():
            try:
                snapshots = spec.snapshots()
            except PipelineError as error:
                problems.append(str(error))
                continue
            for snapshot, file in snapshots.items():
                name, state = f"{spec.name}/{snapshot}", _state(file, spec)
                if state is None or seen.get(name) == state or time.monotonic() > end:
                    continue
                try:
                    plan = register_snapshot(context.instance, spec, snapshot)
                except PipelineError as error:
                    problems.append(str(error))
                else:
                    job = evaluation_job_name(spec.name)
                    for part, tags in enumerate(plan.runs):
                        run_key = f"{name}/{'-'.join(map(str, state))}/{part}"
                        requests.append(dg.RunRequest(run_key=run_key, job_name=job, tags=tags))
                seen[name] = state
        for problem in problems:
            context.log.error(problem)
        return dg.SensorResult(
            run_requests=requests,
            cursor=json.dumps(seen),
            skip_reason=None if requests else dg.SkipReason(redacted("\n".join(problems)) or "no snapshot is new or changed"),
        )

    return watch_snapshots


def _state(file: Path, spec: DatasetSpec) -> list[int] | None:
    """[size, time of writing, batch size of the catalog, its policy for personal data unless it is `redact`].

    None while the file is still being written.
    """
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    if 0 <= time.time() - stat.st_mtime < SETTLED_SECONDS:
        return None
    policy = {"redact": [], "block": [1], "off": [2]}[spec.pii]
    return [stat.st_size, stat.st_mtime_ns, spec.batch_size or 0, *policy]
