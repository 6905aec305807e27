"""Our images, built with BuildKit by the Dockerfile as it is, and stand-ins under the names that docker-compose.yaml asks for."""

from __future__ import annotations

import re
from pathlib import Path

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.containers.base_image import base_context
from evalvault_pipeline_tests.containers.engine import Engine

STAND_INS = Path(__file__).parent / "stand_ins"


def default_of(variable: str) -> str:
    """What docker-compose.yaml takes where the variable is not set."""
    text = (PROJECT / "docker-compose.yaml").read_text(encoding="utf-8")
    found = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", text)
    assert found, f"docker-compose.yaml names no {variable}"
    return found[1]


def build_all(engine: Engine) -> None:
    base, ours = default_of("PYTHON_IMAGE"), default_of("EVALVAULT_IMAGE")
    if not engine.docker("images", "-q", base):
        _build(engine, base, base_context())
    _build(engine, ours, PROJECT, "--target=evalvault")
    _build(engine, default_of("PHOENIX_IMAGE"), PROJECT, "--target=phoenix")
    postgres, tests = STAND_INS / "postgres.Dockerfile", STAND_INS.parent.parent
    _build(engine, default_of("POSTGRES_IMAGE"), STAND_INS, "--file", str(postgres), f"--build-arg=BASE={base}")
    ollama = STAND_INS / "ollama.Dockerfile"
    _build(engine, default_of("OLLAMA_IMAGE"), tests, "--file", str(ollama), f"--build-arg=IMAGE={ours}")


def _build(engine: Engine, name: str, context: Path, *options: str) -> None:
    print(f"building {name}", flush=True)
    engine.docker("build", "--network=host", "--progress=plain", "-t", name, *options, context)
