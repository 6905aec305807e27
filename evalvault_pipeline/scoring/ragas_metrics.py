"""ragas's metrics behind the registry: its prompts and formulas unmodified, over our judge.

Ours are only the edges: the judge that ragas calls, the bounds that its answers must keep, the evidence that is kept, calls
of one metric that need not wait for each other, and the Korean prompts (`prompts/`). What the metrics need and cost stands in
`metrics.py`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.calls import SCOPE, CallPool, Embedder, Scope
from evalvault_pipeline.scoring.evidence import EVIDENCE
from evalvault_pipeline.scoring.judges import CallFailed, Shape
from evalvault_pipeline.scoring.model import Measured, Reason, Unmeasured
from evalvault_pipeline.scoring.prompts import load_prompts

# What a field of an answer may hold. ragas asks for any integer: a judge's verdict of -2 is a context precision of -2.
ALLOWED: dict[str, tuple[int | str, ...]] = {
    "verdict": (0, 1),
    "attributed": (0, 1),
    "noncommittal": (0, 1),
    "score": (1, 2, 3, 4, 5),
    "answers": ("0", "1"),
    "AnswerAccuracyOutput.rating": (0, 2, 4),
    "ContextRelevanceOutput.rating": (0, 1, 2),
    "ResponseGroundednessOutput.rating": (0, 1, 2),
}
# Where ragas makes 0 or NaN of nothing. No claims is an answer: "I do not know" holds none.
NOT_EMPTY = frozenset({"statements", "classifications", "question", "questions", "answers"})
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class RagasMetric:
    """How a metric is made and fed.

    `inputs` are the arguments of ragas's `ascore`; `prompts` names, by attribute, those of `prompts/`; `ahead` starts calls
    that need not wait for each other; `value` makes a share of ragas's value.
    """

    build: Callable[[Any, Any, Mapping[str, str]], Any]
    inputs: Callable[[EvalCase], dict[str, Any]]
    prompts: Mapping[str, str]
    ahead: Callable[[Any, dict[str, Any], Any], Iterable[Coroutine[Any, Any, Any]]] | None = None
    value: Callable[[float], float] = float


def _collection(name: str, **options: Any) -> Callable[[Any, Any, Mapping[str, str]], Any]:
    """A metric of ragas.metrics.collections by its class name."""

    def build(llm: Any, embeddings: Any, rubric: Mapping[str, str]) -> Any:
        import ragas.metrics.collections as collections

        kind = getattr(collections, name)
        given: dict[str, Any] = {} if name == "SemanticSimilarity" else {"llm": llm}
        if name in ("AnswerRelevancy", "SemanticSimilarity"):
            given["embeddings"] = embeddings
        if name == "DomainSpecificRubrics":
            given["rubrics"] = dict(rubric)
        return kind(**given, **options)

    return build


def _two_judges(metric: Any, fields: dict[str, Any], llm: Any) -> Iterable[Coroutine[Any, Any, Any]]:
    """Both judges of the metrics that ask two; the second takes answer and reference in the other order."""
    output, given = metric.judge1_prompt.output_model, dict(fields)
    if "reference" in given:
        orders = [(given["response"], given["reference"]), (given["reference"], given["response"])]
        inputs = [{"query": given["user_input"], "user_answer": one, "reference_answer": two} for one, two in orders]
    else:
        context = "\n".join(given.pop("retrieved_contexts"))
        inputs = [{**given, "context": context}] * 2
    for prompt, values in zip((metric.judge1_prompt, metric.judge2_prompt), inputs, strict=True):
        yield llm.peek(prompt.to_string(prompt.input_model(**values)), output)


def _each_context(metric: Any, fields: dict[str, Any], llm: Any) -> Iterable[Coroutine[Any, Any, Any]]:
    prompt, answer = metric.prompt, fields.get("reference", fields.get("response"))
    for context in dict.fromkeys(fields["retrieved_contexts"]):
        wanted = prompt.input_model(question=fields["user_input"], context=context, answer=answer)
        yield llm.peek(prompt.to_string(wanted), prompt.output_model)


def _both_directions(metric: Any, fields: dict[str, Any], llm: Any) -> Iterable[Coroutine[Any, Any, Any]]:
    claims, verdicts = metric.prompt, metric.nli_prompt

    async def leg(text: str, other: str) -> None:
        wanted = claims.input_model(response=text, atomicity=metric.atomicity, coverage=metric.coverage)
        found = await llm.peek(claims.to_string(wanted), claims.output_model)
        if found.claims:
            await llm.peek(
                verdicts.to_string(verdicts.input_model(context=other, statements=found.claims)), verdicts.output_model
            )

    yield leg(fields["response"], fields["reference"])
    yield leg(fields["reference"], fields["response"])


def _statements_by_contexts(metric: Any, fields: dict[str, Any], llm: Any) -> Iterable[Coroutine[Any, Any, Any]]:
    split, judge = metric.statement_prompt, metric.faithfulness_prompt

    async def leg(text: str, sources: Sequence[str]) -> None:
        wanted = split.input_model(question=fields["user_input"], text=text)
        found = await llm.peek(split.to_string(wanted), split.output_model)
        inputs = [judge.input_model(context=source, statements=found.statements) for source in dict.fromkeys(sources)]
        await asyncio.gather(*(llm.peek(judge.to_string(given), judge.output_model) for given in inputs))

    yield leg(fields["reference"], fields["retrieved_contexts"])
    yield leg(fields["response"], [*fields["retrieved_contexts"], fields["reference"]])


def _all_vectors(metric: Any, fields: dict[str, Any], llm: Any) -> Iterable[Coroutine[Any, Any, Any]]:
    """ragas asks for these vectors synchronously, so they must be there before."""
    yield metric.embeddings.fetch([text or " " for text in (fields["reference"], fields["response"])])


def _fields(*names: str) -> Callable[[EvalCase], dict[str, Any]]:
    """The case's fields under the names that ragas gives them."""

    def inputs(case: EvalCase) -> dict[str, Any]:
        contexts = [_encodable(context) for context in case.contexts]
        known = {
            "user_input": _encodable(case.question),
            "response": _encodable(case.answer),
            "reference": case.ground_truth and _encodable(case.ground_truth),
            "retrieved_contexts": contexts,
            "reference_contexts": contexts,
        }
        return {name: known[name] for name in names}

    return inputs


