"""Whole runs of a judge: what is asked at the same time, what is never paid twice, and how the judge's noise is measured."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.evaluate import run_info
from evalvault_pipeline.reporting.report import summarize
from evalvault_pipeline.scoring import judging as judging_module
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.journal import Bill, Journal
from evalvault_pipeline.scoring.judges import JudgeIdentity, JudgeSpec
from evalvault_pipeline.scoring.judging import Judging, estimate_batches, noise_sample
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline_tests.doubles.faults import Fault, FaultKind
from evalvault_pipeline_tests.doubles.judge_answers import answer_for
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import (
    IMPATIENT,
    THREE,
    Run,
    asked,
    batches_of,
    cases_of,
    chats_only,
    judged,
    ollama_spec,
    openai_spec,
    renamed,
    steady,
)

TWO = THREE[:2]


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    """Import ragas before any test looks at the clock."""
    judging_module.prepare()


def calls_by_case(server: OpenAIServer, cases: list[EvalCase]) -> Counter[str]:
    """How often each case was asked about; cases are told apart by the number of their plan."""
    found: Counter[str] = Counter()
    for path, body in server.requests:
        if path == CHAT:
            found.update(case.case_id for case in cases if f"plan {case.case_id[1:]}." in asked(body))
    return found


# At the same time -------------------------------------------------------------------------------------------------------


def test_steps_and_metrics_of_few_cases_overlap_up_to_the_limit(tmp_path: Path):
    """Four cases of three metrics have 4 + 4 + 16 calls that need not wait for each other."""
    with OpenAIServer(latency=0.1) as server:
        run = judged(cases_of(4, contexts=4), openai_spec(server, max_concurrency=20), tmp_path, THREE)
    assert server.peak_in_flight == 20
    assert not run.reasons and server.answered[CHAT] == 4 * 7


def test_one_slow_call_in_each_batch_keeps_no_other_batch_waiting(tmp_path: Path):
    """The original waits for the slowest call of each chunk: ten slow calls of a second would take ten seconds."""
    slow = {f"plan {number}." for number in range(1, 101, 10)}

    class Uneven(OpenAIServer):
        async def _chat(self, request, body, fault):
            if any(plan in asked(body) for plan in slow):
                await asyncio.sleep(1.0)
            return await super()._chat(request, body, fault)

    with Uneven(latency=0.01) as server:
        run = judged(cases_of(100), openai_spec(server, max_concurrency=16, timeout_seconds=9), tmp_path, ["answer_relevancy"], batch_size=10)  # fmt: skip
    assert not run.reasons and len(run.batches) == 10
    assert [score.case_id for batch in run.batches for score in batch.scores] == [f"c{n}" for n in range(1, 101)]
    assert run.seconds < 9


def test_embeddings_of_many_cases_go_together(tmp_path: Path):
    with OpenAIServer(latency=0.02, record=True) as server:
        judged(cases_of(64), openai_spec(server, max_concurrency=64), tmp_path, ["answer_relevancy"])
    texts = [text for path, body in server.requests if path == EMBEDDINGS for text in body["input"]]
    assert len(texts) == 64 * 4 and server.calls[EMBEDDINGS] <= 40


def test_a_question_that_many_cases_ask_is_embedded_once(tmp_path: Path):
    cases = [replace(case, question="How much is it?") for case in cases_of(20)]
    with OpenAIServer(record=True) as server:
        judged(cases, openai_spec(server, max_concurrency=4), tmp_path, ["answer_relevancy"])
    texts = Counter(text for path, body in server.requests if path == EMBEDDINGS for text in body["input"])
    assert texts["How much is it?"] <= 4


# Paid once --------------------------------------------------------------------------------------------------------------


def test_one_edited_case_of_a_hundred_costs_its_own_calls_and_no_others(tmp_path: Path):
    cases = cases_of(100)
    with OpenAIServer(record=True) as server:
        spec = openai_spec(server)
        judged(cases, spec, tmp_path, THREE)
        server.requests.clear()
        cases[41] = replace(cases[41], answer="The surrender value pays 4,299 dollars in plan 42. I think.")
        run = judged(cases, spec, tmp_path, THREE)
    assert calls_by_case(server, cases) == {"c42": 5}
    assert {score.case_id for score in run.paid} == {"c42"} and not run.reasons


def test_fresh_asks_again_for_the_named_metric_alone(tmp_path: Path):
    with OpenAIServer() as server:
        spec = openai_spec(server)
        judged(cases_of(20), spec, tmp_path, THREE)
        before = server.answered[CHAT]
        run = judged(cases_of(20), spec, tmp_path, THREE, fresh=["faithfulness"])
        assert server.answered[CHAT] - before == 40
        assert {score.metric for score in run.paid} == {"faithfulness"} and len(run.paid) == 20
        assert judged(cases_of(20), spec, tmp_path, THREE).paid == []


def test_cases_of_the_same_content_are_paid_once_in_a_run_wherever_they_stand(tmp_path: Path):
    """In one batch, in batches that are under way together, and in one that comes when the first is done."""
    cases = cases_of(30)
    thrice = [*cases, *renamed(cases[:10], "x"), *renamed(cases[::-1], "y")]
    with OpenAIServer(latency=0.01) as server:
        run = judged(thrice, openai_spec(server, max_concurrency=4), tmp_path, TWO, batch_size=40)
    assert server.answered[CHAT] == 90 and len(run.outcomes) == 140
    assert all(run.outcomes[f"x{case}", metric] == run.outcomes[case, metric] for case, metric in run.outcomes if case in {"c1", "c9"})  # fmt: skip
    assert sum(not score.reused for score in run.all) == 60


def test_twins_in_the_noise_sample_are_paid_once_as_well(tmp_path: Path):
    cases = [case for case in cases_of(20) for case in (case, replace(case, case_id=f"twin-{case.case_id}"))]
    with OpenAIServer() as server:
        run = judged(cases, openai_spec(server), tmp_path, ["faithfulness"], batch_size=100, repeats=3)
        sampled = {case.digest for case in cases if case.case_id in noise_sample(cases, only_batch=True)}
        assert server.answered[CHAT] == 2 * (20 + 2 * len(sampled))
        assert judged(cases, openai_spec(server), tmp_path, ["faithfulness"], batch_size=100, repeats=3).paid == []
    assert not run.reasons


def test_what_another_process_scores_between_the_look_and_the_claim_is_not_paid_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Importing ragas lies between them: seconds in which another run may score a whole batch."""
    cases = cases_of(10)
    with OpenAIServer() as server:
        spec = openai_spec(server)
        prepare = judging_module.prepare

        def slow_start() -> None:
            monkeypatch.setattr(judging_module, "prepare", prepare)
            assert not judged(cases, spec, tmp_path, TWO).reasons

        monkeypatch.setattr(judging_module, "prepare", slow_start)
        run = judged(cases, spec, tmp_path, TWO)
        assert server.answered[CHAT] == 30
    assert run.paid == [] and not run.reasons


