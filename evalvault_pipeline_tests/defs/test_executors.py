"""Where steps are executed: by the settings, with a clear word for what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evalvault_pipeline.defs.executors import executor_named
from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.settings import CELERY_VARIABLES, load_settings
from evalvault_pipeline_tests.defs.conftest import Project


def test_evaluations_run_in_process_unless_the_settings_say_otherwise(project: Project) -> None:
    assert load_settings(project.folder).executor == "in_process"
    job = project.definitions.resolve_job_def("demo_evaluation_job")
    assert job.executor_def.name == "in_process"


@pytest.mark.parametrize("name", ["in_process", "multiprocess", "celery", "k8s"])
def test_every_executor_of_the_settings_is_that_of_the_jobs(
    project: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in CELERY_VARIABLES:
        monkeypatch.setenv(variable, "redis://:canary@127.0.0.1:9/0")
    project.settings = load_settings(project.folder, EVALVAULT_EXECUTOR=name)
    definitions = project.definitions
    assert definitions.resolve_job_def("demo_evaluation_job").executor_def.name == name
    assert "canary" not in str(definitions.resolve_job_def("demo_evaluation_job").get_job_snapshot())


def test_celery_without_its_broker_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSetting, match="EVALVAULT_CELERY_BROKER, EVALVAULT_CELERY_BACKEND is not set"):
        executor_named("celery")
    monkeypatch.setenv("EVALVAULT_CELERY_BROKER", "redis://127.0.0.1:9/0")
    with pytest.raises(InvalidSetting, match="EVALVAULT_CELERY_BACKEND is not set"):
        executor_named("celery")


@pytest.mark.parametrize(("name", "package", "extra"), [("celery", "celery", "celery"), ("k8s", "dagster_k8s", "kubernetes")])
def test_an_executor_whose_package_is_missing_names_the_extra(name: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from evalvault_pipeline.defs.executors import executor_named\n"
        f"executor_named('{name}')"
    )
    environment = dict.fromkeys(CELERY_VARIABLES, "redis://127.0.0.1:9/0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert f"pip install 'evalvault-pipeline[{extra}]'" in done.stderr