def _encodable(text: str) -> str:
    """The text with U+FFFD for half an emoji (a lone surrogate), which a dataset may hold and no request can."""
    return SURROGATE.sub("\ufffd", text)


def _share_of_five(value: float) -> float:
    return (value - 1) / 4


def _cosine(value: float) -> float:
    """A cosine below 0 says "not alike at all", which is the bottom of the scale; rounding may put one above 1."""
    return min(max(value, 0.0), 1.0) if -1.000001 <= value <= 1.000001 else value


RAGAS_METRICS: Mapping[str, RagasMetric] = {
    "faithfulness": RagasMetric(
        build=_collection("Faithfulness"),
        inputs=_fields("user_input", "response", "retrieved_contexts"),
        prompts={"statement_generator_prompt": "faithfulness_statements", "nli_statement_prompt": "nli_verdicts"},
    ),
    "answer_relevancy": RagasMetric(
        build=_collection("AnswerRelevancy"),
        inputs=_fields("user_input", "response"),
        prompts={"prompt": "answer_relevancy"},
        value=_cosine,
    ),
    "context_precision": RagasMetric(
        build=_collection("ContextPrecisionWithReference"),
        inputs=_fields("user_input", "reference", "retrieved_contexts"),
        prompts={"prompt": "context_precision"},
        ahead=_each_context,
    ),
    "context_precision_without_reference": RagasMetric(
        build=_collection("ContextPrecisionWithoutReference"),
        inputs=_fields("user_input", "response", "retrieved_contexts"),
        prompts={"prompt": "context_precision"},
        ahead=_each_context,
    ),
    "context_recall": RagasMetric(
        build=_collection("ContextRecall"),
        inputs=_fields("user_input", "retrieved_contexts", "reference"),
        prompts={"prompt": "context_recall"},
    ),
    "factual_correctness": RagasMetric(
        build=_collection("FactualCorrectness"),
        inputs=_fields("response", "reference"),
        prompts={"prompt": "claim_decomposition", "nli_prompt": "nli_verdicts"},
        ahead=_both_directions,
    ),
    "semantic_similarity": RagasMetric(
        build=_collection("SemanticSimilarity"),
        inputs=_fields("reference", "response"),
        prompts={},
        ahead=_all_vectors,
        value=_cosine,
    ),
    "answer_accuracy": RagasMetric(
        build=_collection("AnswerAccuracy"),
        inputs=_fields("user_input", "response", "reference"),
        prompts={"judge1_prompt": "answer_accuracy_judge1", "judge2_prompt": "answer_accuracy_judge2"},
        ahead=_two_judges,
    ),
    "context_relevance": RagasMetric(
        build=_collection("ContextRelevance"),
        inputs=_fields("user_input", "retrieved_contexts"),
        prompts={"judge1_prompt": "context_relevance_judge1", "judge2_prompt": "context_relevance_judge2"},
        ahead=_two_judges,
    ),
    "response_groundedness": RagasMetric(
        build=_collection("ResponseGroundedness"),
        inputs=_fields("response", "retrieved_contexts"),
        prompts={"judge1_prompt": "response_groundedness_judge1", "judge2_prompt": "response_groundedness_judge2"},
        ahead=_two_judges,
    ),
    "noise_sensitivity": RagasMetric(
        build=_collection("NoiseSensitivity"),
        inputs=_fields("user_input", "response", "reference", "retrieved_contexts"),
        prompts={"statement_prompt": "noise_statements", "faithfulness_prompt": "noise_verdicts"},
        ahead=_statements_by_contexts,
    ),
    "summary_score": RagasMetric(
        build=_collection("SummaryScore"),
        inputs=_fields("reference_contexts", "response"),
        prompts={
            "extract_keyphrases_prompt": "summary_keyphrases",
            "generate_questions_prompt": "summary_questions",
            "generate_answers_prompt": "summary_answers",
        },
    ),
    "rubric": RagasMetric(
        build=_collection("DomainSpecificRubrics"),
        inputs=_fields("user_input", "response", "retrieved_contexts", "reference"),
        prompts={"scoring_prompt": "rubric"},
        value=_share_of_five,
    ),
}


