"""A judge that answers after a set latency, in a process of its own: `python -m benchmarks.judge_server --latency 0.2`.

It speaks OpenAI's chat completions and embeddings and Ollama's native API, prints its port, and counts what it serves.
An answer is made once for each JSON schema asked for (in `response_format`, in `format`, or in the text of a prompt as
ragas writes it) and differs between prompts by a checksum in its texts: the same prompt gets the same answer, whichever
client sends it. One request costs 0.1 to 0.2 ms of processor time, so that the client under test has a core for itself.

GET /stats gives the counts since the last POST /reset. Latency is from the last byte of the request to the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import resource
import time
import zlib
from array import array
from collections.abc import Callable
from json import JSONDecoder
from typing import Any

import orjson

try:
    from uvloop import run as run_loop
except ImportError:  # not on Windows; asyncio costs about twice as much
    from asyncio import run as run_loop

MODELS = ("gpt-5-mini", "gemma3:1b", "gpt-oss-safeguard:20b", "qwen3-embedding:0.6b", "qwen3-embedding:8b")
DIMENSIONS = 64
VECTORS = 1024
ITEMS = 3
SCHEMA_IN_PROMPT = "schema as specified in JSON Schema:\n"
# By the name of the property; `@` stands for the checksum of the prompt.
TEXTS = {
    "question": "자동차보험의 입원 보험금은 얼마까지 받을 수 있나요? (@)",
    "statement": "보험금은 {}만원을 한도로 지급됩니다. (@)",
    "statements": "보험금은 {}만원을 한도로 지급됩니다. (@)",
    "claims": "보험금은 {}만원을 한도로 지급됩니다. (@)",
    "reason": "약관의 해당 조항이 한도와 지급 횟수를 그대로 정하고 있습니다.",
}
GOLDEN = 0.6180339887498949


class Answers:
    """Canned answers by schema, with the marks where a prompt's checksum goes."""

    def __init__(self) -> None:
        self._openai: dict[tuple[bytes, int], bytes] = {}
        self._ollama: dict[bytes, bytes] = {}

    def openai(self, body: dict[str, Any]) -> bytes:
        choices = body.get("n") or 1
        prompt = _text(body["messages"][-1]["content"])
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        key = (orjson.dumps(schema) if schema else _key_in(prompt), choices)
        if key not in self._openai:
            content = _content(key[0])
            answer = {
                "id": "chatcmpl-bench",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": body.get("model", "bench"),
                "choices": [
                    {
                        "index": index,
                        "message": {"role": "assistant", "content": content.replace("@", _mark(index)), "refusal": None},
                        "finish_reason": "stop",
                        "logprobs": None,
                    }
                    for index in range(choices)
                ],
                "usage": {"prompt_tokens": 900, "completion_tokens": 120 * choices, "total_tokens": 900 + 120 * choices},
            }
            self._openai[key] = _response(orjson.dumps(answer))
        return _marked(self._openai[key], prompt, choices)

    def ollama(self, body: dict[str, Any]) -> bytes:
        prompt = _text(body["messages"][-1]["content"])
        schema = body.get("format")
        key = orjson.dumps(schema) if isinstance(schema, dict) else _key_in(prompt)
        if key not in self._ollama:
            answer = {
                "model": body.get("model", "bench"),
                "created_at": "2026-01-01T00:00:00.000000Z",
                "message": {"role": "assistant", "content": _content(key).replace("@", _mark(0))},
                "done": True,
                "done_reason": "stop",
                "total_duration": 200_000_000,
                "load_duration": 1_000_000,
                "prompt_eval_count": 900,
                "prompt_eval_duration": 50_000_000,
                "eval_count": 120,
                "eval_duration": 149_000_000,
            }
            self._ollama[key] = _response(orjson.dumps(answer) + b"\n")  # one line: also a whole stream
        return _marked(self._ollama[key], prompt, 1)


def _key_in(prompt: str) -> bytes:
    """The schema as it stands in the prompt, with what follows it on its line; empty without one."""
    start = prompt.find(SCHEMA_IN_PROMPT)
    if start < 0:
        return b""
    start += len(SCHEMA_IN_PROMPT)
    return prompt[start : prompt.find("\n", start)].encode()


