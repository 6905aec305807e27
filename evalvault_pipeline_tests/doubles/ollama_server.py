"""A stand-in for Ollama 0.32.15: its own API, and the part of OpenAI's that it serves under /v1.

What the real server answered is recorded in `ollama_recorded.json`, and `test_ollama_server.py` holds this one to it. Which
models there are lives in `ollama_models`, what is wrong with a request in `ollama_requests`.

Not here: /v1/completions and /v1/responses, logprobs, tool calls (a model with tools answers in words), pictures, and
pulling, which always fails as it does without a network.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from evalvault_pipeline_tests.doubles import ollama_requests as requests
from evalvault_pipeline_tests.doubles.faults import Fault, Script, spoilt
from evalvault_pipeline_tests.doubles.judge_answers import answer_for, embedding_for
from evalvault_pipeline_tests.doubles.ollama_models import (
    DEFAULT_MODELS,
    PULLED,
    Memory,
    OllamaModel,
    as_model,
    find,
    rfc3339,
    with_tag,
)
from evalvault_pipeline_tests.doubles.ollama_requests import Wrong
from evalvault_pipeline_tests.doubles.serving import (
    EMBEDDING_FAULTS,
    Body,
    LoopbackServer,
    Mind,
    NotJSON,
    cut_to_tokens,
    json_response,
    text_of,
    thought,
    token_count,
)

VERSION = "0.32.15"
DEFAULT_NUM_CTX = 4096  # without a GPU
CHAT, GENERATE, EMBED, EMBEDDINGS = "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"
V1_CHAT, V1_EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
UTF8_JSON = "application/json; charset=utf-8"
DIED = "an error was encountered while running the model: unexpected EOF"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
REFUSAL = "I'm sorry, but I can't help with that."
_CHARACTERS_A_CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a model made of a prompt; tokens are those it read and those it wrote."""

    content: str
    thinking: str
    done_reason: str
    prompt_tokens: int
    tokens: int
    load_seconds: float


