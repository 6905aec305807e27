"""What Ollama finds wrong with a request before any model sees it: statuses and words as version 0.32.15 gives them.

Go decodes the body into a struct first, so a wrong type is an error of Go's own; what a model can do is asked after that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalvault_pipeline_tests.doubles.ollama_models import LOADED_SECONDS
from evalvault_pipeline_tests.doubles.serving import NotJSON

THINK_LEVELS = ("high", "medium", "low", "max")
TOO_LONG_TO_SHIFT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
TOO_LONG_TO_EMBED = "the input length exceeds the context length"
NOTHING_TO_EMBED = "input exceeds maximum context length and cannot be truncated further"
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"

_MODEL_NAME = re.compile(r"(?:[\w.-]+(?::\d+)?/)?(?:[\w.-]+/)?[\w.-]+(?::[\w.-]+)?")
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_JSON_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_STRUCTS = {
    "/api/chat": (
        "ChatRequest",
        {
            "model": "string",
            "messages": "[]api.Message",
            "stream": "bool",
            "tools": "api.Tools",
            "truncate": "bool",
            "shift": "bool",
        },
    ),
    "/api/generate": ("GenerateRequest", {"model": "string", "prompt": "string", "system": "string", "stream": "bool"}),
    "/api/embed": ("EmbedRequest", {"model": "string", "truncate": "bool", "dimensions": "int"}),
    "/api/embeddings": ("EmbeddingRequest", {"model": "string", "prompt": "string"}),
}
_OPTIONS = {
    **dict.fromkeys(
        "num_ctx num_predict num_keep num_batch num_gpu main_gpu num_thread seed top_k repeat_last_n".split(), "integer"
    ),
    **dict.fromkeys("temperature top_p min_p typical_p repeat_penalty presence_penalty frequency_penalty".split(), "float32"),
    **{"use_mmap": "boolean", "stop": "array"},
}


@dataclass(frozen=True)
class Wrong:
    """A status and the text under "error"."""

    status: int
    message: str


def wrong_body(path: str, body: Any) -> Wrong | None:
    """What is wrong with the body as such: absent, cut, or of a wrong type."""
    if isinstance(body, NotJSON):
        return Wrong(400, _unparsable(body.raw))
    struct, types = _STRUCTS.get(path, ("Request", {"model": "string"}))
    if not isinstance(body, dict):
        return Wrong(400, f"json: cannot unmarshal {_go_kind(body)} into Go value of type api.{struct}")
    for name, wanted in {**types, "options": "map[string]interface {}"}.items():
        if body.get(name) is not None and not _fits(body[name], wanted):
            return Wrong(
                400, f"json: cannot unmarshal {_go_kind(body[name])} into Go struct field {struct}.{name} of type {wanted}"
            )
    return _wrong_message(body.get("messages") or (), struct) or _wrong_duration(body) or _wrong_think(body)


def wrong_name(body: Mapping[str, Any]) -> Wrong | None:
    """A model that is not named, or cannot be the name of one."""
    if not body.get("model"):
        return Wrong(400, "model is required")
    return None if _MODEL_NAME.fullmatch(body["model"]) else Wrong(400, "invalid model name")


def wrong_options(body: Mapping[str, Any]) -> Wrong | None:
    """An option of a wrong type; an unknown one is ignored."""
    for name, value in (body.get("options") or {}).items():
        kind = _OPTIONS.get(name)
        if kind and value is not None and not _is_option(value, kind):
            return Wrong(500, f'option "{name}" must be of type {kind}')
    return None


def wrong_format(body: Mapping[str, Any]) -> Wrong | None:
    """A `format` that is neither "json" nor a schema, or a schema that no grammar can be made of."""
    wanted = body.get("format")
    if wanted in (None, "", "json") and not isinstance(wanted, bool):
        return None
    if not isinstance(wanted, dict):
        quoted = json.dumps(json.dumps(wanted, ensure_ascii=False), ensure_ascii=False)
        return Wrong(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    unknown = _unknown_type(wanted)
    if unknown is None:
        return None
    said = f"Field 'json_schema': \"json_schema\": JSON schema conversion failed:\nJSON schema error at #: unrecognized type {unknown}"
    return Wrong(400, stringified({"code": 400, "message": said, "type": "invalid_request_error"}))


def too_long(tokens: int, num_ctx: int) -> Wrong:
    """The prompt does not fit and may not be truncated."""
    said = f"request ({tokens} tokens) exceeds the available context size ({num_ctx} tokens), try increasing it"
    error = {"code": 400, "message": said, "type": "exceed_context_size_error", "n_prompt_tokens": tokens, "n_ctx": num_ctx}
    return Wrong(400, stringified(error))


def stringified(error: Mapping[str, Any]) -> str:
    """An error of the llama-server below, which Ollama passes on as text."""
    return json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))


def keep_alive_seconds(body: Mapping[str, Any]) -> float | None:
    """How long the model stays after this request; None for ever."""
    wanted = body.get("keep_alive")
    if wanted is None:
        return LOADED_SECONDS
    seconds = float(wanted) if isinstance(wanted, (int, float)) else _seconds(wanted)
    return None if seconds is None or seconds < 0 else seconds


def _unparsable(raw: bytes) -> str:
    if not raw:
        return "missing request body"
    text = raw.decode(errors="replace")
    try:
        json.loads(text)
    except json.JSONDecodeError as wrong:
        if wrong.pos < len(text.rstrip()) - 1:
            return f"invalid character '{text[wrong.pos]}' looking for beginning of value"
    return "unexpected EOF"


def _go_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", list: "array", dict: "object"}.get(type(value), "null")


def _fits(value: Any, wanted: str) -> bool:
    if wanted in ("string", "bool"):
        return isinstance(value, str if wanted == "string" else bool)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, dict if wanted.startswith("map") else list)


def _wrong_message(messages: Any, struct: str) -> Wrong | None:
    for message in messages:
        if not isinstance(message, dict):
            return Wrong(
                400, f"json: cannot unmarshal {_go_kind(message)} into Go struct field {struct}.messages of type api.Message"
            )
        for name in ("role", "content"):
            if message.get(name) is not None and not isinstance(message[name], str):
                place = f"Go struct field {struct}.messages.{name} of type string"
                return Wrong(400, f"json: cannot unmarshal {_go_kind(message[name])} into {place}")
    return None


def _wrong_duration(body: Mapping[str, Any]) -> Wrong | None:
    wanted = body.get("keep_alive")
    if wanted is None or (isinstance(wanted, (int, float)) and not isinstance(wanted, bool)):
        return None
    if isinstance(wanted, str) and _DURATION.fullmatch(wanted):
        return None
    return Wrong(400, f'time: invalid duration "{wanted}"')


def _seconds(duration: str) -> float | None:
    found = _DURATION.fullmatch(duration)
    if not found:
        return None
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", found[2])
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts) * (-1 if found[1] == "-" else 1)


def _wrong_think(body: Mapping[str, Any]) -> Wrong | None:
    wanted = body.get("think")
    if wanted is None or isinstance(wanted, bool) or wanted in THINK_LEVELS:
        return None
    levels = ", ".join(f'"{level}"' for level in THINK_LEVELS)
    return Wrong(400, f"invalid think value: {json.dumps(wanted)} (must be {levels}, true, or false)")


def _is_option(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "array":
        return isinstance(value, list)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unknown_type(schema: Any) -> str | None:
    """The first type in a schema that JSON Schema does not know."""
    if not isinstance(schema, dict):
        return None
    named = schema.get("type", "object")
    for one in named if isinstance(named, list) else [named]:
        if one not in _JSON_TYPES:
            return str(one)
    below = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), schema.get("items")]
    return next((found for found in map(_unknown_type, below) if found is not None), None)
