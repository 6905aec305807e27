"""Celery on a real Redis: two worker processes, one of which is killed, and the limit of the judge over all of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from celery import Celery
from dagster._core.launcher.base import WorkerStatus

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.judged_project import CALLS_A_CASE, JudgedProject
from evalvault_pipeline_tests.postgres_server import PostgresServer
from evalvault_pipeline_tests.redis_server import RedisServer
from evalvault_pipeline_tests.stack import BIN, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.long]
IN_FLIGHT = 4
SCALING = (PROJECT / "docs" / "scaling.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Cluster:
    """Postgres, Redis, a judge, and workers that come and go."""

    def __init__(
        self, folder: Path, postgres: PostgresServer, redis: RedisServer, judge: OpenAIServer, *, whole_runs: bool
    ) -> None:
        self.postgres, self.redis, self.judge, self._folder = postgres, redis, judge, folder
        postgres.create("dagster")
        self.project = JudgedProject(
            folder / "project",
            judge,
            datasets=("first", "second"),
            in_flight=IN_FLIGHT,
            DAGSTER_HOME=str(folder / "project"),
            PATH=f"{BIN}:{os.environ['PATH']}",  # dagster-celery starts `celery`
            EVALVAULT_EXECUTOR="in_process" if whole_runs else "celery",
            EVALVAULT_STORE_URL="dagster",
            **postgres.variables("dagster"),
            **redis.variables,
        )
        if whole_runs:
            self._launch_on_workers()
        self._control = Celery(broker=redis.variables["EVALVAULT_CELERY_BROKER"]).control
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker(self, name: str) -> None:
        command = "dagster-celery worker start -A dagster_celery.app -n".split()
        options = ["-y", str(PROJECT / "deploy" / "celery.yaml"), "--", "--concurrency=1"]
        self._workers[name] = self.project.start(*command, name, *options, log=self._folder / f"{name}.log")

    def _launch_on_workers(self) -> None:
        """As docs/scaling.md says, and without a queue, which would need a daemon."""
        file = self.project.folder / "dagster.yaml"
        instance = yaml.safe_load(file.read_text(encoding="utf-8"))
        del instance["concurrency"]["runs"]
        (launcher,) = [block for block in FENCE.findall(SCALING) if block.startswith("run_launcher:")]
        instance.update(yaml.safe_load(launcher))
        instance["run_coordinator"] = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}
        file.write_text(yaml.safe_dump(instance), encoding="utf-8")

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

    def statuses(self) -> list[str]:
        query = "SELECT status FROM runs WHERE pipeline_name <> 'register_snapshots_job' ORDER BY id"
        return [str(status) for (status,) in self.postgres.execute("dagster", query)]

    def stop(self) -> None:
        for name in list(self._workers):
            self.kill(name)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    (tmp_path / "postgres").mkdir()
    with PostgresServer(tmp_path / "postgres") as postgres, RedisServer(tmp_path) as redis, OpenAIServer() as judge:
        running = Cluster(tmp_path, postgres, redis, judge, whole_runs=request.param == "runs")
        try:
            for name in ("one", "two"):
                running.start_worker(name)
            for dataset in ("first", "second"):
                running.project.write(dataset, "w1", 20)
            register = "dagster job execute -m evalvault_pipeline.definitions -j register_snapshots_job"
            running.project.run(*register.split(), EVALVAULT_EXECUTOR="in_process")
            running.wait_for_workers()
            yield running
        finally:
            running.stop()


@pytest.mark.parametrize("cluster", ["steps"], indirect=True)
def test_a_worker_that_is_killed_in_the_middle_of_a_batch_is_noticed_and_others_go_on_within_the_limit_of_the_judge(
    cluster: Cluster,
) -> None:
    """Then two runs at once, each with IN_FLIGHT calls at once, on two workers: the pool of the judge lets in one of them.

    Meanwhile Redis is killed too, and comes back.
    """
    project, judge = cluster.project, cluster.judge
    judge.latency = 0.4
    first, second = (project.materialize(dataset, "w1", batches=4) for dataset in ("first", "second"))
    log = project.folder / "run.log"
    run = project.start(*first, log=log)
    wait_for(lambda: judge.answered[CHAT] >= 10, seconds=120, what=lambda: log.read_text(errors="replace")[-3000:])
    worker = wait_for(cluster.at_work, seconds=120)
    cluster.kill(worker)
    assert run.wait(timeout=180) == 1, "a run that has lost its worker does not stay STARTED"
    assert "The Celery worker that had first__scores is gone" in log.read_text(encoding="utf-8")
    assert cluster.statuses() == ["FAILURE"]
    cluster.start_worker(worker)
    runs = [project.start(*command) for command in (first, second)]
    wait_for(lambda: judge.answered[CHAT] >= 25, seconds=120, what=lambda: f"{judge.answered[CHAT]} calls")
    cluster.redis.kill()
    cluster.redis.start()
    assert [run.wait(timeout=180) for run in runs] == [0, 0]
    assert cluster.statuses() == ["FAILURE", "SUCCESS", "SUCCESS"]
    for dataset in ("first", "second"):
        results = project.results(dataset, "w1")
        assert (results["total_test_cases"], results["coverage"]) == (20, 1.0)
    calls = 2 * 20 * CALLS_A_CASE
    assert calls <= judge.answered[CHAT] <= calls + IN_FLIGHT
    assert judge.peak_in_flight == IN_FLIGHT


@pytest.mark.parametrize("cluster", ["runs"], indirect=True)
def test_a_whole_run_goes_to_a_worker_and_one_whose_worker_was_killed_is_known_to_be_gone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, judge = cluster.project, cluster.judge
    judge.latency = 0.4
    ends = {"start": "w1/0001", "end": "w1/0004"}
    tags = json.dumps({f"dagster/asset_partition_range_{name}": key for name, key in ends.items()})
    launch = f"dagster job launch -m evalvault_pipeline.definitions -j first_evaluation_job --tags '{tags}'"
    project.run(*shlex.split(launch))
    wait_for(lambda: judge.answered[CHAT] >= 10, seconds=120, what=lambda: f"{cluster.statuses()}")
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(str(project.folder)) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name="first_evaluation_job"))

        def health() -> WorkerStatus:
            return instance.run_launcher.check_run_worker_health(run).status

        assert health() is WorkerStatus.RUNNING
        cluster.kill(wait_for(cluster.at_work, seconds=120))
        assert [health() for _ in range(3)] == [WorkerStatus.RUNNING, WorkerStatus.RUNNING, WorkerStatus.NOT_FOUND]
        instance.report_run_failed(run)
    project.run(*shlex.split(launch))
    wait_for(lambda: cluster.statuses() == ["FAILURE", "SUCCESS"], seconds=120, what=lambda: f"{cluster.statuses()}")
    assert project.results("first", "w1")["coverage"] == 1.0
    assert judge.answered[CHAT] <= 20 * CALLS_A_CASE + IN_FLIGHT
