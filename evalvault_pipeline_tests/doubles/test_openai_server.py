"""The OpenAI double with OpenAI's own client: what it answers, what it refuses and in which words, and each fault once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from evalvault_pipeline_tests.doubles.faults import FAULT_KINDS, Fault, Faults
from evalvault_pipeline_tests.doubles.judge_answers import embedding_for
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.doubles.serving import token_count

VERDICT = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "integer", "enum": [0, 1]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
QUESTION = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "noncommittal": {"type": "integer", "enum": [0, 1]}},
    "required": ["question", "noncommittal"],
    "additionalProperties": False,
}
PROMPT = 'Judge.\ninput: {"question": "q", "context": "서울은 수도이다.", "answer": "서울은 수도이다."}\nOutput: '
ASKS_BACK = 'Ask.\ninput: {"response": "암 진단비는 3천만원입니다."}\nOutput: '


def chat(prompt: str = PROMPT, schema: Mapping[str, Any] = VERDICT, **changes: Any) -> dict[str, Any]:
    """The arguments of a chat that is to be judged, with what a test changes about them."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt}], "response_format": wanted, **changes}


@contextmanager
def served(*, key: str = "sk-right", **options: Any) -> Iterator[tuple[OpenAIServer, openai.OpenAI]]:
    with (
        OpenAIServer(**options) as server,
        openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=5) as client,
    ):
        yield server, client


def test_a_chat_is_answered_by_its_schema_and_counted():
    with served() as (server, client):
        answer = client.chat.completions.create(**chat())
        content = answer.choices[0].message.content or ""
        jsonschema.validate(json.loads(content), VERDICT)
        assert (json.loads(content)["verdict"], answer.choices[0].finish_reason, answer.model) == (1, "stop", "gpt-5-mini")
        assert answer.usage
        assert answer.usage.prompt_tokens == token_count(PROMPT)
        assert answer.usage.total_tokens == token_count(PROMPT) + token_count(content)
        assert server.calls == server.answered == {"/v1/chat/completions": 1}
        assert (server.in_flight, server.peak_in_flight, len(server.latencies), server.requests) == (0, 1, 1, [])


def test_n_choices_differ_where_a_question_is_made_up():
    """Three draws, and the same three the next time."""
    with served() as (_, client):
        draws = [
            [c.message.content for c in client.chat.completions.create(**chat(ASKS_BACK, QUESTION, n=3)).choices] for _ in "ab"
        ]
    assert len(set(draws[0])) == 3
    assert draws[0] == draws[1]


def test_without_native_n_there_is_one_choice_and_the_seed_tells_draws_apart():
    with served(native_n=False) as (_, client):
        answers = [client.chat.completions.create(**chat(ASKS_BACK, QUESTION, n=3, seed=seed)).choices for seed in (0, 1, 0)]
    assert [len(choices) for choices in answers] == [1, 1, 1]
    first, second, again = (choices[0].message.content for choices in answers)
    assert first == again != second


def test_a_prompt_that_comes_again_can_be_answered_differently():
    with served(vary=True) as (_, client):
        draws = {client.chat.completions.create(**chat(ASKS_BACK, QUESTION)).choices[0].message.content for _ in range(3)}
    assert len(draws) == 3


def test_a_schema_in_the_prompt_is_followed_too():
    """A judge without structured outputs writes the schema in the prompt, as ragas does."""
    prompt = f"Comply with this JSON schema:\n{json.dumps(VERDICT)}\n{PROMPT}"
    with served(refuse_json_schema=True) as (_, client):
        with pytest.raises(openai.BadRequestError, match="'response_format' of type 'json_schema' is not supported"):
            client.chat.completions.create(**chat(prompt))
        for wanted in ({"type": "json_object"}, {"type": "text"}):
            answer = client.chat.completions.create(**chat(prompt, response_format=wanted))
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), VERDICT)


