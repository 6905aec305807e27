"""The commands that watch production, and `copy-store`: `status`, `usage`, `alert`, `serve-metrics`. Thin, as cli.py is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evalvault_pipeline.console import new_console

if TYPE_CHECKING:
    from evalvault_pipeline.publishing.alert_book import AlertBook
    from evalvault_pipeline.reporting.incidents import Board, Notice
    from evalvault_pipeline.settings import Settings

SPAN = re.compile(r"(?P<count>\d{1,5})(?P<unit>[mhdw])")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST_MUTE = timedelta(days=366)

alert_app = typer.Typer(help="Incidents: list, mute and acknowledge them, and try the channels.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(status)
    app.command()(usage)
    app.command("serve-metrics")(serve_metrics)
    app.command("copy-store")(copy_store)
    app.add_typer(alert_app, name="alert")


def status() -> None:
    """One screen for the person on call: each dataset's last run, trend, alert state, and what to do next."""
    from evalvault_pipeline.cases.catalog import load_catalog
    from evalvault_pipeline.publishing.alert_book import AlertBook
    from evalvault_pipeline.publishing.run_history import RunHistory
    from evalvault_pipeline.publishing.terminal import print_status
    from evalvault_pipeline.reporting.overview import RUNS_READ, overview

    settings = _settings()
    catalog = load_catalog(settings.catalog)
    now = datetime.now(UTC)
    _say_that_the_store_is_new(settings)
    with RunHistory(settings.score_store_url) as history:
        runs = {name: list(history.headers(since=(now - RUNS_READ).isoformat(), dataset=name)) for name in catalog.datasets}
    with AlertBook(settings.score_store_url) as book:
        board, waiting = book.board(), book.pending(now.timestamp())
    snapshots = {name: spec.snapshots() for name, spec in catalog.datasets.items()}
    lines = overview(snapshots, runs, board, now=now.timestamp())
    print_status(lines, waiting, new_console(), now=now)


def usage(
    since: Annotated[
        str,
        typer.Option(
            "--since",
            help="How far back: 90m, 24h, 7d, 4w, or since when: 2026-11-01, 2026-11-01T10:00+09:00.",
        ),
    ] = "7d",
    by: Annotated[Literal["run", "day", "dataset", "judge"], typer.Option("--by", help="A line for each.")] = "day",
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
) -> None:
    """Say what the judges were asked and what it cost: calls, tokens, dollars, scores from the store."""
    from evalvault_pipeline.publishing.run_history import RunHistory
    from evalvault_pipeline.publishing.terminal import print_usage
    from evalvault_pipeline.reporting.spending import spent_by

    settings = _settings()
    start = _since(since, settings)
    _say_that_the_store_is_new(settings)
    with RunHistory(settings.score_store_url) as history:
        if dataset is not None:
            _refuse_unknown(dataset, history.datasets(), settings)
        headers = history.headers(since=start.astimezone(UTC).isoformat(), dataset=dataset)
        print_usage(spent_by(headers, by, timezone=settings.timezone), new_console(), by=by, since=start)


