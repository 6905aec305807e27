"""Celery on a real Redis: two worker processes, one of which is killed, and the limit of the judge over all of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.judged_project import CALLS_A_CASE, JudgedProject
from evalvault_pipeline_tests.postgres_server import PostgresServer
from evalvault_pipeline_tests.redis_server import RedisServer
from evalvault_pipeline_tests.stack import BIN, wait_for

pytestmark = pytest.mark.stack
IN_FLIGHT = 4


class Cluster:
    """Postgres, Redis, a judge, and workers that come and go."""

    def __init__(self, folder: Path, postgres: PostgresServer, redis: RedisServer, judge: OpenAIServer) -> None:
        self.postgres, self.judge, self._folder = postgres, judge, folder
        postgres.create("dagster")
        self.project = JudgedProject(
            folder / "project",
            judge,
            datasets=("first", "second"),
            in_flight=IN_FLIGHT,
            DAGSTER_HOME=str(folder / "project"),
            PATH=f"{BIN}:{os.environ['PATH']}",  # dagster-celery starts `celery`
            EVALVAULT_STORE_URL="dagster",
            **postgres.variables("dagster"),
            **redis.variables,
        )
        self._control = Celery(broker=redis.variables["EVALVAULT_CELERY_BROKER"]).control
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker(self, name: str) -> None:
        command = "dagster-celery worker start -A dagster_celery.app -n".split()
        options = ["-y", str(PROJECT / "deploy" / "celery.yaml"), "--", "--concurrency=1"]
        self._workers[name] = self.project.start(*command, name, *options, log=self._folder / f"{name}.log")

    def wait_for_workers(self) -> None:
        assert all(worker.poll() is None for worker in self._workers.values()), self._said()
        wait_for(lambda: len(self._control.ping(timeout=1.0)) == len(self._workers), seconds=120, what=self._said)

    def _said(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in self._folder.glob("*.log"))

    def at_work(self) -> str | None:
        """The worker that has a task."""
        active = self._control.inspect(timeout=1.0).active() or {}
        return next((name.partition("@")[0].removeprefix("dagster-") for name, tasks in active.items() if tasks), None)

    def kill(self, worker: str) -> None:
        process = self._workers.pop(worker)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def status(self, dataset: str) -> list[str]:
        query = f"SELECT status FROM runs WHERE pipeline_name = '{dataset}_evaluation_job' ORDER BY id"
        return [str(status) for (status,) in self.postgres.execute("dagster", query)]

    def stop(self) -> None:
        for name in list(self._workers):
            self.kill(name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("celery")
    (folder / "postgres").mkdir()
    with PostgresServer(folder / "postgres") as postgres, RedisServer(folder) as redis, OpenAIServer() as judge:
        running = Cluster(folder, postgres, redis, judge)
        try:
            for name in ("one", "two"):
                running.start_worker(name)
            for dataset in ("first", "second"):
                for snapshot in ("w1", "w2", "w3"):
                    running.project.write(dataset, snapshot, 20)
            register = "dagster job execute -m evalvault_pipeline.definitions -j register_snapshots_job"
            running.project.run(*register.split())
            running.wait_for_workers()
            yield running
        finally:
            running.stop()


def test_a_worker_that_is_killed_in_the_middle_of_a_batch_is_noticed_and_the_other_one_goes_on(cluster: Cluster) -> None:
    project, judge = cluster.project, cluster.judge
    judge.latency = 0.4
    command = project.job("first", "w1", batches=4)
    log = project.folder / "run.log"
    run = project.start(*command, log=log, EVALVAULT_EXECUTOR="celery")
    wait_for(lambda: judge.answered[CHAT] >= 10, seconds=120, what=lambda: log.read_text(errors="replace")[-3000:])
    worker = wait_for(cluster.at_work, seconds=20)
    cluster.kill(worker)
    assert run.wait(timeout=90) == 1, "a run that has lost its worker does not stay STARTED"
    assert "The Celery worker that had first__scores is gone" in log.read_text(encoding="utf-8")
    judge.latency = 0.0
    project.run(*command, EVALVAULT_EXECUTOR="celery")
    assert cluster.status("first") == ["FAILURE", "SUCCESS"]
    results = project.results("first", "w1")
    assert (results["total_test_cases"], results["coverage"]) == (20, 1.0)
    assert 20 * CALLS_A_CASE <= judge.answered[CHAT] <= 20 * CALLS_A_CASE + IN_FLIGHT
    cluster.start_worker(worker)
    cluster.wait_for_workers()


@pytest.mark.parametrize(("executor", "limit", "snapshot"), [("in_process", 2, "w2"), ("celery", 1, "w3")])
def test_the_limit_of_the_judge_holds_over_processes_and_workers(
    cluster: Cluster, executor: str, limit: int, snapshot: str
) -> None:
    """Two runs at once, each with IN_FLIGHT calls at once: as many of them as the pool lets in."""
    project, judge = cluster.project, cluster.judge
    project.run("dagster", "instance", "concurrency", "set", "judge", str(limit))
    judge.latency, judge.peak_in_flight = 0.3, 0
    commands = [project.job(dataset, snapshot, batches=4) for dataset in ("first", "second")]
    runs = [project.start(*command, EVALVAULT_EXECUTOR=executor) for command in commands]
    assert [run.wait(timeout=180) for run in runs] == [0, 0]
    if limit == 1:
        assert judge.peak_in_flight == IN_FLIGHT
    else:
        assert IN_FLIGHT < judge.peak_in_flight <= limit * IN_FLIGHT
