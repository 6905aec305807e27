"""The exporter, scraped by a real Prometheus, and the rules and the dashboard that stand on it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.errors import InvalidSetting, ServiceUnavailable
from evalvault_pipeline.evaluate import evaluate_file, record_run
from evalvault_pipeline.publishing import prometheus, run_history
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.publishing.prometheus import Exporter, registry, serve
from evalvault_pipeline.reporting.incidents import Board, Reported
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.secrets import Secret
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.conftest import PROJECT, a_secret
from evalvault_pipeline_tests.stack import free_port, wait_for

MONITORING = PROJECT / "deploy" / "monitoring"
CATALOG = PROJECT / "data" / "catalog.toml"
DEMO = PROJECT / "data" / "datasets" / "insurance_qa_en"
EN = "insurance_qa_en"


def scored(settings: Settings, run_id: str = "run1", metrics: tuple[str, ...] = ("exact_match", "faithfulness")) -> None:
    """The English demo snapshot, with a metric that no judge measures."""
    file = sorted(DEMO.iterdir())[-1]
    spec = load_catalog(CATALOG).dataset(EN)
    with evaluate_file(file, settings=settings, spec=spec, metrics=metrics, run_id=run_id) as report:
        record_run(report, store_url=settings.score_store_url)


def recorded(settings: Settings, **changes: Any) -> None:
    """A run that stands in the store as `scored` left it there, with these changes."""
    runs = run_history.runs
    with sa.create_engine(settings.score_store_url).begin() as connection:
        header = json.loads(connection.execute(sa.select(runs.c.header).where(runs.c.run_id == "run1")).scalar_one()) | changes
        row = {"run_id": header["run_id"], "snapshot": header["snapshot"], "dataset": header["dataset_name"]}
        row |= {"finished_at": header["finished_at"], "header": json.dumps(header), "chunks": ""}
        connection.execute(sa.insert(runs), row)


def told(exporter: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [sample for family in exporter.collect() for sample in family.samples]
    values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}
    assert len(values) == len(found), "each series once"
    return values


def samples(settings: Settings) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return told(Exporter(lambda: settings.score_store_url, CATALOG))


def catalog_of(folder: Path, *names: str) -> Path:
    """A catalog of these datasets, without files."""
    file = folder / "catalog.toml"
    file.write_text("".join(f'[datasets.{name}]\nfiles = "{name}/*"\nmetrics = ["chrf"]\n' for name in names), encoding="utf-8")
    return file


def with_pass_rate(found: dict[Any, float]) -> set[str]:
    return {dict(labels)["dataset"] for name, labels in found if name == "evalvault_pass_rate"}


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_it_tells_the_newest_run_and_counts_all(settings: Settings) -> None:
    scored(settings, "run1")
    scored(settings, "run2")
    found = samples(settings)
    dataset = EN
    assert with_pass_rate(found) == {dataset}
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
        for dataset in (EN, "removed"):
            board.apply(Reported(id=dataset, dataset=dataset, snapshot="w1", run_id="r", at=0.0, evidence="e", **values))
        board.check_backup(0.0, overdue=True, age_hours=None)
        return []

    with AlertBook(settings.score_store_url) as book:
        book.change(change)
    found = samples(settings)
    shown = [(dict(key[1]), value) for key, value in found.items() if key[0] == "evalvault_alert_state"]
    assert {labels["dataset"] for labels, _ in shown} == {EN, "backups"}, "a dataset that was removed is in no state"
    states = {labels["state"]: value for labels, value in shown if labels["dataset"] == EN}
    assert states == {"ok": 0, "warning": 0, "firing": 1, "no_data": 0, "inconclusive": 0}


def test_what_somebody_ran_beside_the_catalog_is_counted_and_nothing_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "MOST_LABELS", 3)
    scored(settings)
    for number in range(5):
        recorded(settings, run_id=f"mine{number}", dataset_name=f"myfile{number}", pass_rate=0.0)
    recorded(settings, run_id="ko", dataset_name="insurance_qa", snapshot="2026w46")
    found = samples(settings)
    assert with_pass_rate(found) == {"insurance_qa", EN}
    assert {dict(labels).get("dataset") for _, labels in found} == {None, "other", "insurance_qa", EN}
    assert of(found, "evalvault_evaluations_total", dataset="other", metric="exact_match") == 5


def test_more_datasets_than_labels_share_their_counters_and_no_gauge(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prometheus, "MOST_LABELS", 2)
    scored(settings)
    for name in ("a", "b", "c", "d"):
        recorded(settings, run_id=name, dataset_name=name)
    found = told(Exporter(lambda: settings.score_store_url, catalog_of(tmp_path, "a", "b", "c", "d")))
    assert len(with_pass_rate(found)) == 2
    assert of(found, "evalvault_evaluations_total", dataset="other", metric="exact_match") == 3


def test_the_catalog_is_read_at_each_scrape_and_the_last_one_kept_where_it_cannot_be(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored(settings)
    recorded(settings, run_id="mine", dataset_name="mine", snapshot="w1")
    exporter = Exporter(lambda: settings.score_store_url, catalog := catalog_of(tmp_path, EN))
    assert with_pass_rate(told(exporter)) == {EN}
    catalog_of(tmp_path, "mine")
    assert with_pass_rate(told(exporter)) == {"mine"}, "removed and added"
    catalog.write_text("[datasets", encoding="utf-8")
    assert with_pass_rate(told(exporter)) == {"mine"}
    catalog.unlink()
    assert with_pass_rate(told(exporter)) == with_pass_rate(told(exporter)) == {"mine"}
    assert len([record for record in caplog.records if "before" in record.message]) == 2, "each fault is told once"
    catalog_of(tmp_path, EN, "mine")
    assert with_pass_rate(told(exporter)) == {EN, "mine"}


@pytest.mark.parametrize("files", ["there", "gone"])
def test_a_backfill_of_a_bad_old_snapshot_does_not_set_the_pass_rate(settings: Settings, tmp_path: Path, files: str) -> None:
    scored(settings, metrics=("lexical_support",))
    catalog = CATALOG if files == "there" else catalog_of(tmp_path, EN)
    exporter = Exporter(lambda: settings.score_store_url, catalog)
    good = of(told(exporter), "evalvault_pass_rate", dataset=EN)
    later = datetime.now(UTC).isoformat(timespec="milliseconds")
    recorded(settings, run_id="old", snapshot="2026w01", pass_rate=0.0, finished_at=later)
    recorded(settings, run_id="part", pass_rate=0.0, finished_at=later, missing_batches=["2026w47/0001"])
    if files == "there":
        recorded(settings, run_id="try", snapshot="try", pass_rate=0.0, finished_at=later)  # a copy that lies elsewhere
    assert good > 0.0
    assert of(told(exporter), "evalvault_pass_rate", dataset=EN) == good
    assert of(told(Exporter(lambda: settings.score_store_url, catalog)), "evalvault_pass_rate", dataset=EN) == good, "a restart"
    recorded(settings, run_id="new", pass_rate=0.25, finished_at=later)
    assert of(told(exporter), "evalvault_pass_rate", dataset=EN) == 0.25


def test_a_clock_that_is_ahead_does_not_stop_the_reading(settings: Settings) -> None:
    scored(settings)
    exporter = Exporter(lambda: settings.score_store_url, CATALOG)
    recorded(settings, run_id="ahead", snapshot="2026w01", finished_at="2999-01-01T00:00:00.000+00:00")
    told(exporter)
    recorded(settings, run_id="next", finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
    assert of(told(exporter), "evalvault_evaluations_total", dataset=EN, metric="exact_match") == 3


def test_scrapes_at_once_are_collected_one_after_the_other(settings: Settings) -> None:
    scored(settings)
    inside, most = 0, 0

    def clock() -> float:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1
        return time.time()

    exporter = Exporter(lambda: settings.score_store_url, CATALOG, clock)
    threads = [threading.Thread(target=told, args=(exporter,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert of(told(exporter), "evalvault_evaluations_total", dataset=EN, metric="exact_match") == 1


def test_the_labels_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MOST_LABELS", 3)
    with ScoreStore(settings.score_store_url) as store:
        for number in range(10):
            store.note_calls(f"host:{number}", f"judge{number}", {"answered": 1}, in_flight=0, limit=1)
    found = samples(settings)
    judges = {dict(labels)["judge"]: value for (name, labels), value in found.items() if name == "evalvault_llm_calls_total"}
    assert judges == {"judge0": 1, "judge1": 1, "judge2": 1, "other": 7}


def test_a_database_that_is_away_is_told_and_nothing_else_is(tmp_path: Path) -> None:
    found = list(registry(lambda: "postgresql://u:canary@127.0.0.1:9/x", CATALOG).collect())
    assert {family.name for family in found} == {"evalvault_build", "evalvault_up"}


class Served:
    def __init__(self, settings: Settings, api_key: str | Secret = "", host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.place = f"[{host}]" if ":" in host else host
        key = a_secret(api_key, "EVALVAULT_API_KEY") if isinstance(api_key, str) else api_key
        self.server = serve(lambda: settings.score_store_url, catalog=CATALOG, host=host, port=self.port, api_key=key)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self.place}:{self.port}{path}", headers=headers)
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
        serve(
            lambda: settings.score_store_url,
            catalog=CATALOG,
            host="0.0.0.0",
            port=free_port(),
            api_key=a_secret(key, "EVALVAULT_API_KEY"),
        )


def test_a_port_that_is_taken_is_named(open_server: Served, settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match=str(open_server.port)):
        serve(
            lambda: settings.score_store_url,
            catalog=CATALOG,
            host="127.0.0.1",
            port=open_server.port,
            api_key=a_secret("", "EVALVAULT_API_KEY"),
        )


def test_an_address_of_no_interface_is_named_and_not_the_port(settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match=r"Address 192\.0\.2\.1 cannot be had.*EVALVAULT_METRICS_HOST"):
        serve(
            lambda: settings.score_store_url,
            catalog=CATALOG,
            host="192.0.2.1",
            port=free_port(),
            api_key=a_secret("k" * 24, "EVALVAULT_API_KEY"),
        )


def test_the_loopback_address_of_ipv6_is_served(settings: Settings) -> None:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = Served(settings, host="::1")
    try:
        assert served.get("/healthz") == (200, "ok\n")
    finally:
        served.server.shutdown()
        served.server.server_close()


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
        wait_for(lambda: ask("evalvault_up"), seconds=120)
        rate = wait_for(lambda: ask("evalvault_pass_rate_bound"), seconds=120)
        assert {item["metric"]["bound"] for item in rate} == {"low", "high"}
        alerts = wait_for(lambda: ask('ALERTS{alertname="EvalVaultCoverageLow"}'), seconds=120)
        assert alerts[0]["metric"]["severity"] == "warning", "faithfulness has no judge here: half is unmeasured"
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_the_rules_are_what_prometheus_takes() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for kind, file in (("rules", "rules.yaml"), ("config", "prometheus.yaml")):
        done = subprocess.run(["promtool", "check", kind, MONITORING / file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_too_little_measured_is_no_low_pass_rate_to_prometheus(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    labels = {"severity": "critical", "dataset": "whole", "bound": "high"}
    told = {
        "summary": "whole: the pass rate is surely below 80 %",
        "description": "The upper end of its 95 % interval is 60%.",
    }
    series = {
        'evalvault_pass_rate_bound{dataset="whole", bound="high"}': 0.6,
        'evalvault_coverage{dataset="whole"}': 1,
        'evalvault_pass_rate_bound{dataset="part", bound="high"}': 0.1,
        'evalvault_coverage{dataset="part"}': 0.5,
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x20"} for name, value in series.items()],
        "alert_rule_test": [
            {
                "eval_time": "15m",
                "alertname": "EvalVaultPassRateLow",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": told}],
            }
        ],
    }
    content = {"rule_files": [str(MONITORING / "rules.yaml")], "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_constants_of_the_rules_are_the_settings_defaults_and_the_docs_say_so(settings: Settings) -> None:
    found = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    rules = {rule.get("alert"): rule["expr"] for rule in found}
    enough = f"and on(dataset) evalvault_coverage >= {settings.gate_min_coverage:g}"
    assert rules["EvalVaultPassRateLow"].endswith(f"< {settings.alert_pass_rate:g} {enough}")
    assert rules["EvalVaultCoverageLow"].endswith(f"< {settings.gate_min_coverage:g}")
    assert rules["EvalVaultNoData"].endswith(f"> {settings.alert_no_data_hours / 24:g} * 86400")
    told = (PROJECT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for rule, figure in (
        ("EvalVaultPassRateLow", f"{settings.alert_pass_rate:g}"),
        ("EvalVaultCoverageLow", f"{settings.gate_min_coverage:g}"),
        ("EvalVaultNoData", f"{settings.alert_no_data_hours / 24:g} days"),
    ):
        assert f"| `{rule}` | {figure} |" in told


def test_every_metric_of_the_rules_and_the_dashboard_exists(settings: Settings) -> None:
    scored(settings)
    with ScoreStore(settings.score_store_url) as store:
        store.note_calls("host:1", "judge", {"answered": 1}, in_flight=0, limit=1)
    with AlertBook(settings.score_store_url) as book:
        book.board()
    families = list(registry(lambda: settings.score_store_url, CATALOG).collect())
    known = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    used = set()
    for file in ("rules.yaml", "grafana-dashboard.json"):
        used |= set(re.findall(r"\bevalvault_[a-z_]+", (MONITORING / file).read_text(encoding="utf-8")))
    assert used - known == set()
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert len(dashboard["panels"]) >= 10
    assert all(panel["targets"] for panel in dashboard["panels"])
