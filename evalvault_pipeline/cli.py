"""`evalvault …`: a thin command line over the same functions that stand behind the Dagster assets.

Every import of weight is inside a command, so that `--help` is quick. Exit codes: 0 fine, 1 the quality gate failed,
2 wrong usage, setting or data, 3 judge or service unreachable, 4 inconclusive, 130 interrupted.
"""

from __future__ import annotations

import re
import signal
import sys
import time
import uuid
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evalvault_pipeline import __version__, cli_check_env, cli_operating, cli_verdicts, cli_watching
from evalvault_pipeline.console import new_console
from evalvault_pipeline.errors import PipelineError, UnknownSnapshot
from evalvault_pipeline.logs import log_context, redact_traceback, without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec
    from evalvault_pipeline.publishing.tracing import JudgeTracer
    from evalvault_pipeline.reporting.report import RunReport
    from evalvault_pipeline.scoring.judging import Progress
    from evalvault_pipeline.settings import Settings

app = typer.Typer(
    name="evalvault",
    help="Score RAG answers in batches and know whether they got worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(help="The dataset catalog (data/catalog.toml).", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
cli_check_env.register(app)
cli_verdicts.register(app)
cli_watching.register(app)
cli_operating.register(app)

RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
Tracker = Literal["phoenix", "none"]
Pii = Literal["redact", "block", "off"]
INTERRUPTED = 130  # by Ctrl-C, 128 and the signal's number; by SIGTERM too

Profile = Annotated[str | None, typer.Option("--profile", help="offline, dev, prod, openai or gguf; over EVALVAULT_PROFILE.")]

Cases = Annotated[int, typer.Option("--cases", min=0, max=20, help="How many of the worst cases to show.")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A dataset: .json, .jsonl, .csv, .tsv, .xlsx or .parquet.")],
    metrics: Annotated[
        str, typer.Option("--metrics", "-m", help="Comma-separated; default: those of the file's dataset in the catalog.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write results.json here.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the report as Markdown here.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=1_000_000, help="Cases per batch; default: by size.")
    ] = None,
    parallel: Annotated[bool, typer.Option("--parallel/--no-parallel", help="Score on every core (from 2,000 cases).")] = True,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.0, max=1.0, help="One threshold for every metric.")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows/--strict", help="Score the good rows and count the bad, or refuse the file.")
    ] = False,
    pii: Annotated[
        Pii | None, typer.Option("--pii", help="Personal data: redact, block or off; over the catalog and EVALVAULT_PII.")
    ] = None,
    fresh: Annotated[str, typer.Option("--fresh", help="Score these metrics again, or `all`; the store is not asked.")] = "",
    budget: Annotated[
        str | None, typer.Option("--budget", help="Stop judging at so much: 5USD, 2Mtok; the rest stays unmeasured.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the judge will cost.")] = False,
    tracker: Annotated[
        Tracker | None, typer.Option("--tracker", help="Where the run is sent; default: phoenix where PHOENIX_ENABLED is set.")
    ] = None,
    phoenix_dataset: Annotated[
        str, typer.Option("--phoenix-dataset", help="Name of the dataset in Phoenix; default: that of the dataset.")
    ] = "",
    phoenix_experiment: Annotated[
        str, typer.Option("--phoenix-experiment", help="Name of the experiment; default: snapshot and dataset.")
    ] = "",
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="An id of your own; an interrupted upload of this run then goes on.")
    ] = None,
    cases: Cases = 10,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A log line per batch.")] = False,
    profile: Profile = None,
) -> None:
    """Score a dataset file: with the judge of the profile, or without one with deterministic metrics."""
    from evalvault_pipeline.evaluate import estimate_file, evaluate_file, record_run, recorded_before
    from evalvault_pipeline.publishing.markdown import report_markdown
    from evalvault_pipeline.publishing.results_file import make_writable, replacing, write_results
    from evalvault_pipeline.publishing.terminal import print_estimate, print_report

    outputs = [path for path in (output, report) if path]
    if len({path.resolve() for path in (file, *outputs)}) <= len(outputs):
        raise typer.BadParameter("the dataset, --output and --report must be different files")
    for path in outputs:
        make_writable(path)
    settings = _settings(profile)
    _log(settings, verbose=verbose)
    console = new_console()
    _say_profile(settings, console)
    if tracker == "none" and (phoenix_dataset or phoenix_experiment):
        raise typer.BadParameter("--phoenix-dataset and --phoenix-experiment need --tracker phoenix")
    if run_id is not None and not RUN_ID.fullmatch(run_id):
        raise typer.BadParameter("--run-id takes 1 to 64 letters, digits, `.`, `_` and `-`")
    tracked = tracker != "none" and bool(tracker or phoenix_dataset or phoenix_experiment or settings.phoenix_enabled)
    spec = _dataset_of(file, settings)
    wanted = metrics.split(",") if metrics else []
    known = wanted or list(spec.metrics if spec else ())
    again = known if fresh.strip() == "all" else [name for name in fresh.split(",") if name]
    if dry_run:
        strict = not skip_bad_rows
        estimated = estimate_file(
            file, settings=settings, spec=spec, metrics=wanted, strict=strict, fresh=again, budget=budget, pii=pii
        )
        print_estimate(estimated, console, judge=settings.profile.judge)
        return
    run_id = run_id or uuid.uuid4().hex
    tracer = _tracer(settings, run_id, spec.name if spec else file.stem) if tracked else None
    with (
        log_context(run=run_id, dataset=spec.name if spec else file.stem),
        tracer or nullcontext(),
        ProgressBar(verbose) as tell,
        evaluate_file(
            file,
            settings=settings,
            spec=spec,
            metrics=wanted,
            batch_size=batch_size,
            parallel=parallel,
            threshold=threshold,
            strict=not skip_bad_rows,
            fresh=again,
            budget=budget,
            run_id=run_id,
            pii=pii,
            tracer=tracer,
            progress=tell,
        ) as result,
    ):
        tell.stop()
        if output:
            write_results(output, result)
        if report:
            with replacing(report) as markdown:
                markdown.write(report_markdown(result))
        before = recorded_before(result, store_url=settings.score_store_url)
        record_run(result, store_url=settings.score_store_url, before=before)
        if tracked:  # when all else is written: nothing of a run is lost because Phoenix does not answer
            traces = tracer.finish() if tracer else None
            result = _tracked(result, settings, phoenix_dataset, phoenix_experiment, traces)
            record_run(result, store_url=settings.score_store_url, before=before)
            if output:
                write_results(output, result)
        print_report(result, console, cases=cases)  # last: what it shows is kept, whatever becomes of the screen
        console.print(_store_line(result, settings.score_store_url), soft_wrap=True)
        console.print(f"run:     {result.info.run_id}", soft_wrap=True)
        phoenix = result.info.notes.get("phoenix", {})
        links = [("phoenix: ", phoenix.get("experiment", {}).get(name)) for name in ("url", "compare_url")]
        for name, written in (("results: ", output), ("report:  ", report), *links):
            if written:
                console.print(f"{name}{written}", soft_wrap=True)


