"""What the journal keeps of a killed run, whom it belongs to, and when it goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalvault_pipeline.errors import UnwritableFile
from evalvault_pipeline.scoring.journal import KEPT_SECONDS, Bill, Journal

KEY = Journal.key("openai/x@1", "Shape", "How much?")


def killed(folder: Path, *notes: tuple[str, dict[str, str], Bill]) -> Path:
    """Write these notes in a process that is gone without an end, as after `kill -9`."""
    script = (
        "import sys, os, json; from pathlib import Path; from evalvault_pipeline.scoring.journal import Bill, Journal\n"
        "journal = Journal(Path(sys.argv[1])).__enter__()\n"
        "for case, texts, paid in json.loads(sys.argv[2]): journal.note(case, texts, Bill(*paid))\n"
        "os._exit(9)\n"
    )
    given = [
        (case, texts, [bill.prompt_tokens, bill.completion_tokens, bill.cost_usd, bill.calls]) for case, texts, bill in notes
    ]
    assert subprocess.run([sys.executable, "-c", script, str(folder), json.dumps(given)]).returncode == 9
    (file,) = folder.glob("*.jsonl")
    return file


def test_what_a_killed_process_has_paid_is_found_with_its_price(tmp_path: Path):
    killed(tmp_path, ("case-1", {f"{KEY}:0:0": "a", f"{KEY}:0:1": "b"}, Bill(30, 7, 0.5)))
    with Journal(tmp_path) as journal:
        first, second = journal.find(f"{KEY}:0:0"), journal.find(f"{KEY}:0:1")
        assert first and second and journal.find(f"{KEY}:0:2") is None
        assert (first.text, first.bill) == ("a", Bill(30, 7, 0.5))
        assert (second.text, second.bill) == ("b", Bill()), "three replies of one call are paid once"


def test_what_is_found_stays_for_the_next_process_until_its_scores_are_stored(tmp_path: Path):
    killed(tmp_path, ("case-1", {f"{KEY}:0:0": "a"}, Bill(1, 1, None)), ("case-2", {"k2": "b"}, Bill(1, 1, None)))
    with Journal(tmp_path) as journal:
        journal.settled(["case-1"])
    with Journal(tmp_path) as journal:
        assert journal.find(f"{KEY}:0:0") is None and journal.find("k2") is not None
        journal.settled(["case-2"])
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_journal_of_a_run_that_stored_everything_leaves_no_file(tmp_path: Path):
    with Journal(tmp_path) as journal:
        journal.note("case-1", {KEY: "a"}, Bill(1, 1, 0.0))
        journal.settled(["case-1"])
    assert list(tmp_path.iterdir()) == []


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path):
    with Journal(tmp_path) as mine:
        mine.note("case-1", {KEY: "a"}, Bill(1, 1, 0.0))
        with Journal(tmp_path) as other:
            assert other.find(KEY) is None
        mine.note("case-2", {"k2": "b"}, Bill(1, 1, 0.0))
    with Journal(tmp_path) as later:
        assert later.find(KEY) and later.find("k2")


def test_an_answer_is_on_its_way_to_the_disk_when_note_returns(tmp_path: Path):
    with Journal(tmp_path) as journal:
        journal.note("case-1", {KEY: "보험금 \u2028 \n 300만원"}, Bill(1, 1, 0.0))
        (file,) = tmp_path.glob("*.jsonl")
        (line,) = file.read_bytes().splitlines()
        assert json.loads(line)["texts"] == {KEY: "보험금 \u2028 \n 300만원"}


@pytest.mark.parametrize(
    "rubbish",
    [
        b'{"score": "case-2", "at": 17',
        b"\x00\x00\x00\x00\n",
        b"[]\n",
        b'"text"\n',
        b"{}\n",
        b'{"key": "k", "score": "c", "texts": ["a"], "tokens": [1, 2], "cost": null, "at": 9999999999}\n',
        b'{"score": "c", "at": "today", "texts": {}, "paid": [1, 2, null]}\n',
        b'{"score": "c", "at": 9999999999, "texts": {"k": "v"}, "paid": [1, 2, null, 4, 5]}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_line_that_is_cut_or_foreign_costs_only_itself(rubbish: bytes, tmp_path: Path):
    """The line in which a process died, a disk that filled with zeros, a journal of another version."""
    file = killed(tmp_path, ("case-1", {KEY: "a"}, Bill(1, 1, None)))
    file.write_bytes(rubbish.replace(b"\n", b"") + b"\n" + file.read_bytes() + rubbish)
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) is not None


def test_answers_of_long_ago_are_not_kept_for_ever(tmp_path: Path):
    file = killed(tmp_path, ("old", {KEY: "a"}, Bill(1, 1, None)), ("new", {"k2": "b"}, Bill(1, 1, None)))
    old, new = file.read_text().splitlines()
    file.write_text(json.dumps({**json.loads(old), "at": time.time() - KEPT_SECONDS - 1}) + f"\n{new}\n")
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) is None and journal.find("k2") is not None


def test_a_lock_file_that_was_left_behind_keeps_nobody_waiting(tmp_path: Path):
    killed(tmp_path, ("case-1", {KEY: "a"}, Bill(1, 1, None)))
    assert list(tmp_path.glob("*.lock"))
    began = time.monotonic()
    with Journal(tmp_path) as journal:
        assert journal.find(KEY)
    assert time.monotonic() - began < 8
    assert list(tmp_path.glob("*.lock")) == []


def test_an_answer_depends_on_the_judge_the_shape_and_the_whole_prompt():
    prompt = "가" * 5000
    keys = {
        Journal.key(judge, shape, text)
        for judge, shape, text in [
            ("a", "S", prompt),
            ("b", "S", prompt),
            ("a", "T", prompt),
            ("a", "S", prompt + "."),
            ("a", "S", "." + prompt),
            ("aS", "", prompt),
        ]
    }
    assert len(keys) == 6 and Journal.key("a", "S", prompt) in keys
    assert Journal.key("a", "S", "\ud83d")


def test_bills_add_up_and_one_unknown_price_makes_the_sum_unknown():
    total = Bill()
    total.add(Bill(10, 2, 0.5))
    total.add(Bill(1, 1, 0.25))
    assert total == Bill(11, 3, 0.75)
    total.add(Bill(1, 1, None))
    assert total == Bill(12, 4, None)
    total.add(Bill(1, 1, 1.0))
    assert total.cost_usd is None


def test_two_journals_of_one_process_do_not_share_a_file(tmp_path: Path):
    with Journal(tmp_path) as one, Journal(tmp_path) as two:
        one.note("a", {"k1": "1"}, Bill())
        two.note("b", {"k2": "2"}, Bill())
        assert len([name for name in os.listdir(tmp_path) if name.endswith(".jsonl")]) == 2


def test_what_is_noted_after_a_settlement_is_kept(tmp_path: Path):
    """A score that is asked for again, by another version or `--fresh`, has answers of its own."""
    with Journal(tmp_path) as journal:
        journal.note("case-1", {"k1": "old"}, Bill(1, 1, 0.0))
        journal.settled(["case-1"])
        journal.note("case-1", {"k2": "new"}, Bill(2, 2, 0.0))
        assert Journal.paid(tmp_path)["case-1"].prompt_tokens == 2
    with Journal(tmp_path) as journal:
        assert journal.find("k1") is None and journal.find("k2") is not None


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFile, match=r"cannot be written.*EVALVAULT_RESULTS_DIR"), Journal(tmp_path / "file"):
        pass


def test_a_disk_that_is_full_is_told_as_such(tmp_path: Path):
    with Path("/dev/full").open("ab", buffering=0) as full, Journal(tmp_path) as journal:
        file, journal._file = journal._file, full
        with pytest.raises(UnwritableFile, match="No space left"):
            journal.note("case-1", {"k": "a"}, Bill(1, 1, 0.0))
        journal._file = file
