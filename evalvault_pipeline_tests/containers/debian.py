"""Debian packages of the machine's own mirror, fetched and unpacked, never installed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
QUIET = ["-qq", "-o", "APT::Sandbox::User=root"]


class CannotRun(Exception):
    """Something that the proof needs cannot be had on this machine."""


class CommandFailed(Exception):
    """A command of the proof itself failed."""


def cache_folder() -> Path:
    """Where what was fetched and built is kept: EVALVAULT_CONTAINERS_CACHE, outside of the repository."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalvault-containers"
    folder = Path(os.environ.get("EVALVAULT_CONTAINERS_CACHE") or kept)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """The output of a command. Raises CommandFailed with its last lines, CannotRun where there is no such command."""
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(arguments, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotRun(f"there is no {arguments[0]}") from None
    if done.returncode:
        raise CommandFailed(
            f"{' '.join(arguments[:4])} ... ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


@dataclass(frozen=True)
class Suite:
    """A release of Debian with an apt state of its own, so that the machine's is left as it is."""

    name: str
    folder: Path

    @property
    def source(self) -> str:
        return f"deb [signed-by={KEYRING}] {_mirror()} {self.name} main"

    def download(self, *packages: str) -> list[Path]:
        """The packages' files, fetched where they are not there yet."""
        kept = self.folder / "packages"
        missing = [name for name in packages if not list(kept.glob(f"{name}_*.deb"))]
        if missing:
            kept.mkdir(parents=True, exist_ok=True)
            try:
                run("apt-get", *QUIET, *self._options(), "update")
                run("apt-get", *QUIET, *self._options(), "download", *missing, cwd=kept)
            except CommandFailed as error:
                raise CannotRun(f"Debian's packages cannot be fetched: {error}") from None
        return [next(kept.glob(f"{name}_*.deb")) for name in packages]

    def unpack(self, target: Path, *packages: str) -> None:
        for file in self.download(*packages):
            run("dpkg", "-x", file, target)

    def _options(self) -> list[str]:
        for part in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "etc" / "sources.list").write_text(f"{self.source}\n", encoding="utf-8")
        places = {
            "Dir::Etc": self.folder / "etc",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": self.folder / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
        }
        return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]


def suite(name: str) -> Suite:
    return Suite(name, cache_folder() / name)


def _mirror() -> str:
    """The address of Debian's main archive that this machine's apt uses."""
    form = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
    listed = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    found = [line.split() for line in listed.splitlines()]
    mirrors = [line[0] for line in found if line[2:] == ["main", "Debian"] and "-" not in line[1]]
    if not mirrors or not Path(KEYRING).is_file():
        raise CannotRun("apt knows no archive of Debian here; this proof needs Debian and `apt-get update`")
    return mirrors[0]
