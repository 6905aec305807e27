"""1,000 batches as Dagster partitions: time to register them, to backfill them in one run, to open their page in the UI."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import measured, table
from benchmarks.synthetic import write_cases
from evalvault_pipeline_tests.stack import BIN, DagsterDev, UserProject

CATALOG = """
[datasets.large]
files = "datasets/large/*"
language = "ko"
metrics = ["lexical_support", "chrf"]
batch_size = {size}
"""


def run(folder: Path, *, batches: int, batch_size: int = 10) -> str:
    """Measure and return the section as Markdown."""
    project = UserProject(folder / "project", EVALVAULT_PROFILE="offline")
    data = project.folder / "data"
    (data / "catalog.toml").write_text(CATALOG.format(size=batch_size), encoding="utf-8")
    (data / "datasets" / "large").mkdir(parents=True)
    write_cases(data / "datasets" / "large" / "w1.jsonl", batches * batch_size)
    rows: list[list[str]] = []

    def note(name: str, seconds: float, cpu: str = "", memory: str = "") -> None:
        rows.append([name, f"{seconds:.1f} s", cpu, memory])

    module = ["-m", "evalvault_pipeline.definitions"]
    tags = {
        "dagster/asset_partition_range_start": "w1/0001",
        "dagster/asset_partition_range_end": f"w1/{batches:04d}",
    }
    register = [str(BIN / "dagster"), "job", "execute", *module, "-j", "register_snapshots_job"]
    execute = [str(BIN / "dagster"), "job", "execute", *module, "-j", "large_evaluation_job", "--tags", json.dumps(tags)]
    for name, command in [
        (f"register {batches:,} batches (a process of its own)", register),
        ("score and report them in one run (`dagster job execute`)", execute),
        ("the same again: nothing changed", execute),
    ]:
        took = measured(command, cwd=project.folder, environment=project.environment)
        note(name, took.wall, f"{took.cpu:.0f} s", f"{took.peak_mb:.0f} MB")
    dagster = DagsterDev(project)
    try:
        with _page(dagster) as seconds:
            for name, value in seconds.items():
                note(name, value)
    finally:
        dagster.stop()
    report = project.results("large", "w1")
    return "\n".join(
        [
            f"## {batches:,} batches of {batch_size} cases as partitions, SQLite",
            "",
            table(["", "wall", "processor", "peak memory, all processes"], rows),
            "",
            f"The report stands on {len(report['batches']):,} batches and {report['total_test_cases']:,} cases.",
        ]
    )


@contextmanager
def _page(dagster: DagsterDev) -> Iterator[dict[str, float]]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        yield {}
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        found = {}
        for name in ("open the partitions page of the scores in the UI (first time)", "the same again"):
            started = time.monotonic()
            page.goto(f"{dagster.url}/assets/large/scores?view=partitions")
            page.get_by_text("w1/0001", exact=True).first.wait_for()
            page.get_by_text("Materialized (").wait_for()
            found[name] = time.monotonic() - started
        yield found
        browser.close()
