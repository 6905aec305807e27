"""Cut a dataset into the batches that become its partitions.

Pure: files are read in `loading.py`, partitions are declared in `defs/partitions.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice

from evalvault_pipeline.cases.model import Batch, EvalCase, Snapshot

# The production guide's table: a dataset of at least so many cases -> batch size. 100, 500 and 1,000 open their row.
BATCH_SIZES = ((1_000, 100), (500, 50), (100, 20), (0, 10))


def recommended_batch_size(case_count: int) -> int:
    """Cases per batch for a dataset of `case_count` cases."""
    return next(size for at_least, size in BATCH_SIZES if case_count >= at_least)


def split_into_batches(cases: Iterable[EvalCase], *, snapshot: Snapshot, batch_size: int) -> Iterator[Batch]:
    """Batches in file order, one at a time; only the last may be short."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    rest = iter(cases)
    for index in count(1):
        chunk = tuple(islice(rest, batch_size))
        if not chunk:
            return
        yield Batch(snapshot=snapshot, index=index, cases=chunk)


def batch_count(case_count: int, batch_size: int) -> int:
    return -(-case_count // batch_size)
