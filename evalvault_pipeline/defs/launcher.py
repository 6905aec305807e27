"""The run launcher of `dagster.yaml`: Dagster's own, which besides can tell whether a run's worker is still alive.

Dagster's run monitoring asks it, and ends what has lost its worker; with the plain launcher such a run stays STARTED for ever.
A worker that is taken for dead and is not, is stopped by its fence (`fencing.py`).
"""

from __future__ import annotations

import json

import dagster as dg
import grpc
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from evalvault_pipeline.defs.fencing import WITHIN_TAG, outer_run
from evalvault_pipeline.defs.in_process_runs import PROCESS_TAG, dead_process

ANSWER_SECONDS = 10


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Launches runs in the code server, as Dagster's default launcher does; `check_run_worker_health` is what it adds."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Alive until the opposite is sure: run monitoring ends a run for every other answer, UNKNOWN too."""
        gone = gone_with_its_run(self._instance, run) or gone_with_its_process(run) or _gone_with_its_server(run)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, gone) if gone else CheckRunHealthResult(WorkerStatus.RUNNING)


def is_executed_elsewhere(run: dg.DagsterRun) -> bool:
    """Whether no launcher has launched it: another run executes it, or a command line."""
    return run.parent_run_id is None and bool({WITHIN_TAG, PROCESS_TAG} & set(run.tags))


def gone_with_its_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """A run inside another one lives in that one's process."""
    if (run_id := outer_run(run)) is None:
        return None
    outer = instance.get_run_by_id(run_id)
    return None if outer and not outer.is_finished else f"run {run_id}, which executed it, has ended"


def gone_with_its_process(run: dg.DagsterRun) -> str | None:
    """A run of a command line names its machine and process; of another machine's processes nothing is known here."""
    process = dead_process(run)
    return f"its process {process} on this machine is gone" if process else None


def _gone_with_its_server(run: dg.DagsterRun) -> str | None:
    """A worker is a child of the code server that launched it. The server that came after it does not know the run."""
    if GRPC_INFO_TAG not in run.tags:
        return None
    server = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(
        host=server.get("host"),
        port=server.get("port"),
        socket=server.get("socket"),
        use_ssl=bool(server.get("use_ssl")),
    )
    request = CanCancelExecutionRequest(run_id=run.run_id)
    try:
        answer = deserialize_value(client.can_cancel_execution(request, timeout=ANSWER_SECONDS), CanCancelExecutionResult)
    except DagsterUserCodeUnreachableError as error:
        # A port is served again when the server is back. A socket belongs to one process, and is never served again.
        refused = isinstance(error.__cause__, grpc.RpcError) and error.__cause__.code() is grpc.StatusCode.UNAVAILABLE
        return "the code server that launched it is gone" if refused and server.get("socket") else None
    return None if answer.can_cancel else "the code server does not know it: its worker died with an earlier server"