def test_a_correction_is_answered_from_the_prompt_before_it():
    """A judge that asks again says what was wrong in a message that has no input of its own."""
    with served() as (_, client):
        first = client.chat.completions.create(**chat()).choices[0].message.content
        again: Any = [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": "{"},
            {"role": "user", "content": "No JSON."},
        ]
        assert client.chat.completions.create(**chat(messages=again)).choices[0].message.content == first


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_cuts_the_answer(limit: str):
    with served() as (_, client):
        answer = client.chat.completions.create(**chat(**{limit: 3}))
    assert answer.choices[0].finish_reason == "length"
    assert token_count(answer.choices[0].message.content or "") <= 3


def test_embeddings_come_as_numbers_and_packed():
    """OpenAI's client asks for base64 unless told otherwise, so both ways have to give the same numbers."""
    with served() as (server, client):
        packed = client.embeddings.create(model="e", input=["서울", "부산"])
        plain = client.embeddings.create(model="e", input="서울", encoding_format="float")
        short = client.embeddings.create(model="e", input="서울", dimensions=8)
    assert plain.data[0].embedding == pytest.approx(list(embedding_for("서울")))
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert ([one.index for one in packed.data], len(short.data[0].embedding)) == ([0, 1], 8)
    assert packed.usage.prompt_tokens == 2
    assert server.answered["/v1/embeddings"] == 3


def test_it_lists_its_models_and_knows_no_other():
    with served(models=["gpt-5-mini"]) as (_, client):
        assert [model.id for model in client.models.list()] == ["gpt-5-mini"]
        assert client.models.retrieve("gpt-5-mini").id == "gpt-5-mini"
        with pytest.raises(openai.NotFoundError) as failure:
            client.chat.completions.create(**chat(model="gpt-6"))
    assert failure.value.code == "model_not_found"


@pytest.mark.parametrize(("echo", "shown"), [(False, ""), (True, "sk-wrong*******cret"), ("whole", "sk-wrong-and-secret")])
def test_a_wrong_key_is_refused_and_echoed_only_on_demand(echo: Any, shown: str):
    with served(key="sk-wrong-and-secret", keys={"sk-right"}, echo_key=echo) as (server, client):
        with pytest.raises(openai.AuthenticationError) as failure:
            client.chat.completions.create(**chat())
        nobody = httpx.get(f"{server.base_url}/models")
    assert failure.value.code == "invalid_api_key"
    assert (shown or "provided. You can find") in failure.value.message
    assert ("and-secret" in failure.value.message) == (echo == "whole")
    assert (nobody.status_code, "You didn't provide an API key" in nobody.text) == (401, True)


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "top_p"])
def test_a_parameter_can_be_refused_as_newer_models_do(name: str):
    with served(refuse={"temperature", "max_tokens", "top_p"}) as (_, client):
        with pytest.raises(openai.BadRequestError) as failure:
            client.chat.completions.create(**chat(**{name: 1}))
        client.chat.completions.create(**chat(max_completion_tokens=100))
    assert (failure.value.code, failure.value.param) == ("unsupported_parameter", name)
    assert ("Use 'max_completion_tokens' instead." in failure.value.message) == (name == "max_tokens")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({**VERDICT, "additionalProperties": True}, "'additionalProperties' is required to be supplied and to be false"),
        ({**VERDICT, "required": ["reason"]}, "Missing 'verdict'"),
        (
            {**VERDICT, "properties": {**VERDICT["properties"], "reason": {"type": "string", "default": ""}}},
            "'default' is not permitted",
        ),
    ],
)
def test_strict_mode_is_as_strict_as_openais(schema: Mapping[str, Any], said: str):
    """A schema straight from pydantic does not pass; the double must not be kinder than the server it stands for."""
    with served() as (_, client), pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**chat(schema=schema))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "could not parse"),
        (b"{}", 400, "must provide a model"),
        (b'{"model": "m"}', 400, "Missing required parameter: 'messages'"),
        (b'{"model": "m", "messages": []}', 400, "empty array"),
        (b'{"model": "m", "messages": [{"content": "x"}], "response_format": {"type": "json_object"}}', 400, "the word 'json'"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_with_it(body: bytes, status: int, said: str):
    with OpenAIServer() as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", content=body)
        assert (httpx.get(f"{server.url}/v1/nope").status_code, httpx.get(f"{server.base_url}/embeddings").status_code) == (
            404,
            405,
        )
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)


def test_one_request_too_many_is_throttled():
    """`limit` at once are answered; the rest get 429 with Retry-After, and none waits for it."""
    with OpenAIServer(limit=2, latency=0.4) as server:

        async def five() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.base_url) as client:
                return await asyncio.gather(*(client.post("/chat/completions", json=chat()) for _ in range(5)))

        answers = asyncio.run(five())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    assert {answer.headers.get("Retry-After") for answer in answers} == {None, "1"}
    assert server.answered.total() == 2
    assert server.peak_in_flight >= 3


def test_latency_is_a_function_of_the_requests_number_if_need_be():
    with served(latency=lambda number: 0.3 if number == 2 else 0.0) as (server, client):
        for _ in range(3):
            client.chat.completions.create(**chat())
    assert [seconds >= 0.3 for seconds in server.latencies] == [False, True, False]


def test_parallel_makes_the_rest_wait():
    with OpenAIServer(parallel=1, latency=0.05) as server:

        async def three() -> None:
            async with httpx.AsyncClient(base_url=server.base_url) as client:
                await asyncio.gather(*(client.post("/chat/completions", json=chat()) for _ in range(3)))

        asyncio.run(three())
    assert max(server.latencies) >= 0.15


