"""A run in Phoenix: its cases as a dataset, its answers and scores as an experiment.

Everything is sent under ids of our own (case ids, the run's id), so an upload that was interrupted goes on where it was and
one that is repeated changes nothing. Texts are redacted before they leave.
"""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import quote

import httpx

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.cases.redaction import redacted, redacted_values
from evalvault_pipeline.errors import UnusableResults
from evalvault_pipeline.publishing.markdown import evidence_lines
from evalvault_pipeline.publishing.phoenix import PhoenixAccess, PhoenixServer
from evalvault_pipeline.publishing.results_file import results_header
from evalvault_pipeline.reporting.report import RunReport
from evalvault_pipeline.scoring.model import CaseResult, MetricScore

log = logging.getLogger(__name__)

CHUNK = 500  # examples of one upload: each is one transaction, for which every other writer waits
WORKERS = 2  # one process and one writer in the server: more only wait
COMPARE_LIMIT = 5_000  # above, Phoenix's page for comparing is too slow to be of use
EXPLANATION = 4_000  # characters
RUN_ID = "evalvault_run_id"
TOPIC = "topic"  # the evaluation that holds a case's cluster


@dataclass(frozen=True, kw_only=True)
class PhoenixDataset:
    """A dataset at one version; `nodes` holds Phoenix's id of each case."""

    id: str
    name: str
    version_id: str
    url: str
    nodes: Mapping[str, str] = field(repr=False)

    @property
    def about(self) -> dict[str, Any]:
        named = {"id": self.id, "name": self.name, "version_id": self.version_id, "url": self.url}
        return {**named, "example_count": len(self.nodes)}


@dataclass(frozen=True, kw_only=True)
class PhoenixExperiment:
    """An experiment, and how many of its cases' runs were sent now, were there before, or were refused.

    `compare_url` sets it beside the baseline's experiment; None where there is none.
    """

    id: str
    name: str
    url: str
    compare_url: str | None
    uploaded: int
    skipped: int
    failed: int

    @property
    def about(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "url": self.url, "compare_url": self.compare_url}

    @property
    def counts(self) -> dict[str, int]:
        return {"uploaded": self.uploaded, "skipped": self.skipped, "failed": self.failed}


def upload_dataset(
    server: PhoenixServer, name: str, cases: Iterable[EvalCase], *, description: str = "", whole: bool = True
) -> PhoenixDataset:
    """Make the dataset what these cases are: new ones are added, changed ones patched; where it is `whole`, others removed.

    Cases that stay as they are make no new version. An answer is no part of a dataset: it stands in the experiment. Raises
    UnusableResults where there is no case.
    """
    everything: list[dict[str, Any]] = []
    dataset_id = ""
    remaining = iter(cases)
    while chunk := [_example(case) for case in islice(remaining, CHUNK)]:
        dataset_id = _upload(server, name, "append", chunk, description)
        everything += chunk
    if not everything:
        raise UnusableResults(f"{name} holds no case: there is nothing to send to Phoenix.")
    version = _newest_version(server, dataset_id)
    nodes = _nodes(server, dataset_id, version)
    if whole and set(nodes) - {example["id"] for example in everything}:
        _upload(server, name, "update", everything, description)
        version = _newest_version(server, dataset_id)
        nodes = _nodes(server, dataset_id, version)
    if len(nodes) > COMPARE_LIMIT:
        log.warning("Phoenix compares more than %d cases slowly; %s has %d", COMPARE_LIMIT, name, len(nodes))
    return _dataset(server, name, dataset_id, version, nodes)


def dataset_at(server: PhoenixServer, dataset_id: str, *, name: str, version_id: str) -> PhoenixDataset | None:
    """The dataset at this version; None where the server has no such thing. Ids of one server mean nothing to another."""
    known = {item["id"]: item["name"] for item in server.pages("/v1/datasets", name=name)}
    path = f"/v1/datasets/{quote(dataset_id, safe='')}"
    if known.get(dataset_id) != name:
        return None
    if version_id not in {item["version_id"] for item in server.pages(f"{path}/versions")}:
        return None
    return _dataset(server, name, dataset_id, version_id, _nodes(server, dataset_id, version_id))


