"""The file that a backup is: a zip laid out as the data folder, with a manifest that is written last.

    manifest.json                 when and by what it was made; size, sha256 and, of databases, rows of every part
    catalog.toml  datasets/  baselines/  results/         as below data/
    results/scores.sqlite  .dagster/…                     databases in SQLite
    score_store.dump  dagster.dump                        databases in Postgres, as pg_dump writes them

Which parts there are is decided in `backup.py`; here nothing is known of them but their names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalvault_pipeline.errors import BackupFailed, UnusableBackup

FORMAT = 1  # raised when an older version could not restore what this one writes
MANIFEST = "manifest.json"
CATALOG = "catalog.toml"
STORE, STORE_DUMP = "results/scores.sqlite", "score_store.dump"
DAGSTER, DAGSTER_DUMP = ".dagster/", "dagster.dump"
CHUNK = 1 << 20
COMPRESSED = {".dump", ".parquet", ".png", ".npz", ".xlsx", ".gz", ".zip"}
LEVEL = 3  # 125 MB/s at 6.0 to 1; level 6 takes twice as long for 6.6 to 1

Kind = Literal["file", "sqlite", "postgres"]
Owner = Literal["score store", "Dagster", "files"]


class Part(BaseModel):
    """A file of a backup. `rows`: of a database, by table; `modified`: seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    size: int = Field(ge=0)
    sha256: str
    modified: float = Field(ge=0.0, le=1e11)
    rows: dict[str, int] | None = None

    @property
    def belongs_to(self) -> Owner:
        if self.name in (STORE, STORE_DUMP):
            return "score store"
        return "Dagster" if self.name == DAGSTER_DUMP or self.name.startswith(DAGSTER) else "files"


class Manifest(BaseModel):
    """What a backup holds. `versions`: of what wrote it; `store_in`: the part with the score store, if another one."""

    model_config = ConfigDict(frozen=True)

    format: int
    made_at: datetime
    versions: dict[str, str]
    parts: tuple[Part, ...]
    store_in: str | None = None

    def of(self, owner: Owner) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.belongs_to == owner)

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return sum(part.size for part in self.parts)


class ArchiveWriter:
    """A backup that is being written; whole when `finish` has returned. Raises BackupFailed."""

    def __init__(self, path: Path) -> None:
        self._path, self._parts = path, dict[str, Part]()

    def __enter__(self) -> ArchiveWriter:
        self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "w+b")  # it holds answers
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk
            self._zip.close()
        self._file.close()

    def holds(self, name: str) -> bool:
        return name in self._parts

    def add(self, name: str, source: Path, *, kind: Kind = "file", rows: Mapping[str, int] | None = None) -> None:
        """Copy a file in, as it is now; one that has vanished meanwhile is passed over."""
        if name in self._parts:
            return
        if not _is_safe(name):
            raise BackupFailed(f"{source!a} has a name that cannot be kept. Rename it.")
        try:
            with source.open("rb") as file:
                digest, size = hashlib.sha256(), 0
                with self._zip.open(_entry(name), "w", force_zip64=True) as entry:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
                        entry.write(chunk)
                modified = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackupFailed(f"{source} cannot be backed up: {error.strerror or error}. {_REMEDY}") from None
        self._parts[name] = Part(
            name=name,
            kind=kind,
            size=size,
            sha256=digest.hexdigest(),
            modified=modified,
            rows=None if rows is None else dict(rows),
        )

    def finish(self, *, made_at: datetime, versions: Mapping[str, str], store_in: str | None = None) -> Manifest:
        """Write the manifest, and wait until all is on the disk."""
        parts = tuple(self._parts.values())
        manifest = Manifest(format=FORMAT, made_at=made_at, versions=dict(versions), parts=parts, store_in=store_in)
        try:
            self._zip.writestr(_entry(MANIFEST), manifest.model_dump_json(indent=1, exclude_none=True))
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise BackupFailed(f"{self._path} cannot be written: {error.strerror or error}. {_REMEDY}") from None
        return manifest


class Archive:
    """A backup that is read. Raises UnusableBackup, when it is opened, for one without a good manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise UnusableBackup(f"There is no backup {path}. Name a file of EVALVAULT_BACKUPS_DIR.") from None
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:  # the second: of a zip of a later version
            why = getattr(error, "strerror", None) or "its end is missing, or it is no backup"
            raise UnusableBackup(f"{path} cannot be read: {why}. Take another backup.") from None
        self.manifest = self._manifest()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def check(self) -> None:
        """Read every part. Raises UnusableBackup for one that is not what the manifest says."""
        for part in self.manifest.parts:
            for _ in self._chunks(part):
                pass

    def unpack(self, part: Part, target: Path) -> None:
        """Write a part to a file. Raises UnusableBackup as `check` does, BackupFailed where it cannot be written."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for chunk in self._chunks(part):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.utime(target, (part.modified, part.modified))
        except OSError as error:
            raise BackupFailed(f"{target} cannot be written: {error.strerror or error}. {_REMEDY}") from None

    def _manifest(self) -> Manifest:
        held = self._zip.namelist()
        if MANIFEST not in held:
            raise self._unusable(f"it has no {MANIFEST}, so it is a half backup or none")
        try:
            content = json.loads(self._zip.read(MANIFEST))
            if (version := content["format"]) > FORMAT:
                made_by = dict(content.get("versions") or {}).get("evalvault-pipeline", "a newer version")
                raise UnusableBackup(
                    f"{self.path} has format {version}, and this version reads up to {FORMAT}. "
                    f"Restore it with evalvault {made_by}."
                )
            manifest = Manifest.model_validate(content)
        except (*_DAMAGE, ValueError, TypeError, KeyError, ValidationError):
            raise self._unusable(f"its {MANIFEST} is damaged") from None
        named = [MANIFEST, *(part.name for part in manifest.parts)]
        for name in named:
            if not _is_safe(name):
                raise self._unusable(f"the name {name!r} leads out of the folder that it is restored to")
        if len(set(held)) < len(held) or len(set(named)) < len(named):
            raise self._unusable("it holds two files of one name")
        if differing := sorted(set(held) ^ set(named)):
            what = "lacks" if differing[0] in named else "holds, and does not name in its manifest,"
            raise self._unusable(f"it {what} {differing[0]!r}")
        return manifest

    def _chunks(self, part: Part) -> Iterator[bytes]:
        digest, left = hashlib.sha256(), part.size
        try:
            with self._zip.open(part.name) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
        except _DAMAGE:
            raise self._unusable(f"{part.name} cannot be read") from None
        if left or digest.hexdigest() != part.sha256:
            raise self._unusable(f"{part.name} is not what was backed up: size or checksum differ")

    def _unusable(self, why: str) -> UnusableBackup:
        return UnusableBackup(f"{self.path} is damaged: {why}. Take another backup.")


_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)  # RuntimeError: an encrypted or unknown entry
_REMEDY = "Make room, or give the right to."


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_STORED if Path(name).suffix in COMPRESSED else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _is_safe(name: str) -> bool:
    """Whether a name stays in the folder, on every system."""
    pieces = name.split("/")
    is_text = name.encode("utf-8", "replace").decode() == name
    return is_text and not re.match(r"[A-Za-z]:|.*[\\\0]", name, re.DOTALL) and not {"", ".", ".."} & set(pieces)
