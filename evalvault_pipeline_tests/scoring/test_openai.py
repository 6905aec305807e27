"""A judge that speaks OpenAI's API: what is sent, what is left out where a server refuses it, and what its errors mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evalvault_pipeline.errors import UnusableSecret
from evalvault_pipeline.scoring.judges import Answer, CallFailed, Embeddings, JudgeSpec, Shape
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.openai import OpenAIJudge, listed
from evalvault_pipeline.scoring.transport import retry_after, short
from evalvault_pipeline.secrets import Secret, load_sources
from evalvault_pipeline_tests.conftest import a_secret
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.judge_answers import embedding_for
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import KEY, cases_of, judged, openai_spec, steady
from evalvault_pipeline_tests.scoring.judged import RUBRIC
from evalvault_pipeline_tests.stack import free_port

PROMPT = 'Answer in JSON.\n\ninput: {"answer": "The plan pays 100 dollars."}'
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "noncommittal": {"type": "integer", "enum": [0, 1]}},
    "required": ["question", "noncommittal"],
    "additionalProperties": False,
}
QUESTION = Shape(name="Question", schema=SCHEMA, schema_json=json.dumps(SCHEMA).encode(), parse=json.loads)


def chat(spec: JudgeSpec, *, n: int = 1, times: int = 1) -> list[Answer]:
    """The same chat several times, one after the other, by one judge."""

    async def ask(judge: OpenAIJudge) -> list[Answer]:
        return [await judge.chat([("user", PROMPT)], QUESTION, n=n, max_tokens=500, seed=0) for _ in range(times)]

    return with_judge(spec, ask)


def embed(spec: JudgeSpec, texts: Sequence[str]) -> Embeddings:
    return with_judge(spec, lambda judge: judge.embed(texts))


def with_judge(spec: JudgeSpec, use: Callable[[OpenAIJudge], Any]) -> Any:
    async def run() -> Any:
        judge = OpenAIJudge(spec)
        await judge.open()
        try:
            return await use(judge)
        finally:
            await judge.close()

    return asyncio.run(run())


def failure_of(server: OpenAIServer, **changes: Any) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        chat(openai_spec(server, **changes))
    return failed.value


class Saying(OpenAIServer):
    """Answers every chat with this."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        super().__init__()
        self._said = (status, body if isinstance(body, str) else json.dumps(body), headers)

    def _chat_refused(self, request, body):
        status, text, headers = self._said
        return web.Response(status=status, text=text, headers=headers)


# What is sent -----------------------------------------------------------------------------------------------------------


def test_a_chat_is_sent_with_a_strict_schema_ragass_sampling_and_the_prompt_first():
    with OpenAIServer(record=True, keys={KEY}) as server:
        chat(openai_spec(server, model="gpt-4o-mini"), n=3)
    ((path, body),) = server.requests
    assert path == CHAT
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Question", "strict": True, "schema": SCHEMA},
    }
    assert (body["model"], body["temperature"], body["top_p"], body["n"]) == ("gpt-4o-mini", 0.01, 0.1, 3)
    assert body["max_tokens"] == 500 and "max_completion_tokens" not in body
    assert body["messages"] == [{"role": "user", "content": PROMPT}]


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5", "o3-mini", "o1", "openai/gpt-5.1", "gpt-5-nano-2025-08-07"])
def test_a_model_that_thinks_gets_no_sampling_and_room_to_think(model: str):
    with OpenAIServer(record=True, refuse={"temperature", "top_p", "max_tokens"}) as server:
        chat(openai_spec(server, model=model))
    ((_, body),) = server.requests
    assert body["max_completion_tokens"] >= 500 and not {"temperature", "top_p", "max_tokens", "n"} & body.keys()


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-oss-20b", "o-llama", "qwen3", "gpt-4-turbo"])
def test_any_other_model_is_asked_as_ragas_asks(model: str):
    with OpenAIServer(record=True) as server:
        chat(openai_spec(server, model=model))
    assert server.requests[0][1]["temperature"] == 0.01


def test_three_replies_come_of_one_call_and_differ():
    with OpenAIServer() as server:
        (answer,) = chat(openai_spec(server), n=3)
    assert len({reply.text for reply in answer.replies}) == 3
    assert answer.prompt_tokens == len(PROMPT) // 4 and answer.completion_tokens > 30