def serve_metrics(
    host: Annotated[str | None, typer.Option("--host", help="Over EVALVAULT_METRICS_HOST.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Over EVALVAULT_METRICS_PORT.")] = None,
) -> None:
    """Serve /metrics for Prometheus from the score store, until it is ended."""
    from evalvault_pipeline.cases.catalog import load_catalog
    from evalvault_pipeline.publishing.prometheus import serve
    from evalvault_pipeline.secrets import Secret

    settings = _settings()
    load_catalog(settings.catalog)  # one that cannot be read is refused now, not at each scrape
    address, number = host or settings.metrics_host, port or settings.metrics_port
    key = Secret(name="EVALVAULT_API_KEY", sources=settings)
    _say_that_the_store_is_new(settings)
    server = serve(lambda: settings.score_store_url, catalog=settings.catalog, host=address, port=number, api_key=key)
    place = f"[{address}]" if ":" in address else address
    new_console().print(f"metrics: http://{place}:{number}/metrics", soft_wrap=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def copy_store(
    source: Annotated[str, typer.Argument(help="The other store: an SQLite file, or a URL as EVALVAULT_STORE_URL takes it.")],
) -> None:
    """Copy another score store, with its runs and alert states, into the one that EVALVAULT_STORE_URL names.

    What is there already stays. Do it while nothing is scored, or do it again afterwards: only what is missing is copied.
    """
    from evalvault_pipeline.backups import store_copy
    from evalvault_pipeline.scoring.database import shown_url

    target = _settings().score_store_url
    copied = store_copy.copy_store(store_copy.source_url(source), target)
    lines = ", ".join(f"{count:,} {table}" for table, count in copied.items())
    new_console().print(f"copied into {shown_url(target)}: {lines}", soft_wrap=True)


@alert_app.command("test")
def alert_test() -> None:
    """Send a sample message to every channel that is set up. Exit code 3 where one does not take it."""
    from evalvault_pipeline.alerting import channel_problems, channels_of, sample_message, send
    from evalvault_pipeline.errors import InvalidSetting, PipelineError

    settings = _settings()
    channels, problems = channels_of(settings), channel_problems(settings)
    console = new_console()
    if not channels and not problems:
        raise InvalidSetting(
            "No alert channel is set up. Set SLACK_WEBHOOK_URL, SLACK_BOT_TOKEN, SMTP_URL or EVALVAULT_ALERT_WEBHOOK_URL."
        )
    failed = 0
    for channel in channels:
        try:
            send(sample_message(settings), channel, settings)
        except PipelineError as error:
            failed = max(failed, error.exit_code)
            console.print(f"{channel}: {error}", soft_wrap=True)
        else:
            console.print(f"{channel}: sent", soft_wrap=True)
    if problems:
        raise InvalidSetting(" ".join(map(str, problems)))
    if failed:
        raise typer.Exit(failed)


@alert_app.command("list")
def alert_list(
    closed: Annotated[bool, typer.Option("--closed", help="Also those that are over.")] = False,
) -> None:
    """List the open incidents."""
    from evalvault_pipeline.publishing.alert_book import AlertBook
    from evalvault_pipeline.publishing.terminal import print_incidents

    with AlertBook(_settings().score_store_url) as book:
        board = book.board()
    incidents = [one for one in board.incidents.values() if closed or one.closed_at is None]
    print_incidents(incidents, board, new_console(), now=datetime.now(UTC))


@alert_app.command("ack")
def alert_ack(
    incident: Annotated[str, typer.Argument(help="Its id, from the message or `evalvault alert list`.")],
    by: Annotated[str | None, typer.Option("--by", help="Who works on it; default: the user's name.")] = None,
) -> None:
    """Say that somebody works on an incident: no reminder comes until it recovers."""
    from evalvault_pipeline.cli_verdicts import user_name
    from evalvault_pipeline.errors import UnknownRun
    from evalvault_pipeline.publishing.alert_book import AlertBook

    who = by or user_name()
    with AlertBook(_settings().score_store_url) as book:
        if not _acknowledged(book, incident, who, datetime.now(UTC).timestamp()):
            known = ", ".join(one.id for one in book.board().open_incidents) or "none is"
            raise UnknownRun(f"No incident `{incident}` is open. Open: {known}.")
    new_console().print(f"{incident}: acknowledged by {who}", soft_wrap=True)


@alert_app.command("mute")
def alert_mute(
    dataset: Annotated[str, typer.Argument(help="A dataset of the catalog, `backups`, or `all`.")],
    duration: Annotated[str, typer.Option("--for", help="How long: 90m, 24h, 7d, 4w, up to 366d; 0m ends a mute.")] = "24h",
) -> None:
    """Say nothing of a dataset for a while; what is still wrong then is told then."""
    from evalvault_pipeline.cases.catalog import load_catalog
    from evalvault_pipeline.publishing.alert_book import AlertBook
    from evalvault_pipeline.reporting.incidents import BACKUPS

    settings = _settings()
    name = "*" if dataset == "all" else dataset
    if name not in ("*", BACKUPS):
        load_catalog(settings.catalog).dataset(name)
    span = _span(duration)
    if span > LONGEST_MUTE:
        raise typer.BadParameter(f"`{duration}` is more than {LONGEST_MUTE.days} days; mute it again when that time is over")
    now = datetime.now(UTC)
    until = now + span
    with AlertBook(settings.score_store_url) as book:
        _muted(book, name, until.timestamp())
    said = f"muted until {until:%Y-%m-%d %H:%M} UTC" if until > now else "not muted any more"
    new_console().print(f"{dataset}: {said}", soft_wrap=True)


def _acknowledged(book: AlertBook, incident: str, who: str, at: float) -> bool:
    found = False

    def change(board: Board) -> list[Notice]:
        nonlocal found
        found = board.acknowledge(incident, who, at) is not None
        return []

    book.change(change)
    return found


def _muted(book: AlertBook, name: str, until: float) -> None:
    def change(board: Board) -> list[Notice]:
        board.mute(name, until)
        return []

    book.change(change)


def _refuse_unknown(dataset: str, with_runs: list[str], settings: Settings) -> None:
    from evalvault_pipeline.cases.catalog import load_catalog
    from evalvault_pipeline.errors import UnknownRun

    if dataset in with_runs:
        return
    known = {*with_runs, *load_catalog(settings.catalog).datasets}
    if dataset not in known:
        raise UnknownRun(
            f"There is no run of `{dataset}`, and the catalog does not declare it. Known: {', '.join(sorted(known))}."
        )


def _say_that_the_store_is_new(settings: Settings) -> None:
    """Where EVALVAULT_STORE_URL names a file of SQLite that is not there yet: another one may be meant."""
    url = settings.score_store_url
    file = Path(url.removeprefix("sqlite:///").partition("?")[0])
    if url.startswith("sqlite:///") and url != settings.default_store_url and not file.exists():
        told = f"evalvault: there was no score store {file}: this one is new and empty. Is EVALVAULT_STORE_URL right?"
        typer.echo(told, err=True)


def _since(text: str, settings: Settings) -> datetime:
    from zoneinfo import ZoneInfo

    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=ZoneInfo(settings.timezone))
    except ValueError:
        return datetime.now(ZoneInfo(settings.timezone)) - _span(text)


def _span(text: str) -> timedelta:
    found = SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"`{text}` is no span of time; write 90m, 24h, 7d or 4w")
    return timedelta(**{UNITS[found["unit"]]: int(found["count"])})


def _settings() -> Settings:
    from evalvault_pipeline.settings import load_settings

    return load_settings()
