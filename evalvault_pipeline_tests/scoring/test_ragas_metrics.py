"""What a judge may answer, and what becomes of the rest: a score is a number in [0, 1], or unmeasured with its reason."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring import ragas_metrics
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import MetricScore, Reason
from evalvault_pipeline.scoring.ragas_metrics import RAGAS_METRICS, shape_of
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline_tests.doubles import openai_server
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.judge_answers import answer_for
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.scoring.judged import RUBRIC, judge, openai_spec, prompts, saying
from evalvault_pipeline_tests.scoring.plain_ragas import plain_values

LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]
CHAT_METRICS = [name for name in LLM_METRICS if METRICS[name].chat]
CASE = EvalCase(
    case_id="c1",
    question="How much is the cancer benefit?",
    answer="The cancer benefit is 30,000 dollars. It is paid within 3 days.",
    contexts=("The cancer benefit is 30,000 dollars for a general cancer.",),
    ground_truth="The cancer benefit is 30,000 dollars for a general cancer.",
)

VERDICT, QUESTION, RATING = {"reason", "verdict"}, {"question", "noncommittal"}, {"rating"}


def response_models() -> dict[str, type[BaseModel]]:
    """`metric.prompt` -> the model of its answer, for every prompt in use."""
    llm, embeddings = ragas_metrics._edges()
    return {
        f"{name}.{attribute}": getattr(
            ragas_metrics._built(name, llm(None), embeddings(None), "en", RUBRIC), attribute
        ).output_model
        for name, kind in RAGAS_METRICS.items()
        for attribute in kind.prompts
    }


def model_named(prompt: str) -> type[BaseModel]:
    return response_models()[prompt]


def score(name: str, tmp_path: Path, server: OpenAIServer, case: EvalCase = CASE, **more: Any) -> MetricScore:
    return judge([case], [name], openai_spec(server), tmp_path, **more)[case.case_id, name]


def plain(name: str, server: OpenAIServer, case: EvalCase = CASE) -> float:
    return asyncio.run(plain_values(name, [case], server))[case.case_id]


# The shape of an answer ---------------------------------------------------------------------------------------------------


def subschemas(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, schema
    for group in ("properties", "$defs"):
        for name, inner in schema.get(group, {}).items():
            yield from subschemas(inner, (*path, name))
    if "items" in schema:
        yield from subschemas(schema["items"], (*path, "[]"))


def test_every_schema_is_closed_and_every_number_in_it_is_one_of_a_few() -> None:
    """A verdict is 0 or 1, a rating one of its scale: what a constrained judge cannot say, it need not be asked again for."""
    for prompt, model in response_models().items():
        for path, inner in subschemas(shape_of(model).schema):
            where = (prompt, path)
            assert not {"default", "title"} & set(inner), where
            if inner.get("type") == "object":
                assert (inner["additionalProperties"], inner["required"]) == (False, list(inner["properties"])), where
            elif "type" in inner:
                assert inner["type"] in ("string", "array") or inner["enum"], where


def test_every_schema_passes_openais_strict_mode() -> None:
    """The double refuses, in OpenAI's words, a schema that is not closed or has a default."""
    with OpenAIServer() as server:
        for prompt, model in response_models().items():
            shape = shape_of(model)
            wanted = {"name": shape.name, "strict": True, "schema": shape.schema}
            body = {
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": "Judge."}],
                "response_format": {"type": "json_schema", "json_schema": wanted},
            }
            answer = httpx.post(f"{server.base_url}/chat/completions", json=body)
            assert answer.status_code == 200, (prompt, answer.text)
            assert orjson_equal(shape.schema_json, shape.schema)


def orjson_equal(text: bytes, schema: Mapping[str, Any]) -> bool:
    return list(json.loads(text)["properties"]) == list(schema["properties"]) and json.loads(text) == schema


