"""Where the steps of a run are executed, chosen by EVALVAULT_EXECUTOR; the same code everywhere.

Scoring is one step with many calls in flight, so a run is spread over machines as several runs, not as several steps
(docs/scaling.md).
"""

from __future__ import annotations

from typing import Literal

import dagster as dg

from evalvault_pipeline.settings import CELERY_VARIABLES, require_executor

Executor = Literal["in_process", "multiprocess", "celery", "k8s"]


def executor_named(name: Executor) -> dg.ExecutorDefinition:
    """Raises InvalidSetting where its package or a variable of its is missing."""
    require_executor(name)
    match name:
        case "multiprocess":
            return dg.multiprocess_executor
        case "celery":
            return _celery()
        case "k8s":
            return _kubernetes()
    return dg.in_process_executor


def _celery() -> dg.ExecutorDefinition:
    from evalvault_pipeline.defs.celery_workers import celery_executor

    # By their names: what stands in a definition is kept in Dagster's database, and these may hold a password.
    names = dict(zip(("broker", "backend"), CELERY_VARIABLES, strict=True))
    return celery_executor.configured({key: {"env": variable} for key, variable in names.items()}, name="celery")


def _kubernetes() -> dg.ExecutorDefinition:
    from dagster_k8s import k8s_job_executor

    return k8s_job_executor  # image, secrets and resources are those of the run launcher
