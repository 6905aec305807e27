"""Two runs beside each other: what is paired, what is said of the rest, and what else than the answers differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.errors import UnusableResults
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.reporting.comparison import Comparison, compare_runs
from evalvault_pipeline_tests.results_files import case, good

Results = Callable[..., Path]


def many(count: int, *, bad: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """`count` cases, of which the first `bad` fail faithfulness."""
    return [case(f"c{n:02d}", good(faithfulness=0.1) if n < bad else good(), **changes) for n in range(count)]


def compared(results: Results, before: list[dict[str, Any]], after: list[dict[str, Any]], **header: Any) -> Comparison:
    return compare_runs(read_run(results(before, "before.json")), read_run(results(after, "after.json", **header)))


def test_cases_are_paired_by_id_and_what_has_no_partner_is_named(results: Results):
    after = many(30)[1:]
    after[1]["input_digest"] = "another question"
    found = compared(results, many(30), [*after, case("new", good())])
    assert (found.pairs, found.pass_rate.pairs) == (28, 28)
    assert (found.only_in_baseline, found.only_in_candidate, found.changed_inputs) == (("c00",), ("new",), ("c02",))


def test_the_order_of_the_cases_does_not_matter(results: Results):
    found = compared(results, many(30, bad=2), many(30, bad=4)[::-1])
    assert sorted(found.newly_failing) == ["c02", "c03"]
    assert (found.pass_rate.newly_failing, found.pass_rate.newly_passing) == (2, 0)


def test_pass_rate_and_means_are_those_of_the_pairs(results: Results):
    found = compared(results, [*many(40, bad=4), case("gone", good(faithfulness=0.0))], many(40, bad=8))
    rate = found.pass_rate
    assert (rate.baseline, rate.candidate, rate.difference) == (0.9, 0.8, pytest.approx(-0.1))
    (faithfulness,) = [one for one in found.metrics if one.name == "faithfulness"]
    assert faithfulness.baseline == pytest.approx((36 * 0.9 + 4 * 0.1) / 40)
    assert faithfulness.difference == pytest.approx(-0.08)
    assert faithfulness.interval and faithfulness.interval[0] < -0.08 < faithfulness.interval[1]


def test_a_metric_of_which_less_is_better_drops_where_it_rises(results: Results):
    worse = [case(f"c{n:02d}", good(noise_sensitivity=0.2)) for n in range(30)]
    found = compared(results, many(30), worse)
    (noise,) = [one for one in found.metrics if one.name == "noise_sensitivity"]
    assert (noise.difference, noise.drop) == (pytest.approx(0.1), pytest.approx(0.1))
    assert noise.beyond(0.02) < 1e-6


def test_unmeasured_cases_are_bounded_and_never_counted_as_failed(results: Results):
    after = many(40)
    after[0] = case("c00", good(faithfulness=None))
    after[1] = case("c01", good(faithfulness=None))
    found = compared(results, many(40), after)
    assert (found.pass_rate.pairs, found.pass_rate.candidate) == (38, 1.0)
    assert (found.worst, found.best) == ((2, 0), (0, 0))
    assert found.bounds == (pytest.approx(-0.05), 0.0)


def test_changed_cases_come_with_both_entries(results: Results):
    after = many(30, bad=1)
    after[0]["answer"] = "틀린 답변"
    found = compared(results, many(30), after)
    (change,) = found.newly_failing_cases
    assert (change.case_id, change.before["answer"], change.after["answer"]) == ("c00", "c00 답변", "틀린 답변")


def test_both_sides_are_held_to_the_candidates_threshold_and_it_is_said(results: Results):
    thresholds = {"faithfulness": 0.95, "noise_sensitivity": 0.3, "chrf": 0.2}
    found = compared(results, many(30), many(30), thresholds=thresholds, passed_test_cases=0)
    assert (found.pass_rate.baseline, found.pass_rate.candidate) == (0.0, 0.0)
    assert found.warnings == ("another threshold of faithfulness: 0.7, now 0.95; both runs are held to 0.95 here",)
    assert found.comparable


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"model_name": "ollama/gemma3:1b"}, "another judge: openai/gpt-5-mini, now ollama/gemma3:1b"),
        (
            {"judge": {"temperature": 1}},
            "another judge: openai/gpt-5-mini, now openai/gpt-5-mini with other settings or prompts",
        ),
    ],
)
def test_another_judge_is_told_and_makes_the_runs_incomparable(results: Results, header: dict[str, Any], said: str):
    found = compared(results, many(30), many(30), **header)
    assert (found.comparable, found.warnings) == (False, (said,))


def test_another_version_of_a_metric_makes_the_runs_incomparable(results: Results):
    file = results(many(30), "after.json")
    file.write_text(file.read_text(encoding="utf-8").replace('"1+faithfulness"', '"2+faithfulness"'), encoding="utf-8")
    found = compare_runs(read_run(results(many(30), "before.json")), read_run(file))
    assert not found.comparable
    assert "another version of faithfulness: 1+faithfulness, now 2+faithfulness" in found.warnings


def test_another_version_of_the_dataset_missing_batches_and_bad_rows_are_told(results: Results):
    told = {"dataset_version": "v8", "missing_batches": ["2026w46/0002"], "skipped_rows": [{"line": 3}]}
    found = compared(results, many(30), many(30), **told)
    assert found.comparable
    assert found.warnings[:3] == (
        "another version of the dataset: v7, now v8",
        "the candidate lacks 1 batches: 2026w46/0002",
        "the candidate left out 1 bad rows",
    )


@pytest.mark.parametrize(("pii", "now"), [({"policy": "off", "masked": {}, "cases": 0}, "off"), ("edited by hand", None)])
def test_another_policy_for_personal_data_is_told(pii: Any, now: str | None, results: Results):
    """An older run says nothing of it."""
    found = compared(results, many(30), many(30), pii=pii)
    told = [warning for warning in found.warnings if "personal data" in warning]
    assert [warning.partition(";")[0] for warning in told] == (
        [f"another policy for personal data: unknown, now {now}"] if now else []
    )


def test_figures_that_do_not_agree_with_the_scores_are_told_and_not_taken(results: Results):
    found = compared(results, many(30), many(30, bad=10), passed_test_cases=30)
    assert found.pass_rate.candidate == pytest.approx(20 / 30)
    assert any("the candidate's file says 30 of 30 cases passed, its scores 20 of 30" in warning for warning in found.warnings)


def test_slices_have_a_minimum_of_pairs_and_a_correction(results: Results):
    before = [
        case(f"c{n}", good(), metadata={"product": "cancer" if n < 30 else "auto" if n < 60 else "pet"}) for n in range(65)
    ]
    after = [
        {**one, "metrics": case("", good(faithfulness=0.1) if n < 12 else good())["metrics"]} for n, one in enumerate(before)
    ]
    found = compared(results, before, after)
    shown = {one.value: (one.pairs, one.newly_failing) for one in found.slices}
    assert (shown, found.too_small_slices) == ({"auto": (30, 0), "cancer": (30, 12)}, 1)
    (cancer,) = [one for one in found.slices if one.value == "cancer"]
    assert cancer.adjusted == pytest.approx(2 * cancer.p_value)


def test_the_judges_noise_of_the_reports_widens_the_margin(results: Results):
    noise = {"cases": 40, "repeats": 3, "flip_rate": 0.08, "deviation": 0.1}
    before = read_run(results(many(40), "before.json"))
    after = read_run(results(many(40, bad=1), "after.json"))
    before.header["metric_summaries"]["faithfulness"]["noise"] = noise
    found = compare_runs(before, after)
    assert found.flip_rate == pytest.approx(0.08)
    assert found.pass_rate.noise == pytest.approx((0.08 / 40) ** 0.5)
    (faithfulness,) = [one for one in found.metrics if one.name == "faithfulness"]
    assert faithfulness.noise == pytest.approx(0.1 * (2 / 40) ** 0.5)


def test_the_same_run_twice_is_identical(results: Results):
    found = compared(results, many(30, bad=3), many(30, bad=3))
    assert found.identical
    assert found.pass_rate.interval == (0.0, 0.0)


def test_runs_without_a_common_case_or_metric_are_refused_by_name(results: Results):
    with pytest.raises(UnusableResults, match=r"have no case in common.*c00, c01, c02 and 27 more.*other"):
        compared(results, many(30), [case("other", good())])
    with pytest.raises(UnusableResults, match=r"have no metric in common: faithfulness and chrf"):
        compared(results, [case("a", {"faithfulness": 0.9})], [case("a", {"chrf": 0.9})])
