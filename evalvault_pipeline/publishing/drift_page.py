"""The drift report as files: drift.json, drift.png and drift.html, the page with the map in it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from pathlib import Path

from evalvault_pipeline.errors import UnwritableFile
from evalvault_pipeline.publishing import charts
from evalvault_pipeline.publishing.results_file import replacing
from evalvault_pipeline.reporting.drift import Drift
from evalvault_pipeline.reporting.statistics import percent

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans KR", sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c1e21; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
.alarm { border-left: 4px solid #c62828; padding-left: .8rem; } .quiet { border-left: 4px solid #2e7d32; padding-left: .8rem; }
@media (prefers-color-scheme: dark) { body { color: #e4e6e8; background: #17191c; } th, td { border-color: #3a3d42; } }
"""


def write_drift(folder: Path, drift: Drift) -> dict[str, Path]:
    """Write the three files into a snapshot's folder; name -> file. Raises UnwritableFile."""
    files = {name: folder / f"drift.{name}" for name in ("html", "json", "png")}
    picture = drift_map(drift)
    with replacing(files["html"]) as page:
        page.write(_page(drift, picture))
    with replacing(files["json"]) as file:
        json.dump(drift_content(drift), file, ensure_ascii=False, indent=1)
    try:
        temporary = files["png"].with_name(".drift.png.tmp")
        temporary.write_bytes(picture)
        temporary.replace(files["png"])
    except OSError as error:
        raise UnwritableFile(f"{files['png']} cannot be written: {error.strerror or error}. Make room there.") from None
    return files


def drift_map(drift: Drift) -> bytes:
    """The map of the questions, as PNG."""
    reference = len(drift.reference.ids) if drift.reference else 0
    return charts.map_png(drift.points, drift.assigned, [cluster.name for cluster in drift.clusters], reference)


def drift_content(drift: Drift) -> dict[str, object]:
    """drift.json: every figure, and the cluster of every case of the snapshot."""
    return {
        "snapshot": drift.current.snapshot,
        "reference": drift.reference.snapshot if drift.reference else None,
        "embedder": drift.embedder,
        "resembles": drift.resembles,
        "sentence": drift.sentence,
        "notes": list(drift.notes),
        "shifts": [vars(shift) for shift in drift.shifts],
        "clusters": [{**vars(cluster), "terms": list(cluster.terms), "name": cluster.name} for cluster in drift.clusters],
        "labels": drift.labels,
    }


def drift_tables(drift: Drift) -> str:
    """The figures as Markdown, for the Dagster UI."""
    return "\n\n".join(
        "\n".join(
            [
                f"| {' | '.join(head)} |",
                f"|{'---|' * len(head)}",
                *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows),
            ]
        )
        for head, rows in _tables(drift)
    )


def _tables(drift: Drift) -> list[tuple[list[str], list[list[str]]]]:
    shifts = [
        [shift.name, shift.statistic, _number(shift.before), _number(shift.after), _number(shift.value), _number(shift.p_value)]
        for shift in drift.shifts
    ]
    clusters = [
        [cluster.name, str(cluster.before), str(cluster.after), _rate(cluster.pass_rate_before), _rate(cluster.pass_rate_after)]
        for cluster in drift.clusters
    ]
    reference = drift.reference.snapshot if drift.reference else "reference"
    found = [(["topic", reference, drift.current.snapshot, "passed before", "passed now"], clusters)]
    return [(["what", "statistic", reference, drift.current.snapshot, "shift", "p"], shifts), *found] if shifts else found


def _page(drift: Drift, picture: bytes) -> str:
    title = html.escape(f"Drift of {drift.current.snapshot}")
    kind = "quiet" if drift.resembles else "alarm"
    tables = "".join(_table(head, rows) for head, rows in _tables(drift))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in drift.notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="{kind}">{html.escape(drift.sentence[:1].upper() + drift.sentence[1:])}.</p>{notes}{tables}'
        f'<img alt="map of the questions" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"<p>Vectors: {html.escape(drift.embedder)}. Up to 0.1 a PSI counts as stable, above 0.25 as shifted; p is the chance "
        "of so much where nothing shifted.</p></body></html>\n"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rate(share: float | None) -> str:
    return "unmeasured" if share is None else percent(share)
