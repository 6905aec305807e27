"""Score batches: what the store holds is taken from there, the rest is computed and kept as each case ends.

Deterministic metrics are work for the processor, so many cases are spread over worker processes; each worker writes to
the store itself. The judge's part stands in `judging.py`, which metrics exist in `metrics.py`.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice

from evalvault_pipeline.cases.model import Batch, EvalCase
from evalvault_pipeline.errors import ServiceUnavailable
from evalvault_pipeline.scoring.judging import Judging, Progress, judge_batches
from evalvault_pipeline.scoring.korean import Tokenizer, choose_tokenizer
from evalvault_pipeline.scoring.metrics import Metric
from evalvault_pipeline.scoring.model import BatchScores, CaseResult, MetricScore, Reason, Unmeasured
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline.scoring.store import ScoreKey, ScoreStore, StoredScore

log = logging.getLogger(__name__)

# Below so many cases a worker process costs more (start, Korean model) than it saves.
PARALLEL_FROM = 2_000


def score_batches(
    batches: Iterable[Batch],
    *,
    plan: ScoringPlan,
    store_url: str,
    workers: int = 1,
    judging: Judging | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[BatchScores]:
    """The scores of each batch, in the order of the batches; several are under way at once.

    Deterministic metrics are spread over `workers` processes; the LLM metrics are measured by the judge of `judging`, and
    without one unmeasured. `on_progress` is told how far the judge is, some times a second; what it raises ends the run, and
    what was scored and paid until then is kept.
    """
    if judging is None or all(metric.score for metric in plan.metrics):
        yield from _computed(batches, plan, store_url, workers)
        return
    deterministic = replace(
        plan,
        thresholds={metric.name: plan.thresholds[metric.name] for metric in plan.metrics if metric.score},
        fresh=plan.fresh & {metric.name for metric in plan.metrics if metric.score},
    )
    scored = _computed(batches, deterministic, store_url, workers)
    yield from judge_batches(scored, plan=plan, judging=judging, store_url=store_url, on_progress=on_progress)


def _computed(batches: Iterable[Batch], plan: ScoringPlan, store_url: str, workers: int) -> Iterator[BatchScores]:
    if workers == 1 or not plan.thresholds:
        with ScoreStore(store_url) as store:
            for batch in batches:
                yield score_batch(batch, plan=plan, store=store)
        return
    ScoreStore(store_url).close()  # the table is made once, and a store that is away is reported here
    context = multiprocessing.get_context("spawn")
    rest = iter(batches)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        try:
            under_way: deque[Future[BatchScores]] = deque(
                pool.submit(_score_in_worker, batch, plan, store_url) for batch in islice(rest, 2 * workers)
            )
            while under_way:
                yield under_way.popleft().result()
                under_way.extend(pool.submit(_score_in_worker, batch, plan, store_url) for batch in islice(rest, 1))
        except BrokenProcessPool:
            raise ServiceUnavailable(
                "A scoring process died, most likely for want of memory. What it had scored is kept: run the same command "
                "again, with --no-parallel or a smaller EVALVAULT_WORKERS."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the batches under way: no process outlives this


def score_batch(batch: Batch, *, plan: ScoringPlan, store: ScoreStore) -> BatchScores:
    """Score a batch. Measured scores are in the store when this returns, and after each case."""
    tokenizer = choose_tokenizer(plan.tokenizer)
    versions = {metric.name: plan.version(metric) for metric in plan.metrics if metric.score}
    if plan.fresh:
        again = {name: (version, "") for name, version in versions.items() if name in plan.fresh}
        store.forget((case.digest for case in batch.cases), metrics=again, before=plan.started_at)
    by = {name: (version, "") for name, version in versions.items()}
    known = store.find((case.digest for case in batch.cases), metrics=by)
    results = []
    for case in batch.cases:
        result, new = _score_case(case, plan, tokenizer, known)
        store.save([(ScoreKey(case_digest=case.digest, metric=name, metric_version=versions[name]), row) for name, row in new])
        known.update({(case.digest, name): row for name, row in new})
        results.append(result)
    return BatchScores(
        snapshot=batch.snapshot,
        index=batch.index,
        results=tuple(results),
        profile=plan.profile,
        judge=plan.judge,
        tokenizer=tokenizer.name,
    )


def _score_case(
    case: EvalCase, plan: ScoringPlan, tokenizer: Tokenizer, known: Mapping[tuple[str, str], StoredScore]
) -> tuple[CaseResult, list[tuple[str, StoredScore]]]:
    scores: list[MetricScore] = []
    new: list[tuple[str, StoredScore]] = []
    for metric in plan.metrics:
        stored = known.get((case.digest, metric.name))
        outcome: StoredScore | Unmeasured = stored or _compute(case, metric, plan, tokenizer)
        if isinstance(outcome, StoredScore) and stored is None:
            new.append((metric.name, outcome))
        reused = stored is not None and bool(stored.scored_at) and stored.scored_at < plan.started_at
        scores.append(_score(case, metric, plan, outcome, reused=reused))
    return CaseResult(case=case, scores=tuple(scores)), new


def _compute(case: EvalCase, metric: Metric, plan: ScoringPlan, tokenizer: Tokenizer) -> StoredScore | Unmeasured:
    if lacking := metric.lacking(case):
        return lacking
    if metric.score is None:
        return Unmeasured(reason=Reason.NO_JUDGE, detail=plan.no_judge)
    started = time.perf_counter()
    try:
        outcome = metric.score(case, tokenizer)
    except Exception as error:  # one case that a metric cannot take loses nothing else, and is no zero
        log.exception("%s failed on case %s", metric.name, case.case_id)
        return Unmeasured(reason=Reason.METRIC_ERROR, detail=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    if isinstance(outcome, Unmeasured):
        return outcome
    if not (math.isfinite(outcome.value) and 0.0 <= outcome.value <= 1.0):
        return Unmeasured(reason=Reason.METRIC_ERROR, detail=f"{metric.name} gave {outcome.value}, which is not in [0, 1]")
    return StoredScore(value=outcome.value, evidence=outcome.evidence, seconds=round(seconds, 6))


def _score(
    case: EvalCase, metric: Metric, plan: ScoringPlan, outcome: StoredScore | Unmeasured, *, reused: bool
) -> MetricScore:
    score = partial(
        MetricScore,
        case_id=case.case_id,
        metric=metric.name,
        threshold=plan.thresholds[metric.name],
        metric_version=plan.version(metric),
        lower_is_better=metric.lower_is_better,
    )
    if isinstance(outcome, Unmeasured):
        return score(value=None, unmeasured=outcome.reason.value, detail=outcome.detail)
    return score(
        value=outcome.value,
        evidence=outcome.evidence,
        seconds=outcome.seconds,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        reused=reused,
    )


def _score_in_worker(batch: Batch, plan: ScoringPlan, store_url: str) -> BatchScores:
    return score_batch(batch, plan=plan, store=_worker_store(store_url))


@lru_cache(maxsize=1)
def _worker_store(store_url: str) -> ScoreStore:
    return ScoreStore(store_url)


def _start_worker(parent: int) -> None:
    """End this worker when its parent was killed; otherwise it would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
