"""A project with a judge and datasets of any size, for the tests that kill and count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judge_runs import KEY, cases_of
from evalvault_pipeline_tests.stack import UserProject

CALLS_A_CASE = 2  # of faithfulness


class JudgedProject(UserProject):
    """Its datasets are judged with faithfulness, `in_flight` calls at once in each step."""

    def __init__(
        self,
        folder: Path,
        server: OpenAIServer | str,
        *,
        datasets: Iterable[str] = ("judged",),
        in_flight: int = 4,
        **environment: str,
    ) -> None:
        super().__init__(
            folder,
            EVALVAULT_PROFILE="openai",
            OPENAI_API_KEY=KEY,
            OPENAI_BASE_URL=server if isinstance(server, str) else server.base_url,
            EVALVAULT_MAX_CONCURRENCY=str(in_flight),
            **environment,
        )
        tables = [
            f'[datasets.{name}]\nfiles = "datasets/{name}/*"\nlanguage = "en"\nmetrics = ["faithfulness"]\n'
            f"batch_size = 5\nmin_pass_rate = 0.0\n"
            for name in datasets
        ]
        (folder / "data" / "catalog.toml").write_text("\n".join(tables), encoding="utf-8")

    def write(self, dataset: str, snapshot: str, cases: int) -> None:
        """Cases of which no other dataset or snapshot has one, nor a question to the judge that is the same."""
        rows = [
            {
                "id": case.case_id,
                "question": f"{dataset} {snapshot}: {case.question}",
                "answer": case.answer,
                "contexts": [f"{dataset} {snapshot}: {context}" for context in case.contexts],
                "ground_truth": case.ground_truth,
            }
            for case in cases_of(cases)
        ]
        file = self.folder / "data" / "datasets" / dataset / f"{snapshot}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"test_cases": rows}), encoding="utf-8")

    def materialize(self, dataset: str, snapshot: str, *, batches: int) -> list[str]:
        """The command that scores a snapshot and reports on it as a Dagster run, in the foreground."""
        assets = ",".join(f"key:{dataset}/{noun}" for noun in ("cases", "scores", "report"))
        chosen = ["--select", assets, "--partition-range", f"{snapshot}/0001...{snapshot}/{batches:04d}"]
        return ["dagster", "asset", "materialize", "-m", "evalvault_pipeline.definitions", *chosen]
