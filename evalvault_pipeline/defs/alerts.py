"""`pass_rate_alert_sensor` reads what was reported, compared and what failed; `alert_job` tells it, `daily_digest_job` sums up.

The sensor decides and never posts: what it decides is kept in the alert book before a run is asked for, and asked for again
until it is delivered. When to alert stands in `reporting/incidents.py`.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from evalvault_pipeline.alerting import channel_problems, channels_of, deliver, deliver_digest
from evalvault_pipeline.backups.folder import backups_in
from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.defs.fencing import outer_run
from evalvault_pipeline.defs.in_process_runs import BACKFILL_TAG, bury_dead_runs, not_begun, why_failed
from evalvault_pipeline.defs.jobs import ALL_DATASETS_JOB, DAILY_JOB, evaluation_job_name
from evalvault_pipeline.defs.partitions import PARTITION, RANGE_END, snapshot_of
from evalvault_pipeline.defs.retries import published_as
from evalvault_pipeline.defs.scrubbing import scrubbed
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.publishing.alert_book import AlertBook, Delivery
from evalvault_pipeline.reporting.incidents import HOUR, Board, Compared, Notice, Observation, Reported, Rules, RunFailed
from evalvault_pipeline.reporting.statistics import wilson_interval
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.settings import Settings, load_settings

LOOKBACK = 500  # events before the cursor that are read again: Postgres may commit an earlier id later
RUNS_LOOKBACK_SECONDS = 3_600.0
UNFINISHED_SECONDS = 600.0  # so long a report waits for the verdict and the links of its run
RETRY_SECONDS = 10.0  # before the second try; doubled before each further one
ROUND_SECONDS = 60.0  # a message whose run gave up is asked for again after twice this, then four times, and so on
FAILED_RUNS = 200
JUDGE_FAULTS = {Reason.TIMEOUT.value, Reason.THROTTLED.value, Reason.JUDGE_ERROR.value}
CANCELED = {dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED}
UNFINISHED = {dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING}
UNDER_WAY = [*UNFINISHED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]


def again() -> dg.RetryPolicy:
    """A channel is tried four times within two minutes; then the sensor asks for another run."""
    backoff, jitter = dg.Backoff.EXPONENTIAL, dg.Jitter.PLUS_MINUS
    return dg.RetryPolicy(max_retries=3, delay=RETRY_SECONDS, backoff=backoff, jitter=jitter)


def alert_job() -> dg.JobDefinition:
    """`alert_job`: one message to one channel."""

    @dg.op(
        config_schema={"notice": str, "channel": str},
        retry_policy=again(),
    )
    @scrubbed
    def deliver_alert(context: dg.OpExecutionContext) -> None:
        context.log.info(deliver(context.op_config["notice"], context.op_config["channel"], load_settings()))

    @dg.job(
        name="alert_job",
        description="Send one alert to one channel; a channel that is down is tried again, and fails no evaluation.",
        tags={"dagster/priority": "10"},
    )
    def deliver_alert_job() -> None:
        deliver_alert()

    return deliver_alert_job


def digest_job() -> dg.JobDefinition:
    """`daily_digest_job`: pass rates, tokens and cost of the day to every channel."""

    @dg.op
    @scrubbed
    def send_daily_digest(context: dg.OpExecutionContext) -> None:
        for line in deliver_digest(load_settings(), now=time.time()):
            context.log.info(line)

    @dg.job(name="daily_digest_job", description="Pass rates, tokens and cost of the last 24 hours, to every alert channel.")
    def daily_digest_job() -> None:
        send_daily_digest()

    return daily_digest_job


def pass_rate_alert_sensor(catalog: Catalog, settings: Settings, job: dg.JobDefinition) -> dg.SensorDefinition:
    """`pass_rate_alert_sensor`: every report once, in order, whatever else happens between two ticks."""
    rules = Rules(
        repeat_seconds=settings.alert_repeat_hours * HOUR,
        no_data_seconds=settings.alert_no_data_hours * HOUR,
    )

    @dg.sensor(
        name="pass_rate_alert_sensor",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts when a pass rate drops, too little is measured, a run fails or does not come; and when it is over.",
    )
    @scrubbed
    def watch_reports(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        asked = load_settings()
        channels = channels_of(asked)
        for problem in channel_problems(asked):
            context.log.error(f"{problem} {'The other channels are told.' if channels else 'Nobody is told until then.'}")
        cursor = json.loads(context.cursor or "{}")
        specs = list(catalog.datasets.values())
        for spec in specs:
            bury_dead_runs(context.instance, evaluation_job_name(spec.name))
        observed, position = observations(context.instance, specs, settings, cursor=cursor, now=now)
        present = {spec.name: snapshots_of(spec) for spec in specs}
        busy = evaluations_under_way(context.instance, specs)

        def change(board: Board) -> list[Notice]:
            for one in observed:
                board.apply(one, present.get(one.dataset, ()))
            board.check_clock(now, rules, watched=catalog.datasets)
            if settings.backups_dir is None:
                board.check_backup(now, overdue=None)
            else:
                age = backup_age_hours(settings.backups_dir, now)
                board.check_backup(now, overdue=age is None or age > settings.backup_max_hours, age_hours=age)
            return board.tell(now, rules, busy=busy) if channels else []  # told when there is a channel

        with AlertBook(settings.score_store_url) as book:
            notices = book.change(change, channels=channels)
            waiting = first_of_each(book.pending(now))
            untold = [one.id for one in book.board().open_incidents if one.told_at is None]
        for notice in notices:
            context.log.info(f"{notice.id}: {notice.kind.value}, {', '.join(notice.causes)}")
        if untold and not channels:
            told = ", ".join(untold)
            context.log.warning(f"No alert channel can be used to tell of {told}: see `evalvault status` (docs/alerts.md)")
        requests = [_request(delivery, job, now) for delivery in waiting]
        return dg.SensorResult(
            run_requests=requests,
            cursor=json.dumps({"id": position, "since": cursor.get("since", now), "at": now}),
            skip_reason=None if requests else dg.SkipReason(f"{len(observed)} new events, nothing to tell"),
        )

    return watch_reports


def observations(
    instance: dg.DagsterInstance, specs: Sequence[DatasetSpec], settings: Settings, *, cursor: dict[str, Any], now: float
) -> tuple[list[Observation], int]:
    """What happened since the cursor, in order, and where to go on; the first time only the newest report of each dataset."""
    start, found = cursor.get("id"), []
    for spec in specs:
        for noun in ("report", "verdict"):
            key = dg.AssetKey([spec.name, noun])
            found += [(spec, noun, record) for record in _records(instance, key, start)]
    found.sort(key=lambda item: item[2].storage_id)
    position = max([start or 0, *(record.storage_id for _, _, record in found)])
    seen: list[Observation] = []
    for spec, noun, record in found:
        run = instance.get_run_by_id(record.run_id) if record.run_id else None
        if run is not None and run.status in UNFINISHED and now - record.timestamp < UNFINISHED_SECONDS:
            position = min(position, record.storage_id - 1)
            break  # what comes after it waits too: the order counts
        history = run is not None and _is_history(spec, run, str(_metadata(record).get("snapshot", "")))
        told_by = published_as(instance, run) if run else record.run_id
        made = (
            _reported(spec, record, settings, history, told_by)
            if noun == "report"
            else _compared(spec, record, history, told_by)
        )
        seen += [made] if made else []
    since = max(cursor.get("since", now), cursor.get("at", now) - RUNS_LOOKBACK_SECONDS)
    seen += _failed_runs(instance, specs, since)
    return sorted(seen, key=lambda one: one.at), position


def snapshots_of(spec: DatasetSpec) -> list[str]:
    """The names of those that there are; none where the folder cannot be read."""
    try:
        return list(spec.snapshots())
    except PipelineError:
        return []


def evaluations_under_way(instance: dg.DagsterInstance, specs: Sequence[DatasetSpec]) -> bool:
    """Whether a run evaluates now, or waits for its turn."""
    jobs = {ALL_DATASETS_JOB, DAILY_JOB, *(evaluation_job_name(spec.name) for spec in specs)}
    runs = instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    return any(run.job_name in jobs or run.asset_selection for run in runs)


def backup_age_hours(folder: Path, now: float) -> float | None:
    """Since the newest backup in the folder was begun; None where there is none."""
    begun = [at for at, _ in backups_in(folder)]
    return (now - begun[0].timestamp()) / HOUR if begun else None


def first_of_each(pending: Iterable[Delivery]) -> list[Delivery]:
    """Of each incident and channel the oldest message: an incident is not told to be over before it was told."""
    first: dict[tuple[str, str], Delivery] = {}
    for delivery in pending:
        first.setdefault((delivery.notice.incident, delivery.channel), delivery)
    return list(first.values())


def _request(delivery: Delivery, job: dg.JobDefinition, now: float) -> dg.RunRequest:
    config = {"notice": delivery.notice.id, "channel": delivery.channel}
    round_ = int(math.log2(max(now - delivery.created_at, ROUND_SECONDS) / ROUND_SECONDS))
    return dg.RunRequest(
        run_key=f"{delivery.id}/{int(delivery.created_at)}/{round_}",
        job_name=job.name,
        run_config={"ops": {"deliver_alert": {"config": config}}},
    )


def _records(instance: dg.DagsterInstance, key: dg.AssetKey, start: int | None) -> Iterator[dg.EventLogRecord]:
    if start is None:
        yield from instance.fetch_materializations(key, limit=1).records
        return
    after = max(0, start - LOOKBACK)
    while True:
        wanted = dg.AssetRecordsFilter(asset_key=key, after_storage_id=after)
        page = instance.fetch_materializations(wanted, limit=LOOKBACK, ascending=True)
        yield from page.records
        if not page.has_more or not page.records:
            return
        after = page.records[-1].storage_id


def _metadata(record: dg.EventLogRecord) -> dict[str, Any]:
    made = record.asset_materialization
    return {name: value.value for name, value in made.metadata.items()} if made else {}


def _is_history(spec: DatasetSpec, run: dg.DagsterRun, snapshot: str) -> bool:
    """Whether a backfill scored an older snapshot again: what was bad long ago alerts nobody."""
    return bool({"dagster/backfill", BACKFILL_TAG} & set(run.tags)) and snapshot < max(snapshots_of(spec), default="")


def _told(told_by: str, kind: str, *said: Any) -> str:
    """The id of an observation: the same for a run and a retry of it that says the same."""
    return f"{told_by}:{hashlib.sha256(repr(said).encode()).hexdigest()[:16]}:{kind}"


def _reported(spec: DatasetSpec, record: dg.EventLogRecord, settings: Settings, history: bool, told_by: str) -> Reported | None:
    """A report that lacks batches is none yet: the run that scores the others is under way, or failed by itself."""
    about = _metadata(record)
    cases = int(about.get("cases") or 0)
    if not cases or about.get("missing_batches") not in (None, "none"):
        return None
    passed = cases - int(about["failed_cases"]) - int(about["unmeasured_cases"])
    low, high = wilson_interval(passed, cases) or (0.0, 1.0)
    reasons = {str(name): int(count) for name, count in (about.get("unmeasured_reasons") or {}).items()}
    missed = sum(reasons.values())
    means = [f"{name}={value}" for name, value in sorted(about.items()) if name.startswith("mean_")]
    evidence = " ".join([str(about.get("dataset_digest")), f"{passed}/{cases}", *means])
    return Reported(
        id=_told(told_by, "report", about["snapshot"], evidence, reasons),
        dataset=spec.name,
        snapshot=str(about["snapshot"]),
        run_id=record.run_id,
        at=record.timestamp,
        pass_rate=passed / cases,
        low=low,
        high=high,
        coverage=float(about["coverage"]),
        threshold=settings.alert_pass_rate if spec.alert_pass_rate is None else spec.alert_pass_rate,
        min_coverage=settings.gate_min_coverage,
        evidence=evidence,
        language=str(about.get("language", "en")),
        budget_spent=bool(reasons.get(Reason.BUDGET.value)),
        judge_down=sum(reasons.get(name, 0) for name in JUDGE_FAULTS) > missed / 2,
        history=history,
    )


def _compared(spec: DatasetSpec, record: dg.EventLogRecord, history: bool, told_by: str) -> Compared | None:
    about = _metadata(record)
    if "not_worse" not in about:
        return None
    evidence = str(about.get("evidence") or record.run_id)
    return Compared(
        id=_told(told_by, "verdict", about["snapshot"], evidence, about["not_worse"]),
        dataset=spec.name,
        snapshot=str(about["snapshot"]),
        run_id=record.run_id,
        at=record.timestamp,
        outcome=str(about["not_worse"]),
        p_value=about.get("worse_p_value"),
        sentence=redacted(str(about.get("not_worse_because", "")))[:300],
        evidence=evidence,
        comparable=bool(about.get("comparable", True)),
        history=history,
    )


def _failed_runs(instance: dg.DagsterInstance, specs: Sequence[DatasetSpec], since: float) -> Iterator[RunFailed]:
    """Runs of an evaluation that ended without its report, and are not tried again."""
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, UTC))
    for record in instance.get_run_records(wanted, limit=FAILED_RUNS):
        run = record.dagster_run
        outer = instance.get_run_by_id(around) if (around := outer_run(run)) else None
        if any(one.tags.get("dagster/will_retry") == "true" for one in (run, outer) if one):
            continue
        if outer and outer.status in CANCELED:  # by a person, who knows
            continue
        ended = record.end_time or record.update_timestamp.timestamp()
        started = record.start_time or record.create_timestamp.timestamp()
        for spec, why, judge_down in _lost(instance, specs, run):
            snapshot = snapshot_of(run.tags.get(PARTITION) or run.tags.get(RANGE_END) or "")
            yield RunFailed(
                id=f"{run.run_id}:{spec.name}:failed",
                dataset=spec.name,
                run_id=run.run_id,
                at=ended,
                started=started,
                why=redacted(why)[:300],
                judge_down=judge_down,
                history=bool(snapshot) and _is_history(spec, run, snapshot),
            )


def _lost(
    instance: dg.DagsterInstance, specs: Sequence[DatasetSpec], run: dg.DagsterRun
) -> Iterator[tuple[DatasetSpec, str, bool]]:
    """(dataset, why, whether it was the judge) of the datasets that a failed run did not evaluate."""
    if run.job_name in (ALL_DATASETS_JOB, DAILY_JOB) and not run.asset_selection:
        told = not_begun(instance, run.run_id)
        for spec in specs:
            if told is None:  # it broke down itself: whoever has no report since then was not evaluated
                yield spec, why_failed(instance, run.run_id)[0] or "", False
            elif spec.name in told:
                yield spec, told[spec.name], False
        return
    nouns = {key.path[0] for key in run.asset_selection or () if key.path[-1] in ("cases", "scores", "report")}
    for spec in specs:
        mine = spec.name in nouns if run.asset_selection else run.job_name == evaluation_job_name(spec.name)
        why, judge_down = why_failed(instance, run.run_id) if mine else (None, False)
        if why is not None:
            yield spec, why, judge_down
