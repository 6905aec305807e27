"""Calls to the judge: slots, patience, retries, deadlines, the budget, and one repair round for an answer out of shape.

Used by the metrics in `ragas_metrics.py`; what a provider's call looks like stands in `judges.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import JudgeMisconfigured, JudgeUnavailable, PipelineError
from evalvault_pipeline.logs import without_known_secrets, without_secrets
from evalvault_pipeline.scoring.journal import Bill, Journal
from evalvault_pipeline.scoring.judges import Answer, CallFailed, Embeddings, Judge, JudgeSpec, Message, Reply, Shape
from evalvault_pipeline.scoring.limiter import AdaptiveLimiter
from evalvault_pipeline.scoring.model import MetricScore, Reason
from evalvault_pipeline.scoring.usage import Spending

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a call is tried. All in seconds but `attempts` and the counts of failures in a row."""

    attempts: int = 3
    wait_min: float = 4.0
    wait_max: float = 60.0
    throttled: float = 180.0  # how long one call may be sent away before it counts as failed
    least_deadline: float = 30.0  # a call is never cut off earlier, however fast the others are
    failures_before_any_success: int = 4
    failures_in_a_row: int = 24
    silences_in_a_row: int = 4  # rounds of attempts, as many as are in flight, that waited for the whole timeout
    farewell: float = 5.0  # how long a run that ends early waits for the answers in flight


class CaseTrace(Protocol):
    """Told of each call for a case, and of its end; `publishing/tracing.py` sends it on. It must not wait for anything."""

    trace_id: str

    def call(
        self, *, score: str, model: str, messages: Sequence[Message], answer: Answer | None, error: str, began: int, ended: int
    ) -> None: ...

    def end(self, scores: Iterable[MetricScore]) -> None: ...


class Tracer(Protocol):
    """Begins the trace of a case; None for a case that is not to be traced."""

    def start(self, case: EvalCase) -> CaseTrace | None: ...


@dataclass(slots=True)
class Scope:
    """One metric on one case: what it asked, what came back, what it cost. `score` is its name in the journal."""

    score: str
    judge: str
    repeat: int = 0
    steps: int = 1
    fresh: bool = False
    metric: str = ""
    trace: CaseTrace | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost_usd: float | None = 0.0
    noted: Bill = field(default_factory=Bill)  # the part that an ended process had paid
    failure: CallFailed | None = None
    answers: list[Any] = field(default_factory=list)
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    pending: dict[tuple[str, str, int], asyncio.Future[Any]] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)

    def add(self, bill: Bill) -> None:
        self.calls += bill.calls
        self.prompt_tokens += bill.prompt_tokens
        self.completion_tokens += bill.completion_tokens
        self.add_cost(bill.cost_usd)

    def add_cost(self, cost: float | None) -> None:
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


SCOPE: ContextVar[Scope] = ContextVar("scope")