@pytest.mark.parametrize(
    ("refused", "sends"),
    [
        ({"max_tokens"}, {"max_completion_tokens": 500, "temperature": 0.01}),
        ({"temperature"}, {"max_tokens": 500, "top_p": 0.1}),
        ({"temperature", "top_p", "max_tokens"}, {"max_completion_tokens": 500}),
    ],
)
def test_what_a_model_refuses_is_left_out_from_then_on(refused: set[str], sends: dict[str, Any]):
    with OpenAIServer(refuse=refused, record=True) as server:
        chat(openai_spec(server, model="gpt-4o"), times=3)
    assert server.calls[CHAT] == 3 + len(refused) and server.answered[CHAT] == 3
    assert sends.items() <= server.requests[-1][1].items() and not refused & server.requests[-1][1].keys()


def test_many_calls_that_are_refused_at_once_are_all_sent_again_and_adapt_once():
    async def ask(judge: OpenAIJudge) -> list[Answer]:
        calls = [judge.chat([("user", PROMPT)], QUESTION, n=1, max_tokens=500, seed=0) for _ in range(20)]
        return await asyncio.gather(*calls)

    with OpenAIServer(refuse={"temperature", "max_tokens"}, latency=0.01) as server:
        assert len(with_judge(openai_spec(server, model="gpt-4o"), ask)) == 20
    assert server.answered[CHAT] == 20 and server.calls[CHAT] <= 60


def test_a_server_that_takes_neither_name_of_the_limit_is_not_asked_for_ever():
    with OpenAIServer(refuse={"max_tokens", "max_completion_tokens"}) as server:
        assert failure_of(server, model="gpt-4o").reason == "judge_error"
        assert server.calls[CHAT] <= 4


def test_a_server_without_schemas_is_asked_for_json_and_its_answers_are_checked_all_the_same(tmp_path: Path):
    cases = cases_of(10)
    with OpenAIServer(refuse_json_schema=True, answer=steady, record=True) as plain, OpenAIServer(answer=steady) as strict:
        run = judged(cases, openai_spec(plain), tmp_path / "plain")
        expected = judged(cases, openai_spec(strict), tmp_path / "strict")
    assert run.outcomes == expected.outcomes and not run.reasons
    formats = [body["response_format"]["type"] for path, body in plain.requests if path == CHAT]
    assert formats[-1] == "json_object" and formats.count("json_schema") <= 32 and plain.answered[CHAT] == 30


def test_gpt_4o_names_work_with_a_server_that_refuses_all_that_it_can(tmp_path: Path):
    refuse = {"temperature", "top_p", "max_tokens"}
    with OpenAIServer(refuse=refuse, refuse_json_schema=True, native_n=False) as server:
        run = judged(cases_of(10), openai_spec(server, model="gpt-4o"), tmp_path)
        assert not run.reasons and server.answered[CHAT] == 50


@pytest.mark.parametrize(("native_n", "calls"), [(True, 3), (False, 5)])
def test_a_case_costs_three_calls_where_one_gives_three_replies_and_five_elsewhere(native_n: bool, calls: int, tmp_path: Path):
    with OpenAIServer(native_n=native_n) as server:
        run = judged(cases_of(12), openai_spec(server, max_concurrency=4), tmp_path)
        assert server.answered[CHAT] == 12 * calls == sum(score.judge_calls for score in run.all)
    assert {len(score.evidence["questions"]) for score in run.all if score.metric == "answer_relevancy"} == {3}


def test_the_key_goes_into_the_header_and_a_server_without_keys_is_sent_none():
    with OpenAIServer(keys={KEY}) as server:
        chat(openai_spec(server))
        missing = failure_of(server, api_key=None)
    assert missing.fatal and "refuses the key" in missing.detail
    with OpenAIServer() as free:
        chat(openai_spec(free, api_key=None))


def test_a_key_that_http_cannot_carry_is_a_setting_to_mend_and_is_not_shown():
    with OpenAIServer(keys={KEY}) as server, pytest.raises(UnusableSecret) as refused:
        chat(openai_spec(server, api_key=a_secret("sk-first\nsk-second")))
    assert "sk-" not in str(refused.value) and "OPENAI_API_KEY" in str(refused.value)


def kept_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> Secret:
    """A key in a mounted file."""
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))
    return Secret(name="OPENAI_API_KEY", sources=load_sources(file.parent))


