"""The commands that keep production safe: `backup`, `restore`. Thin, as cli.py is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalvault_pipeline.console import new_console
from evalvault_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from rich.console import Console

    from evalvault_pipeline.backups.archive import Manifest, Owner
    from evalvault_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(backup)
    app.command()(restore)


def backup(
    to: Annotated[Path | None, typer.Option("--to", help="Folder of backups, over EVALVAULT_BACKUPS_DIR.")] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Delete older ones as EVALVAULT_BACKUP_KEEP does; with --to none is, by default."),
    ] = None,
) -> None:
    """Back up scores, runs, catalog, snapshots, baselines and results, as one file, while the pipeline runs."""
    from evalvault_pipeline.backups.backup import make_backup
    from evalvault_pipeline.backups.folder import folder_of_backups

    settings = _settings()
    folder = folder_of_backups(to or settings.backups_dir)
    from evalvault_pipeline.defs.backups import dagster_sources_here  # Dagster takes seconds to import

    kept = keep or (settings.backup_keep if to is None else None)
    made = make_backup(settings, folder, dagster=dagster_sources_here(), keep=kept)
    console = new_console()
    size = made.file.stat().st_size
    console.print(f"backup:  {made.file}, {size / 1e6:,.1f} MB in {made.seconds:.1f} s", soft_wrap=True)
    _print_parts(made.manifest, console)
    for old in made.deleted:
        console.print(f"deleted: {old}", soft_wrap=True)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    to: Annotated[Path | None, typer.Option("--to", help="The folder that takes the place of `data`.")] = None,
    store_url: Annotated[
        str | None, typer.Option("--store-url", help="Postgres database for the score store, without a password.")
    ] = None,
    dagster_url: Annotated[
        str | None, typer.Option("--dagster-url", help="Postgres database for Dagster's runs, without a password.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take the place of what is there; it is kept, folder and databases, as `before-<time>`."),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the backup, and say what it holds.")] = False,
) -> None:
    """Restore a backup, or check it. Stop the daemon, the webserver and all runs first."""
    from evalvault_pipeline.backups.archive import DAGSTER_DUMP, STORE_DUMP
    from evalvault_pipeline.backups.restore import check_backup, restore_backup
    from evalvault_pipeline.settings import dagster_postgres

    console = new_console()
    if check:
        manifest = check_backup(file)
        console.print(f"whole:   {file}, of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
        _print_parts(manifest, console)
        return
    if to is None:
        raise typer.BadParameter("say where: --to data; or only --check the backup")
    urls = {STORE_DUMP: store_url, DAGSTER_DUMP: dagster_url}
    server = None
    if "PGPASSWORD" not in os.environ and any(urls.values()):
        with suppress(PipelineError):  # it may be another server; ~/.pgpass is looked into anyway
            server = dagster_postgres()
    done = restore_backup(file, to, urls=urls, server=server, force=force)
    console.print(f"restored: {done.folder}, as of {done.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    for part, database in done.databases.items():
        console.print(f"restored: {database}, from {part}", soft_wrap=True)
    _print_parts(done.manifest, console)
    if done.before is not None:
        console.print(f"kept:     {done.before}, what was there before", soft_wrap=True)
    for part, dump in done.dumps_before.items():
        console.print(f"kept:     {dump}, what was in {done.databases[part]} before", soft_wrap=True)


def _print_parts(manifest: Manifest, console: Console) -> None:
    owners: tuple[Owner, ...] = ("score store", "Dagster", "files")
    for owner in owners:
        parts = manifest.of(owner)
        rows = sum(sum((part.rows or {}).values()) for part in parts)
        size = sum(part.size for part in parts) / 1e6
        said = f"{len(parts):,} part{'s' if len(parts) > 1 else ''}, {size:,.1f} MB" + (
            f", {rows:,} rows" if owner != "files" else ""
        )
        inside = manifest.store_in if owner == "score store" else None
        console.print(f"  {owner}: {said if parts else f'in {inside}' if inside else 'none'}", soft_wrap=True)


def _settings() -> Settings:
    from evalvault_pipeline.settings import load_settings

    return load_settings()
