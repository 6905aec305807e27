"""Whether a run's worker is taken for dead, where no code server has to be asked for it; a real one is killed in test_drill.py."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from evalvault_pipeline.defs.alerts import observations
from evalvault_pipeline.defs.fencing import WITHIN_TAG, Fence
from evalvault_pipeline.defs.in_process_runs import PROCESS_TAG
from evalvault_pipeline.defs.launcher import WatchedRunLauncher
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.defs.conftest import Project
from evalvault_pipeline_tests.stack import free_port


@pytest.fixture
def launcher(project: Project) -> WatchedRunLauncher:
    found = WatchedRunLauncher()
    found.register_instance(project.instance)
    return found


def health(launcher: WatchedRunLauncher, project: Project, **tags: str) -> tuple[WorkerStatus, str]:
    job = project.definitions.resolve_job_def("register_snapshots_job")
    found = launcher.check_run_worker_health(project.instance.create_run_for_job(job, tags=tags))
    return found.status, found.msg or ""


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_run_monitoring_can_ask_it(launcher: WatchedRunLauncher) -> None:
    assert launcher.supports_check_run_worker_health


def test_a_run_of_which_nothing_is_known_counts_as_alive(launcher: WatchedRunLauncher, project: Project) -> None:
    assert health(launcher, project) == (WorkerStatus.RUNNING, "")


def test_a_run_of_a_command_line_is_as_alive_as_its_process(launcher: WatchedRunLauncher, project: Project) -> None:
    here, gone = platform.node(), dead_process()
    assert health(launcher, project, **{PROCESS_TAG: f"{here}:{os.getpid()}"})[0] is WorkerStatus.RUNNING
    status, why = health(launcher, project, **{PROCESS_TAG: f"{here}:{gone}"})
    assert (status, why) == (WorkerStatus.NOT_FOUND, f"its process {gone} on this machine is gone")
    assert health(launcher, project, **{PROCESS_TAG: f"another-machine:{gone}"})[0] is WorkerStatus.RUNNING


def test_a_run_inside_another_one_lives_and_ends_with_it(launcher: WatchedRunLauncher, project: Project) -> None:
    outer = project.instance.create_run_for_job(project.definitions.resolve_job_def("all_datasets_evaluation_job"))
    assert health(launcher, project, **{WITHIN_TAG: outer.run_id})[0] is WorkerStatus.RUNNING
    project.instance.report_run_failed(outer)
    status, why = health(launcher, project, **{WITHIN_TAG: outer.run_id})
    assert status is WorkerStatus.NOT_FOUND and outer.run_id in why


def test_who_executes_such_a_run_again_does_not_die_with_it(launcher: WatchedRunLauncher, project: Project) -> None:
    """Dagster copies the tags to the new run, which is executed alone and in another process."""
    job = project.definitions.resolve_job_def("register_snapshots_job")
    outer = project.instance.create_run_for_job(job)
    project.instance.report_run_failed(outer)
    tags = {WITHIN_TAG: outer.run_id, PROCESS_TAG: f"{platform.node()}:{dead_process()}"}
    first = project.instance.create_run_for_job(job, tags=tags)
    again = project.instance.create_run_for_job(job, tags=tags, parent_run_id=first.run_id, root_run_id=first.run_id)
    assert launcher.check_run_worker_health(first).status is WorkerStatus.NOT_FOUND
    assert launcher.check_run_worker_health(again).status is WorkerStatus.RUNNING
    Fence(project.instance, again).check()


def test_a_code_server_that_does_not_answer_is_waited_for_at_its_port_and_not_at_its_socket(
    launcher: WatchedRunLauncher, project: Project, tmp_path: Path
) -> None:
    """Its container may come back at the same address; the socket of a local one belongs to a process."""
    at_a_port = json.dumps({"host": "127.0.0.1", "port": free_port()})
    assert health(launcher, project, **{GRPC_INFO_TAG: at_a_port})[0] is WorkerStatus.RUNNING
    at_a_socket = json.dumps({"host": "localhost", "socket": str(tmp_path / "gone.sock")})
    status, why = health(launcher, project, **{GRPC_INFO_TAG: at_a_socket})
    assert (status, why) == (WorkerStatus.NOT_FOUND, "the code server that launched it is gone")


def test_a_run_inside_another_one_that_is_retried_alerts_nobody(project: Project) -> None:
    """Its process died, and so did that of the run around it, which Dagster starts again."""
    job = project.definitions.resolve_job_def("demo_evaluation_job")
    outer = project.instance.create_run_for_job(project.definitions.resolve_job_def("all_datasets_evaluation_job"))
    inner = project.instance.create_run_for_job(job, tags={WITHIN_TAG: outer.run_id})
    for run in (outer, inner):
        project.instance.report_run_failed(run)

    def failed() -> list[tuple[str, str]]:
        observed, _ = observations(project.instance, [project.spec], project.settings, cursor={"since": 0.0}, now=0.0)
        return sorted((one.dataset, one.run_id) for one in observed)

    assert failed() == sorted([("demo", outer.run_id), ("demo", inner.run_id)]), "each once; an incident is told once"
    project.instance.add_run_tags(outer.run_id, {"dagster/will_retry": "true"})
    assert failed() == []


def test_the_instances_of_the_project_use_it() -> None:
    for file in ("dagster.yaml", "deploy/dagster.yaml"):
        text = (PROJECT / file).read_text(encoding="utf-8")
        assert "evalvault_pipeline.defs.launcher" in text and WatchedRunLauncher.__name__ in text
    assert issubclass(WatchedRunLauncher, dg.DefaultRunLauncher)