def test_it_remembers_requests_when_told_to():
    with served(record=True) as (server, client):
        client.chat.completions.create(**chat(temperature=0.5))
    assert [(path, body["temperature"]) for path, body in server.requests] == [("/v1/chat/completions", 0.5)]


def test_it_comes_back_on_the_same_port():
    """A server that restarts in the middle of a run."""
    server = OpenAIServer().start()
    url = f"{server.base_url}/models"
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with server:
        assert httpx.get(url).status_code == 200


# Each fault once


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("error_500", openai.InternalServerError),
        ("throttle_429", openai.RateLimitError),
        ("busy_503", openai.InternalServerError),
        ("dies", openai.InternalServerError),
        ("html", openai.InternalServerError),
        ("reset", openai.APIConnectionError),
        ("hang", openai.APITimeoutError),
    ],
)
def test_a_fault_reaches_the_client_as_its_error(kind: Any, raised: type[Exception]):
    with (
        served(script=lambda number, body: Fault(kind, retry_after="0.2")) as (server, client),
        pytest.raises(raised) as failure,
    ):
        client.chat.completions.create(**chat(), timeout=1.0 if kind == "hang" else 30)
    if isinstance(failure.value, openai.APIStatusError):
        assert failure.value.response.headers.get("Retry-After") == ("0.2" if kind in ("throttle_429", "busy_503") else None)
    assert (server.answered.total(), server.faults) == (0, {kind: 1})


@pytest.mark.parametrize(
    ("kind", "finish"),
    [
        ("malformed", "stop"),
        ("out_of_schema", "stop"),
        ("truncated", "length"),
        ("refusal", "stop"),
        ("content_filter", "content_filter"),
    ],
)
def test_content_can_be_spoilt(kind: Any, finish: str):
    """A 200 all the same: only a client that checks what it got notices."""
    with served(script=lambda number, body: Fault(kind)) as (server, client):
        choice = client.chat.completions.create(**chat()).choices[0]
    assert (choice.finish_reason, bool(choice.message.refusal), server.answered.total()) == (finish, kind == "refusal", 0)
    with pytest.raises((json.JSONDecodeError, jsonschema.ValidationError)):
        jsonschema.validate(json.loads(choice.message.content or ""), VERDICT)


def test_an_answer_can_be_empty():
    with OpenAIServer(script=lambda number, body: Fault("empty")) as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", json=chat())
    assert (answer.status_code, answer.content) == (200, b"")


def test_embeddings_can_be_spoilt_and_cannot_be_refused():
    body = {"model": "e", "input": ["a", "b"]}
    kinds: list[Any] = ["out_of_schema", "refusal", "malformed"]
    with OpenAIServer(script=lambda number, asked: Fault(kinds[number - 1])) as server:
        fewer, whole, cut = (httpx.post(f"{server.base_url}/embeddings", json=body) for _ in kinds)
    assert (len(fewer.json()["data"]), len(whole.json()["data"])) == (1, 2)
    with pytest.raises(json.JSONDecodeError):
        cut.json()
    assert (server.answered.total(), server.faults) == (1, {"out_of_schema": 1, "malformed": 1})


def test_a_hang_ends_when_the_server_closes():
    """And the client that still waits then gets an error, not silence."""
    with OpenAIServer(script=lambda number, body: Fault("hang")) as server:

        async def wait_for_nothing() -> None:
            async with httpx.AsyncClient(base_url=server.base_url, timeout=30) as client:
                asked = asyncio.create_task(client.post("/chat/completions", json=chat()))
                while not server.in_flight:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(server.stop)
                await asked

        began = time.monotonic()
        with pytest.raises(httpx.TransportError):
            asyncio.run(wait_for_nothing())
    assert time.monotonic() - began < 20
    assert server.aborted == 0


def test_faults_are_drawn_at_their_rates_and_from_the_seed_alone():
    faults = Faults(3)
    drawn = [getattr(faults(number, {}), "kind", None) for number in range(1, 20_001)]
    assert [Faults(3)(number, {}) for number in range(1, 101)] == [faults(number, {}) for number in range(1, 101)]
    assert drawn.count("error_500") / len(drawn) == pytest.approx(0.05, abs=0.01)
    assert drawn.count(None) / len(drawn) == pytest.approx(1 - sum(faults.rates.values()), abs=0.02)
    assert {Faults.only(1, hang=1.0)(number, {}) for number in range(50)} == {Fault("hang")}
    assert set(faults.rates) == set(FAULT_KINDS)
    with pytest.raises(ValueError, match="add up to"):
        Faults.only(1, hang=0.7, reset=0.7)
