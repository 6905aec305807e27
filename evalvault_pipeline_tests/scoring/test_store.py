"""The score store: what is kept, what is found again, and what happens when it cannot be reached."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from evalvault_pipeline.errors import InvalidSetting, ScoreStoreUnavailable
from evalvault_pipeline.scoring.store import CLAIM_SECONDS, ScoreKey, ScoreStore, StoredScore, new_owner

JUDGE = "openai/gpt-5-mini@0123456789abcdef"
VERSIONS = {"chrf": ("1", ""), "token_f1": ("1+ngram-1", "")}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'folder' / 'scores.sqlite'}"


def key(digest: str = "d1", metric: str = "chrf", version: str = "1", judge: str = "", repeat: int = 0) -> ScoreKey:
    return ScoreKey(case_digest=digest, metric=metric, metric_version=version, judge=judge, repeat=repeat)


def test_a_score_comes_back_from_another_process_life_as_it_was_kept(url: str):
    """Evidence in Korean, with emoji, quotes, a line separator and nesting; a cost that may be unknown."""
    kept = StoredScore(
        value=0.1 + 0.2,
        evidence={"문장": "암 😀 \"'\u2028 ‘인용’", "weakest": {"words": ["없음", None, 1.5]}},
        seconds=0.25,
        prompt_tokens=10,
        completion_tokens=3,
        cost_usd=None,
    )
    with ScoreStore(url) as store:
        store.save([(key(), kept), (key("d2"), StoredScore(value=1.0, cost_usd=0.002))])
    with ScoreStore(url) as store:
        found = store.find(["d1", "d2"], metrics=VERSIONS)
    assert found == {("d1", "chrf"): kept, ("d2", "chrf"): StoredScore(value=1.0, cost_usd=0.002)}


def test_the_first_writer_of_a_key_wins(url: str):
    with ScoreStore(url) as store:
        store.save([(key(), StoredScore(value=0.25))])
        store.save([(key(), StoredScore(value=0.75)), (key("d2"), StoredScore(value=0.5))])
        found = store.find(["d1", "d2"], metrics=VERSIONS)
    assert {item: score.value for item, score in found.items()} == {("d1", "chrf"): 0.25, ("d2", "chrf"): 0.5}


def test_a_score_is_found_only_under_its_version_judge_and_repeat(url: str):
    kept = key(version="ragas-0.4.3", judge="ollama/a", repeat=1)
    with ScoreStore(url) as store:
        store.save([(kept, StoredScore(value=0.5))])
        asked = {"chrf": ("ragas-0.4.3", "ollama/a")}
        assert store.find(["d1"], metrics=asked, repeat=1)
        assert not store.find(["d1"], metrics={"chrf": ("ragas-0.4.4", "ollama/a")}, repeat=1)
        assert not store.find(["d1"], metrics={"token_f1": ("ragas-0.4.3", "ollama/a")}, repeat=1)
        assert not store.find(["d1"], metrics={"chrf": ("ragas-0.4.3", "ollama/b")}, repeat=1)
        assert not store.find(["d1"], metrics={"chrf": ("ragas-0.4.3", "")}, repeat=1)
        assert not store.find(["d1"], metrics=asked)
        assert not store.find(["d2"], metrics=asked, repeat=1)


def test_each_metric_is_looked_up_under_its_own_version(url: str):
    """`token_f1` in version 1 is not meant by {chrf: 1, token_f1: 1+ngram-1}."""
    with ScoreStore(url) as store:
        store.save([(key(metric="token_f1", version="1"), StoredScore(value=0.5))])
        assert store.find(["d1"], metrics=VERSIONS) == {}


def test_nothing_is_found_where_nothing_is_asked_for(url: str):
    with ScoreStore(url) as store:
        store.save([(key(), StoredScore(value=0.5))])
        store.save([])
        assert store.find([], metrics=VERSIONS) == store.find(["d1"], metrics={}) == {}
        assert store.count() == 1


def test_more_digests_than_one_query_takes_are_all_found_and_all_forgotten(url: str):
    digests = [f"d{number}" for number in range(1_201)]
    with ScoreStore(url) as store:
        store.save([(key(digest), StoredScore(value=0.5)) for digest in digests])
        assert len(store.find([*digests, *digests], metrics=VERSIONS)) == 1_201
        store.forget(digests, metrics=VERSIONS)
        assert store.count() == 0


def test_forgetting_drops_what_would_be_found_and_no_paid_score_of_a_judge(url: str):
    with ScoreStore(url) as store:
        store.save([(key(digest), StoredScore(value=0.5)) for digest in ("d1", "d2")])
        store.save([(key(judge="openai/gpt"), StoredScore(value=0.5)), (key(version="2"), StoredScore(value=0.5))])
        store.forget(["d1"], metrics=VERSIONS)
        assert list(store.find(["d1", "d2"], metrics=VERSIONS)) == [("d2", "chrf")]
        assert store.count() == 3


def _write(url: str, start: multiprocessing.synchronize.Event, value: float, count: int) -> None:
    start.wait(30)
    with ScoreStore(url) as store:
        for number in range(count):
            store.save([(key(f"d{number}"), StoredScore(value=value)), (key(f"{value}-{number}"), StoredScore(value=value))])


def test_two_processes_that_make_and_fill_a_store_at_once_lose_nothing(url: str):
    """Both make the table, both write the same 60 keys and 60 of their own; every key has the value of one of them."""
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    writers = [context.Process(target=_write, args=(url, start, value, 60)) for value in (0.25, 0.75)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with ScoreStore(url) as store:
        shared = store.find([f"d{number}" for number in range(60)], metrics=VERSIONS)
        assert len(shared) == 60 and {score.value for score in shared.values()} <= {0.25, 0.75}
        assert store.count() == 180


@pytest.mark.parametrize(
    "url",
    [
        "scores.sqlite",
        "",
        "sqlite+nodriver:///scores.sqlite",
        "nodatabase://user:geheim@host/db",
        "postgresql://user:geheim@host:port/db",
        "postgresql://host:geheim",
    ],
)
def test_a_url_that_cannot_be_used_is_a_setting_named_with_the_right_form_and_without_the_password(url: str):
    with pytest.raises(
        InvalidSetting, match=r"EVALVAULT_STORE_URL cannot be used: .+ Write sqlite:///file or postgresql"
    ) as caught:
        ScoreStore(url)
    assert "geheim" not in str(caught.value)


def test_a_server_that_does_not_answer_is_named_with_the_remedy_and_without_the_password():
    pytest.importorskip("psycopg2")
    with pytest.raises(
        ScoreStoreUnavailable, match=r"user:.{3}@127.0.0.1:1/db does not answer.+Check EVALVAULT_STORE_URL"
    ) as caught:
        ScoreStore("postgresql://user:geheim@127.0.0.1:1/db")
    assert "geheim" not in str(caught.value) and caught.value.exit_code == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ScoreStoreUnavailable, match=r"folder of the score store .*file/sub/s.sqlite cannot be made.+EVALVAULT_STORE_URL"
    ):
        ScoreStore(f"sqlite:///{tmp_path}/file/sub/s.sqlite")


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    (tmp_path / "s.sqlite").write_text("no database " * 100)
    with pytest.raises(ScoreStoreUnavailable, match=r"s.sqlite does not answer: file is not a database"):
        ScoreStore(f"sqlite:///{tmp_path}/s.sqlite")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opened read-only by its URL, as a read-only volume would be: a permission means nothing to root."""
    monkeypatch.chdir(tmp_path)
    ScoreStore(f"sqlite:///{tmp_path}/s.sqlite").close()
    with ScoreStore(f"sqlite:///file:{tmp_path}/s.sqlite?mode=ro&uri=true") as store:
        assert store.count() == 0
        with pytest.raises(ScoreStoreUnavailable, match="readonly database"):
            store.save([(key(), StoredScore(value=0.5))])
    assert not (tmp_path / "file:").exists()


