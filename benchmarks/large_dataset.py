"""100,000 cases in a JSONL file of 300 MB: speed and memory of `evalvault run`, beside a bare loop over the same metrics."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.measure import Took, measured, table
from benchmarks.synthetic import write_cases
from evalvault_pipeline_tests.stack import UserProject

METRICS = "lexical_support,chrf"
# The same two metrics over the same cases, with nothing kept: what the computing alone takes.
BARE_LOOP = """
import json, sys
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.korean import NgramTokenizer
from evalvault_pipeline.scoring.lexical_metrics import chrf, lexical_support
tokenizer, total = NgramTokenizer(), 0.0
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    case = EvalCase(case_id=row["id"], question=row["question"], answer=row["answer"],
                    contexts=tuple(row["contexts"]), ground_truth=row["ground_truth"])
    total += lexical_support(case, tokenizer).value + chrf(case, tokenizer).value
print(total)
"""
# chrF alone, by the field's reference implementation.
SACREBLEU = """
import json, sys
from sacrebleu.metrics import CHRF
chrf, total = CHRF(word_order=0), 0.0
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    total += chrf.sentence_score(row["answer"], [row["ground_truth"]]).score
print(total)
"""


def run(folder: Path, *, cases: int) -> str:
    """Measure and return the section as Markdown."""
    file = folder / "cases.jsonl"
    write_cases(file, cases)
    environment = {
        "EVALVAULT_TOKENIZER": "ngram",
        "EVALVAULT_RESULTS_DIR": str(folder / "results"),
        "EVALVAULT_PROFILE": "offline",
    }
    command = [
        sys.executable,
        "-m",
        "evalvault_pipeline.cli",
        "run",
        str(file),
        "-m",
        METRICS,
        "-o",
        "results.json",
        "--cases",
        "0",
    ]

    def took(*options: str) -> Took:
        return measured([*command, *options], cwd=folder, environment=environment)

    def forget() -> None:
        for left in (folder / "results").glob("scores.sqlite*"):
            left.unlink()

    rows = [("`evalvault run --parallel`", took("--parallel")), ("the same again: nothing changed", took("--parallel"))]
    forget()
    rows.append(("`evalvault run --no-parallel`", took("--no-parallel")))
    rows.append(("bare loop over the same two metrics, nothing kept", _bare(BARE_LOOP, file, folder)))
    rows.append(("sacreBLEU, chrF alone", _bare(SACREBLEU, file, folder)))
    size = file.stat().st_size / 1e6
    rows.append(("`evalvault backfill`: the same through Dagster, 100 cases a batch", _through_dagster(file, folder)))
    lines = [[name, f"{t.wall:.0f} s", f"{t.cpu:.0f} s", f"{cases / t.wall:,.0f}", f"{t.peak_mb:.0f} MB"] for name, t in rows]
    said = re.findall(r"nothing computed: all ([\d,]+) scores", rows[1][1].output)
    return "\n".join(
        [
            f"## {cases:,} cases, {size:.0f} MB of JSONL, metrics {METRICS}, tokenizer ngram",
            "",
            table(["", "wall", "processor", "cases per second", "peak memory, all processes"], lines),
            "",
            f"The second run said: nothing computed, all {said[0] if said else '?'} scores were in the score store.",
        ]
    )


def _through_dagster(file: Path, folder: Path) -> Took:
    project = UserProject(folder / "project", EVALVAULT_PROFILE="offline")
    data = project.folder / "data"
    catalog = f'[datasets.large]\nfiles = "datasets/large/*"\nlanguage = "ko"\nmetrics = {METRICS.split(",")}\n'
    (data / "catalog.toml").write_text(catalog, encoding="utf-8")
    (data / "datasets" / "large").mkdir()
    file.rename(data / "datasets" / "large" / "w1.jsonl")
    command = project.command("evalvault", "backfill", "large", "--cases", "0")
    return measured(command, cwd=project.folder, environment=project.environment)


def _bare(code: str, file: Path, folder: Path) -> Took:
    return measured([sys.executable, "-c", code, str(file)], cwd=folder, environment={})
