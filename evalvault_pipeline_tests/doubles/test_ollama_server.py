"""The Ollama double beside the real server: what 0.32.15 answered is recorded in `ollama_recorded.json`.

The recording is a list of {name, method, path, request, status, ctype, body}. Long texts are written as {"repeat", "times"} and
long vectors are cut to two numbers. The unabridged one is used too, where it is at hand.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import ollama
import openai
import pytest

from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.faults import Fault, Faults
from evalvault_pipeline_tests.doubles.ollama_models import OllamaModel
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.serving import token_count

ABRIDGED = Path(__file__).with_name("ollama_recorded.json")
UNABRIDGED = Path(
    os.environ.get("EVALVAULT_OLLAMA_RECORDING") or PROJECT.parent / "shared" / "data" / "ollama" / "ollama-0.32.15.json"
)
NOT_SERVED = {"logprobs", "v1 logprobs", "v1 completions", "v1 responses"}
VERDICT = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "integer", "enum": [0, 1]}},
    "required": ["reason", "verdict"],
}
PROMPT = 'Judge.\ninput: {"question": "q", "context": "서울은 수도이다.", "answer": "서울은 수도이다."}\nOutput: '


@pytest.fixture(scope="module")
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as running:
        yield running


@pytest.fixture
def client(server: OllamaServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as opened:
        yield opened


def ask(**changes: Any) -> dict[str, Any]:
    """The body of a chat that is to be judged, with what a test changes about it."""
    return {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "stream": False, "format": VERDICT, **changes}


# Beside the recording


def written_out(value: Any) -> Any:
    """A recorded request with its long texts written out."""
    if isinstance(value, dict):
        if value.keys() == {"repeat", "times"}:
            return value["repeat"] * value["times"]
        return {name: written_out(one) for name, one in value.items()}
    return [written_out(one) for one in value] if isinstance(value, list) else value


def shape(value: Any) -> Any:
    """The keys and types of a JSON value, all the way down; a list by its first element."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return "number" if type(value) in (int, float) else type(value).__name__


def heard(status: int, content_type: str, body: str) -> Any:
    """What of an answer must be the same: all but model output, counts, times and addresses."""
    if status >= 400:
        said = re.sub(r" on [\d.]+:53", "", body.strip())
        return re.sub(r"\d{4,}", "0", said)
    if content_type.startswith("application/json"):
        return shape(json.loads(body))
    if content_type == "application/x-ndjson":
        lines = [shape(json.loads(line)) for line in body.splitlines()]
        return lines[0], lines[-1]
    if content_type == "text/event-stream":
        events = [event.removeprefix("data: ") for event in body.strip().split("\n\n")]
        told = [shape(json.loads(event)) for event in events[:-1]]
        return told[0], told[-2:], events[-1]
    return body


def differences(exchanges: list[dict[str, Any]]) -> list[str]:
    """Where the double answers otherwise than the real server did, in the order of the recording."""
    found = []
    with OllamaServer(max_loaded=1) as server, httpx.Client(base_url=server.url, timeout=10) as client:
        client.post("/api/chat", json=ask()).raise_for_status()  # the recording begins with `tiny` loaded
        for exchange in exchanges:
            request = written_out(exchange["request"])
            sent = (
                {"content": request.encode()} if isinstance(request, str) else {"json": request} if request is not None else {}
            )
            answer = client.request(exchange["method"], exchange["path"], **sent)
            real = (exchange["status"], exchange["ctype"], heard(exchange["status"], exchange["ctype"], exchange["body"]))
            kind = answer.headers.get("Content-Type", "")
            double = (answer.status_code, kind, heard(answer.status_code, kind, answer.text))
            if double != real:
                found.append(f"{exchange['name']}:\n  real   {real}\n  double {double}")
    return found


def test_it_answers_as_the_real_server_did():
    """Status, content type, the words of every error, and the keys and types of every answer."""
    assert differences(json.loads(ABRIDGED.read_text(encoding="utf-8"))) == []


