"""From a notice to a message in a channel, in one call: behind the alert job in `defs/alerts.py` and `evalvault alert test`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.errors import ChannelUnavailable, InvalidSetting, PipelineError, UnknownRun
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.publishing.alerts import (
    CASE_TEXT,
    Language,
    Message,
    RunFacts,
    compose,
    compose_digest,
    is_about_report,
    sample,
)
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.email import send_mail
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.publishing.slack import post_by_bot, post_by_webhook
from evalvault_pipeline.publishing.webhook import post_json
from evalvault_pipeline.reporting.comparison import Comparison, compare_runs
from evalvault_pipeline.reporting.incidents import Cause, Kind, Notice
from evalvault_pipeline.reporting.overview import RUNS_READ, overview
from evalvault_pipeline.reporting.recorded import RecordedRun
from evalvault_pipeline.secrets import is_set, read_secret, required_secret
from evalvault_pipeline.settings import Settings

log = logging.getLogger(__name__)

CASES_SHOWN = 3
METRICS_SHOWN = 5
DIGEST_HOURS = 24
CASES_TELL = {Cause.PASS_RATE, Cause.DROP, Cause.BUDGET}  # of what else is wrong, cases say nothing


def channels_of(settings: Settings) -> list[str]:
    """The channels that can be used; their secrets are not read."""
    return [channel for channel, problem in _channels(settings) if not problem]


def channel_problems(settings: Settings) -> list[InvalidSetting]:
    """What the channels lack that are set up by half."""
    return [InvalidSetting(problem) for _, problem in _channels(settings) if problem]


def wrong_addresses(settings: Settings) -> list[str]:
    """What is wrong with the addresses of the channels, which are read for it. Raises PipelineError: one cannot be read."""
    found = []
    for name, schemes, right in (
        ("SLACK_WEBHOOK_URL", ("https", "http"), "https://hooks.slack.com/services/..."),
        ("SMTP_URL", ("smtp", "smtps"), "smtp://user:password@host:587"),
        ("EVALVAULT_ALERT_WEBHOOK_URL", ("https", "http"), "https://host/path"),
    ):
        try:
            secret = read_secret(name, settings)
            parts = urlsplit(secret.get_secret_value() if secret else right)
            fine = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            found.append(f"{name} cannot be used. Write {right}.")
    return found


def _channels(settings: Settings) -> list[tuple[str, str]]:
    """(channel, what it lacks) of those that are set up."""
    found = []
    if is_set("SLACK_BOT_TOKEN", settings):
        lacks = "" if settings.slack_channel else "SLACK_BOT_TOKEN is set, but SLACK_CHANNEL is not. Name the channel's id."
        found.append(("slack-bot", lacks))
    elif is_set("SLACK_WEBHOOK_URL", settings):
        found.append(("slack-webhook", ""))
    if is_set("SMTP_URL", settings):
        nobody = "SMTP_URL is set, but EVALVAULT_ALERT_EMAIL_TO is not. Name who is to be told."
        found.append(("email", "" if settings.alert_email_to else nobody))
    if is_set("EVALVAULT_ALERT_WEBHOOK_URL", settings):
        found.append(("webhook", ""))
    return found


def deliver(notice: str, channel: str, settings: Settings) -> str:
    """Send a notice to a channel, once; what became of it, in words.

    It is noted as delivered after the channel took it: a process killed in between sends it once more. Raises
    ChannelUnavailable where it is to be tried again.
    """
    with AlertBook(settings.score_store_url) as book:
        delivery = book.claim(notice, channel, time.time())
        if delivery is None:
            if any(one.notice.id == notice and one.channel == channel for one in book.pending(time.time())):
                raise ChannelUnavailable("Another process has this message in hand; it is looked at again.")
            return f"{notice} is delivered to {channel} already"
        try:
            reference = send(message_of(delivery.notice, settings), channel, settings, thread=delivery.thread)
        except Exception as error:
            book.failed(delivery, str(error) if isinstance(error, PipelineError) else type(error).__name__)
            raise
        book.delivered(delivery, time.time(), reference)
    return f"{notice} delivered to {channel}"


def send(message: Message, channel: str, settings: Settings, *, thread: str | None = None) -> str | None:
    """Send to one channel; the message's id where the channel has threads. Raises ChannelUnavailable, InvalidSetting."""
    if channel not in channels_of(settings):
        raise InvalidSetting(f"The channel {channel} is not set up any more. Set it up again, or let its messages expire.")
    if channel == "slack-bot":
        assert settings.slack_channel is not None, "the channel is set up"
        token = required_secret("SLACK_BOT_TOKEN", settings)
        return post_by_bot(token, settings.slack_channel, message, thread=thread, api=settings.slack_api_url)
    if channel == "slack-webhook":
        post_by_webhook(required_secret("SLACK_WEBHOOK_URL", settings), message)
    elif channel == "email":
        to = [address.strip() for address in (settings.alert_email_to or "").split(",") if address.strip()]
        send_mail(required_secret("SMTP_URL", settings), message, sender=settings.alert_email_from or to[0], to=to)
    else:
        post_json(required_secret("EVALVAULT_ALERT_WEBHOOK_URL", settings), message)
    return None


