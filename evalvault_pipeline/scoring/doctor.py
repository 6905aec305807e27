"""Examine the judge step by step, and say for each failure what to do about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.scoring.calls import way_out
from evalvault_pipeline.scoring.database import checked_url
from evalvault_pipeline.scoring.judges import Answer, CallFailed, Embeddings, JudgeSpec, Shape, judge_spec
from evalvault_pipeline.scoring.providers import judge_for, models
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.scoring.usage import price_of
from evalvault_pipeline.settings import Settings

LEAST_CONTEXT = 2048  # tokens; the prompts of ragas with a short case, and an answer
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "integer", "enum": [0, 1]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was examined. `remedy` says what to do; `exit_code` is 2 for a setting, 3 for a server."""

    what: str
    found: str
    fine: bool = True
    remedy: str = ""
    exit_code: int = 2


def examine(settings: Settings) -> list[Finding]:
    """Everything that a run of this profile needs, in the order in which it needs it. Calls the model once."""
    findings = [_store(settings)]
    try:
        settings.require_judge()
        spec = judge_spec(settings)
    except PipelineError as error:
        return [*findings, Finding(what="judge", found=str(error), fine=False)]
    if spec is None:
        return [*findings, Finding(what="judge", found=settings.profile.no_judge)]
    return [*findings, *_judge(spec)]


def _store(settings: Settings) -> Finding:
    place = checked_url(settings.score_store_url)
    try:
        with ScoreStore(settings.score_store_url) as store:
            return Finding(what="score store", found=f"{place} holds {store.count()} scores")
    except PipelineError as error:
        return Finding(what="score store", found=str(error), fine=False, exit_code=error.exit_code)


def _judge(spec: JudgeSpec) -> Iterator[Finding]:
    where = spec.shown_url or str(spec.model_path)
    try:
        known = models(spec)
    except PipelineError as error:  # the key cannot be read
        yield Finding(what="key", found=str(error), fine=False, exit_code=error.exit_code)
        return
    except CallFailed as failed:
        code = 2 if failed.fatal else 3
        yield Finding(what="server", found=failed.detail, fine=False, remedy=way_out(spec, failed), exit_code=code)
        return
    if spec.provider == "gguf":
        yield Finding(what="model file", found=where)
    else:
        yield Finding(what="server", found=f"{where} answers" + (f", {len(known)} models" if known else ""))
    for variable, model in (("EVALVAULT_JUDGE_MODEL", spec.model), ("EVALVAULT_EMBEDDING_MODEL", spec.embedding_model)):
        if model and known and not ({model, f"{model}:latest"} & set(known)):
            pull = f"Run `ollama pull {model}`, or set" if spec.provider == "ollama" else "Set"
            there = ", ".join(sorted(known)[:10])
            yield Finding(
                what="model", found=f"{model} is not there", fine=False, remedy=f"{pull} {variable} to one of: {there}."
            )
    length = known.get(spec.model) or known.get(f"{spec.model}:latest")
    if length is not None and spec.provider == "ollama":
        fits = LEAST_CONTEXT <= spec.num_ctx <= length
        remedy = "" if fits else f"Set OLLAMA_NUM_CTX to {length} at most."
        if spec.num_ctx < LEAST_CONTEXT:
            remedy = f"The prompts take about 1,000 tokens and the contexts: set OLLAMA_NUM_CTX to {min(length, 8192)}."
        found = f"the model takes {length} tokens, num_ctx is {spec.num_ctx}"
        yield Finding(what="context length", found=found, fine=fits, remedy=remedy)
    yield from asyncio.run(_tried(spec))
    price = price_of(spec.provider, spec.model)
    text = "not known: tokens are counted, dollars are not, and a budget is given in tokens"
    if price:
        text = f"${price.input * 1e6:g} for a million prompt tokens, ${price.output * 1e6:g} for a million answer tokens"
    yield Finding(what="price", found=text)


async def _tried(spec: JudgeSpec) -> list[Finding]:
    """One small answer in JSON, and one vector."""
    findings = []
    judge = judge_for(spec)
    try:
        await judge.open()
        shape = Shape(name="Verdict", schema=SCHEMA, schema_json=json.dumps(SCHEMA).encode(), parse=json.loads)
        question = 'Is the sky blue? Answer in JSON: {"verdict": 1} for yes, {"verdict": 0} for no.'
        call = judge.chat([("user", question)], shape, n=1, max_tokens=spec.max_tokens, seed=0)
        findings.append(_answered(await asyncio.wait_for(call, spec.timeout_seconds)))
        if spec.embedding_model is None:
            remedy = (
                "answer_relevancy and semantic_similarity stay unmeasured; set EVALVAULT_EMBEDDING_GGUF or _MODEL for them."
            )
            findings.append(Finding(what="embeddings", found="no embedding model is set", remedy=remedy))
            return findings
        vectors: Embeddings = await asyncio.wait_for(judge.embed(["보험금을 청구합니다."]), spec.timeout_seconds)
        findings.append(Finding(what="embeddings", found=f"{spec.embedding_model} gives {vectors.vectors[0].size} dimensions"))
    except CallFailed as failed:
        what = "embeddings" if findings else "answer"
        code = 2 if failed.fatal else 3
        findings.append(Finding(what=what, found=failed.detail, fine=False, remedy=way_out(spec, failed), exit_code=code))
    except TimeoutError:
        found = f"no answer in {spec.timeout_seconds:.0f} s"
        findings.append(Finding(what="answer", found=found, fine=False, remedy=_SLOW[spec.provider], exit_code=3))
    except PipelineError as error:
        findings.append(Finding(what="judge", found=str(error), fine=False, exit_code=error.exit_code))
    finally:
        await judge.close()
    return findings


_SLOW = {
    "openai": "Raise OPENAI_TIMEOUT, or see what the server does.",
    "ollama": "Raise OLLAMA_TIMEOUT, or choose a smaller model with EVALVAULT_JUDGE_MODEL.",
    "gguf": "Raise OLLAMA_TIMEOUT, or choose a smaller model with EVALVAULT_GGUF.",
}


def _answered(answer: Answer) -> Finding:
    text = answer.replies[0].text if answer.replies else ""
    try:
        fine = json.loads(text)["verdict"] in (0, 1)
    except (ValueError, KeyError, TypeError):
        fine = False
    if fine:
        return Finding(what="answer", found=f"in JSON of the wanted form, {answer.prompt_tokens} tokens read")
    remedy = "The model or server ignores the JSON schema: expect many unmeasured scores. Choose another model."
    return Finding(
        what="answer", found=f"not in the wanted form: {without_secrets(text)[:80] or 'nothing'}", fine=False, remedy=remedy
    )