def test_it_answers_as_the_real_server_did_in_the_whole_recording():
    """The same with every exchange and all texts at full length."""
    if not UNABRIDGED.is_file():
        pytest.skip(f"the recording of Ollama 0.32.15 is not at {UNABRIDGED}; name its file in EVALVAULT_OLLAMA_RECORDING")
    exchanges = [one for one in json.loads(UNABRIDGED.read_text(encoding="utf-8")) if one["name"] not in NOT_SERVED]
    assert len(exchanges) > 100
    assert differences(exchanges) == []


# Row by row, where keys and types do not say it


def test_a_schema_is_honoured_and_the_answer_makes_sense(client: httpx.Client):
    answer = client.post("/api/chat", json=ask()).json()
    content = json.loads(answer["message"]["content"])
    jsonschema.validate(content, VERDICT)
    assert (content["verdict"], answer["done_reason"], answer["model"]) == (1, "stop", "tiny")
    assert answer["prompt_eval_count"] == token_count(PROMPT)
    assert answer["eval_count"] == token_count(answer["message"]["content"])


def test_num_predict_cuts_the_json(client: httpx.Client):
    answer = client.post("/api/chat", json=ask(options={"num_predict": 3})).json()
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 3)
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer["message"]["content"])


def test_chat_streams_unless_told_not_to(client: httpx.Client):
    """Timings stand on the last line only, and the pieces add up to the answer."""
    body = ask()
    whole = client.post("/api/chat", json=body).json()["message"]["content"]
    del body["stream"]
    lines = [json.loads(line) for line in client.post("/api/chat", json=body).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == whole
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert ["eval_count" in line for line in lines] == [line["done"] for line in lines]


@pytest.mark.parametrize(("keep_alive", "reason"), [("5m", "load"), (0, "unload"), ("0", "unload")])
def test_a_chat_without_messages_loads_or_unloads(client: httpx.Client, keep_alive: Any, reason: str):
    answer = client.post("/api/chat", json={"model": "tiny", "messages": [], "stream": False, "keep_alive": keep_alive}).json()
    assert answer["done_reason"] == reason
    assert ("tiny:latest" in [one["name"] for one in client.get("/api/ps").json()["models"]]) == (reason == "load")


def test_keep_alive_minus_one_is_for_ever(client: httpx.Client):
    client.post("/api/chat", json=ask(keep_alive=-1))
    loaded = {one["name"]: one for one in client.get("/api/ps").json()["models"]}
    assert loaded["tiny:latest"]["expires_at"].startswith("2319-")


def test_a_thinking_model_thinks_unless_told_not_to(client: httpx.Client):
    """The trap: with too few tokens the content stays empty, and `format` does not hold for what is thought."""
    short = client.post("/api/chat", json=ask(model="tiny-tools", options={"num_predict": 16})).json()
    assert (short["message"]["content"], short["done_reason"], short["eval_count"]) == ("", "length", 16)
    assert short["message"]["thinking"]
    long = client.post("/api/chat", json=ask(model="tiny-tools")).json()
    jsonschema.validate(json.loads(long["message"]["content"]), VERDICT)
    silent = client.post("/api/chat", json=ask(model="tiny-tools", think=False, options={"num_predict": 60})).json()
    assert "thinking" not in silent["message"]
    assert json.loads(silent["message"]["content"])["verdict"] == 1


@pytest.mark.parametrize(("num_ctx", "read"), [(8192, 4098), (4096, 2050)])
def test_a_prompt_that_is_too_long_is_silently_cut_to_half_a_context(client: httpx.Client, num_ctx: int, read: int):
    body = ask(messages=[{"role": "user", "content": "abcd" * 20_000}], options={"num_ctx": num_ctx})
    answer = client.post("/api/chat", json=body)
    assert (answer.status_code, answer.json()["prompt_eval_count"]) == (200, read)


def test_the_oldest_messages_are_dropped_first(client: httpx.Client):
    messages = [{"role": "user", "content": "abcd" * 5000} for _ in range(3)] + [{"role": "user", "content": PROMPT}]
    answer = client.post("/api/chat", json=ask(messages=messages, options={"num_ctx": 2048})).json()
    assert answer["prompt_eval_count"] == token_count(PROMPT)


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ("truncate", "request (5000 tokens) exceeds the available context size (4096 tokens)"),
        ("shift", "the prompt is longer than"),
    ],
)
def test_a_prompt_that_may_not_be_cut_is_refused(client: httpx.Client, switch: str, said: str):
    messages = [{"role": "user", "content": "abcd" * 5000}]
    answer = client.post("/api/chat", json=ask(messages=messages, options={"num_ctx": 4096}, **{switch: False}))
    assert (answer.status_code, said in answer.json()["error"]) == (400, True)
    if switch == "truncate":
        inner = json.loads(answer.json()["error"])["error"]
        assert (inner["type"], inner["n_prompt_tokens"], inner["n_ctx"]) == ("exceed_context_size_error", 5000, 4096)


