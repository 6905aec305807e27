"""The image built by buildah in a chroot: no engine, no network of its own. What `.ci/run` does."""

from __future__ import annotations

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.containers.base_image import base_context
from evalvault_pipeline_tests.containers.debian import CannotRun, CommandFailed, cache_folder, run
from evalvault_pipeline_tests.containers.images import default_of

PLACES = ["--root", cache_folder() / "buildah", "--runroot", cache_folder() / "buildah-run"]
# What a chroot with cache mounts says where the machine does not bear it; nothing of the Dockerfile's doing.
NOT_BORNE = ("device or resource busy", "cleanup run mounts", "fork/exec /bin/sh")
CHECKS = [
    ("evalvault", "version"),
    ("evalvault", "run", "--help"),
    ("pg_dump", "--version"),
    ("sh", "-c", "! command -v pip && ! command -v gcc && ! command -v uv && ! python -c 'import pip' 2>/dev/null"),
    ("sh", "-c", 'test $(id -u) = 10001 && test -d "$HOME" && ! touch /opt/evalvault/x 2>/dev/null'),
]


def check_build() -> int:
    base, ours = default_of("PYTHON_IMAGE"), default_of("EVALVAULT_IMAGE")
    _build("-t", base, base_context())
    _build("--target=evalvault", "-t", ours, PROJECT)
    container = _buildah("from", "--pull-never", ours).strip()
    try:
        for command in CHECKS:
            print(
                "ok    ",
                " ".join(command),
                "->",
                *_buildah("run", "--isolation=chroot", container, "--", *command).splitlines()[:1],
            )
    finally:
        _buildah("rm", container)
    print(_buildah("images"))
    return 0


def _build(*options: object) -> None:
    """Once more where the machine was at fault: layers that were made are kept."""
    for again in (True, False):
        try:
            _buildah("bud", "--isolation=chroot", "--pull-never", "--layers", *options)
            return
        except CommandFailed as error:
            if not any(word in str(error) for word in NOT_BORNE):
                raise
            if not again:
                raise CannotRun(f"buildah's chroot does not hold here: {error}") from None


def _buildah(command: str, *arguments: object) -> str:
    return run("buildah", *PLACES, command, *[str(argument) for argument in arguments])