# A store of an earlier version --------------------------------------------------------------------------------------------

# As version 0.2 made it: no `judge_calls`, no `embedding_tokens`, no claims.
OLDER = """
CREATE TABLE scores (
    case_digest VARCHAR(64) NOT NULL, metric VARCHAR(64) NOT NULL, metric_version VARCHAR(128) NOT NULL,
    judge VARCHAR(128) NOT NULL, repeat INTEGER NOT NULL, value DOUBLE NOT NULL, evidence TEXT NOT NULL,
    seconds DOUBLE NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd DOUBLE,
    scored_at VARCHAR(32) NOT NULL, PRIMARY KEY (case_digest, metric, metric_version, judge, repeat)
)
"""
OLD_ROW = ("d1", "chrf", "1", "", 0, 0.25, '{"note":"옛 줄"}', 0.5, 10, 3, None, "2026-01-01T00:00:00.000000+00:00")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    file = tmp_path / "older.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute(OLDER)
        connection.execute(f"INSERT INTO scores VALUES ({', '.join('?' * len(OLD_ROW))})", OLD_ROW)
    return file


def test_a_store_of_an_earlier_version_is_upgraded_in_place_and_keeps_its_rows(older: Path):
    kept = StoredScore(value=0.25, evidence={"note": "옛 줄"}, seconds=0.5, prompt_tokens=10, completion_tokens=3)
    judged = StoredScore(value=0.75, judge_calls=2, embedding_tokens=9, cost_usd=0.001)
    with ScoreStore(f"sqlite:///{older}") as store:
        assert store.find(["d1"], metrics=VERSIONS) == {("d1", "chrf"): kept}
        store.save([(key("d2", judge=JUDGE), judged)])
        assert store.claim(["d1"], judge=JUDGE, owner=new_owner()) == {"d1"}
    with ScoreStore(f"sqlite:///{older}") as store:
        assert store.find(["d1"], metrics=VERSIONS) == {("d1", "chrf"): kept}
        assert store.find(["d2"], metrics={"chrf": ("1", JUDGE)}) == {("d2", "chrf"): judged}
        assert store.count() == 2


