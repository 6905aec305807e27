"""A judge on an Ollama server: what is sent, prompts that are too long, and what its errors mean."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evalvault_pipeline.errors import JudgeMisconfigured, JudgeUnavailable
from evalvault_pipeline.scoring.judges import Answer, CallFailed, JudgeSpec, Shape
from evalvault_pipeline.scoring.ollama import OllamaJudge, listed, model_digests
from evalvault_pipeline.scoring.providers import identify
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.ollama_models import OllamaModel
from evalvault_pipeline_tests.doubles.ollama_server import CHAT, EMBED, OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import THREE, cases_of, each_once, judged, ollama_spec, openai_spec, steady
from evalvault_pipeline_tests.stack import free_port

SCHEMA = {"type": "object", "properties": {"verdict": {"type": "integer", "enum": [0, 1]}}, "required": ["verdict"]}
VERDICT = Shape(name="Verdict", schema=SCHEMA, schema_json=json.dumps(SCHEMA).encode(), parse=json.loads)
LONG = "The plan pays 100 dollars a day. " * 2000  # 16,500 tokens of the stand-in


def with_judge(spec: JudgeSpec, use: Callable[[OllamaJudge], Any]) -> Any:
    async def run() -> Any:
        judge = OllamaJudge(spec)
        await judge.open()
        try:
            return await use(judge)
        finally:
            await judge.close()

    return asyncio.run(run())


def chat(spec: JudgeSpec, prompt: str = "Is it so?") -> Answer:
    def ask(judge: OllamaJudge) -> Any:
        return judge.chat([("user", prompt)], VERDICT, n=1, max_tokens=100, seed=3)

    answer: Answer = with_judge(spec, ask)
    return answer


def failure_of(server: OllamaServer, prompt: str = "Is it so?", **changes: Any) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        chat(ollama_spec(server, **changes), prompt)
    return failed.value


class Saying(OllamaServer):
    """Answers every chat and every embedding with this."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__()
        self._said = (status, body if isinstance(body, str) else json.dumps(body))

    def _chat_refused(self, request, body):
        return web.Response(status=self._said[0], text=self._said[1])

    _embed_refused = _chat_refused


class CutsSilently(OllamaServer):
    """Ollama's way with a long prompt unless it is told otherwise, or where it does not listen."""

    def _does_not_fit(self, body):
        return None


# What is sent -----------------------------------------------------------------------------------------------------------


def test_a_chat_carries_the_schema_the_context_length_and_that_nothing_is_cut_or_thought():
    with OllamaServer(record=True) as server:
        answer = chat(ollama_spec(server, num_ctx=4096, keep_alive="3m"))
    ((path, body),) = server.requests
    assert path == CHAT
    assert body["format"] == SCHEMA
    assert (body["truncate"], body["shift"], body["think"], body["stream"]) == (False, False, False, False)
    assert body["keep_alive"] == "3m"
    assert body["options"] == {"num_ctx": 4096, "num_predict": 100, "temperature": 0.01, "top_p": 0.1, "seed": 3}
    assert json.loads(answer.replies[0].text)["verdict"] in (0, 1) and answer.prompt_tokens > 0


def test_a_model_that_thinks_is_told_not_to_and_answers_in_the_schema():
    with OllamaServer() as server:
        answer = chat(ollama_spec(server, model="tiny-tools"))
    assert json.loads(answer.replies[0].text).keys() == {"verdict"} and not answer.replies[0].cut


def test_the_three_questions_of_a_case_are_three_calls_with_three_seeds(tmp_path: Path):
    with OllamaServer(record=True) as server:
        run = judged(cases_of(6), ollama_spec(server), tmp_path, ["answer_relevancy"])
    seeds = Counter(body["options"]["seed"] for path, body in server.requests if path == CHAT)
    assert seeds == {0: 6, 1: 6, 2: 6}
    assert all(len(set(score.evidence["questions"])) == 3 for score in run.all)


def test_a_repeat_is_asked_with_other_seeds(tmp_path: Path):
    with OllamaServer(record=True) as server:
        judged(cases_of(1), ollama_spec(server), tmp_path, ["faithfulness"], repeats=3)
    seeds = Counter(body["options"]["seed"] for path, body in server.requests if path == CHAT)
    assert seeds == {0: 2, 1000: 2, 2000: 2}


def test_the_model_is_loaded_once_whatever_is_asked(tmp_path: Path):
    """Another num_ctx would make Ollama load the model again, for seconds or minutes."""
    with OllamaServer() as server:
        judged(cases_of(10), ollama_spec(server), tmp_path, THREE)
        assert server.memory.loads == {"tiny:latest": 1, "tiny-embed:latest": 1}