def sample_message(settings: Settings) -> Message:
    return sample("ko" if settings.alert_language == "ko" else "en")


def message_of(notice: Notice, settings: Settings) -> Message:
    """The notice with what its run's cases say; what cannot be read is left out."""
    if notice.kind is Kind.DIGEST:
        return _digest(notice, settings)
    run = _run(notice, settings)
    details = RunFacts()
    if run is not None and CASES_TELL & set(notice.causes):
        details = _details(run, notice.facts[notice.datasets[0]].get("last_good") or {}, settings)
    links = {**_links(notice, run, settings), **details.links}
    languages = {facts.get("language") for facts in notice.facts.values()}
    return compose(notice, language=_language(settings, languages), details=replace(details, links=links))


def _language(settings: Settings, languages: set[Any]) -> Language:
    korean = settings.alert_language == "ko" or (settings.alert_language == "auto" and languages == {"ko"})
    return "ko" if korean else "en"


def _run(notice: Notice, settings: Settings) -> RecordedRun | None:
    """The run that the notice is about: that of one dataset's newest report, unless what is wrong is that there is none."""
    if len(notice.datasets) != 1:
        return None
    dataset = notice.datasets[0]
    facts = notice.facts.get(dataset, {})
    if not facts.get("run_id") or not is_about_report(notice, facts):
        return None
    try:
        with RunHistory(settings.score_store_url) as history:
            return history.find(str(facts["run_id"]), dataset=dataset, snapshot=str(facts["snapshot"]))
    except UnknownRun:
        return None


def _details(run: RecordedRun, good: Mapping[str, str], settings: Settings) -> RunFacts:
    """What its cases say, also against another run; where they cannot be compared, what they say alone."""
    other, comparison = None, None
    try:
        other = _other(run, good, settings)
        comparison = compare_runs(other, run) if other is not None else None
    except PipelineError as error:
        log.warning("an alert goes out without a comparison: %s", error)
    newly = list(comparison.newly_failing) if comparison else []
    failed = [name for name, state in zip(run.case_ids, run.decided, strict=True) if state == 0.0]
    return RunFacts(
        fell=_fell(comparison) if comparison else [],
        against=f"{other.header['snapshot']} ({other.run_id[:8]})" if other and comparison else "",
        newly_failing=bool(newly),
        cases=_cases(run, newly or failed),
        links={"experiment": run.phoenix_links["experiment"]} if "experiment" in run.phoenix_links else {},
    )


