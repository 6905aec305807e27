"""`evalvault doctor` finds what is wrong with a judge before a run does, and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evalvault_pipeline.scoring.doctor import Finding, examine
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.doubles.ollama_models import OllamaModel
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.stack import free_port

MODELS = (
    OllamaModel(name="tiny", context_length=8192),
    OllamaModel(name="short", context_length=2048),
    OllamaModel(name="tiny-embed", capabilities=("embedding",)),
)


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer(models=MODELS) as server:
        yield server


def found(folder: Path, **settings: str) -> dict[str, Finding]:
    """What was examined -> the finding; of several of one kind, the last."""
    chosen = load_settings(folder, EVALVAULT_RESULTS_DIR=str(folder), **settings)
    return {finding.what: finding for finding in examine(chosen)}


def of_ollama(folder: Path, server: OllamaServer, **settings: str) -> dict[str, Finding]:
    given = {"EVALVAULT_JUDGE_MODEL": "tiny", "EVALVAULT_EMBEDDING_MODEL": "tiny-embed", **settings}
    return found(folder, EVALVAULT_PROFILE="dev", OLLAMA_BASE_URL=server.url, **given)


def of_openai(folder: Path, server: OpenAIServer, **settings: str) -> dict[str, Finding]:
    given = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-right", **settings}
    return found(folder, EVALVAULT_PROFILE="openai", EVALVAULT_JUDGE_MODEL="gpt-4o-mini", **given)


def failures(findings: dict[str, Finding]) -> list[tuple[str, int]]:
    return [(finding.what, finding.exit_code) for finding in findings.values() if not finding.fine]


def test_a_sound_ollama_is_examined_from_store_to_vector(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama)
    assert failures(findings) == []
    assert list(findings) == ["score store", "server", "context length", "answer", "embeddings", "price"]
    assert findings["score store"].found.endswith("holds 0 scores")
    assert findings["server"].found == f"{ollama.url} answers, 3 models"
    assert findings["context length"].found == "the model takes 8192 tokens, num_ctx is 8192"
    assert findings["embeddings"].found == "tiny-embed gives 64 dimensions"
    assert findings["price"].found.startswith("not known")


def test_a_sound_openai_server_has_a_price(tmp_path: Path):
    with OpenAIServer(keys=["sk-right"]) as server:
        findings = of_openai(tmp_path, server)
    assert failures(findings) == []
    assert findings["price"].found.startswith("$0.15 for a million prompt tokens, $0.6 ")


def test_without_a_judge_there_is_nothing_to_examine_but_the_store(tmp_path: Path):
    findings = found(tmp_path, EVALVAULT_PROFILE="offline")
    assert list(findings) == ["score store", "judge"] and failures(findings) == []


def test_a_server_that_does_not_run_is_to_be_started(tmp_path: Path):
    findings = found(tmp_path, EVALVAULT_PROFILE="dev", OLLAMA_BASE_URL=f"127.0.0.1:{free_port()}")
    assert failures(findings) == [("server", 3)]
    assert findings["server"].remedy == "Start it with `ollama serve`, or set OLLAMA_BASE_URL to where it runs."


def test_a_model_that_is_not_there_is_to_be_pulled_or_another_one_chosen(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama, EVALVAULT_JUDGE_MODEL="missing")
    assert ("model", 2) in failures(findings)
    assert findings["model"].remedy.startswith("Run `ollama pull missing`, or set EVALVAULT_JUDGE_MODEL to one of: short")


def test_a_context_longer_than_the_model_takes_is_to_be_shortened(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama, EVALVAULT_JUDGE_MODEL="short")
    assert ("context length", 2) in failures(findings)
    assert findings["context length"].remedy == "Set OLLAMA_NUM_CTX to 2048 at most."


def test_a_context_that_holds_no_prompt_is_found_before_the_run_does(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama, OLLAMA_NUM_CTX="600")
    assert failures(findings) == [("context length", 2)]
    assert findings["context length"].remedy.endswith("set OLLAMA_NUM_CTX to 8192.")


def test_a_model_that_cannot_chat_is_the_settings_fault(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama, EVALVAULT_JUDGE_MODEL="tiny-embed")
    assert ("answer", 2) in failures(findings)
    assert findings["answer"].remedy == "Choose other models with EVALVAULT_JUDGE_MODEL and EVALVAULT_EMBEDDING_MODEL."


def test_a_wrong_key_is_named_and_never_shown(tmp_path: Path):
    with OpenAIServer(keys=["sk-right"], echo_key="whole") as server:
        findings = of_openai(tmp_path, server, OPENAI_API_KEY="sk-wrong-0123456789")
    assert failures(findings) == [("server", 2)]
    assert "OPENAI_API_KEY" in findings["server"].remedy and "sk-wrong" not in repr(findings)


def test_a_model_that_ignores_the_schema_is_found_out(tmp_path: Path):
    with OpenAIServer(answer=lambda *_, **__: "Certainly! The sky is blue.") as server:
        findings = of_openai(tmp_path, server)
    assert failures(findings) == [("answer", 2)]
    assert "Certainly!" in findings["answer"].found and "Choose another model" in findings["answer"].remedy


def test_a_server_that_hangs_is_left_after_its_timeout(tmp_path: Path):
    with OpenAIServer(latency=5.0) as server:
        findings = of_openai(tmp_path, server, OPENAI_TIMEOUT="0.3")
    assert ("answer", 3) in failures(findings)
    assert findings["answer"].remedy.startswith("Raise OPENAI_TIMEOUT")


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path):
    missing = tmp_path / "judge.gguf"
    findings = found(tmp_path, EVALVAULT_PROFILE="gguf", EVALVAULT_GGUF=str(missing))
    ((what, code),) = failures(findings)
    assert code == 2 and str(missing) in findings[what].found


def test_a_store_that_cannot_be_opened_is_found_before_the_judge(ollama: OllamaServer, tmp_path: Path):
    findings = of_ollama(tmp_path, ollama, EVALVAULT_STORE_URL=f"postgresql://127.0.0.1:{free_port()}/scores")
    assert failures(findings) == [("score store", 3)]
