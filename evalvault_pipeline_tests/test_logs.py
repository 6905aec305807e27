"""Log lines: whole, of one form, shared by processes without a loss, and without a secret in them."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.logs import configure_logging, know_secrets, log_context, without_secrets
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import UserProject

CANARY = "canary-4f9a81c2"
ROTATED_FILES = 8
KEYS = [
    "sk-proj-abcdefghijklmnop1234",
    "xoxb-111111111111-222222222222",
    "https://hooks.slack.com/services/T000/B000/XXXXXXXX",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
    "Authorization: Bearer abcdef0123456789",
    "postgresql://user:hunter2secret@127.0.0.1/db",
]
QUOTED = [  # (what is told, what must not be)
    ("Incorrect API key provided: sk-proj-****abcd.", "abcd"),
    ("Incorrect API key provided: sk-pr***********************wxyz. You can find", "wxyz"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    ("authorization: bearer abcdef0123456789", "abcdef0123456789"),
    ("sent bearer abcdef0123456789 to it", "abcdef0123456789"),
    ("{'Authorization': 'Token abcdef0123456789'}", "abcdef0123456789"),
    ("키는 ghp_abcdefghijklmnopqrstuvwxyz0123456789입니다", "klmnop"),
    ("github_pat_11ABCDEFG0_abcdefghijklmnop", "klmnop"),
    ("키AIzaSyA1234567890abcdefghijklmnopqrstuv를", "klmnop"),
    ("키AKIAIOSFODNN7EXAMPLE를", "EXAMPLE"),
    ("X-API-Key: plain-looking-value", "looking"),
    ("{'x-api-key': 'plain-looking-value'}", "looking"),
    ("[(b'x-api-key', b'plain-looking-value')]", "looking"),
]
PLAIN = ["the bearer of the policy", "Basic understanding of authorization", "an API key: none", "ask-me-anything-of-it"]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    for handler in set(root.handlers) - set(kept):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_a_line_is_as_the_guide_says_with_what_it_is_about(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "evalvault.log"
    configure_logging(verbose=False, file=file)
    with log_context(run="r1", dataset="qa"), log_context(batch="0003"):
        logging.getLogger("evalvault.x").info("scored %d", 3)
    logging.getLogger("evalvault.x").info("after")
    first, second = lines(file)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - evalvault\.x - INFO - scored 3 \[run=r1 dataset=qa batch=0003\]", first
    )
    assert second.endswith(" - INFO - after")


def test_the_stream_shows_warnings_and_with_verbose_everything(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbose=False)
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    configure_logging(verbose=True)
    logging.getLogger("x").info("told")
    told = capfd.readouterr().err
    assert "quiet" not in told
    assert told.count("loud") == 1
    assert told.count("told") == 1


def test_json_lines_are_objects_with_the_same_content(tmp_path: Path) -> None:
    file = tmp_path / "evalvault.log"
    configure_logging(verbose=False, file=file, form="json")
    with log_context(run="r1"):
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            logging.getLogger("x").exception("it failed")
    (line,) = lines(file)
    found = json.loads(line)
    assert (found["level"], found["message"], found["run"]) == ("ERROR", "it failed", "r1")
    assert "ValueError: broken" in found["exception"]


def test_four_processes_lose_no_line_while_the_file_is_rotated(tmp_path: Path) -> None:
    """logging.handlers.RotatingFileHandler lost 8 % of them."""
    code = (
        "import sys, logging, pathlib; from evalvault_pipeline.logs import configure_logging\n"
        "configure_logging(verbose=False, file=pathlib.Path(sys.argv[1]), max_mb=0.05, keep_days=1000)\n"
        "for n in range(1000): logging.getLogger('x').info('line %s %04d %s', sys.argv[2], n, 'y' * 40)\n"
    )
    file = tmp_path / "evalvault.log"
    writers = [subprocess.Popen([sys.executable, "-c", code, file, str(number)], cwd=PROJECT) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    found = [line.split(" - INFO - ")[1] for part in tmp_path.glob("evalvault.log*") for line in lines(part)]
    assert (len(found), len(set(found))) == (4000, 4000)
    assert len(list(tmp_path.glob("evalvault.log*"))) >= ROTATED_FILES, "docs/logs.md says so"


def test_rotated_files_are_kept_for_days_however_many_a_day_has(tmp_path: Path) -> None:
    today = datetime.now().date()
    days = {days: tmp_path / f"evalvault.log.{today - timedelta(days=days)}" for days in (1, 3, 4)}
    others = [tmp_path / "evalvault.log.2001-01-01.bak", tmp_path / "other.log.2001-01-01"]
    for old in [*days.values(), tmp_path / f"{days[4].name}.12", *others]:
        old.write_text("old", encoding="utf-8")
    configure_logging(file=tmp_path / "evalvault.log", max_mb=0.001, keep_days=3)
    for number in range(100):
        logging.getLogger("x").info("line %d", number)
    assert len(list(tmp_path.glob(f"evalvault.log.{today}*"))) > 3
    assert [number for number, file in days.items() if file.exists()] == [1, 3]
    assert not list(tmp_path.glob(f"{days[4].name}*"))
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("key", KEYS)
def test_what_looks_like_a_secret_is_hidden(key: str) -> None:
    shown = without_secrets(f"failed with {key} at once")
    secret = re.sub(r"^(Authorization: Bearer |https://|postgresql://user:)|@.*$", "", key)
    assert secret not in shown
    assert "[SECRET]" in shown
    assert shown.startswith("failed with ")


@pytest.mark.parametrize(("told", "secret"), QUOTED)
def test_a_secret_that_others_quote_is_hidden(told: str, secret: str) -> None:
    shown = without_secrets(f"failed with {told} at once")
    assert secret not in shown
    assert "[SECRET]" in shown
    assert shown.startswith("failed with ")
    assert shown.endswith(" at once")


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert without_secrets(text) == text


def test_the_password_of_a_known_url_is_hidden_alone_as_written_and_as_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://user:Hunter2%40pass@mail.example.invalid:587")
    know_secrets(["https://user:Other2pass@hook.example.invalid/x", "https://[no-url:secret@"])
    for password in ("Hunter2%40pass", "Hunter2@pass", "Other2pass"):
        assert without_secrets(f"auth failed for password {password}") == "auth failed for password [SECRET]"


def test_a_known_secret_is_hidden_in_messages_exceptions_warnings_and_the_last_traceback(tmp_path: Path) -> None:
    file = tmp_path / "evalvault.log"
    code = (
        "import sys, logging, pathlib, threading, warnings; from evalvault_pipeline.logs import configure_logging, know_secrets\n"
        "key = 'canary-' + '4f9a81c2'; know_secrets([key])\n"
        "configure_logging(verbose=True, file=pathlib.Path(sys.argv[1]))\n"
        "logging.getLogger('x').info('with %s in it', key)\n"
        "warnings.warn('beware of ' + key)\n"
        "try: raise ValueError(key)\n"
        "except ValueError: logging.getLogger('x').exception('it broke')\n"
        "logging.getLogger('x').error('mistaken %s %s', key)\n"
        "def fail(): raise KeyError('in a thread ' + key)\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "class Ends:\n"
        "    def __del__(self): raise OSError('in the end ' + key)\n"
        "Ends()\n"
        "raise RuntimeError('the end of ' + key)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], cwd=PROJECT, capture_output=True, text=True)
    told = done.stdout + done.stderr + file.read_text(encoding="utf-8")
    assert done.returncode == 1
    assert CANARY not in told
    assert all(
        word in told
        for word in (
            "with [SECRET] in it",
            "beware of [SECRET]",
            "ValueError: [SECRET]",
            "mistaken %s %s ('[SECRET]',)",
            "in a thread [SECRET]",
            "in the end [SECRET]",
            "the end of [SECRET]",
        )
    )


def test_who_is_named_in_a_text_is_not_named_in_the_log(tmp_path: Path) -> None:
    configure_logging(verbose=False, file=tmp_path / "evalvault.log", redact=redacted)
    logging.getLogger("x").info("asked by 010-1234-5678로 and kim@example.invalid")
    assert lines(tmp_path / "evalvault.log")[0].endswith("asked by [PHONE]로 and [EMAIL]")


def test_secrets_of_the_environment_are_known_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "plainlookingvalue")
    know_secrets([])
    assert without_secrets("it was plainlookingvalue") == "it was [SECRET]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pa@canary@h:6379/0", "redis://[SECRET]@h:6379/0"),
        ("http://u:canary@h/x?mail=k@d", "http://[SECRET]@h/x?mail=k@d"),
        ("http:/u:canary@[bad", "http:/[SECRET]@[bad"),
    ],
)
def test_a_password_with_an_at_or_in_a_path_is_hidden_whole(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_password_that_is_masked_already_stays_as_it_is() -> None:
    assert without_secrets("postgresql://user:***@db/scores") == "postgresql://user:***@db/scores"


def test_a_short_value_blots_out_no_words() -> None:
    know_secrets(["a", "the"])
    assert without_secrets("the cat") == "the cat"


def test_warnings_are_lines_too(tmp_path: Path) -> None:
    configure_logging(verbose=False, file=tmp_path / "evalvault.log")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("watch out", stacklevel=1)
    assert "watch out" in (tmp_path / "evalvault.log").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_run_of_dagster_writes_to_the_same_file_with_run_dataset_and_batch(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project")
    user.run("evalvault", "backfill", "insurance_qa_en", "--cases", "0")
    tags = {"dagster/partition": "2026w47/0002"}
    job = ("dagster", "job", "execute", "-m", "evalvault_pipeline.definitions", "-j", "insurance_qa_en_evaluation_job")
    user.run(*job, "--tags", json.dumps(tags))
    told = [line for line in lines(user.folder / "data" / "results" / "logs" / "evalvault.log") if "batches scored" in line]
    assert len(told) == 4
    run = user.results("insurance_qa_en", "2026w47")["run_id"]
    assert told[-1].endswith(
        f"1 of 1 batches scored, the last was 2026w47/0002 [run={run} dataset=insurance_qa_en batch=2026w47/0002]"
    )
    with sqlite3.connect(user.folder / "data" / ".dagster" / "history" / "runs" / f"{run}.db") as events:
        assert events.execute("SELECT count(*) FROM event_logs WHERE event LIKE '%1 of 1 batches scored%'").fetchone()[0] >= 1


def test_a_log_file_that_cannot_be_written_ends_no_run_of_dagster(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project", EVALVAULT_LOG_FILE="dagster.yaml/evalvault.log")
    job = ("dagster", "job", "execute", "-m", "evalvault_pipeline.definitions", "-j", "register_snapshots_job")
    assert "set EVALVAULT_LOG_FILE" in user.run(*job).stderr
