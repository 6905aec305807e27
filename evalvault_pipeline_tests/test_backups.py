"""The restore drill: `evalvault backup` and `restore` as a user runs them, to another folder and other databases."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from contextlib import chdir
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from evalvault_pipeline.backups.backup import make_backup
from evalvault_pipeline.cli import app
from evalvault_pipeline_tests.backups.test_backup import settings_of
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer
from evalvault_pipeline_tests.postgres_server import PASSWORD, PostgresServer
from evalvault_pipeline_tests.scoring.judge_runs import cases_of
from evalvault_pipeline_tests.stack import UserProject

JUDGED = """
[datasets.judged]
files = "datasets/judged/*"
language = "en"
metrics = ["faithfulness", "exact_match"]
"""


def judged_project(folder: Path, judge: OpenAIServer, cases: int, **environment: str) -> UserProject:
    """A project with one dataset, which an OpenAI server on loopback judges."""
    project = UserProject(
        folder, EVALVAULT_PROFILE="openai", OPENAI_API_KEY="sk-of-a-test-000000", OPENAI_BASE_URL=judge.base_url, **environment
    )
    (folder / "data" / "catalog.toml").write_text(JUDGED, encoding="utf-8")
    shutil.rmtree(folder / "data" / "datasets")
    rows = [
        {
            "id": case.case_id,
            "question": case.question,
            "answer": case.answer,
            "contexts": list(case.contexts),
            "ground_truth": case.ground_truth,
        }
        for case in cases_of(cases)
    ]
    file = folder / "data" / "datasets" / "judged" / "w1.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return project


def place_for(project: UserProject, folder: Path, **environment: str) -> UserProject:
    """An empty place with the same code and settings; what a backup does not hold."""
    folder.mkdir()
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(PROJECT / name, folder)
    found = UserProject.__new__(UserProject)
    found.folder, found.environment = folder, {**project.environment, **environment}
    return found


def command(project: UserProject, *arguments: str, **environment: str) -> str:
    """What a command prints; in this process, which has imported everything already."""
    with pytest.MonkeyPatch.context() as patch, chdir(project.folder):
        for name, value in {**project.environment, **environment}.items():
            patch.setenv(name, value)
        return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def the_backup(folder: Path) -> Path:
    (file,) = folder.glob("evalvault-*.zip")
    return file


def tables(url: str) -> dict[str, tuple[int, str]]:
    """Table -> (rows, md5 over all of them)."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        content = "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM \"{}\" t"
        found = {name: tuple(connection.execute(sa.text(content.format(name))).one()) for name in names}
    engine.dispose()
    return found  # type: ignore[return-value]


