"""The figures of the HTML report, as SVG text."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from evalvault_pipeline.publishing import charts
from evalvault_pipeline.publishing.templates.labels import LABELS
from evalvault_pipeline.reporting.recorded import TrendPoint

LABEL = LABELS["ko"]


def histogram(values: list[float], **changes: Any) -> str:
    given: dict[str, Any] = {"threshold": 0.5, "lower_is_better": False, "name": "h0", "title": "분포", "labels": LABEL}
    return charts.histogram(np.array(values), **{**given, **changes})


def scatter(before: Any, after: Any, **changes: Any) -> str:
    given: dict[str, Any] = {"threshold": 0.5, "lower_is_better": False, "name": "s0", "title": "비교", "labels": LABEL}
    return charts.scatter(np.asarray(before, dtype=float), np.asarray(after, dtype=float), **{**given, **changes})


def point(snapshot: str = "2026w45", **changes: Any) -> TrendPoint:
    given: dict[str, Any] = {
        "run_id": "r1",
        "snapshot": snapshot,
        "finished_at": "2026-11-24T04:01:46.911+00:00",
        "judge": "none",
        "pass_rate": 0.8,
        "interval": (0.7, 0.9),
        "coverage": 1.0,
        "cases": 64,
        "cost_usd": None,
        "means": {"chrf": 0.5},
    }
    return TrendPoint(**{**given, **changes})


def trend(*points: TrendPoint) -> str:
    return charts.trend(points, name="trend", title="추이", labels=LABEL)


def ids(svg: str) -> list[str]:
    return re.findall(r' id="([^"]*)"', svg)


def drawn(svg: str, colour: str) -> int:
    """How many marks have a colour of the page."""
    return len(re.findall(rf"<use[^>]*fill: var\(--{colour}\)", svg))


@pytest.mark.parametrize(
    "svg", [histogram([0.1, 0.9]), scatter([0.9, 0.9], [0.1, 0.9]), trend(point(), point("2026w46", interval=None))]
)
def test_a_figure_is_well_formed_names_itself_and_brings_no_colour_font_or_date_of_its_own(svg: str):
    ElementTree.fromstring(svg)
    assert svg.startswith("<svg") and 'role="img" aria-label="' in svg
    assert "var(--" in svg
    assert not re.search(r"font-family|<style|<metadata|<!DOCTYPE|Tx\w+xT|#000[0-9]{3}", svg)
    assert re.search(r"[가-힣]", svg), "its labels are text"


def test_equal_input_gives_equal_text():
    assert histogram([0.1, 0.9]) == histogram([0.1, 0.9])
    assert trend(point()) == trend(point())


def test_two_figures_of_a_page_share_no_id():
    first, second = histogram([0.1, 0.9], name="h0"), histogram([0.1, 0.9], name="h1")
    assert ids(first)
    assert not set(ids(first)) & set(ids(second))
    for svg in (first, second):
        used = re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
        assert set(used) <= set(ids(svg))


def test_what_was_not_measured_is_in_no_bar_and_nothing_measured_is_no_figure():
    assert histogram([np.nan, 0.9]) == histogram([0.9])
    assert histogram([np.nan, np.nan]) == ""
    assert histogram([]) == ""
    assert scatter([np.nan, 0.2], [0.5, np.nan]) == ""
    assert trend() == ""


@pytest.mark.parametrize(
    ("value", "lower_is_better", "colour"),
    [(0.1, False, "fail"), (0.1, True, "pass"), (0.9, True, "fail"), (0.5, False, "pass"), (0.5, True, "pass")],
)
def test_the_bar_of_a_case_has_the_colour_of_its_state_in_either_direction(value: float, lower_is_better: bool, colour: str):
    svg = histogram([value], lower_is_better=lower_is_better)
    assert {name for name in ("pass", "fail") if f"fill: var(--{name})" in svg} == {colour}


def test_newly_failing_pairs_are_drawn_apart():
    assert "var(--fail)" not in scatter([0.9, 0.2], [0.9, 0.9])
    assert drawn(scatter([0.9, 0.2], [0.1, 0.9]), "fail") == 1
    assert drawn(scatter([0.1, 0.9], [0.9, 0.9], lower_is_better=True), "fail") == 1


def test_no_more_points_are_drawn_than_a_page_can_hold_and_the_newly_failing_ones_first():
    generator = np.random.default_rng(1)
    before, after = generator.random(100_000), generator.random(100_000)
    svg = scatter(before, after)
    assert drawn(svg, "accent") + drawn(svg, "fail") <= charts.MOST_POINTS
    assert len(svg) < 500_000
    assert drawn(svg, "fail") > 1_000


@pytest.mark.parametrize(
    "hostile", ["$\\frac{", "</svg><script>alert(1)</script>", '" onload="x', "한글", 'id="x"', "#000101", "TxYxT"]
)
def test_the_name_of_a_snapshot_is_text_whatever_it_holds(hostile: str):
    svg = trend(point(hostile[:12]), point())
    root = ElementTree.fromstring(svg)
    assert hostile[:12] in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<script" not in svg


def test_a_run_without_any_measured_score_leaves_a_gap_in_the_trend():
    full, gap = (
        trend(point(), point(), point()),
        trend(point(), point(pass_rate=0.0, interval=(0.0, 0.1), coverage=0.0), point()),
    )
    assert drawn(full, "accent") > drawn(gap, "accent") >= 2


def test_another_judge_is_marked_in_the_trend():
    assert len(trend(point(), point(judge="gpt"))) > len(trend(point(), point()))


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_trend_of_any_length_names_its_ends(count: int):
    svg = trend(*(point(f"w{number}") for number in range(count)))
    assert ">w0<" in svg and f">w{count - 1}<" in svg
    assert len(re.findall(r">w\d+<", svg)) <= charts.MOST_TICKS
