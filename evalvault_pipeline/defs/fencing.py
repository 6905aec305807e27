"""A worker whose run is over stops: nobody waits for what it would still score, and another may be scoring it already.

A run is over for its worker when it was ended from outside: canceled, or marked as failed because its worker seemed dead. What
it has scored and paid for is kept; a retry takes it from the store.
"""

from __future__ import annotations

import logging
import time

import dagster as dg

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
WITHIN_TAG = "evalvault/within"  # of a run that another run executes in its own process: that other run
OVER = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED}


def outer_run(run: dg.DagsterRun) -> str | None:
    """The run that executes this one in its process. Dagster copies tags to who executes a run again, alone: he has none."""
    return None if run.parent_run_id else run.tags.get(WITHIN_TAG)


class Fence:
    """Asks now and then whether the run of a step is still wanted; one query each CHECK_SECONDS, however often it is called."""

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun, *, every: float | None = None) -> None:
        self._instance, self._every = instance, CHECK_SECONDS if every is None else every
        self._run_ids = [run_id for run_id in (run.run_id, outer_run(run)) if run_id]
        self._ask_at = 0.0

    def check(self, *_: object) -> None:
        """Raises what Dagster raises where a run is ended: it then leaves the run in the state that it was put in."""
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._ask_at = now + self._every
        if run_id := self._over():
            log.warning("run %s was ended from outside: this worker stops, what it has scored is kept", run_id)
            raise dg.DagsterExecutionInterruptedError

    def _over(self) -> str | None:
        """The run that is over; None also where Dagster's database does not answer: then nobody can have ended it there."""
        try:
            return next((run_id for run_id in self._run_ids if self._is_over(run_id)), None)
        except Exception as error:  # noqa: BLE001  of the driver, SQLAlchemy or Dagster
            log.warning("Dagster's database does not say whether this run is still wanted (%s)", type(error).__name__)
            return None

    def _is_over(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        return run is None or run.status in OVER
