"""The same code on a real Postgres: Dagster's storage and the score store, chosen by environment variables."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from evalvault_pipeline.scoring.store import ScoreKey, ScoreStore, StoredScore
from evalvault_pipeline_tests.stack import UserProject, free_port, wait_for

PASSWORD = "a word of the test"


@dataclass(frozen=True)
class Server:
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://evalvault:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        engine = sa.create_engine(
            self.url("postgres").replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {database}"))
        engine.dispose()
        return self.url(database)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    programs = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not programs:
        pytest.skip("no Postgres server is installed (Debian: apt-get install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    as_owner: Callable[[], None] | None = None
    if os.geteuid() == 0:  # Postgres refuses to run as root
        owner = pwd.getpwnam("postgres")
        for path in (folder, *list(folder.parents)[:2]):
            path.chmod(0o755)
        os.chown(folder, owner.pw_uid, owner.pw_gid)

        def as_owner() -> None:
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)

    word = folder / "word"
    word.write_text(PASSWORD, encoding="utf-8")
    word.chmod(0o644)
    port, data = free_port(), folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    init = [programs[0] / "initdb", "-D", data, "-U", "evalvault", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, preexec_fn=as_owner, env=environment, cwd=folder)
    options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder, "-c", "fsync=off"]
    log = (folder.parent / "postgres.log").open("wb")
    server = subprocess.Popen(
        [programs[0] / "postgres", *options], stdout=log, stderr=log, preexec_fn=as_owner, env=environment, cwd=folder
    )
    found = Server(port)
    engine = sa.create_engine(found.url("postgres").replace("postgresql:", "postgresql+psycopg2:"))

    def answers() -> bool:
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    wait_for(answers, seconds=30)
    yield found
    engine.dispose()
    server.terminate()
    server.wait(timeout=30)


def test_the_score_store_keeps_and_finds_scores_on_postgres(postgres: Server) -> None:
    url = postgres.create("store")
    keys = [ScoreKey(case_digest=f"{number:064d}", metric="chrf", metric_version="1") for number in range(600)]
    with ScoreStore(url) as store:
        store.save([(key, StoredScore(value=0.25, evidence={"note": "한글"})) for key in keys])
        store.save([(keys[0], StoredScore(value=0.75))])
        found = store.find([key.case_digest for key in keys], metrics={"chrf": "1"})
    assert len(found) == 600
    first = found[keys[0].case_digest, "chrf"]
    assert (first.value, first.evidence) == (0.25, {"note": "한글"}), "the first writer of a key wins"


def test_a_run_is_kept_in_postgres_and_the_next_one_computes_nothing(postgres: Server, tmp_path: Path) -> None:
    project = UserProject(tmp_path, EVALVAULT_STORE_URL=postgres.create("runs"))
    command = "evalvault run data/datasets/insurance_qa_en/2026w47.jsonl".split()
    project.run(*command)
    again = project.run(*command)
    assert "nothing computed: all 96 scores" in again.stdout
    assert PASSWORD not in again.stdout + again.stderr and "%20" not in again.stdout


def test_dagster_keeps_its_runs_in_postgres_where_its_host_is_set(postgres: Server, tmp_path: Path) -> None:
    postgres.create("dagster")
    project = UserProject(
        tmp_path,
        DAGSTER_PG_HOST="127.0.0.1",
        DAGSTER_PG_PORT=str(postgres.port),
        DAGSTER_PG_USER="evalvault",
        DAGSTER_PG_PASSWORD=PASSWORD,
        EVALVAULT_STORE_URL=postgres.create("scores_beside"),
    )
    done = project.run("evalvault", "backfill", "insurance_qa_en")
    assert "insurance_qa_en 2026w47: " in done.stdout
    engine = sa.create_engine(postgres.url("dagster").replace("postgresql:", "postgresql+psycopg2:"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT status, pipeline_name FROM runs")).all() == [
            ("SUCCESS", "insurance_qa_en_evaluation_job")
        ]
        tables = connection.execute(sa.text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"))
        words = [str(row) for (name,) in tables.all() for row in connection.execute(sa.text(f'SELECT * FROM "{name}"')).all()]
    engine.dispose()
    assert len(words) > 50
    assert not [word for word in words if PASSWORD in word or PASSWORD.replace(" ", "%20") in word], "the password is stored"
    assert not (project.folder / "data" / ".dagster" / "history").exists()


def test_a_postgres_host_without_user_and_password_is_one_clear_sentence(tmp_path: Path) -> None:
    project = UserProject(tmp_path, DAGSTER_PG_HOST="127.0.0.1")
    done = project.run("evalvault", "backfill", "insurance_qa_en", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "DAGSTER_PG_HOST is set, but DAGSTER_PG_USER, DAGSTER_PG_PASSWORD is not" in done.stderr