def _open(url: str, start: multiprocessing.synchronize.Event) -> None:
    start.wait(30)
    with ScoreStore(url) as store:
        assert store.find(["d1"], metrics=VERSIONS)["d1", "chrf"].judge_calls == 0


def test_four_processes_that_upgrade_a_store_at_once_all_find_what_it_held(older: Path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    openers = [context.Process(target=_open, args=(f"sqlite:///{older}", start)) for _ in range(4)]
    for opener in openers:
        opener.start()
    start.set()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0, 0, 0, 0]


def test_an_earlier_version_of_the_program_still_writes_to_an_upgraded_store(older: Path):
    """It names its own columns; those that it does not know have a default."""
    ScoreStore(f"sqlite:///{older}").close()
    names = "case_digest, metric, metric_version, judge, repeat, value, evidence, seconds, prompt_tokens, completion_tokens, cost_usd, scored_at"
    with sqlite3.connect(older) as connection:
        connection.execute(f"INSERT INTO scores ({names}) VALUES ({', '.join('?' * len(OLD_ROW))})", ("d2", *OLD_ROW[1:]))
    with ScoreStore(f"sqlite:///{older}") as store:
        found = store.find(["d2"], metrics=VERSIONS)["d2", "chrf"]
    assert (found.judge_calls, found.embedding_tokens) == (0, 0)


# Claims -------------------------------------------------------------------------------------------------------------------


def claimed_by_nobody_else(store: ScoreStore, *digests: str, judge: str = JUDGE) -> set[str]:
    """Those that a new owner gets; it gives them up again."""
    owner = new_owner()
    found = store.claim(digests, judge=judge, owner=owner)
    store.release(owner)
    return found


def test_the_second_to_claim_cases_gets_only_those_that_the_first_has_not(url: str):
    first, second = new_owner(), new_owner()
    with ScoreStore(url) as store:
        assert store.claim(["a", "b", "c"], judge=JUDGE, owner=first) == {"a", "b", "c"}
        assert store.claim(["b", "c", "d"], judge=JUDGE, owner=second) == {"d"}
        assert store.claim(["a", "d"], judge=JUDGE, owner=first) == {"a"}


def test_another_judge_may_judge_the_same_case_meanwhile(url: str):
    with ScoreStore(url) as store:
        assert store.claim(["a"], judge=JUDGE, owner=new_owner()) == {"a"}
        assert store.claim(["a"], judge="ollama/gemma3:1b@0", owner=new_owner()) == {"a"}


def test_more_cases_than_one_query_takes_are_all_claimed_and_all_released(url: str):
    digests = [f"d{number}" for number in range(1_201)]
    owner = new_owner()
    with ScoreStore(url) as store:
        assert store.claim(digests, judge=JUDGE, owner=owner) == set(digests)
        assert claimed_by_nobody_else(store, *digests) == set()
        store.save([], done=[(digest, JUDGE) for digest in digests[:700]], owner=owner)
        assert claimed_by_nobody_else(store, *digests) == set(digests[:700])
        store.release(owner)
        assert claimed_by_nobody_else(store, *digests) == set(digests)


def test_a_claim_ends_in_the_transaction_that_keeps_its_scores(url: str):
    owner = new_owner()
    scored = [(key("a", judge=JUDGE), StoredScore(value=0.5))]
    with ScoreStore(url) as store:
        store.claim(["a", "b"], judge=JUDGE, owner=owner)
        store.save(scored, done=[("a", JUDGE)], owner=owner)
        assert claimed_by_nobody_else(store, "a", "b") == {"a"}
        assert set(store.find(["a", "b"], metrics={"chrf": ("1", JUDGE)})) == {("a", "chrf")}


def test_a_case_without_any_measured_score_gives_its_claim_up_too(url: str):
    owner = new_owner()
    with ScoreStore(url) as store:
        store.claim(["a"], judge=JUDGE, owner=owner)
        store.save([], done=[("a", JUDGE)], owner=owner)
        assert claimed_by_nobody_else(store, "a") == {"a"}


