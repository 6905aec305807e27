"""The image built by buildah in a chroot: no engine, no network of its own. What `.ci/run` does."""

from __future__ import annotations

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.containers.base_image import base_context
from evalvault_pipeline_tests.containers.debian import cache_folder, run
from evalvault_pipeline_tests.containers.images import default_of

PLACES = ["--root", cache_folder() / "buildah", "--runroot", cache_folder() / "buildah-run"]
CHECKS = [
    ("evalvault", "version"),
    ("evalvault", "run", "--help"),
    ("pg_dump", "--version"),
    ("sh", "-c", "! command -v pip && ! command -v gcc && ! command -v uv && ! python -c 'import pip' 2>/dev/null"),
    ("sh", "-c", 'test $(id -u) = 10001 && test -d "$HOME" && ! touch /opt/evalvault/x 2>/dev/null'),
]


def check_build() -> int:
    base, ours = default_of("PYTHON_IMAGE"), default_of("EVALVAULT_IMAGE")
    _buildah("bud", "--isolation=chroot", "--pull-never", "-t", base, base_context())
    _buildah("bud", "--isolation=chroot", "--pull-never", "--target=evalvault", "-t", ours, PROJECT)
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


def _buildah(command: str, *arguments: object) -> str:
    return run("buildah", *PLACES, command, *[str(argument) for argument in arguments])
