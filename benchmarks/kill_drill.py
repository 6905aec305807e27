"""The kill drill: every part of production ended by SIGKILL in the middle of a backfill of 40 batches. `make drill`.

`deploy/dagster.yaml` as it stands, on loopback: Postgres, judge, code server, daemon, webserver. Each row is a backfill of its own,
with retries allowed; what is killed is started again at once. Prints the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalvault_pipeline_tests.judged_project import CALLS_A_CASE
from evalvault_pipeline_tests.production_stack import DATASET, ProductionStack

BATCHES, CASES = 40, 200
CALLS = CASES * CALLS_A_CASE
LONGEST_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one backfill. Seconds are from the kill: to the judge's next answer, and to the end of the backfill."""

    killed: str
    runs: str
    lost: int
    calls: int
    back: float
    whole: float

    def __str__(self) -> str:
        told = (self.killed, self.runs, self.lost, f"{self.calls:,}", f"{self.back:.0f} s", f"{self.whole:.0f} s")
        return f"| {' | '.join(map(str, told))} |"


def everything(stack: ProductionStack) -> None:
    """As a machine that loses its power."""
    for part in ("worker", "webserver", "daemon", "code"):
        stack.kill_worker() if part == "worker" else stack.kill(part)
    stack.judge.kill()
    stack.postgres.kill()
    stack.postgres.start()
    stack.judge.start()
    for part in ("code", "webserver", "daemon"):
        stack.start(part)


def part(name: str) -> Callable[[ProductionStack], None]:
    return lambda stack: stack.restart(name)


KILLS: dict[str, Callable[[ProductionStack], None]] = {
    "nothing": lambda stack: None,
    "the worker of the run": part("worker"),
    "code server, with the worker": part("code"),
    "daemon": part("daemon"),
    "webserver": part("webserver"),
    "Postgres": part("postgres"),
    "judge": part("judge"),
    "all of them at once": everything,
}


def drill(stack: ProductionStack, number: int, name: str) -> Row:
    """A backfill in whose middle something is killed."""
    snapshot, before, scored = f"w{number}", stack.judge.answered, stack.scores()
    first = len(stack.statuses())
    stack.wait_for("webserver")
    backfill = stack.backfill(snapshot, batches=BATCHES)
    stack.answered(before + CALLS // 3, seconds=LONGEST_SECONDS)
    began = time.monotonic()
    KILLS[name](stack)
    killed_at = stack.judge.answered
    stack.answered(killed_at + 1, seconds=LONGEST_SECONDS)
    back = time.monotonic() - began
    status = stack.until(lambda: stack.ended(backfill), seconds=LONGEST_SECONDS)
    whole = time.monotonic() - began
    assert status == "COMPLETED_SUCCESS", f"{status}\n{stack.said('daemon')}"
    results = stack.project.results(DATASET, snapshot)
    assert (results["coverage"], results["missing_batches"]) == (1.0, [])
    runs = ", ".join(status.lower() for status in stack.statuses()[first:])
    lost = CASES - (stack.scores() - scored)
    return Row(killed=name, runs=runs, lost=lost, calls=stack.judge.answered - before, back=back, whole=whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(KILLS), default=list(KILLS), metavar="NAME", help=", ".join(KILLS))
    names = parser.parse_args().only
    print(f"{CASES} cases in {BATCHES} batches, {CALLS} LLM calls, 8 in flight, each of 1 s; at most {CALLS} + 8 are paid.\n")
    print("| killed | its runs | cases lost | LLM calls | judge asked again after | backfill whole after |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        stack = ProductionStack(Path(folder) / "stack", latency=1.0)
        for number in range(1, len(names) + 1):
            stack.project.write(DATASET, f"w{number}", CASES)
        with stack:
            for number, name in enumerate(names, start=1):
                row = drill(stack, number, name)
                print(row, flush=True)
                assert row.lost == 0
                assert CALLS <= row.calls <= CALLS + stack.in_flight


if __name__ == "__main__":
    main()
