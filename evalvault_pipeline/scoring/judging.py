"""Score cases with the judge: one asyncio loop, many calls in flight, every case written as it ends.

Three threads share the work. The caller's looks up what the store holds and hands over the rest; one runs the loop in which
the metrics ask the judge; one writes scores, so that no call waits for a disk. Calls are made in `calls.py`, metrics in
`ragas_metrics.py`; batches of deterministic scores come from `engine.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from evalvault_pipeline.cases.model import Batch, EvalCase
from evalvault_pipeline.scoring.calls import CallPool, CaseTrace, Patience, Scope, Tracer
from evalvault_pipeline.scoring.estimate import Estimate, estimate
from evalvault_pipeline.scoring.journal import Bill, Journal
from evalvault_pipeline.scoring.judges import JudgeIdentity
from evalvault_pipeline.scoring.metrics import Metric
from evalvault_pipeline.scoring.model import BatchScores, CaseResult, Measured, MetricScore, Reason, Unmeasured
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.scoring.providers import judge_for
from evalvault_pipeline.scoring.ragas_metrics import RagasScorer, prepare
from evalvault_pipeline.scoring.store import ScoredBy, ScoreKey, ScoreStore, StoredScore, new_owner
from evalvault_pipeline.scoring.usage import Budget, Spending, price_of

log = logging.getLogger(__name__)

NOISE_SHARE = 0.08
NOTHING_PAID: Mapping[str, Any] = {
    "seconds": 0.0,
    "judge_calls": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "embedding_tokens": 0,
    "cost_usd": 0.0,
}
RENEW_SECONDS = 15.0
LOOK_AGAIN_SECONDS = 0.5
# Cases that end within this time share a transaction: each takes the interpreter from the loop. The journal has their answers.
GATHER_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Judging:
    """With whom and how patiently a run judges.

    `chats` and `embeds`: whether a metric of the run asks the model, or embeds texts. `spending` is shared by those who share
    a budget, None where it is a run's own; `repeats` says how often the noise sample is judged, and 1 is once, like all.
    """

    identity: JudgeIdentity
    journal: Path
    chats: bool = True
    embeds: bool = False
    budget: Budget = field(default_factory=Budget)
    spending: Spending | None = None
    deadline_seconds: float | None = None
    repeats: int = 1
    patience: Patience = field(default_factory=Patience)
    tracer: Tracer | None = None

    def new_spending(self) -> Spending:
        """Nothing spent yet. Raises InvalidSetting for a budget in dollars where the price is not known."""
        spec = self.identity.spec
        chat, embedding = price_of(spec.provider, spec.model), price_of(spec.provider, spec.embedding_model or "")
        unpriced = spec.name if self.chats and chat is None else ""
        if self.embeds and embedding is None:
            unpriced = unpriced or str(spec.embedding_model)
        return Spending(self.budget, chat, embedding, unpriced=unpriced)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: `cases` are done, the rest is what the judge was asked for. `dollars` None: the price is not known."""

    cases: int
    calls: int = 0
    in_flight: int = 0
    limit: int = 0
    tokens: int = 0
    dollars: float | None = None


