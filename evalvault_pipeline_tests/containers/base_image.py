"""A stand-in for python:3.12-slim: a minimal Debian trixie, and a CPython of this machine in /usr/local with pip.

What this machine needs to reach an index (the bundle of a proxy's certificates) goes into it, never into the Dockerfile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from evalvault_pipeline_tests.containers.debian import CannotRun, CommandFailed, cache_folder, run, suite

RELEASE = "trixie"
LIBRARIES = "libssl3t64 libsqlite3-0 libffi8 libbz2-1.0 liblzma5 libreadline8t64 zlib1g libncursesw6 libuuid1 libexpat1"
WITH = ["ca-certificates", "netbase", "tzdata", *LIBRARIES.split()]
WITHOUT = ("man", "doc", "locale")
CLEAN = 'DPkg::Post-Invoke {"rm -f /var/cache/apt/archives/*.deb";};'  # as the image has it
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
VERSION = "import sys; print(*sys.version_info[:2], sys.base_prefix, sep='\\n')"


@dataclass(frozen=True)
class Interpreter:
    version: str
    prefix: Path


def base_context() -> Path:
    """A folder to build the image from, in any builder; made where it is not there yet."""
    folder = cache_folder() / "base"
    if (folder / "Dockerfile").is_file():
        return folder
    python = _interpreter()
    print(f"making the stand-in base: Debian {RELEASE}, CPython {python.version}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    added = folder / "added"
    _copy_python(python, added / "usr" / "local")
    _debian(folder / "debian.tar")
    lines = [
        "FROM scratch",
        "ADD debian.tar /",
        "COPY added /",
        f"RUN ldconfig && echo '{CLEAN}' >/etc/apt/apt.conf.d/docker-clean",
        f"ENV PATH={PATH}",
    ]
    if bundle := os.environ.get("SSL_CERT_FILE"):
        (added / BUNDLE).parent.mkdir(parents=True)
        shutil.copy(bundle, added / BUNDLE)
        lines.append(f"ENV SSL_CERT_FILE=/{BUNDLE} PIP_CERT=/{BUNDLE}")
    (folder / "Dockerfile").write_text("\n".join([*lines, 'CMD ["python3"]', ""]), encoding="utf-8")
    return folder


def _debian(target: Path) -> None:
    debian = suite(RELEASE)
    tool = cache_folder() / "mmdebstrap"
    if not (tool / "usr" / "bin" / "mmdebstrap").is_file():
        debian.unpack(tool, "mmdebstrap")
    path = f"{tool / 'usr' / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in WITHOUT]
    options = ["--variant=minbase", f"--include={','.join(WITH)}", "--dpkgopt=force-unsafe-io", "--format=tar"]
    try:
        run("mmdebstrap", *options, *excluded, RELEASE, target, debian.source, PATH=path)
    except CommandFailed as error:
        raise CannotRun(f"Debian {RELEASE} cannot be put together: {error}") from None


def _interpreter() -> Interpreter:
    """A CPython that stands in a folder of its own, 3.12 rather than another that the lock is made for."""
    installed = sorted(
        (Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions").glob("3.1[123].*/bin/python")
    )
    on_path = [Path(found) for name in ("python3.12", "python3.13", "python3.11") if (found := shutil.which(name))]
    found = [told for python in (*installed, *on_path, Path(sys.executable)) if (told := _told(python))]
    usable = [python for python in found if python.prefix != Path("/usr")]
    if not usable:
        raise CannotRun("no CPython 3.12 with a prefix of its own is installed here (pyenv, /usr/local)")
    return min(usable, key=lambda python: abs(int(python.version.partition(".")[2]) - 12))


def _told(python: Path) -> Interpreter | None:
    done = subprocess.run([str(python), "-c", VERSION], capture_output=True, text=True)
    lines = done.stdout.split("\n")
    return Interpreter(f"{lines[0]}.{lines[1]}", Path(lines[2])) if done.returncode == 0 else None


def _copy_python(python: Interpreter, target: Path) -> None:
    name = f"python{python.version}"
    left = shutil.ignore_patterns("__pycache__", "test", "idlelib", "tkinter", "config-*", "site-packages", "*.a")
    shutil.copytree(python.prefix / "lib" / name, target / "lib" / name, ignore=left, symlinks=True)
    packages = target / "lib" / name / "site-packages"
    for pip in (python.prefix / "lib" / name / "site-packages").glob("pip*"):
        shutil.copytree(pip, packages / pip.name)
    for library in (python.prefix / "lib").glob("libpython*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    (target / "bin").mkdir()
    shutil.copy2(python.prefix / "bin" / name, target / "bin" / name)
    for link in ("python3", "python"):
        (target / "bin" / link).symlink_to(name)
