"""Plain ragas, as its users call it: the yardstick of our scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judged import RUBRIC


def plain_arguments(name: str, one: EvalCase) -> dict[str, Any]:
    """What a user of ragas gives this metric's `ascore`."""
    said = {"user_input": one.question, "response": one.answer}
    truth, found = {"reference": one.ground_truth}, {"retrieved_contexts": list(one.contexts)}
    arguments: dict[str, dict[str, Any]] = {
        "faithfulness": {**said, **found},
        "answer_relevancy": said,
        "context_precision": {"user_input": one.question, **truth, **found},
        "context_precision_without_reference": {**said, **found},
        "context_recall": {"user_input": one.question, **truth, **found},
        "factual_correctness": {"response": one.answer, **truth},
        "semantic_similarity": {"response": one.answer, **truth},
        "answer_accuracy": {**said, **truth},
        "context_relevance": {"user_input": one.question, **found},
        "response_groundedness": {"response": one.answer, **found},
        "noise_sensitivity": {**said, **truth, **found},
        "summary_score": {"response": one.answer, "reference_contexts": list(one.contexts)},
        "rubric": {**said, **truth, **found},
    }
    return arguments[name]


async def plain_values(name: str, cases: Sequence[EvalCase], server: OpenAIServer) -> dict[str, float]:
    """Case id -> value of plain ragas, one call after the other, over OpenAI's SDK and instructor."""
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    import instructor
    import ragas.metrics.collections as plain
    from openai import AsyncOpenAI, OpenAI
    from ragas.embeddings import OpenAIEmbeddings
    from ragas.llms.base import InstructorLLM

    at: dict[str, Any] = {"base_url": server.base_url, "api_key": "sk-test", "max_retries": 0}
    with OpenAI(**at) as blocking:
        async with AsyncOpenAI(**at) as client:
            asked = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
            llm = InstructorLLM(client=asked, model="gpt-4o-mini", provider="openai")
            made: dict[str, Callable[[], Any]] = {
                "faithfulness": lambda: plain.Faithfulness(llm=llm),
                "answer_relevancy": lambda: plain.AnswerRelevancy(llm=llm, embeddings=OpenAIEmbeddings(client)),
                "context_precision": lambda: plain.ContextPrecisionWithReference(llm=llm),
                "context_precision_without_reference": lambda: plain.ContextPrecisionWithoutReference(llm=llm),
                "context_recall": lambda: plain.ContextRecall(llm=llm),
                "factual_correctness": lambda: plain.FactualCorrectness(llm=llm),
                # It embeds synchronously, inside a running loop, so it gets a client that can.
                "semantic_similarity": lambda: plain.SemanticSimilarity(embeddings=OpenAIEmbeddings(blocking)),
                "answer_accuracy": lambda: plain.AnswerAccuracy(llm=llm),
                "context_relevance": lambda: plain.ContextRelevance(llm=llm),
                "response_groundedness": lambda: plain.ResponseGroundedness(llm=llm),
                "noise_sensitivity": lambda: plain.NoiseSensitivity(llm=llm),
                "summary_score": lambda: plain.SummaryScore(llm=llm),
                "rubric": lambda: plain.DomainSpecificRubrics(llm=llm, rubrics=RUBRIC),
            }
            metric = made[name]()
            return {one.case_id: float((await metric.ascore(**plain_arguments(name, one))).value) for one in cases}


def as_share(name: str, value: float) -> float:
    """ragas's value on our scale: a rubric's rating from 1 to 5 is a share, and a cosine below 0 is the bottom."""
    return (
        (value - 1) / 4
        if name == "rubric"
        else max(value, 0.0)
        if name in ("answer_relevancy", "semantic_similarity")
        else value
    )
