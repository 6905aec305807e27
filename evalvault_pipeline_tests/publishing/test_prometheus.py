"""The exporter, scraped by a real Prometheus, and the rules and the dashboard that stand on it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.errors import InvalidSetting, ServiceUnavailable
from evalvault_pipeline.evaluate import evaluate_file, record_run
from evalvault_pipeline.publishing import prometheus
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.publishing.prometheus import registry, serve
from evalvault_pipeline.reporting.incidents import Board, Reported
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.secrets import Secret
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.conftest import PROJECT, a_secret
from evalvault_pipeline_tests.stack import free_port, wait_for

MONITORING = PROJECT / "deploy" / "monitoring"
DEMO = PROJECT / "data" / "datasets" / "insurance_qa_en"


def scored(settings: Settings, run_id: str = "run1", metrics: tuple[str, ...] = ("exact_match", "faithfulness")) -> None:
    """The English demo snapshot, with a metric that no judge measures."""
    file = sorted(DEMO.iterdir())[-1]
    with evaluate_file(file, settings=settings, metrics=metrics, run_id=run_id) as report:
        record_run(report, store_url=settings.score_store_url)


def samples(settings: Settings) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry(lambda: settings.score_store_url).collect()
        for sample in family.samples
    }


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_it_tells_the_newest_run_and_counts_all(settings: Settings) -> None:
    scored(settings, "run1")
    scored(settings, "run2")
    found = samples(settings)
    ((_, labels),) = [key for key in found if key[0] == "evalvault_pass_rate"] or [(None, None)]
    dataset = dict(labels or ())["dataset"]
    assert of(found, "evalvault_evaluations_total", dataset=dataset, metric="exact_match") == 2
    assert of(found, "evalvault_evaluation_duration_seconds_count", metric="exact_match") == 2
    assert of(found, "evalvault_coverage", dataset=dataset) == 0.5
    assert of(found, "evalvault_scores_total", dataset=dataset, outcome="computed") == 24
    assert of(found, "evalvault_scores_total", dataset=dataset, outcome="from_store") == 24
    assert of(found, "evalvault_scores_total", dataset=dataset, outcome="no_judge") == 48
    assert ("evalvault_metric_mean", (("dataset", dataset), ("metric", "faithfulness"))) not in found, "unmeasured is no zero"
    assert time.time() - of(found, "evalvault_last_success_timestamp_seconds", dataset=dataset) < 600
    assert of(found, "evalvault_up") == 1


def test_a_run_without_any_score_has_no_pass_rate(settings: Settings) -> None:
    scored(settings, metrics=("faithfulness",))
    found = samples(settings)
    assert not [key for key in found if key[0] == "evalvault_pass_rate"]
    assert [value for key, value in found.items() if key[0] == "evalvault_coverage"] == [0.0]


def test_calls_by_outcome_and_the_limit_while_a_run_is_alive(settings: Settings) -> None:
    with ScoreStore(settings.score_store_url) as store:
        store.note_calls("host:1:a", "ollama/gemma3:1b", {"answered": 3}, in_flight=1, limit=4)
        store.note_calls("host:1:a", "ollama/gemma3:1b", {"answered": 7, "timeout": 2}, in_flight=3, limit=4)
        store.note_calls("host:2:b", "ollama/gemma3:1b", {"answered": 1}, in_flight=1, limit=2)
    found = samples(settings)
    assert of(found, "evalvault_llm_calls_total", judge="ollama/gemma3:1b", outcome="answered") == 8
    assert of(found, "evalvault_llm_calls_total", judge="ollama/gemma3:1b", outcome="timeout") == 2
    assert of(found, "evalvault_llm_calls_in_flight_limit", judge="ollama/gemma3:1b") == 6


def test_the_alert_state_is_one_of_five(settings: Settings) -> None:
    def change(board: Board) -> list[Any]:
        values = {"pass_rate": 0.5, "low": 0.4, "high": 0.6, "coverage": 1.0, "threshold": 0.8, "min_coverage": 0.95}
        board.apply(Reported(id="1", dataset="qa", snapshot="w1", run_id="r", at=0.0, evidence="e", **values))
        return []

    with AlertBook(settings.score_store_url) as book:
        book.change(change)
    found = samples(settings)
    states = {dict(key[1])["state"]: value for key, value in found.items() if key[0] == "evalvault_alert_state"}
    assert states == {"ok": 0, "warning": 0, "firing": 1, "no_data": 0, "inconclusive": 0}


def test_the_labels_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MOST_LABELS", 3)
    with ScoreStore(settings.score_store_url) as store:
        for number in range(10):
            store.note_calls(f"host:{number}", f"judge{number}", {"answered": 1}, in_flight=0, limit=1)
    found = samples(settings)
    judges = {dict(labels)["judge"]: value for (name, labels), value in found.items() if name == "evalvault_llm_calls_total"}
    assert judges == {"judge0": 1, "judge1": 1, "judge2": 1, "other": 7}


def test_a_database_that_is_away_is_told_and_nothing_else_is(tmp_path: Path) -> None:
    found = list(registry(lambda: "postgresql://u:canary@127.0.0.1:9/x").collect())
    assert {family.name for family in found} == {"evalvault_build", "evalvault_up"}


class Served:
    def __init__(self, settings: Settings, api_key: str | Secret = "") -> None:
        self.port = free_port()
        key = a_secret(api_key, "EVALVAULT_API_KEY") if isinstance(api_key, str) else api_key
        self.server = serve(lambda: settings.score_store_url, host="127.0.0.1", port=self.port, api_key=key)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def open_server(settings: Settings) -> Iterator[Served]:
    scored(settings)
    served = Served(settings)
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_behind_a_key_nobody_reads_without_it(settings: Settings) -> None:
    served = Served(settings, api_key="a-key-of-more-than-24-characters")
    try:
        assert served.get("/metrics") == (401, '{"error":"Unauthorized"}')
        assert served.get("/metrics", **{"X-API-Key": "A-KEY-OF-MORE-THAN-24-CHARACTERS"})[0] == 401
        assert served.get("/metrics", **{"X-API-Key": ""})[0] == 401
        status, text = served.get("/metrics", **{"X-API-Key": "a-key-of-more-than-24-characters"})
        assert (status, "evalvault_up 1.0" in text) == (200, True)
        assert served.get("/healthz")[0] == 200
    finally:
        served.server.shutdown()
        served.server.server_close()


def test_a_key_that_is_rotated_counts_at_once_and_one_that_is_gone_opens_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("the-first-key-of-the-scraper")
    monkeypatch.setenv("EVALVAULT_API_KEY_FILE", str(file))
    key = Secret(name="EVALVAULT_API_KEY", sources=settings)
    served = Served(settings, key)
    try:
        assert served.get("/metrics", **{"X-API-Key": "the-first-key-of-the-scraper"})[0] == 200
        file.write_text("the-second-key-of-the-scraper")
        assert served.get("/metrics", **{"X-API-Key": "the-first-key-of-the-scraper"})[0] == 401
        assert served.get("/metrics", **{"X-API-Key": "the-second-key-of-the-scraper"})[0] == 200
        file.write_text("")
        assert served.get("/metrics", **{"X-API-Key": ""})[0] == 401
        file.unlink()
        assert served.get("/metrics", **{"X-API-Key": ""}) == (503, '{"error":"the key cannot be read"}')
    finally:
        served.server.shutdown()
        served.server.server_close()


@pytest.mark.parametrize("key", ["", "short"])
def test_without_a_key_of_24_characters_only_this_machine_is_served(settings: Settings, key: str) -> None:
    with pytest.raises(InvalidSetting, match="EVALVAULT_API_KEY"):
        serve(lambda: settings.score_store_url, host="0.0.0.0", port=free_port(), api_key=a_secret(key, "EVALVAULT_API_KEY"))


def test_a_port_that_is_taken_is_named(open_server: Served, settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match=str(open_server.port)):
        serve(
            lambda: settings.score_store_url, host="127.0.0.1", port=open_server.port, api_key=a_secret("", "EVALVAULT_API_KEY")
        )


def test_a_real_prometheus_scrapes_it_and_evaluates_the_rules(open_server: Served, tmp_path: Path) -> None:
    if not shutil.which("prometheus"):
        pytest.skip("Prometheus is not installed (Debian: apt-get install prometheus)")
    shutil.copy(MONITORING / "rules.yaml", tmp_path)
    text = (MONITORING / "prometheus.yaml").read_text(encoding="utf-8")
    text = text.replace("30s", "1s").replace("127.0.0.1:9464", f"127.0.0.1:{open_server.port}")
    (tmp_path / "prometheus.yaml").write_text(text, encoding="utf-8")
    port = free_port()
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yaml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(query: str) -> list[Any]:
        try:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                found: list[Any] = json.loads(answer.read())["data"]["result"]
                return found
        except OSError:
            return []

    try:
        wait_for(lambda: ask("evalvault_up"), seconds=60)
        rate = wait_for(lambda: ask("evalvault_pass_rate_bound"), seconds=20)
        assert {item["metric"]["bound"] for item in rate} == {"low", "high"}
        alerts = wait_for(lambda: ask('ALERTS{alertname="EvalVaultCoverageLow"}'), seconds=30)
        assert alerts[0]["metric"]["severity"] == "warning", "faithfulness has no judge here: half is unmeasured"
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_the_rules_are_what_prometheus_takes() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for kind, file in (("rules", "rules.yaml"), ("config", "prometheus.yaml")):
        done = subprocess.run(["promtool", "check", kind, MONITORING / file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_rules_and_the_dashboard_exists(settings: Settings) -> None:
    scored(settings)
    with ScoreStore(settings.score_store_url) as store:
        store.note_calls("host:1", "judge", {"answered": 1}, in_flight=0, limit=1)
    with AlertBook(settings.score_store_url) as book:
        book.board()
    families = list(registry(lambda: settings.score_store_url).collect())
    known = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    used = set()
    for file in ("rules.yaml", "grafana-dashboard.json"):
        used |= set(re.findall(r"\bevalvault_[a-z_]+", (MONITORING / file).read_text(encoding="utf-8")))
    assert used - known == set()
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert len(dashboard["panels"]) >= 10
    assert all(panel["targets"] for panel in dashboard["panels"])