def test_a_key_that_is_rotated_in_the_middle_of_a_run_is_taken_up_by_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "key"
    file.write_text("sk-first")

    async def ask(judge: OpenAIJudge) -> list[Answer]:
        first = await judge.chat([("user", PROMPT)], QUESTION, n=1, max_tokens=500, seed=0)
        server.keys = {"sk-second"}
        file.write_text("sk-second")
        calls = (judge.chat([("user", PROMPT)], QUESTION, n=1, max_tokens=500, seed=0) for _ in range(20))
        return [
            first,
            *await asyncio.gather(*calls),
            await judge.chat([("user", PROMPT)], QUESTION, n=1, max_tokens=500, seed=0),
        ]

    with OpenAIServer(keys={"sk-first"}) as server:
        spec = openai_spec(server, api_key=kept_in(file, monkeypatch))
        assert len(with_judge(spec, ask)) == 22
        assert server.calls[CHAT] <= 1 + 2 * 20 + 1, "each call at most twice, and the last one once"
        assert server.answered[CHAT] == 22


@pytest.mark.parametrize("then", ["the same", "gone"])
def test_a_refused_key_is_not_sent_again_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "key"
    file.write_text("sk-wrong-canary")

    async def ask(judge: OpenAIJudge) -> Answer:
        if then == "gone":
            file.unlink()
        return await judge.chat([("user", PROMPT)], QUESTION, n=1, max_tokens=500, seed=0)

    with OpenAIServer(keys={KEY}, echo_key="whole") as server, pytest.raises(CallFailed, match="refuses the key") as failed:
        with_judge(openai_spec(server, api_key=kept_in(file, monkeypatch)), ask)
    assert failed.value.fatal and server.calls[CHAT] == 1
    assert ("no other can be read" in caplog.text) == (then == "gone")
    assert "canary" not in caplog.text + failed.value.detail


# What comes back --------------------------------------------------------------------------------------------------------


def test_vectors_come_packed_and_in_the_order_of_the_texts_with_their_tokens():
    texts = ["보험금을 청구합니다.", "What is covered?", "b"]
    with OpenAIServer(record=True) as server:
        found = embed(openai_spec(server), texts)
    assert server.requests[0][1]["encoding_format"] == "base64"
    for text, vector in zip(texts, found.vectors, strict=True):
        assert vector.tolist() == pytest.approx(embedding_for(text), abs=1e-6)
    assert found.tokens == sum(max(1, len(text.encode()) // 4) for text in texts)


def test_a_server_that_knows_no_base64_gives_its_vectors_as_numbers():
    class Plain(OpenAIServer):
        def _embeddings_refused(self, request, body):
            if "encoding_format" in body:
                return self.error(400, "Unknown parameter: 'encoding_format'.", param="encoding_format")
            return None

    with Plain() as server:

        async def twice(judge: OpenAIJudge) -> list[Embeddings]:
            return [await judge.embed(["a"]), await judge.embed(["b"])]

        _, found = with_judge(openai_spec(server), twice)
        assert found.vectors[0].tolist() == pytest.approx(embedding_for("b")) and server.calls[EMBEDDINGS] == 3


@pytest.mark.parametrize(
    "body",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 7, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": "%%%"}]},
        {"data": [{"index": 0, "embedding": [[1.0]]}]},
        {"data": [{"index": 0, "embedding": ["a"]}]},
        {"data": None},
        {},
        [],
        "",
        "null",
        "<html><body>502</body></html>",
    ],
)
def test_an_embedding_answer_that_holds_not_one_vector_a_text_is_tried_again(body: Any):
    class Odd(OpenAIServer):
        def _embeddings_refused(self, request, given):
            return web.Response(text=body if isinstance(body, str) else json.dumps(body))

    with Odd() as server, pytest.raises(CallFailed) as failed:
        embed(openai_spec(server), ["a"])
    assert failed.value.retry and failed.value.reason == "judge_error"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "{}",
        '"text"',
        '{"choices": null}',
        '{"choices": [{}]}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 7}}]}',
        '{"choi',
    ],
)
def test_a_chat_answer_that_is_none_is_tried_again(body: str):
    with Saying(200, body) as server:
        failed = failure_of(server)
    assert failed.retry and failed.reason == "judge_error" and "no JSON of its API" in failed.detail