def test_answers_for_stored_scores_are_thrown_away_although_their_process_died_before_it_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with OpenAIServer() as server:
        spec = openai_spec(server)
        with monkeypatch.context() as dying:
            dying.setattr(judging_module.Journal, "settled", lambda *_: None)
            judged(cases_of(3), spec, tmp_path, TWO)
        assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 1
        judged(cases_of(4), spec, tmp_path, TWO)
    assert not list((tmp_path / "journal").iterdir())


def test_a_run_with_fewer_metrics_keeps_the_answers_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A killed run had paid the first step of faithfulness; a run of answer_relevancy alone must not throw it away."""
    cases = cases_of(4)
    with OpenAIServer(answer=steady) as server:
        spec = openai_spec(server)
        server.script = chats_only(lambda number, body: Fault("refusal") if "verdict" in str(body["response_format"]) else None)
        assert judged(cases, spec, tmp_path, ["faithfulness"]).reasons == {"refused"}
        server.script = None
        judged(cases, spec, tmp_path, ["answer_relevancy"])
        before = server.answered[CHAT]
        assert not judged(cases, spec, tmp_path, ["faithfulness"]).reasons
        assert server.answered[CHAT] - before == 4, "the statements of each case were noted, its verdicts were not"


def test_two_runs_at_once_share_the_work_and_say_the_same(tmp_path: Path):
    cases, runs = cases_of(60), {}
    with OpenAIServer(answer=steady, latency=0.02) as server:
        spec = openai_spec(server, max_concurrency=8)

        def score(name: str, order: list[EvalCase]) -> None:
            runs[name] = judged(order, spec, tmp_path, THREE, batch_size=5)

        both = [threading.Thread(target=score, args=given) for given in (("one", cases), ("two", cases[::-1]))]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert server.answered[CHAT] == 300
    assert runs["one"].outcomes == runs["two"].outcomes and not runs["one"].reasons
    assert len(runs["one"].paid) + len(runs["two"].paid) == 180
    assert min(len(runs["one"].paid), len(runs["two"].paid)) > 20


def test_a_case_that_another_run_gives_up_is_judged_by_the_one_that_waits(tmp_path: Path):
    """The first run ends by its deadline while the second waits for its cases."""
    cases = cases_of(12)
    with OpenAIServer(answer=steady, latency=0.4) as server:
        spec = openai_spec(server, max_concurrency=4)
        first = threading.Thread(target=judged, args=(cases, spec, tmp_path, TWO), kwargs={"deadline_seconds": 0.6})
        first.start()
        time.sleep(0.5)
        server.latency = 0.0
        second = judged(cases, spec, tmp_path, TWO)
        first.join()
    assert not second.reasons and len(second.outcomes) == 24


def test_the_runs_deadline_holds_also_while_another_run_judges_its_cases(tmp_path: Path):
    cases = cases_of(6)
    with OpenAIServer(answer=steady, latency=0.6) as server:
        spec = openai_spec(server, max_concurrency=2)
        first = threading.Thread(target=judged, args=(cases, spec, tmp_path, TWO))
        first.start()
        time.sleep(0.3)
        second = judged(cases, spec, tmp_path, TWO, deadline_seconds=0.7)
        assert first.is_alive() and second.reasons == {"timeout"}
        first.join()
        assert server.answered[CHAT] == 18
        assert judged(cases, spec, tmp_path, TWO).reasons == set()
        assert server.answered[CHAT] == 18
    assert any("another run judges this case" in score.detail for score in second.all)


def test_a_writer_that_fails_ends_the_run_and_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("utf-8", "x", 0, 1, "no such thing")

    monkeypatch.setattr(ScoreStore, "save", broken)
    with OpenAIServer() as server, pytest.raises(UnicodeEncodeError):
        judged(cases_of(3), openai_spec(server), tmp_path)


def test_a_run_that_is_left_in_the_middle_reads_the_answers_in_flight_and_keeps_what_is_done(tmp_path: Path):
    with OpenAIServer(latency=0.1) as server:
        spec = openai_spec(server, max_concurrency=4)
        plan = ScoringPlan(thresholds={"faithfulness": 0.5}, tokenizer="ngram", no_judge="none")
        how = Judging(identity=JudgeIdentity(spec=spec), journal=tmp_path / "journal", patience=IMPATIENT)
        stream = score_batches(
            batches_of(cases_of(40), 5), plan=plan, store_url=f"sqlite:///{tmp_path / 'scores.sqlite'}", judging=how
        )
        next(iter(stream))
        stream.close()
        paid, threads = server.answered[CHAT], {thread.name for thread in threading.enumerate()}
        assert paid < 80 and not threads & {"judge-loop", "score-writer"}
        whole = judged(cases_of(40), spec, tmp_path, ["faithfulness"])
        assert server.calls[CHAT] == 80 and not whole.reasons


def test_a_run_that_is_left_does_not_wait_for_answers_that_do_not_come(tmp_path: Path):
    with OpenAIServer(script=lambda number, body: Fault("hang") if number > 20 else None) as server:
        spec = openai_spec(server, max_concurrency=4, timeout_seconds=60.0)
        plan = ScoringPlan(thresholds={"faithfulness": 0.5}, tokenizer="ngram", no_judge="none")
        patience = replace(IMPATIENT, least_deadline=60.0, farewell=0.5)
        how = Judging(identity=JudgeIdentity(spec=spec), journal=tmp_path / "journal", patience=patience)
        stream = score_batches(
            batches_of(cases_of(40), 5), plan=plan, store_url=f"sqlite:///{tmp_path / 'scores.sqlite'}", judging=how
        )
        next(iter(stream))
        began = time.monotonic()
        stream.close()
        assert 0.4 < time.monotonic() - began < 20
        assert server.answered[CHAT] == 20


# What a case holds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"contexts": ()}, {"faithfulness": "the case has no contexts", "context_precision": "the case has no contexts"}),
        ({"contexts": ("", "")}, {"faithfulness": "the case has no contexts", "context_precision": "the case has no contexts"}),
        ({"ground_truth": None}, {"context_precision": "the case has no ground_truth"}),
        ({"ground_truth": ""}, {"context_precision": "the case has no ground_truth"}),
        ({"answer": ""}, {"faithfulness": "the case's answer is empty", "answer_relevancy": "the case's answer is empty"}),
    ],
)
def test_a_metric_whose_field_is_empty_is_unmeasured_and_asks_nothing(changes: dict, missing: dict, tmp_path: Path):
    with OpenAIServer() as server:
        run = judged([replace(cases_of(1)[0], **changes)], openai_spec(server), tmp_path, THREE)
    found = {score.metric: score for score in run.all}
    assert {name: score.detail for name, score in found.items() if score.value is None} == missing
    assert {score.unmeasured for score in run.all if score.value is None} == {"no_field"}
    assert server.answered[CHAT] == sum({"faithfulness": 2, "answer_relevancy": 1, "context_precision": 2}[name] for name in found.keys() - missing)  # fmt: skip


def test_an_answer_and_a_reference_of_under_six_characters_are_judged_as_they_are(tmp_path: Path):
    """The original replaced both by "The answer is: ..." and scored its own words."""
    cases = [
        EvalCase(case_id="yes", question="보장되나요?", answer="네", contexts=("암은 보장됩니다. 네.",), ground_truth="네"),
        EvalCase(case_id="years", question="만기는?", answer="20년", contexts=("만기는 20년입니다.",), ground_truth="20년"),
    ]
    metrics = (*THREE, "answer_accuracy", "semantic_similarity")
    with OpenAIServer(record=True) as server:
        run = judged(cases, openai_spec(server), tmp_path, metrics)
    assert not run.reasons
    asked_of = [asked(body) for path, body in server.requests if path == CHAT]
    assert sum('"answer": "네"' in text for text in asked_of) >= 2 and sum('"answer": "20년"' in text for text in asked_of) >= 2
    assert sum('"reference_answer": "20년"' in text for text in asked_of) == 2
    embedded = {text for path, body in server.requests if path == EMBEDDINGS for text in body["input"]}
    assert {"네", "20년"} <= embedded


# Repeats and estimates --------------------------------------------------------------------------------------------------


def flips(run: Run, metric: str) -> float:
    results = [result for batch in run.batches for result in batch.results]
    info = run_info(
        run.batches[0].snapshot,
        thresholds={score.metric: score.threshold for score in run.all},
        metric_versions={score.metric: score.metric_version for score in run.all},
        profile="openai",
        judge="x",
        tokenizer="ngram",
        run_id="r",
        started_at=datetime.now(UTC),
    )
    summary = next(item for item in summarize(results, info=info).metrics if item.name == metric)
    assert summary.noise is not None
    return summary.noise.flip_rate


def test_a_judge_that_changes_its_mind_has_a_flip_rate_and_a_steady_one_has_none(tmp_path: Path):
    """Every second verdict on the same statements is the opposite."""
    times: Counter[str] = Counter()

    def fickle(schema, prompt, *, occurrence=0):
        answer = answer_for(schema, prompt)
        times[prompt] += 1
        for statement in answer.get("statements", ()):
            if isinstance(statement, dict):
                statement["verdict"] = times[prompt] % 2
        return answer

    with OpenAIServer(answer=fickle) as server, OpenAIServer(answer=steady) as calm:
        wild = judged(cases_of(50), openai_spec(server), tmp_path / "wild", TWO, batch_size=50, repeats=4)
        quiet = judged(cases_of(50), openai_spec(calm), tmp_path / "calm", TWO, batch_size=50, repeats=4)
    assert flips(wild, "faithfulness") == pytest.approx(4 / 6), "of the six pairs of 1 0 1 0, four differ"
    assert flips(quiet, "faithfulness") == 0.0 == flips(quiet, "answer_relevancy")


def test_the_noise_sample_is_a_twelfth_of_a_batch_and_the_same_one_whatever_the_order():
    cases = cases_of(100)
    sample = noise_sample(cases, only_batch=True)
    assert len(sample) == 8 and sample == noise_sample(reversed(cases), only_batch=True)
    assert noise_sample(cases_of(3), only_batch=True) and not noise_sample(cases_of(3), only_batch=False)
    edited = [replace(case, answer="other") for case in cases]
    assert sample == noise_sample(edited, only_batch=True)


def test_repeats_are_asked_anew_kept_and_not_paid_twice(tmp_path: Path):
    with OpenAIServer(vary=True) as server:
        spec = openai_spec(server)
        once = judged(cases_of(50), spec, tmp_path, TWO, batch_size=50)
        assert server.answered[CHAT] == 150
        more = judged(cases_of(50), spec, tmp_path, TWO, batch_size=50, repeats=3)
        assert server.answered[CHAT] == 150 + 4 * 2 * 3
        repeated = [score for batch in more.batches for result in batch.results for score in result.repeats]
        assert Counter(score.repeat for score in repeated) == {1: 8, 2: 8}
        assert judged(cases_of(50), spec, tmp_path, TWO, batch_size=50, repeats=3).paid == []
    assert more.outcomes == once.outcomes


def estimated(cases: list[EvalCase], spec: JudgeSpec, folder: Path, **more: object) -> tuple[int, int]:
    """(calls to come, scores in the store)."""
    plan = ScoringPlan(thresholds=dict.fromkeys(THREE, 0.5), tokenizer="ngram", no_judge="none", **more)
    how = Judging(identity=JudgeIdentity(spec=spec), journal=folder / "journal", repeats=2)
    with ScoreStore(f"sqlite:///{folder / 'scores.sqlite'}") as store:
        found = estimate_batches(batches_of(cases, 25), plan=plan, judging=how, store=store)
    return sum(cost.calls for _, _, cost in found.values()), sum(stored for _, stored, _ in found.values())


@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_an_estimate_calls_no_model_and_its_calls_are_those_that_the_run_makes(provider: str, tmp_path: Path):
    """With repeats, with cases that stand twice, that lack a field, that have one context twice."""
    cases = [*cases_of(50), *renamed(cases_of(5), "x"), *cases_of(1, case_id="bare", ground_truth=None)]
    cases.append(replace(cases[0], case_id="same", contexts=("A passage.", "A passage.")))
    with OpenAIServer() as openai, OllamaServer() as ollama:
        server, chat, spec = {
            "openai": (openai, CHAT, openai_spec(openai)),
            "ollama": (ollama, "/api/chat", ollama_spec(ollama, num_ctx=8192)),
        }[provider]
        calls, stored = estimated(cases, spec, tmp_path)
        assert server.calls[chat] == 0 and stored == 3 * 5
        run = judged(cases, spec, tmp_path, THREE, repeats=2)
        assert server.answered[chat] == calls and run.reasons == {"no_field"}
        assert estimated(cases, spec, tmp_path)[0] == 0
        again, _ = estimated(cases, spec, tmp_path, fresh=frozenset({"faithfulness"}))
        before = server.answered[chat]
        judged(cases, spec, tmp_path, THREE, repeats=2, fresh=["faithfulness"])
        assert server.answered[chat] - before == again


def test_progress_tells_how_far_the_run_is(tmp_path: Path):
    states = []
    with OpenAIServer(latency=0.02) as server:
        judged(cases_of(30), openai_spec(server, max_concurrency=8), tmp_path, TWO, batch_size=5, on_progress=states.append)
    cases, calls, tokens = zip(*((state.cases, state.calls, state.tokens) for state in states), strict=True)
    assert list(cases) == sorted(cases) and list(calls) == sorted(calls) and list(tokens) == sorted(tokens)
    assert (cases[-1], calls[-1]) == (30, 90) and 0 < states[-1].dollars < 0.1
    assert max(state.in_flight for state in states) <= 8 == states[-1].limit


def test_a_failure_is_not_kept_and_the_next_run_asks_again_for_that_score_only(tmp_path: Path):
    with OpenAIServer(answer=steady) as server:
        spec = openai_spec(server)
        server.script = lambda number, body: Fault("refusal") if "plan 7." in asked(body) else None
        first = judged(cases_of(10), spec, tmp_path, TWO)
        assert {key for key, outcome in first.outcomes.items() if outcome == "refused"} == {("c7", metric) for metric in TWO}
        before, server.script = server.answered[CHAT], None
        second = judged(cases_of(10), spec, tmp_path, TWO)
        assert server.answered[CHAT] - before == 3 and not second.reasons
        assert {score.case_id for score in second.paid} == {"c7"}


def test_twins_in_the_noise_sample_are_paid_once_also_where_a_metric_lacks_its_field(tmp_path: Path):
    cases = cases_of(1, ground_truth=None)
    metrics = ("context_relevance", "answer_accuracy")
    with OpenAIServer(answer=steady) as server:
        alone = judged(cases, openai_spec(server), tmp_path / "alone", metrics, repeats=2)
        calls = len(server.requests)
        both = judged([*cases, *renamed(cases, "twin-")], openai_spec(server), tmp_path / "both", metrics, repeats=2)
        assert len(server.requests) == 2 * calls
    assert alone.reasons == both.reasons == {"no_field"}


def test_what_a_failure_took_is_told_once_though_its_case_stands_twice(tmp_path: Path):
    cases = cases_of(1)
    with OpenAIServer(answer=steady, script=lambda *_: Fault("malformed")) as server:
        run = judged([*cases, *renamed(cases, "twin-")], openai_spec(server), tmp_path, ("faithfulness",))
        assert sum(score.judge_calls for score in run.paid) == server.calls.total()
    assert run.reasons == {"unparsable"} and len(run.outcomes) == 2


@pytest.mark.parametrize("kind", ["error_500", "hang"])
def test_a_rerun_for_one_hopeless_case_still_reports_on_all(kind: FaultKind, tmp_path: Path):
    cases = cases_of(12)

    def script(_: int, body: Mapping[str, Any]) -> Fault | None:
        return Fault(kind) if cases[3].question in asked(body) else None

    with OpenAIServer(answer=steady, script=script) as server:
        spec = openai_spec(server, timeout_seconds=0.6)
        first = judged(cases, spec, tmp_path, ("context_relevance",))
        again = judged(cases, spec, tmp_path, ("context_relevance",))
    assert first.error is None and again.error is None
    assert first.outcomes == again.outcomes and len(again.reasons) == 1


def test_a_judge_that_scores_a_case_leaves_the_answers_of_another_judge(tmp_path: Path):
    """A killed run of one judge is not paid again because another judge was tried in between."""
    cases = cases_of(2)
    fingerprints = []
    with OpenAIServer(answer=steady) as server:
        for model in ("gpt-5-mini", "gpt-5-nano"):
            run = judged(cases, openai_spec(server, model=model), tmp_path / model, ("faithfulness",))
            fingerprints.append(next(iter(run.scores.values())))
        first = fingerprints[0]
        name = " ".join((cases[0].digest, "faithfulness", "0", first.metric_version, first.judge))
        with Journal(tmp_path / "journal") as journal:
            journal.note(name, {"k": "{}"}, Bill(9, 9, 0.1, 1))
        judged(cases, openai_spec(server, model="gpt-5-nano"), tmp_path, ("faithfulness",))
        assert name in Journal.paid(tmp_path / "journal")
        judged(cases, openai_spec(server, model="gpt-5-mini"), tmp_path, ("faithfulness",))
    assert name not in Journal.paid(tmp_path / "journal")
