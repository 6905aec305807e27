"""A stand-in for OpenAI's API: chat completions (without streaming), embeddings and models, in OpenAI's words.

Errors are worded as api.openai.com words them, because clients tell them apart by `code`, `param` and message.
"""

from __future__ import annotations

import base64
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from aiohttp import web

from evalvault_pipeline_tests.doubles.faults import Fault, Script, spoilt
from evalvault_pipeline_tests.doubles.judge_answers import answer_for, embedding_for
from evalvault_pipeline_tests.doubles.serving import (
    EMBEDDING_FAULTS,
    Body,
    LoopbackServer,
    Mind,
    cut_to_tokens,
    json_response,
    text_of,
    thought,
    token_count,
)

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
REFUSAL = "I'm sorry, but I can't assist with that request."
_SCHEMA_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class OpenAIServer(LoopbackServer):
    """OpenAI's API on loopback; `base_url` is what a client takes.

    - `keys`: the bearer keys it knows; None takes any, also none. `echo_key=True` repeats a wrong key masked as OpenAI does,
      `echo_key="whole"` repeats all of it, as careless gateways do; the default does not repeat it.
    - `models`: the models it knows; None takes any.
    - `refuse`: parameters that the model does not take (400), such as {"temperature", "max_tokens"}.
    - `refuse_json_schema`: it takes no response_format of type json_schema (400).
    - `native_n=False`: it ignores `n`, as Ollama and most local servers do.
    - `vary=True`: a prompt that comes again is answered as the next occurrence; else the answer depends on the request alone
      (on `seed` and the choice's index).
    - `dimensions`: length of an embedding, unless the request asks for fewer.
    """

    def __init__(
        self,
        *,
        keys: Collection[str] | None = None,
        echo_key: bool | Literal["whole"] = False,
        models: Sequence[str] | None = None,
        refuse: Collection[str] = (),
        refuse_json_schema: bool = False,
        native_n: bool = True,
        vary: bool = False,
        dimensions: int = 64,
        latency: float | Callable[[int], float] = 0.0,
        script: Script | None = None,
        limit: int | None = None,
        parallel: int | None = None,
        record: bool = False,
        answer: Mind = answer_for,
        port: int = 0,
    ) -> None:
        super().__init__(
            latency=latency, script=script, limit=limit, parallel=parallel, record=record, answer=answer, port=port
        )
        self.keys, self.echo_key, self.models = keys, echo_key, models
        self.refuse, self.refuse_json_schema = refuse, refuse_json_schema
        self.native_n, self.vary, self.dimensions = native_n, vary, dimensions
        self._asked: Counter[int] = Counter()

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post(CHAT, self.work(self._chat_refused, self._chat)),
            web.post(EMBEDDINGS, self.work(self._embeddings_refused, self._embeddings, spoils=EMBEDDING_FAULTS)),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{model:.+}", self._model),
        ]

    # Errors

    def error(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        kind: str = "",
        param: str | None = None,
        code: str | None = None,
    ) -> web.Response:
        kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        error = {"message": message, "type": kind, "param": param, "code": code}
        return json_response({"error": error}, status=status, headers=headers)

    def broken(self, request: web.Request) -> web.Response:
        return self.error(500, "The server had an error while processing your request. Sorry about that!")

    def throttled(self, request: web.Request, retry_after: str | None) -> web.Response:
        message = (
            "Rate limit reached for requests. Please try again later. Visit https://platform.openai.com/account/rate-limits."
        )
        headers = {"x-ratelimit-remaining-requests": "0", **({"Retry-After": retry_after} if retry_after else {})}
        return self.error(429, message, headers=headers, kind="requests", code="rate_limit_exceeded")

    def over_limit(self, request: web.Request) -> web.Response:
        return self.throttled(request, "1")

    def unrouted(self, request: web.Request, status: int) -> web.Response:
        if status == 405:
            return self.error(405, f"Not allowed to {request.method} on {request.path}.", code="method_not_supported")
        return self.error(404, f"Invalid URL ({request.method} {request.path})")

    def busy(self, request: web.Request, retry_after: str | None) -> web.Response:
        headers = {"Retry-After": retry_after} if retry_after else None
        return self.error(503, "The engine is currently overloaded, please try again later", headers=headers)

    async def died(self, request: web.Request, body: Body) -> web.StreamResponse:
        return self.broken(request)

    def _not_allowed(self, request: web.Request) -> web.Response | None:
        """401 where keys are asked for and the request has none of them."""
        if self.keys is None:
            return None
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not key:
            how = "You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            return self.error(401, f"You didn't provide an API key. {how}")
        if key in self.keys:
            return None
        return self.error(401, self._wrong_key(key), code="invalid_api_key")

    def _wrong_key(self, key: str) -> str:
        masked = key[:8] + "*" * max(0, len(key) - 12) + key[-4:] if len(key) > 12 else "*" * len(key)
        told = f": {key if self.echo_key == 'whole' else masked}" if self.echo_key else ""
        return f"Incorrect API key provided{told}. You can find your API key at https://platform.openai.com/account/api-keys."

    def _unknown_model(self, model: str) -> web.Response | None:
        if self.models is None or model in self.models:
            return None
        message = f"The model `{model}` does not exist or you do not have access to it."
        return self.error(404, message, code="model_not_found")

    def _refused(self, request: web.Request, body: Any) -> web.Response | None:
        """What is wrong with any request for work."""
        denied = self._not_allowed(request)
        if denied:
            return denied
        if not isinstance(body, dict):
            return self.error(400, "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly.)")  # fmt: skip
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return self.error(400, "you must provide a model parameter")
        return self._unknown_model(model)

    # Models

    async def _models(self, request: web.Request) -> web.Response:
        return self._not_allowed(request) or json_response({"object": "list", "data": [_model(m) for m in self.models or ()]})

    async def _model(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        return self._not_allowed(request) or self._unknown_model(model) or json_response(_model(model))

    # Chat

    def _chat_refused(self, request: web.Request, body: Any) -> web.Response | None:
        refused = self._refused(request, body)
        if refused:
            return refused
        for name in sorted(set(self.refuse) & body.keys()):
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            message = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
            return self.error(400, message, param=name, code="unsupported_parameter")
        messages = body.get("messages")
        if not isinstance(messages, list):
            return self.error(
                400, "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
            )
        if not messages:
            message = (
                "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
            )
            return self.error(400, message, param="messages", code="empty_array")
        if body.get("stream"):
            return self.error(400, "This stand-in does not stream.", param="stream", code="unsupported_value")
        return self._response_format_refused(body)

    def _response_format_refused(self, body: Body) -> web.Response | None:
        wanted = body.get("response_format") or {"type": "text"}
        if wanted.get("type") == "json_schema":
            return self._json_schema_refused(wanted.get("json_schema"))
        if wanted.get("type") == "json_object":
            if not any("json" in text_of(message).lower() for message in body["messages"]):
                message = (
                    "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
                )
                return self.error(400, message, param="messages")
            return None
        if wanted.get("type") == "text":
            return None
        message = f"Invalid value: '{wanted.get('type')}'. Supported values are: 'json_object', 'json_schema', and 'text'."
        return self.error(400, message, param="response_format.type", code="invalid_value")

    def _json_schema_refused(self, wanted: Any) -> web.Response | None:
        if self.refuse_json_schema:
            message = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
            return self.error(400, message, param="response_format")
        for name in ("name", "schema"):
            if not isinstance(wanted, dict) or not wanted.get(name):
                param = f"response_format.json_schema.{name}"
                return self.error(
                    400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
                )
        if not _SCHEMA_NAME.fullmatch(wanted["name"]):
            param = "response_format.json_schema.name"
            message = f"Invalid '{param}': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
            return self.error(400, message, param=param, code="invalid_value")
        wrong = _not_strict(wanted["schema"], ()) if wanted.get("strict") else None
        if wrong:
            return self.error(400, f"Invalid schema for response_format '{wanted['name']}': {wrong}", param="response_format")
        return None

    async def _chat(self, request: web.Request, body: Body, fault: Fault | None) -> web.Response:
        count = int(body.get("n") or 1) if self.native_n else 1
        choices = [self._choice(body, index, fault) for index in range(count)]
        prompt_tokens = sum(token_count(text_of(message)) for message in body["messages"])
        completion_tokens = sum(token_count(choice["message"]["content"] or REFUSAL) for choice in choices)
        return json_response(
            {
                "id": f"chatcmpl-{self.calls[CHAT]}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body["model"],
                "choices": choices,
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "total_tokens": prompt_tokens + completion_tokens,
                    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
                },
                "service_tier": "default",
                "system_fingerprint": "fp_double",
            },
            headers={"x-request-id": f"req_{self.calls[CHAT]}"},
        )

    def _choice(self, body: Body, index: int, fault: Fault | None) -> dict[str, Any]:
        if fault and fault.kind == "refusal":
            return _choice(index, None, "stop", refusal=REFUSAL)
        if fault and fault.kind == "content_filter":
            return _choice(index, None, "content_filter")
        content, finish = spoilt(self._thought(body, index), fault)
        longest = body.get("max_completion_tokens") or body.get("max_tokens")
        if longest and token_count(content) > longest:
            content, finish = cut_to_tokens(content, longest), "length"
        return _choice(index, content, finish)

    def _thought(self, body: Body, index: int) -> Any:
        """The answer of choice `index`."""
        wanted = body.get("response_format") or {}
        texts = [text_of(message) for message in body["messages"]]
        occurrence = index + int(body.get("seed") or 0)
        if self.vary:
            asked = hash((texts[-1], index))
            occurrence += self._asked[asked]
            self._asked[asked] += 1
        schema = (wanted.get("json_schema") or {}).get("schema")
        return thought(self.answer, schema, texts, wants_json=wanted.get("type") == "json_object", occurrence=occurrence)

    # Embeddings

    def _embeddings_refused(self, request: web.Request, body: Any) -> web.Response | None:
        refused = self._refused(request, body)
        if refused:
            return refused
        texts = body.get("input")
        if isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts):
            pass
        elif not isinstance(texts, str) or not texts:
            return self.error(400, "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.")  # fmt: skip
        if body.get("encoding_format", "float") not in ("float", "base64"):
            message = f"Invalid value: '{body['encoding_format']}'. Supported values are: 'float' and 'base64'."
            return self.error(400, message, param="encoding_format", code="invalid_value")
        return None

    async def _embeddings(self, request: web.Request, body: Body, fault: Fault | None) -> web.Response:
        """Of the faults in the content, `malformed` cuts the body and `out_of_schema` leaves the last vector out."""
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        dimensions = min(int(body.get("dimensions") or self.dimensions), self.dimensions)
        packed = body.get("encoding_format") == "base64"
        data = [_embedding(index, text, dimensions, packed=packed) for index, text in enumerate(texts)]
        tokens = sum(map(token_count, texts))
        if fault and fault.kind == "out_of_schema":
            data.pop()
        response = json_response(
            {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        )
        if fault and fault.kind == "malformed" and isinstance(response.body, bytes):
            response.body = response.body[: len(response.body) // 2]
        return response


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "openai"}


def _choice(index: int, content: str | None, finish: str, *, refusal: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _embedding(index: int, text: str, dimensions: int, *, packed: bool) -> dict[str, Any]:
    vector = embedding_for(text, dimensions)
    told = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if packed else vector
    return {"object": "embedding", "index": index, "embedding": told}


def _not_strict(schema: Any, path: tuple[str, ...]) -> str | None:
    """Why OpenAI's strict mode does not take this schema, in its words; None where it does."""
    if not isinstance(schema, dict):
        return None
    place = f"In context={path!r}, "
    properties = schema.get("properties")
    if isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return f"{place}'additionalProperties' is required to be supplied and to be false."
        missing = [name for name in properties if name not in schema.get("required", ())]
        if missing:
            return f"{place}'required' is required to be supplied and to be an array including every key in properties. Missing '{missing[0]}'."
    if "default" in schema:
        return f"{place}'default' is not permitted."
    if "$ref" in schema and len(schema) > 1:
        return f"{place}$ref cannot have keywords { {name for name in schema if name != '$ref'} }."
    below = [(*path, group, name) for group in ("properties", "$defs") for name in schema.get(group, ())]
    below += [(*path, "items")] * isinstance(schema.get("items"), dict)
    return next((wrong for at in below if (wrong := _not_strict(_below(schema, at[len(path) :]), at))), None)


def _below(schema: dict[str, Any], steps: tuple[str, ...]) -> Any:
    for step in steps:
        schema = schema[step]
    return schema