def test_ollama_scores_as_openai_does(tmp_path: Path):
    with OllamaServer(answer=steady) as ollama, OpenAIServer(answer=steady) as openai:
        one = judged(cases_of(15), ollama_spec(ollama), tmp_path / "ollama", THREE)
        two = judged(cases_of(15), openai_spec(openai), tmp_path / "openai", THREE)
    assert one.outcomes.keys() == two.outcomes.keys() and not one.reasons
    assert all(abs(one.outcomes[key] - two.outcomes[key]) < 1e-6 for key in one.outcomes)


# Too long ---------------------------------------------------------------------------------------------------------------


def test_a_context_longer_than_num_ctx_is_truncated_says_what_to_raise_and_is_not_asked_again(tmp_path: Path):
    cases = cases_of(6)
    cases[3] = replace(cases[3], contexts=(LONG,))
    with OllamaServer() as server:
        run = judged(cases, ollama_spec(server, num_ctx=8192), tmp_path, ["faithfulness"])
        assert server.calls[CHAT] == 12
    assert {key: outcome for key, outcome in run.outcomes.items() if isinstance(outcome, str)} == {
        ("c4", "faithfulness"): "truncated"
    }
    detail = run.scores["c4", "faithfulness"].detail
    assert "tokens, num_ctx is 8192. Raise OLLAMA_NUM_CTX." in detail and "17" in detail.split(" tokens")[0]


def test_a_server_that_cuts_although_told_not_to_is_found_out_by_what_it_has_read(tmp_path: Path):
    """A value of half a prompt is worse than none: it looks like one."""
    cases = cases_of(4)
    cases[1] = replace(cases[1], contexts=(LONG,))
    with CutsSilently() as server:
        run = judged(cases, ollama_spec(server, num_ctx=4096), tmp_path, ["faithfulness"])
        assert server.calls[CHAT] == 8
    assert run.outcomes["c2", "faithfulness"] == "truncated" and run.reasons == {"truncated"}
    detail = run.scores["c2", "faithfulness"].detail
    assert "2050 tokens" in detail and "num_ctx 4096" in detail and "OLLAMA_NUM_CTX" in detail
    assert Counter(type(outcome) for outcome in run.outcomes.values()) == {float: 3, str: 1}


def test_a_long_prompt_that_fits_is_no_cut_one():
    with CutsSilently() as server:
        answer = chat(ollama_spec(server, num_ctx=32_768), "암 진단비는 3,000만원입니다. " * 800)
    assert answer.prompt_tokens > 6000


def test_a_text_too_long_to_embed_costs_only_the_case_that_holds_it(tmp_path: Path):
    """And says so of the embedding model, whose context OLLAMA_NUM_CTX does not set."""
    cases = cases_of(40)
    cases[17] = replace(cases[17], ground_truth="It pays. " * 100)
    models = [OllamaModel(name="tiny", num_ctx=8192), OllamaModel(name="tiny-embed", capabilities=("embedding",), num_ctx=64)]
    with OllamaServer(models=models) as server:
        run = judged(cases, ollama_spec(server), tmp_path, ["semantic_similarity"], batch_size=40)
        assert server.calls[EMBED] < 20, "the others are not asked for one by one"
    assert {key for key, outcome in run.outcomes.items() if isinstance(outcome, str)} == {("c18", "semantic_similarity")}
    score = run.scores["c18", "semantic_similarity"]
    assert score.unmeasured == "truncated"
    assert "tiny-embed" in score.detail and "OLLAMA_NUM_CTX" not in score.detail


def test_an_answer_that_never_ends_is_asked_once_more_with_twice_the_room_and_then_truncated(tmp_path: Path):
    def endless(schema, prompt, *, occurrence=0):
        return {**steady(schema, prompt), "statements": ["It pays."] * 5000}

    with OllamaServer(answer=endless, record=True) as server:
        run = judged(cases_of(1), ollama_spec(server, max_tokens=256), tmp_path, ["faithfulness"])
    assert [body["options"]["num_predict"] for _, body in server.requests] == [256, 512]
    (score,) = run.all
    assert score.unmeasured == "truncated" and "EVALVAULT_JUDGE_MAX_TOKENS" in score.detail


# What comes back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "reason", "kind"),
    [
        (404, {"error": "model 'x' not found"}, "judge_error", "fatal"),
        (404, "404 page not found", "judge_error", "fatal"),
        (400, {"error": '"tiny-embed" does not support chat'}, "judge_error", "fatal"),
        (501, {"error": "This server does not support embeddings"}, "judge_error", "fatal"),
        (401, {"error": "unauthorized"}, "judge_error", "fatal"),
        (500, {"error": "llama runner process has terminated"}, "judge_error", "retry"),
        (500, {"error": "model requires more system memory (5.6 GiB) than is available"}, "judge_error", "retry"),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "throttled", "throttled"),
        (400, {"error": "invalid option"}, "judge_error", ""),
        (400, {"error": "the prompt is longer than the context length currently available"}, "truncated", ""),
        (500, {"error": "the input exceeds the context length"}, "truncated", ""),
        (502, "<html><body>Bad Gateway</body></html>", "judge_error", "retry"),
        (200, {"error": "an error was encountered while running the model"}, "judge_error", "retry"),
        (200, "", "judge_error", "retry"),
        (200, "[]", "judge_error", "retry"),
        (200, {"message": None}, "judge_error", "retry"),
        (200, {"message": {"content": 7}, "done_reason": "stop"}, "judge_error", "retry"),
        (200, {"message": {"content": "{}"}, "prompt_eval_count": "many"}, "judge_error", "retry"),
    ],
)
def test_an_error_means_what_its_status_and_words_say(status: int, body: Any, reason: str, kind: str):
    with Saying(status, body) as server:
        failed = failure_of(server)
    assert failed.reason == reason and failed.detail
    assert [name for name in ("retry", "throttled", "fatal", "unreachable") if getattr(failed, name)] == (
        [kind] if kind else []
    )


