"""Kubernetes as Dagster's run launcher, without the runs that it would end by mistake.

dagster-k8s takes a run without a pod of its own for dead, such as one inside another run or of a command line; and any run
while the API of the cluster does not answer. Imported only where dagster.yaml names it (deploy/kubernetes/values.yaml).
"""

from __future__ import annotations

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher

from evalvault_pipeline.defs.launcher import gone_with_its_process, gone_with_its_run, is_executed_elsewhere


class WatchedK8sRunLauncher(K8sRunLauncher):
    """A pod for each run."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Alive until the opposite is sure: run monitoring ends a run for every other answer, UNKNOWN too."""
        if gone := gone_with_its_run(self._instance, run) or gone_with_its_process(run):
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, gone)
        if is_executed_elsewhere(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        told: CheckRunHealthResult = super().check_run_worker_health(run)
        if told.status is not WorkerStatus.UNKNOWN:
            return told
        is_gone = (told.msg or "").endswith("could not be found")  # else the API did not answer
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND if is_gone else WorkerStatus.RUNNING, told.msg)