@lru_cache(maxsize=1)
def prepare() -> None:
    """Import ragas now (about 3 CPU-seconds), without its telemetry."""
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    import ragas.metrics.collections  # noqa: F401

    gc.freeze()  # else each full collection goes through all that ragas has loaded, for 0.3 s in which no call moves


class RagasScorer:
    """Scores cases with ragas's metrics over one pool of calls, in one language's prompts."""

    def __init__(self, pool: CallPool, *, language: str, rubric: Mapping[str, str]) -> None:
        self._language, self._rubric = language, rubric
        judge, embeddings = _edges()
        self._llm = judge(pool)
        self._embeddings = embeddings(Embedder(pool))
        self._built: dict[str, Any] = {}

    async def score(self, name: str, case: EvalCase, scope: Scope) -> Measured | Unmeasured:
        """One metric on one case; what it cost stands in `scope`. Never raises for a failing judge."""
        SCOPE.set(scope)
        kind, metric = RAGAS_METRICS[name], self.metric(name)
        fields = kind.inputs(case)
        started: list[asyncio.Future[Any]] = []
        try:
            started += [asyncio.ensure_future(call) for call in (kind.ahead(metric, fields, self._llm) if kind.ahead else ())]
            if name == "semantic_similarity":
                await asyncio.gather(*started)
            value = float((await metric.ascore(**fields)).value)
        except CallFailed as failed:
            scope.failure = scope.failure or failed
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:  # ragas met an answer that it does not expect
            return Unmeasured(reason=Reason.UNPARSABLE, detail=f"ragas makes no value of the judge's answers: {error}")
        finally:
            for call in started:
                call.cancel()
            if started:
                await asyncio.gather(*started, return_exceptions=True)
        # Some metrics swallow a failed call and go on with the other: half a measurement is none.
        if scope.failure is not None:
            return Unmeasured(reason=scope.failure.reason, detail=scope.failure.detail)
        evidence, fault = EVIDENCE[name](scope.answers, value)
        if fault:
            return Unmeasured(reason=Reason.UNPARSABLE, detail=fault)
        share = kind.value(value)
        if not (math.isfinite(share) and 0.0 <= share <= 1.0):
            return Unmeasured(reason=Reason.UNPARSABLE, detail=f"ragas makes {value} of the judge's answers, which is no share")
        return Measured(value=share, evidence=evidence)

    def metric(self, name: str) -> Any:
        """ragas's metric with the prompts of the language."""
        if name not in self._built:
            self._built[name] = _built(name, self._llm, self._embeddings, self._language, self._rubric)
        return self._built[name]


