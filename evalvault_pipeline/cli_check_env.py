"""`evalvault check-env`: thin, as cli.py is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evalvault_pipeline.console import new_console

if TYPE_CHECKING:
    from rich.console import Console

    from evalvault_pipeline.check_env import EnvironmentCheck


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("check-env")(check_env)


def check_env(
    profile: Annotated[
        str | None, typer.Option("--profile", help="offline, dev, prod, openai or gguf; over EVALVAULT_PROFILE.")
    ] = None,
) -> None:
    """Say what is set, from where (secrets masked), what is missing and how to mend it; then the exit code is 2."""
    from evalvault_pipeline.check_env import check_environment

    found = check_environment(options={"EVALVAULT_PROFILE": profile} if profile else {})
    _print(found, new_console())
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _print(found: EnvironmentCheck, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"profile {found.profile}: judge {found.judge}; settings file: {found.file or 'none'}", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("variable", "value", "source"):
        table.add_column(column, overflow="fold", no_wrap=column == "variable")
    for row in found.rows:
        table.add_row(row.variable, row.value, Text(row.source, style="dim" if row.source == "default" else ""))
    console.print(table)
    console.print()
    for finding in found.findings:
        style = {"missing": "red", "advice": "yellow"}.get(finding.state, "")
        console.print(Text(f"{finding.state:8} {finding.area + ':':10} {finding.said}", style=style), soft_wrap=True)