def _other(run: RecordedRun, good: Mapping[str, str], settings: Settings) -> RecordedRun | None:
    """What a run is held against: the promoted baseline; else the last `good` run; else the run before."""
    dataset = str(run.header["dataset_name"])
    other = Baselines(settings.baselines_dir).find(dataset)
    if other is None:
        with RunHistory(settings.score_store_url) as history:
            try:
                if good:
                    other = history.find(good["run_id"], dataset=dataset, snapshot=good["snapshot"])
                else:
                    other = history.latest(dataset, before=str(run.header["finished_at"]), but=run.run_id)
            except UnknownRun:
                return None
    return None if (other.run_id, other.header["snapshot"]) == (run.run_id, run.header["snapshot"]) else other


def _fell(comparison: Comparison) -> list[tuple[str, float, float]]:
    fell = [
        (one.name, one.baseline, one.candidate)
        for one in comparison.metrics
        if one.baseline is not None
        and one.candidate is not None
        and (one.candidate > one.baseline if one.lower_is_better else one.candidate < one.baseline)
    ]
    return sorted(fell, key=lambda one: -abs(one[1] - one[2]))[:METRICS_SHOWN]


def _cases(run: RecordedRun, names: Sequence[str]) -> list[tuple[str, str]]:
    places = {name: index for index, name in enumerate(run.case_ids)}
    return [(redacted(name)[:60], _told(run, places[name])) for name in names[:CASES_SHOWN]]


def _told(run: RecordedRun, index: int) -> str:
    entry = run.entry(index)
    text = redacted(f"{' '.join(str(entry.get('question', '')).split())} → {' '.join(str(entry.get('answer', '')).split())}")
    return text if len(text) <= CASE_TEXT else f"{text[: CASE_TEXT - 1]}…"


def _links(notice: Notice, run: RecordedRun | None, settings: Settings) -> dict[str, str]:
    links: dict[str, str] = {}
    facts = notice.facts.get(notice.datasets[0], {}) if len(notice.datasets) == 1 else {}
    run_id = facts.get("failed_run") or (run.run_id if run is not None else None)
    if run_id and settings.dagster_url:
        links["run"] = f"{settings.dagster_url}/runs/{run_id}"
    if run is not None:
        page = Path(notice.datasets[0]) / str(facts["snapshot"]) / "report.html"
        if settings.reports_url:
            links["report"] = f"{settings.reports_url}/{page.as_posix()}"
        elif (settings.results_dir / page).exists():
            links["report"] = str(settings.results_dir / page)
    return links


def deliver_digest(settings: Settings, *, now: float) -> list[str]:
    """The day's pass rates, tokens and cost to every channel, once; what became of it, in words.

    A channel that does not take it now is tried again, as with every alert.
    """
    channels = channels_of(settings)
    if not channels:
        return ["No alert channel is set up (docs/alerts.md)"]
    day = f"digest-{datetime.fromtimestamp(now, ZoneInfo(settings.timezone)):%Y-%m-%d}"
    notice = Notice(id=day, incident=day, kind=Kind.DIGEST, at=now, causes=[], datasets=[], facts={}, opened_at=now)
    with AlertBook(settings.score_store_url) as book:
        book.add(notice, channels)
    told = []
    for channel in channels:
        try:
            told.append(deliver(notice.id, channel, settings))
        except PipelineError as error:
            told.append(f"{error} It is tried again.")
    return told


def _digest(notice: Notice, settings: Settings) -> Message:
    """How the catalog's datasets stand that were evaluated in the last hours, and what all runs spent."""
    catalog, now = load_catalog(settings.catalog), datetime.fromtimestamp(notice.at, UTC)
    with RunHistory(settings.score_store_url) as history:
        headers = list(history.headers(since=(now - timedelta(hours=DIGEST_HOURS)).isoformat()))
        names = sorted({str(header["dataset_name"]) for header in headers} & catalog.datasets.keys())
        runs = {name: list(history.headers(since=(now - RUNS_READ).isoformat(), dataset=name)) for name in names}
    with AlertBook(settings.score_store_url) as book:
        board = book.board()
    lines = overview({name: catalog.datasets[name].snapshots() for name in names}, runs, board, now=notice.at)
    language = _language(settings, {header.get("language") for header in headers})
    return compose_digest(notice, lines, headers, board, language=language, timezone=settings.timezone)