def _content(schema: bytes) -> str:
    if not schema:
        return "보험금은 한도 안에서 지급됩니다. (@)"
    value, _ = JSONDecoder().raw_decode(schema.decode())
    return orjson.dumps(_instance(value, value, name="", index=0)).decode()


def _instance(schema: dict[str, Any], root: dict[str, Any], *, name: str, index: int) -> Any:
    """A value that this schema admits."""
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root, name=name, index=index)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _instance(schema[several][0], root, name=name, index=index)
    match schema.get("type", "object"):
        case "object":
            fields = schema.get("properties", {})
            return {field: _instance(of, root, name=field, index=index) for field, of in fields.items()}
        case "array":
            return [_instance(schema.get("items", {}), root, name=name, index=item) for item in range(ITEMS)]
        case "string":
            return TEXTS.get(name, f"{name} {{}} (@)").format((index + 1) * 100)
        case "integer" | "number":
            return 0 if name == "noncommittal" or index == ITEMS - 1 else 1
        case "boolean":
            return True
    return None


def _mark(index: int) -> str:
    return f"@{index:02d}@@@@@"


def _marked(response: bytes, prompt: str, choices: int) -> bytes:
    checksum = zlib.crc32(prompt.encode())
    for index in range(choices):
        response = response.replace(b"@%02d@@@@@" % index, b"%08x" % (checksum + index & 0xFFFFFFFF))
    return response


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class Vectors:
    """One of 1024 unit vectors for a text, by its checksum; any two have a cosine of about 0.8."""

    def __init__(self) -> None:
        generator = random.Random(1)
        shared = [generator.gauss(0, 1) for _ in range(DIMENSIONS)]
        self._json: list[bytes] = []
        self._base64: list[bytes] = []
        for _ in range(VECTORS):
            values = [common + generator.gauss(0, 0.5) for common in shared]
            norm = sum(value * value for value in values) ** 0.5
            floats = array("f", [value / norm for value in values])
            self._json.append(orjson.dumps([round(value, 7) for value in floats]))
            self._base64.append(b'"' + base64.b64encode(floats.tobytes()) + b'"')

    def openai(self, body: dict[str, Any]) -> bytes:
        table = self._base64 if body.get("encoding_format") == "base64" else self._json
        items = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, table[number])
            for index, number in enumerate(_numbers(body["input"]))
        ]
        usage = b'"usage":{"prompt_tokens":20,"total_tokens":20}'
        return _response(b'{"object":"list","model":"bench","data":[' + b",".join(items) + b"]," + usage + b"}")

    def ollama(self, body: dict[str, Any]) -> bytes:
        vectors = b",".join([self._json[number] for number in _numbers(body["input"])])
        return _response(b'{"model":"bench","embeddings":[' + vectors + b'],"total_duration":1,"prompt_eval_count":20}')


def _numbers(texts: str | list[Any]) -> list[int]:
    return [zlib.crc32(str(text).encode()) % VECTORS for text in ([texts] if isinstance(texts, str) else texts)]


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


