"""Tokens, dollars and budgets: what is counted is what the server billed, and what is spent stays within the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.scoring.calls import shared_out
from evalvault_pipeline.scoring.judges import JudgeIdentity, JudgeSpec
from evalvault_pipeline.scoring.judging import Judging
from evalvault_pipeline.scoring.usage import Budget, Price, Spending, price_of
from evalvault_pipeline_tests.doubles.faults import Faults
from evalvault_pipeline_tests.doubles.openai_server import CHAT
from evalvault_pipeline_tests.scoring.judge_runs import THREE, MeteredServer, cases_of, judged, openai_spec, steady

CENT = Price(input=0.01, cached=0.001, output=0.1)


@pytest.mark.parametrize(
    ("text", "dollars", "tokens"),
    [
        ("5USD", 5.0, math.inf),
        ("0.5 usd", 0.5, math.inf),
        ("2Mtok", math.inf, 2e6),
        ("500ktok", math.inf, 5e5),
        (" 300 tok ", math.inf, 300.0),
        ("0USD", 0.0, math.inf),
    ],
)
def test_a_budget_is_an_amount_of_dollars_or_of_tokens(text: str, dollars: float, tokens: float):
    assert Budget.parse(text) == Budget(dollars=dollars, tokens=tokens)


@pytest.mark.parametrize("text", ["", "5", "USD", "5 EUR", "-5USD", "1e3tok", "5USD and more", "Mtok2"])
def test_what_is_no_budget_is_refused_with_an_example(text: str):
    with pytest.raises(InvalidSetting, match="--budget 5USD"):
        Budget.parse(text)


def test_a_budget_says_itself_as_a_reader_would():
    assert (str(Budget.parse("0.5USD")), str(Budget.parse("2Mtok"))) == ("0.5 USD", "2,000,000 tokens")


def test_the_price_of_a_model_is_genai_prices_and_of_another_is_unknown():
    price = price_of("openai", "gpt-5-mini")
    assert price is not None
    assert (price.input, price.output) == pytest.approx((0.25e-6, 2e-6)) and price.cached == pytest.approx(0.025e-6)
    assert price_of("openai", "our-own-finetune") is None
    assert price_of("ollama", "gpt-5-mini") is None


def test_a_budget_in_dollars_without_a_price_is_refused(tmp_path: Path):
    with MeteredServer() as server:
        run = judged(cases_of(2), openai_spec(server, model="our-own"), tmp_path, budget=Budget.parse("5USD"))
    assert isinstance(run.error, InvalidSetting) and "--budget 2Mtok" in str(run.error)
    assert server.calls.total() == 0


def test_a_budget_in_dollars_needs_the_embedding_models_price_too_where_one_is_asked(tmp_path: Path):
    with MeteredServer() as server:
        spec, budget = openai_spec(server, embedding_model="our-own-embeddings"), Budget.parse("5USD")
        run = judged(cases_of(2), spec, tmp_path, ["semantic_similarity"], budget=budget, embeds=True)
        assert isinstance(run.error, InvalidSetting) and "The price of our-own-embeddings is not known" in str(run.error)
        assert server.calls.total() == 0
        assert judged(cases_of(2), spec, tmp_path, ["faithfulness"], budget=budget).error is None


def test_what_calls_in_flight_may_cost_is_set_aside_and_given_back():
    spending = Spending(Budget(tokens=2000), None, None)
    first = spending.reserve(3000)  # 1,000 tokens, and 256 of an answer
    assert first == (1256.0, 0.0)
    assert spending.reserve(3000) is None and not spending.spent, "it may fit when the first is settled"
    spending.add_call(500, 10, 0, 1)
    spending.settle(first)
    assert spending.reserve(3000) is not None


def test_a_call_that_does_not_fit_when_nothing_is_in_flight_ends_the_budget_for_good():
    """Else a short call could pass after a long one was refused, and which cases are measured would be chance."""
    spending = Spending(Budget(tokens=1000), None, None)
    assert spending.reserve(3000) is None and spending.spent
    assert spending.reserve(30) is None


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3), st.integers(0, 200), st.booleans()), max_size=40),
    st.integers(0, 20_000),
)
def test_spending_never_passes_the_budget_while_answers_are_as_long_as_expected(calls, tokens):
    spending = Spending(Budget(tokens=tokens), CENT, CENT)
    flying = []
    for prompt_bytes, replies, answer, ends in calls:
        if (reserved := spending.reserve(prompt_bytes, replies)) is not None:
            flying.append((reserved, prompt_bytes // 3, replies * answer, replies))
        if ends and flying:
            reserved, prompt, completion, count = flying.pop(0)
            spending.add_call(prompt, completion, 0, count)
            spending.settle(reserved)
        assert spending.tokens <= tokens


def test_a_cached_part_of_a_prompt_has_its_own_price():
    spending = Spending(Budget(), CENT, None)
    assert spending.add_call(100, 10, 40, 1) == pytest.approx(60 * 0.01 + 40 * 0.001 + 10 * 0.1)
    assert spending.add_embedding(100) is None and spending.dollars == pytest.approx(1.64)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5_000), min_size=1, max_size=50))
def test_the_tokens_of_an_embedding_call_are_shared_out_to_the_last_one(total, weights):
    shares = shared_out(total, weights)
    if any(weights) or not total:
        assert sum(shares) == total
    assert all(share >= 0 for share in shares)


# Whole runs -------------------------------------------------------------------------------------------------------------


def bill(scores):
    return (
        sum(score.prompt_tokens for score in scores),
        sum(score.completion_tokens for score in scores),
        sum(score.embedding_tokens for score in scores),
    )


def billed(server: MeteredServer):
    return server.prompt_tokens, server.completion_tokens, server.embedding_tokens


@pytest.mark.parametrize("native_n", [True, False])
def test_the_tokens_of_all_scores_are_exactly_those_that_the_server_bills(native_n: bool, tmp_path: Path):
    with MeteredServer(native_n=native_n, latency=0.005) as server:
        run = judged(cases_of(30), openai_spec(server), tmp_path, THREE)
    assert bill(run.all) == billed(server)
    assert sum(score.judge_calls for score in run.all) == server.answered[CHAT] == 30 * (5 if native_n else 7)


def test_the_tokens_are_exact_with_retries_repairs_and_scores_that_stay_unmeasured_too(tmp_path: Path):
    """Failed attempts are billed where the server bills them: an answer out of schema costs as much as a good one."""
    faults = Faults.only(5, error_500=0.1, malformed=0.1, out_of_schema=0.1, truncated=0.1, refusal=0.05, throttle_429=0.05, retry_after="0.1")  # fmt: skip
    script = lambda number, body: faults(number, body) if "messages" in body else None  # noqa: E731
    with MeteredServer(script=script, latency=0.005) as server:
        run = judged(cases_of(40), openai_spec(server), tmp_path, ("faithfulness", "answer_relevancy"))
    assert run.reasons >= {"refused"} and len(run.outcomes) == 80
    assert bill(run.all) == billed(server)


def test_the_dollars_of_all_scores_are_the_tokens_at_the_models_price_cached_ones_cheaper(tmp_path: Path):
    with MeteredServer(cached=0.5) as server:
        run = judged(cases_of(10), openai_spec(server), tmp_path, THREE)
    chat, embedding = price_of("openai", "gpt-5-mini"), price_of("openai", "text-embedding-3-small")
    assert chat and embedding
    expected = chat.of(server.prompt_tokens, server.completion_tokens, server.cached_tokens)
    assert server.cached_tokens > 1000
    assert sum(score.cost_usd for score in run.all) == pytest.approx(expected + embedding.of(server.embedding_tokens, 0))


def test_a_model_without_a_price_has_tokens_and_no_dollars(tmp_path: Path):
    with MeteredServer() as server:
        run = judged(cases_of(3), openai_spec(server, model="our-own"), tmp_path, THREE)
    assert {score.cost_usd for score in run.all} == {None} and bill(run.all) == billed(server)


def test_scores_from_the_store_say_what_they_had_cost_and_that_it_is_saved(tmp_path: Path):
    with MeteredServer() as server:
        first = judged(cases_of(5), openai_spec(server), tmp_path, THREE)
        second = judged(cases_of(5), openai_spec(server), tmp_path, THREE)
    assert second.paid == [] and bill(second.all) == bill(first.all) == billed(server)


@pytest.mark.parametrize("budget", ["40ktok", "0.02USD"])
def test_a_spent_budget_ends_the_paying_and_the_rest_is_unmeasured(budget: str, tmp_path: Path):
    limit = Budget.parse(budget)
    with MeteredServer(answer=steady, latency=0.01) as server:
        spec = openai_spec(server, max_concurrency=8)
        run = judged(cases_of(100), spec, tmp_path, THREE, budget=limit)
        tokens, dollars = sum(billed(server)), sum(score.cost_usd or 0.0 for score in run.all)
        assert run.error is None and run.reasons == {"budget"}
        assert {score.detail for score in run.scores.values() if score.value is None} == {
            f"the budget of {limit} allows no further call"
        }
        assert tokens <= limit.tokens and dollars <= limit.dollars
        assert tokens > 0.9 * limit.tokens or dollars > 0.9 * limit.dollars
        whole = judged(cases_of(100), spec, tmp_path, THREE)
        assert not whole.reasons and server.answered[CHAT] == 500


def test_a_budget_of_nothing_pays_nothing(tmp_path: Path):
    with MeteredServer() as server:
        run = judged(cases_of(5), openai_spec(server), tmp_path, THREE, budget=Budget.parse("0USD"))
    assert run.reasons == {"budget"} and server.calls.total() == 0


def test_answers_longer_than_ever_overshoot_the_budget_by_the_calls_in_flight_at_most(tmp_path: Path):
    """What an answer will cost is a guess from the longest so far; a judge that suddenly writes novels is found out late."""

    def novel(schema, prompt, *, occurrence=0):
        answer = steady(schema, prompt)
        return {**answer, "question": "Why? " * 4000} if "question" in answer else answer

    with MeteredServer(answer=novel, latency=0.05) as server:
        spec = replace(openai_spec(server, max_concurrency=4), max_tokens=8192)
        run = judged(cases_of(50), spec, tmp_path, ["answer_relevancy"], budget=Budget(tokens=100_000))
    longest = max(score.prompt_tokens + score.completion_tokens for score in run.all)
    assert longest > 10_000 and run.reasons == {"budget"}
    assert server.prompt_tokens + server.completion_tokens <= 100_000 + 4 * longest


def test_a_budget_in_dollars_needs_the_price_only_of_what_is_asked():
    """Embeddings alone are priced, whatever the chat model of the profile is."""
    spec = JudgeSpec(provider="openai", model="our-own", embedding_model="text-embedding-3-small")
    common: dict[str, Any] = {"identity": JudgeIdentity(spec=spec), "journal": Path("journal"), "budget": Budget.parse("5USD")}
    Judging(**common, chats=False, embeds=True).new_spending()
    with pytest.raises(InvalidSetting, match="openai/our-own"):
        Judging(**common, chats=True, embeds=True).new_spending()
