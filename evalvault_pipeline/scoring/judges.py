"""The judge: what every provider offers, in one interface of two calls, and how a call can fail.

The providers stand in `ollama.py`, `openai.py` and `gguf.py`, chosen by `providers.py`; retries, limits and budgets in
`calls.py`; what is asked, in `ragas_metrics.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.secrets import Secret
from evalvault_pipeline.settings import Settings

if TYPE_CHECKING:
    import numpy as np

Message = tuple[Literal["user", "assistant"], str]
DEFAULT_CONCURRENCY = {"openai": 64, "ollama": 4, "gguf": 2}
# These think before they answer: only the default temperature, and the answer's limit counts the thoughts.
REASONING = re.compile(r"(o[1-9]([-_].*)?|gpt-([5-9]|1\d)([-_.].*)?|codex-mini)$", re.IGNORECASE)
# What ragas 0.4.3 sends by default (llms/base.py, InstructorModelArgs); its scores are made with these.
TEMPERATURE, TOP_P = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """Which judge, where, and how it is asked. `model_path` and `embedding_path` are files of a GGUF judge."""

    provider: Literal["ollama", "openai", "gguf"]
    model: str
    embedding_model: str | None = None
    base_url: str = ""
    api_key: Secret | None = None
    timeout_seconds: float = 120.0
    max_concurrency: int = 4
    max_tokens: int = 2048
    num_ctx: int = 8192
    keep_alive: str = "10m"
    model_path: Path | None = None
    embedding_path: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def shown_url(self) -> str:
        """Where the judge is, without a user and password in the address."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def sampling(self) -> dict[str, float]:
        """Temperature and top_p as they are sent; a model that thinks takes neither."""
        thinks = self.provider == "openai" and REASONING.fullmatch(self.model.rsplit("/", 1)[-1])
        return {} if thinks else {"temperature": TEMPERATURE, "top_p": TOP_P}


@dataclass(frozen=True, kw_only=True)
class JudgeIdentity:
    """What decides about a judge's scores: the parts that are hashed into its fingerprint.

    `weights` and `embedding_weights` are digests of the models where the provider tells them, so that a model that is pulled
    again under the same name is another judge.
    """

    spec: JudgeSpec
    weights: str = ""
    embedding_weights: str = ""

    def fingerprint(self, *, chat: bool, embeddings: bool) -> str:
        """`provider/model@hash` over what a metric uses of the judge."""
        spec = self.spec
        parts: dict[str, Any] = {"provider": spec.provider}
        if spec.provider == "openai" and spec.base_url != OPENAI_URL:
            parts["base_url"] = spec.shown_url
        if chat:
            parts |= {
                "model": spec.model,
                "weights": self.weights,
                **spec.sampling,
                "max_tokens": spec.max_tokens,
            }
            if spec.provider != "openai":
                parts["num_ctx"] = spec.num_ctx
        if embeddings:
            parts |= {"embedding_model": spec.embedding_model, "embedding_weights": self.embedding_weights}
        name = spec.name if chat else f"{spec.provider}/{spec.embedding_model}"
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return f"{name[:100]}@{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def details(self) -> dict[str, Any]:
        """The identity as a report shows it."""
        spec = self.spec
        shown = {
            "provider": spec.provider,
            "server": spec.shown_url if spec.base_url != OPENAI_URL else "",
            "model": spec.model,
            "weights": self.weights,
            "embedding_model": spec.embedding_model or "",
            "embedding_weights": self.embedding_weights,
            **spec.sampling,
            "max_tokens": spec.max_tokens,
            "num_ctx": None if spec.provider == "openai" else spec.num_ctx,
            "fingerprint": self.fingerprint(chat=True, embeddings=True),
        }
        return {name: value for name, value in shown.items() if value not in (None, "")}


OPENAI_URL = "https://api.openai.com/v1"


def judge_spec(settings: Settings) -> JudgeSpec | None:
    """The judge of the profile; None for a profile without one. Raises InvalidSetting where a model file is not there.

    Whether its key or file is set at all is asked by `Settings.require_judge`: who only names the judge needs neither.
    """
    profile = settings.profile
    if profile.provider is None or profile.model is None:
        return None
    for variable, path in (("EVALVAULT_GGUF", settings.gguf), ("EVALVAULT_EMBEDDING_GGUF", settings.embedding_gguf)):
        if profile.provider == "gguf" and path is not None and not path.is_file():
            raise InvalidSetting(f"{variable} names {path}, and there is no such file. Name a GGUF model file.")
    openai = profile.provider == "openai"
    urls = {"openai": settings.openai_base_url or OPENAI_URL, "ollama": settings.ollama_base_url, "gguf": ""}
    return JudgeSpec(
        provider=profile.provider,
        model=profile.model,
        embedding_model=profile.embedding_model,
        base_url=urls[profile.provider],
        api_key=Secret(name="OPENAI_API_KEY", sources=settings) if openai else None,
        timeout_seconds=settings.openai_timeout_seconds if openai else settings.ollama_timeout_seconds,
        max_concurrency=settings.max_concurrency or DEFAULT_CONCURRENCY[profile.provider],
        max_tokens=settings.judge_max_tokens,
        num_ctx=settings.ollama_num_ctx,
        keep_alive=settings.ollama_keep_alive,
        model_path=settings.gguf if profile.provider == "gguf" else None,
        embedding_path=settings.embedding_gguf if profile.provider == "gguf" else None,
    )


class CallFailed(Exception):
    """A call that gave nothing usable.

    `retry`: the same call may do better in a moment. `throttled`: the server asks for patience, `retry_after` seconds where it
    says so. `fatal`: no call can do better (wrong key, unknown model). `unreachable`: there was no answer at all.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        retry: bool = False,
        throttled: bool = False,
        retry_after: float | None = None,
        fatal: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry = retry
        self.throttled = throttled
        self.retry_after = retry_after
        self.fatal = fatal
        self.unreachable = unreachable


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an answer must look like: a JSON Schema, and the check that makes a value of a text or raises ValueError."""

    name: str
    schema: Mapping[str, Any]
    schema_json: bytes
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One text of the judge; `cut` where it ends at the token limit, `refused` where the judge declined."""

    text: str
    cut: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one chat call gave, and its tokens; `cached_tokens` of the prompt are billed at a lower price."""

    replies: tuple[Reply, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each text, and the tokens of all."""

    vectors: Sequence[np.ndarray]
    tokens: int


class Judge(ABC):
    """A model that answers in JSON of a given shape, and an embedding model. Both calls raise CallFailed."""

    several_replies = False  # whether one call can give more than one

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def chat(self, messages: Sequence[Message], shape: Shape, *, n: int, max_tokens: int, seed: int) -> Answer:
        """`n` replies, or fewer where the server gives one at a time."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> Embeddings: ...
