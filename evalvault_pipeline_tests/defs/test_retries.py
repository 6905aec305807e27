"""A run that is tried again: what it publishes, and what it waits for."""

from __future__ import annotations

import threading

import dagster as dg
import pytest

from evalvault_pipeline.defs import retries
from evalvault_pipeline.defs.partitions import range_tags
from evalvault_pipeline.publishing.run_history import RunHistory
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.defs.conftest import Project, cases_of
from evalvault_pipeline_tests.defs.test_judge import Judged, judged  # noqa: F401  a fixture
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.stack import free_port, wait_for


def recorded(project: Project) -> list[str]:
    """Run ids in the history, the oldest first."""
    with RunHistory(project.settings.score_store_url) as history:
        return [header["run_id"] for header in history.headers()]


def failing(project: Project) -> str:
    """A run that has reported, and whose verdict is a fail."""
    project.write("w1", cases_of(6, bad=6))
    run = project.run(range_tags(project.register("w1")))
    assert not run.success
    return run.run_id


def test_a_retry_publishes_under_the_id_of_the_run_that_failed(project: Project) -> None:
    root = failing(project)
    from_failure = project.retry(root)
    whole = project.retry(from_failure.run_id, whole=True)
    assert [run.status for run in (from_failure, whole)] == [dg.DagsterRunStatus.FAILURE] * 2
    assert recorded(project) == [root]
    assert project.report("w1")["run_id"] == root


def test_a_run_that_succeeded_and_is_executed_again_is_an_evaluation_of_its_own(project: Project) -> None:
    project.write("w1", cases_of(4))
    first = project.run(range_tags(project.register("w1")))
    again = project.retry(first.run_id, whole=True)
    assert recorded(project) == [first.run_id, again.run_id]


def test_a_retry_reports_on_what_its_file_has_become(project: Project) -> None:
    root = failing(project)
    project.write("w1", cases_of(6))
    assert project.retry(root, whole=True).is_success
    assert (recorded(project), project.report("w1")["pass_rate"]) == ([root], 1.0)


def test_evaluation_jobs_ask_for_as_many_retries_as_the_settings_say(project: Project) -> None:
    def asked(settings: Settings) -> dict[str, str | None]:
        project.settings = settings
        jobs = [job for job in project.definitions.get_repository_def().get_all_jobs() if not job.name.startswith("__")]
        return {job.name: job.run_tags.get("dagster/max_retries") for job in jobs}

    assert set(asked(project.settings).values()) == {None}
    retried = {name for name, tag in asked(project.settings.model_copy(update={"run_retries": 2})).items() if tag == "2"}
    assert retried == {"demo_evaluation_job", "all_datasets_evaluation_job", "daily_evaluation_job"}


def test_a_run_that_may_be_retried_waits_for_a_judge_that_is_away(
    judged: Judged,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "WAIT_SECONDS", 1.0)
    port = free_port()
    judged.openai(port)
    judged.project.write("w1", cases_of(4))
    tags = range_tags(judged.project.register("w1"))
    assert not judged.project.run(tags).success
    server = OpenAIServer(port=port)

    def come_back() -> None:
        wait_for(lambda: tried_again(judged.project.instance), seconds=120)
        server.start()

    threading.Thread(target=come_back).start()
    try:
        assert judged.project.run({**tags, "dagster/max_retries": "6"}).success
    finally:
        server.stop()
    assert judged.project.report("w1")["coverage"] == 1.0


def tried_again(instance: dg.DagsterInstance) -> int:
    """How often a step of the newest run is tried again."""
    return len(instance.all_logs(instance.get_runs(limit=1)[0].run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY))


def test_bad_data_is_not_waited_for(project: Project) -> None:
    file = project.write("w1", cases_of(2))
    tags = range_tags(project.register("w1"))
    file.write_text("{}", encoding="utf-8")
    assert not project.run({**tags, "dagster/max_retries": "4"}).success
    assert tried_again(project.instance) == 0
