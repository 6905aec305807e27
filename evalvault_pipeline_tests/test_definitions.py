"""The assets, jobs, schedules and sensors of the demo catalog, as one listing that shows in a diff."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.defs.build import build_definitions
from evalvault_pipeline.settings import Settings
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import UserProject

LISTING = Path(__file__).with_name("definitions.txt")


def listing(definitions: dg.Definitions) -> str:
    graph = definitions.resolve_asset_graph()
    lines = []
    for key in sorted(graph.get_all_asset_keys(), key=lambda item: item.path):
        node = graph.get(key)
        partitions = getattr(node.partitions_def, "name", None)
        lines.append(f"asset {key.to_user_string()}")
        lines.append(f"  group {node.group_name}, partitions {partitions}, pools {sorted(node.pools or ())}")
        lines.append(f"  from {sorted(parent.to_user_string() for parent in node.parent_keys)}")
        lines.extend(f"  check {check.name}" for check in sorted(node.check_keys, key=lambda item: item.name))
    repository = definitions.get_repository_def()
    lines.extend(f"job {name}" for name in sorted(repository.job_names) if not name.startswith("__"))
    lines.extend(
        f"schedule {schedule.name} ({schedule.cron_schedule}, {schedule.execution_timezone}) -> {schedule.job_name}"
        for schedule in sorted(repository.schedule_defs, key=lambda item: item.name)
    )
    lines.extend(
        f"sensor {sensor.name} every {sensor.minimum_interval_seconds} s -> {sorted(job.name for job in sensor.jobs)}"
        for sensor in sorted(repository.sensor_defs, key=lambda item: item.name)
    )
    lines.extend(f"resource {name}" for name in sorted(definitions.resources or {}))
    return "\n".join(lines) + "\n"


def test_what_dagster_shows_is_what_the_listing_says(settings: Settings) -> None:
    """After a change that is meant: write the new listing into definitions.txt, and read the diff."""
    definitions = build_definitions(settings, load_catalog(PROJECT / "data" / "catalog.toml"))
    assert listing(definitions) == LISTING.read_text(encoding="utf-8")


def test_dagster_loads_the_settings_that_the_commands_load_and_no_secret(tmp_path: Path) -> None:
    """The process environment, then the settings file; a secret that no source has is missed when it is used."""
    user = UserProject(tmp_path / "project", EVALVAULT_ENV="production", EVALVAULT_JUDGE_MODEL="another")
    shutil.copy(PROJECT / ".env.production", user.folder)
    code = (
        "from evalvault_pipeline.definitions import defs; found = defs.resources; "
        "print(found['judge'].judge, found['phoenix'].endpoint, found['phoenix'].enabled, found['score_store'].default_url)"
    )
    missing = {"EVALVAULT_STORE_URL_FILE": "/nowhere", "PHOENIX_API_TOKEN_FILE": "/nowhere"}
    told = user.run("python", "-c", code, **missing).stdout
    assert told == "ollama/another http://phoenix-prod:6006 True sqlite:///data/results/scores.sqlite\n"


def test_dagster_refuses_a_plain_env_file_which_it_would_put_over_the_environment(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project", EVALVAULT_PROFILE="offline")
    (user.folder / ".env").write_text("EVALVAULT_PROFILE=prod\n")
    job = ("dagster", "job", "execute", "-m", "evalvault_pipeline.definitions", "-j", "register_snapshots_job")
    done = user.run(*job, check=False)
    assert done.returncode == 1 and "Rename it to .env.<name>" in done.stderr


def test_an_empty_catalog_loads(tmp_path: Path, settings: Settings) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("", encoding="utf-8")
    jobs = build_definitions(settings, load_catalog(catalog)).get_repository_def().job_names
    assert {"all_datasets_evaluation_job", "register_snapshots_job"} <= set(jobs)


def test_a_profile_with_a_judge_takes_turns_in_the_pool_of_the_judge(settings: Settings) -> None:
    judged = settings.model_copy(update={"profile_name": "dev"})
    definitions = build_definitions(judged, load_catalog(PROJECT / "data" / "catalog.toml"))
    node = definitions.resolve_asset_graph().get(dg.AssetKey(["insurance_qa", "scores"]))
    assert node.pools == {"judge"}