def _built(name: str, llm: Any, embeddings: Any, language: str, rubric: Mapping[str, str]) -> Any:
    kind = RAGAS_METRICS[name]
    rubric = dict(sorted(rubric.items()))  # its digest in the metric's version does not depend on the order either
    metric = kind.build(llm, embeddings, rubric)
    texts = load_prompts(language)
    for attribute, prompt_name in kind.prompts.items():
        prompt = getattr(metric, attribute)
        if texts:
            extra = "\n\n채점 기준:\n" + "\n".join(f"{key}: {text}" for key, text in rubric.items()) if name == "rubric" else ""
            prompt = _in_language(prompt, texts[prompt_name], extra)
        setattr(metric, attribute, _Headed(prompt))
    return metric


def prompt_heads(name: str, language: str, rubric: Mapping[str, str]) -> dict[str, str]:
    """Prompt attribute -> all of the prompt but the case's texts."""
    judge, embeddings = _edges()
    metric = _built(name, judge(None), embeddings(None), language, rubric)
    heads = {}
    for attribute in RAGAS_METRICS[name].prompts:
        prompt = getattr(metric, attribute)
        values = {
            field: [] if "List" in str(about.annotation) else "" for field, about in prompt.input_model.model_fields.items()
        }
        heads[attribute] = prompt.to_string(prompt.input_model.model_construct(**values))
    return heads


def _in_language(prompt: Any, text: Mapping[str, Any], extra: str) -> Any:
    """A prompt for the same models with another instruction and other examples."""
    from ragas.prompt.metrics.base_prompt import BasePrompt

    class Translated(BasePrompt):  # type: ignore[type-arg]
        input_model = prompt.input_model
        output_model = prompt.output_model

    translated = Translated()
    translated.instruction = text["instruction"].strip() + extra
    translated.examples = [
        (prompt.input_model(**one["input"]), prompt.output_model(**one["output"])) for one in text.get("examples", ())
    ]
    return translated


class _Headed:
    """A prompt whose constant head (instruction, schema, examples) is built once; ragas builds it for every call.

    Some of ragas's prompts write their input in another way (noise_sensitivity's escape what is not ASCII): they have no head
    and are built by ragas every time.
    """

    def __init__(self, prompt: Any) -> None:
        self._prompt = prompt
        self._head: str | None = None
        self.input_model = prompt.input_model
        self.output_model = prompt.output_model

    def to_string(self, data: BaseModel) -> str:
        if self._head is None:
            self._head = self._found_head(data)
        return self._head + _tail(data) if self._head else str(self._prompt.to_string(data))

    def _found_head(self, data: BaseModel) -> str:
        """The head, where this input and a strange one are written as ours are; else empty."""
        strange = data.model_copy(
            update={name: ["\x7f가"] if isinstance(value, list) else "\x7f가" for name, value in data if value is not None}
        )
        whole, other = str(self._prompt.to_string(data)), str(self._prompt.to_string(strange))
        alike = whole.endswith(_tail(data)) and other.endswith(_tail(strange))
        return whole.removesuffix(_tail(data)) if alike else ""


def _tail(data: BaseModel) -> str:
    return data.model_dump_json(indent=4, exclude_none=True) + "\nOutput: "


