"""A judge that fails, in every way and at every moment: nothing is lost, no failure is a number, and the run ends."""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evalvault_pipeline.errors import JudgeMisconfigured, JudgeUnavailable
from evalvault_pipeline_tests.doubles.faults import FAULT_KINDS, Fault, FaultKind, Faults
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import (
    IMPATIENT,
    KEY,
    THREE,
    Run,
    asked,
    cases_of,
    chats_only,
    each_once,
    judged,
    ollama_spec,
    openai_spec,
    steady,
)
from evalvault_pipeline_tests.stack import free_port

CASES = cases_of(100)
REASONS: dict[FaultKind, set[str]] = {
    "error_500": {"judge_error"},
    "throttle_429": {"throttled"},
    "busy_503": {"throttled"},
    "malformed": {"unparsable"},
    "out_of_schema": {"unparsable"},
    "truncated": {"truncated"},
    "refusal": {"refused"},
    "content_filter": {"refused"},
    "hang": {"timeout"},
    "reset": {"judge_error"},
    "dies": {"judge_error"},
    "html": {"judge_error"},
    "empty": {"judge_error"},
}


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the judge says when nothing goes wrong."""
    with OpenAIServer(answer=steady) as server:
        run = judged(CASES, openai_spec(server), tmp_path_factory.mktemp("faultless"), THREE)
    assert not run.reasons and len(run.outcomes) == 300
    assert {outcome == 0 for outcome in run.outcomes.values()} == {True, False}
    return run


def assert_nothing_is_made_up(run: Run, faultless: Run, reasons: set[str]) -> None:
    """Each wanted score is there, once: with the value of a run without faults, or with a reason that a fault explains."""
    count = sum(len(batch.scores) for batch in run.batches)
    assert count == len(run.outcomes)
    for key, outcome in run.outcomes.items():
        assert outcome in reasons or outcome == faultless.outcomes[key], (key, outcome, run.scores[key].detail)
        assert isinstance(outcome, str) or math.isfinite(outcome)
    assert all(score.detail for score in run.scores.values() if score.value is None)


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_at_three_calls_of_ten_leaves_each_score_as_it_is_or_names_its_reason(
    kind: FaultKind, faultless: Run, tmp_path: Path
):
    faults = Faults.only(7, retry_after="0.2", **{kind: 0.1 if kind == "hang" else 0.3})
    with OpenAIServer(answer=steady, script=chats_only(faults), latency=0.005) as server:
        run = judged(CASES[:40], openai_spec(server, timeout_seconds=1.0), tmp_path, THREE)
    assert run.error is None and server.faults[kind] >= 10 and len(run.outcomes) == 120
    assert_nothing_is_made_up(run, faultless, REASONS[kind])
    assert Counter(type(outcome) for outcome in run.outcomes.values())[float] >= 60
    assert run.seconds < 40


def test_faults_of_the_embedding_model_leave_the_other_metrics_alone(faultless: Run, tmp_path: Path):
    def script(number: int, body: object) -> Fault | None:
        return Fault("out_of_schema" if number % 2 else "error_500") if "input" in body else None

    with OpenAIServer(answer=steady, script=script) as server:
        run = judged(CASES[:20], openai_spec(server), tmp_path, THREE)
    assert_nothing_is_made_up(run, faultless, {"judge_error"})
    assert Counter(metric for (_, metric), outcome in run.outcomes.items() if outcome == "judge_error") == {
        "answer_relevancy": 20
    }


def test_all_faults_together_lose_nothing_and_the_run_ends(faultless: Run, tmp_path: Path):
    """5 % 500s, 5 % 429s, 2 % malformed, 1 % hangs, resets, HTML pages, empty replies, out of schema, cut, refused."""
    with OpenAIServer(answer=steady, script=Faults(11, retry_after="0.5"), latency=0.01) as server:
        run = judged(CASES, openai_spec(server, timeout_seconds=1.0), tmp_path, THREE)
    assert run.error is None and len(run.outcomes) == 300 and run.seconds < 60
    assert len(server.faults) >= 9, server.faults
    assert_nothing_is_made_up(run, faultless, set().union(*REASONS.values()))
    assert sum(isinstance(outcome, float) for outcome in run.outcomes.values()) > 270


def test_when_each_call_fails_once_all_is_measured_in_the_end(faultless: Run, tmp_path: Path):
    """In the same run what is tried again; a refusal is believed, and asked again by the next run, one step further."""
    kinds = [kind for kind in FAULT_KINDS if kind != "hang"]

    def choose(prompt: str) -> Fault:
        return Fault(kinds[zlib.crc32(prompt.encode()) % len(kinds)], retry_after="0.1")

    with OpenAIServer(answer=steady, script=each_once(choose)) as server:
        spec = openai_spec(server)
        first = judged(CASES, spec, tmp_path, THREE)
        before = server.calls[CHAT]
        second = judged(CASES, spec, tmp_path, THREE)
        third = judged(CASES, spec, tmp_path, THREE)
    assert first.error is None and first.reasons == {"refused"} and len(server.faults) == len(kinds)
    assert_nothing_is_made_up(first, faultless, {"refused"})
    refused = sum(outcome == "refused" for outcome in first.outcomes.values())
    assert server.calls[CHAT] - before <= 5 * refused
    assert second.reasons <= {"refused"} and third.outcomes == faultless.outcomes


def test_a_call_that_hangs_is_asked_again_long_before_its_timeout(faultless: Run, tmp_path: Path):
    """By what is usual for this judge: a hanging call must not cost a run its 120 seconds."""
    hung: set[str] = set()

    def script(number: int, body: object) -> Fault | None:
        if number % 40 or len(hung) >= 4:
            return None
        hung.add(asked(body))
        return Fault("hang")

    with OpenAIServer(answer=steady, script=script, latency=0.01) as server:
        spec, patience = openai_spec(server, timeout_seconds=60.0), replace(IMPATIENT, least_deadline=0.5)
        run = judged(CASES[:50], spec, tmp_path, THREE, patience=patience)
    assert len(hung) == 4
    assert not run.reasons and run.seconds < 20
    assert_nothing_is_made_up(run, faultless, set())


# A judge that is not there, or goes away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["closed", "error_500", "throttle_429", "busy_503", "reset", "html", "empty", "hang"])
def test_a_judge_that_only_fails_ends_the_run_in_bounded_time_and_calls(kind: str, tmp_path: Path):
    script = None if kind == "closed" else lambda number, body: Fault(kind, retry_after="0.2")
    with OpenAIServer(script=script) as server:
        spec = openai_spec(server, timeout_seconds=0.5)
        if kind == "closed":
            spec = replace(spec, base_url=f"http://127.0.0.1:{free_port()}/v1")
        run = judged(CASES, spec, tmp_path, THREE, patience=replace(IMPATIENT, throttled=0.6))
    assert isinstance(run.error, JudgeUnavailable) and run.error.exit_code == 3
    assert "evalvault doctor" in str(run.error) and spec.name in str(run.error)
    assert run.batches == [] and run.seconds < 20
    assert server.calls.total() <= (2 * 32 + 4) * 3 + 32  # the three attempts of each worker


def test_the_one_case_of_a_judge_that_only_fails_ends_as_unavailable_too(tmp_path: Path):
    with OpenAIServer(script=lambda number, body: Fault("error_500")) as server:
        run = judged(CASES[:1], openai_spec(server), tmp_path)
    assert isinstance(run.error, JudgeUnavailable)


def test_a_judge_that_takes_no_request_at_all_ends_the_run_after_few_calls(tmp_path: Path):
    """A 400 is not tried again, but a judge that gives nothing else need not be asked 300 times."""

    class Strict(OpenAIServer):
        def _chat_refused(self, request, body):
            return self.error(400, "This deployment takes no requests on Mondays.")

    with Strict() as server:
        run = judged(CASES, openai_spec(server, max_concurrency=4), tmp_path, ("faithfulness", "context_precision"))
    assert isinstance(run.error, JudgeUnavailable) and "on Mondays" in str(run.error)
    assert server.calls[CHAT] <= 12


class Dying(OpenAIServer):
    """Stops for good in the middle of its n-th request."""

    def __init__(self, at: int, **options: object) -> None:
        super().__init__(**options)
        self._at, self.script = at, self._die
        self.stopping: threading.Thread | None = None

    def _die(self, number: int, body: object) -> Fault | None:
        if number == self._at:
            self.stopping = threading.Thread(target=self.stop)
            self.stopping.start()
        return Fault("hang") if number >= self._at else None


@pytest.fixture
def dying() -> Iterator[Dying]:
    server = Dying(150, answer=steady, latency=0.02).start()
    yield server
    if server.stopping:
        server.stopping.join()
    server.stop()


def test_a_judge_that_dies_in_mid_run_costs_nothing_but_the_calls_in_flight(dying: Dying, faultless: Run, tmp_path: Path):
    spec = openai_spec(dying, max_concurrency=8)
    first = judged(CASES, spec, tmp_path, THREE, batch_size=10)
    assert isinstance(first.error, JudgeUnavailable) and "What was scored is kept" in str(first.error)
    assert first.seconds < 40
    assert dying.stopping
    dying.stopping.join()
    paid = dying.answered[CHAT]
    with OpenAIServer(answer=steady, port=dying.port) as back:
        second = judged(CASES, spec, tmp_path, THREE, batch_size=10)
        assert second.outcomes == faultless.outcomes
        again = back.answered[CHAT]
        assert 500 - paid <= again <= 500 - paid + 8
        assert judged(CASES, spec, tmp_path, THREE).outcomes == faultless.outcomes
        assert back.answered[CHAT] == again


def test_a_small_run_whose_judge_dies_says_of_each_case_that_the_judge_failed(tmp_path: Path):
    """Too few failures in a row for a dead judge: the run ends, and coverage tells."""
    with OpenAIServer(answer=steady) as server:
        spec = openai_spec(server)
        judged(CASES[:1], spec, tmp_path)
        server.script = chats_only(lambda number, body: Fault("reset") if "plan 2." in asked(body) else None)
        run = judged(CASES[:4], spec, tmp_path)
    assert run.error is None and run.reasons == {"judge_error"}
    assert {case for (case, _), outcome in run.outcomes.items() if isinstance(outcome, str)} == {"c2"}


# A judge that is set up wrongly -------------------------------------------------------------------------------------------


def test_a_model_that_does_not_exist_ends_the_run_with_the_setting_to_change(tmp_path: Path):
    with OpenAIServer(models=["gpt-5-mini", "text-embedding-3-small"]) as server:
        run = judged(CASES, openai_spec(server, model="gpt-6-mega"), tmp_path, THREE)
    assert isinstance(run.error, JudgeMisconfigured) and run.error.exit_code == 2
    assert "`gpt-6-mega` does not exist" in str(run.error) and "EVALVAULT_JUDGE_MODEL" in str(run.error)
    assert server.calls[CHAT] <= 32 and run.seconds < 25


def test_an_embedding_model_that_does_not_exist_ends_the_run_before_the_chat_calls_are_paid_in_vain(tmp_path: Path):
    with OpenAIServer(models=["gpt-5-mini"], latency=0.01) as server:
        run = judged(CASES, openai_spec(server, max_concurrency=4), tmp_path, ["answer_relevancy"])
    assert isinstance(run.error, JudgeMisconfigured)
    assert "`text-embedding-3-small` does not exist" in str(run.error) and "EVALVAULT_EMBEDDING_MODEL" in str(run.error)
    assert server.calls[CHAT] <= 20 and server.calls[EMBEDDINGS] <= 4


@pytest.mark.parametrize("echo", [False, True, "whole"])
def test_a_wrong_key_ends_the_run_and_is_not_repeated(echo: bool, tmp_path: Path):
    with OpenAIServer(keys={"other"}, echo_key=echo) as server:
        run = judged(CASES, openai_spec(server), tmp_path, THREE)
    assert isinstance(run.error, JudgeMisconfigured) and "Check OPENAI_API_KEY" in str(run.error)
    assert KEY not in str(run.error) and KEY[:12] not in str(run.error)
    assert server.calls.total() <= 32


def test_a_key_that_is_revoked_in_mid_run_ends_the_run_and_keeps_what_was_scored(faultless: Run, tmp_path: Path):
    with OpenAIServer(answer=steady, keys={KEY}, latency=0.01) as server:

        def revoke(number: int, body: object) -> None:
            if number == 100:
                server.keys = {"other"}

        server.script = revoke
        spec = openai_spec(server, max_concurrency=8)
        run = judged(CASES, spec, tmp_path, THREE)
        assert isinstance(run.error, JudgeUnavailable) and "refuses the key" in str(run.error)
        assert server.calls[CHAT] <= 100 + 8 + 40
        paid = server.answered[CHAT]
        server.keys, server.script = {KEY}, None
        assert judged(CASES, spec, tmp_path, THREE).outcomes == faultless.outcomes
        assert server.answered[CHAT] == 500, "answers in flight when the run ended were read"
    assert 80 <= paid <= 110


def test_an_account_without_money_ends_the_run_and_says_what_to_do(tmp_path: Path):
    class Broke(OpenAIServer):
        def _chat_refused(self, request, body):
            said = "You exceeded your current quota, please check your plan and billing details."
            return self.error(429, said, kind="insufficient_quota", code="insufficient_quota")

    with Broke() as server:
        run = judged(CASES, openai_spec(server), tmp_path, THREE)
    assert isinstance(run.error, JudgeMisconfigured) and "quota" in str(run.error) and "billing" in str(run.error)
    assert "EVALVAULT_JUDGE_MODEL" not in str(run.error)


class Telling(OpenAIServer):
    """A careless gateway that repeats the request's key wherever it says what is wrong with cases of plan 3."""

    status = 500

    def _chat_refused(self, request, body):
        denied = super()._chat_refused(request, body)
        if denied is not None or "plan 3." not in asked(body):
            return denied
        key = request.headers["Authorization"]
        # The second one lies over the place where a long text is cut: a part of a key is a secret too.
        said = f"denied {key} {'x' * 80} in headers Authorization: {key}"
        return web.Response(text=said) if self.status == 200 else self.error(self.status, said)