def upload_experiment(
    server: PhoenixServer,
    dataset: PhoenixDataset,
    report: RunReport,
    *,
    name: str = "",
    baseline_run: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> PhoenixExperiment:
    """The run as an experiment: its answer for each case, and one evaluation for each metric of it.

    The run's id is its key: what is there already is not sent again. `baseline_run` is the id of the run to compare with;
    `labels` (case id -> topic) become evaluations without a score.
    """
    info = report.info
    experiment = _experiment(server, dataset, name or f"{info.snapshot} {info.dataset}", report)
    upload = _Upload(server, dataset, experiment["id"], report, labels or {})
    upload.send(report.results)
    base = find_experiment(server, dataset, baseline_run) if baseline_run and baseline_run != info.run_id else None
    if base:
        server.post(f"/v1/experiments/{quote(base['id'], safe='')}/tags", {"name": "baseline"})
    page = f"/datasets/{quote(dataset.id, safe='')}/compare?"
    this = f"experimentId={quote(experiment['id'], safe='')}"
    return PhoenixExperiment(
        id=experiment["id"],
        name=experiment["name"],
        url=server.url(page + this),
        compare_url=server.url(f"{page}experimentId={quote(base['id'], safe='')}&{this}") if base else None,
        uploaded=upload.uploaded,
        skipped=upload.skipped,
        failed=upload.failed,
    )


def find_experiment(
    server: PhoenixServer, dataset: PhoenixDataset, run_id: str, *, dataset_digest: str | None = None
) -> dict[str, Any] | None:
    """The experiment of a run; of several that were created at once the oldest, which is what all of them take.

    With `dataset_digest`, only one over these very cases: a run that is tried again may find its file changed.
    """
    wanted = {RUN_ID: run_id, **({"dataset_digest": dataset_digest} if dataset_digest else {})}
    same = [
        item
        for item in server.pages(f"/v1/datasets/{quote(dataset.id, safe='')}/experiments")
        if wanted.items() <= (item.get("metadata") or {}).items()
    ]
    return same[-1] if same else None


def tracker_metadata(
    access: PhoenixAccess, dataset: PhoenixDataset, experiment: PhoenixExperiment, traces: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`tracker_metadata["phoenix"]` of results.json."""
    return {
        "status": "incomplete" if experiment.failed else "complete",
        "endpoint": access.shown,
        "dataset": dataset.about,
        "experiment": experiment.about,
        **experiment.counts,
        "traces": {"project": access.project, "url": access.project_url, "sample_rate": access.sample_rate, **(traces or {})},
    }


def _experiment(server: PhoenixServer, dataset: PhoenixDataset, name: str, report: RunReport) -> dict[str, Any]:
    """Names are not unique in Phoenix, so it is looked for by our run's id, before and after it is created."""
    header = results_header(report)
    kept = ("snapshot", "dataset_version", "dataset_digest", "profile", "model_name", "pass_rate", "coverage", "thresholds")
    metadata = {RUN_ID: report.info.run_id, **{key: header[key] for key in kept}, "judge": dict(report.info.judge_details)}
    for _ in range(3):
        if found := find_experiment(server, dataset, report.info.run_id, dataset_digest=report.dataset_digest):
            return found
        try:
            server.experiments.create(
                dataset_id=dataset.id,
                dataset_version_id=dataset.version_id,
                experiment_name=name,
                experiment_metadata=redacted_values(metadata),
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise server.unavailable(error) from None
            log.info("Phoenix failed at an experiment (HTTP %d); looking for it", error.response.status_code)
        except httpx.HTTPError as error:  # it may have been created all the same
            log.info("Phoenix did not answer while an experiment was created (%s); looking for it", type(error).__name__)
    found = find_experiment(server, dataset, report.info.run_id, dataset_digest=report.dataset_digest)
    if found is None:
        raise server.unavailable(httpx.ConnectError("no experiment"))
    return found


class _Upload:
    """The runs and evaluations of one experiment that are not there yet."""

    def __init__(
        self,
        server: PhoenixServer,
        dataset: PhoenixDataset,
        experiment: str,
        report: RunReport,
        labels: Mapping[str, str],
    ) -> None:
        self._labels = labels
        self._server, self._dataset, self._experiment = server, dataset, experiment
        self._started = report.info.started_at
        names = [metric.name for metric in report.metrics] + [TOPIC] * bool(labels)
        self._lock = threading.Lock()
        self.uploaded = self.skipped = self.failed = 0
        self._gone = False  # the server, or who asked: nobody waits for the rest of a chunk
        path = f"/v1/experiments/{quote(experiment, safe='')}"
        self._path = f"{path}/runs"
        self._runs = {item["dataset_example_id"]: item["id"] for item in server.pages(self._path, limit=1000)}
        self._lacking: dict[str, set[str]] = {}
        if self._runs:
            for item in server.pages(f"{path}/incomplete-evaluations", evaluation_name=names, limit=1000):
                self._lacking[item["experiment_run"]["id"]] = set(item["evaluation_names"])

    def send(self, results: Iterable[CaseResult]) -> None:
        remaining = iter(results)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="phoenix") as pool:
            try:
                while chunk := list(islice(remaining, CHUNK)):
                    list(pool.map(self._send, chunk))
            except BaseException:
                self._gone = True  # also for who presses Ctrl-C: the rest of the chunk is not waited for
                raise

    def _send(self, result: CaseResult) -> None:
        if self._gone:
            return
        try:
            new = self._send_case(result)
        except httpx.HTTPStatusError as error:
            log.warning("Phoenix refuses case %s: HTTP %d", result.case.case_id, error.response.status_code)
            with self._lock:
                self.failed += 1
            return
        except httpx.TransportError as error:
            self._gone = True
            raise self._server.unavailable(error) from None
        with self._lock:
            self.uploaded += new
            self.skipped += not new

    def _send_case(self, result: CaseResult) -> bool:
        """Whether anything of this case was lacking."""
        node = self._dataset.nodes.get(example_id(result.case.case_id))
        if node is None:
            raise UnusableResults(
                f"Case {result.case.case_id} is not in version {self._dataset.version_id} of {self._dataset.name} in Phoenix: "
                "the snapshot has changed since it was uploaded. Upload the dataset again."
            )
        ended = self._started + timedelta(seconds=sum(score.seconds for score in result.scores))
        run = self._runs.get(node)
        told = [evaluation(score, self._started) for score in result.scores]
        if label := self._labels.get(result.case.case_id):
            times = {"start_time": self._started, "end_time": self._started}
            told.append({"name": TOPIC, "annotator_kind": "CODE", "label": redacted(label), **times})
        lacking = self._lacking.get(run, set()) if run else {item["name"] for item in told}
        if run is None:
            run = self._posted(node, result, ended)
        missing = [item for item in told if item["name"] in lacking]
        for item in missing:
            self._server.experiments.log_evaluation(experiment_run_id=run, **item)
        return bool(missing) or node not in self._runs

    def _posted(self, node: str, result: CaseResult, ended: datetime) -> str:
        try:
            posted = self._server.experiments.log_run(
                experiment_id=self._experiment,
                dataset_example_id=node,
                output={"answer": redacted(result.case.answer)},
                start_time=self._started,
                end_time=ended,
                trace_id=next((trace for score in result.scores if (trace := score.evidence.get("trace_id"))), None),
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 409:  # sent before, and its answer was lost
                raise
            runs = self._server.pages(self._path, limit=1000)
            return next(str(item["id"]) for item in runs if item["dataset_example_id"] == node)
        return str(posted["id"])


def evaluation(score: MetricScore, started: datetime) -> dict[str, Any]:
    """One score as Phoenix takes it; an unmeasured one is an error and no score, so that no mean counts it."""
    evidence = {name: value for name, value in score.evidence.items() if name != "trace_id"}
    why = score.detail if score.value is None else "\n".join(evidence_lines(evidence))
    return {
        "name": score.metric,
        "annotator_kind": "LLM" if score.judge else "CODE",
        "start_time": started,
        "end_time": started + timedelta(seconds=score.seconds),
        "score": score.value,
        "label": {True: "pass", False: "fail", None: "unmeasured"}[score.passed],
        "explanation": redacted(why)[:EXPLANATION] or None,
        "error": redacted(f"{score.unmeasured}: {score.detail}") if score.value is None else None,
        "metadata": {
            "threshold": score.threshold,
            "version": score.metric_version,
            "judge": score.judge,
            "tokens": score.tokens,
            "lower_is_better": score.lower_is_better,
        },
        "trace_id": score.evidence.get("trace_id"),
    }


def example_id(case_id: str) -> str:
    """The id of a case in Phoenix; one that happens to read as an id of Phoenix's own is marked."""
    try:
        own = base64.b64decode(case_id, validate=True).startswith(b"DatasetExample:")
    except (binascii.Error, ValueError):
        own = False
    return f"case {case_id}" if own else case_id


def _example(case: EvalCase) -> dict[str, Any]:
    contexts = {"contexts": list(case.contexts)} if case.contexts else {}
    return {
        "id": example_id(case.case_id),
        "input": {"question": redacted(case.question)},
        "output": {} if case.ground_truth is None else {"ground_truth": redacted(case.ground_truth)},
        "metadata": redacted_values({**case.metadata, **contexts}),
    }


def _upload(server: PhoenixServer, name: str, action: str, examples: Sequence[Mapping[str, Any]], description: str) -> str:
    body = {
        "action": action,
        "name": name,
        "description": description or None,
        "example_ids": [example["id"] for example in examples],
        "inputs": [example["input"] for example in examples],
        "outputs": [example["output"] for example in examples],
        "metadata": [example["metadata"] for example in examples],
    }
    return str(server.post("/v1/datasets/upload", body, sync="true")["data"]["dataset_id"])


def _newest_version(server: PhoenixServer, dataset_id: str) -> str:
    """Asked for: the version that an unchanged upload answers with may be an older one."""
    versions = server.get(f"/v1/datasets/{quote(dataset_id, safe='')}/versions", limit=1)["data"]
    return str(versions[0]["version_id"])


def _nodes(server: PhoenixServer, dataset_id: str, version_id: str) -> dict[str, str]:
    found = server.get(f"/v1/datasets/{quote(dataset_id, safe='')}/examples", version_id=version_id)
    return {item["id"]: item["node_id"] for item in found["data"]["examples"]}


def _dataset(server: PhoenixServer, name: str, dataset_id: str, version_id: str, nodes: Mapping[str, str]) -> PhoenixDataset:
    url = server.url(f"/datasets/{quote(dataset_id, safe='')}/examples")
    return PhoenixDataset(id=dataset_id, name=name, version_id=version_id, url=url, nodes=nodes)
