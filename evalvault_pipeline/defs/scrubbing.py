"""What a step fails with is kept in Dagster's database and shown in its UI: so without secrets and personal data.
Its log lines name its run.

Our own errors hold none. A library's may quote a key or a text; it is kept with `[SECRET]` or `[PHONE]` in its place.
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import dagster as dg

from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.logs import log_context, without_secrets

P = ParamSpec("P")
T = TypeVar("T")
OURS = (PipelineError, dg.Failure, dg.RetryRequested, dg.DagsterError)


class StepFailed(Exception):
    """An error that is not ours: what it said, then its traceback as text."""


def scrubbed(function: Callable[P, T]) -> Callable[P, T]:
    """The body of an asset, op, sensor or IO manager: errors hide secrets and people, log lines name run and dataset."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with log_context(**_about(*args, *kwargs.values())):
                return function(*args, **kwargs)
        except OURS:
            raise
        except Exception as error:  # noqa: BLE001  all others: a library's
            raise _without(error) from None

    @functools.wraps(function)
    def iterated(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        try:
            with log_context(**_about(*args, *kwargs.values())):
                yield from function(*args, **kwargs)  # type: ignore[misc]  # a generator function
        except OURS:
            raise
        except Exception as error:  # noqa: BLE001  all others: a library's
            raise _without(error) from None

    return iterated if inspect.isgeneratorfunction(function) else called  # type: ignore[return-value]


def _about(*values: object) -> dict[str, str]:
    """Of the context among the arguments."""
    for value in values:
        if isinstance(value, dg.AssetExecutionContext):
            return {"run": value.run.run_id, "dataset": value.asset_key.path[0]}
        if isinstance(value, dg.OutputContext):
            return {"run": value.run_id, "dataset": value.asset_key.path[0]}
        if isinstance(value, dg.OpExecutionContext):
            return {"run": value.run_id}
    return {}


def _without(error: Exception) -> StepFailed:
    said = traceback.format_exception_only(error)[-1].strip()
    return StepFailed(redacted(without_secrets(f"{said}\n\n{''.join(traceback.format_exception(error))}")).rstrip())
