"""A year of weekly runs, replayed: which incidents alert, which recover, and what else was told. `make simulate-alerts`.

Four datasets, 52 weeks, six planted incidents, two outages of the judge. Each case is answered rightly with the dataset's own
rate; the judge flips a share of its verdicts, other ones each week. Reports and verdicts are made by the product's own
statistics; the sensor ticks each minute while the datasets are scored one after another, then every half hour. Cursor, book and
channels have tests of their own. Beside it stands the guide's rule: a message for every run below 80 %.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.simulate_gate import CASES, simulated
from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, Rule, decide
from evalvault_pipeline.reporting.incidents import HOUR, Board, Cause, Compared, Kind, Notice, Reported, Rules, RunFailed
from evalvault_pipeline.reporting.statistics import exact_worsening, wilson_interval

WEEK = 168 * HOUR
WEEKS, SIZE, FLIP, THRESHOLD = 52, 200, 0.03, 0.8
RATES = {"auto": 0.93, "health": 0.91, "life": 0.89, "travel": 0.95}
# (dataset, first week, weeks, rate): what was planted
PLANTED = [
    ("auto", 6, 2, 0.60),
    ("health", 12, 3, 0.70),
    ("life", 18, 2, 0.55),
    ("travel", 25, 4, 0.72),
    ("auto", 33, 3, 0.68),
    ("health", 45, 2, 0.62),
]
OUTAGES = [(21, 1), (39, 1)]  # (week, weeks) in which no judge answered
SECONDS_PER_DATASET = 600
RULES = Rules()


@dataclass(frozen=True, kw_only=True)
class Year:
    """What came of one year."""

    seed: int
    planted: list[dict[str, Any]]
    outages: list[dict[str, Any]]
    others: int
    reminders: int
    updates: int
    extended: int
    by_the_guide: int


def rate_of(dataset: str, week: int) -> float:
    return next(
        (rate for name, start, weeks, rate in PLANTED if name == dataset and start <= week < start + weeks), RATES[dataset]
    )


def replay(seed: int) -> Year:
    """One year, week by week."""
    random = np.random.default_rng(seed)
    board = Board()
    told: list[Notice] = []
    guide = 0
    right = {name: random.random(SIZE) < rate for name, rate in RATES.items()}
    baselines = {name: simulated(right[name], FLIP, random, told=True, digests=CASES[SIZE]) for name in RATES}
    for week in range(1, WEEKS + 1):
        start = week * WEEK
        for place, name in enumerate(RATES):
            at = start + SECONDS_PER_DATASET * (place + 1)
            for tick in range(0, SECONDS_PER_DATASET, 60):
                told += board.tell(at - SECONDS_PER_DATASET + tick, RULES, busy=True)
            run_id, snapshot = f"{name}-{week}", f"w{week:02d}"
            if any(first <= week < first + weeks for first, weeks in OUTAGES):
                why = "the judge does not answer"
                board.apply(RunFailed(id=run_id, dataset=name, run_id=run_id, at=at, why=why, judge_down=True))
                continue
            answered = right[name] & (random.random(SIZE) < rate_of(name, week) / RATES[name])
            run = simulated(answered, FLIP, random, told=True, digests=[f"{case} {week}" for case in CASES[SIZE]])
            guide += run.passed / SIZE < THRESHOLD
            low, high = wilson_interval(run.passed, SIZE) or (0.0, 1.0)
            board.apply(
                Reported(
                    id=f"{run_id} report",
                    dataset=name,
                    snapshot=snapshot,
                    run_id=run_id,
                    at=at,
                    pass_rate=run.passed / SIZE,
                    low=low,
                    high=high,
                    coverage=1.0,
                    threshold=THRESHOLD,
                    min_coverage=0.95,
                    evidence=run_id,
                )
            )
            verdict = decide(run, rules=GateRules(), comparison=compare_runs(baselines[name], run))
            finding = verdict.finding(Rule.NOT_WORSE)
            assert finding is not None, "there is a baseline"
            assert verdict.comparison is not None, "there is a baseline"
            rate = verdict.comparison.pass_rate
            board.apply(
                Compared(
                    id=f"{run_id} verdict",
                    dataset=name,
                    snapshot=snapshot,
                    run_id=run_id,
                    at=at,
                    outcome=finding.outcome.value,
                    p_value=exact_worsening(rate.newly_failing, rate.newly_passing),
                    sentence=finding.sentence,
                    evidence=run_id,
                    comparable=verdict.comparison.comparable,
                )
            )
        for tick in range(8):  # the board is kept between the ticks, and read again
            board = Board(board.content())
            now = start + SECONDS_PER_DATASET * len(RATES) + 30 + 1800 * tick
            board.check_clock(now, RULES, watched=RATES)
            told += board.tell(now, RULES)
    return _year(seed, told, guide)


def _year(seed: int, told: list[Notice], guide: int) -> Year:
    opened = [notice for notice in told if notice.kind is Kind.OPENED]
    closed = {notice.incident: notice for notice in told if notice.kind is Kind.RECOVERED}
    used: set[str] = set()
    planted = []
    for name, start, weeks, rate in PLANTED:
        span = (start * WEEK, (start + weeks + 1) * WEEK)
        mine = [
            one
            for one in opened
            if one.datasets == [name] and span[0] <= one.at < span[1] and Cause.JUDGE_DOWN not in one.causes
        ]
        used |= {one.id for one in mine}
        ended = closed.get(mine[0].incident) if mine else None
        planted.append(
            {
                "what": f"{name}, week {start} to {start + weeks - 1}: {rate:.0%}",
                "alerts": len(mine),
                "after": round((mine[0].at - start * WEEK) / WEEK) if mine else None,
                "recoveries": sum(one.incident in closed for one in mine),
                "recovered_after": round((ended.at - (start + weeks) * WEEK) / WEEK) if ended else None,
            }
        )
    outages = []
    for start, weeks in OUTAGES:
        mine = [one for one in opened if Cause.JUDGE_DOWN in one.causes and start * WEEK <= one.at < (start + weeks) * WEEK]
        used |= {one.id for one in mine}
        outages.append(
            {
                "what": f"judge down, week {start}",
                "alerts": len(mine),
                "datasets": len(mine[0].datasets) if mine else 0,
                "after": round((mine[0].at - start * WEEK) / WEEK) if mine else None,
                "recoveries": sum(one.incident in closed for one in mine),
                "recovered_after": round((closed[mine[0].incident].at - (start + weeks) * WEEK) / WEEK)
                if mine and mine[0].incident in closed
                else None,
            }
        )
    kinds = Counter(notice.kind for notice in told)
    return Year(
        seed=seed,
        planted=planted,
        outages=outages,
        others=len([one for one in opened if one.id not in used]),
        reminders=kinds[Kind.REMINDER],
        updates=kinds[Kind.UPDATED],
        extended=kinds[Kind.EXTENDED],
        by_the_guide=guide,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=100)
    years = parser.parse_args().years
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(replay, range(years)))
    first = found[0]
    print(
        f"One year (seed 0): {WEEKS} weeks x {len(RATES)} datasets of {SIZE} cases, the judge flips {FLIP:.0%} of its verdicts\n"
    )
    print("| planted | alerts | told after weeks | recoveries | told after weeks |")
    print("| --- | --- | --- | --- | --- |")
    for one in first.planted:
        print(f"| {one['what']} | {one['alerts']} | {one['after']} | {one['recoveries']} | {one['recovered_after']} |")
    for one in first.outages:
        alerts = f"{one['alerts']}, naming {one['datasets']} datasets"
        print(f"| {one['what']} | {alerts} | {one['after']} | {one['recoveries']} | {one['recovered_after']} |")
    print(
        f"\nOther alerts: {first.others}; reminders: {first.reminders}; a second cause: {first.extended}; updates in threads: {first.updates}."
    )
    print(
        f"By the guide's rule (a message for each run below {THRESHOLD:.0%}): {first.by_the_guide} messages and no recovery.\n"
    )
    print(f"{years} years with other seeds:\n")
    print("| of | alerted once | recovered once | other alerts a year |")
    print("| --- | --- | --- | --- |")
    incidents = [one for year in found for one in (*year.planted, *year.outages)]
    once = sum(one["alerts"] == 1 for one in incidents)
    recovered = sum(one["recoveries"] == 1 for one in incidents)
    others = sum(year.others for year in found) / years
    print(f"| {len(incidents)} incidents | {once} | {recovered} | {others:.2f} |")


if __name__ == "__main__":
    main()