class Judge:
    """Latencies and counts; shared by all connections."""

    def __init__(self, *, latency: float, slow_share: float, slow_latency: float, embedding_latency: float) -> None:
        self._latency, self._slow_share, self._slow_latency = latency, slow_share, slow_latency
        self._embedding_latency = embedding_latency
        answers, vectors = Answers(), Vectors()
        self.routes: dict[bytes, tuple[bool, Callable[[dict[str, Any]], bytes]]] = {
            b"/v1/chat/completions": (True, answers.openai),
            b"/api/chat": (True, answers.ollama),
            b"/v1/embeddings": (False, vectors.openai),
            b"/api/embed": (False, vectors.ollama),
        }
        models = [{"name": name, "model": name, "size": 1, "digest": "0" * 64, "details": {}} for name in MODELS]
        listed = [{"id": name, "object": "model", "created": 1, "owned_by": "bench"} for name in MODELS]
        self.fixed = {
            b"/": _response(b"Ollama is running"),
            b"/api/version": _response(b'{"version":"0.12.0"}'),
            b"/api/tags": _response(orjson.dumps({"models": models})),
            b"/api/show": _response(b'{"capabilities":["completion","embedding"],"details":{},"model_info":{}}'),
            b"/v1/models": _response(orjson.dumps({"object": "list", "data": listed})),
        }
        self.reset()

    def reset(self) -> None:
        self.chat_calls = self.embedding_calls = self.in_flight = self.peak_in_flight = 0
        self.latencies = self.embedding_latencies = 0.0
        self.first = self.last = 0.0
        self._cpu = _cpu()

    def stats(self) -> dict[str, float]:
        return {
            "chat_calls": self.chat_calls,
            "embedding_calls": self.embedding_calls,
            "latency_seconds_sum": self.latencies,
            "embedding_seconds_sum": self.embedding_latencies,
            "peak_in_flight": self.peak_in_flight,
            "span_seconds": self.last - self.first,  # from the first request to the last answer
            "cpu_seconds": _cpu() - self._cpu,
        }

    def delay(self, chat: bool) -> float:
        """How long this call takes. Slow ones are scattered evenly, the same ones by number in every run."""
        if not chat:
            self.embedding_calls += 1
            return self._embedding_latency
        self.chat_calls += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        return self._slow_latency if self.chat_calls * GOLDEN % 1 < self._slow_share else self._latency

    def served(self, chat: bool, since: float, now: float) -> None:
        self.first = self.first or since
        self.last = now
        if chat:
            self.in_flight -= 1
            self.latencies += now - since
        else:
            self.embedding_latencies += now - since


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and content-length; one request at a time, as every client here sends them."""

    def __init__(self, judge: Judge, loop: asyncio.AbstractEventLoop) -> None:
        self._judge, self._loop = judge, loop
        self._transport: Any = None
        self._buffer = b""
        self._expected = 0  # bytes of the request, where its head was read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while len(self._buffer) >= (self._expected or 1):
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            head = self._buffer[:end].lower()
            if b"\r\ntransfer-encoding:" in head:
                self._transport.write(_response(b'{"error":"content-length is needed"}', b"411 Length Required"))
                self._transport.close()
                return
            at = head.find(b"\r\ncontent-length:")
            self._expected = end + (int(head[at + 17 : head.find(b"\r\n", at + 17)]) if at >= 0 else 0)
            if len(self._buffer) < self._expected:
                return
            request, self._buffer = self._buffer[: self._expected], self._buffer[self._expected :]
            self._expected = 0
            self._answer(request, head, end)

    def _answer(self, request: bytes, head: bytes, end: int) -> None:
        method, path, _ = head.split(b" ", 2)
        path = path.partition(b"?")[0]
        if path not in self._judge.routes:
            self._transport.write(self._administer(method, path))
            return
        since = time.monotonic()
        chat, answer = self._judge.routes[path]
        try:
            response = answer(orjson.loads(request[end:]))
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
            message = orjson.dumps({"error": {"message": repr(error), "type": "invalid_request_error"}})
            self._transport.write(_response(message, b"400 Bad Request"))
            return
        delay = self._judge.delay(chat)
        if delay:
            self._loop.call_later(delay - (time.monotonic() - since), self._send, response, chat, since)
        else:
            self._send(response, chat, since)

    def _send(self, response: bytes, chat: bool, since: float) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)
        self._judge.served(chat, since, time.monotonic())

    def _administer(self, method: bytes, path: bytes) -> bytes:
        if path == b"/stats":
            return _response(orjson.dumps(self._judge.stats()))
        if path == b"/reset" and method == b"post":
            self._judge.reset()
            return _response(b"{}")
        return self._judge.fixed.get(path) or _response(b'{"error":"not found"}', b"404 Not Found")


async def serve(judge: Judge, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(judge, loop), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_server", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--latency", type=float, default=0.2, help="seconds from a chat request to its answer")
    parser.add_argument("--slow-share", type=float, default=0.0, help="share of the chat calls that take --slow-latency")
    parser.add_argument("--slow-latency", type=float, default=2.0)
    parser.add_argument("--embedding-latency", type=float, default=0.02)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    judge = Judge(
        latency=options.latency,
        slow_share=options.slow_share,
        slow_latency=options.slow_latency,
        embedding_latency=options.embedding_latency,
    )
    run_loop(serve(judge, options.port))


if __name__ == "__main__":
    main()
