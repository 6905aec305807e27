"""A shift of topic is found, a stable dataset stays quiet, and every figure is what its formula says."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.publishing.drift_page import drift_content, drift_tables, write_drift
from evalvault_pipeline.reporting import distances
from evalvault_pipeline.reporting.drift import Drift, Side, measure_drift, side_of
from evalvault_pipeline.scoring.korean import NgramTokenizer, topic_words
from evalvault_pipeline.scoring.model import CaseResult
from evalvault_pipeline_tests.conftest import PROJECT

TOPICS = {
    "암": ["암 진단비", "항암 치료비", "소액암 보장", "암 입원비"],
    "자동차": ["대물배상 한도", "자기차량손해 부담금", "긴급출동 횟수", "운전자 범위"],
    "여행": ["휴대품 분실 보상", "항공기 지연 보상", "해외 의료비", "여행 취소 비용"],
    "반려동물": ["강아지 슬개골 수술비", "고양이 예방접종", "반려견 배상책임", "펫 입원 치료비"],
}
ASKS = ["은 얼마인가요?", "에는 무엇이 포함되나요?", "을 받으려면 어떤 서류가 필요한가요?", "은 언제부터 보장되나요?"]
TOKENIZER = NgramTokenizer()


def lexical(texts: Sequence[str]) -> Any:
    return distances.lexical_vectors([TOKENIZER.content(text) for text in texts])


def side(snapshot: str, count: int, shares: dict[str, float], seed: int, **changes: Any) -> Side:
    chosen = random.Random(seed)
    topics = chosen.choices(list(shares), weights=list(shares.values()), k=count)
    questions = [f"{chosen.choice(TOPICS[topic])}{chosen.choice(ASKS)} {number}번 고객" for number, topic in enumerate(topics)]
    values: dict[str, Any] = {
        "snapshot": snapshot,
        "ids": [f"c{number}" for number in range(count)],
        "questions": questions,
        "answers": [f"{question} 약관에 따릅니다." for question in questions],
        "passed": [True] * count,
        "scores": {"chrf": [0.5 + chosen.random() / 4 for _ in range(count)]},
    }
    return Side(**{**values, **changes})


def drift(current: Side, reference: Side | None, **given: Any) -> Drift:
    return measure_drift(current, reference, embed=lexical, words=topic_words, embedder="lexical", **given)


STABLE = {"암": 0.4, "자동차": 0.35, "여행": 0.25}
SHIFTED = {"암": 0.3, "자동차": 0.25, "여행": 0.2, "반려동물": 0.25}


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_topic_is_found_and_named(seed: int) -> None:
    found = drift(side("2026w47", 200, SHIFTED, seed), side("2026w46", 200, STABLE, seed + 100))
    assert not found.resembles
    grown = max(found.clusters, key=lambda cluster: cluster.after - cluster.before)
    assert grown.name in found.sentence and "do not resemble those of 2026w46" in found.sentence


def test_twenty_stable_resamples_raise_one_alarm_at_most() -> None:
    alarms = [not drift(side("b", 120, STABLE, seed), side("a", 120, STABLE, seed + 1000)).resembles for seed in range(20)]
    assert sum(alarms) <= 1


def test_halves_of_the_demo_dataset_resemble_each_other() -> None:
    cases = json.loads((PROJECT / "data" / "datasets" / "insurance_qa" / "2026w47.json").read_text(encoding="utf-8"))
    texts = [case["question"] for case in cases["test_cases"]]
    alarms = 0
    for seed in range(20):
        random.Random(seed).shuffle(texts)
        halves = [
            Side(snapshot=name, ids=some, questions=some, answers=some, passed=[None] * len(some), scores={})
            for name, some in (("a", texts[:32]), ("b", texts[32:]))
        ]
        alarms += not drift(halves[1], halves[0]).resembles
    assert alarms <= 1


def test_a_new_topic_has_a_cluster_of_its_own_that_is_named_by_its_words() -> None:
    new = [f"{TOPICS['반려동물'][0]} {ask} {number}번" for number, ask in enumerate(ASKS * 10)]
    before = side("a", 60, STABLE, 1)
    found = drift(side("b", 100, STABLE, 2, questions=[*side("b", 60, STABLE, 2).questions, *new]), before)
    grown = max(found.clusters, key=lambda cluster: cluster.after - cluster.before)
    assert not found.resembles and grown.before == 0 and grown.after >= 30
    assert {"강아지", "슬개골", "수술비"} <= set(grown.terms) and grown.name in found.sentence


def test_the_same_questions_have_no_distance() -> None:
    one = side("a", 50, STABLE, 1)
    found = drift(one, one)
    moved = [shift for shift in found.shifts if shift.statistic != "nearest neighbours"]
    assert all(shift.value == pytest.approx(0.0, abs=1e-12) for shift in moved)
    assert all(shift.p_value == 1.0 for shift in found.shifts if shift.statistic == "MMD²")
    assert found.resembles


def test_scores_and_lengths_that_moved_are_told_and_are_no_alarm_of_the_questions() -> None:
    before = side("a", 80, STABLE, 1)
    after = side("b", 80, STABLE, 1, answers=["짧다"] * 80, scores={"chrf": [0.1] * 80}, passed=[False] * 60 + [None] * 20)
    found = drift(after, before)
    moved = {shift.name: shift for shift in found.shifts if shift.statistic == "difference of means"}
    assert found.resembles
    assert moved["chrf"].value < -0.4 and moved["chrf"].p_value < 0.001
    assert moved["answer length"].value < -10 and moved["question length"].value == 0.0
    assert sum(cluster.after for cluster in found.clusters) == 80
    assert {cluster.pass_rate_after for cluster in found.clusters} <= {0.0, None}
    assert {cluster.pass_rate_before for cluster in found.clusters} == {1.0}


def test_a_metric_that_nothing_was_measured_of_did_not_move_by_0() -> None:
    before = side("a", 40, STABLE, 1, scores={"chrf": []})
    found = drift(side("b", 40, STABLE, 2), before)
    moved = next(shift for shift in found.shifts if shift.name == "chrf")
    assert (moved.value, moved.p_value, moved.before) == (None, None, None)
    assert found.resembles
    assert "| chrf |" in drift_tables(found)


def test_without_a_reference_there_are_clusters_and_no_alarm() -> None:
    found = drift(side("a", 40, STABLE, 1), None)
    assert (found.resembles, list(found.shifts)) == (True, [])
    assert set(found.labels) == {f"c{number}" for number in range(40)} and len(found.clusters) > 1
    assert "no earlier snapshot" in found.sentence


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_cases_are_no_problem(count: int) -> None:
    found = drift(side("b", count, STABLE, 1), side("a", count, STABLE, 2))
    assert found.resembles and len(found.points) == 2 * count


def test_empty_texts_are_no_problem() -> None:
    empty = side("b", 4, STABLE, 1, questions=[""] * 4, answers=[""] * 4)
    assert drift(empty, empty).resembles


def test_equal_input_gives_equal_output() -> None:
    pair = side("b", 60, SHIFTED, 1), side("a", 60, STABLE, 2)
    assert drift(*pair) == drift(*pair)


def test_of_a_large_snapshot_the_same_thousand_cases_are_taken_and_the_others_are_not_held() -> None:
    alive = peak = 0

    def results(count: int) -> Iterator[CaseResult]:
        nonlocal alive, peak
        for number in range(count):
            made = CaseResult(case=EvalCase(case_id=f"c{number}", question="q", answer="a"), scores=())
            alive += 1
            peak = max(peak, alive)
            weakref.finalize(made.case, gone)
            yield made

    def gone() -> None:
        nonlocal alive
        alive -= 1

    taken = side_of("a", results(3000))
    assert len(taken.ids) == len(set(taken.ids)) == 1000 and peak < 1100
    assert list(taken.ids) == list(side_of("a", reversed(list(results(3000)))).ids)


# --- the distances


def test_psi_is_the_sum_of_share_differences_times_their_log_ratio() -> None:
    first, second = np.array([0] * 9 + [1]), np.array([0] * 4 + [1] * 6)
    before, after = np.array([9.5, 1.5]) / 11, np.array([4.5, 6.5]) / 11
    value, chance = distances.psi(first, second, 2)
    assert value == pytest.approx(float(((after - before) * np.log(after / before)).sum()))
    assert 0.02 < chance < 0.12  # Fisher's exact test, two-sided, says 0.057


def test_mmd_is_the_biased_statistic_of_its_source() -> None:
    generator = np.random.default_rng(7)
    first, second = generator.normal(size=(12, 3)), generator.normal(size=(9, 3)) + 1.0
    pooled = np.vstack([first, second])
    squared = ((pooled[:, None] - pooled[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(21, 1)]))
    expected = kernel[:12, :12].mean() + kernel[12:, 12:].mean() - 2 * kernel[:12, 12:].mean()
    value, chance = distances.mmd(first, second)
    assert value == pytest.approx(expected) and chance < 0.05


def test_neighbours_are_of_the_own_side_where_the_sides_are_apart() -> None:
    generator = np.random.default_rng(7)
    near, far = generator.normal(size=(20, 3)), generator.normal(size=(20, 3)) + 50.0
    assert distances.neighbours(near, far) == (1.0, 0.001)
    value, chance = distances.neighbours(near, generator.normal(size=(20, 3)))
    assert 0.3 < value < 0.7 and chance > 0.01


def test_p_values_of_equal_samples_are_uniform() -> None:
    generator = np.random.default_rng(3)
    chances = [distances.mmd(generator.normal(size=(15, 2)), generator.normal(size=(15, 2)))[1] for _ in range(200)]
    below = sum(chance <= 0.1 for chance in chances)
    assert 8 <= below <= 34  # 20 are expected, 4.2 is a standard deviation


def test_clusters_are_numbered_by_size_and_the_map_keeps_the_largest_variance() -> None:
    generator = np.random.default_rng(5)
    blobs = np.vstack([generator.normal(scale=0.05, size=(30, 4)) + 5, generator.normal(scale=0.05, size=(10, 4))])
    found = distances.clustered(blobs)
    assert list(np.bincount(found)) == sorted(np.bincount(found), reverse=True)
    assert set(found[:30]).isdisjoint(found[30:])
    across = distances.projected(blobs)[:, 0]
    assert across[:30].min() - across[30:].max() > 5 or across[30:].min() - across[:30].max() > 5


def test_umap_is_an_extra_and_says_so_where_it_is_not_installed() -> None:
    points = np.random.default_rng(1).normal(size=(40, 8))
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(InvalidSetting, match=r"evalvault-pipeline\[umap\]"):
            distances.umap_projected(points)
    else:
        assert distances.umap_projected(points).shape == (40, 2)


# --- the files


def test_the_report_is_one_page_with_its_map_and_holds_no_markup_of_the_data(tmp_path: Any) -> None:
    bad = side("b", 30, STABLE, 1, questions=["<script>alert(1)</script> 보험"] * 30)
    files = write_drift(tmp_path, drift(bad, side("a", 30, STABLE, 2)))
    page = files["html"].read_text(encoding="utf-8")
    assert "<script" not in page and "data:image/png;base64," in page and "http" not in page.replace("http-equiv", "")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    content = json.loads(files["json"].read_text(encoding="utf-8"))
    assert content["resembles"] is False and content["reference"] == "a" and len(content["labels"]) == 30


def test_the_tables_show_every_shift_and_every_topic() -> None:
    found = drift(side("b", 40, STABLE, 1), side("a", 40, STABLE, 2))
    told = drift_tables(found)
    assert all(cluster.name in told for cluster in found.clusters)
    assert all(f"| {shift.name} | {shift.statistic} |" in told for shift in found.shifts)
    assert drift_content(found)["sentence"] == found.sentence