class CallPool:
    """All calls of a run. To be used inside one asyncio loop, between `open` and `close`."""

    def __init__(
        self,
        judge: Judge,
        *,
        spending: Spending,
        journal: Journal,
        patience: Patience | None = None,
        ends_at: float | None = None,
    ) -> None:
        self.judge = judge
        self.spending = spending
        self.limiter = AdaptiveLimiter(judge.spec.max_concurrency)
        self.broken: PipelineError | None = None  # why no call can do any more
        self._patience = patience or Patience()
        self._journal = journal
        self._ends_at = ends_at  # by time.monotonic()
        self._several = judge.several_replies
        self._in_flight: dict[asyncio.Task[Any], _Flight] = {}
        self._unread = 0  # answers that have come and are not noted yet
        self._is_closing = False
        self._latencies: dict[str, deque[float]] = {}  # by kind of call: embedding is quick, and says nothing of chat
        # By kind of call, "chat" or "embed": a model that answers one may well hang at the other.
        self._answers: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()  # of every call that was sent: answered, or the reason why not
        self._failures_in_a_row: Counter[str] = Counter()
        self._silences_in_a_row: Counter[str] = Counter()
        self._last: CallFailed | None = None
        self._usual: dict[str, float] = {}  # a deadline by the latencies seen, renewed every 32 answers
        self._settled = asyncio.Event()  # a call is over: replaced by the next one each time
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.judge.open()
        self._sweeper = asyncio.create_task(self._sweep())

    async def read_last_answers(self) -> None:
        """Send nothing more, and wait for the answers in flight, which are paid; not for longer than a farewell takes."""
        self._is_closing = True
        seconds = self._patience.farewell
        if calls := len(self._in_flight):
            log.warning("%d calls of the judge are in flight: their answers are read, for %g s at most.", calls, seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._in_flight or self._unread:
                    await self._settled.wait()

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.judge.close()

    async def ask(self, prompt: str, shape: Shape, scope: Scope, *, occurrence: int = 0, n: int = 1) -> list[Any]:
        """`n` values of this shape for a prompt, the first of which is the one for this `occurrence` of it.

        Raises CallFailed where the judge gives none.
        """
        asked = Journal.key(scope.judge, shape.name, prompt)  # the prompt holds the shape's schema
        keys = [f"{asked}:{scope.repeat}:{number}" for number in range(occurrence, occurrence + n)]
        noted = {} if scope.fresh else self._noted(keys, shape, scope)
        if len(noted) == n:
            return list(noted.values())
        if n > 1 and (noted or not self._several):
            return await self._each(prompt, shape, scope, range(occurrence, occurrence + n), noted)
        # Later steps go first, so that cases end and few are open at a time; then metrics of several steps, so that short ones
        # fill the end.
        priority = 0 if scope.calls else 1 if scope.steps > 1 else 2
        bill = Bill()
        seed = occurrence + 1000 * scope.repeat
        answer = await self._chat([("user", prompt)], shape, scope, bill, n=n, seed=seed, priority=priority)
        values: list[Any] = []
        texts: dict[str, str] = {}
        beyond_repair: CallFailed | None = None
        for key, reply in zip(keys, answer.replies[:n], strict=False):
            try:
                value, texts[key] = await self._valid(reply, prompt, shape, scope, bill, seed)
            except CallFailed as failed:
                beyond_repair = failed
            else:
                values.append(value)
        if texts:  # also where another reply fails the score: the next run asks for that one only
            self._journal.note(scope.score, texts, bill)
        if beyond_repair is not None:
            raise beyond_repair
        if len(values) < n:  # this server gives one at a time
            self._several = False
            values += await self._each(prompt, shape, scope, range(occurrence + len(values), occurrence + n), {})
        return values

    def _noted(self, keys: Sequence[str], shape: Shape, scope: Scope) -> dict[int, Any]:
        """Position -> value of what an ended process has paid for."""
        found = {}
        for position, key in enumerate(keys):
            if (noted := self._journal.find(key)) is None:
                continue
            with contextlib.suppress(ValueError):  # noted by a version that took what this one does not
                found[position] = shape.parse(noted.text)
                scope.add(noted.bill)
                scope.noted.add(noted.bill)
        return found

    async def _each(self, prompt: str, shape: Shape, scope: Scope, occurrences: range, noted: Mapping[int, Any]) -> list[Any]:
        """One call for each occurrence that is not noted, all at once."""
        missing = [number for position, number in enumerate(occurrences) if position not in noted]
        asked = await asyncio.gather(*(self.ask(prompt, shape, scope, occurrence=number) for number in missing))
        rest = iter(value for (value,) in asked)
        return [noted[position] if position in noted else next(rest) for position in range(len(occurrences))]

    async def _valid(self, reply: Reply, prompt: str, shape: Shape, scope: Scope, bill: Bill, seed: int) -> tuple[Any, str]:
        """The value of a reply and its text; a reply that has none is asked for once more."""
        if reply.refused:
            raise CallFailed(Reason.REFUSED, f"the judge declined: {without_secrets(reply.text)[:200] or 'content filter'}")
        limit = self.judge.spec.max_tokens
        messages: list[Message] = [("user", prompt)]
        if reply.cut:
            limit *= 2
            again = messages
        else:
            try:
                text = without_known_secrets(reply.text)  # a server may quote the key that it was sent
                return shape.parse(text), text
            except ValueError as error:
                wrong = (
                    f"That answer cannot be used: {error}. Answer again, with nothing but JSON that complies with the schema."
                )
                again = [*messages, ("assistant", reply.text[:4000] or "(nothing)"), ("user", wrong)]
        answer = await self._chat(again, shape, scope, bill, n=1, seed=seed + 1, priority=0, max_tokens=limit)
        second = answer.replies[0]
        if second.refused:
            raise CallFailed(Reason.REFUSED, f"the judge declined: {without_secrets(second.text)[:200] or 'content filter'}")
        if second.cut:
            raise CallFailed(
                Reason.TRUNCATED, f"the judge's answer is longer than {limit} tokens. Raise EVALVAULT_JUDGE_MAX_TOKENS."
            )
        try:
            text = without_known_secrets(second.text)
            return shape.parse(text), text
        except ValueError as error:
            said = " ".join(without_secrets(second.text).split())[:120] or "nothing"
            raise CallFailed(
                Reason.UNPARSABLE, f"asked twice, the judge gave no usable answer: {error}; it said: {said}"
            ) from None

    async def _chat(
        self,
        messages: Sequence[Message],
        shape: Shape,
        scope: Scope,
        bill: Bill,
        *,
        n: int,
        seed: int,
        priority: int,
        max_tokens: int | None = None,
    ) -> Answer:
        reserved = await self._reserved((text for _, text in messages), n)
        limit = max_tokens or self.judge.spec.max_tokens

        async def send() -> Answer:
            answer = await self.judge.chat(messages, shape, n=n, max_tokens=limit, seed=seed)
            if not answer.replies:
                raise CallFailed(Reason.JUDGE_ERROR, "the judge gave no reply", retry=True)
            return answer

        try:
            answer = await self._persistently(_traced(send, messages, scope, self.judge.spec), "chat", priority)
            self._unread += 1
            try:
                await asyncio.sleep(0)  # the slot is free: who waits for it sends first, then this answer is read
            finally:
                self._unread -= 1
            cost = self.spending.add_call(
                answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens, len(answer.replies)
            )
        finally:
            self._settle(reserved)
        paid = Bill(answer.prompt_tokens, answer.completion_tokens, cost, 1)
        scope.add(paid)
        bill.add(paid)
        return answer

    async def embed(self, texts: Sequence[str]) -> tuple[Embeddings, float | None]:
        """Vectors of these texts in one call, and its cost. Raises CallFailed."""
        if self.judge.spec.embedding_model is None:
            raise CallFailed(Reason.JUDGE_ERROR, "the judge has no embedding model. Set EVALVAULT_EMBEDDING_MODEL or its file.")
        reserved = await self._reserved(texts, 0)

        async def send() -> Embeddings:
            return await self.judge.embed(texts)

        try:
            found = await self._persistently(send, "embed", 0)
            return found, self.spending.add_embedding(found.tokens)
        finally:
            self._settle(reserved)

    async def _reserved(self, texts: Iterable[str], replies: int) -> tuple[float, float]:
        """Set aside what a call may cost; where calls in flight stand in the way, when they are settled."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        while (reserved := self.spending.reserve(size, replies)) is None:
            self._refuse_when_over()
            await self._settled.wait()
        return reserved

    def _settle(self, reserved: tuple[float, float]) -> None:
        self.spending.settle(reserved)
        self._call_is_over()

    def _call_is_over(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()

    async def _persistently(self, send: Callable[[], Awaitable[T]], kind: str, priority: int) -> T:
        """Send a call until it is answered, with three attempts at connection errors and failing servers."""
        try:
            try:
                result = await self._patiently(send, kind, priority)
            except CallFailed as failed:
                if not failed.retry:
                    raise
                result = await self._again(send, kind, failed)
        except CallFailed as failed:
            if failed.fatal and not self._answers[kind]:
                self._stop_as_misconfigured(failed)
            elif failed.unreachable or failed.reason in (Reason.JUDGE_ERROR, Reason.THROTTLED):
                self._count_failure(failed, kind)
            raise
        self._failures_in_a_row[kind] = 0
        return result

    async def _again(self, send: Callable[[], Awaitable[T]], kind: str, failed: CallFailed) -> T:
        """The other attempts. They go first: their case waits for them. A call that was cut off gets the whole time now."""
        patience = self._patience
        if patience.attempts < 2:
            raise failed
        await self._pause(patience.wait_min)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(patience.attempts - 1),
            wait=wait_exponential(multiplier=2 * patience.wait_min, min=patience.wait_min, max=patience.wait_max),
            retry=retry_if_exception(lambda error: isinstance(error, CallFailed) and error.retry),
            sleep=self._pause,
            reraise=True,
        )
        return await retrying(self._patiently, send, kind, 0, unhurried=True)

    async def _patiently(self, send: Callable[[], Awaitable[T]], kind: str, priority: int, *, unhurried: bool = False) -> T:
        """Send a call, and as long as the server only asks for patience, again."""
        first_sent_away: float | None = None
        throttles = 0
        while True:
            try:
                return await self._once(send, kind, priority, unhurried)
            except CallFailed as failed:
                if not failed.throttled:
                    raise
                throttles += 1
                first_sent_away = first_sent_away or time.monotonic()
                # A Retry-After of 0 says that it may come again, not that it should come at once, for ever.
                wait = failed.retry_after or min(self._patience.wait_min * 2 ** (throttles - 1), self._patience.wait_max)
                if time.monotonic() - first_sent_away + wait > self._patience.throttled:
                    raise CallFailed(Reason.THROTTLED, f"{failed.detail} (sent away {throttles} times)") from None
            await self._pause(wait)
            priority = 0

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond the run's deadline."""
        left = seconds if self._ends_at is None else self._ends_at - time.monotonic()
        await asyncio.sleep(max(min(seconds, left), 0.0))

    async def _once(self, send: Callable[[], Awaitable[T]], kind: str, priority: int, unhurried: bool) -> T:
        """Send a call when a slot is free. Its own task is what the sweeper cancels when its time is over."""
        self._refuse_when_over()
        slot = self.limiter.acquire(priority)
        if slot is not None:
            try:
                await slot
            except asyncio.CancelledError:
                if slot.done() and not slot.cancelled():
                    self.limiter.release()
                raise
        task = asyncio.current_task()
        assert task is not None
        started = time.monotonic()
        flight = self._in_flight[task] = _Flight(kind, started, unhurried)
        sent = False
        try:
            self._refuse_when_over()
            sent = True
            result = await send()
        except asyncio.CancelledError:
            if flight.overdue is None or task.uncancel():  # the sweeper's is not the only cancellation
                raise
            self.outcomes[flight.overdue.reason.value] += 1
            raise flight.overdue from None
        except CallFailed as failed:
            self.outcomes[failed.reason.value] += sent
            if failed.throttled:  # what is too long for this call is too long for the others
                wait = failed.retry_after or 0.0
                self.limiter.throttled(wait if wait <= self._patience.throttled else None)
            raise
        else:
            self.limiter.answered()
            self.outcomes["answered"] += 1
            self._note_latency(kind, time.monotonic() - started)
            return result
        finally:
            del self._in_flight[task]
            self.limiter.release()
            if self._is_closing:
                self._call_is_over()

    def _note_latency(self, kind: str, seconds: float) -> None:
        self._answers[kind] += 1
        self._silences_in_a_row[kind] = 0
        latencies = self._latencies.setdefault(kind, deque(maxlen=256))
        latencies.append(seconds)
        if self._answers[kind] % 32 == 0 or len(latencies) == 8:
            self._usual[kind] = 6 * sorted(latencies)[int(0.95 * (len(latencies) - 1))]

    async def _sweep(self) -> None:
        """One timer for all calls: cut off what takes too long by its timeout, by what is usual, or by the run's deadline."""
        timeout = self.judge.spec.timeout_seconds
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            over = self._ends_at is not None and now >= self._ends_at
            if over:
                self.limiter.resume()  # who waits for a slot learns that it is over
            for task, flight in list(self._in_flight.items()):
                usual = max(self._usual.get(flight.kind, timeout), self._patience.least_deadline)
                allowed = timeout if flight.unhurried else min(timeout, usual)
                if flight.overdue is not None or not (over or now - flight.started >= allowed):
                    continue
                flight.overdue = (
                    self._run_is_over()
                    if over
                    else CallFailed(Reason.TIMEOUT, f"no answer in {now - flight.started:.0f} s", retry=True, unreachable=True)
                )
                task.cancel()
                if not over and allowed == timeout:
                    self._count_silence(flight.overdue, flight.kind)

    def _refuse_when_over(self) -> None:
        if self.broken is not None:
            raise CallFailed(Reason.JUDGE_ERROR, str(self.broken))
        if self._is_closing:
            raise CallFailed(Reason.JUDGE_ERROR, "the run was ended")
        if self.spending.spent or self.spending.exceeded:
            raise CallFailed(Reason.BUDGET, f"the budget of {self.spending.budget} allows no further call")
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            raise self._run_is_over()

    @staticmethod
    def _run_is_over() -> CallFailed:
        return CallFailed(Reason.TIMEOUT, "the run's deadline (EVALVAULT_RUN_DEADLINE) has passed")

    def _stop_as_misconfigured(self, failed: CallFailed) -> None:
        if self.broken is None:
            spec = self.judge.spec
            self.broken = JudgeMisconfigured(f"{spec.name}: {failed.detail.rstrip('.')}. {way_out(spec, failed)}")

    def _count_failure(self, failed: CallFailed, kind: str) -> None:
        """A judge that answers nothing any more ends the run; one that fails on some calls does not."""
        self._last = failed
        if kind == "embed" and self._answers["chat"]:
            return  # it costs the metrics that embed their scores, and leaves the others theirs
        self._failures_in_a_row[kind] += 1
        patience = self._patience
        most = max(patience.failures_in_a_row, self.judge.spec.max_concurrency)
        if not self._answers[kind]:
            gone = failed.unreachable and failed.reason is not Reason.TIMEOUT and not self._answers.total()
            most = 1 if gone else patience.failures_before_any_success
        if self._failures_in_a_row[kind] >= most and self.broken is None:
            self.broken = self.unavailable(failed)

    def _count_silence(self, failed: CallFailed, kind: str) -> None:
        """A judge that answered, and now leaves call after call unanswered for a whole timeout, hangs.

        A few cases that are too much for it do so at the end of a run too, three times each: they do not end it.
        """
        if kind == "embed" and self._answers["chat"]:
            return
        self._silences_in_a_row[kind] += 1
        most = self._patience.silences_in_a_row * max(int(self.limiter.limit), 4)
        if self._answers[kind] and self._silences_in_a_row[kind] >= most and self.broken is None:
            self.broken = self.unavailable(failed)

    def never_answered(self) -> JudgeUnavailable | None:
        """For the end of a run: the judge that failed at every call of it."""
        return self.unavailable(self._last) if self._last is not None and not self._answers.total() else None

    def unavailable(self, failed: CallFailed) -> JudgeUnavailable:
        return JudgeUnavailable(
            f"The judge {self.judge.spec.name} does not answer: {failed.detail.rstrip('.')}. What was scored is kept: when "
            "it is back (`evalvault doctor` checks it), run the same command again."
        )


def _traced(
    send: Callable[[], Awaitable[Answer]], messages: Sequence[Message], scope: Scope, spec: JudgeSpec
) -> Callable[[], Awaitable[Answer]]:
    """`send`, with each attempt told to the trace of the case, where it has one."""
    trace = scope.trace
    if trace is None:
        return send

    async def traced() -> Answer:
        began = time.time_ns()
        answer, error = None, "the call was given up"
        try:
            answer = await send()
        except CallFailed as failed:
            error = failed.detail
            raise
        else:
            return answer
        finally:
            trace.call(
                score=scope.metric,
                model=spec.model,
                messages=messages,
                answer=answer,
                error=without_secrets(error),
                began=began,
                ended=time.time_ns(),
            )

    return traced


def way_out(spec: JudgeSpec, failed: CallFailed) -> str:
    """What to do about a judge that fails in this way, whatever it is asked."""
    if spec.provider == "gguf":
        return "Name another file with EVALVAULT_GGUF or EVALVAULT_EMBEDDING_GGUF."
    if not failed.fatal:
        start = "Start it with `ollama serve`, or set OLLAMA_BASE_URL to where it runs."
        return start if spec.provider == "ollama" else "Check OPENAI_BASE_URL (it ends in /v1) and the network."
    if "quota" in failed.detail:
        return "See the account's plan and billing."
    if "refuses the key" in failed.detail:
        where = "OLLAMA_BASE_URL: what answers there is no open Ollama." if spec.provider == "ollama" else ""
        return f"Check {where or 'OPENAI_API_KEY and OPENAI_BASE_URL.'}"
    choose = "EVALVAULT_JUDGE_MODEL and EVALVAULT_EMBEDDING_MODEL"
    if spec.provider == "ollama" and "does not support" in failed.detail:
        return f"Choose other models with {choose}."
    if spec.provider == "ollama":
        return f"Pull the models: `ollama pull {spec.model}`, `ollama pull {spec.embedding_model}`."
    return f"Check OPENAI_BASE_URL (it ends in /v1) and {choose}."


@dataclass(slots=True)
class _Flight:
    kind: str
    started: float
    unhurried: bool
    overdue: CallFailed | None = None


class Embedder:
    """Gathers texts that are wanted at about the same time into one embedding call; vectors of questions are remembered."""

    WINDOW_SECONDS = 0.01
    MOST_TEXTS = 128
    MOST_BYTES = 200_000
    REMEMBERED = 1_000

    def __init__(self, pool: CallPool) -> None:
        self._pool = pool
        self._waiting: dict[str, _Wanted] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def want(self, text: str, scope: Scope) -> asyncio.Future[np.ndarray]:
        """The vector of a text, in a while. The first who asks pays for it."""
        loop = asyncio.get_running_loop()
        if (known := self._known.get(text)) is not None:
            ready: asyncio.Future[np.ndarray] = loop.create_future()
            ready.set_result(known)
            return ready
        wanted = self._waiting.get(text)
        if wanted is None:
            wanted = self._waiting[text] = _Wanted(text, scope, loop.create_future())
            self._bytes += len(text)
            if len(self._waiting) >= self.MOST_TEXTS or self._bytes >= self.MOST_BYTES:
                self._send()
            elif self._timer is None:
                self._timer = loop.call_later(self.WINDOW_SECONDS, self._send)
        return wanted.vector

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting, self._bytes = list(self._waiting.values()), {}, 0
        if batch:
            task = asyncio.create_task(self._embed(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _embed(self, batch: list[_Wanted]) -> None:
        try:
            found, cost = await self._pool.embed([wanted.text for wanted in batch])
        except Exception as error:  # whoever waits for these vectors would wait for ever
            if not isinstance(error, CallFailed):
                log.exception("an embedding call failed")
            failed = error if isinstance(error, CallFailed) else CallFailed(Reason.JUDGE_ERROR, type(error).__name__)
            if (
                len(batch) > 1
                and not failed.retry
                and failed.reason in (Reason.TRUNCATED, Reason.JUDGE_ERROR)
                and not failed.fatal
            ):
                half = len(batch) // 2  # one text that the model does not take must not cost the others their vectors
                await asyncio.gather(self._embed(batch[:half]), self._embed(batch[half:]))
                return
            for wanted in batch:
                if not wanted.vector.done():
                    wanted.vector.set_exception(failed)
                    wanted.vector.exception()  # whoever asked may have gone
            return
        shares = shared_out(found.tokens, [len(wanted.text.encode("utf-8", "surrogatepass")) for wanted in batch])
        for wanted, vector, tokens in zip(batch, found.vectors, shares, strict=True):
            wanted.scope.embedding_tokens += tokens
            wanted.scope.add_cost(None if cost is None else cost * tokens / found.tokens if found.tokens else 0.0)
            self._known[wanted.text] = vector
            if not wanted.vector.done():
                wanted.vector.set_result(vector)
        while len(self._known) > self.REMEMBERED:
            self._known.popitem(last=False)


@dataclass(slots=True)
class _Wanted:
    text: str
    scope: Scope
    vector: asyncio.Future[Any]


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts by weight, which add up to it (largest remainders)."""
    whole = sum(weights) or 1
    exact = [total * weight / whole for weight in weights]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: parts[index] - exact[index])
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts
