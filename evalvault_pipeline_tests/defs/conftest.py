"""A small project for Dagster: a catalog with one dataset, whose snapshots the tests write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.plan.state import KnownExecutionState

from evalvault_pipeline.cases.catalog import Catalog, DatasetSpec, load_catalog
from evalvault_pipeline.defs.build import build_definitions
from evalvault_pipeline.defs.partitions import RANGE_END, RANGE_START, register_snapshot
from evalvault_pipeline.publishing.tables import ResultsFolder
from evalvault_pipeline.settings import Settings

CATALOG = """
[datasets.demo]
files = "datasets/demo/*"
language = "en"
metrics = ["exact_match", "number_consistency"]
batch_size = 2
"""


def cases_of(count: int, *, bad: int = 0) -> list[dict[str, Any]]:
    """`count` cases, the first `bad` of which fail."""
    return [
        {
            "id": f"c{number}",
            "question": f"What is the limit of plan {number}?",
            "answer": f"The limit is {number + (1 if number <= bad else 0)} dollars.",
            "contexts": [f"Plan {number} has a limit of {number} dollars."],
            "ground_truth": f"The limit is {number} dollars.",
        }
        for number in range(1, count + 1)
    ]


class Project:
    """A project folder and its definitions."""

    def __init__(self, folder: Path, settings: Settings, instance: dg.DagsterInstance, catalog: str = CATALOG) -> None:
        self.folder, self.settings, self.instance = folder, settings, instance
        (folder / "datasets" / "demo").mkdir(parents=True)
        (folder / "catalog.toml").write_text(catalog, encoding="utf-8")

    @property
    def catalog(self) -> Catalog:
        return load_catalog(self.folder / "catalog.toml")

    @property
    def spec(self) -> DatasetSpec:
        return self.catalog.dataset("demo")

    @property
    def definitions(self) -> dg.Definitions:
        return build_definitions(self.settings, self.catalog)

    @property
    def results(self) -> ResultsFolder:
        return ResultsFolder(root=self.settings.results_dir, dataset="demo")

    def write(self, snapshot: str, cases: list[dict[str, Any]], **header: Any) -> Path:
        file = self.folder / "datasets" / "demo" / f"{snapshot}.json"
        file.write_text(json.dumps({"test_cases": cases, **header}), encoding="utf-8")
        return file

    def register(self, snapshot: str) -> list[str]:
        return register_snapshot(self.instance, self.spec, snapshot).snapshot.batch_keys

    def run(self, tags: dict[str, str], job: str = "demo_evaluation_job") -> dg.ExecuteInProcessResult:
        found = self.definitions.resolve_job_def(job)
        return found.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)

    def retry(self, run_id: str, *, whole: bool = False, **changed: str) -> dg.DagsterRun:
        """What the daemon or "Re-execute" of the UI makes of a run: only what failed, or the whole. `changed` are tags."""
        parent = self.instance.get_run_by_id(run_id)
        assert parent is not None
        steps, state = (None, None) if whole else KnownExecutionState.build_resume_retry_reexecution(self.instance, parent)
        job = self.definitions.resolve_job_def(parent.job_name)
        run = self.instance.create_run_for_job(
            job,
            tags={**{key: value for key, value in parent.tags.items() if key in (RANGE_START, RANGE_END)}, **changed},
            parent_run_id=parent.run_id,
            root_run_id=parent.root_run_id or parent.run_id,
            execution_plan=create_execution_plan(job, step_keys_to_execute=steps, known_state=state),
        )
        execute_run(InMemoryJob(job), run, self.instance)
        done = self.instance.get_run_by_id(run.run_id)
        assert done is not None
        return done

    def report(self, snapshot: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.results.results_file(snapshot).read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="session")
def empty_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The databases of an instance that has seen nothing, made once: they take longer than many a test."""
    folder = tmp_path_factory.mktemp("dagster")
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        assert instance.get_runs_count() == len(instance.all_asset_keys()) == len(list(instance.all_instigator_state())) == 0
    return folder


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory, empty_history: Path) -> Iterator[dg.DagsterInstance]:
    folder = shutil.copytree(empty_history, tmp_path_factory.mktemp("instance"), dirs_exist_ok=True)
    with dg.instance_for_test(temp_dir=str(folder)) as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> Project:
    return Project(tmp_path, settings, instance)