@pytest.mark.parametrize(
    ("choice", "cut", "refused", "text"),
    [
        ({"message": {"content": "{}"}, "finish_reason": "stop"}, False, False, "{}"),
        ({"message": {"content": "{}"}}, False, False, "{}"),
        ({"message": {"content": '{"a'}, "finish_reason": "length"}, True, False, '{"a'),
        ({"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}, False, True, "No."),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, False, True, ""),
        ({"message": {"content": None}, "finish_reason": "stop"}, False, False, ""),
        (
            {"message": {"content": [{"type": "text", "text": '{"a"'}, {"type": "text", "text": ": 1}"}]}},
            False,
            False,
            '{"a": 1}',
        ),
        ({"message": {"content": [{"type": "thinking", "thinking": []}, {"text": "{}"}]}}, False, False, "{}"),
    ],
)
def test_a_reply_tells_whether_it_was_cut_or_refused(choice: dict[str, Any], cut: bool, refused: bool, text: str):
    with Saying(200, {"choices": [choice]}) as server:
        (answer,) = chat(openai_spec(server))
    (reply,) = answer.replies
    assert (reply.cut, reply.refused, reply.text) == (cut, refused, text)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (0, 0, 0), "a server may tell no usage"


def error(message: str, **fields: str) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "reason", "kind"),
    [
        (400, error("This model's maximum context length is 8192 tokens.", code="context_length_exceeded"), "truncated", ""),
        (400, {"object": "error", "message": "maximum context length is 4096 tokens"}, "truncated", ""),
        (413, error("too many tokens"), "truncated", ""),
        (400, error("filtered", code="content_filter"), "refused", ""),
        (400, error("Bad thing"), "judge_error", ""),
        (401, error("Incorrect API key"), "judge_error", "fatal"),
        (403, "<html>Forbidden</html>", "judge_error", "fatal"),
        (404, error("The model `x` does not exist"), "judge_error", "fatal"),
        (429, error("quota", code="insufficient_quota"), "judge_error", "fatal"),
        (429, error("Rate limit", code="rate_limit_exceeded"), "throttled", "throttled"),
        (503, "overloaded", "throttled", "throttled"),
        (408, "", "judge_error", "retry"),
        (409, error("conflict"), "judge_error", "retry"),
        (500, {"detail": "boom"}, "judge_error", "retry"),
        (529, error("overloaded"), "judge_error", "retry"),
        (302, "", "judge_error", ""),
        (405, error("Not allowed"), "judge_error", ""),
    ],
)
def test_an_error_means_what_its_status_and_code_say(status: int, body: Any, reason: str, kind: str):
    with Saying(status, body) as server:
        failed = failure_of(server)
    assert failed.reason == reason
    assert [name for name in ("retry", "throttled", "fatal", "unreachable") if getattr(failed, name)] == (
        [kind] if kind else []
    )
    assert len(failed.detail) < 300 and "<" not in failed.detail


def test_a_connection_that_is_refused_reset_or_closed_is_tried_again():
    with OpenAIServer(script=lambda number, body: Fault("reset")) as server:
        torn = failure_of(server)
        closed = failure_of(server, base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert torn.retry and torn.unreachable and "broke" in torn.detail
    assert closed.retry and closed.unreachable and "no connection to http://127.0.0.1" in closed.detail


# The small things -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after-ms": "inf"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float | None):
    assert retry_after(headers) == seconds


def test_a_page_is_shortened_to_what_a_person_would_read():
    page = "<!DOCTYPE html><html><head><style>b {}</style><title>502 Bad Gateway</title></head><body><h1>Sorry</h1></body>"
    assert short(page) == "an HTML page: 502 Bad Gateway Sorry"
    assert short("a\n  b\tc") == "a b c" and len(short("x" * 1000)) == 200


def test_the_models_of_a_server_are_listed_and_one_that_lists_none_is_no_failure():
    with OpenAIServer(models=["a", "b"], keys={KEY}) as server:
        assert listed(openai_spec(server)) == {"a": None, "b": None}
        with pytest.raises(CallFailed, match="refuses the key") as failed:
            listed(openai_spec(server, api_key=a_secret("sk-wrong")))
        assert failed.value.fatal
        assert listed(openai_spec(server, base_url=f"{server.url}/nothing/here")) == {}
    with pytest.raises(CallFailed, match="no connection") as failed:
        listed(openai_spec(server))
    assert failed.value.unreachable


def test_no_schema_of_any_metric_is_refused_by_strict_mode(tmp_path: Path):
    """The stand-in refuses with OpenAI's words what strict mode does not take."""
    metrics = [name for name, metric in METRICS.items() if metric.score is None]
    with OpenAIServer() as server:
        run = judged(cases_of(2), openai_spec(server), tmp_path, metrics, rubric=RUBRIC)
        assert server.answered[CHAT] == server.calls[CHAT] > 40
    assert not run.reasons and len(run.outcomes) == 2 * len(metrics) == 26