def test_a_schema_is_ragass_own_but_for_its_bounds() -> None:
    """Same properties in the same order (a constrained judge writes them in it), same descriptions."""

    def without_bounds(schema: Any) -> Any:
        if isinstance(schema, list):
            return [without_bounds(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        return {key: without_bounds(value) for key, value in schema.items() if key not in dropped}

    dropped = {"title", "enum", "additionalProperties", "required"}
    for prompt, model in response_models().items():
        ours, theirs = without_bounds(shape_of(model).schema), without_bounds(model.model_json_schema())
        assert json.dumps(ours) == json.dumps(theirs), prompt


def test_each_prompt_is_sent_with_its_own_schema(tmp_path: Path) -> None:
    """ragas has two NLIStatementOutput and two StatementGeneratorOutput, whose descriptions differ."""
    metrics = ["faithfulness", "factual_correctness", "noise_sensitivity"]
    with OpenAIServer(record=True) as server:
        judge([CASE], metrics, openai_spec(server), tmp_path)
    sent = {json.dumps(body["response_format"]["json_schema"]["schema"]) for _, body in server.requests}
    wanted = {json.dumps(shape_of(m).schema) for prompt, m in response_models().items() if prompt.split(".")[0] in metrics}
    assert sent == wanted


@pytest.mark.parametrize(
    ("prompt", "answer", "said"),
    [
        ("context_precision.prompt", '{"reason": "r", "verdict": 7}', "`verdict` is 7, and must be one of 0, 1"),
        ("context_precision.prompt", '{"reason": "r", "verdict": -2}', "`verdict` is -2"),
        ("context_precision.prompt", '{"reason": "r", "verdict": NaN}', "verdict: Input should be a"),
        ("context_precision.prompt", '{"reason": "r", "verdict": 0.5}', "verdict: Input should be a valid integer"),
        ("context_precision.prompt", '{"reason": "r", "verdict": null}', "verdict: Input should be a valid integer"),
        ("context_precision.prompt", '{"reason": "r"}', "verdict: Field required"),
        ("context_precision.prompt", "[]", "Input should be an object"),
        ("context_precision.prompt", "I cannot say.", "Invalid JSON"),
        ("context_precision.prompt", "", "Invalid JSON"),
        ("context_precision.prompt", '{"reason": "\\ud800", "verdict": 1}', "Invalid JSON"),
        ("faithfulness.statement_generator_prompt", '{"statements": []}', "`statements` is empty"),
        ("faithfulness.nli_statement_prompt", '{"statements": []}', "`statements` is empty"),
        (
            "faithfulness.nli_statement_prompt",
            '{"statements": [{"statement": "s", "reason": "r", "verdict": 1}, {"statement": "s", "reason": "r", "verdict": 2}]}',
            "`verdict` is 2",
        ),
        ("answer_relevancy.prompt", '{"question": "", "noncommittal": 0}', "`question` is empty"),
        ("answer_relevancy.prompt", '{"question": "q", "noncommittal": 2}', "`noncommittal` is 2"),
        ("context_recall.prompt", '{"classifications": []}', "`classifications` is empty"),
        (
            "context_recall.prompt",
            '{"classifications": [{"statement": "s", "reason": "r", "attributed": -1}]}',
            "`attributed` is -1",
        ),
        ("answer_accuracy.judge1_prompt", '{"rating": 3}', "`rating` is 3, and must be one of 0, 2, 4"),
        ("answer_accuracy.judge2_prompt", '{"rating": 1}', "`rating` is 1"),
        ("context_relevance.judge1_prompt", '{"rating": 4}', "`rating` is 4, and must be one of 0, 1, 2"),
        ("response_groundedness.judge2_prompt", '{"rating": 3}', "`rating` is 3"),
        ("noise_sensitivity.statement_prompt", '{"statements": []}', "`statements` is empty"),
        ("summary_score.generate_questions_prompt", '{"questions": []}', "`questions` is empty"),
        ("summary_score.generate_answers_prompt", '{"answers": []}', "`answers` is empty"),
        ("summary_score.generate_answers_prompt", '{"answers": ["1", "yes"]}', "`answers` is yes, and must be one of 0, 1"),
        ("rubric.scoring_prompt", '{"feedback": "f", "score": 0}', "`score` is 0, and must be one of 1, 2, 3, 4, 5"),
        ("rubric.scoring_prompt", '{"feedback": "f", "score": 6}', "`score` is 6"),
        ("rubric.scoring_prompt", '{"feedback": "f", "score": Infinity}', "score: Input should be a"),
    ],
)
def test_what_a_metric_does_not_understand_is_refused_and_named(prompt: str, answer: str, said: str) -> None:
    """The sentence goes back to the judge in the repair round."""
    with pytest.raises(ValueError, match=re.escape(said)):
        shape_of(model_named(prompt)).parse(answer)


@pytest.mark.parametrize(
    "answer",
    [
        '{"reason": "r", "verdict": 1}',
        '```json\n{"reason": "r", "verdict": 1}\n```',
        'Sure! Here it is:\n```\n{"reason": "r", "verdict": 1}```\nAnything else?',
        'The verdict is {"reason": "r", "verdict": 1}.',
        '\n\n {"verdict": "1", "reason": "r", "confidence": 0.9}',
        '{"reason": "r", "verdict": true}',
        '{"reason": "r", "verdict": 1.0}',
    ],
)
def test_json_in_a_fence_or_a_sentence_is_taken_out_of_it(answer: str) -> None:
    """A server without schemas answers like that; asking again would cost a call for nothing."""
    value = shape_of(model_named("context_precision.prompt")).parse(answer)
    assert (value.reason, value.verdict) == ("r", 1)


def test_no_claims_and_no_keyphrases_are_answers() -> None:
    """ "I do not know" holds no claim: that is what the judge should say."""
    assert shape_of(model_named("factual_correctness.prompt")).parse('{"claims": []}').claims == []
    assert shape_of(model_named("summary_score.extract_keyphrases_prompt")).parse('{"keyphrases": []}').keyphrases == []


# What becomes of the answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [-2, 7])
def test_a_verdict_out_of_range_is_unmeasured_after_one_repair_and_plain_ragas_makes_it_the_score(
    verdict: int, tmp_path: Path
) -> None:
    mind = saying((VERDICT, {"reason": "r", "verdict": verdict}))
    with OpenAIServer(answer=mind) as theirs, OpenAIServer(answer=mind, record=True) as ours:
        assert plain("context_precision", theirs) == pytest.approx(verdict)
        found = score("context_precision", tmp_path, ours)
    assert (found.value, found.unmeasured, ours.calls[CHAT], found.judge_calls) == (None, Reason.UNPARSABLE, 2, 2)
    assert f"`verdict` is {verdict}, and must be one of 0, 1" in found.detail
    first, repair = (body["messages"] for _, body in ours.requests)
    assert [message["role"] for message in repair] == ["user", "assistant", "user"]
    assert repair[0] == first[0]
    assert f"`verdict` is {verdict}, and must be one of 0, 1" in repair[2]["content"]


def test_a_repaired_answer_is_the_measurement(tmp_path: Path) -> None:
    answers = iter([{"reason": "r", "verdict": 7}, {"reason": "mended", "verdict": 1}])
    with OpenAIServer(answer=saying((VERDICT, lambda *_: next(answers)))) as server:
        found = score("context_precision", tmp_path, server)
    assert (found.unmeasured, found.judge_calls) == (None, 2)
    assert found.value == pytest.approx(1.0)
    assert found.evidence["contexts"][0]["reason"] == "mended"


def test_empty_classifications_are_unmeasured_and_plain_ragas_gives_nan(tmp_path: Path) -> None:
    mind = saying(({"classifications"}, {"classifications": []}))
    with OpenAIServer(answer=mind) as server:
        assert math.isnan(plain("context_recall", server))
        server.calls.clear()
        found = score("context_recall", tmp_path, server)
        assert server.calls[CHAT] == 2
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "`classifications` is empty" in found.detail


def test_no_statements_are_unmeasured_and_plain_ragas_gives_nan(tmp_path: Path) -> None:
    with OpenAIServer(answer=saying(({"statements"}, {"statements": []}))) as server:
        assert math.isnan(plain("faithfulness", server))
        found = score("faithfulness", tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "`statements` is empty" in found.detail


def test_an_empty_question_is_unmeasured_and_plain_ragas_gives_0(tmp_path: Path) -> None:
    with OpenAIServer(answer=saying((QUESTION, {"question": "", "noncommittal": 0}))) as server:
        assert plain("answer_relevancy", server) == 0.0
        found = score("answer_relevancy", tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "`question` is empty" in found.detail


def test_one_empty_question_of_three_is_unmeasured_and_plain_ragas_leaves_it_out(tmp_path: Path) -> None:
    """A mean of two would not be the same measurement as a mean of three."""

    def second_is_empty(schema: Any, prompt: str, occurrence: int) -> Any:
        return {"question": "" if occurrence == 1 else "How much is the benefit?", "noncommittal": 0}

    with OpenAIServer(answer=saying((QUESTION, second_is_empty)), vary=True) as theirs:
        assert plain("answer_relevancy", theirs) > 0.0

    with OpenAIServer(answer=saying((QUESTION, lambda *_: {"question": "", "noncommittal": 0}))) as ours:
        assert score("answer_relevancy", tmp_path, ours).unmeasured == Reason.UNPARSABLE


def test_no_claim_in_the_reference_is_unmeasured_and_plain_ragas_gives_0(tmp_path: Path) -> None:
    """There is nothing to compare with: that is no fault of the answer."""
    with OpenAIServer(answer=saying(({"claims"}, {"claims": []}))) as server:
        assert plain("factual_correctness", server) == 0.0
        found = score("factual_correctness", tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "no claim in the reference" in found.detail


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("name", ["answer_accuracy", "context_relevance", "response_groundedness"])
def test_half_of_two_judges_is_no_measurement_and_plain_ragas_takes_the_other_one(
    name: str, failing: int, tmp_path: Path
) -> None:
    """ragas swallows a judge that fails, five times over, and gives the other one's rating as if both had agreed."""

    def one_fails(schema: Any, prompt: str, occurrence: int) -> Any:
        first = prompt.startswith("You are a world class")
        return {"rating": 3} if first == (failing == 1) else {"rating": 2}

    with OpenAIServer(answer=saying((RATING, one_fails))) as server:
        assert plain(name, server) == {"answer_accuracy": 0.5}.get(name, 1.0)
        found = score(name, tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "`rating` is 3" in found.detail


def test_a_wrong_number_of_verdicts_is_no_noise_sensitivity_and_plain_ragas_counts_them(tmp_path: Path) -> None:
    """Its matrix needs one verdict for each statement; which statement a lone verdict is about, nobody knows."""

    def one_verdict(schema: Any, prompt: str, occurrence: int) -> Any:
        if "verdict" not in json.dumps(schema):
            return {"statements": ["The benefit is 30,000 dollars.", "It is paid within 3 days."]}
        return {"statements": [{"statement": "It is 30,000 dollars.", "reason": "r", "verdict": 0}]}

    with OpenAIServer(answer=saying(({"statements"}, one_verdict))) as server:
        assert plain("noise_sensitivity", server) == 0.0
        found = score("noise_sensitivity", tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert found.detail == "the judge gave 1 verdicts on 2 statements"


def test_verdicts_that_make_no_matrix_are_unmeasured_and_plain_ragas_raises(tmp_path: Path) -> None:
    case = replace(CASE, contexts=(*CASE.contexts, "A claim needs a certificate."))

    def fewer_for_the_second(schema: Any, prompt: str, occurrence: int) -> Any:
        if "verdict" not in json.dumps(schema):
            return {"statements": ["a", "b"]}
        one = {"statement": "a", "reason": "r", "verdict": 1}
        return {"statements": [one] if '"context": "A claim' in prompt else [one, one]}

    with OpenAIServer(answer=saying(({"statements"}, fewer_for_the_second))) as server:
        with pytest.raises(ValueError, match="inhomogeneous"):
            plain("noise_sensitivity", server, case)
        found = score("noise_sensitivity", tmp_path, server, case)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert found.detail.startswith("ragas makes no value of the judge's answers: ")


@pytest.mark.parametrize("name", ["answer_relevancy", "semantic_similarity"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_vectors_of_zeros_have_no_cosine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "embedding_for", lambda text, dimensions: (0.0,) * dimensions)
    with OpenAIServer() as server:
        assert math.isnan(plain(name, server))
        found = score(name, tmp_path, server)
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert found.detail == "ragas makes nan of the judge's answers, which is no share"


@pytest.mark.parametrize("name", ["answer_relevancy", "semantic_similarity"])
def test_a_cosine_below_0_is_0_and_stands_in_the_evidence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bottom of the scale, not a failure: the texts are not alike at all."""
    same = {CASE.question, CASE.answer}
    monkeypatch.setattr(openai_server, "embedding_for", lambda text, dimensions: (0.6, 0.8 if text in same else -0.8))
    with OpenAIServer(dimensions=2) as server:
        assert plain(name, server) == pytest.approx(-0.28)
        found = score(name, tmp_path, server)
    assert (found.value, found.passed) == (0.0, False)
    assert found.evidence["cosine"] == pytest.approx(-0.28)


def test_a_cosine_that_rounding_puts_above_1_is_1() -> None:
    assert [ragas_metrics._cosine(value) for value in (1.0000000000000002, -1.0000000000000002)] == [1.0, 0.0]
    assert ragas_metrics._cosine(1.5) == 1.5, "no rounding makes this: it is left to be refused"


def test_all_noncommittal_is_0_and_not_unmeasured(tmp_path: Path) -> None:
    with OpenAIServer(answer=saying((QUESTION, {"question": "How much?", "noncommittal": 1}))) as server:
        found = score("answer_relevancy", tmp_path, server)
    assert (found.value, found.evidence["noncommittal"]) == (0.0, 3)


# A judge that fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("out_of_schema", Reason.UNPARSABLE),
        ("malformed", Reason.UNPARSABLE),
        ("refusal", Reason.REFUSED),
        ("content_filter", Reason.REFUSED),
        ("truncated", Reason.TRUNCATED),
    ],
)
def test_a_judge_that_never_answers_well_leaves_every_metric_unmeasured_and_stores_nothing(
    kind: Any, reason: Reason, tmp_path: Path
) -> None:
    """Every metric, whatever ragas makes of an exception inside: none is 0, none is NaN, none ends the run."""
    url = f"sqlite:///{tmp_path / 'scores.sqlite'}"

    def spoil(number: int, body: Mapping[str, Any]) -> Fault | None:
        return Fault(kind) if "messages" in body else None

    with OpenAIServer(script=spoil) as server:
        found = judge([CASE], CHAT_METRICS, openai_spec(server), tmp_path, store_url=url)
    assert {score.metric: (score.value, score.unmeasured) for score in found.values()} == dict.fromkeys(
        CHAT_METRICS, (None, reason)
    )
    assert all(score.detail for score in found.values())
    with ScoreStore(url) as store:
        assert store.count() == 0


@pytest.mark.parametrize("name", [name for name in CHAT_METRICS if METRICS[name].steps > 1])
def test_a_judge_that_fails_at_the_second_step_leaves_the_metric_unmeasured(name: str, tmp_path: Path) -> None:
    """The first step's answer is no half of a score."""
    seen: list[str] = []

    def mind(schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
        later = "verdict" in json.dumps(schema) or "questions" in schema["properties"]
        seen.append("second" if later else "first")
        return "not even JSON" if later else answer_for(schema, prompt, occurrence=occurrence)

    with OpenAIServer(answer=mind) as server:
        found = score(name, tmp_path, server)
    assert set(seen) == {"first", "second"}
    assert (found.value, found.unmeasured) == (None, Reason.UNPARSABLE)
    assert "it said: not even JSON" in found.detail


def test_a_failed_metric_leaves_the_others_of_its_case_measured(tmp_path: Path) -> None:
    with OpenAIServer(answer=saying((VERDICT, "nonsense"))) as server:
        found = judge([CASE], LLM_METRICS, openai_spec(server), tmp_path)
    unmeasured = {name for (_, name), score in found.items() if score.value is None}
    assert unmeasured == {"context_precision", "context_precision_without_reference"}


def test_a_lone_surrogate_in_a_case_ends_no_run(tmp_path: Path) -> None:
    """A dataset may hold one (half an emoji); neither ragas's JSON nor a request's body can."""
    broken = replace(CASE, case_id="broken", answer=f"{CASE.answer} \ud83d", contexts=("\ude00 context",))
    with OpenAIServer(record=True) as server:
        found = judge([broken, CASE], LLM_METRICS, openai_spec(server), tmp_path)
        assert any("\ufffd" in prompt for prompt in prompts(server))
    assert {(score.case_id, score.metric): score.detail for score in found.values() if score.value is None} == {}


# Calls --------------------------------------------------------------------------------------------------------------------


def test_a_prompt_does_not_depend_on_the_texts_that_came_before(tmp_path: Path) -> None:
    """noise_sensitivity's prompt escapes Hangul; a head kept from an English case must not change that."""
    korean = replace(CASE, case_id="ko", answer="진단비는 3천만원입니다.", contexts=("3,000만원",))
    seen = []
    for cases in ([CASE, korean], [korean, CASE]):
        with OpenAIServer(record=True) as server:
            judge(cases, ["noise_sensitivity"], openai_spec(server, max_concurrency=1), tmp_path)
            seen.append(sorted(prompts(server)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("name", "deep"), [("context_precision", 1), ("factual_correctness", 2), ("noise_sensitivity", 2), ("answer_accuracy", 1)]
)
def test_calls_that_need_not_wait_for_each_other_do_not(name: str, deep: int, tmp_path: Path) -> None:
    """Three contexts cost the time of one; plain ragas asks one after the other."""
    case = replace(CASE, contexts=tuple(f"Context {number}." for number in range(3)))
    with OpenAIServer(latency=0.2) as server:
        judge([case], [name], openai_spec(server), tmp_path)
        calls = server.calls[CHAT]
        waited = sum(server.latencies)
    assert calls > deep
    assert server.peak_in_flight >= calls // deep // 2 + 1
    assert waited >= 0.2 * calls


def test_the_three_questions_are_one_call_and_their_vectors_another(tmp_path: Path) -> None:
    with OpenAIServer(record=True) as server:
        score("answer_relevancy", tmp_path, server)
    asked = [(path, body.get("n"), len(body.get("input", ()))) for path, body in server.requests]
    assert asked[0] == (CHAT, 3, 0)
    assert {path for path, *_ in asked[1:]} == {EMBEDDINGS}
    assert sum(texts for *_, texts in asked[1:]) == 4


def test_a_judge_without_an_embedding_model_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        found = judge([CASE], LLM_METRICS, openai_spec(server, embedding_model=None), tmp_path)
    failed = {name: score.detail for (_, name), score in found.items() if score.value is None}
    assert set(failed) == {"answer_relevancy", "semantic_similarity"}
    assert all("EVALVAULT_EMBEDDING_MODEL" in detail for detail in failed.values())
