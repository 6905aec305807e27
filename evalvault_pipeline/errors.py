"""Every exception of the package.

    PipelineError                   exit code 2: wrong usage, setting or data
    ├── MissingSetting              a setting that the profile cannot do without
    ├── InvalidSetting              a setting whose value cannot be used
    │   ├── JudgeMisconfigured      the judge answers, and refuses the key or does not know the model
    │   └── UnusableSecret          a source that is named for a secret does not give it
    ├── InvalidCatalog              data/catalog.toml says something that cannot be meant
    │   └── UnknownDataset
    ├── UnknownMetric
    ├── UnknownSnapshot
    ├── UnknownCase
    ├── UnreadableFile              the file as a whole: missing, empty, unknown format or encoding
    ├── MalformedCases              rows of a dataset file, each named with its line
    ├── UnusableResults             a results file, or a pair of them, that nothing can be decided upon
    ├── UnknownRun
    ├── NothingScored               a report is asked for where no batch is scored
    ├── UnwritableFile              an output that cannot be written
    ├── BackupFailed                a backup that cannot be made, or not be restored where it is asked for
    ├── UnusableBackup              a backup that is half, damaged, or made by a newer version
    └── ServiceUnavailable          exit code 3: something that we need does not answer
        ├── ScoreStoreUnavailable
        ├── SecretUnavailable       AWS or Vault does not answer
        ├── JudgeUnavailable        what was scored until then is kept
        ├── PhoenixUnavailable      what was to be uploaded is kept
        └── ChannelUnavailable      what was to be told is kept, and tried again

What is wrong with one case is data (`cases.model.RowProblem`), not an exception, until a caller refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalvault_pipeline.cases.model import RowProblem


class PipelineError(Exception):
    """Base of all that this package raises on purpose; its text is written for the person who reads it."""

    exit_code = 2

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its text, whatever the constructor takes; else an error of a worker process would break the pool."""
        return _restored, (type(self), self.args, vars(self))


def _restored(cls: type[PipelineError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PipelineError:
    error = cls.__new__(cls, *args)
    vars(error).update(attributes)
    return error


class MissingSetting(PipelineError):
    """A setting that the chosen profile cannot do without."""

    def __init__(self, name: str, *, profile: str) -> None:
        super().__init__(
            f"`{name}` is not set, and profile `{profile}` needs it. "
            f"Export it, or choose the profile that needs no judge: EVALVAULT_PROFILE=offline"
        )


class InvalidSetting(PipelineError):
    """A setting whose value cannot be used."""


class JudgeMisconfigured(InvalidSetting):
    """The judge answers, and refuses what the settings say: the key, the model."""


class UnusableSecret(InvalidSetting):
    """A file, or AWS or Vault, is named for a secret and does not give it: missing, denied, empty, not text."""


class InvalidCatalog(PipelineError):
    """The dataset catalog cannot be read as meant."""


class UnknownDataset(InvalidCatalog):
    """A dataset that the catalog does not declare."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        super().__init__(f"The catalog declares no dataset `{name}`. {_did_you_mean(name, known)}")


class UnknownMetric(PipelineError):
    """A metric that the registry does not hold."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        super().__init__(f"There is no metric `{name}`. {_did_you_mean(name, known)} List all: evalvault metrics")


class UnknownSnapshot(PipelineError):
    """A snapshot for which the dataset has no file."""

    def __init__(self, dataset: str, snapshot: str, *, known: Iterable[str], where: str = "") -> None:
        if where:
            super().__init__(f"Dataset `{dataset}` has no snapshot: no file matches {where}. Put one there.")
        else:
            super().__init__(f"Dataset `{dataset}` has no snapshot `{snapshot}`. {_did_you_mean(snapshot, known)}")


class UnknownCase(PipelineError):
    """A case that no results file holds."""

    def __init__(self, case_id: str, *, known: Iterable[str], where: str) -> None:
        names = list(known)
        hint = _did_you_mean(case_id, names) if names else "Write results with `evalvault run --output results.json`."
        super().__init__(f"No results hold a case `{case_id}` (looked in {where}). {hint[:300]}")


class UnreadableFile(PipelineError):
    """A file that cannot be read as a whole: missing, empty, of an unknown format or encoding."""


class MalformedCases(PipelineError):
    """Rows of a dataset file that cannot be evaluated as they stand."""

    shown = 20

    def __init__(self, path: str, problems: Sequence[RowProblem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        count = len({(problem.line, problem.row) for problem in self.problems})
        lines = [str(problem) for problem in self.problems[: self.shown]]
        if len(self.problems) > self.shown:
            lines.append(f"... and {len(self.problems) - self.shown} more")
        rows = "row" if count == 1 else "rows"
        lines.append(
            "Mend the file, or score the other cases with `evalvault run --skip-bad-rows` (the report counts what was skipped)."
        )
        super().__init__(f"{path}: {count} bad {rows}\n" + "\n".join(lines))


class UnusableResults(PipelineError):
    """Results that nothing can be decided upon: broken, empty, of another schema, or without a case in common."""


class UnknownRun(PipelineError):
    """A run that the score store does not hold."""


class NothingScored(PipelineError):
    """A report is asked for, and no batch of the snapshot as it is now is scored."""


class UnwritableFile(PipelineError):
    """An output file that cannot be written."""


class BackupFailed(PipelineError):
    """A backup that cannot be made, or not be restored where it is asked for; nothing was changed."""


class UnusableBackup(PipelineError):
    """A backup that is half, damaged, or made by a newer version; nothing of it was restored."""


class ServiceUnavailable(PipelineError):
    """Something that we need does not answer."""

    exit_code = 3


class ScoreStoreUnavailable(ServiceUnavailable):
    """The score store cannot be opened or written. `passing`: its server may be back in a moment."""

    passing = False


class SecretUnavailable(ServiceUnavailable):
    """AWS Secrets Manager or HashiCorp Vault does not answer."""


class PhoenixUnavailable(ServiceUnavailable):
    """Phoenix does not answer. The run is kept, and can be uploaded later."""


class ChannelUnavailable(ServiceUnavailable):
    """An alert could not be delivered: Slack, the mail server or the webhook does not take it."""


class JudgeUnavailable(ServiceUnavailable):
    """The judge does not answer. What was scored until then is in the score store."""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Known: {', '.join(names)}." if names else "None is known."
