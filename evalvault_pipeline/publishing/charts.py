"""Figures of the HTML report, as SVG to stand inside the page; small PNG pictures for Markdown in the Dagster UI.

The page's own variables colour them, so they follow its light and dark; their text is set in the page's font, which has Hangul.
Equal input gives equal text. Whatever comes from a dataset is put in escaped, after matplotlib is done.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.reporting.recorded import TrendPoint, known, metric_states

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BINS = 20
MOST_POINTS = 2_000
MOST_TICKS = 5
TICK_TEXT = 12
# What matplotlib is told -> what the page takes for it.
INK, LINE, PASSED, FAILED, ACCENT = "#000101", "#000202", "#000303", "#000404", "#000505"
_COLOURS = {
    INK: "var(--muted)",
    LINE: "var(--line)",
    PASSED: "var(--pass)",
    FAILED: "var(--fail)",
    ACCENT: "var(--accent)",
}
_SIZES = ((1, 3.2), (5, 4.4), (25, 6.0), (125, 8.0))  # at least so many cases on one point -> diameter in points


def histogram(
    values: Floats, *, threshold: float, lower_is_better: bool, name: str, title: str, labels: Mapping[str, str]
) -> str:
    """How many cases have which score, failed ones apart, the threshold as a line; empty without a measured value."""
    measured = values[known(values)]
    if not measured.size:
        return ""
    figure, axes = _figure(3.6, 1.9, left=0.14, bottom=0.2, top=0.86)
    _bars(axes, measured, threshold, lower_is_better, (PASSED, FAILED, INK))
    return _drawn(figure, name, title, _named(axes, labels["score"], labels["cases"]))


def histogram_png(values: Floats, *, threshold: float, lower_is_better: bool, title: str) -> bytes:
    """How many cases have which score as a small PNG picture, failed ones in red; of a measured value at least."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 2.2), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="score", ylabel="cases")
    _bars(axes, values[known(values)], threshold, lower_is_better, ("tab:green", "tab:red", "grey"))
    return _png(figure)


def _bars(axes: Axes, measured: Floats, threshold: float, lower_is_better: bool, colours: tuple[str, str, str]) -> None:
    """Stacked bars of the passed and the failed, and the threshold; `colours` of the three."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    edges = np.linspace(0.0, 1.0, BINS + 1)
    state = metric_states(measured, threshold, lower_is_better)
    passed, _ = np.histogram(measured[state == 1.0], bins=edges)
    failed, _ = np.histogram(measured[state == 0.0], bins=edges)
    for counts, below, colour in ((passed, np.zeros_like(passed), colours[0]), (failed, passed, colours[1])):
        some = counts > 0
        axes.bar(edges[:-1][some], counts[some], 0.9 / BINS, bottom=below[some], align="edge", color=colour)
    axes.axvline(threshold, color=colours[2], linestyle="--", linewidth=1.2)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(0, max(1.0, 1.1 * float((passed + failed).max())))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")


def scatter(
    before: Floats, after: Floats, *, threshold: float, lower_is_better: bool, name: str, title: str, labels: Mapping[str, str]
) -> str:
    """Each pair's score in the baseline (across) and the candidate (up), newly failing ones as triangles, drawn last.

    Cases on one hundredth share a point, the larger the more; at most MOST_POINTS are drawn. Empty without a measured pair.
    """
    import numpy as np

    both = known(before) & known(after)
    old, new = before[both], after[both]
    if not old.size:
        return ""
    figure, axes = _figure(3.2, 2.9, left=0.15, bottom=0.15, top=0.9)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=0.8)
    axes.axhline(threshold, color=INK, linestyle="--", linewidth=0.8)
    failing = metric_states(old, threshold, lower_is_better) > metric_states(new, threshold, lower_is_better)
    highlighted = _points(old[failing], new[failing], MOST_POINTS)
    others = _points(old[~failing], new[~failing], MOST_POINTS - len(highlighted))
    for points, marker, colour in ((others, "o", ACCENT), (highlighted, "^", FAILED)):
        for least, most, size in zip(
            (least for least, _ in _SIZES),
            (*(least for least, _ in _SIZES[1:]), np.inf),
            (size for _, size in _SIZES),
            strict=True,
        ):
            these = points[(points[:, 2] >= least) & (points[:, 2] < most)]
            if these.size:
                axes.plot(
                    these[:, 0], these[:, 1], marker, color=colour, markersize=size, alpha=0.7, markeredgewidth=0, clip_on=False
                )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    return _drawn(figure, name, title, _named(axes, labels["baseline"], labels["candidate"]))


def scatter_png(before: Floats, after: Floats, *, threshold: float, title: str) -> bytes:
    """Each pair's score in the baseline (across) and the candidate (up) as a small PNG picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    points = _points(before, after, MOST_POINTS)
    axes.scatter(points[:, 0], points[:, 1], s=8 + 4 * points[:, 2], alpha=0.6)
    axes.plot([0, 1], [0, 1], linewidth=0.8, color="grey")
    axes.axhline(threshold, linewidth=0.8, linestyle="--", color="grey")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="baseline", ylabel="candidate", title=title)
    return _png(figure)


