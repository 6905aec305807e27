"""A judge that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, a gateway.

Chat completions with a strict JSON schema, several replies of one call where the server gives them, `/embeddings`. What a
server or model does not take (temperature, max_tokens, json_schema) is left out after its first refusal. The key is read when
the judge is opened, and again when the server refuses it: a long run goes on with a key that was rotated.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import SecretStr

from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.scoring.judges import (
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
from evalvault_pipeline.secrets import required_secret

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

# The answer's limit counts the thoughts of a model that thinks first; it is a ceiling, and costs nothing by itself.
ROOM_TO_THINK = 4
TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|maximum context|too many tokens|too large to process|physical batch size", re.IGNORECASE
)
UNSUPPORTED = re.compile(r"unsupported|not supported|unknown|unrecognized|not permitted|extra", re.IGNORECASE)
NO_N = re.compile(r"""['"`]n['"`]""")
NO_SCHEMA = re.compile(r"response_format|json_schema|json schema", re.IGNORECASE)


class OpenAIJudge(Judge):
    """Chat completions and embeddings over HTTP."""

    several_replies = True

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(spec)
        self._transport = Transport(spec)
        self._key: SecretStr | None = None
        self._limit_name = "max_tokens" if spec.sampling else "max_completion_tokens"
        self._room = 1 if spec.sampling else ROOM_TO_THINK
        self._sampling = spec.sampling
        self._format = "json_schema"
        self._several = True
        self._limit_renamed = False  # once: a value that is too large is refused under either name
        self._vectors_as = "base64"
        self._adapted = 0  # how often the request's form was changed
        self._heads: dict[tuple[bytes, int, int, int], bytes] = {}

    async def open(self) -> None:
        """Raises UnusableSecret, SecretUnavailable."""
        self._key = _key(self.spec)
        await self._transport.open()

    async def close(self) -> None:
        await self._transport.close()

    async def chat(self, messages: Sequence[Message], shape: Shape, *, n: int, max_tokens: int, seed: int) -> Answer:
        while True:
            form = self._adapted
            body = self._chat_body(messages, shape, n, max_tokens)
            status, headers, content = await self._post("/chat/completions", body)
            if status == 200:
                return self._answer(content)
            error = _error(content)
            if form == self._adapted and not self._adapt(status, error):
                raise self._failure(status, headers, error)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        while True:
            form = self._adapted
            wanted = {"model": self.spec.embedding_model, "input": list(texts)}
            if self._vectors_as == "base64":
                wanted["encoding_format"] = "base64"
            status, headers, content = await self._post("/embeddings", orjson.dumps(wanted))
            if status == 200:
                return self._embeddings(content, len(texts))
            error = _error(content)
            if form != self._adapted:
                continue
            if status in (400, 422) and "encoding_format" in error["message"] and self._vectors_as == "base64":
                self._vectors_as = "float"
                self._adapted += 1
                continue
            raise self._failure(status, headers, error)

    async def _post(self, path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        key = self._key
        answered = await self._transport.post(path, body, _headers(key))
        if answered[0] in (401, 403) and await self._has_another(key):
            answered = await self._transport.post(path, body, _headers(self._key))
        return answered

    async def _has_another(self, refused: SecretStr | None) -> bool:
        """Whether there is another key by now than the one that was refused."""
        if self._key == refused and self.spec.api_key is not None:
            try:
                self._key = await asyncio.to_thread(self.spec.api_key.read, refused=refused) or refused
            except PipelineError as error:
                log.warning("The judge refuses its key, and no other can be read: %s", error)
        return self._key != refused

    def _chat_body(self, messages: Sequence[Message], shape: Shape, n: int, max_tokens: int) -> bytes:
        """All but the messages is the same for every call of a shape, so it is made once."""
        key = (shape.schema_json, n, max_tokens, self._adapted)  # two shapes of ragas share a name
        head = self._heads.get(key)
        if head is None:
            fields: dict[str, Any] = {"model": self.spec.model, **self._sampling, self._limit_name: max_tokens * self._room}
            if n > 1 and self._several:
                fields["n"] = n
            if self._format == "json_schema":
                schema = {"name": shape.name, "strict": True, "schema": shape.schema}
                fields["response_format"] = {"type": "json_schema", "json_schema": schema}
            elif self._format == "json_object":
                fields["response_format"] = {"type": "json_object", "schema": shape.schema}
            head = self._heads[key] = orjson.dumps(fields)[:-1] + b',"messages":'
        return head + orjson.dumps([{"role": role, "content": text} for role, text in messages]) + b"}"

    def _adapt(self, status: int, error: Mapping[str, str]) -> bool:
        """Leave out what the server does not take; False where that is not the matter."""
        if status not in (400, 422) and not (status == 500 and "Input should be" in error["message"]):
            return False
        said = f"{error['param']} {error['message']}"
        other = "max_tokens" if self._limit_name == "max_completion_tokens" else "max_completion_tokens"
        if not self._limit_renamed and self._limit_name in said and UNSUPPORTED.search(f"{said} {error['code']}"):
            self._limit_name, self._limit_renamed = other, True
        elif found := next((name for name in self._sampling if name in said), None):
            self._sampling = {name: value for name, value in self._sampling.items() if name != found}
        elif self._several and (error["param"] == "n" or NO_N.search(error["message"])):
            self._several = False  # llama.cpp gives as many replies as it has slots; the others are asked for one by one
        elif NO_SCHEMA.search(said) and self._format != "none":
            self._format = "json_object" if self._format == "json_schema" else "none"
        else:
            return False
        self._adapted += 1
        return True

    def _failure(self, status: int, headers: Mapping[str, str], error: Mapping[str, str]) -> CallFailed:
        said = without_secrets(error["message"])
        if status in (400, 413, 500) and (TOO_LONG.search(said) or TOO_LONG.search(error["code"])):
            return CallFailed(Reason.TRUNCATED, f"the prompt is longer than {self.spec.model} takes: {said[:200]}")
        if status == 400 and "content_filter" in (error["code"], error["type"]):
            return CallFailed(Reason.REFUSED, f"the judge's content filter refused the prompt: {said[:200]}")
        if status == 404:
            return CallFailed(Reason.JUDGE_ERROR, f"HTTP 404: {said[:200]}", fatal=True)
        if status == 429 and error["code"] == "insufficient_quota":
            return CallFailed(Reason.JUDGE_ERROR, f"the account's quota is spent: {said[:200]}", fatal=True)
        return failure(self.spec, status, headers, error["message"])

    def _answer(self, content: bytes) -> Answer:
        try:
            body = orjson.loads(content)
            usage = body.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            return Answer(
                tuple(_reply(choice) for choice in body["choices"]),
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
                int(details.get("cached_tokens") or 0),
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            raise no_json(self.spec, content) from None

    def _embeddings(self, content: bytes, count: int) -> Embeddings:
        import numpy as np

        try:
            body = orjson.loads(content)
            vectors: list[Any] = [None] * count
            for item in body["data"]:
                values = item["embedding"]
                packed = isinstance(values, str)
                vectors[item["index"]] = (
                    np.frombuffer(base64.b64decode(values), dtype=np.float32).astype(np.float64)
                    if packed
                    else np.asarray(values, dtype=np.float64)
                )
            if any(vector is None or vector.ndim != 1 or not vector.size for vector in vectors):
                raise ValueError("not one vector for each text")
            return Embeddings(vectors, int((body.get("usage") or {}).get("prompt_tokens") or 0))
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            raise no_json(self.spec, content) from None


def _key(spec: JudgeSpec) -> SecretStr | None:
    """The key now; None for a server that asks for none. Raises UnusableSecret, SecretUnavailable."""
    return required_secret(spec.api_key.name, spec.api_key.sources) if spec.api_key else None


def _headers(key: SecretStr | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}


def _reply(choice: Mapping[str, Any]) -> Reply:
    message = choice["message"]
    finish = choice.get("finish_reason")
    refused = bool(message.get("refusal")) or finish == "content_filter"
    return Reply(message.get("refusal") or text_in(message), finish == "length", refused)


def _error(content: bytes) -> dict[str, str]:
    """Message, param, code and type of an error body in any of the forms that servers give it."""
    try:
        error = orjson.loads(content)
    except ValueError:
        error = content.decode("utf-8", "replace")
    if isinstance(error, dict):
        error = error.get("error") or error.get("detail") or error.get("message") or error
    fields = error if isinstance(error, dict) else {"message": error}
    return {name: str(fields.get(name) or "") for name in ("message", "param", "code", "type")}


def sdk_client(spec: JudgeSpec) -> openai.OpenAI:
    """The provider's own client, for listing models and for users of the Dagster resource."""
    import openai as sdk

    key = _key(spec)
    return sdk.OpenAI(api_key=key.get_secret_value() if key else "none", base_url=spec.base_url, timeout=30.0, max_retries=1)


def listed(spec: JudgeSpec) -> dict[str, int | None]:
    """The models that the server lists, without their context lengths; empty where it lists none. Raises CallFailed."""
    import openai as sdk

    try:
        return {model.id: None for model in sdk_client(spec).models.list()}
    except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
        detail = f"the judge refuses the key (HTTP {error.status_code})"
        raise CallFailed(Reason.JUDGE_ERROR, detail, fatal=True) from None
    except sdk.NotFoundError:
        return {}
    except sdk.APIStatusError as error:
        raise CallFailed(Reason.JUDGE_ERROR, f"{spec.shown_url}: HTTP {error.status_code}") from None
    except sdk.APIError:
        raise CallFailed(Reason.JUDGE_ERROR, f"no connection to {spec.shown_url}", unreachable=True) from None
