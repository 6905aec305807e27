"""`evalvault compare|gate|report|baseline`: what a run means beside another one. Registered in `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evalvault_pipeline.console import new_console

if TYPE_CHECKING:
    from evalvault_pipeline.reporting.gate import GateRules, Verdict
    from evalvault_pipeline.settings import Settings

baseline_app = typer.Typer(
    help="Promoted baselines: the run of a dataset that later ones are held against.", no_args_is_help=True
)

Results = Annotated[Path, typer.Argument(help="A results.json of `evalvault run`.", metavar="RESULTS.json")]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="A results.json, `promoted`, `latest` (the run before), or a run id of the store."),
]
Margin = Annotated[
    float | None, typer.Option("--margin", min=0.0, max=1.0, help="By how much the pass rate may fall: 0.02 is 2 points.")
]
MinPassRate = Annotated[
    float | None, typer.Option("--min-pass-rate", min=0.0, max=1.0, help="Below it, with its whole interval, the gate fails.")
]
MinCoverage = Annotated[
    float | None,
    typer.Option("--min-coverage", min=0.0, max=1.0, help="Measured / wanted scores; below it nothing is decided."),
]
JudgeChange = Annotated[
    bool, typer.Option("--allow-judge-change", help="Compare although another judge, or version of a metric, measured.")
]
Slices = Annotated[str, typer.Option("--slices", help="Comma-separated metadata fields; default: all with 2 to 30 values.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(compare)
    app.command()(gate)
    app.command()(report)
    app.add_typer(baseline_app, name="baseline")


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(help="BASELINE.json RESULTS.json, or RESULTS.json with --baseline.", metavar="[BASELINE] RESULTS"),
    ],
    baseline: Baseline = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here: .md, .json or .html.")] = None,
    slices: Slices = "",
    allow_judge_change: JudgeChange = False,
    margin: Margin = None,
) -> None:
    """Say what changed between two runs over the same cases, by how much, and how sure that is; `gate` decides."""
    from evalvault_pipeline.publishing.terminal import print_comparison
    from evalvault_pipeline.settings import load_settings

    if len(files) + (baseline is not None) != 2:
        raise typer.BadParameter("name two runs: BASELINE.json RESULTS.json, or RESULTS.json and --baseline")
    settings = load_settings()
    rules = _rules(settings, margin=margin, allow_judge_change=allow_judge_change)
    _check_outputs([output], files)
    name = baseline if baseline is not None else str(files[0])
    verdict = _verdict(files[-1], name, settings, rules, slices)
    assert verdict.comparison is not None, "there is a baseline"
    if output:
        _write_comparison(output, verdict, settings)
    console = new_console()
    print_comparison(verdict.comparison, console)
    if output:
        console.print(f"comparison: {output}", soft_wrap=True)


def gate(
    results: Results,
    baseline: Baseline = None,
    min_pass_rate: MinPassRate = None,
    margin: Margin = None,
    min_coverage: MinCoverage = None,
    inconclusive: Annotated[
        Literal["pass", "fail"] | None,
        typer.Option("--inconclusive", help="What an inconclusive verdict counts as; default: exit 4."),
    ] = None,
    allow_judge_change: JudgeChange = False,
    slices: Slices = "",
    verdict_file: Annotated[Path | None, typer.Option("--verdict", help="Write verdict.json here.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a pull request's comment here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file here.")] = None,
    github: Annotated[
        bool | None,
        typer.Option("--github/--no-github", help="Annotations, job summary and outputs; default: in GitHub Actions."),
    ] = None,
) -> None:
    """Decide on a run. Exit code 0: pass, 1: fail, 4: inconclusive; 2: wrong usage, setting or data, 3: no service."""
    from evalvault_pipeline.publishing.github import in_actions, tell_actions
    from evalvault_pipeline.publishing.junit import write_junit
    from evalvault_pipeline.publishing.results_file import replacing
    from evalvault_pipeline.publishing.terminal import print_verdict
    from evalvault_pipeline.publishing.verdict_file import write_verdict
    from evalvault_pipeline.publishing.verdict_markdown import verdict_markdown
    from evalvault_pipeline.settings import load_settings
    from evalvault_pipeline.verdicts import trend_of

    settings = load_settings()
    rules = _rules(
        settings,
        min_pass_rate=min_pass_rate,
        margin=margin,
        min_coverage=min_coverage,
        allow_judge_change=allow_judge_change,
        inconclusive=inconclusive,
    )
    outputs = [verdict_file, junit, markdown, html]
    _check_outputs(outputs, [results, *([Path(baseline)] if baseline else [])])
    for path in outputs:
        if path:
            path.unlink(missing_ok=True)  # where no verdict is reached, that of an earlier run must not stand there
    verdict = _verdict(results, baseline, settings, rules, slices)
    if verdict_file:
        write_verdict(verdict_file, verdict)
    if junit:
        write_junit(junit, verdict)
    if markdown:
        with replacing(markdown) as file:
            file.write(verdict_markdown(verdict) + "\n")
    if html:
        from evalvault_pipeline.publishing.html import write_html

        write_html(html, verdict, trend=trend_of(verdict.run, settings))
    print_verdict(verdict, new_console())
    if in_actions() if github is None else github:
        tell_actions(verdict)
    raise typer.Exit(verdict.exit_code)


def report(
    results: Results,
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the HTML file here.")] = Path("report.html"),
    baseline: Baseline = None,
    language: Annotated[Literal["en", "ko"] | None, typer.Option("--language", help="Default: that of the dataset.")] = None,
    slices: Slices = "",
) -> None:
    """Write a run as one HTML file: verdict, distributions, comparison, trend, slices, cost, cases with evidence."""
    from evalvault_pipeline.publishing.html import write_html
    from evalvault_pipeline.settings import load_settings
    from evalvault_pipeline.verdicts import trend_of

    settings = load_settings()
    _check_outputs([output], [results])
    verdict = _verdict(results, baseline, settings, _rules(settings), slices)
    chosen = language or ("ko" if verdict.run.header.get("language") == "ko" else "en")
    write_html(output, verdict, trend=trend_of(verdict.run, settings), language=chosen)
    new_console().print(f"report: {output}", soft_wrap=True)


@baseline_app.command("set")
def baseline_set(
    run_id: Annotated[str, typer.Argument(help="A run id of the store, or a results.json.")],
    by: Annotated[str | None, typer.Option("--by", help="Who promotes it; default: the user's name.")] = None,
    note: Annotated[str, typer.Option("--note", help="Why.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also a run that stands on a part of its cases.")] = False,
) -> None:
    """Promote a run to be its dataset's baseline; who, when and why is kept."""
    from evalvault_pipeline.publishing.baselines import Baselines
    from evalvault_pipeline.publishing.recorded_runs import read_run
    from evalvault_pipeline.publishing.run_history import RunHistory
    from evalvault_pipeline.settings import load_settings

    settings = load_settings()
    if Path(run_id).suffix == ".json":
        promoted = Baselines(settings.baselines_dir).promote(
            read_run(Path(run_id)), by=by or user_name(), note=note, force=force
        )
    else:
        with RunHistory(settings.score_store_url) as history:
            run = history.find(run_id)
            promoted = Baselines(settings.baselines_dir).promote(run, by=by or user_name(), note=note, force=force)
    instead = f", instead of run {promoted.replaces}" if promoted.replaces else ""
    new_console().print(
        f"baseline: run {promoted.run_id} ({promoted.snapshot}, {promoted.pass_rate:.1%} passed), promoted by "
        f"{promoted.promoted_by}{instead}",
        soft_wrap=True,
    )


