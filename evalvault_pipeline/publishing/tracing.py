"""Traces of the judge's calls in Phoenix: one trace per case, a span per call, the scores as annotations.

Plain OpenTelemetry, in batches from a thread of its own: a server that is down or slow costs scoring nothing, and what could
not be delivered is counted. Texts are redacted before they are queued.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.publishing.phoenix import PhoenixAccess, Token
from evalvault_pipeline.publishing.phoenix_upload import evaluation
from evalvault_pipeline.scoring.judges import Answer, Message
from evalvault_pipeline.scoring.model import MetricScore

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

QUEUE = 8_192  # spans that wait to be sent; of more, the newest are dropped and counted
BATCH = 256
SEND_SECONDS = 3.0
FINISH_SECONDS = 10.0
ANNOTATIONS = 50_000  # kept until the end of a run: a span must be there before it can be annotated
ANNOTATIONS_AT_ONCE = 500


class JudgeTracer:
    """Traces the cases of one run. `finish`, or the end of its block, sends what is queued, or counts it as dropped."""

    def __init__(self, access: PhoenixAccess, *, run_id: str, dataset: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        self._access, self._run_id, self._dataset = access, run_id, dataset
        for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what is lost is counted
        self._exporter = _counting(
            OTLPSpanExporter(endpoint=f"{access.endpoint}/v1/traces", session=_session(access), timeout=SEND_SECONDS)
        )
        self._provider = TracerProvider(
            resource=Resource.create({"openinference.project.name": access.project, "service.name": "evalvault-pipeline"}),
            sampler=TraceIdRatioBased(access.sample_rate),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=QUEUE, max_export_batch_size=BATCH, schedule_delay_millis=500)
        )
        self._tracer = self._provider.get_tracer("evalvault")
        self._annotations: list[dict[str, Any]] = []
        self._annotated = 0
        self.spans = self.cases = self.annotations_left_out = 0
        self._told: dict[str, Any] = {}

    def __enter__(self) -> JudgeTracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def start(self, case: EvalCase) -> CaseTrace | None:
        """The trace of a case; None for one that is not in the sample."""
        from opentelemetry.context import Context

        about = {"case_id": case.case_id, "dataset": self._dataset, "run_id": self._run_id}
        span = self._tracer.start_span("evaluate", context=Context(), attributes=_text(metadata=about))
        if not span.get_span_context().trace_flags.sampled:
            return None
        span.set_attributes(
            {
                "openinference.span.kind": "EVALUATOR",
                "input.value": redacted(case.question),
                "output.value": redacted(case.answer),
            }
        )
        self.cases += 1
        self.spans += 1
        return CaseTrace(self, self._tracer, span)

    def annotate(self, span_id: str, scores: Iterable[MetricScore]) -> None:
        """Keep a case's scores for the end of the run, as far as there is room; the others are counted."""
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        for score in scores:
            if len(self._annotations) >= ANNOTATIONS:
                self.annotations_left_out += 1
                continue
            told = evaluation(score, now)
            result = {name: told[name] for name in ("label", "score", "explanation") if told[name] is not None}
            self._annotations.append(
                {
                    "span_id": span_id,
                    "name": score.metric,
                    "annotator_kind": told["annotator_kind"],
                    "result": result,
                    "identifier": self._run_id,
                }
            )

    def finish(self, seconds: float = FINISH_SECONDS) -> dict[str, Any]:
        """Send what is queued, for at most so long; what was traced, delivered and dropped."""
        if self._told:
            return self._told
        # The SDK's own flush ignores its timeout, and its shutdown waits for half a minute.
        thread = threading.Thread(target=self._deliver, args=(time.monotonic() + seconds,), daemon=True)
        thread.start()
        thread.join(seconds)
        exported = self._exporter.exported
        self._told = {
            "cases": self.cases,
            "exported": exported,
            "dropped": self.spans - exported,
            "annotations": self._annotated,
            "annotations_dropped": len(self._annotations) - self._annotated + self.annotations_left_out,
        }
        return self._told

    def _deliver(self, until: float) -> None:
        with suppress(Exception):  # of a server that is gone; it is counted
            self._provider.force_flush()
        if self._exporter.exported:
            with suppress(httpx.HTTPError):
                self._send_annotations(until)
        with suppress(Exception):
            self._provider.shutdown()

    def _send_annotations(self, until: float) -> None:
        with httpx.Client(base_url=self._access.endpoint, auth=Token(self._access), timeout=SEND_SECONDS) as http:
            for start in range(0, len(self._annotations), ANNOTATIONS_AT_ONCE):
                if time.monotonic() >= until:
                    return
                some = self._annotations[start : start + ANNOTATIONS_AT_ONCE]
                http.post("/v1/span_annotations", json={"data": some}).raise_for_status()
                self._annotated += len(some)


class CaseTrace:
    """The trace of one case: `trace_id` is what its scores and its experiment run are linked by."""

    def __init__(self, owner: JudgeTracer, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._owner, self._tracer, self._span = owner, tracer, span
        self._context = set_span_in_context(span)
        self.trace_id = format(span.get_span_context().trace_id, "032x")

    def call(
        self, *, score: str, model: str, messages: Sequence[Message], answer: Answer | None, error: str, began: int, ended: int
    ) -> None:
        """One call of the judge for a metric (`score`), answered or failed; times in nanoseconds since the epoch."""
        from opentelemetry.trace import Status, StatusCode

        asked = [redacted(text) for _, text in messages]
        attributes: dict[str, Any] = {
            "openinference.span.kind": "LLM",
            "llm.model_name": model,
            "input.value": asked[-1],
            **_text(metadata={"metric": score}),
        }
        for number, (role, _) in enumerate(messages):
            attributes[f"llm.input_messages.{number}.message.role"] = role
            attributes[f"llm.input_messages.{number}.message.content"] = asked[number]
        if answer is not None:
            replies = [redacted(reply.text) for reply in answer.replies]
            attributes["output.value"] = "\n".join(replies)
            for number, text in enumerate(replies):
                attributes[f"llm.output_messages.{number}.message.role"] = "assistant"
                attributes[f"llm.output_messages.{number}.message.content"] = text
            attributes["llm.token_count.prompt"] = answer.prompt_tokens
            attributes["llm.token_count.completion"] = answer.completion_tokens
            attributes["llm.token_count.total"] = answer.prompt_tokens + answer.completion_tokens
        span = self._tracer.start_span(score, context=self._context, start_time=began, attributes=attributes)
        span.set_status(Status(StatusCode.OK) if answer is not None else Status(StatusCode.ERROR, redacted(error)))
        span.end(ended)
        self._owner.spans += 1

    def end(self, scores: Iterable[MetricScore]) -> None:
        """The case has all its scores."""
        self._span.end()
        self._owner.annotate(format(self._span.get_span_context().span_id, "016x"), scores)


def _session(access: PhoenixAccess) -> Any:
    """Sends the token as it is at each request."""
    import requests

    def authorized(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if access.token and (token := access.token.read()):
            request.headers["authorization"] = f"Bearer {token.get_secret_value()}"
        return request

    session = requests.Session()
    session.auth = authorized
    return session


def _text(**values: Any) -> dict[str, str]:
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def _counting(exporter: SpanExporter) -> Any:
    """The exporter, and how many spans the server took: `force_flush` says yes also where everything was dropped."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        exported = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            if result is SpanExportResult.SUCCESS:
                self.exported += len(spans)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Counting()
