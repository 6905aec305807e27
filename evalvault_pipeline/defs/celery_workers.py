"""Celery as Dagster's engine, with what dagster-celery lacks: a worker that is lost is noticed.

A task that no worker has any more never ends by itself; its run would stay STARTED until it is over its time. Imported only
where Celery is chosen: by EVALVAULT_EXECUTOR=celery, or as the run launcher of dagster.yaml (docs/scaling.md).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dagster as dg
from celery import Celery
from celery.result import AsyncResult
from dagster._core.execution.retries import RetryMode
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CELERY_CONFIG, CeleryExecutor
from dagster_celery.executor import _submit_task as submit_task
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from evalvault_pipeline.defs.fencing import Fence
from evalvault_pipeline.defs.launcher import gone_with_its_process, gone_with_its_run

LOOK_SECONDS = 5.0
ANSWER_SECONDS = 3.0  # how long the workers have to say what they are at
MISSES = 3  # looks in a row at which no worker had a task, before it is lost: a busy one may answer late


class LostWorker(Exception):
    """The worker that had a task is gone; a run that may be retried is started again by Dagster's daemon."""


class Tasks:
    """The tasks of an app that workers have taken, and whether these still have them."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._seen: set[str] = set()
        self._missed: Counter[str] = Counter()

    def is_lost(self, task: AsyncResult[Any]) -> bool:
        """To be asked now and then of a task that is not ready. One that no worker has taken yet is not lost: it waits."""
        try:
            workers = self._app.control.inspect(timeout=ANSWER_SECONDS).active() or {}
            taken = task.id in self._seen or task.state == "STARTED"  # the latter where workers track it (deploy/celery.yaml)
        except Exception:  # noqa: BLE001  of the broker's client: while it is away nothing is known
            return False
        if any(task.id == active["id"] for tasks in workers.values() for active in tasks):
            self._seen.add(task.id)
            self._missed.pop(task.id, None)
        elif taken:
            self._missed[task.id] += 1
        return self._missed[task.id] >= MISSES and not task.ready()


class _WatchedTask:
    """The result of a step's task, as dagster-celery's loop asks for it."""

    def __init__(self, task: AsyncResult[Any], tasks: Tasks, fence: Fence, step: str, give_up: Callable[[], None]) -> None:
        self._task, self._tasks, self._fence, self._step, self._give_up = task, tasks, fence, step, give_up
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._lost = False

    def ready(self) -> bool:
        self._fence.check()
        if self._task.ready():
            return True
        if time.monotonic() >= self._look_at:
            self._lost = self._tasks.is_lost(self._task)
            self._look_at = time.monotonic() + LOOK_SECONDS
        return self._lost

    def get(self) -> Any:
        if self._lost:
            self._give_up()
            raise LostWorker(f"The Celery worker that had {self._step} is gone. What it had scored is kept.")
        return self._task.get()

    def revoke(self) -> None:
        self._task.revoke()


class WatchedCeleryExecutor(CeleryExecutor):
    """Steps as Celery tasks."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        fence = Fence(plan_context.instance, plan_context.dagster_run)
        watch: list[Tasks] = []

        def submit(app: Celery, context: Any, step: Any, *how: Any) -> _WatchedTask:
            if not watch:
                watch.append(Tasks(app))
            # The lost worker cannot give back its place in the pool.
            slots, run_id = context.instance.event_log_storage, context.dagster_run.run_id
            give_up = partial(slots.free_concurrency_slot_for_step, run_id, step.key)
            return _WatchedTask(submit_task(app, context, step, *how), watch[0], fence, step.key, give_up)

        found: Iterator[dg.DagsterEvent] = core_celery_execution_loop(plan_context, execution_plan, step_execution_fn=submit)
        return found


@dg.executor(name="celery", config_schema=CELERY_CONFIG, requirements=dg.multiple_process_executor_requirements())
def celery_executor(context: dg.InitExecutorContext) -> WatchedCeleryExecutor:
    config: dict[str, Any] = dict(context.executor_config)
    return WatchedCeleryExecutor(
        broker=config.get("broker"),
        backend=config.get("backend"),
        include=config.get("include"),
        config_source=config.get("config_source"),
        retries=RetryMode.from_config(config["retries"]),
    )


class WatchedCeleryRunLauncher(CeleryRunLauncher):
    """Whole runs as Celery tasks."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._tasks = Tasks(self.celery)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Alive until the opposite is sure: run monitoring ends a run for every other answer, UNKNOWN too."""
        gone = gone_with_its_run(self._instance, run) or gone_with_its_process(run)
        if gone is None and DAGSTER_CELERY_TASK_ID_TAG in run.tags:
            told = super().check_run_worker_health(run)
            if told.status in (WorkerStatus.SUCCESS, WorkerStatus.FAILED):
                return told
            if self._tasks.is_lost(self.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])):
                gone = "the Celery worker that had it is gone"
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, gone) if gone else CheckRunHealthResult(WorkerStatus.RUNNING)
