"""A dataset is cut into batches by the production guide's table, and nothing is lost or moved on the way."""

from __future__ import annotations

from itertools import chain, islice, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalvault_pipeline.cases.batches import batch_count, recommended_batch_size, split_into_batches
from evalvault_pipeline.cases.model import EvalCase, Snapshot

SNAPSHOT = Snapshot(dataset="qa", name="2026w47")


def cases(count: int) -> list[EvalCase]:
    return [EvalCase(case_id=str(number), question="q", answer="a") for number in range(count)]


@pytest.mark.parametrize(
    ("case_count", "size"),
    [(0, 10), (1, 10), (99, 10), (100, 20), (499, 20), (500, 50), (999, 50), (1_000, 100), (1_000_000, 100)],
)
def test_the_recommended_batch_size_follows_the_guides_table(case_count: int, size: int):
    assert recommended_batch_size(case_count) == size


@given(st.integers(0, 60), st.integers(1, 25))
def test_the_batches_put_together_are_the_dataset_and_only_the_last_is_short(count: int, size: int):
    batches = list(split_into_batches(cases(count), snapshot=SNAPSHOT, batch_size=size))
    assert list(chain.from_iterable(batch.cases for batch in batches)) == cases(count)
    assert all(len(batch.cases) == size for batch in batches[:-1])
    assert all(1 <= len(batch.cases) <= size for batch in batches[-1:])
    assert len(batches) == batch_count(count, size)


def test_batches_count_from_one_and_know_their_snapshot():
    batches = list(split_into_batches(cases(3), snapshot=SNAPSHOT, batch_size=2))
    assert [(batch.index, batch.key) for batch in batches] == [(1, "2026w47/0001"), (2, "2026w47/0002")]
    assert all(batch.snapshot is SNAPSHOT for batch in batches)


def test_batches_are_made_one_at_a_time():
    endless = split_into_batches(repeat(cases(1)[0]), snapshot=SNAPSHOT, batch_size=10)
    assert [len(batch.cases) for batch in islice(endless, 3)] == [10, 10, 10]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one_case(size: int):
    with pytest.raises(ValueError, match=f"batch_size is {size}; it must be at least 1"):
        next(split_into_batches(cases(1), snapshot=SNAPSHOT, batch_size=size))