@pytest.mark.parametrize("status", [200, 400, 404, 422, 429, 500, 503])
def test_a_key_that_the_server_repeats_is_nowhere_in_a_run(status: int, tmp_path: Path):
    with Telling(answer=steady) as server:
        server.status = status
        run = judged(CASES[:6], openai_spec(server), tmp_path, THREE, patience=replace(IMPATIENT, throttled=0.2))
    files = [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    assert run.reasons and run.error is None and len(run.outcomes) == 18
    assert KEY[:12] not in repr([*run.all, *files]) and "denied Bearer [SECRET]" in repr(run.all)


def test_a_key_that_the_judges_answer_quotes_is_nowhere_in_a_run(tmp_path: Path):
    """Not in the evidence of scores, and not in the journal, where an answer stays whose score fails in a later step."""

    def quoting(schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
        found = steady(schema, prompt, occurrence=occurrence)
        if "statements" in found and all(isinstance(one, str) for one in found["statements"]):
            found["statements"] = [f"It was sent Bearer {KEY}.", *found["statements"]]
        return found

    def second_step_fails(number: int, body: Any) -> Fault | None:
        return Fault("error_500") if "plan 2." in asked(body) and "[SECRET]" in asked(body) else None

    with OpenAIServer(answer=quoting, script=chats_only(second_step_fails)) as server:
        run = judged(CASES[:6], openai_spec(server), tmp_path, ["faithfulness"])
    assert isinstance(run.outcomes["c2", "faithfulness"], str) and isinstance(run.outcomes["c1", "faithfulness"], float)
    (journal,) = (tmp_path / "journal").glob("*.jsonl")
    assert "Bearer [SECRET]" in journal.read_text(encoding="utf-8") and "Bearer [SECRET]" in repr(run.all)
    files = [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    assert KEY[:12] not in repr([*run.all, *files])


# Slowness ---------------------------------------------------------------------------------------------------------------


def test_the_runs_deadline_leaves_the_rest_unmeasured_and_keeps_what_is_there(faultless: Run, tmp_path: Path):
    with OpenAIServer(answer=steady, latency=0.1) as server:
        spec = openai_spec(server, max_concurrency=8)
        run = judged(CASES, spec, tmp_path, THREE, deadline_seconds=1.0)
        assert run.error is None and run.reasons == {"timeout"} and run.seconds < 25
        assert_nothing_is_made_up(run, faultless, {"timeout"})
        assert 8 <= server.answered[CHAT] <= 100
        assert "EVALVAULT_RUN_DEADLINE" in next(score.detail for score in run.scores.values() if score.detail)
        paid, server.latency = server.answered[CHAT], 0.0
        assert judged(CASES, spec, tmp_path, THREE).outcomes == faultless.outcomes
        assert server.answered[CHAT] <= 500 + 8
    assert paid < 500


@pytest.mark.parametrize("retry_after", ["30", "0.4"])
def test_the_runs_deadline_holds_also_while_the_server_asks_for_patience(retry_after: str, tmp_path: Path):
    with OpenAIServer(script=lambda number, body: Fault("throttle_429", retry_after)) as server:
        patience = replace(IMPATIENT, throttled=60.0)
        run = judged(CASES, openai_spec(server), tmp_path, THREE, deadline_seconds=1.0, patience=patience)
    assert run.seconds < 25
    assert run.reasons == {"timeout"} or isinstance(run.error, JudgeUnavailable)


def test_the_runs_deadline_holds_also_between_attempts(tmp_path: Path):
    with OpenAIServer(script=lambda number, body: Fault("error_500")) as server:
        patience = replace(IMPATIENT, wait_min=30.0, wait_max=60.0)
        began = time.monotonic()
        judged(CASES[:4], openai_spec(server), tmp_path, deadline_seconds=1.0, patience=patience)
    assert time.monotonic() - began < 25


def test_a_server_that_asks_to_be_left_alone_for_a_day_ends_the_run_and_holds_up_nobody(tmp_path: Path):
    with OpenAIServer(script=lambda number, body: Fault("throttle_429", "86400")) as server:
        run = judged(CASES, openai_spec(server), tmp_path, THREE)
    assert isinstance(run.error, JudgeUnavailable) and run.seconds < 25


def test_an_ollama_that_stops_in_mid_run_is_found_out_as_soon(tmp_path: Path):
    with OllamaServer(answer=steady, latency=0.02) as server:
        spec = ollama_spec(server)
        judged(CASES[:2], spec, tmp_path)
        server.stop()
        run = judged(CASES, spec, tmp_path)
    assert isinstance(run.error, JudgeUnavailable) and run.seconds < 25


def test_a_judge_that_answered_and_then_hangs_ends_the_run_after_four_rounds_of_timeouts(tmp_path: Path):
    """Three attempts of 24 calls in a row would be hours with a slow judge's timeout and four calls in flight."""
    hangs_from = 20
    with OpenAIServer(answer=steady, script=lambda number, body: Fault("hang") if number >= hangs_from else None) as server:
        spec = openai_spec(server, max_concurrency=4, timeout_seconds=0.6)
        run = judged(CASES, spec, tmp_path, THREE)
    assert isinstance(run.error, JudgeUnavailable) and "no answer in" in str(run.error)
    assert server.calls[CHAT] < hangs_from + 3 * 16


def test_a_few_cases_that_are_too_much_for_the_judge_do_not_end_the_run(faultless: Run, tmp_path: Path):
    """They are the last in flight, and nothing is answered between their attempts."""
    hopeless = {f"plan {number}." for number in (3, 8, 13)}
    hang = chats_only(lambda number, body: Fault("hang") if any(plan in asked(body) for plan in hopeless) else None)
    with OpenAIServer(answer=steady, script=hang) as server:
        run = judged(CASES[:20], openai_spec(server, max_concurrency=4, timeout_seconds=0.6), tmp_path, ["answer_relevancy"])
    assert run.error is None and run.reasons == {"timeout"}
    assert {case for (case, _), outcome in run.outcomes.items() if isinstance(outcome, str)} == {"c3", "c8", "c13"}
