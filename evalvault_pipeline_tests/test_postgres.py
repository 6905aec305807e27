"""The same code on a real Postgres: Dagster's storage and the score store, chosen by environment variables."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evalvault_pipeline.scoring.store import ScoreKey, ScoreStore, StoredScore, new_owner
from evalvault_pipeline_tests.postgres_server import PASSWORD, PostgresServer
from evalvault_pipeline_tests.stack import UserProject, wait_for


def test_the_score_store_keeps_and_finds_scores_on_postgres(postgres: PostgresServer) -> None:
    url = postgres.create("store")
    keys = [ScoreKey(case_digest=f"{number:064d}", metric="chrf", metric_version="1") for number in range(600)]
    with ScoreStore(url) as store:
        store.save([(key, StoredScore(value=0.25, evidence={"note": "한글"})) for key in keys])
        store.save([(keys[0], StoredScore(value=0.75))])
        found = store.find([key.case_digest for key in keys], metrics={"chrf": ("1", "")})
    assert len(found) == 600
    first = found[keys[0].case_digest, "chrf"]
    assert (first.value, first.evidence) == (0.25, {"note": "한글"}), "the first writer of a key wins"


def test_an_older_table_on_postgres_is_upgraded_in_place_and_keeps_its_rows(postgres: PostgresServer) -> None:
    url = postgres.create("older")
    key = ScoreKey(case_digest="d", metric="chrf", metric_version="1")
    with ScoreStore(url) as store:
        store.save([(key, StoredScore(value=0.25, prompt_tokens=7))])
    postgres.execute("older", "ALTER TABLE scores DROP COLUMN judge_calls, DROP COLUMN embedding_tokens")
    postgres.execute("older", "DROP TABLE claims")
    postgres.execute("older", "DROP TABLE evalvault_schemas")
    with ScoreStore(url) as store:
        assert store.find(["d"], metrics={"chrf": ("1", "")})["d", "chrf"] == StoredScore(value=0.25, prompt_tokens=7)
        more = ScoreKey(case_digest="e", metric="chrf", metric_version="1")
        store.save([(more, StoredScore(value=1.0, judge_calls=2, embedding_tokens=5))])
        assert store.find(["e"], metrics={"chrf": ("1", "")})["e", "chrf"].judge_calls == 2
        assert store.claim(["d"], judge="openai/gpt", owner=new_owner()) == {"d"}


def test_two_owners_on_postgres_share_no_case_however_they_race(postgres: PostgresServer) -> None:
    """Eight threads claim the same 700 cases at once, each with an engine of its own; every case has one owner."""
    url = postgres.create("claims")
    digests = [f"{number:064d}" for number in range(700)]
    ScoreStore(url).close()
    together = threading.Barrier(8)

    def claim(number: int) -> set[str]:
        with ScoreStore(url) as store:
            together.wait(30)
            return store.claim(digests[number:] + digests[:number], judge="openai/gpt", owner=new_owner())

    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(claim, range(8)))
    assert sorted(digest for mine in claimed for digest in mine) == digests


def test_a_claim_on_postgres_ends_with_its_scores_with_its_release_and_when_it_is_not_renewed(postgres: PostgresServer) -> None:
    url = postgres.create("ends")
    first, second = new_owner(), new_owner()
    key = ScoreKey(case_digest="a", metric="faithfulness", metric_version="1", judge="j")
    with ScoreStore(url) as store:
        assert store.claim(["a", "b", "c", "d"], judge="j", owner=first) == {"a", "b", "c", "d"}
        store.save([(key, StoredScore(value=1.0))], done=[("a", "j")], owner=first)
        assert store.claim(["a", "b", "c", "d"], judge="j", owner=second) == {"a"}
        postgres.execute("ends", "UPDATE claims SET renewed_at = renewed_at - 61 WHERE case_digest = 'b'")
        assert store.claim(["b", "c", "d"], judge="j", owner=second) == {"b"}
        store.release(first)
        assert store.claim(["b", "c", "d"], judge="j", owner=second) == {"b", "c", "d"}


def test_a_run_is_kept_in_postgres_and_the_next_one_computes_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    project = UserProject(tmp_path, EVALVAULT_STORE_URL=postgres.create("runs"))
    command = "evalvault run data/datasets/insurance_qa_en/2026w47.jsonl".split()
    project.run(*command)
    again = project.run(*command)
    assert "nothing computed: all 96 scores" in again.stdout
    assert PASSWORD not in again.stdout + again.stderr and "%20" not in again.stdout


def test_dagster_and_the_score_store_keep_all_in_one_postgres_by_the_same_variables(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Both have a table of runs; neither takes that of the other for its own."""
    postgres.create("dagster")
    project = UserProject(tmp_path, **postgres.variables("dagster"), EVALVAULT_STORE_URL="dagster")
    done = project.run("evalvault", "backfill", "insurance_qa_en")
    assert "insurance_qa_en 2026w47: " in done.stdout
    (run,) = postgres.execute("dagster", "SELECT run_id, status, pipeline_name FROM runs")
    assert run[1:] == ("SUCCESS", "insurance_qa_en_evaluation_job")
    assert postgres.execute("dagster", "SELECT run_id, snapshot FROM recorded_runs") == [(run[0], "2026w47")]
    assert postgres.execute("dagster", "SELECT count(*) FROM scores") == [(96,)]
    tables = postgres.execute("dagster", "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    words = [str(row) for (name,) in tables for row in postgres.execute("dagster", f'SELECT * FROM "{name}"')]
    assert len(words) > 50
    assert not [word for word in words if PASSWORD in word or PASSWORD.replace(" ", "%20") in word], "the password is stored"
    assert not (project.folder / "data" / ".dagster" / "history").exists()
    assert not (project.folder / "data" / "results" / "scores.sqlite").exists()


def test_what_is_kept_in_sqlite_is_copied_to_postgres_and_costs_nothing_there(postgres: PostgresServer, tmp_path: Path) -> None:
    project = UserProject(tmp_path)
    command = "evalvault run data/datasets/insurance_qa_en/2026w47.jsonl".split()
    project.run(*command)
    project.environment["EVALVAULT_STORE_URL"] = postgres.create("moved")
    said = project.run("evalvault", "copy-store", "data/results/scores.sqlite").stdout
    assert "96 scores, 1 recorded_runs, 1 run_cases" in said and PASSWORD not in said
    assert "0 scores, 0 recorded_runs" in project.run("evalvault", "copy-store", "data/results/scores.sqlite").stdout
    assert "nothing computed: all 96 scores" in project.run(*command).stdout


def test_a_server_that_is_killed_and_comes_back_loses_no_score_of_the_run_that_waits_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    with PostgresServer(folder) as server:
        url = server.create("store")
        keys = [ScoreKey(case_digest=f"{number:064d}", metric="chrf", metric_version="1") for number in range(4000)]
        with ScoreStore(url) as store, ThreadPoolExecutor(1) as thread:
            writing = thread.submit(lambda: [store.save([(key, StoredScore(value=0.5))]) for key in keys])
            wait_for(lambda: store.count() > 20, seconds=120)
            server.kill()
            assert not writing.done()
            server.start()
            writing.result(timeout=60)
            assert store.count() == len(keys)


@pytest.mark.parametrize("source", ["environment", "settings file"])
def test_a_postgres_host_without_user_and_password_is_one_clear_sentence(tmp_path: Path, source: str) -> None:
    """Dagster's storage reads the settings file as well: else runs would quietly go to SQLite."""
    host = {"DAGSTER_PG_HOST": "127.0.0.1"} if source == "environment" else {"EVALVAULT_ENV": "test"}
    project = UserProject(tmp_path, **host)
    (project.folder / ".env.test").write_text("DAGSTER_PG_HOST=127.0.0.1\n", encoding="utf-8")
    done = project.run("evalvault", "backfill", "insurance_qa_en", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "DAGSTER_PG_HOST is set, but DAGSTER_PG_USER, DAGSTER_PG_PASSWORD is not" in done.stderr