class OllamaServer(LoopbackServer):
    """Ollama on loopback.

    - `models`: the models it has, as `OllamaModel` or by name (what they can do is then guessed from the name). The default are
      `tiny` (completion), `tiny-tools` (completion, tools, thinking) and `tiny-embed` (embedding), as recorded.
    - `default_num_ctx`: the context of a model that says nothing of it.
    - `load_seconds`: how long a model takes to load, the first time and whenever num_ctx changes; meanwhile at most `max_queue`
      requests wait, and one more gets 503. `limit` gives the same 503 without a load.
    - `max_loaded`: how many models it keeps in memory; one more puts another out. `memory.loads` counts the loads by model.
    """

    def __init__(
        self,
        *,
        models: Sequence[OllamaModel | str] = DEFAULT_MODELS,
        default_num_ctx: int = DEFAULT_NUM_CTX,
        load_seconds: float = 0.0,
        max_queue: int = 512,
        max_loaded: int = 3,
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
        self.models = [as_model(model) for model in models]
        self.default_num_ctx, self.load_seconds, self.max_queue = default_num_ctx, load_seconds, max_queue
        self.memory = Memory(max_loaded)
        self._loading: asyncio.Lock | None = None
        self._waiting_for_load = 0

    @property
    def base_url(self) -> str:
        """What OpenAI's client takes."""
        return f"{self.url}/v1"

    def routes(self) -> Iterable[web.RouteDef]:
        # Asked for at every start: a server that comes back has nothing loaded, and a lock belongs to one event loop.
        self._loading, self._waiting_for_load, self.memory = asyncio.Lock(), 0, Memory(self.memory.room)
        return [
            web.get("/", self._root),
            web.get("/api/version", self._version),
            web.get("/api/tags", self._tags),
            web.get("/api/ps", self._ps),
            web.post("/api/show", self._show),
            web.post("/api/pull", self._pull),
            web.delete("/api/delete", self._delete),
            web.post(CHAT, self.work(self._chat_refused, self._chat)),
            web.post(GENERATE, self.work(self._generate_refused, self._generate)),
            web.post(EMBED, self.work(self._embed_refused, self._embed, spoils=EMBEDDING_FAULTS)),
            web.post(EMBEDDINGS, self.work(self._embeddings_refused, self._embeddings, spoils=EMBEDDING_FAULTS)),
            web.get("/v1/models", self._v1_models),
            web.get("/v1/models/{model:.+}", self._v1_model),
            web.post(V1_CHAT, self.work(self._v1_chat_refused, self._v1_chat)),
            web.post(V1_EMBEDDINGS, self.work(self._v1_embeddings_refused, self._v1_embeddings, spoils=EMBEDDING_FAULTS)),
        ]

    # Errors

    def broken(self, request: web.Request) -> web.Response:
        return _error(request, Wrong(500, "llama runner process has terminated: exit status 2"))

    def throttled(self, request: web.Request, retry_after: str | None) -> web.Response:
        """Ollama's cloud does this; a local server never."""
        response = _error(request, Wrong(429, "too many requests, please try again later"))
        if retry_after:
            response.headers["Retry-After"] = retry_after
        return response

    def busy(self, request: web.Request, retry_after: str | None = None) -> web.Response:
        """Without Retry-After, whatever is asked for: Ollama sends none."""
        return _error(request, Wrong(503, BUSY))

    def over_limit(self, request: web.Request) -> web.Response:
        return self.busy(request)

    def unrouted(self, request: web.Request, status: int) -> web.Response:
        said = "404 page not found" if status == 404 else "405 method not allowed"
        return web.Response(body=said.encode(), status=status, headers={"Content-Type": "text/plain"})

    async def died(self, request: web.Request, body: Body) -> web.StreamResponse:
        if request.path != CHAT or not body.get("stream", True):
            return _error(request, Wrong(500, DIED))
        begun = {"model": body["model"], "created_at": _now(), "message": {"role": "assistant", "content": "{"}, "done": False}
        return await _streamed(request, [_line(begun), _line({"error": DIED})])

    # The server and its models

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _tags(self, request: web.Request) -> web.Response:
        return _json({"models": [model.tag() for model in self.models]})

    async def _ps(self, request: web.Request) -> web.Response:
        return _json({"models": [one.told() for one in self.memory.now()]})

    async def _show(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if isinstance(body, dict):
            body = {**body, "model": body.get("model") or body.get("name")}
        wrong = requests.wrong_body(request.path, body) or requests.wrong_name(body)
        if wrong:
            return _error(request, wrong)
        model = find(self.models, body["model"])
        return _json(model.shown()) if model else _error(request, Wrong(404, f"model '{with_tag(body['model'])}' not found"))

    async def _pull(self, request: web.Request) -> web.Response:
        body = await _body(request)
        wrong = requests.wrong_body(request.path, body) or requests.wrong_name(body)
        if wrong:
            return _error(request, wrong)
        name, _, tag = with_tag(body["model"]).rpartition(":")
        place = f"https://registry.ollama.ai/v2/library/{name}/manifests/{tag}"
        said = f'pull model manifest: Get "{place}": dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: no such host'
        return json_response({"error": said}, status=500)

    async def _delete(self, request: web.Request) -> web.Response:
        body = await _body(request)
        wrong = requests.wrong_body(request.path, body) or requests.wrong_name(body) or self._unknown(body)
        if wrong:
            return _error(request, wrong)
        self.models = [model for model in self.models if model is not find(self.models, body["model"])]
        return web.Response()

    def _unknown(self, body: Mapping[str, Any]) -> Wrong | None:
        return None if find(self.models, body["model"]) else Wrong(404, f"model '{body['model']}' not found")

    def _model(self, body: Mapping[str, Any]) -> OllamaModel:
        """The model that the request names, after it was found to be there."""
        model = find(self.models, body["model"])
        assert model is not None
        return model

    # Loading and generating

    def _num_ctx(self, body: Mapping[str, Any]) -> int:
        model = self._model(body)
        asked = (body.get("options") or {}).get("num_ctx")
        return min(int(asked or model.num_ctx or self.default_num_ctx), model.context_length)

    async def _loaded(self, body: Mapping[str, Any]) -> float | None:
        """Load the model if it is not, or with another context; the seconds that took, None if too many wait for it."""
        model, num_ctx, began = self._model(body), self._num_ctx(body), time.perf_counter()
        if self.memory.holds(model, num_ctx):
            return 0.0
        if self._waiting_for_load > self.max_queue:
            return None
        assert self._loading is not None
        self._waiting_for_load += 1
        try:
            async with self._loading:
                if not self.memory.holds(model, num_ctx):
                    await asyncio.sleep(self.load_seconds)
                    self.memory.load(model, num_ctx)
        finally:
            self._waiting_for_load -= 1
        return time.perf_counter() - began

    async def _generated(self, body: Body, texts: Sequence[str], fault: Fault | None) -> Generated | None:
        """Read as much of the texts as fits, think if the model does, and answer; None if too many wait for a load."""
        load_seconds = await self._loaded(body)
        if load_seconds is None:
            return None
        model, kept = self._model(body), _fitting(texts, self._num_ctx(body))
        options = body.get("options") or {}
        left = options.get("num_predict") or 0
        thinking = _thinking(model, body, left)
        content, reason = self._content(body, kept, int(options.get("seed") or 0), fault)
        tokens = _tokens(thinking) + token_count(content)
        if 0 < left < tokens:
            content, reason, tokens = cut_to_tokens(content, max(0, left - _tokens(thinking))), "length", left
        self.memory.keep(model, requests.keep_alive_seconds(body))
        return Generated(
            content=content,
            thinking=thinking,
            done_reason=reason,
            prompt_tokens=sum(map(token_count, kept)),
            tokens=tokens,
            load_seconds=load_seconds,
        )

    def _content(self, body: Body, texts: Sequence[str], seed: int, fault: Fault | None) -> tuple[str, str]:
        if fault and fault.kind in ("refusal", "content_filter"):
            return REFUSAL, "stop"
        wanted = body.get("format")
        schema = wanted if isinstance(wanted, dict) else None
        return spoilt(thought(self.answer, schema, texts, wants_json=wanted == "json", occurrence=seed), fault)

    async def _only_loaded(self, request: web.Request, body: Body, shape: Mapping[str, Any]) -> web.StreamResponse:
        """Nothing to answer: load the model, or let it go with keep_alive 0."""
        seconds = requests.keep_alive_seconds(body)
        if seconds != 0 and await self._loaded(body) is None:
            return self.busy(request)
        self.memory.keep(self._model(body), seconds)
        told = {"model": body["model"], "created_at": _now(), **shape, "done": True}
        return _json({**told, "done_reason": "unload" if seconds == 0 else "load"})

    # /api/chat

    def _chat_refused(self, request: web.Request, body: Any) -> web.Response | None:
        return _refused(request, requests.wrong_body(request.path, body) or self._chat_wrong(body, "chat"))

    def _chat_wrong(self, body: Body, what: str) -> Wrong | None:
        """What is wrong with a chat whose body has the right types."""
        wrong = requests.wrong_name(body) or self._unknown(body)
        return (
            wrong
            or self._cannot(body, what)
            or requests.wrong_options(body)
            or requests.wrong_format(body)
            or self._does_not_fit(body)
        )

    def _cannot(self, body: Mapping[str, Any], what: str) -> Wrong | None:
        """What the request wants of the model that it cannot do."""
        model = self._model(body)
        if not model.can("completion"):
            return Wrong(400, f'"{body["model"]}" does not support {what}')
        if body.get("tools") and not model.can("tools"):
            return Wrong(400, f"registry.ollama.ai/library/{model.full_name} does not support tools")
        if body.get("think") and not model.can("thinking"):
            return Wrong(400, f'"{body["model"]}" does not support thinking')
        if any(message.get("images") for message in body.get("messages") or ()) and not model.can("vision"):
            said = "Multimodal data provided, but model does not support multimodal requests."
            return Wrong(400, requests.stringified({"code": 400, "message": said, "type": "invalid_request_error"}))
        return None

    def _does_not_fit(self, body: Mapping[str, Any]) -> Wrong | None:
        """A prompt that is too long and may not be cut."""
        tokens, num_ctx = sum(map(token_count, _texts(body))), self._num_ctx(body)
        if tokens < num_ctx:
            return None
        if body.get("truncate") is False:
            return requests.too_long(tokens, num_ctx)
        return Wrong(400, requests.TOO_LONG_TO_SHIFT) if body.get("shift") is False else None

    async def _chat(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        began = time.perf_counter()
        if not body.get("messages"):
            return await self._only_loaded(request, body, {"message": {"role": "assistant", "content": ""}})
        made = await self._generated(body, _texts(body), fault)
        if made is None:
            return self.busy(request)
        first = {"model": body["model"], "created_at": _now()}
        last = {"done": True, "done_reason": made.done_reason, **_timings(made, time.perf_counter() - began)}
        if not body.get("stream", True):
            return _json({**first, "message": _message(made), **last})
        pieces = [("thinking", piece) for piece in _pieces(made.thinking)] + [("content", p) for p in _pieces(made.content)]
        lines = [
            {**first, "message": {"role": "assistant", "content": "", name: piece}, "done": False} for name, piece in pieces
        ]
        lines.append({**first, "message": {"role": "assistant", "content": ""}, **last})
        return await _streamed(request, map(_line, lines))

    # /api/generate

    def _generate_refused(self, request: web.Request, body: Any) -> web.Response | None:
        return _refused(request, requests.wrong_body(request.path, body) or self._chat_wrong(body, "generate"))

    async def _generate(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        began = time.perf_counter()
        if not body.get("prompt"):
            return await self._only_loaded(request, body, {"response": ""})
        made = await self._generated(body, _texts(body), fault)
        if made is None:
            return self.busy(request)
        first = {"model": body["model"], "created_at": _now()}
        context = {} if body.get("raw") else {"context": list(range(1, made.prompt_tokens + made.tokens))}
        last = {"done": True, "done_reason": made.done_reason, **context, **_timings(made, time.perf_counter() - began)}
        thinking = {"thinking": made.thinking} if made.thinking else {}
        if not body.get("stream", True):
            return _json({**first, "response": made.content, **thinking, **last})
        lines = [{**first, "response": piece, "done": False} for piece in _pieces(made.content)]
        return await _streamed(request, map(_line, [*lines, {**first, "response": "", **last}]))

    # /api/embed and /api/embeddings

    def _embed_refused(self, request: web.Request, body: Any) -> web.Response | None:
        wrong = requests.wrong_body(request.path, body)
        return _refused(request, wrong or self._embed_wrong(body, _inputs(body)))

    def _embed_wrong(self, body: Body, inputs: Sequence[str] | None) -> Wrong | None:
        if inputs is None:
            return Wrong(400, "invalid input type")
        wrong = requests.wrong_name(body)
        if wrong:
            return wrong
        model = find(self.models, body["model"])
        if model is None:
            return Wrong(404, f'model "{body["model"]}" not found, try pulling it first')
        if inputs and not model.can("embedding"):
            return Wrong(501, requests.NO_EMBEDDINGS)
        if not all(inputs):
            return Wrong(400, requests.NOTHING_TO_EMBED)
        if body.get("truncate") is False and any(token_count(text) > self._num_ctx(body) for text in inputs):
            return Wrong(400, requests.TOO_LONG_TO_EMBED)
        return requests.wrong_options(body)

    async def _embed(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        began, inputs = time.perf_counter(), _inputs(body) or []
        load_seconds = await self._loaded(body)
        if load_seconds is None:
            return self.busy(request)
        vectors, tokens = self._vectors(body, inputs)
        self.memory.keep(self._model(body), requests.keep_alive_seconds(body))
        if fault and fault.kind == "out_of_schema":
            vectors = vectors[:-1]
        told: dict[str, Any] = {"model": body["model"], "embeddings": vectors}
        if inputs:
            told["total_duration"] = _nanoseconds(time.perf_counter() - began)
            told["load_duration"] = _nanoseconds(load_seconds + 1e-3)
            told["prompt_eval_count"] = tokens
        return _cut_if_malformed(_json(told), fault)

    def _vectors(self, body: Mapping[str, Any], texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """The embeddings, of as much of each text as fits, and the tokens that were read."""
        kept = [cut_to_tokens(text, self._num_ctx(body)) for text in texts]
        whole = self._model(body).embedding_length
        asked = body.get("dimensions") or whole
        return [_shortened(embedding_for(text, whole), asked) for text in kept], sum(map(token_count, kept))

    def _embeddings_refused(self, request: web.Request, body: Any) -> web.Response | None:
        wrong = requests.wrong_body(request.path, body)
        return _refused(request, wrong or self._embed_wrong(body, [body["prompt"]] if body.get("prompt") else []))

    async def _embeddings(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        if await self._loaded(body) is None:
            return self.busy(request)
        vectors, _ = self._vectors(body, [body["prompt"]] if body.get("prompt") else [])
        self.memory.keep(self._model(body), requests.keep_alive_seconds(body))
        return _cut_if_malformed(_json({"embedding": vectors[0] if vectors else []}), fault)

    # /v1, which turns into the above

    async def _v1_models(self, request: web.Request) -> web.Response:
        return _v1_json({"object": "list", "data": [_v1_model(model.full_name) for model in self.models]})

    async def _v1_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if find(self.models, name):
            return _v1_json(_v1_model(name))
        return _error(request, Wrong(404, f"model '{with_tag(name)}' not found"))

    def _v1_chat_refused(self, request: web.Request, body: Any) -> web.Response | None:
        early = _v1_wrong_body(body)
        if early:
            return _error(request, early, content_type=UTF8_JSON)
        return _refused(request, self._chat_wrong(_native(body), "chat"))

    async def _v1_chat(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        native = _native(body)
        made = await self._generated(native, _texts(native), fault)
        if made is None:
            return self.busy(request)
        usage = {
            "prompt_tokens": made.prompt_tokens,
            "completion_tokens": made.tokens,
            "total_tokens": made.prompt_tokens + made.tokens,
        }
        head = {"id": f"chatcmpl-{self.calls[V1_CHAT]}", "created": int(time.time()), "model": body["model"]}
        told = {**head, "system_fingerprint": "fp_ollama"}
        if body.get("stream"):
            return await _v1_streamed(
                request, told, made, usage if (body.get("stream_options") or {}).get("include_usage") else None
            )
        message = {"role": "assistant", "content": made.content, **({"reasoning": made.thinking} if made.thinking else {})}
        choice = {"index": 0, "message": message, "finish_reason": made.done_reason}
        return _v1_json({**told, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _v1_embeddings_refused(self, request: web.Request, body: Any) -> web.Response | None:
        if isinstance(body, NotJSON) or not isinstance(body, dict):
            return _error(request, requests.wrong_body(EMBED, body) or Wrong(400, "invalid input"), content_type=UTF8_JSON)
        if body.get("input") in (None, []):
            return _error(request, Wrong(400, "invalid input"), content_type=UTF8_JSON)
        wanted = body.get("encoding_format", "float")
        if wanted not in ("float", "base64"):
            said = f"Invalid value for 'encoding_format' = {wanted}. Supported values: ['float', 'base64']."
            return _error(request, Wrong(400, said), content_type=UTF8_JSON)
        return _refused(request, self._embed_wrong(body, _v1_inputs(body)))

    async def _v1_embeddings(self, request: web.Request, body: Body, fault: Fault | None) -> web.StreamResponse:
        if await self._loaded(body) is None:
            return self.busy(request)
        vectors, tokens = self._vectors(body, _v1_inputs(body) or [])
        if fault and fault.kind == "out_of_schema":
            vectors = vectors[:-1]
        packed = body.get("encoding_format") == "base64"
        data = [{"object": "embedding", "embedding": _packed(v) if packed else v, "index": i} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _cut_if_malformed(_v1_json({"object": "list", "data": data, "model": body["model"], "usage": usage}), fault)


# Reading


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return NotJSON(raw)


def _texts(body: Mapping[str, Any]) -> list[str]:
    """What the model reads: the messages of a chat, or the prompt."""
    if "messages" in body:
        return [text_of(message) for message in body["messages"] or ()]
    return [text for text in (body.get("system"), body.get("prompt")) if text]


def _fitting(texts: Sequence[str], num_ctx: int) -> list[str]:
    """The newest texts that fit in the context; if the last one alone does not, its end, half a context long."""
    kept: list[str] = []
    for text in reversed(texts):
        if kept and sum(map(token_count, kept)) + token_count(text) >= num_ctx:
            break
        kept.insert(0, text)
    if token_count(kept[0]) < num_ctx:
        return kept
    half = num_ctx // 2 + 2
    return [kept[0].encode()[-half * 4 :].decode(errors="ignore"), *kept[1:]]


def _thinking(model: OllamaModel, body: Mapping[str, Any], most: int) -> str:
    """What the model thinks first: it does so unless it cannot or is told not to, and `format` does not hold for it."""
    if not model.can("thinking") or body.get("think") is False:
        return ""
    thinking = ("Let me look at the statements and the context again. " * model.thinking_tokens)[: model.thinking_tokens * 4]
    return cut_to_tokens(thinking, most) if most > 0 else thinking


def _tokens(text: str) -> int:
    return token_count(text) if text else 0


def _inputs(body: Mapping[str, Any]) -> list[str] | None:
    """The texts to embed; None where the input is neither a text nor a list of them."""
    wanted = body.get("input")
    if wanted is None or wanted == "":
        return []
    texts = [wanted] if isinstance(wanted, str) else wanted
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _v1_inputs(body: Mapping[str, Any]) -> list[str] | None:
    """Under /v1 an empty text is a text."""
    return [""] if body.get("input") == "" else _inputs(body)


def _v1_wrong_body(body: Any) -> Wrong | None:
    """What is wrong before the request is turned into one of Ollama's own."""
    if isinstance(body, NotJSON) or not isinstance(body, dict):
        return requests.wrong_body(V1_CHAT, body)
    messages = body.get("messages")
    if messages is not None and not isinstance(messages, list):
        field = "Go struct field ChatCompletionRequest.messages of type []openai.Message"
        return Wrong(400, f"json: cannot unmarshal {'string' if isinstance(messages, str) else 'object'} into {field}")
    return None if messages else Wrong(400, "[] is too short - 'messages'")


def _native(body: Body) -> Body:
    """An OpenAI request as one of Ollama's own. What Ollama does not know is left out: n, num_ctx, max_completion_tokens..."""
    wanted = body.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
    options = {"num_predict": body.get("max_tokens"), "seed": body.get("seed"), "temperature": body.get("temperature")}
    return {
        "model": body.get("model"),
        "messages": [{**message, "content": text_of(message)} for message in body["messages"]],
        "tools": body.get("tools"),
        "format": {"json_object": "json", "json_schema": schema}.get(wanted.get("type", "")),
        "think": None if effort is None else effort != "none" and effort,
        "options": {name: value for name, value in options.items() if value is not None},
    }


# Writing


def _json(value: Any) -> web.Response:
    return json_response(value, content_type=UTF8_JSON)


def _v1_json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value) + b"\n", headers={"Content-Type": "application/json"})


def _refused(request: web.Request, wrong: Wrong | None) -> web.Response | None:
    return _error(request, wrong) if wrong else None


def _error(request: web.Request, wrong: Wrong, *, content_type: str | None = None) -> web.Response:
    """An error in Ollama's shape, or under /v1 in OpenAI's."""
    if not request.path.startswith("/v1/"):
        return json_response({"error": wrong.message}, status=wrong.status, content_type=UTF8_JSON)
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(wrong.status, "api_error")
    error = {"message": wrong.message, "type": kind, "param": None, "code": None}
    return json_response({"error": error}, status=wrong.status, content_type=content_type or "application/json")


def _message(made: Generated) -> dict[str, Any]:
    return {"role": "assistant", "content": made.content, **({"thinking": made.thinking} if made.thinking else {})}


def _timings(made: Generated, seconds: float) -> dict[str, int]:
    """Durations in nanoseconds."""
    return {
        "total_duration": _nanoseconds(seconds + 1e-3),
        "load_duration": _nanoseconds(made.load_seconds + 1e-4),
        "prompt_eval_count": made.prompt_tokens,
        "prompt_eval_duration": made.prompt_tokens * 10_000,
        "eval_count": made.tokens,
        "eval_duration": made.tokens * 100_000,
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def _pieces(text: str) -> list[str]:
    return [text[at : at + _CHARACTERS_A_CHUNK] for at in range(0, len(text), _CHARACTERS_A_CHUNK)]


def _line(value: Any) -> bytes:
    return orjson.dumps(value) + b"\n"


async def _streamed(
    request: web.Request, lines: Iterable[bytes], *, content_type: str = "application/x-ndjson"
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    for line in lines:
        await response.write(line)
    await response.write_eof()
    return response


async def _v1_streamed(
    request: web.Request, told: Mapping[str, Any], made: Generated, usage: Mapping[str, int] | None
) -> web.StreamResponse:
    chunk = {**told, "object": "chat.completion.chunk"}
    deltas = [{"reasoning": piece} for piece in _pieces(made.thinking)] + [
        {"content": piece} for piece in _pieces(made.content)
    ]
    choices = [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": made.done_reason})
    events = [{**chunk, "choices": [choice]} for choice in choices]
    if usage:
        events.append({**chunk, "choices": [], "usage": usage})
    lines = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
    return await _streamed(request, [*lines, b"data: [DONE]\n\n"], content_type="text/event-stream")


def _v1_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(PULLED.timestamp()), "owned_by": "library"}


def _shortened(vector: Sequence[float], dimensions: int) -> list[float]:
    """The beginning of a vector, of length 1 again; asked for more than there is, all of it."""
    part = list(vector[:dimensions])
    length = math.sqrt(sum(value * value for value in part))
    return [value / length for value in part] if length else [1.0, *part[1:]]


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _cut_if_malformed(response: web.Response, fault: Fault | None) -> web.Response:
    if fault and fault.kind == "malformed" and isinstance(response.body, bytes):
        response.body = response.body[: len(response.body) // 2]
    return response