def test_v1_cuts_whatever_it_is_told(client: httpx.Client):
    """There is no num_ctx and no truncate under /v1; only usage.prompt_tokens tells."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "abcd" * 20_000}],
        "truncate": False,
        "num_ctx": 99_999,
        "n": 2,
    }
    answer = client.post("/v1/chat/completions", json=body).json()
    assert (answer["usage"]["prompt_tokens"], len(answer["choices"])) == (4098, 1)


def test_embeddings_have_length_one_and_can_be_shortened(client: httpx.Client):
    def embed(**changes: Any) -> list[list[float]]:
        return client.post("/api/embed", json={"model": "tiny-embed", "input": ["서울", "부산"], **changes}).json()[
            "embeddings"
        ]

    whole, short, more = embed(), embed(dimensions=16), embed(dimensions=4096)
    assert ([len(one) for one in whole], [len(one) for one in short]) == ([64, 64], [16, 16])
    assert more == whole
    assert [math.hypot(*one) for one in whole + short] == pytest.approx([1.0] * 4)


def test_a_model_loads_again_when_num_ctx_changes():
    with OllamaServer() as server, httpx.Client(base_url=server.url) as client:
        for num_ctx in (2048, 2048, 4096):
            client.post("/api/chat", json=ask(options={"num_ctx": num_ctx}))
        assert server.memory.loads == {"tiny:latest": 2}
        assert client.get("/api/ps").json()["models"][0]["context_length"] == 4096


def test_only_requests_that_wait_for_a_load_are_turned_away():
    """1 that loads and 2 that wait get their answer; loaded, all of them do. There is no Retry-After."""
    with OllamaServer(load_seconds=2.0, max_queue=2) as server, ThreadPoolExecutor(12) as pool:
        for expected in (3, 12):
            answers = list(pool.map(lambda _: httpx.post(f"{server.url}/api/chat", json=ask()), range(12)))
            assert [a.status_code for a in answers].count(200) == expected
            assert all(a.status_code in (200, 503) and "Retry-After" not in a.headers for a in answers)
        assert server.answered["/api/chat"] == 15


def test_a_runner_that_dies_breaks_a_stream_in_the_middle_and_an_answer_at_once():
    with OllamaServer(script=lambda number, body: Fault("dies")) as server, httpx.Client(base_url=server.url) as client:
        streamed = client.post("/api/chat", json=ask(stream=True))
        assert (streamed.status_code, "unexpected EOF" in streamed.text.splitlines()[-1]) == (200, True)
        assert client.post("/api/chat", json=ask()).status_code == 500
        v1 = client.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
        assert (v1.status_code, v1.json()["error"]["type"]) == (500, "api_error")


def test_a_model_is_known_by_its_name():
    """What a model can do follows from its name, so that a test says `models=["qwen3:4b", "bge-m3"]`."""
    models = ["gemma3:1b", "qwen3:4b", "qwen3-embedding:0.6b", OllamaModel(name="mine", capabilities=("embedding",))]
    with OllamaServer(models=models) as server:
        told = {one["name"]: one["capabilities"] for one in httpx.get(f"{server.url}/api/tags").json()["models"]}
    assert "thinking" in told["qwen3:4b"] and "thinking" not in told["gemma3:1b"]
    assert told["qwen3-embedding:0.6b"] == told["mine:latest"] == ["embedding"]


# Faults


@pytest.mark.parametrize(
    ("kind", "status"), [("error_500", 500), ("throttle_429", 429), ("busy_503", 503), ("html", 502), ("empty", 200)]
)
def test_a_fault_is_served_in_ollamas_own_shape(kind: Any, status: int):
    with OllamaServer(script=lambda number, body: Fault(kind)) as server:
        answer = httpx.post(f"{server.url}/api/chat", json=ask())
    assert answer.status_code == status
    if kind in ("error_500", "throttle_429", "busy_503"):
        assert isinstance(answer.json()["error"], str)
    assert ("Retry-After" in answer.headers) == (kind == "throttle_429")
    assert server.answered.total() == 0


@pytest.mark.parametrize("kind", ["malformed", "out_of_schema", "truncated", "refusal"])
def test_content_can_be_spoilt(kind: Any):
    with OllamaServer(script=lambda number, body: Fault(kind)) as server:
        answer = httpx.post(f"{server.url}/api/chat", json=ask()).json()
    assert answer["done_reason"] == ("length" if kind == "truncated" else "stop")
    with pytest.raises((json.JSONDecodeError, jsonschema.ValidationError)):
        jsonschema.validate(json.loads(answer["message"]["content"]), VERDICT)


# With the clients that people use


def test_ollamas_own_client_works_with_it(server: OllamaServer):
    client = ollama.Client(host=server.url)
    answer = client.chat(
        model="tiny", messages=[{"role": "user", "content": PROMPT}], format=VERDICT, options={"temperature": 0}
    )
    assert json.loads(answer.message.content or "")["verdict"] == 1
    assert len(client.embed(model="tiny-embed", input=["a", "b"]).embeddings) == 2
    assert {one.model for one in client.list().models} == {"tiny:latest", "tiny-tools:latest", "tiny-embed:latest"}
    assert (client.show("tiny-tools").capabilities or [])[-1] == "thinking"
    assert client.ps().models
    streamed = client.chat(model="tiny", messages=[{"role": "user", "content": PROMPT}], format=VERDICT, stream=True)
    assert json.loads("".join(part.message.content or "" for part in streamed))["verdict"] == 1
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as failure:
        client.chat(model="nope", messages=[])
    assert failure.value.status_code == 404


def test_openais_client_works_with_its_v1(server: OllamaServer):
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT}}
        messages: Any = [{"role": "user", "content": PROMPT}]
        answer = client.chat.completions.create(model="tiny", messages=messages, response_format=wanted)
        assert json.loads(answer.choices[0].message.content or "")["verdict"] == 1
        pieces = client.chat.completions.create(model="tiny", messages=messages, response_format=wanted, stream=True)
        assert json.loads("".join(piece.choices[0].delta.content or "" for piece in pieces))["verdict"] == 1
        assert len(client.embeddings.create(model="tiny-embed", input="서울").data[0].embedding) == 64
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nope")


def test_a_bad_day_is_the_same_for_the_same_seed():
    """The faults follow from the seed and the request's number; a hang ends when the client leaves."""

    def day() -> list[str]:
        with OllamaServer(script=Faults.only(5, error_500=0.2, malformed=0.2, hang=0.1, reset=0.1)) as server:
            return [outcome(server) for _ in range(10)]

    def outcome(server: OllamaServer) -> str:
        try:
            return str(httpx.post(f"{server.url}/api/chat", json=ask(), timeout=1.0).status_code)
        except httpx.HTTPError as failure:
            return type(failure).__name__

    first = day()
    assert {"200", "500", "ReadTimeout", "ReadError"} <= set(first)
    assert day() == first


def test_a_client_that_leaves_is_counted():
    with OllamaServer(latency=30) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/api/chat", json=ask(), timeout=1.0)
        deadline = time.monotonic() + 20
        while server.in_flight and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (server.in_flight, server.aborted, server.answered.total()) == (0, 1, 0)