@pytest.mark.parametrize(
    "body", ["", "{}", {"embeddings": []}, {"embeddings": [[]]}, {"embeddings": ["a"]}, {"embeddings": None}]
)
def test_an_embedding_answer_that_holds_not_one_vector_a_text_is_tried_again(body: Any):
    with Saying(200, body) as server, pytest.raises(CallFailed) as failed:
        with_judge(ollama_spec(server), lambda judge: judge.embed(["a"]))
    assert failed.value.retry and failed.value.reason == "judge_error"


def test_a_model_that_is_not_there_ends_the_run_with_the_pull_that_it_lacks(tmp_path: Path):
    with OllamaServer() as server:
        run = judged(cases_of(50), ollama_spec(server, model="gemma3:1b"), tmp_path, THREE)
    assert isinstance(run.error, JudgeMisconfigured) and "`ollama pull gemma3:1b`" in str(run.error)
    assert server.calls[CHAT] <= 8 * 3 and run.seconds < 12


def test_an_embedding_model_that_is_not_there_ends_the_run_too(tmp_path: Path):
    with OllamaServer(latency=0.01) as server:
        run = judged(cases_of(50), ollama_spec(server, embedding_model="bge-m3"), tmp_path, ["answer_relevancy"])
    assert isinstance(run.error, JudgeMisconfigured) and "`ollama pull bge-m3`" in str(run.error)
    assert server.calls[CHAT] <= 60


def test_a_model_that_can_only_embed_is_no_judge_and_pulling_it_again_would_not_help(tmp_path: Path):
    with OllamaServer() as server:
        run = judged(cases_of(5), ollama_spec(server, model="tiny-embed"), tmp_path)
    assert isinstance(run.error, JudgeMisconfigured)
    assert "does not support chat" in str(run.error) and "EVALVAULT_JUDGE_MODEL" in str(run.error)
    assert "ollama pull" not in str(run.error)


def test_a_runner_that_dies_now_and_then_loses_nothing(tmp_path: Path):
    script = each_once(lambda prompt: Fault("dies") if zlib.crc32(prompt.encode()) % 4 == 0 else None)
    with OllamaServer(answer=steady, script=script) as server:
        run = judged(cases_of(20), ollama_spec(server), tmp_path, THREE)
    assert not run.reasons and server.faults["dies"] > 10


def test_a_queue_that_is_full_is_waited_for(tmp_path: Path):
    """Ollama turns calls away with 503 and without Retry-After while it loads a model and 512 wait."""
    with OllamaServer(answer=steady, load_seconds=0.4, max_queue=2) as server:
        run = judged(cases_of(10), ollama_spec(server), tmp_path, ["faithfulness"])
        assert server.calls[CHAT] > 20 == server.answered[CHAT]
    assert not run.reasons


# The server's models ----------------------------------------------------------------------------------------------------


def test_the_weights_of_the_models_are_part_of_the_judge():
    with OllamaServer() as server:
        spec = ollama_spec(server)
        digests = model_digests(spec)
        identity = identify(spec)
        assert identity.weights == digests["tiny:latest"] and identity.embedding_weights == digests["tiny-embed:latest"]
        unknown = identify(replace(spec, model="nothing"))
        assert unknown.weights == "" and not server.calls[CHAT]
    assert replace(identity, weights="other").fingerprint(chat=True, embeddings=False) != identity.fingerprint(
        chat=True, embeddings=False
    )


def test_a_server_that_is_not_there_is_said_at_once_with_what_to_start(tmp_path: Path):
    with OllamaServer() as server:
        spec = replace(ollama_spec(server), base_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(JudgeUnavailable, match="ollama serve"):
        model_digests(spec)
    with pytest.raises(CallFailed, match="no connection") as failed:
        listed(spec)
    assert failed.value.unreachable


def test_the_models_are_listed_with_the_length_of_their_context():
    with OllamaServer(models=["qwen3:4b", "tiny-embed"]) as server:
        assert listed(ollama_spec(server)) == {"qwen3:4b": 131_072, "tiny-embed:latest": 8192}
