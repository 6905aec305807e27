"""A verdict as one HTML page: the run, its comparison, its history and its cases, in a file that needs nothing else.

The page is `templates/report.html.j2`, its words are `templates/labels.py`, its figures `charts.py`, its cases
`templates/cases.py`. All it shows of datasets is escaped, and its content security policy lets nothing load and no other script
run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.publishing import charts
from evalvault_pipeline.publishing.markdown import number
from evalvault_pipeline.publishing.results_file import replacing
from evalvault_pipeline.publishing.templates.cases import anchor, case_views, chosen_cases, passes_at
from evalvault_pipeline.publishing.templates.labels import LABELS
from evalvault_pipeline.reporting.comparison import CHANGES_IN_FULL, SLICE_MINIMUM, Comparison
from evalvault_pipeline.reporting.gate import Rule, Verdict
from evalvault_pipeline.reporting.recorded import RecordedRun, TrendPoint, known, metric_states
from evalvault_pipeline.reporting.statistics import percent

if TYPE_CHECKING:
    import jinja2

_TRACED = (
    "run_id",
    "dataset_name",
    "snapshot",
    "dataset_version",
    "dataset_digest",
    "started_at",
    "finished_at",
    "profile",
    "tokenizer",
)


def write_html(path: Path, verdict: Verdict, *, trend: Sequence[TrendPoint] = (), language: str = "en") -> None:
    """Write the report; `trend` holds the dataset's last runs, the oldest first.

    Raises InvalidSetting for a language that the report does not speak, UnwritableFile where it cannot be written.
    """
    if language not in LABELS:
        raise InvalidSetting(f"the report is written in {' or '.join(LABELS)}, not in `{language}`")
    page = _template().render(_page(verdict, trend, language))
    with replacing(path) as file:
        file.write(page)


@cache
def _template() -> jinja2.Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("evalvault_pipeline.publishing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None, "it was given"
    texts = {name: environment.loader.get_source(environment, f"report.{name}")[0] for name in ("css", "js")}
    digest = base64.b64encode(hashlib.sha256(texts["js"].encode()).digest()).decode()
    ours = {name: Markup(text) for name, text in texts.items()}  # noqa: S704  files of this package
    environment.globals |= {"style": ours["css"], "script": ours["js"], "script_digest": digest}
    environment.globals |= {"percent": percent, "number": number}
    environment.filters |= {
        "percent": percent,
        "number": number,
        "share": _share,
        "signed": _signed,
        "moment": _moment,
        "p_value": _p_value,
    }
    return environment.get_template("report.html.j2")


def _page(verdict: Verdict, trend: Sequence[TrendPoint], language: str) -> dict[str, Any]:
    run, comparison, labels = verdict.run, verdict.comparison, LABELS[language]
    rate = verdict.finding(Rule.PASS_RATE)
    chosen, left_out = chosen_cases(run, comparison)
    trend_title = labels["trend_of"].format(count=len(trend))
    metrics = [_metric(run, place, labels) for place in range(len(run.metrics))]
    return {
        "language": language,
        "t": labels,
        "verdict": verdict,
        "run": run,
        "header": run.header,
        "comparison": comparison,
        "rate": rate.figures if rate else {"value": None, "low": None, "high": None},
        "bounds": (run.passed / len(run.case_ids), (run.passed + run.unmeasured) / len(run.case_ids)),
        "metrics": metrics,
        "scatters": _scatters(comparison, labels) if comparison else [],
        "slice_minimum": SLICE_MINIMUM,
        "unpaired": _unpaired(comparison) if comparison else {},
        "changes": _changes(comparison) if comparison else {},
        "changes_shown": CHANGES_IN_FULL,
        "trend": trend,
        "trend_metrics": list(dict.fromkeys(metric for point in trend for metric in point.means)),
        "trend_chart": _safe(charts.trend(trend, name="trend", title=trend_title, labels=labels)),
        "duration": _duration(run.header.get("duration_seconds"), labels),
        "usages": [*((one["name"], one["usage"]) for one in metrics), (labels["all_metrics"], run.header.get("usage") or {})],
        "cache": run.header.get("cache") or {},
        "dollars": _dollars,
        "runs": [(labels["this_run"], run), *([(labels["the_baseline"], comparison.baseline)] if comparison else [])],
        "cases": case_views(run, comparison, chosen, labels),
        "anchors": {run.case_ids[index]: anchor(index) for _, index in chosen},
        "left_out": left_out,
        "left_out_text": ", ".join(f"{labels[kind]} {count:,}" for kind, count in left_out.items()),
        "traced": _TRACED,
        "masked": _masked,
    }


def _masked(pii: Any) -> str:
    """What the results say of personal data: the policy, and each label with how often it was set."""
    if not isinstance(pii, dict) or not isinstance(masked := pii.get("masked"), dict):
        return "–"
    return f"{pii.get('policy')}: {', '.join(f'{count} {label}' for label, count in masked.items()) or 0}"


def _safe(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704  charts escapes what is not its own


def _metric(run: RecordedRun, place: int, labels: Mapping[str, str]) -> dict[str, Any]:
    import numpy as np

    name = run.metrics[place]
    values, summary = run.values[name], run.header["metric_summaries"][name]
    measured = values[known(values)]
    state = metric_states(values, run.threshold(name), run.lower_is_better(name))
    counts = {
        "passed": int((state == 1.0).sum()),
        "failed": int((state == 0.0).sum()),
        "unmeasured": int(np.isnan(state).sum()),
    }
    chart = charts.histogram(
        values,
        threshold=run.threshold(name),
        lower_is_better=run.lower_is_better(name),
        name=f"h{place}",
        title=labels["distribution_of"].format(metric=name, **counts),
        labels=labels,
    )
    return {
        "name": name,
        **counts,
        "mean": float(measured.mean()) if measured.size else None,
        "interval": summary.get("mean_interval") if measured.size else None,
        "median": float(np.median(measured)) if measured.size else None,
        "threshold": passes_at(run, name),
        "reasons": summary.get("unmeasured") or {},
        "noise": summary.get("noise"),
        "usage": summary.get("usage") or {},
        "version": run.version(name),
        "judges": sorted(judge for judge in run.judges.get(name, ()) if judge),
        "chart": _safe(chart),
    }


def _scatters(comparison: Comparison, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    old, new = comparison.baseline, comparison.candidate
    places = {name: index for index, name in enumerate(old.case_ids)}
    left_out = {*comparison.only_in_candidate, *comparison.changed_inputs}
    after = [index for index, name in enumerate(new.case_ids) if name not in left_out]
    before = [places[new.case_ids[index]] for index in after]
    found = []
    for place, metric in enumerate(comparison.metrics):
        title = labels["scatter_of"].format(metric=metric.name, pairs=metric.pairs, failing=metric.newly_failing)
        chart = charts.scatter(
            old.values[metric.name][before],
            new.values[metric.name][after],
            threshold=new.threshold(metric.name),
            lower_is_better=new.lower_is_better(metric.name),
            name=f"s{place}",
            title=title,
            labels=labels,
        )
        found.append({"name": metric.name, "chart": _safe(chart), "difference": metric})
    return found


def _unpaired(comparison: Comparison) -> dict[str, tuple[Sequence[str], int]]:
    """What kind -> (the first of the ids, how many more there are)."""
    kinds = ("only_in_baseline", "only_in_candidate", "changed_inputs")
    found = {kind: getattr(comparison, kind) for kind in kinds}
    return {kind: (names[:CHANGES_IN_FULL], max(len(names) - CHANGES_IN_FULL, 0)) for kind, names in found.items() if names}


def _changes(comparison: Comparison) -> dict[str, tuple[Sequence[str], Sequence[Any]]]:
    return {
        "newly_failing": (comparison.newly_failing, comparison.newly_failing_cases),
        "newly_passing": (comparison.newly_passing, comparison.newly_passing_cases),
    }


def _dollars(cost: float | None, tokens: int | None, labels: Mapping[str, str]) -> str:
    """None is a price that nobody knows, which is not 0; without tokens nothing was asked, unless even these are unknown."""
    if tokens is None:
        return "–"
    if not tokens:
        return labels["no_judge"]
    return labels["unknown_price"] if cost is None else f"${cost:,.4f}"


def _duration(seconds: float | None, labels: Mapping[str, str]) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} {labels['seconds']}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} {labels['minutes']} {rest} {labels['seconds']}"
    return f"{minutes // 60} {labels['hours']} {minutes % 60} {labels['minutes']}"


def _share(figure: float | None) -> str:
    return "–" if figure is None else percent(figure)


def _signed(figure: float | None, places: int = 3, scale: float = 1.0) -> str:
    return "–" if figure is None else f"{scale * figure:+.{places}f}"


def _moment(text: Any) -> str:
    """An ISO time to the minute."""
    return str(text)[:16].replace("T", " ")


def _p_value(figure: float) -> str:
    return "< 0.0001" if figure < 0.0001 else f"{figure:.3g}"
