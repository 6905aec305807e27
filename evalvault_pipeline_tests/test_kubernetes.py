"""Kubernetes without a cluster: the Helm values against what the chart and dagster-k8s take, and the launcher against an API double."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from aiohttp import web
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._core.launcher.base import WorkerStatus
from dagster_k8s.job import get_job_name_from_run_id
from jsonschema import Draft202012Validator

from evalvault_pipeline.defs import instance_storage
from evalvault_pipeline.defs.executors import executor_named
from evalvault_pipeline.defs.fencing import WITHIN_TAG
from evalvault_pipeline.defs.in_process_runs import PROCESS_TAG
from evalvault_pipeline.defs.kubernetes_jobs import WatchedK8sRunLauncher
from evalvault_pipeline.settings import load_settings, variables
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.serving import LoopbackServer

VALUES: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "kubernetes" / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads(Path(__file__).with_name("helm_values.schema.json").read_text(encoding="utf-8"))
LAUNCHER = VALUES["runLauncher"]["config"]["customRunLauncher"]
(DEPLOYMENT,) = VALUES["dagster-user-deployments"]["deployments"]


def problems(values: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(values)]


def test_the_helm_values_are_of_the_charts_schema_and_a_mistyped_key_is_found() -> None:
    assert problems(VALUES) == []
    assert problems({**VALUES, "postgresql": {**VALUES["postgresql"], "postgresqlScheme": "postgresql"}}) == [
        "$.postgresql.postgresqlScheme"
    ]
    assert problems({**VALUES, "runLaunchers": {}}) == ["$"]


def test_the_run_launcher_of_the_values_is_one_that_dagster_k8s_takes() -> None:
    """The chart writes `config` into dagster.yaml as it stands."""
    assert (LAUNCHER["module"], LAUNCHER["class"]) == (WatchedK8sRunLauncher.__module__, WatchedK8sRunLauncher.__name__)
    found = process_config(dg.Shape(WatchedK8sRunLauncher.config_type()), LAUNCHER["config"])
    assert found.success, found.errors
    assert not process_config(dg.Shape(WatchedK8sRunLauncher.config_type()), {"job_namespaces": "x"}).success


def test_what_the_values_add_to_the_instance_is_what_dagster_takes() -> None:
    schema = dg.Shape(dagster_instance_config_schema())
    scheduler = VALUES["scheduler"]["config"]["daemonScheduler"]
    assert process_config(schema, VALUES["additionalInstanceConfig"]).success
    production = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    added = VALUES["additionalInstanceConfig"]
    assert {name: added[name] for name in ("run_retries",)} == {"run_retries": production["run_retries"]}
    assert added["concurrency"]["pools"] == production["concurrency"]["pools"]
    assert {"max_catchup_runs": scheduler["maxCatchupRuns"], "max_tick_retries": scheduler["maxTickRetries"]} == production[
        "scheduler"
    ]["config"]
    (coordinator,) = VALUES["dagsterDaemon"]["runCoordinator"]["config"].values()
    assert process_config(schema, {"run_coordinator": coordinator}).success
    own = production["run_coordinator"]
    assert {**coordinator["config"], "max_concurrent_runs": 0} == {**own["config"], "max_concurrent_runs": 0}


def test_the_postgres_of_the_values_is_dialed_as_ours_is() -> None:
    """The chart's instance has Dagster's own storages; ours are InstanceStorage."""
    assert f'"{VALUES["postgresql"]["postgresqlScheme"]}"' in Path(instance_storage.__file__).read_text(encoding="utf-8")


def test_the_only_webserver_is_the_guarded_one_on_the_instance_of_the_chart() -> None:
    deployment, service = yaml.safe_load_all((PROJECT / "deploy/kubernetes/webserver.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert VALUES["dagsterWebserver"]["replicaCount"] == 0
    assert problems({**VALUES, "dagsterWebserver": {**VALUES["dagsterWebserver"], "replicaCount": 1}})
    image = VALUES["dagsterDaemon"]["image"]
    assert container["image"] == f"{image['repository']}:{image['tag']}"
    assert container["command"][:4] == ["evalvault", "webserver", "--host", "0.0.0.0"]
    name = VALUES["global"]["fullnameOverride"]
    assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} == {
        LAUNCHER["config"]["instance_config_map"],
        f"{name}-workspace-yaml",
    }
    assert pod["serviceAccountName"] == name == LAUNCHER["config"]["service_account_name"]
    environment = {item["name"]: item for item in container["env"]}
    assert environment["DAGSTER_HOME"]["value"] == VALUES["global"]["dagsterHome"]
    secret = environment["DAGSTER_PG_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"]
    assert secret == VALUES["global"]["postgresqlSecretName"]
    assert "secretKeyRef" in environment["EVALVAULT_API_KEY"]["valueFrom"]
    (writable,) = [mount for mount in container["volumeMounts"] if mount["name"] == "temporary"]
    assert environment["EVALVAULT_LOG_FILE"]["value"].startswith(f"{writable['mountPath']}/")
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_image_runs_what_the_chart_gives_it_as_arguments_alone() -> None:
    """Its pods of runs and of the code server have no `command`: an entry point would come before it."""
    stage = (PROJECT / "Dockerfile").read_text(encoding="utf-8").rpartition("FROM runtime AS evalvault")[2]
    assert "ENTRYPOINT" not in stage


def test_the_environment_of_the_values_is_one_that_the_settings_take(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {item["name"]: item["value"] for item in DEPLOYMENT["env"]}
    for name, value in {**environment, "DAGSTER_PG_PASSWORD": "x", "OPENAI_API_KEY": "sk-test"}.items():
        assert name in variables() or name.startswith("DAGSTER_PG_")
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.score_store_url == "postgresql+psycopg2://evalvault:x@postgres.example.internal:5432/evalvault"
    assert settings.run_retries == 2


def test_a_step_may_be_a_pod_by_a_setting_alone() -> None:
    executor = executor_named("k8s")
    assert executor.name == "k8s"
    assert process_config(executor.config_schema.config_type, {"max_concurrent": 4}).success  # type: ignore[union-attr]


# The launcher


class Cluster(LoopbackServer):
    """The one route of Kubernetes that a health check asks for. `jobs`: name -> status; `down`: it refuses everything."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.down = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/apis/batch/v1/namespaces/evalvault/jobs/{name}/status", self._status)]

    async def _status(self, request: web.Request) -> web.Response:
        if self.down:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        status = self.jobs.get(request.match_info["name"])
        if status is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        return web.json_response({"kind": "Job", "apiVersion": "batch/v1", "status": status})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def launcher(cluster: Cluster, instance: dg.DagsterInstance, tmp_path: Path) -> WatchedK8sRunLauncher:
    context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [context],
        "clusters": [{"name": "test", "cluster": {"server": cluster.url}}],
        "users": [{"name": "test", "user": {}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(access), encoding="utf-8")
    config = {**LAUNCHER["config"], "load_incluster_config": False, "kubeconfig_file": str(file)}
    found = WatchedK8sRunLauncher.from_config_value(None, config)
    found.register_instance(instance)
    return found


def a_run(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    job = dg.JobDefinition(name="a_job", graph_def=dg.GraphDefinition(name="a_job"))
    return instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ({"active": 1}, WorkerStatus.RUNNING),
        ({"failed": 1}, WorkerStatus.FAILED),
        (None, WorkerStatus.NOT_FOUND),
    ],
)
def test_a_run_is_as_alive_as_its_pod(
    launcher: WatchedK8sRunLauncher,
    cluster: Cluster,
    instance: dg.DagsterInstance,
    status: dict[str, int] | None,
    health: WorkerStatus,
) -> None:
    run = a_run(instance)
    if status is not None:
        cluster.jobs[get_job_name_from_run_id(run.run_id)] = status
    assert launcher.check_run_worker_health(run).status is health


def test_a_cluster_whose_api_is_away_ends_no_run(
    launcher: WatchedK8sRunLauncher, cluster: Cluster, instance: dg.DagsterInstance
) -> None:
    cluster.down = True
    assert launcher.check_run_worker_health(a_run(instance)).status is WorkerStatus.RUNNING


def test_a_run_that_is_executed_inside_another_needs_no_pod_of_its_own(
    launcher: WatchedK8sRunLauncher, instance: dg.DagsterInstance
) -> None:
    outer = a_run(instance)
    inner = a_run(instance, **{WITHIN_TAG: outer.run_id, PROCESS_TAG: "a-pod:1"})
    assert launcher.check_run_worker_health(inner).status is WorkerStatus.RUNNING
    instance.report_run_failed(outer)
    assert launcher.check_run_worker_health(inner).status is WorkerStatus.NOT_FOUND