def test_a_drill_on_postgres_gives_the_same_rows_runs_and_verdict_and_a_rerun_asks_the_judge_for_nothing(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    with OpenAIServer() as judge:
        project = judged_project(
            tmp_path / "project",
            judge,
            12,
            EVALVAULT_STORE_URL=postgres.create("drill_store"),
            DAGSTER_PG_HOST="127.0.0.1",
            DAGSTER_PG_PORT=str(postgres.port),
            DAGSTER_PG_USER="evalvault",
            DAGSTER_PG_PASSWORD=PASSWORD,
            DAGSTER_PG_DB="drill_runs",
            EVALVAULT_BACKUPS_DIR=str(tmp_path / "backups"),
        )
        postgres.create("drill_runs")
        done = project.run("evalvault", "backfill", "judged", check=False).stdout
        run_id = re.findall(r"\(run ([0-9a-f-]+)\)", done)[0]
        command(project, "baseline", "set", run_id, "--by", "ann", "--force")
        compare = ("compare", "data/results/judged/w1/results.json", "--baseline", "promoted")
        verdict = command(project, *compare)
        backup = command(project, "backup")
        file = the_backup(tmp_path / "backups")
        assert PASSWORD.encode() not in file.read_bytes() and PASSWORD not in backup
        kept = {name: tables(postgres.url(name)) for name in ("drill_store", "drill_runs")}

        urls = {name: postgres.create(f"restored_{name}") for name in ("store", "runs")}
        bare = [re.sub(r":[^:@/]+@", "@", url) for url in urls.values()]
        place = place_for(project, tmp_path / "restored", EVALVAULT_STORE_URL=urls["store"], DAGSTER_PG_DB="restored_runs")
        restore = ("restore", str(file), "--to", "data", "--store-url", bare[0], "--dagster-url", bare[1])
        shown = command(place, *restore, PGPASSWORD=PASSWORD)
        assert "restored: data, as of 20" in shown and PASSWORD not in shown
        assert tables(urls["store"]) == kept["drill_store"] and tables(urls["runs"]) == kept["drill_runs"]
        assert kept["drill_store"]["scores"][0] == 24 and kept["drill_runs"]["runs"][0] == 1

        paid = dict(judge.answered)
        assert "No answer and no score differs." in verdict and command(place, *compare) == verdict
        again = place.run("evalvault", "backfill", "judged", check=False).stdout
        assert "nothing computed: all 24 scores" in again
        assert dict(judge.answered) == paid and paid[CHAT] == 24
        assert tables(urls["runs"])["runs"][0] == 2, "the instance opens on the restored database, and runs a job"


def test_a_backup_of_a_run_in_progress_is_restored_and_the_run_goes_on_paying_only_what_is_missing(tmp_path: Path) -> None:
    with OpenAIServer() as judge:
        project = judged_project(tmp_path / "project", judge, 60, EVALVAULT_MAX_CONCURRENCY="4")
        score = ("evalvault", "run", "data/datasets/judged/w1.jsonl", "-m", "faithfulness", "-o", "results.json")
        judge.latency = 0.1
        process = project.start(*score)
        while judge.answered[CHAT] < 20 and process.poll() is None:
            time.sleep(0.01)
        before = judge.answered[CHAT]
        make_backup(settings_of(project.folder), tmp_path / "backups")
        after = judge.answered[CHAT]
        assert process.poll() is None, "it was scoring all the time"
        process.send_signal(signal.SIGKILL)
        process.wait()
        judge.latency = 0.0
        time.sleep(0.5)  # the server ends what was in flight
        paid = judge.answered[CHAT]

        place = place_for(project, tmp_path / "restored")
        place.run("evalvault", "restore", str(the_backup(tmp_path / "backups")), "--to", "data")
        place.run(*score)
        results = json.loads((place.folder / "results.json").read_text(encoding="utf-8"))
        asked = judge.answered[CHAT] - paid
        assert results["coverage"] == 1.0 and results["usage"]["judge_calls"] == asked
        in_flight = 4
        assert 120 - after - in_flight <= asked <= 120 - before + in_flight, "what had been answered is not asked for again"


OLD = "evalvault-20200101T000000Z.zip"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> UserProject:
    """A project with a backup in `new`, beside an old one."""
    user = UserProject(tmp_path_factory.mktemp("user") / "project")
    (user.folder / "new").mkdir()
    (user.folder / "new" / OLD).write_text("x")
    user.run("evalvault", "backup", "--to", "new")
    return user


def new(user: UserProject) -> Path:
    (file,) = [file for file in (user.folder / "new").glob("evalvault-*.zip") if file.name != OLD]
    return file


def test_check_says_what_a_backup_holds_and_writes_nothing(user: UserProject) -> None:
    shown = user.run("evalvault", "restore", str(new(user)), "--check").stdout
    assert re.search(r"whole:   .*\.zip, of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)
    assert "score store: none" in shown and "Dagster: 3 parts" in shown and "files: 6 parts" in shown
    half = user.folder / "half.zip"
    half.write_bytes(new(user).read_bytes()[:-100])
    done = user.run("evalvault", "restore", str(half), "--check", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "half.zip cannot be read: its end is missing, or it is no backup. Take another backup." in done.stderr


def test_restore_asks_where_and_takes_no_full_folder(user: UserProject) -> None:
    file = str(new(user))
    done = user.run("evalvault", "restore", file, check=False)
    assert done.returncode == 2 and "--to data" in done.stderr
    done = user.run("evalvault", "restore", file, "--to", "data", check=False)
    assert done.returncode == 2 and "data is not empty. Name another folder" in done.stderr
    shown = user.run("evalvault", "restore", file, "--to", "data", "--force").stdout
    assert re.search(r"kept: .*data\.before-\d{8}T\d{6}Z, what was there before", shown)


def test_backup_without_a_folder_names_the_setting(user: UserProject) -> None:
    done = user.run("evalvault", "backup", check=False)
    assert done.returncode == 2 and "Set EVALVAULT_BACKUPS_DIR" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_of_ones_own_is_pruned_only_when_asked(user: UserProject) -> None:
    assert (user.folder / "new" / OLD).exists()
    shown = user.run("evalvault", "backup", "--to", "new", "--keep", "1").stdout
    assert shown.count("deleted: ") == 2 and f"deleted: new/{OLD}" in shown
    assert len(list((user.folder / "new").glob("*.zip"))) == 1


def test_restoring_to_another_server_asks_for_no_password_of_dagsters(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "project", DAGSTER_PG_HOST="gone", DAGSTER_PG_USER="u")
    done = project.run(*"evalvault restore none.zip --to new --dagster-url postgresql://u@127.0.0.1:1/d".split(), check=False)
    assert done.returncode == 2 and "none.zip" in done.stderr and "DAGSTER_PG" not in done.stderr