def map_png(points: Sequence[tuple[float, float]], assigned: Sequence[int], names: Sequence[str], reference: int) -> bytes:
    """A map of cases as a PNG picture: the first `reference` points as rings, the others filled, a colour for each cluster."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab10"]
    for number in range(len(names)):
        for filled in (False, True):
            members = [
                point for place, point in enumerate(points) if assigned[place] == number and (place >= reference) == filled
            ]
            if members:
                colour = colours(number % 10)
                label = f"cluster {number + 1}" if filled else None
                across, up = zip(*members, strict=True)
                axes.scatter(across, up, s=26, facecolors=[colour] if filled else "none", edgecolors=[colour], label=label)
    axes.set(xticks=[], yticks=[], title="questions: rings are the reference, dots this snapshot")
    axes.legend(fontsize=7, loc="best")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    FigureCanvasAgg(figure)  # it makes itself the figure's canvas
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def _points(old: Floats, new: Floats, most: int) -> Floats:
    """(x, y, how many cases) of the distinct points, to a hundredth; the fullest where there are more than `most`."""
    import numpy as np

    pairs, counts = np.unique(np.round(np.column_stack([old, new]), 2), axis=0, return_counts=True)
    points = np.column_stack([pairs, counts])
    return points[np.argsort(-counts, kind="stable")[: max(most, 0)]]


def trend(points: Sequence[TrendPoint], *, name: str, title: str, labels: Mapping[str, str]) -> str:
    """The pass rate of each run with the band of its interval; a run in which nothing was measured leaves a gap."""
    import numpy as np

    if not points:
        return ""
    figure, axes = _figure(5.4, 2.1, left=0.085, bottom=0.17, top=0.87)
    rates = np.array([100 * point.pass_rate if point.coverage else np.nan for point in points])
    bands = [point.interval if point.interval and point.coverage else (np.nan, np.nan) for point in points]
    low, high = 100 * np.array([band[0] for band in bands]), 100 * np.array([band[1] for band in bands])
    places = np.arange(len(points))
    axes.fill_between(places, low, high, color=ACCENT, alpha=0.18, linewidth=0)
    axes.vlines(places, low, high, color=ACCENT, alpha=0.45, linewidth=1)
    axes.plot(places, rates, "o-", color=ACCENT, markersize=4.5, linewidth=1.6, clip_on=False)
    for place in places[1:]:
        if points[place].judge != points[place - 1].judge:
            axes.axvline(place - 0.5, color=INK, linestyle=":", linewidth=1)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_ylim(0, 101)
    shown = sorted({round(float(place)) for place in np.linspace(0, len(points) - 1, min(MOST_TICKS, len(points)))})
    texts = _named(axes, "", f"{labels['pass_rate']} (%)")
    ticks = {f"Tx{place}xT": _cut(points[place].snapshot) for place in shown}
    axes.set_xticks(shown, list(ticks))
    return _drawn(figure, name, title, {**texts, **ticks})


def _cut(text: str) -> str:
    return text if len(text) <= TICK_TEXT else f"{text[: TICK_TEXT - 1]}…"


def _figure(width: float, height: float, *, left: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """A figure of inches with one pair of axes; the margins are shares of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="none")
    axes = figure.add_axes((left, bottom, 0.985 - left, top - bottom), facecolor="none")
    axes.tick_params(color=LINE, labelsize=8, length=3)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(LINE)
        spine.set_visible(side in {"left", "bottom"})
    return figure, axes


def _named(axes: Axes, across: str, up: str) -> dict[str, str]:
    """Name the axes with stand-ins; the names by stand-in."""
    axes.set_xlabel("TxXxT", fontsize=8, labelpad=2)
    axes.text(0.0, 1.03, "TxYxT", transform=axes.transAxes, fontsize=8, va="bottom", ha="left")
    return {"TxXxT": across, "TxYxT": up}


def _drawn(figure: Figure, name: str, title: str, texts: Mapping[str, str]) -> str:
    """The figure's `<svg>`, its ids begun with `name`, read out as `title`, the stand-ins replaced by `texts`."""
    import matplotlib
    from markupsafe import escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata=nothing, facecolor="none")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', rf'\1 role="img" aria-label="{escape("TxAxT")}"', text, count=1)
    text = re.sub(r' id="[a-z0-9.]+_[0-9]+"', "", text)  # of groups that nothing refers to
    text = re.sub(r'(id="|"#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r"#000[0-9a-f]{3}", lambda found: _COLOURS.get(found[0], found[0]), text)
    known_texts = {"TxAxT": title, **texts}
    return re.sub(r"Tx\w+?xT", lambda found: str(escape(known_texts[found[0]])), text).strip()
