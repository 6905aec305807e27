"""A judge on an Ollama server, by its own API: `/api/chat` and `/api/embed`.

Its OpenAI-compatible API cuts a long prompt silently and cannot be told not to; here it is told, and checked. Behaviour was
observed on Ollama 0.32.15.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from evalvault_pipeline.errors import JudgeUnavailable
from evalvault_pipeline.scoring.judges import (
    TEMPERATURE,
    TOP_P,
    Answer,
    CallFailed,
    Embeddings,
    Judge,
    JudgeSpec,
    Message,
    Reply,
    Shape,
)
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.scoring.transport import Transport, failure, no_json, text_in

if TYPE_CHECKING:
    import ollama

TOO_LONG = re.compile(r"exceed_context_size|longer than the context length|exceeds (the|maximum) context", re.IGNORECASE)
# Text has 2 to 6 bytes a token; more means that the server counted only a part of the prompt.
MOST_BYTES_PER_TOKEN = 7.5


class OllamaJudge(Judge):
    """Chat and embeddings over HTTP."""

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(spec)
        self._transport = Transport(spec)

    async def open(self) -> None:
        await self._transport.open()

    async def close(self) -> None:
        await self._transport.close()

    async def chat(self, messages: Sequence[Message], shape: Shape, *, n: int, max_tokens: int, seed: int) -> Answer:
        options = {
            "num_ctx": self.spec.num_ctx,  # always the same: another value makes Ollama load the model again
            "num_predict": max_tokens,
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "seed": seed,
        }
        fields = {
            "model": self.spec.model,
            "stream": False,
            "think": False,  # a model that thinks would spend the answer's tokens on it, and not in the wanted format
            "truncate": False,
            "shift": False,
            "keep_alive": self.spec.keep_alive,
            "options": options,
        }
        sent = orjson.dumps([{"role": role, "content": text} for role, text in messages])
        body = orjson.dumps(fields)[:-1] + b',"format":' + shape.schema_json + b',"messages":' + sent + b"}"
        status, headers, content = await self._transport.post("/api/chat", body)
        if status != 200:
            raise self._failure(status, headers, content)
        return self._answer(content, sum(len(text.encode()) for _, text in messages))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        import numpy as np

        fields = {
            "model": self.spec.embedding_model,
            "input": list(texts),
            "truncate": False,
            "keep_alive": self.spec.keep_alive,
        }
        status, headers, content = await self._transport.post("/api/embed", orjson.dumps(fields))
        if status == 400 and TOO_LONG.search(_message(content)):
            longest = max(len(text) for text in texts)
            detail = f"a text of {longest:,} characters is longer than {self.spec.embedding_model} takes"
            raise CallFailed(Reason.TRUNCATED, f"{detail}. Choose another model with EVALVAULT_EMBEDDING_MODEL.")
        if status != 200:
            raise self._failure(status, headers, content)
        try:
            body = orjson.loads(content)
            vectors = [np.asarray(vector, dtype=np.float64) for vector in body["embeddings"]]
            if len(vectors) != len(texts) or any(vector.ndim != 1 or not vector.size for vector in vectors):
                raise ValueError("not one vector for each text")
            return Embeddings(vectors, int(body.get("prompt_eval_count") or 0))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise no_json(self.spec, content) from None

    def _answer(self, content: bytes, prompt_bytes: int) -> Answer:
        try:
            body = orjson.loads(content)
            if error := body.get("error"):
                raise CallFailed(Reason.JUDGE_ERROR, f"Ollama failed: {str(error)[:200]}", retry=True)
            text, cut = text_in(body["message"]), body.get("done_reason") == "length"
            prompt_tokens, completion_tokens = int(body.get("prompt_eval_count") or 0), int(body.get("eval_count") or 0)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise no_json(self.spec, content) from None
        half = self.spec.num_ctx // 2 - 16
        if prompt_tokens >= half and prompt_bytes > MOST_BYTES_PER_TOKEN * prompt_tokens:
            raise CallFailed(
                Reason.TRUNCATED,
                f"Ollama read {prompt_tokens} tokens of a prompt of {prompt_bytes} bytes: it cut it to num_ctx "
                f"{self.spec.num_ctx}. Raise OLLAMA_NUM_CTX.",
            )
        return Answer((Reply(text, cut),), prompt_tokens, completion_tokens)

    def _failure(self, status: int, headers: Mapping[str, str], content: bytes) -> CallFailed:
        message = _message(content)
        if status in (400, 500) and TOO_LONG.search(message):
            found = re.search(r"n_prompt_tokens\D+(\d+)", message)
            length = f"{found[1]} tokens" if found else "longer"
            return CallFailed(
                Reason.TRUNCATED, f"the prompt is {length}, num_ctx is {self.spec.num_ctx}. Raise OLLAMA_NUM_CTX."
            )
        if status == 404:
            return CallFailed(Reason.JUDGE_ERROR, f"Ollama says: {message[:200]}", fatal=True)
        if status == 501 or (status == 400 and "does not support" in message):
            return CallFailed(Reason.JUDGE_ERROR, f"Ollama says: {message[:200]}", fatal=True)
        return failure(self.spec, status, headers, message)


def _message(content: bytes) -> str:
    try:
        error = orjson.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")
    return str(error.get("error", error)) if isinstance(error, dict) else str(error)


def model_digests(spec: JudgeSpec) -> dict[str, str]:
    """Model name with tag -> digest of its weights, for what the server holds. Raises JudgeUnavailable.

    A server that does not list models (a proxy) gives an empty answer.
    """
    try:
        with urllib.request.urlopen(f"{spec.base_url}/api/tags", timeout=10) as answer:  # noqa: S310  http(s) by Settings
            models = json.load(answer).get("models") or []
            return {item["name"]: item["digest"][:16] for item in models}
    except urllib.error.HTTPError as error:
        error.close()
        return {}
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise JudgeUnavailable(
            f"Ollama at {spec.shown_url} does not answer: {reason}. Start it (`ollama serve`), or set OLLAMA_BASE_URL; "
            "`evalvault doctor` checks the judge."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def sdk_client(spec: JudgeSpec) -> ollama.Client:
    """The provider's own client, for listing models and for users of the Dagster resource."""
    import ollama as sdk

    return sdk.Client(host=spec.base_url, timeout=30.0)


def listed(spec: JudgeSpec) -> dict[str, int | None]:
    """Model -> context length in tokens (None where the server does not tell). Raises CallFailed."""
    import ollama as sdk

    client = sdk_client(spec)
    try:
        names = [str(model.model) for model in client.list().models]
        return {name: _context_length(client.show(name).modelinfo or {}) for name in names}
    except sdk.ResponseError as error:
        raise CallFailed(Reason.JUDGE_ERROR, f"{spec.shown_url}: HTTP {error.status_code}: {str(error.error)[:200]}") from None
    except (ConnectionError, OSError) as error:
        raise CallFailed(Reason.JUDGE_ERROR, f"no connection to {spec.shown_url}: {error}", unreachable=True) from None


def _context_length(info: Mapping[str, Any]) -> int | None:
    return next((int(value) for name, value in info.items() if name.endswith(".context_length")), None)
