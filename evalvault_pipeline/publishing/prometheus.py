"""What Prometheus scrapes: one exporter that lives on and reads the database, since a run ends too soon to be scraped itself.

Label values are the catalog's datasets, metrics of the registry, reasons and judges: at most `MOST_LABELS` of each. How a
dataset stands is told of those in the catalog now; what others ran is counted as `other`.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalvault_pipeline import __version__
from evalvault_pipeline.access.keys import ApiKey, required_key
from evalvault_pipeline.cases.catalog import DatasetSpec, load_catalog
from evalvault_pipeline.errors import InvalidCatalog, PipelineError, ServiceUnavailable
from evalvault_pipeline.publishing.alert_book import AlertBook
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.reporting.incidents import BACKUPS, State
from evalvault_pipeline.reporting.overview import newest_runs
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Collection
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client import CollectorRegistry, Metric

BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
LOOKBACK = timedelta(hours=1)  # a run may be kept a little after one that ended later
LIVE_SECONDS = 60.0  # a run that told its calls within so long is still asking
MOST_LABELS = 200
OTHER = "other"  # label of what lies beyond, and of datasets that the catalog does not declare
_log = logging.getLogger(__name__)


class WatchedDatasets:
    """The datasets of a catalog file, read again where the file was changed; the last ones where it cannot be read."""

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self._version: tuple[int, int] | None = None
        self._specs: Mapping[str, DatasetSpec] = {}
        self._snapshots: dict[str, list[str]] = {}

    def snapshots(self) -> Mapping[str, list[str]]:
        """Dataset -> its snapshots."""
        version = self._file_version()
        if version != self._version:
            self._version = version
            try:
                self._specs = load_catalog(self._catalog).datasets
            except InvalidCatalog as error:
                _log.warning("the datasets stay those that the catalog declared before: %s", error)
        self._snapshots = {name: self._of(spec) for name, spec in self._specs.items()}
        return self._snapshots

    def _file_version(self) -> tuple[int, int]:
        try:
            stat = self._catalog.stat()
        except OSError:  # reading it says what is wrong
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)

    def _of(self, spec: DatasetSpec) -> list[str]:
        try:
            return list(spec.snapshots())
        except (InvalidCatalog, OSError):  # the catalog's check names it
            return self._snapshots.get(spec.name, [])


class Exporter:
    """Collects from the database, at each scrape only what is new; threads that ask at once wait for each other.

    The database's URL is asked for each time: a password may change.
    """

    def __init__(self, store_url: Callable[[], str], catalog: Path, clock: Callable[[], float] = time.time) -> None:
        self._store_url, self._clock = store_url, clock
        self._url = ""
        self._lock = threading.Lock()
        self._catalog = WatchedDatasets(catalog)
        self._watched: Mapping[str, list[str]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._until = ""
        self._whole: dict[str, dict[str, Mapping[str, Any]]] = {}  # dataset -> snapshot -> its newest whole run
        self._evaluations: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, list[float]] = {}
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._cost: dict[str, float] = {}
        self._scores: Counter[tuple[str, str]] = Counter()
        self._names: dict[str, set[str]] = {}

    def collect(self) -> Iterator[Metric]:
        """Every metric. Where the database does not answer, `evalvault_up` is 0 and stands alone."""
        with self._lock:
            found = list(self._collected())
        yield from found

    def _collected(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("evalvault_build", "Version of the package.", value={"version": __version__})
        watched = self._catalog.snapshots()
        if watched.keys() - self._watched.keys():
            self._until = ""  # their runs were passed over
        self._watched = watched
        try:
            self._url = self._store_url()
            self._read()
            found = [*self._of_runs(), *self._of_calls(), *self._of_alerts()]
        except PipelineError:
            yield GaugeMetricFamily("evalvault_up", "Whether the score store answers.", value=0)
            return
        yield GaugeMetricFamily("evalvault_up", "Whether the score store answers.", value=1)
        yield from found

    def _read(self) -> None:
        since = (datetime.fromisoformat(self._until) - LOOKBACK).isoformat() if self._until else ""
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        with RunHistory(self._url) as history:
            for header in history.headers(since=since):
                key = (str(header["run_id"]), str(header["snapshot"]))
                # A run of a machine whose clock is ahead does not keep those of the others from being read.
                self._until = max(self._until, min(str(header["finished_at"]), now))
                if header["dataset_name"] in self._watched:
                    self._keep(header)
                if key in self._seen:
                    continue
                self._seen.add(key)
                self._add(header)

    def _keep(self, header: Mapping[str, Any]) -> None:
        kept = self._whole.setdefault(str(header["dataset_name"]), {})
        snapshot = str(header["snapshot"])
        for newest in newest_runs([*([kept[snapshot]] if snapshot in kept else []), header], ()):
            kept[snapshot] = newest

    def _add(self, header: Mapping[str, Any]) -> None:
        dataset = self._dataset(header["dataset_name"])
        usage = header["usage"]
        for kind in ("prompt", "completion", "embedding"):
            self._tokens[dataset, kind] += usage[f"{kind}_tokens"]
        self._cost[dataset] = self._cost.get(dataset, 0.0) + (header["total_cost_usd"] or 0.0)
        self._scores[dataset, "computed"] += header["cache"]["misses"]
        self._scores[dataset, "from_store"] += header["cache"]["hits"]
        for reason, count in header["unmeasured_by_reason"].items():
            self._scores[dataset, self._label("reason", reason)] += count
        for name in header["metrics_evaluated"]:
            metric = self._label("metric", name)
            self._evaluations[dataset, metric] += 1
            counts = self._durations.setdefault(metric, [0.0] * (len(BUCKETS) + 2))
            counts[bisect_left(BUCKETS, header["duration_seconds"])] += 1
            counts[-1] += header["duration_seconds"]

    def _dataset(self, name: object) -> str:
        return self._label("dataset", name) if name in self._watched else OTHER

    def _label(self, kind: str, value: object) -> str:
        """A label's value, `other` for all beyond the first 200 of its kind."""
        names = self._names.setdefault(kind, set())
        text = str(value)[:100]
        if text not in names and len(names) >= MOST_LABELS:
            return OTHER
        names.add(text)
        return text

    def _of_runs(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        total = CounterMetricFamily(
            "evalvault_evaluations", "Evaluations of a dataset by a metric.", labels=["dataset", "metric"]
        )
        for labels, count in self._evaluations.items():
            total.add_metric(labels, count)
        yield total
        durations = HistogramMetricFamily(
            "evalvault_evaluation_duration_seconds", "Wall-clock time of the evaluations with a metric.", labels=["metric"]
        )
        for metric, counts in self._durations.items():
            running = 0.0
            buckets = []
            for bound, observed in zip([*map(str, BUCKETS), "+Inf"], counts[:-1], strict=True):
                running += observed
                buckets.append((bound, running))
            durations.add_metric([metric], buckets, counts[-1])
        yield durations
        tokens = CounterMetricFamily("evalvault_tokens", "Tokens of the judge's calls.", labels=["dataset", "kind"])
        for labels, count in self._tokens.items():
            tokens.add_metric(labels, count)
        yield tokens
        cost = CounterMetricFamily(
            "evalvault_cost_usd", "US dollars paid; runs without a known price add 0.", labels=["dataset"]
        )
        for name, dollars in self._cost.items():
            cost.add_metric([name], dollars)
        yield cost
        scores = CounterMetricFamily(
            "evalvault_scores", "Scores: computed, from_store (cache hits), or why unmeasured.", labels=["dataset", "outcome"]
        )
        for labels, count in self._scores.items():
            scores.add_metric(labels, count)
        yield scores
        yield from self._of_newest()

    def _of_newest(self) -> Iterator[Metric]:
        """Of the newest whole run on each dataset's greatest snapshot. What was not measured has no sample."""
        from prometheus_client.core import GaugeMetricFamily

        rate = GaugeMetricFamily("evalvault_pass_rate", "Passed / all cases of the newest whole run.", labels=["dataset"])
        bound = GaugeMetricFamily("evalvault_pass_rate_bound", "95 % interval of the pass rate.", labels=["dataset", "bound"])
        coverage = GaugeMetricFamily("evalvault_coverage", "Measured / wanted scores of the newest run.", labels=["dataset"])
        cases = GaugeMetricFamily("evalvault_cases", "Cases of the newest run.", labels=["dataset", "outcome"])
        mean = GaugeMetricFamily("evalvault_metric_mean", "Mean of the measured scores.", labels=["dataset", "metric"])
        ended = GaugeMetricFamily("evalvault_last_success_timestamp_seconds", "When the newest run ended.", labels=["dataset"])
        for name, snapshots in self._watched.items():
            runs = newest_runs(self._whole.get(name, {}).values(), snapshots)
            dataset = self._dataset(name)
            if not runs or dataset == OTHER != name:  # several datasets have no pass rate in common
                continue
            header = runs[-1]
            ended.add_metric([dataset], datetime.fromisoformat(header["finished_at"]).timestamp())
            coverage.add_metric([dataset], header["coverage"])
            for outcome in ("passed", "failed", "unmeasured"):
                cases.add_metric([dataset, outcome], header[f"{outcome}_test_cases"])
            if header["measured_scores"]:
                rate.add_metric([dataset], header["pass_rate"])
                for end, value in zip(("low", "high"), header["pass_rate_interval"] or (), strict=False):
                    bound.add_metric([dataset, end], value)
            for metric in header["metrics_evaluated"]:
                if header[f"avg_{metric}"] is not None:
                    mean.add_metric([dataset, self._label("metric", metric)], header[f"avg_{metric}"])
        yield from (rate, bound, coverage, cases, mean, ended)

    def _of_calls(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        outcomes: Counter[tuple[str, str]] = Counter()
        flying: Counter[str] = Counter()
        limits: Counter[str] = Counter()
        with ScoreStore(self._url) as store:
            rows = store.call_counts()
        for row in rows:
            judge = self._label("judge", row["judge"])
            for outcome, count in row["outcomes"].items():
                outcomes[judge, outcome] += count
            live = self._clock() - row["updated_at"] < LIVE_SECONDS
            flying[judge] += row["in_flight"] if live else 0
            limits[judge] += row["in_flight_limit"] if live else 0
        calls = CounterMetricFamily(
            "evalvault_llm_calls", "Calls sent to a judge, by what became of them.", labels=["judge", "outcome"]
        )
        for labels, count in outcomes.items():
            calls.add_metric(labels, count)
        yield calls
        in_flight = GaugeMetricFamily("evalvault_llm_calls_in_flight", "Calls that runs have in flight now.", labels=["judge"])
        limit = GaugeMetricFamily(
            "evalvault_llm_calls_in_flight_limit", "Calls that runs may have in flight now.", labels=["judge"]
        )
        for judge in flying:
            in_flight.add_metric([judge], flying[judge])
            limit.add_metric([judge], limits[judge])
        yield from (in_flight, limit)

    def _of_alerts(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        with AlertBook(self._url) as book:
            board, waiting = book.board(), len(book.pending(self._clock()))
        states = GaugeMetricFamily(
            "evalvault_alert_state", "1 for the state that a dataset is in.", labels=["dataset", "state"]
        )
        for name, one in board.datasets.items():
            dataset = name if name == BACKUPS else self._dataset(name)
            if dataset == name:
                for state in State:
                    states.add_metric([dataset, state.value], float(one.state is state))
        yield states
        yield GaugeMetricFamily("evalvault_open_incidents", "Incidents that are open.", value=len(board.open_incidents))
        yield GaugeMetricFamily("evalvault_alerts_undelivered", "Messages that no channel took yet.", value=waiting)


def registry(store_url: Callable[[], str], catalog: Path) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    found = CollectorRegistry(auto_describe=False)
    found.register(Exporter(store_url, catalog))
    return found


def serve(store_url: Callable[[], str], *, catalog: Path, host: str, port: int, api_key: Secret) -> Any:
    """A server of `/metrics` and `/healthz`, not started yet (`serve_forever`). Behind `X-API-Key` where a key is set.

    The key is read for each request: a rotated one counts at once, and one that is gone opens nothing.
    Raises InvalidSetting where other machines could read it without a key, or with a short one; ServiceUnavailable where the
    port is taken or the address is none of this machine.
    """
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from prometheus_client import make_wsgi_app
    from prometheus_client.exposition import ThreadingWSGIServer

    first = api_key.read()
    guarded = required_key(first.get_secret_value() if first else None, host=host, what="The exporter") is not None
    metrics = make_wsgi_app(registry(store_url, catalog))

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """A scrape every 15 s is no news."""

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            return _said(start, "200 OK", b"ok\n")
        try:
            key = api_key.read()
        except PipelineError:
            return _said(start, "503 Service Unavailable", b'{"error":"the key cannot be read"}', "application/json")
        given = environ.get("HTTP_X_API_KEY", "").encode("latin-1", "replace")
        if (guarded or key) and (key is None or not ApiKey(key.get_secret_value()).matches(given)):
            return _said(start, "401 Unauthorized", b'{"error":"Unauthorized"}', "application/json")
        if environ["PATH_INFO"] not in ("/", "/metrics"):
            return _said(start, "404 Not Found", b"there is /metrics and /healthz\n")
        found: Iterable[bytes] = metrics(environ, start)
        return found

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, app, Server, handler_class=Quiet)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            wrong, remedy = f"Port {port} of {host}", "Choose another with EVALVAULT_METRICS_PORT."
        else:
            wrong, remedy = f"Address {host}", "Choose one of this machine with EVALVAULT_METRICS_HOST, such as 127.0.0.1."
        raise ServiceUnavailable(f"{wrong} cannot be had: {error.strerror or error}. {remedy}") from None


def _said(start: StartResponse, status: str, body: bytes, kind: str = "text/plain") -> Collection[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