def test_nobody_ends_a_claim_but_its_owner(url: str):
    owner, stranger = new_owner(), new_owner()
    with ScoreStore(url) as store:
        store.claim(["a"], judge=JUDGE, owner=owner)
        store.save([], done=[("a", JUDGE)], owner=stranger)
        store.save([], done=[("a", "ollama/gemma3:1b@0")], owner=owner)
        store.release(stranger)
        assert claimed_by_nobody_else(store, "a") == set()


def test_a_release_ends_all_claims_of_its_owner_and_no_other(url: str):
    first, second = new_owner(), new_owner()
    with ScoreStore(url) as store:
        store.claim(["a", "b"], judge=JUDGE, owner=first)
        store.claim(["c"], judge=JUDGE, owner=second)
        store.release(first)
        assert claimed_by_nobody_else(store, "a", "b", "c") == {"a", "b"}


CLAIMING = """
import json, sys, time
from evalvault_pipeline.scoring.store import ScoreStore, new_owner
store = ScoreStore(sys.argv[1])
print(json.dumps(sorted(store.claim(["a", "b"], judge=sys.argv[2], owner=new_owner()))), flush=True)
time.sleep(120)
"""


def test_a_claim_ends_with_its_process_and_not_before(url: str):
    with subprocess.Popen([sys.executable, "-c", CLAIMING, url, JUDGE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        claimed = json.loads(process.stdout.readline())
        with ScoreStore(url) as store:
            alive = claimed_by_nobody_else(store, "a", "b", "c")
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            dead = store.claim(["a", "b", "c"], judge=JUDGE, owner=new_owner())
    assert (claimed, alive, dead) == (["a", "b"], {"c"}, {"a", "b", "c"})


def age_claims(url: str, seconds: float) -> None:
    """Let so much time pass since every claim was renewed."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE claims SET renewed_at = renewed_at - ?", (seconds,))


def test_a_claim_that_is_not_renewed_for_a_minute_is_anyones(url: str):
    """Its owner is alive, as far as one can see; but it may be on another machine, or hang."""
    with ScoreStore(url) as store:
        store.claim(["a"], judge=JUDGE, owner=new_owner())
        age_claims(url, CLAIM_SECONDS - 5)
        assert claimed_by_nobody_else(store, "a") == set()
        age_claims(url, 10)
        assert claimed_by_nobody_else(store, "a") == {"a"}


def test_a_renewed_claim_is_kept_however_long_it_takes(url: str):
    owner, other = new_owner(), new_owner()
    with ScoreStore(url) as store:
        store.claim(["a"], judge=JUDGE, owner=owner)
        store.claim(["b"], judge=JUDGE, owner=other)
        age_claims(url, CLAIM_SECONDS + 5)
        store.renew(owner)
        assert claimed_by_nobody_else(store, "a", "b") == {"b"}


def test_whether_a_process_of_another_machine_is_alive_is_told_by_its_renewals_alone(url: str):
    """Its number may be that of a dead process here."""
    elsewhere = "another-machine:999999999:0123456789ab"
    with ScoreStore(url) as store:
        store.claim(["a"], judge=JUDGE, owner=elsewhere)
        assert claimed_by_nobody_else(store, "a") == set()
        age_claims(url, CLAIM_SECONDS + 5)
        assert claimed_by_nobody_else(store, "a") == {"a"}


def test_of_many_that_claim_at_once_one_gets_each_case(url: str):
    """Eight threads, each with a connection of its own, in eight orders; then eight for the claims of a dead process."""
    digests = [f"d{number}" for number in range(300)]
    with ScoreStore(url) as store:
        store.claim(digests[:100], judge=JUDGE, owner=f"{new_owner().split(':')[0]}:999999999:0123456789ab")
    together = Barrier(8)

    def claim(number: int) -> set[str]:
        with ScoreStore(url) as store:
            together.wait(30)
            at = 40 * number
            return store.claim(digests[at:] + digests[:at], judge=JUDGE, owner=new_owner())

    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(claim, range(8)))
    assert sorted(digest for mine in claimed for digest in mine) == sorted(digests)


def test_every_run_is_an_owner_of_its_own_and_names_its_process():
    names = {new_owner() for _ in range(100)}
    assert len(names) == 100
    assert {name.split(":")[-2] for name in names} == {str(os.getpid())} and max(map(len, names)) <= 160


def test_a_store_that_several_open_for_the_first_time_at_once_is_made_once(tmp_path: Path):
    failed: list[BaseException] = []
    for number in range(25):
        together = threading.Barrier(4)

        def open_it(url: str = f"sqlite:///{tmp_path / str(number)}.sqlite", together: threading.Barrier = together) -> None:
            together.wait()
            try:
                ScoreStore(url).close()
            except Exception as error:  # noqa: BLE001  a thread's failure is the test's
                failed.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
