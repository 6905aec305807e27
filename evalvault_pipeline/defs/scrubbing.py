"""What a step fails with is kept in Dagster's database and shown in its UI: so without secrets and personal data.

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
from evalvault_pipeline.logs import without_secrets

P = ParamSpec("P")
T = TypeVar("T")


class StepFailed(Exception):
    """An error that is not ours, with its traceback as text."""


def scrubbed(function: Callable[P, T]) -> Callable[P, T]:
    """The body of an asset or op, whose unexpected errors are raised again without secrets and personal data."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (PipelineError, dg.Failure, dg.DagsterError):
            raise
        except Exception as error:  # noqa: BLE001  all others: a library's
            raise _without(error) from None

    @functools.wraps(function)
    def iterated(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)  # type: ignore[misc]  # a generator function
        except (PipelineError, dg.Failure, dg.DagsterError):
            raise
        except Exception as error:  # noqa: BLE001  all others: a library's
            raise _without(error) from None

    return iterated if inspect.isgeneratorfunction(function) else called  # type: ignore[return-value]


def _without(error: Exception) -> StepFailed:
    return StepFailed(redacted(without_secrets("".join(traceback.format_exception(error)))).rstrip())
