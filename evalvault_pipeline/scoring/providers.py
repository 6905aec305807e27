"""Which provider a judge spec means: the judge itself, its identity, its own SDK client."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalvault_pipeline.scoring import gguf, ollama, openai
from evalvault_pipeline.scoring.judges import Judge, JudgeIdentity, JudgeSpec


@dataclass(frozen=True, kw_only=True)
class JudgeAccess:
    """What the Dagster resource `judge` hands out: who judges, and a client of the provider's own SDK for other uses."""

    profile: str
    spec: JudgeSpec | None

    def client(self) -> Any:
        """An `openai.OpenAI` or `ollama.Client` for the judge's server; None without one, and for a GGUF file."""
        return sdk_client(self.spec) if self.spec else None


def judge_for(spec: JudgeSpec) -> Judge:
    """The judge of this provider, not yet opened."""
    kinds: dict[str, type[Judge]] = {"ollama": ollama.OllamaJudge, "openai": openai.OpenAIJudge, "gguf": gguf.GgufJudge}
    return kinds[spec.provider](spec)


def sdk_client(spec: JudgeSpec) -> Any:
    """The provider's own client, for users of the Dagster resource; None for a GGUF file."""
    if spec.provider == "ollama":
        return ollama.sdk_client(spec)
    return openai.sdk_client(spec) if spec.provider == "openai" else None


def models(spec: JudgeSpec) -> dict[str, int | None]:
    """Model -> its context length in tokens (None where the server does not tell), by the provider's SDK.

    Empty for a server that does not list models, and for a GGUF file. Raises CallFailed.
    """
    if spec.provider == "ollama":
        return ollama.listed(spec)
    return openai.listed(spec) if spec.provider == "openai" else {}


def identify(spec: JudgeSpec) -> JudgeIdentity:
    """Ask the provider what the model's weights are; no model is called. Raises JudgeUnavailable."""
    if spec.provider == "ollama":
        digests = ollama.model_digests(spec)
        return JudgeIdentity(
            spec=spec,
            weights=digests.get(_tagged(spec.model), ""),
            embedding_weights=digests.get(_tagged(spec.embedding_model or ""), ""),
        )
    if spec.provider == "gguf":
        return JudgeIdentity(
            spec=spec, weights=_file_digest(spec.model_path), embedding_weights=_file_digest(spec.embedding_path)
        )
    return JudgeIdentity(spec=spec)


def _tagged(model: str) -> str:
    return model if ":" in model else f"{model}:latest"


def _file_digest(path: Path | None) -> str:
    """Size, head and tail of a model file: reading gigabytes at every start would tell no more."""
    if path is None:
        return ""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(size - (1 << 20), 0))
        digest.update(file.read())
    return digest.hexdigest()[:16]
