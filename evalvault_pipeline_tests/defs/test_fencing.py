"""A worker whose run was ended from outside stops within seconds, and what it has scored is not paid again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import dagster as dg
import pytest

from evalvault_pipeline.defs import fencing
from evalvault_pipeline.defs.fencing import WITHIN_TAG, Fence
from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline_tests.defs.conftest import Project, cases_of
from evalvault_pipeline_tests.defs.test_judge import Judged, judged, openai  # noqa: F401  fixtures
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.stack import wait_for

IN_FLIGHT = 8


def end_as_failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_failed(run, "run monitoring found no worker")


def end_as_canceled(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_canceled(run, "somebody forced it")


@pytest.mark.parametrize("end", [end_as_failed, end_as_canceled])
def test_a_worker_whose_run_was_ended_stops_within_seconds_and_a_retry_pays_nothing_twice(
    judged: Judged,  # noqa: F811
    openai: OpenAIServer,  # noqa: F811
    end: Callable[[dg.DagsterInstance, dg.DagsterRun], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fencing, "CHECK_SECONDS", 0.5)
    openai.latency = 0.3
    judged.openai(openai, EVALVAULT_MAX_CONCURRENCY=str(IN_FLIGHT))
    project, instance = judged.project, judged.project.instance
    project.write("w1", cases_of(60))
    tags = range_tags(project.register("w1"))
    worker = threading.Thread(target=lambda: project.run(tags))
    worker.start()
    wait_for(lambda: openai.answered[CHAT] >= 20, seconds=120)
    (run,) = instance.get_runs()
    end(instance, run)
    began = time.monotonic()
    worker.join(60)
    seconds, paid = time.monotonic() - began, openai.answered[CHAT]
    assert seconds < 30 and paid < 150, "it would have gone on to all 180"
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    assert ended.status == (dg.DagsterRunStatus.FAILURE if end is end_as_failed else dg.DagsterRunStatus.CANCELED)
    openai.latency = 0.0
    assert project.retry(run.run_id).is_success
    assert project.report("w1")["coverage"] == 1.0
    assert 180 <= openai.answered[CHAT] <= 180 + IN_FLIGHT


def test_a_worker_of_a_run_that_is_wanted_is_left_alone_and_asks_seldom(project: Project) -> None:
    project.write("w1", cases_of(2))
    finished = project.run(range_tags(project.register("w1")))
    run = project.instance.get_run_by_id(finished.run_id)
    assert run is not None
    fence = Fence(project.instance, run, every=0.0)
    fence.check()
    seldom = Fence(project.instance, run, every=60.0)
    seldom.check()
    project.instance.report_run_canceling(run)
    seldom.check()
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        fence.check()


def test_a_run_inside_another_one_ends_with_it(project: Project) -> None:
    project.write("w1", cases_of(2))
    tags = range_tags(project.register("w1"))
    outer = project.instance.create_run_for_job(project.definitions.resolve_job_def("all_datasets_evaluation_job"))
    assert project.run({**tags, WITHIN_TAG: outer.run_id}).success
    project.instance.report_run_failed(outer)
    inner = project.run({**tags, WITHIN_TAG: outer.run_id})
    assert not inner.success


def test_a_run_that_was_deleted_is_not_wanted(project: Project) -> None:
    run = project.instance.create_run_for_job(project.definitions.resolve_job_def("register_snapshots_job"))
    fence = Fence(project.instance, run, every=0.0)
    fence.check()
    project.instance.delete_run(run.run_id)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        fence.check()


def test_a_database_that_does_not_answer_ends_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = project.instance.create_run_for_job(project.definitions.resolve_job_def("register_snapshots_job"))

    def away(_: str) -> None:
        raise ConnectionError

    monkeypatch.setattr(project.instance, "get_run_by_id", away)
    Fence(project.instance, run).check()
