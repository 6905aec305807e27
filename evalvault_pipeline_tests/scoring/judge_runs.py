"""Whole runs of a judge over loopback doubles: what the tests of calls, faults, resuming and commands share.

One metric on one case, and what it asks, is in `judged.py`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from evalvault_pipeline.cases.batches import batch_count, split_into_batches
from evalvault_pipeline.cases.model import Batch, EvalCase, Snapshot
from evalvault_pipeline.errors import PipelineError
from evalvault_pipeline.scoring.calls import Patience
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.judges import JudgeIdentity, JudgeSpec
from evalvault_pipeline.scoring.judging import Judging, Progress
from evalvault_pipeline.scoring.model import BatchScores, MetricScore
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline_tests.conftest import a_secret
from evalvault_pipeline_tests.doubles.faults import Fault
from evalvault_pipeline_tests.doubles.judge_answers import answer_for
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.doubles.serving import Body

IMPATIENT = Patience(wait_min=0.05, wait_max=0.2, throttled=3.0, least_deadline=10.0)
THREE = ("faithfulness", "answer_relevancy", "context_precision")
KEY = "sk-canary-0123456789abcdefghijklmnopqrstuvwxyz"

_SUBJECTS = ("cancer benefit", "hospital allowance", "surgery payment", "surrender value", "driver cover")


def cases_of(count: int, *, contexts: int = 2, **changes: Any) -> list[EvalCase]:
    """Cases that no two of have the same prompt, of which the judge finds some right, some half right and some wrong."""
    return [_case(number, contexts, changes) for number in range(1, count + 1)]


def _case(number: int, contexts: int, changes: Mapping[str, Any]) -> EvalCase:
    subject, amount = _SUBJECTS[number % 5], 100 * number
    told = amount if number % 3 else amount + 7
    passages = [f"Clause {number}: the {subject} pays {amount} dollars in plan {number}."]
    passages += [f"Clause {number}.{rank} is about office hours." for rank in range(2, contexts + 1)]
    values: dict[str, Any] = {
        "case_id": f"c{number}",
        "question": f"How much does the {subject} of plan {number} pay?",
        "answer": f"The {subject} pays {told} dollars in plan {number}." + " It is so." * (number % 5 == 0),
        "contexts": tuple(passages if number % 4 else passages[::-1]),
        "ground_truth": f"The {subject} pays {amount} dollars in plan {number}.",
    }
    return EvalCase(**{**values, **changes})


def openai_spec(server: OpenAIServer, **changes: Any) -> JudgeSpec:
    given: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-5-mini",
        "embedding_model": "text-embedding-3-small",
        "base_url": server.base_url,
        "api_key": a_secret(KEY),
        "timeout_seconds": 10.0,
        "max_concurrency": 32,
    }
    return JudgeSpec(**{**given, **changes})


def ollama_spec(server: OllamaServer, **changes: Any) -> JudgeSpec:
    given: dict[str, Any] = {
        "provider": "ollama",
        "model": "tiny",
        "embedding_model": "tiny-embed",
        "base_url": server.url,
        "timeout_seconds": 10.0,
        "max_concurrency": 8,
    }
    return JudgeSpec(**{**given, **changes})


@dataclass(kw_only=True)
class Run:
    """What a run gave: batches as they came, how long it took, and the error that ended it."""

    batches: list[BatchScores] = field(default_factory=list)
    seconds: float = 0.0
    error: PipelineError | None = None

    @property
    def all(self) -> list[MetricScore]:
        """Every score, repeats included."""
        return [score for batch in self.batches for result in batch.results for score in (*result.scores, *result.repeats)]

    @property
    def scores(self) -> dict[tuple[str, str], MetricScore]:
        return {(score.case_id, score.metric): score for batch in self.batches for score in batch.scores}

    @property
    def outcomes(self) -> dict[tuple[str, str], float | str]:
        """(case id, metric) -> value, or the reason why there is none."""
        return {key: str(score.unmeasured) if score.value is None else score.value for key, score in self.scores.items()}

    @property
    def reasons(self) -> set[str]:
        return {str(score.unmeasured) for score in self.scores.values() if score.value is None}

    @property
    def paid(self) -> list[MetricScore]:
        return [score for score in self.all if not score.reused]


def judged(
    cases: Sequence[EvalCase],
    spec: JudgeSpec,
    folder: Path,
    metrics: Iterable[str] = THREE[:2],
    *,
    batch_size: int = 25,
    fresh: Iterable[str] = (),
    rubric: Mapping[str, str] | None = None,
    patience: Patience = IMPATIENT,
    on_progress: Callable[[Progress], None] | None = None,
    **judging: Any,
) -> Run:
    """Score the cases; the score store and the journal are in `folder`, so the same folder is the next run of the same user."""
    plan = ScoringPlan(
        thresholds=dict.fromkeys(metrics, 0.5),
        tokenizer="ngram",
        no_judge="none",
        rubric=rubric or {},
        fresh=frozenset(fresh),
        judge=spec.name,
    )
    how = Judging(identity=JudgeIdentity(spec=spec), journal=folder / "journal", patience=patience, **judging)
    run, began = Run(), time.monotonic()
    try:
        url = f"sqlite:///{folder / 'scores.sqlite'}"
        batches = batches_of(cases, batch_size)
        for batch in score_batches(batches, plan=plan, store_url=url, judging=how, on_progress=on_progress):
            run.batches.append(batch)
    except PipelineError as error:
        run.error = error
    run.seconds = time.monotonic() - began
    return run


def batches_of(cases: Sequence[EvalCase], size: int) -> list[Batch]:
    snapshot = Snapshot(dataset="d", name="s", batch_count=batch_count(len(cases), size))
    return list(split_into_batches(cases, snapshot=snapshot, batch_size=size))


def renamed(cases: Iterable[EvalCase], prefix: str) -> list[EvalCase]:
    return [replace(case, case_id=f"{prefix}{case.case_id}") for case in cases]


def steady(schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
    """A mind that says the same to the same prompt, however often it is asked."""
    return answer_for(schema, prompt)


class MeteredServer(OpenAIServer):
    """OpenAI's stand-in that adds up the usage it tells, as the provider's bill would. `cached` of a prompt are told as cached."""

    def __init__(self, *, cached: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.cached = cached
        self.prompt_tokens = self.completion_tokens = self.embedding_tokens = self.cached_tokens = 0
        self._lock = threading.Lock()

    async def _chat(self, request: web.Request, body: Body, fault: Fault | None) -> web.Response:
        response = await super()._chat(request, body, fault)
        told = json.loads(bytes(response.body))
        usage = told["usage"]
        usage["prompt_tokens_details"]["cached_tokens"] = int(self.cached * usage["prompt_tokens"])
        response.body = json.dumps(told).encode()
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        return response

    async def _embeddings(self, request: web.Request, body: Body, fault: Fault | None) -> web.Response:
        response = await super()._embeddings(request, body, fault)
        if fault is None:
            self.embedding_tokens += json.loads(bytes(response.body))["usage"]["prompt_tokens"]
        return response


def asked(body: Mapping[str, Any]) -> str:
    """What a request asks, the same however often and with whatever repair it is asked."""
    return str(body["messages"][0]["content"] if "messages" in body else body["input"])


def each_once(choose: Callable[[str], Fault | None]) -> Callable[[int, Mapping[str, Any]], Fault | None]:
    """A script that lets each prompt fail the first time that it is asked, as `choose` says of the prompt, and then never."""
    seen: set[str] = set()

    def script(number: int, body: Mapping[str, Any]) -> Fault | None:
        prompt = asked(body)
        if prompt in seen:
            return None
        seen.add(prompt)
        return choose(prompt)

    return script


def chats_only(script: Callable[[int, Mapping[str, Any]], Fault | None]) -> Callable[[int, Mapping[str, Any]], Fault | None]:
    return lambda number, body: script(number, body) if "messages" in body else None
