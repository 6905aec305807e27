"""The score store: what is kept, what is found again, and what happens when it cannot be reached."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from evalvault_pipeline.errors import InvalidSetting, ScoreStoreUnavailable
from evalvault_pipeline.scoring.store import ScoreKey, ScoreStore, StoredScore

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