@app.command()
def metrics(
    names: Annotated[list[str] | None, typer.Argument(help="Only these.")] = None,
) -> None:
    """List the metrics: what each needs, costs and measures, and its default threshold."""
    from evalvault_pipeline.publishing.terminal import print_metrics
    from evalvault_pipeline.scoring.metrics import METRICS, metrics_by_name

    print_metrics(metrics_by_name(names) if names else METRICS.values(), new_console())


@app.command()
def explain(
    case_id: Annotated[str, typer.Argument(help="The case's id.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="A results.json; default: the newest with this case in the results folder.")
    ] = None,
) -> None:
    """Show why a case has its scores: statements, verdicts, questions and reasons of the judge."""
    from evalvault_pipeline.publishing.results_file import find_case
    from evalvault_pipeline.publishing.terminal import print_explanation

    file, header, entry = find_case(case_id, results, folder=_settings(None).results_dir)
    console = new_console()
    where = f"{header['dataset_name']} {header['snapshot']}, run {header['run_id']}, judge {header['model_name']}"
    console.print(f"{file}: {where}", soft_wrap=True)
    print_explanation(entry, console)


@app.command()
def doctor(profile: Profile = None) -> None:
    """Check the judge: server, model, context length, an answer, embeddings, price. Exit code 2 or 3 where one fails."""
    from evalvault_pipeline.publishing.terminal import print_examination
    from evalvault_pipeline.scoring.doctor import examine

    settings = _settings(profile)
    console = new_console()
    _say_profile(settings, console)
    findings = examine(settings)
    print_examination(findings, console)
    if failed := [finding.exit_code for finding in findings if not finding.fine]:
        raise typer.Exit(max(failed))


@catalog_app.command("check")
def catalog_check() -> None:
    """Read the catalog and every snapshot in it, and say what is wrong."""
    from evalvault_pipeline.publishing.terminal import print_catalog
    from evalvault_pipeline.reporting.catalog_check import check_catalog

    settings = _settings(None)
    console = new_console()
    _say_profile(settings, console)
    states = list(check_catalog(_catalog(settings)))
    print_catalog(states, console, title=str(settings.catalog))
    if any(state.problem for state in states):
        raise typer.Exit(2)


@app.command()
def backfill(
    dataset: Annotated[str, typer.Argument(help="A dataset of the catalog.")],
    start: Annotated[str | None, typer.Option("--from", help="First snapshot; default: the oldest.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last snapshot; default: the newest.")] = None,
    cases: Cases = 10,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log lines.")] = False,
    profile: Profile = None,
) -> None:
    """Score a dataset's snapshots through Dagster, one report each; the UI shows them.

    Exit code 1: a snapshot's pass rate is below the minimum; 2 or 3: a snapshot could not be scored.
    """
    from datetime import UTC, datetime

    from evalvault_pipeline.defs.build import build_definitions
    from evalvault_pipeline.defs.in_process_runs import BACKFILL_TAG, dagster_instance, evaluate_snapshot
    from evalvault_pipeline.defs.jobs import evaluation_job_name
    from evalvault_pipeline.evaluate import summarize_snapshot
    from evalvault_pipeline.publishing.tables import ResultsFolder
    from evalvault_pipeline.publishing.terminal import print_report

    settings = _settings(profile)
    _log(settings, verbose=verbose)
    console = new_console()
    _say_profile(settings, console)
    catalog = _catalog(settings)
    spec = catalog.dataset(dataset)
    known = list(spec.snapshots())
    for name in (start, end):
        if name is not None:
            spec.snapshot_file(name)
    chosen = [name for name in known if (start is None or name >= start) and (end is None or name <= end)]
    if not known:
        raise UnknownSnapshot(dataset, end or start or "", known=known, where=str(spec.folder / spec.files))
    if not chosen:
        raise typer.BadParameter(f"no snapshot of {dataset} lies from {start} to {end}; there are: {', '.join(known)}")
    failed: list[str] = []
    exit_code, last = 0, None
    job = build_definitions(settings, catalog).resolve_job_def(evaluation_job_name(dataset))
    with dagster_instance() as instance:
        for snapshot in chosen:
            outcome = evaluate_snapshot(instance, spec, snapshot, job=job, tags={BACKFILL_TAG: "true"})
            console.print(outcome.line, soft_wrap=True)
            if outcome.exit_code:
                failed.append(snapshot)
            exit_code = max(exit_code, outcome.exit_code)
            last = outcome if outcome.reported else last
    if last is not None:
        folder = ResultsFolder(root=settings.results_dir, dataset=dataset)
        report = summarize_snapshot(folder, last.snapshot, run_id=last.run_id, started_at=datetime.now(UTC))
        print_report(report, console, cases=cases)
        console.print(_store_line(report, settings.score_store_url), soft_wrap=True)
        console.print(f"results: {folder.results_file(last.snapshot)}", soft_wrap=True)
        console.print(f"report:  {folder.markdown_file(last.snapshot)}", soft_wrap=True)
    if failed:
        console.print(f"failed: {', '.join(failed)}", soft_wrap=True)
        raise typer.Exit(exit_code)


@app.command()
def webserver(
    host: Annotated[str, typer.Option("--host", help="Address that is bound; 0.0.0.0: every one. Needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")] = 3000,
    read_only: Annotated[bool, typer.Option("--read-only", help="For viewers: nothing can be launched or deleted.")] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="Run Dagster's daemon too: schedules, sensors, queued runs.")
    ] = False,
    workspace: Annotated[Path, typer.Option("--workspace", help="Which code location is shown.")] = Path("workspace.yaml"),
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log lines.")] = False,
) -> None:
    """Serve the Dagster UI behind EVALVAULT_API_KEY, until it is ended. Dagster's own webserver asks nobody for a key."""
    from evalvault_pipeline.defs.webserver import serve_webserver

    settings = _settings(None)
    _log(settings, verbose=verbose)
    console = new_console()

    def started(url: str, key: bool) -> None:
        who = "log in with EVALVAULT_API_KEY" if key else "no key is set: everybody on this machine may use it"
        console.print(f"webserver: {url} ({who}{'; read-only' if read_only else ''})", soft_wrap=True)

    serve_webserver(settings, host=host, port=port, workspace=workspace, read_only=read_only, daemon=daemon, started=started)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """The console script: one line per error, and the exit code that goes with it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks a character shows `?`
    redact_traceback()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a container or CI job that is stopped: as Ctrl-C
    try:
        app()
    except PipelineError as error:
        from evalvault_pipeline.cases.redaction import redacted

        print(f"evalvault: {redacted(without_secrets(str(error)))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            kept = "What was scored, and what the judge answered, is kept: run the same command again."
            print(f"evalvault: interrupted. {kept}", file=sys.stderr)
        raise


def _settings(profile: str | None) -> Settings:
    from evalvault_pipeline.settings import load_settings

    overrides: dict[str, Any] = {"EVALVAULT_PROFILE": profile} if profile else {}
    return load_settings(**overrides)


def _log(settings: Settings, *, verbose: bool) -> None:
    """Log as the settings say, without secrets and without what a person is known by."""
    from evalvault_pipeline.cases.redaction import redacted
    from evalvault_pipeline.errors import UnwritableFile
    from evalvault_pipeline.logs import configure_logging

    try:
        configure_logging(verbose=verbose, redact=redacted, **settings.log_file_options)
    except OSError as error:
        raise UnwritableFile(f"{settings.logs} cannot be written: {error.strerror or error}. Set EVALVAULT_LOG_FILE.") from None


def _tracer(settings: Settings, run_id: str, dataset: str) -> JudgeTracer | None:
    from evalvault_pipeline.tracking import judge_tracer, phoenix_access

    return judge_tracer(phoenix_access(settings), run_id=run_id, dataset=dataset)


def _tracked(report: RunReport, settings: Settings, dataset: str, experiment: str, traces: dict[str, Any] | None) -> RunReport:
    from evalvault_pipeline.tracking import track_in_phoenix

    tracked, error = track_in_phoenix(report, settings, dataset=dataset, experiment=experiment, traces=traces)
    if error:
        again = f"To send the run later, run the same command with --run-id {report.info.run_id}."
        print(f"evalvault: {error} {again} Nothing is scored or paid twice.", file=sys.stderr)
    return tracked


def _catalog(settings: Settings) -> Catalog:
    from evalvault_pipeline.cases.catalog import load_catalog

    return load_catalog(settings.catalog)


def _dataset_of(file: Path, settings: Settings) -> DatasetSpec | None:
    if "catalog" not in settings.model_fields_set and not settings.catalog.exists():
        return None
    return _catalog(settings).owner_of(file)


def _say_profile(settings: Settings, console: Console) -> None:
    chosen = "" if "profile_name" in settings.model_fields_set else " (default)"
    profile = settings.profile
    judge = f"judge {profile.judge}" if profile.provider else "no judge, LLM metrics stay unmeasured"
    console.print(f"profile {profile.name}{chosen}: {judge}", soft_wrap=True)


def _store_line(report: RunReport, url: str) -> str:
    from evalvault_pipeline.publishing.markdown import cost_text
    from evalvault_pipeline.scoring.database import shown_url

    place, spent, saved = shown_url(url), report.spent, report.saved
    judged = f"; the judge took {cost_text(spent)}" if spent.tokens or spent.calls else ""
    kept = f", which had taken {cost_text(saved)}" if saved.tokens else ""
    if not report.computed and report.reused and not judged:
        return f"nothing computed: all {report.reused} scores were in the score store ({place}){kept}"
    return f"{report.computed} scores computed, {report.reused} taken from the score store ({place}){kept}{judged}"


class ProgressBar:
    """A progress bar on standard error; where that is no terminal, a line now and then; none beside `--verbose`."""

    LINE_SECONDS = 30.0

    def __init__(self, verbose: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[judge]}"),
        )
        self._shown = console.is_terminal and not verbose
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._shown)
        self._task: Any = None
        self._line_due = time.monotonic() + self.LINE_SECONDS

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __call__(self, state: Progress, total: int) -> None:
        judge = ""
        if state.calls or state.in_flight:
            dollars = "" if state.dollars is None else f", ${state.dollars:.2f}"
            judge = f"{state.calls} calls, {state.in_flight} in flight, {state.tokens:,} tokens{dollars}"
        if not self._shown:
            if judge and time.monotonic() >= self._line_due:
                self._line_due = time.monotonic() + self.LINE_SECONDS
                print(f"scored {state.cases} of {total} cases: {judge}", file=sys.stderr, flush=True)
            return
        if self._task is None:
            self._task = self._bar.add_task("scoring", total=total, judge=judge)
        self._bar.update(self._task, completed=state.cases, judge=judge)

    def stop(self) -> None:
        self._bar.stop()


if __name__ == "__main__":
    main()
