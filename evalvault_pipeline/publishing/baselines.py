"""Promoted baselines: for each dataset the run that later ones are held against, chosen by a person or a job, never by itself.

<folder>/<dataset>.json                the run's results, as results.json
<folder>/<dataset>.promotions.jsonl    who promoted what, when and why, a line each
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from evalvault_pipeline.errors import UnknownRun, UnusableResults
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.results_file import make_writable, replacing, write_cases
from evalvault_pipeline.reporting.recorded import RecordedRun


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """Who made a run the baseline. `promoted_at` is an ISO time in UTC; `replaces` the run that was it before."""

    run_id: str
    snapshot: str
    pass_rate: float
    promoted_by: str
    promoted_at: str
    note: str = ""
    replaces: str | None = None


@dataclass(frozen=True)
class Baselines:
    """The folder of promoted baselines."""

    folder: Path

    def file(self, dataset: str) -> Path:
        return self.folder / f"{dataset}.json"

    def datasets(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def find(self, dataset: str) -> RecordedRun | None:
        """The promoted run of a dataset, None where none was promoted. Raises UnusableResults."""
        file = self.file(dataset)
        return read_run(file) if file.exists() else None

    def get(self, dataset: str) -> RecordedRun:
        """As `find`. Raises UnknownRun where none was promoted."""
        found = self.find(dataset)
        if found is None:
            raise UnknownRun(
                f"No baseline of {dataset} is promoted ({self.file(dataset)}). Promote one: evalvault baseline set RUN_ID"
            )
        return found

    def history(self, dataset: str) -> list[Promotion]:
        """Every promotion, the oldest first."""
        file = self._log(dataset)
        if not file.exists():
            return []
        return [Promotion(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]

    def promote(self, run: RecordedRun, *, by: str, note: str = "", force: bool = False) -> Promotion:
        """Make `run` the baseline of its dataset, and write down who did so.

        Raises UnusableResults for a run that stands on a part of its cases, unless `force`.
        """
        missing = run.header["missing_batches"]
        if (missing or run.unmeasured) and not force:
            what = f"{len(missing)} batches are missing" if missing else f"{run.unmeasured} of its cases are unmeasured"
            raise UnusableResults(
                f"Run {run.run_id} is not whole: {what}. Score it whole, or promote it all the same with --force."
            )
        dataset = str(run.header["dataset_name"])
        make_writable(self.file(dataset))
        with FileLock(self.folder / f".{dataset}.lock"):
            earlier = self.history(dataset)
            promotion = Promotion(
                run_id=run.run_id,
                snapshot=str(run.header["snapshot"]),
                pass_rate=run.passed / len(run.case_ids) if run.case_ids else 0.0,
                promoted_by=by,
                promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
                note=note,
                replaces=earlier[-1].run_id if earlier else None,
            )
            with replacing(self.file(dataset)) as file:
                write_cases(file, run.header, map(run.entry, range(len(run.case_ids))))
            with replacing(self._log(dataset)) as file:
                for one in [*earlier, promotion]:
                    file.write(json.dumps(vars(one), ensure_ascii=False) + "\n")
        return promotion

    def _log(self, dataset: str) -> Path:
        return self.folder / f"{dataset}.promotions.jsonl"