@baseline_app.command("show")
def baseline_show(
    dataset: Annotated[str | None, typer.Argument(help="Only this dataset, with its history.")] = None,
) -> None:
    """Say which run is the baseline of a dataset, and who made it so."""
    from evalvault_pipeline.errors import UnknownRun
    from evalvault_pipeline.publishing.baselines import Baselines
    from evalvault_pipeline.settings import load_settings

    baselines = Baselines(load_settings().baselines_dir)
    console = new_console()
    if dataset is not None and not baselines.history(dataset):
        raise UnknownRun(f"No baseline of {dataset} is promoted. Promote one: evalvault baseline set RUN_ID")
    for name in [dataset] if dataset else baselines.datasets():
        for one in reversed(baselines.history(name)) if dataset else baselines.history(name)[-1:]:
            note = f": {one.note}" if one.note else ""
            console.print(
                f"{name} {one.snapshot}: run {one.run_id}, {one.pass_rate:.1%} passed, promoted by {one.promoted_by} "
                f"at {one.promoted_at}{note}",
                soft_wrap=True,
            )
    if dataset is None and not baselines.datasets():
        console.print("no baseline is promoted yet: evalvault baseline set RUN_ID")


def _verdict(results: Path, baseline: str | None, settings: Settings, rules: GateRules, slices: str) -> Verdict:
    from evalvault_pipeline.publishing.recorded_runs import read_run
    from evalvault_pipeline.verdicts import find_baseline, verdict_on

    run = read_run(results)
    found = find_baseline(baseline, run, settings) if baseline is not None else None
    return verdict_on(run, found, rules=rules, slice_keys=slices.split(",") if slices else None)


def _rules(
    settings: Settings,
    *,
    min_pass_rate: float | None = None,
    margin: float | None = None,
    min_coverage: float | None = None,
    allow_judge_change: bool = False,
    inconclusive: str | None = None,
) -> GateRules:
    from evalvault_pipeline.reporting.gate import GateRules, Outcome

    return GateRules(
        min_pass_rate=settings.min_pass_rate if min_pass_rate is None else min_pass_rate,
        margin=settings.margin if margin is None else margin,
        min_coverage=settings.gate_min_coverage if min_coverage is None else min_coverage,
        allow_judge_change=allow_judge_change,
        inconclusive=Outcome(inconclusive) if inconclusive else Outcome.INCONCLUSIVE,
    )


def _check_outputs(outputs: list[Path | None], inputs: list[Path]) -> None:
    from evalvault_pipeline.publishing.results_file import make_writable

    wanted = [path for path in outputs if path]
    if len({path.resolve() for path in (*wanted, *inputs)}) < len(wanted) + len({path.resolve() for path in inputs}):
        raise typer.BadParameter("inputs and outputs must be different files")
    for path in wanted:
        make_writable(path)


def _write_comparison(output: Path, verdict: Verdict, settings: Settings) -> None:
    import json

    from evalvault_pipeline.publishing.results_file import replacing
    from evalvault_pipeline.publishing.verdict_file import comparison_content
    from evalvault_pipeline.publishing.verdict_markdown import comparison_markdown
    from evalvault_pipeline.verdicts import trend_of

    assert verdict.comparison is not None, "there is a baseline"
    if output.suffix == ".html":
        from evalvault_pipeline.publishing.html import write_html

        write_html(output, verdict, trend=trend_of(verdict.run, settings))
        return
    with replacing(output) as file:
        if output.suffix == ".json":
            json.dump(comparison_content(verdict.comparison), file, ensure_ascii=False, indent=2, allow_nan=False)
        else:
            file.write(comparison_markdown(verdict.comparison))
        file.write("\n")


def user_name() -> str:
    import getpass
    import os

    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
