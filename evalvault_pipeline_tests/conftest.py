"""What many tests use: a clean environment, the demo data, and the original tool's datasets where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from evalvault_pipeline import secrets
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.secrets import SECRETS, Secret, SecretSources
from evalvault_pipeline.settings import Settings, load_settings, variables
from evalvault_pipeline_tests.results_files import write_results

if TYPE_CHECKING:
    from evalvault_pipeline_tests.postgres_server import PostgresServer

PROJECT = Path(__file__).resolve().parent.parent
ORIGINAL_DATA = Path(os.environ.get("EVALVAULT_ORIGINAL_DATA") or PROJECT.parent / "shared" / "data" / "evalvault")


# No test fails because the machine is slow.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what waits for a daemon most of the time, while the other worker works."""
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    ours = [name for name in os.environ if name.startswith(("DAGSTER_", "EVALVAULT_"))]
    for name in [*variables(), *(f"{secret}_FILE" for secret in SECRETS), *ours]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(secrets, "SECRETS_DIR", Path("/nonexistent"))
    monkeypatch.setattr(secrets, "_answers", {})


def a_secret(value: str, name: str = "OPENAI_API_KEY") -> Secret:
    """A secret with this value, wherever it is read."""
    sources = SecretSources()
    sources.with_places(None, {name: value})
    return Secret(name=name, sources=sources)


@pytest.fixture
def original_data() -> Path:
    """The original tool's datasets; a test that uses them is skipped, with the reason, where they are not there."""
    if not ORIGINAL_DATA.is_dir():
        pytest.skip(f"the original tool's datasets are not at {ORIGINAL_DATA}; name their folder in EVALVAULT_ORIGINAL_DATA")
    return ORIGINAL_DATA


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server for all tests; each makes a database of its own."""
    from evalvault_pipeline_tests.postgres_server import PostgresServer

    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Offline settings that write below `tmp_path` and need no Korean model."""
    places = {"EVALVAULT_RESULTS_DIR": str(tmp_path / "results"), "EVALVAULT_BASELINES_DIR": str(tmp_path / "baselines")}
    return load_settings(tmp_path, EVALVAULT_TOKENIZER="ngram", **places)


@pytest.fixture
def a_case() -> Callable[..., EvalCase]:
    """A good case, with what a test changes about it."""

    def make(**changes: Any) -> EvalCase:
        values: dict[str, Any] = {
            "case_id": "c1",
            "question": "암 진단비는 얼마인가요?",
            "answer": "암 진단비는 3천만원입니다.",
            "contexts": ("암 진단비는 일반암 기준 3,000만원이 지급됩니다.", "보험금 청구에는 진단서가 필요합니다."),
            "ground_truth": "암 진단비는 3,000만원입니다.",
            "metadata": {},
        }
        return EvalCase(**{**values, **changes})

    return make


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Writes a results file of these cases; `header` changes what stands in it."""

    def write(cases: list[dict[str, Any]], name: str = "results.json", **header: Any) -> Path:
        return write_results(tmp_path / name, cases, **header)

    return write


def from_the_store(hits: int, misses: int) -> dict[str, float]:
    """What results.json says of the store where no judge was paid."""
    return {"hits": hits, "misses": misses, "saved_tokens": 0, "saved_cost_usd": 0.0}
