"""Uploads to a real Phoenix server, and what tracing costs a run: `python -m benchmarks phoenix` (after `make setup-phoenix`).

The bare loop posts the same runs and evaluations by one httpx client, without looking what is there, and keeps nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.judges import server
from benchmarks.measure import measured, table
from benchmarks.synthetic import write_cases
from evalvault_pipeline_tests.phoenix_server import PYTHON, RealPhoenix

METRICS = "chrf,number_consistency,exact_match"
HANGS = "import socket,time; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1],flush=True); time.sleep(9999)"


def run(folder: Path, *, cases: int = 1_000) -> str:
    """Measure and return the section as Markdown."""
    if not PYTHON.exists():
        return "## Phoenix\n\nNot measured: there is no server here (make setup-phoenix).\n"
    file = folder / "cases.jsonl"
    write_cases(file, cases)
    with RealPhoenix(folder / "phoenix") as phoenix:
        return "\n\n".join(
            [
                f"## Phoenix: {cases:,} cases, three metrics, a server on the same machine (SQLite)",
                _uploads(folder, file, cases, phoenix),
                "### Tracing every case of a judged run, 64 in flight",
                _tracing(folder, file, phoenix),
            ]
        )


def _uploads(folder: Path, file: Path, cases: int, phoenix: RealPhoenix) -> str:
    rows = []

    def row(what: str, work: Callable[[], Any]) -> None:
        before, began = phoenix.cpu_seconds(), time.monotonic()
        work()
        wall, cpu = time.monotonic() - began, phoenix.cpu_seconds() - before
        rows.append([what, f"{wall:.1f} s", f"{cpu:.1f} s", f"{cpu / wall:.0%}"])

    def ours(*options: str, **environment: str) -> None:
        command = [
            sys.executable,
            "-c",
            "from evalvault_pipeline.cli import main; main()",
            "run",
            str(file),
            "-m",
            METRICS,
            *options,
        ]
        _run(folder, command, **environment)

    scoring = time.monotonic()
    ours("--tracker", "none", "--cases", "0")
    rows.append(["`evalvault run`, not sent", f"{time.monotonic() - scoring:.1f} s", "", ""])
    sent = {"PHOENIX_ENDPOINT": phoenix.url}
    row("`evalvault run`, sent the first time", lambda: ours("--tracker", "phoenix", "--run-id", "one", "--cases", "0", **sent))
    row(
        "the same run again: nothing is missing",
        lambda: ours("--tracker", "phoenix", "--run-id", "one", "--cases", "0", **sent),
    )
    row("another run of the same cases", lambda: ours("--tracker", "phoenix", "--run-id", "two", "--cases", "0", **sent))
    row("bare loop, httpx", lambda: _bare(phoenix, cases))
    return table(["what", "wall", "CPU of the server", "its share of the wall"], rows)


def _bare(phoenix: RealPhoenix, cases: int) -> None:
    dataset = next(item for item in phoenix.get("/datasets")["data"] if item["example_count"] == cases)
    now = datetime.now(UTC).isoformat()
    times = {"start_time": now, "end_time": now}
    with httpx.Client(base_url=f"{phoenix.url}/v1", timeout=60.0) as http:
        made = http.post(f"/datasets/{dataset['id']}/experiments", json={"name": "bare"}).json()["data"]
        examples = http.get(f"/datasets/{dataset['id']}/examples").json()["data"]["examples"]
        for example in examples:
            told = {"dataset_example_id": example["node_id"], "output": {"answer": "x"}, "repetition_number": 1, **times}
            run = http.post(f"/experiments/{made['id']}/runs", json=told).json()["data"]["id"]
            for metric in METRICS.split(","):
                result = {"score": 0.5, "label": "pass"}
                body = {"experiment_run_id": run, "name": metric, "annotator_kind": "CODE", "result": result, **times}
                http.post("/experiment_evaluations", json=body)


def _tracing(folder: Path, file: Path, phoenix: RealPhoenix) -> str:
    rows = []
    hanging = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True)
    assert hanging.stdout
    places = (
        ("not traced", phoenix.url, "0.0"),
        ("every case", phoenix.url, "1.0"),
        ("one case in five", phoenix.url, "0.2"),
        ("every case, Phoenix not there", "http://127.0.0.1:9", "1.0"),
        ("every case, Phoenix hangs", f"http://127.0.0.1:{int(hanging.stdout.readline())}", "1.0"),
    )
    try:
        for number, (what, endpoint, rate) in enumerate(places):
            with server(latency=0.2) as judge:
                took = measured(
                    [sys.executable, "-c", TRACED, str(file)],
                    cwd=Path(__file__).resolve().parents[1],
                    environment={
                        "PHOENIX_ENDPOINT": endpoint,
                        "PHOENIX_SAMPLE_RATE": rate,
                        "EVALVAULT_PROFILE": "openai",
                        "OPENAI_API_KEY": "bench",
                        "OPENAI_BASE_URL": f"{judge}/v1",
                        "EVALVAULT_MAX_CONCURRENCY": "64",
                        "EVALVAULT_RESULTS_DIR": str(folder / f"traced-{number}"),
                        "EVALVAULT_TOKENIZER": "ngram",
                    },
                )
            told = json.loads(took.output.splitlines()[-1])
            rows.append(
                [
                    what,
                    f"{told['scoring']:.1f} s",
                    f"{told['ending']:.1f} s",
                    f"{told['cpu']:.1f} s",
                    f"{told['traces'].get('exported', 0):,}",
                    f"{told['traces'].get('dropped', 0):,}",
                ]
            )
    finally:
        hanging.kill()
        hanging.wait()
    head = ["traced", "scoring", "sending the rest", "CPU of the process", "spans delivered", "spans dropped"]
    return table(head, rows)


TRACED = """
import json, os, sys, time
from pathlib import Path
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline.tracking import judge_tracer, phoenix_access
import ragas.metrics.collections
settings = load_settings()
tracer = judge_tracer(phoenix_access(settings), run_id="bench", dataset="bench")
used, began = sum(os.times()[:2]), time.monotonic()
with evaluate_file(Path(sys.argv[1]), settings=settings, metrics=["faithfulness", "answer_relevancy"], tracer=tracer) as report:
    assert report.coverage == 1.0
    scored = time.monotonic()
    traces = tracer.finish() if tracer else {}
print(json.dumps({
    "scoring": scored - began, "ending": time.monotonic() - scored, "cpu": sum(os.times()[:2]) - used, "traces": traces,
}))
"""


def _run(folder: Path, command: list[str], **environment: str) -> None:
    settled = {"EVALVAULT_TOKENIZER": "ngram", "EVALVAULT_RESULTS_DIR": str(folder / "results"), **environment}
    subprocess.run(command, cwd=folder, env={**os.environ, **settled}, check=True, capture_output=True)
