"""What a step fails with is kept in Dagster's database and shown in its UI: so without secrets and personal data.
Its log lines name its run.

An error may quote a key or a text of a dataset; it is kept with `[SECRET]` or `[PHONE]` in its place. Our own errors keep
their kind, which says whether a step is tried again.
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, ParamSpec, TypeVar

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
        except Exception as error:  # noqa: BLE001  raised again
            _fail(error)

    @functools.wraps(function)
    def iterated(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        try:
            with log_context(**_about(*args, *kwargs.values())):
                yield from function(*args, **kwargs)  # type: ignore[misc]  # a generator function
        except Exception as error:  # noqa: BLE001  raised again
            _fail(error)

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


def _fail(error: BaseException) -> NoReturn:
    hidden = _hidden(error)
    raise hidden from hidden.__cause__


def _hidden(error: BaseException) -> BaseException:
    """Ours itself, with its texts and what it was raised from hidden; a `StepFailed` in place of a library's."""
    if not isinstance(error, OURS):
        said = traceback.format_exception_only(error)[-1].strip()
        return StepFailed(_clean(f"{said}\n\n{''.join(traceback.format_exception(error))}").rstrip())
    error.args = tuple(_clean(one) if isinstance(one, str) else one for one in error.args)
    if isinstance(error, dg.Failure):
        error.description = error.args[0]
        error.metadata = {name: _clean_value(value) for name, value in error.metadata.items()}
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    error.__cause__ = _hidden(earlier) if earlier else None
    return error


def _clean(text: str) -> str:
    return redacted(without_secrets(text))


def _clean_value(value: dg.MetadataValue[Any]) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.text(_clean(value.text or "")) if isinstance(value, dg.TextMetadataValue) else value
