"""What belongs to a case's content, and how batches are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evalvault_pipeline.cases.model import SCORED_METADATA, EvalCase, Snapshot, batch_key

MakeCase = Callable[..., EvalCase]


@pytest.mark.parametrize(
    "change", [{"case_id": "other"}, {"metadata": {"product": "auto"}}, {"metadata": {"keywords": None, "answerable": None}}]
)
def test_what_no_metric_reads_does_not_change_the_digest(a_case: MakeCase, change: dict[str, Any]):
    assert a_case(**change).digest == a_case().digest


@pytest.mark.parametrize(
    "change",
    [
        {"question": "다른 질문?"},
        {"answer": "다른 답."},
        {"contexts": ()},
        {"ground_truth": None},
        *({"metadata": {name: ["x"]}} for name in SCORED_METADATA),
    ],
)
def test_whatever_a_metric_reads_changes_the_digest(a_case: MakeCase, change: dict[str, Any]):
    assert a_case(**change).digest != a_case().digest


def test_the_order_of_contexts_belongs_to_the_digest(a_case: MakeCase):
    case = a_case()
    assert a_case(contexts=case.contexts[::-1]).digest != case.digest


def test_the_order_of_metadata_keys_does_not(a_case: MakeCase):
    assert (
        a_case(metadata={"answerable": True, "keywords": ["x"]}).digest
        == a_case(metadata={"keywords": ["x"], "answerable": True}).digest
    )


def test_text_that_moves_from_one_field_to_the_next_changes_the_digest(a_case: MakeCase):
    assert a_case(question="ab", answer="c").digest != a_case(question="a", answer="bc").digest


def test_the_input_digest_is_the_same_in_two_releases(a_case: MakeCase):
    """Another answer to the same question can be paired; another question or reference cannot."""
    case = a_case()
    assert a_case(case_id="z", answer="x", contexts=(), metadata={"keywords": ["x"]}).input_digest == case.input_digest
    assert case.input_digest not in {a_case(question="x?").input_digest, a_case(ground_truth=None).input_digest}


def test_batch_keys_sort_in_the_order_of_batches():
    keys = Snapshot(dataset="qa", name="2026w47", batch_count=12).batch_keys
    assert (keys[0], keys[-1], len(keys)) == ("2026w47/0001", "2026w47/0012", 12)
    assert keys == sorted(keys)
    assert batch_key("2026w47", 9_999) == "2026w47/9999"
