"""The lock files: what they pin, and whether that is what pyproject.toml asks for.

Which lock is made of which extras is read from the Makefile's target `lock`, so that it stands in one place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent
COMPILED = re.compile(r"pip compile \$\(LOCK\) (?P<extras>(?:--extra [a-z-]+ )*)(?P<source>pyproject\.toml|-) -o (?P<lock>\S+)")
PIPED = re.compile(r"(?:echo|printf) '(?P<requirements>[^']+)' \|.* - -o (?P<lock>\S+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PIN = re.compile(r"==[^,*=]+")
PLATFORMS = {
    "linux": ("Linux", "posix"),
    "darwin": ("Darwin", "posix"),
    "win32": ("Windows", "nt"),
    "emscripten": ("Emscripten", "posix"),
}
PYTHONS = ("3.11.0", "3.11.9", "3.12.9", "3.13.9")


@dataclass(frozen=True, kw_only=True)
class Locked:
    """A package that a lock pins; `marker` says where ("" everywhere)."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock file, and the requirements that it is made of."""

    path: Path
    packages: tuple[Locked, ...]
    requirements: tuple[Requirement, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(package.name for package in self.packages)


class BadLine(ValueError):
    """A line of a lock file that is no package pinned with its hashes."""


def locks(project: Path = PROJECT) -> list[Lock]:
    """Every lock that `make lock` writes. Raises BadLine."""
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for match in COMPILED.finditer(makefile):
        if match["source"] == "-":
            continue
        wanted = [*about["dependencies"]]
        for extra in re.findall(r"--extra (\S+)", match["extras"]):
            wanted += about["optional-dependencies"][extra]
        found.append((match["lock"], wanted))
    found += [(match["lock"], match["requirements"].removesuffix(r"\n").split(r"\n")) for match in PIPED.finditer(makefile)]
    return [
        Lock(
            path=project / name,
            packages=tuple(read_lock(project / name)),
            requirements=tuple(map(Requirement, wanted)),
        )
        for name, wanted in found
    ]


def read_lock(path: Path) -> Iterator[Locked]:
    """Its packages, in order. Raises BadLine for one without hashes, with a URL or no exact version, and for an option."""
    for number, line in _lines(path):
        pinned, *hashes = line.split(" --hash=")
        try:
            requirement = Requirement(pinned.strip())
        except InvalidRequirement:
            raise BadLine(f"{path.name}:{number}: `{pinned.strip()}` is no pinned package. Run `make lock`.") from None
        if requirement.url or not PIN.fullmatch(str(requirement.specifier)):
            raise BadLine(f"{path.name}:{number}: {requirement} is not pinned to one version. Run `make lock`.")
        if not hashes or not all(HASH.fullmatch(f"--hash={one.strip()}") for one in hashes):
            raise BadLine(f"{path.name}:{number}: {requirement} has no SHA-256 hash. Run `make lock`.")
        yield Locked(
            name=canonicalize_name(requirement.name),
            version=str(requirement.specifier).removeprefix("=="),
            hashes=tuple(one.strip().removeprefix("sha256:") for one in hashes),
            marker=str(requirement.marker or ""),
        )


def installed(folder: Path | None = None) -> dict[str, Distribution]:
    """Name -> what is installed, in this environment or in a `site-packages`."""
    found = distributions() if folder is None else distributions(path=[str(folder)])
    return {canonicalize_name(one.metadata["Name"]): one for one in found}


def problems(lock: Lock, environment: Mapping[str, Distribution]) -> list[str]:
    """What is asked for and not locked, or in another version; and what is locked, and nobody asks for.

    What a package asks for is read where it is installed, for every system and every Python that we run on.
    """
    asked, found = set[str](), list[str]()
    versions: dict[str, list[str]] = {}
    for package in lock.packages:
        versions.setdefault(package.name, []).append(package.version)
    for requirement, by in _closure(lock, environment):
        name = canonicalize_name(requirement.name)
        asked.add(name)
        if name not in versions:
            found.append(f"{lock.path.name} lacks {requirement}, which {by} asks for. Run `make lock`.")
        elif not any(requirement.specifier.contains(version, prereleases=True) for version in versions[name]):
            found.append(f"{lock.path.name} has {name} {versions[name][0]}, and {by} asks for {requirement}. Run `make lock`.")
    found += [f"{lock.path.name} holds {name}, and nobody asks for it. Run `make lock`." for name in sorted(lock.names - asked)]
    return found


def _closure(lock: Lock, environment: Mapping[str, Distribution]) -> Iterator[tuple[Requirement, str]]:
    """(requirement, who asks for it), each extra of each package once."""
    todo = [(requirement, "pyproject.toml") for requirement in lock.requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, by = todo.pop()
        yield requirement, by
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            if name in environment:
                todo += [(inner, name) for inner in _asked_by(environment[name], extra)]


def _asked_by(package: Distribution, extra: str) -> Iterable[Requirement]:
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None:
            if not extra:
                yield requirement
        elif any(marker.evaluate({**machine, "extra": extra}) for machine in _machines()):
            yield requirement


def _machines() -> Iterator[dict[str, str]]:
    for python in PYTHONS:
        for platform, (system, os_name) in PLATFORMS.items():
            for processor in ("x86_64", "aarch64"):
                yield {
                    "python_version": python.rpartition(".")[0],
                    "python_full_version": python,
                    "sys_platform": platform,
                    "platform_system": system,
                    "os_name": os_name,
                    "platform_machine": processor,
                    "implementation_name": "cpython",
                    "platform_python_implementation": "CPython",
                }


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each logical line."""
    start, held = 1, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        start = start if held else number
        if line.endswith("\\"):
            held += line[:-1]
            continue
        if text := (held + line).strip():
            yield start, text
        held = ""