@lru_cache(maxsize=1)
def _edges() -> tuple[Any, Any]:
    """The two classes that ragas calls, made when ragas is first needed."""
    prepare()
    from ragas.embeddings.base import BaseRagasEmbedding
    from ragas.llms.base import InstructorBaseRagasLLM

    class RagasJudge(InstructorBaseRagasLLM):
        """ragas's view of the judge. Every answer that a metric takes is kept in the scope."""

        is_async = True

        def __init__(self, pool: CallPool) -> None:
            self._pool = pool

        def generate(self, prompt: str, response_model: Any) -> Any:
            raise NotImplementedError("the judge is asked inside an asyncio loop")

        async def agenerate(self, prompt: str, response_model: Any) -> Any:
            scope = SCOPE.get()
            if scope.failure is not None:
                raise scope.failure
            shape = shape_of(response_model)
            key = (shape.name, prompt)
            occurrence = scope.asked.get(key, 0)
            scope.asked[key] = occurrence + 1
            try:
                value = await self._value(prompt, shape, occurrence, scope)
            except CallFailed as failed:
                scope.failure = scope.failure or failed
                raise
            scope.answers.append(value)
            return value

        async def peek(self, prompt: str, response_model: Any) -> Any:
            """Ask ahead: the first that wants this answer finds it, or waits for it."""
            return await self._value(prompt, shape_of(response_model), 0, SCOPE.get())

        async def _value(self, prompt: str, shape: Shape, occurrence: int, scope: Scope) -> Any:
            key = (shape.name, prompt, occurrence)
            if (pending := scope.pending.get(key)) is not None:
                return await asyncio.shield(pending)
            # answer_relevancy asks the same three times: one call with three replies.
            n = 3 if shape.name == "AnswerRelevanceOutput" and occurrence == 0 else 1
            loop = asyncio.get_running_loop()
            futures = [scope.pending.setdefault((*key[:2], occurrence + i), loop.create_future()) for i in range(n)]
            try:
                values = await self._pool.ask(prompt, shape, scope, occurrence=occurrence, n=n)
            except BaseException as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                        future.exception()  # nobody may wait for it
                raise
            for future, value in zip(futures, values, strict=True):
                if not future.done():
                    future.set_result(value)
            return values[0]

    class RagasEmbeddings(BaseRagasEmbedding):
        """ragas's view of the embedding model."""

        def __init__(self, embedder: Embedder) -> None:
            super().__init__()
            self._embedder = embedder

        def embed_text(self, text: str, **_: Any) -> Any:
            return SCOPE.get().vectors[text]

        async def aembed_text(self, text: str, **_: Any) -> Any:
            return (await self.fetch([text]))[0]

        async def aembed_texts(self, texts: list[str], **_: Any) -> Any:
            return await self.fetch(texts)

        async def fetch(self, texts: Sequence[str]) -> list[Any]:
            scope = SCOPE.get()
            try:
                vectors = await asyncio.gather(*(self._embedder.want(text, scope) for text in texts))
            except CallFailed as failed:
                scope.failure = scope.failure or failed
                raise
            scope.vectors.update(zip(texts, vectors, strict=True))
            return vectors

    return RagasJudge, RagasEmbeddings


@lru_cache
def shape_of(model: type[BaseModel]) -> Shape:
    """The shape of a response model of ragas, bounded to what its metric understands."""
    schema = _bounded(model.model_json_schema(), model.__name__, "")

    def parse(text: str) -> BaseModel:
        try:
            value = model.model_validate_json(_json_of(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
        _check(value, model.__name__)
        return value

    return Shape(name=model.__name__, schema=schema, schema_json=orjson.dumps(schema), parse=parse)


def _json_of(text: str) -> str:
    """The JSON object of a text, which a server without schemas may wrap in a fence or a sentence."""
    stripped = text.strip()
    if stripped.startswith("{"):
        return stripped
    start, end = stripped.find("{"), stripped.rfind("}")
    return stripped[start : end + 1] if 0 <= start < end else stripped


def _allowed(model: str, name: str) -> tuple[int | str, ...] | None:
    return ALLOWED.get(f"{model}.{name}") or ALLOWED.get(name)


def _bounded(schema: Any, model: str, name: str) -> Any:
    """A JSON Schema with the allowed values, closed as OpenAI's strict mode wants it, without titles."""
    if isinstance(schema, list):
        return [_bounded(item, model, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {field: _bounded(inner, model, field) for field, inner in value.items()}
        elif key == "$defs":
            result[key] = {field: _bounded(inner, field, "") for field, inner in value.items()}
        elif key != "title":
            result[key] = _bounded(value, model, name)
    if result.get("type") == "object":
        result["additionalProperties"] = False
        result["required"] = list(result.get("properties", {}))
    elif result.get("type") in ("integer", "string") and (allowed := _allowed(model, name)):
        result["enum"] = list(allowed)
    return result


def _check(value: BaseModel, model: str) -> None:
    """Raise ValueError where a field holds what its metric does not understand."""
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if name in NOT_EMPTY and not inner:
            raise ValueError(f"`{name}` is empty")
        allowed = _allowed(model, name)
        items = inner if isinstance(inner, list) else [inner]
        for item in items:
            if isinstance(item, BaseModel):
                _check(item, type(item).__name__)
            elif allowed and item not in allowed:
                raise ValueError(f"`{name}` is {item}, and must be one of {', '.join(map(str, allowed))}")
