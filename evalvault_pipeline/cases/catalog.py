"""`data/catalog.toml`: which datasets exist, where their snapshots lie, and how they are scored.

A snapshot is one dataset file; its name is the file's stem (`2026w47.json` -> `2026w47`), snapshots are in the order of names.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evalvault_pipeline.cases.batches import batch_count, recommended_batch_size
from evalvault_pipeline.cases.loading import READERS, DatasetSummary
from evalvault_pipeline.cases.model import Snapshot
from evalvault_pipeline.errors import InvalidCatalog, UnknownDataset, UnknownSnapshot

NAME = re.compile(r"[a-z0-9_]+")
RESERVED = frozenset({"all_datasets", "backups"})  # all_datasets_evaluation_job is taken; alerts name backups so
OWNER = re.compile(r"team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+")
SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]


class DatasetSpec(BaseModel):
    """One dataset of the catalog. `folder` is where `files` is looked up; the loader sets it and `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path
    files: str = Field(description="Where the snapshots lie: a glob, seen from the catalog's folder.")
    language: Literal["ko", "en", "auto"] = Field("auto", description="Language of the texts; `auto` looks at the questions.")
    description: str = Field("", description="One sentence for the Dagster UI.")
    owners: tuple[str, ...] = Field((), description="Dagster owners: `team:name` or an e-mail address.")
    metrics: tuple[str, ...] = Field(min_length=1, description="What is measured, by the names of `evalvault metrics`.")
    thresholds: dict[str, Share] = Field(
        {},
        description="Metric -> where it passes; a dataset file's own come first.",
    )
    batch_size: Count | None = Field(None, description="Cases per partition; default: by dataset size.")
    partitions_per_run: Count | None = Field(
        None, description="Batches that one Dagster run of a backfill takes; default: all of a snapshot."
    )
    judge_repeats: Annotated[int, Field(ge=1, le=20, strict=True)] | None = Field(
        None, description="Overrides EVALVAULT_JUDGE_REPEATS for this dataset."
    )
    rubric: dict[str, str] = Field(
        {}, description="`score1_description` to `score5_description`: what the metric `rubric` rates by."
    )
    min_pass_rate: Share | None = Field(None, description="Overrides EVALVAULT_MIN_PASS_RATE for this dataset.")
    alert_pass_rate: Share | None = Field(None, description="Overrides EVALVAULT_ALERT_PASS_RATE for this dataset.")
    pii: Literal["redact", "block", "off"] = Field(
        "redact", description="Personal data: `redact` masks it, `block` refuses rows that hold it, `off` lets it through."
    )
    phoenix_dataset: str = Field("", description="Name of the dataset in Phoenix; default: its name here.")

    @field_validator("files")
    @classmethod
    def _files_below_the_folder(cls, value: str) -> str:
        if not value.strip() or Path(value).is_absolute():
            raise ValueError("it must be a path or glob relative to the catalog's folder")
        return value

    @field_validator("owners")
    @classmethod
    def _owners_of_dagster(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not OWNER.fullmatch(owner):
                raise ValueError(f"`{owner}` is neither `team:name` nor an e-mail address")
        return value

    @field_validator("rubric")
    @classmethod
    def _rubric_of_five_levels(cls, value: dict[str, str]) -> dict[str, str]:
        wanted = [f"score{level}_description" for level in range(1, 6)]
        if value and (sorted(value) != wanted or not all(text.strip() for text in value.values())):
            raise ValueError(f"a rubric has exactly {', '.join(wanted)}, none of them empty")
        return {name: value[name] for name in wanted if name in value}

    @field_validator("thresholds")
    @classmethod
    def _thresholds_of_metrics(cls, value: dict[str, float]) -> dict[str, float]:
        return dict(sorted(value.items()))

    def snapshots(self) -> dict[str, Path]:
        """Snapshot -> file, in the order of names. Hidden files, Excel's lock files and other formats are passed over."""
        files = [
            file
            for file in self.folder.glob(self.files)
            if file.suffix.lower() in READERS and not file.name.startswith((".", "~$")) and file.is_file()
        ]
        found: dict[str, Path] = {}
        for file in sorted(files, key=lambda item: (item.stem, item.suffix)):
            if not SNAPSHOT_NAME.fullmatch(file.stem):
                raise InvalidCatalog(f"{file}: a snapshot's name is made of letters, digits, `_`, `.` and `-`. Rename it.")
            if file.stem in found:
                raise InvalidCatalog(
                    f"{file} and {found[file.stem].name} are both snapshot `{file.stem}` of `{self.name}`. Rename one."
                )
            found[file.stem] = file
        return found

    def snapshot_file(self, snapshot: str) -> Path:
        known = self.snapshots()
        if snapshot not in known:
            raise UnknownSnapshot(self.name, snapshot, known=known)
        return known[snapshot]


class Catalog(BaseModel):
    """All datasets by name."""

    model_config = ConfigDict(frozen=True)

    path: Path
    datasets: dict[str, DatasetSpec]

    def dataset(self, name: str) -> DatasetSpec:
        if name not in self.datasets:
            raise UnknownDataset(name, known=self.datasets)
        return self.datasets[name]

    def owner_of(self, file: Path) -> DatasetSpec | None:
        """The dataset whose snapshot `file` is."""
        resolved = file.resolve()
        for spec in self.datasets.values():
            if any(candidate.resolve() == resolved for candidate in spec.folder.glob(spec.files)):
                return spec
        return None


def describe_snapshot(
    summary: DatasetSummary, spec: DatasetSpec | None, *, batch_size: int | None = None
) -> tuple[Snapshot, int]:
    """(the snapshot that a dataset file is, cases per batch).

    The batch size is the argument, else the catalog's, else by the size of the dataset; the language is the catalog's, else
    that of the questions. A file outside the catalog (`spec` None) is its own dataset.
    """
    size = batch_size or (spec.batch_size if spec else None) or recommended_batch_size(summary.case_count)
    snapshot = Snapshot(
        dataset=spec.name if spec else summary.header.name,
        name=summary.path.stem,
        version=summary.header.version,
        language=spec.language if spec and spec.language != "auto" else summary.language,
        digest=summary.digest,
        batch_count=batch_count(summary.case_count, size),
        thresholds=dict(summary.header.thresholds),
        pii=summary.pii,
    )
    return snapshot, size


def load_catalog(path: Path) -> Catalog:
    """Read a catalog. Raises InvalidCatalog with file, line and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidCatalog(
            f"There is no catalog {path}. Create it (docs/datasets.md), or name another with EVALVAULT_CATALOG."
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidCatalog(f"{path} cannot be read: {error}. Save it as UTF-8.") from None
    except OSError as error:
        raise InvalidCatalog(f"{path} cannot be read: {error.strerror or error}. Name a file with EVALVAULT_CATALOG.") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1  # without a line it is the end of the document
        raise InvalidCatalog(f"{path}:{line}: not valid TOML: {error}. Mend it there.") from None
    unknown = set(content) - {"datasets"}
    if unknown:
        name = sorted(unknown)[0]
        raise InvalidCatalog(f"{path}:{_line_of_key(text, name)}: unknown table `{name}`. Datasets stand in [datasets.<name>].")
    tables = content.get("datasets", {})
    if not isinstance(tables, dict):
        raise InvalidCatalog(f"{path}:{_line_of_key(text, 'datasets')}: `datasets` is no table. Write [datasets.<name>].")
    specs = {name: _spec(path, text, name, table) for name, table in tables.items()}
    return Catalog(path=path, datasets=specs)


def _spec(path: Path, text: str, name: str, table: object) -> DatasetSpec:
    start = _line_of_table(text, name)
    if name in RESERVED:
        raise InvalidCatalog(f"{path}:{start}: `{name}` is a name of our own. Choose another.")
    if not NAME.fullmatch(name):
        raise InvalidCatalog(
            f"{path}:{start}: `{name}` cannot name a dataset; a name is made of a-z, 0-9 and `_`. "
            "(It names Dagster groups and sensors too.)"
        )
    if not isinstance(table, dict):
        line = _line_of_key(text, name, after=start)
        raise InvalidCatalog(f"{path}:{line}: `datasets.{name}` is no table. Write [datasets.{name}].")
    known = sorted(set(DatasetSpec.model_fields) - {"name", "folder"})
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise InvalidCatalog(
            f"{path}:{_line_of_key(text, unknown[0], after=start)}: datasets.{name}: unknown key `{unknown[0]}`. "
            f"Known keys: {', '.join(known)}."
        )
    try:
        return DatasetSpec.model_validate({**table, "name": name, "folder": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        line = start
        for part in first["loc"]:
            line = _line_of_key(text, str(part), after=line)
        key = ".".join(str(part) for part in first["loc"])
        wrong = first["msg"].removeprefix("Value error, ")
        raise InvalidCatalog(f"{path}:{line}: datasets.{name}: {key}: {wrong}. See docs/datasets.md.") from None


def _line_of_table(text: str, name: str) -> int:
    return _line_of(text, rf"""^\s*\[\s*datasets\s*\.\s*["']?{re.escape(name)}["']?\s*[\].]""", after=1)


def _line_of_key(text: str, key: str, *, after: int = 1) -> int:
    return _line_of(text, rf"""(^|[\[{{,.])\s*["']?{re.escape(key)}["']?\s*[=\].]""", after=after)


def _line_of(text: str, pattern: str, *, after: int) -> int:
    """The first line from `after` on in which the pattern stands; `after` itself where it stands nowhere."""
    for number, line in enumerate(text.splitlines()[after - 1 :], start=after):
        if re.search(pattern, line.split("#")[0]):
            return number
    return after