def judge_batches(
    batches: Iterable[BatchScores],
    *,
    plan: ScoringPlan,
    judging: Judging,
    store_url: str,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[BatchScores]:
    """The batches with the scores of the plan's LLM metrics, in their order; several are under way at once.

    Raises JudgeUnavailable or JudgeMisconfigured when the judge answers no more; what was scored is in the store.
    """
    with _Run(plan, judging, store_url, on_progress) as run:
        waiting: deque[_OpenBatch] = deque()
        for batch in batches:
            waiting.append(run.start(batch))
            run.wait(lambda: run.open_cases < run.window)
            while waiting and waiting[0].is_done:
                yield waiting.popleft().scores()
        while waiting:
            run.wait(lambda: waiting[0].is_done)
            yield waiting.popleft().scores()
        run.raise_if_never_answered()


def noise_sample(cases: Iterable[EvalCase], *, only_batch: bool) -> set[str]:
    """Ids of the cases that measure the judge's noise: 8 % of a batch, the same ones for the same ids.

    A snapshot of a single small batch has at least one.
    """
    ids = sorted((case.case_id for case in cases), key=lambda case_id: hashlib.sha256(case_id.encode()).hexdigest())
    return set(ids[: max(int(NOISE_SHARE * len(ids) + 0.5), int(only_batch))])


def estimate_batches(
    batches: Iterable[Batch], *, plan: ScoringPlan, judging: Judging, store: ScoreStore
) -> dict[str, tuple[int, int, Estimate]]:
    """Metric -> (scores to measure, scores in the store, what measuring takes), repeats of the noise sample included.

    A case that stands twice is measured once, and the second time taken from the store. Answers that an unfinished run left in
    the journal are not asked for again.
    """
    identity = judging.identity
    metrics = [metric for metric in plan.metrics if metric.score is None]
    by = {metric.name: scored_by(metric, plan, identity) for metric in metrics}
    found = {metric.name: (0, 0, Estimate()) for metric in metrics}
    seen: set[tuple[str, int]] = set()
    paid = Journal.paid(judging.journal)
    for batch in batches:
        sample = noise_sample(batch.cases, only_batch=batch.snapshot.batch_count == 1)
        for repeat in range(judging.repeats):
            cases = [case for case in batch.cases if not repeat or case.case_id in sample]
            known = store.find((case.digest for case in cases), metrics=by, repeat=repeat)
            for case in cases:
                again = (case.digest, repeat) in seen
                seen.add((case.digest, repeat))
                for metric in (metric for metric in metrics if not lacking(case, metric, plan)):
                    missing, stored, cost = found[metric.name]
                    if again or ((case.digest, metric.name) in known and metric.name not in plan.fresh):
                        found[metric.name] = (missing, stored + 1, cost)
                        continue
                    more = estimate(metric.name, case, spec=identity.spec, language=plan.language, rubric=plan.rubric)
                    if metric.name not in plan.fresh:
                        noted = _noted_as(case.digest, metric.name, repeat, by[metric.name])
                        more = more.without(paid.get(noted, Bill()))
                    found[metric.name] = (missing + 1, stored, cost + more)
    return found


def scored_by(metric: Metric, plan: ScoringPlan, identity: JudgeIdentity) -> ScoredBy:
    """What a metric's scores are kept under: version and judge."""
    return plan.version(metric), identity.fingerprint(chat=metric.chat, embeddings=metric.embeddings)


def lacking(case: EvalCase, metric: Metric, plan: ScoringPlan) -> Unmeasured | None:
    """Why the judge cannot measure this metric on this case."""
    if "catalog.rubric" in metric.needs and not plan.rubric:
        return Unmeasured(reason=Reason.NO_FIELD, detail="the catalog sets no rubric for the dataset that this file belongs to")
    return metric.lacking(case)


@dataclass(frozen=True, slots=True)
class _Job:
    case: _OpenCase
    metric: Metric
    repeat: int


class _OpenCase:
    """A case of which some scores are missing. Its jobs fill them in; it is done when they are written."""

    def __init__(self, case: EvalCase) -> None:
        self.case = case
        self.scores: dict[tuple[str, int], MetricScore] = {}
        self.missing: set[tuple[str, int]] = set()
        self.rows: list[tuple[ScoreKey, StoredScore]] = []
        self.failed: set[tuple[str, int]] = (
            set()
        )  # those at which the judge failed: what it did answer is kept for the next run
        self.trace: CaseTrace | None = None
        self.is_begun = False
        self.is_done = False


class _OpenBatch:
    """A batch whose cases are being judged. A case that stands twice in a run is judged once."""

    def __init__(self, batch: BatchScores, plan: ScoringPlan, details: Mapping[str, Any]) -> None:
        self._batch, self._plan, self._details = batch, plan, details
        self.entries: list[tuple[CaseResult, _OpenCase, bool]] = []  # result so far, case, whether another entry pays

    @property
    def is_done(self) -> bool:
        return all(case.is_done for _, case, _ in self.entries)

    def scores(self) -> BatchScores:
        results = tuple(self._result(result, case, shared) for result, case, shared in self.entries)
        return replace(self._batch, results=results, judge=self._plan.judge, judge_details=self._details)

    def _result(self, result: CaseResult, case: _OpenCase, shared: bool) -> CaseResult:
        found = {(score.metric, 0): score for score in result.scores}
        found.update(case.scores)
        if shared or case.case.case_id != result.case.case_id:
            found = {key: self._as_shared(score, result.case.case_id, shared) for key, score in found.items()}
        scores = tuple(found[name, 0] for name in self._plan.thresholds)
        repeats = tuple(score for (_, repeat), score in sorted(found.items()) if repeat)
        return CaseResult(case=result.case, scores=scores, repeats=repeats)

    @staticmethod
    def _as_shared(score: MetricScore, case_id: str, shared: bool) -> MetricScore:
        if not shared:
            return replace(score, case_id=case_id)
        if score.value is None:  # the other entry tells what the failure took
            return replace(score, case_id=case_id, noted={}, **NOTHING_PAID)
        return replace(score, case_id=case_id, reused=score.reused or bool(score.judge), noted={})


class _Run:
    """One run of the judge: the threads, what is open, and what went wrong."""

    def __init__(
        self, plan: ScoringPlan, judging: Judging, store_url: str, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._plan, self._judging, self._on_progress = plan, judging, on_progress
        self._store = ScoreStore(store_url)
        self._owner = new_owner()
        self._claimed_as = judging.identity.fingerprint(chat=True, embeddings=True)
        self._metrics = [metric for metric in plan.metrics if metric.score is None]
        self._by = {metric.name: scored_by(metric, plan, judging.identity) for metric in self._metrics}
        spec = judging.identity.spec
        self.window = max(2 * spec.max_concurrency, 16)
        self.open_cases = 0
        self._cases_done = 0
        self._found_some = False  # a score that the judge gave, in the store
        self._open: dict[str, _OpenCase] = {}
        self._elsewhere: list[_OpenCase] = []  # claimed by another process
        self._looked_at = 0.0
        deadline = judging.deadline_seconds
        self._ends_at = None if deadline is None else time.monotonic() + deadline
        self._changed = threading.Condition()
        self._ended: queue.SimpleQueue[_OpenCase | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._is_ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: CallPool | None = None
        self._spending = judging.spending or judging.new_spending()

    def __enter__(self) -> _Run:
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._store.close)
        self._writer = threading.Thread(target=self._write, name="score-writer", daemon=True)
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._stop_loop()
        self._ended.put(None)
        self._writer.join()
        try:
            if self._loop is not None:
                self._store.release(self._owner)
        finally:
            self._stack.close()

    def start(self, batch: BatchScores) -> _OpenBatch:
        """Look up what is known of a batch, and hand over the rest."""
        cases = [result.case for result in batch.results]
        sample = noise_sample(cases, only_batch=batch.snapshot.batch_count == 1) if self._judging.repeats > 1 else set()
        sampled = {case.digest for case in cases if case.case_id in sample}
        known = {repeat: self._known(cases, sampled, repeat) for repeat in range(self._judging.repeats if sample else 1)}
        opened = _OpenBatch(batch, self._plan, self._judging.identity.details())
        new: list[_OpenCase] = []
        for result in batch.results:
            repeats = self._judging.repeats if result.case.digest in sampled else 1
            case, shared = self._opened(result.case, repeats, known)
            opened.entries.append((result, case, shared))
            if case.missing and not shared:
                self._open[result.case.digest] = case
                new.append(case)
            elif not case.missing and not shared:
                case.is_done = True
        with self._changed:
            self.open_cases += len(new)
            self._cases_done += sum(case.is_done for _, case, shared in opened.entries if not shared)
        if new:
            self._hand_over(new)
        return opened

    def wait(self, until: Callable[[], bool]) -> None:
        """Sleep until it is so. Raises what ended the run."""
        while True:
            with self._changed:
                done = until() or self._changed.wait_for(lambda: until() or self._failure is not None, 0.25)
            self._raise_failure()
            if self._on_progress:
                self._on_progress(self._progress())
            if done and until():
                return
            if self._elsewhere and time.monotonic() - self._looked_at >= LOOK_AGAIN_SECONDS:
                self._look_elsewhere()

    def raise_if_never_answered(self) -> None:
        """A judge that answered nothing is not there; where the store had its scores, it fails at what was left."""
        if not self._found_some and self._pool is not None and (error := self._pool.never_answered()):
            raise error

    def _known(self, cases: list[EvalCase], sampled: set[str], repeat: int) -> dict[tuple[str, str], StoredScore]:
        digests = [case.digest for case in cases if repeat == 0 or case.digest in sampled]
        return self._found(digests, repeat)

    def _found(self, digests: list[str], repeat: int) -> dict[tuple[str, str], StoredScore]:
        """What the store holds; of a metric that is scored afresh, only what was scored since this run began."""
        known = self._store.find(digests, metrics=self._by, repeat=repeat)
        old = self._plan.started_at
        found = {key: row for key, row in known.items() if key[1] not in self._plan.fresh or row.scored_at >= old}
        self._found_some = self._found_some or bool(found)
        return found

    def _opened(
        self, case: EvalCase, repeats: int, known: Mapping[int, Mapping[tuple[str, str], StoredScore]]
    ) -> tuple[_OpenCase, bool]:
        """The case with what is known of it, and whether it is being judged already."""
        wanted = {
            (metric.name, repeat): metric
            for metric in self._metrics
            for repeat in range(repeats)
            if not repeat or not lacking(case, metric, self._plan)
        }
        if (open_case := self._open.get(case.digest)) is not None and set(wanted) <= open_case.missing | set(open_case.scores):
            return open_case, True
        opened = _OpenCase(case)
        for (name, repeat), metric in wanted.items():
            stored = known[repeat].get((case.digest, name))
            if stored is not None:
                opened.scores[name, repeat] = self._score(case, metric, repeat, stored, reused=True)
            elif reason := lacking(case, metric, self._plan):
                opened.scores[name, repeat] = self._score(case, metric, repeat, reason)
            else:
                opened.missing.add((name, repeat))
        return opened, False

    def _score(
        self, case: EvalCase, metric: Metric, repeat: int, outcome: StoredScore | Unmeasured, **paid: Any
    ) -> MetricScore:
        version, judge = self._by[metric.name]
        common: dict[str, Any] = {
            "case_id": case.case_id,
            "metric": metric.name,
            "threshold": self._plan.thresholds[metric.name],
            "metric_version": version,
            "lower_is_better": metric.lower_is_better,
            "repeat": repeat,
            "judge": judge,
        }
        if isinstance(outcome, Unmeasured):
            return MetricScore(value=None, unmeasured=outcome.reason.value, detail=outcome.detail, **common, **paid)
        return MetricScore(
            value=outcome.value,
            evidence=outcome.evidence,
            seconds=outcome.seconds,
            judge_calls=outcome.judge_calls,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            embedding_tokens=outcome.embedding_tokens,
            cost_usd=outcome.cost_usd,
            **common,
            **paid,
        )

    def _hand_over(self, cases: list[_OpenCase]) -> None:
        """Claim these cases and give their jobs to the loop, deep metrics first; what others have claimed is waited for."""
        self._start_loop()
        mine = self._store.claim([case.case.digest for case in cases], judge=self._claimed_as, owner=self._owner)
        claimed = [case for case in cases if case.case.digest in mine]
        self._elsewhere += [case for case in cases if case.case.digest not in mine]
        self._take_stored(claimed)  # another process may have scored them between the look and the claim
        by_depth = sorted(self._metrics, key=lambda metric: -metric.steps)
        order = [(metric, repeat) for metric in by_depth for repeat in range(self._judging.repeats)]
        jobs = []
        for case in claimed:
            if not case.missing:
                self._ended.put(case)
            jobs += [_Job(case, metric, repeat) for metric, repeat in order if (metric.name, repeat) in case.missing]
        if jobs:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._enqueue, jobs)

    def _enqueue(self, jobs: list[_Job]) -> None:
        for job in jobs:
            self._queue.put_nowait(job)

    def _look_elsewhere(self) -> None:
        """Take what another process has scored by now; judge what it has given up."""
        self._looked_at = time.monotonic()
        self._take_stored(self._elsewhere)
        still, self._elsewhere = self._elsewhere, []
        over = self._ends_at is not None and time.monotonic() >= self._ends_at
        for case in still:
            if over:
                self._give_up(case)
            if not case.missing:
                self._ended.put(case)
        if left := [case for case in still if case.missing]:
            self._hand_over(left)

    def _give_up(self, case: _OpenCase) -> None:
        """What another process has not scored in this run's time stays unmeasured here."""
        late = Unmeasured(
            reason=Reason.TIMEOUT,
            detail="another run judges this case, and this run's deadline (EVALVAULT_RUN_DEADLINE) has passed",
        )
        for name, repeat in case.missing:
            metric = next(metric for metric in self._metrics if metric.name == name)
            case.scores[name, repeat] = self._score(case.case, metric, repeat, late)
        case.failed |= case.missing
        case.missing.clear()

    def _take_stored(self, cases: Sequence[_OpenCase]) -> None:
        """Fill in what has come into the store since these cases were opened."""
        for repeat in range(self._judging.repeats):
            known = self._found([case.case.digest for case in cases], repeat)
            for case, metric in product(cases, self._metrics):
                key, stored = (metric.name, repeat), known.get((case.case.digest, metric.name))
                if stored is not None and key in case.missing:
                    case.missing.discard(key)
                    case.scores[key] = self._score(case.case, metric, repeat, stored, reused=True)

    def _start_loop(self) -> None:
        if self._loop is not None:
            return
        prepare()
        # Opened here and closed by the stack: the journal belongs to whoever runs the loop.
        journal = self._stack.enter_context(Journal(self._judging.journal))
        self._journal = journal
        self._settle_stored(journal)
        self._loop = _new_loop()
        about = copy_context()  # of log lines: which run, which dataset
        self._thread = threading.Thread(target=about.run, args=(self._loop.run_forever,), name="judge-loop", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open_pool(journal), self._loop).result()

    def _settle_stored(self, journal: Journal) -> None:
        """A process may have died between storing a score and settling it."""
        left = dict.fromkeys(noted.split()[0] for noted in journal.scores)
        for repeat in range(self._judging.repeats):
            stored = self._store.find(left, metrics=self._by, repeat=repeat)
            journal.settled(_noted_as(digest, metric, repeat, self._by[metric]) for digest, metric in stored)

    async def _open_pool(self, journal: Journal) -> None:
        judging = self._judging
        self._pool = CallPool(
            judge_for(judging.identity.spec),
            spending=self._spending,
            journal=journal,
            patience=judging.patience,
            ends_at=self._ends_at,
        )
        await self._pool.open()
        self._scorer = RagasScorer(self._pool, language=self._plan.language, rubric=self._plan.rubric)
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        workers = 2 * judging.identity.spec.max_concurrency + 4
        self._workers = [asyncio.create_task(self._work()) for _ in range(workers)]

    def _stop_loop(self) -> None:
        assert self._loop is not None
        loop = self._loop
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close_pool(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(timeout=30)
        if not self._thread.is_alive():
            loop.close()

    async def _close_pool(self) -> None:
        """End the workers and what they have started; the loop is the run's own."""
        self._is_ending = True
        if self._pool is not None:
            await self._pool.read_last_answers()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()

    async def _work(self) -> None:
        """One job after the other; there are more workers than calls in flight, so that one is always ready.

        The end of the run may reach a worker as the failure of its job: `gather` gives a failure precedence.
        """
        task = asyncio.current_task()
        assert task is not None
        try:
            while not (self._is_ending or task.cancelling()):
                job = await self._queue.get()
                await self._judge(job)
                if self._pool is not None and self._pool.broken is not None:
                    self._fail(self._pool.broken)
                    return
        except Exception as error:  # noqa: BLE001  the thread that waits raises it
            self._fail(error)

    async def _judge(self, job: _Job) -> None:
        case, metric = job.case, job.metric
        version, judge = self._by[metric.name]
        if self._judging.tracer is not None and not case.is_begun:
            case.is_begun, case.trace = True, self._judging.tracer.start(case.case)
        scope = Scope(
            _noted_as(case.case.digest, metric.name, job.repeat, self._by[metric.name]),
            judge,
            repeat=job.repeat,
            steps=metric.steps,
            fresh=metric.name in self._plan.fresh,
            metric=metric.name,
            trace=case.trace,
        )
        started = time.perf_counter()
        outcome = await self._scorer.score(metric.name, case.case, scope)
        seconds = round(time.perf_counter() - started, 6)
        paid: dict[str, Any] = {
            "seconds": seconds,
            "judge_calls": scope.calls,
            "prompt_tokens": scope.prompt_tokens,
            "completion_tokens": scope.completion_tokens,
            "embedding_tokens": scope.embedding_tokens,
            "cost_usd": scope.cost_usd,
        }
        noted = asdict(scope.noted) if scope.noted.calls else {}
        key = (metric.name, job.repeat)
        if isinstance(outcome, Measured):
            traced = {"trace_id": case.trace.trace_id} if case.trace and scope.calls > scope.noted.calls else {}
            row = StoredScore(value=outcome.value, evidence={**outcome.evidence, **traced}, **paid)
            stored_as = ScoreKey(
                case_digest=case.case.digest, metric=metric.name, metric_version=version, judge=judge, repeat=job.repeat
            )
            case.rows.append((stored_as, row))
            case.scores[key] = self._score(case.case, metric, job.repeat, row, noted=noted)
        else:
            case.scores[key] = self._score(case.case, metric, job.repeat, outcome, noted=noted, **paid)
            # Where well-formed answers make no value, the next run asks anew instead of finding them in the journal.
            if scope.failure is not None:
                case.failed.add(key)
        case.missing.discard(key)
        if not case.missing:
            if case.trace is not None:
                case.trace.end(score for (_, repeat), score in case.scores.items() if not repeat)
            self._ended.put(case)

    def _write(self) -> None:
        """The writer's thread: all cases that have ended since the last transaction go into the next one."""
        renewed = time.monotonic()
        ended: list[_OpenCase | None] = []
        while None not in ended:
            try:
                ended = [self._ended.get(timeout=RENEW_SECONDS)]
                if ended != [None]:
                    time.sleep(GATHER_SECONDS)
                while True:
                    try:
                        ended.append(self._ended.get_nowait())
                    except queue.Empty:
                        break
            except queue.Empty:
                ended = []
            cases = [case for case in ended if case is not None]
            try:
                self._keep(cases)
                if self._loop is not None and time.monotonic() - renewed >= RENEW_SECONDS:
                    self._store.renew(self._owner)
                    renewed = time.monotonic()
                    self._note_calls()
                if None in ended:
                    self._note_calls()
            except Exception as error:  # noqa: BLE001  the thread that waits raises it
                self._fail(error)

    def _note_calls(self) -> None:
        if self._pool is not None and self._pool.outcomes:
            limiter = self._pool.limiter
            self._store.note_calls(
                self._owner,
                self._judging.identity.spec.name,
                self._pool.outcomes,
                in_flight=limiter.in_flight,
                limit=int(limiter.limit),
            )

    def _keep(self, cases: list[_OpenCase]) -> None:
        if not cases:
            return
        digests = [case.case.digest for case in cases]
        rows = [row for case in cases for row in case.rows]
        done = [(digest, self._claimed_as) for digest in digests]
        self._store.save(rows, done=done, owner=self._owner, older_than=self._plan.started_at if self._plan.fresh else "")
        if self._loop is not None:
            self._journal.settled(
                _noted_as(case.case.digest, name, repeat, self._by[name])
                for case in cases
                for name, repeat in case.scores
                if (name, repeat) not in case.failed
            )
        with self._changed:
            for case in cases:
                case.is_done = True
                self._open.pop(case.case.digest, None)
            self.open_cases -= len(cases)
            self._cases_done += len(cases)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _progress(self) -> Progress:
        spending, pool = self._spending, self._pool
        return Progress(
            cases=self._cases_done,
            calls=spending.calls,
            in_flight=pool.limiter.in_flight if pool else 0,
            limit=int(pool.limiter.limit) if pool else 0,
            tokens=spending.tokens,
            dollars=spending.dollars if spending.chat_price else None,
        )


def _noted_as(digest: str, metric: str, repeat: int, by: ScoredBy) -> str:
    """The name of a score in the journal: of another judge or version it is another score."""
    return " ".join((digest, metric, str(repeat), *by))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
