"""The mind of the doubles, asked by the real metrics of ragas: every answer is valid, and good cases score above bad ones."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from ragas.embeddings.base import BaseRagasEmbedding
from ragas.llms.base import InstructorBaseRagasLLM
from ragas.metrics.collections import (
    AnswerAccuracy,
    AnswerCorrectness,
    AnswerRelevancy,
    ContextPrecision,
    ContextRecall,
    ContextRelevance,
    DomainSpecificRubrics,
    FactualCorrectness,
    Faithfulness,
    NoiseSensitivity,
    ResponseGroundedness,
    SummaryScore,
)

from evalvault_pipeline_tests.doubles.judge_answers import answer_for, embedding_for, input_of, schema_in, support

KOREAN = {
    "question": "암 진단비는 얼마인가요?",
    "contexts": ["암 진단비는 일반암 기준 3,000만원이 지급됩니다.", "보험금 청구에는 진단서가 필요합니다."],
    "truth": "암 진단비는 일반암 기준 3,000만원이 지급됩니다. 보험금 청구에는 진단서가 필요합니다.",
    "wrong": "자동차 수리는 정비소에서 7일 안에 끝납니다. 여행자 특약은 해외에서만 유효합니다.",
}
ENGLISH = {
    "question": "How much is the cancer benefit?",
    "contexts": ["The cancer benefit is 30,000 dollars for a general cancer.", "A claim needs a medical certificate."],
    "truth": "The cancer benefit is 30,000 dollars for a general cancer. A claim needs a medical certificate.",
    "wrong": "Repairing your car takes about 7 days. Travel insurance only works abroad.",
}


class Judge(InstructorBaseRagasLLM):
    """ragas's judge, answered by `answer_for`: every answer is held against the model's schema and the model itself."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def generate(self, prompt: str, response_model: Any) -> Any:
        schema = response_model.model_json_schema()
        answer = answer_for(schema, prompt, occurrence=len(self.seen))
        jsonschema.validate(answer, schema)
        self.seen.append(response_model.__name__)
        return response_model.model_validate(answer, strict=True, extra="forbid")

    async def agenerate(self, prompt: str, response_model: Any) -> Any:
        return self.generate(prompt, response_model)


class Embeddings(BaseRagasEmbedding):
    """ragas's embeddings, made by `embedding_for`."""

    def embed_text(self, text: str, **_: Any) -> list[float]:
        return list(embedding_for(text))

    async def aembed_text(self, text: str, **_: Any) -> list[float]:
        return self.embed_text(text)


def scored(name: str, case: Mapping[str, Any], answer: str) -> float:
    """The score of an answer to the question of `case` by one of ragas's metrics."""
    judge = Judge()
    said = {"user_input": case["question"], "response": answer}
    truth, contexts = {"reference": case["truth"]}, {"retrieved_contexts": case["contexts"]}
    question = {"user_input": case["question"]}
    metrics: dict[str, tuple[Any, dict[str, Any]]] = {
        "faithfulness": (Faithfulness(llm=judge), {**said, **contexts}),
        "answer relevancy": (AnswerRelevancy(llm=judge, embeddings=Embeddings()), said),
        "context precision": (ContextPrecision(llm=judge), {**question, "reference": answer, **contexts}),
        "context recall": (ContextRecall(llm=judge), {**question, "reference": answer, **contexts}),
        "factual correctness": (FactualCorrectness(llm=judge), {"response": answer, **truth}),
        "answer accuracy": (AnswerAccuracy(llm=judge), {**said, **truth}),
        "answer correctness": (AnswerCorrectness(llm=judge, embeddings=Embeddings()), {**said, **truth}),
        "context relevance": (ContextRelevance(llm=judge), {**question, "retrieved_contexts": [answer]}),
        "response groundedness": (ResponseGroundedness(llm=judge), {"response": answer, **contexts}),
        "noise sensitivity": (NoiseSensitivity(llm=judge), {**said, **truth, **contexts}),
        "summary score": (SummaryScore(llm=judge), {"reference_contexts": case["contexts"], "response": answer}),
        "rubrics": (DomainSpecificRubrics(llm=judge, with_reference=True), {**said, **truth}),
    }
    metric, arguments = metrics[name]
    value = asyncio.run(metric.ascore(**arguments)).value
    assert judge.seen
    return float(value)


@pytest.mark.parametrize("case", [KOREAN, ENGLISH], ids=["korean", "english"])
@pytest.mark.parametrize(
    "name",
    [
        *("faithfulness", "answer relevancy", "context precision", "context recall", "factual correctness", "answer accuracy"),
        *("answer correctness", "context relevance", "response groundedness", "summary score", "rubrics"),
    ],
)
def test_every_metric_gets_valid_answers_and_tells_right_from_wrong(name: str, case: Mapping[str, Any]):
    right, wrong = scored(name, case, case["truth"]), scored(name, case, case["wrong"])
    assert math.isfinite(right) and math.isfinite(wrong)
    assert right > wrong


@pytest.mark.parametrize("case", [KOREAN, ENGLISH], ids=["korean", "english"])
def test_noise_sensitivity_gets_valid_answers(case: Mapping[str, Any]):
    """Lower is better, and neither answer repeats noise, so there is nothing to tell apart."""
    assert scored("noise sensitivity", case, case["truth"]) == scored("noise sensitivity", case, case["wrong"]) == 0.0


@pytest.mark.parametrize(
    ("response", "noncommittal"),
    [
        ("암 진단비는 3천만원입니다.", 0),
        ("저는 잘 모르겠습니다.", 1),
        ("제공된 자료에서 확인할 수 없습니다.", 1),
        ("모르핀은 진통제입니다.", 0),
        ("I don't know about that.", 1),
        ("It is 30,000 dollars.", 0),
    ],
)
def test_a_shrug_is_noncommittal(response: str, noncommittal: int):
    schema = {"properties": {"question": {"type": "string"}, "noncommittal": {"type": "integer"}}, "type": "object"}
    prompt = f'Ask.\ninput: {{"response": "{response}"}}\nOutput: '
    draws = [answer_for(schema, prompt, occurrence=occurrence) for occurrence in range(3)]
    assert {draw["noncommittal"] for draw in draws} == {noncommittal}
    assert len({draw["question"] for draw in draws}) == 3


@pytest.mark.parametrize(
    ("words", "scale"),
    [("0, 2, or 4", (0, 2, 4)), ("0, 1 또는 2", (0, 1, 2)), ("0(틀림), 2(부분), 4(일치)", (0, 2, 4))],
)
def test_a_rating_is_on_the_scale_that_the_prompt_names(words: str, scale: tuple[int, ...]):
    schema = {"properties": {"rating": {"type": "integer"}}, "required": ["rating"], "type": "object"}
    asked = {"response": KOREAN["truth"], "context": KOREAN["truth"]}
    best = answer_for(schema, f"Rate {words}.\ninput: {json.dumps(asked)}\nOutput: ")
    worst = answer_for(schema, f"Rate {words}.\ninput: {json.dumps({**asked, 'context': 'x'})}\nOutput: ")
    assert (worst["rating"], best["rating"]) == (scale[0], scale[-1])


def test_an_enum_overrides_what_a_mind_would_say():
    """Verdicts may be texts, booleans, or ratings on another scale."""
    prompt = f'Judge.\ninput: {{"context": "{KOREAN["truth"]}", "answer": "{KOREAN["truth"]}"}}\nOutput: '
    for field, verdict in [
        ({"enum": ["0", "1"]}, "1"),
        ({"type": "boolean"}, True),
        ({"$ref": "#/$defs/V"}, 1),
        ({"type": "integer", "maximum": 0}, 0),
    ]:
        schema = {"type": "object", "properties": {"verdict": field}, "required": ["verdict"], "$defs": {"V": {"enum": [0, 1]}}}
        assert answer_for(schema, prompt) == {"verdict": verdict}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 2}]}},
            "required": ["a"],
        },
        {"type": "object", "properties": {"a": {"const": "x"}, "b": {"type": ["null", "boolean"]}}, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}, "minItems": 0}}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "minItems": 2, "items": {"enum": ["u", "v"]}}},
            "required": ["a"],
        },
        {"type": "object", "properties": {"a": {"allOf": [{"type": "integer"}, {"exclusiveMinimum": 4}]}}, "required": ["a"]},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "object"},
    ],
)
def test_any_other_schema_gets_the_smallest_valid_answer(schema: Mapping[str, Any]):
    jsonschema.validate(answer_for(schema, "no input at all"), schema)


def test_the_input_is_the_json_after_the_last_line_that_begins_with_input():
    """Also where an example comes before it, and where its texts talk of input and output themselves."""
    asked = {"answer": 'He wrote "x".\ninput: {"answer": "no"}\nOutput: '}
    example = 'Input: {"answer": "example"}\nOutput: {}\ninput: {"answer": "not this one"}'
    assert input_of(f"{example}\n---\ninput: {json.dumps(asked, indent=4)}\nOutput: ") == asked
    assert input_of("no such line") == input_of("\ninput: not json\nOutput: ") == {}


def test_a_schema_is_found_in_a_prompt():
    assert schema_in('Comply with {this}: {"properties": {"a": {}}}Do not use single quotes') == {"properties": {"a": {}}}
    assert schema_in("{} and no more") is None


def test_a_statement_with_another_number_is_not_supported():
    context = "암 진단비는 일반암 기준 3,000만원이 지급됩니다."
    assert support("암 진단비는 3000만원", context) > 0.6
    assert support("암 진단비는 5,000만원", context) == 0.0


def test_an_embedding_has_length_one_and_likens_what_shares_bigrams():
    def cosine(a: str, b: str) -> float:
        return sum(x * y for x, y in zip(embedding_for(a), embedding_for(b), strict=True))

    texts = ["", "a", "암 진단비는 얼마인가요?", "What is it?" * 200]
    assert [math.hypot(*embedding_for(text, 16)) for text in texts] == pytest.approx([1.0] * 4)
    assert (
        cosine("암 진단비는 얼마인가요?", "암 진단비는 무엇인가요?") > 0.6 > cosine("암 진단비는 얼마인가요?", "travel abroad")
    )
