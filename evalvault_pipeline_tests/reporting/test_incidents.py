"""When to alert: one message per incident, one when it is over, none by chance."""

from __future__ import annotations

from typing import Any

import pytest

from evalvault_pipeline.reporting.incidents import (
    GROUP_SECONDS,
    HOUR,
    Board,
    Cause,
    Compared,
    Kind,
    Notice,
    Reported,
    Rules,
    RunFailed,
    State,
)
from evalvault_pipeline.reporting.statistics import wilson_interval

RULES = Rules()
WEEK = 168 * HOUR


class Replay:
    """A board with a clock; what is told is kept."""

    def __init__(self) -> None:
        self.board, self.now = Board(), 0.0
        self.told: list[Notice] = []
        self.number = 0

    def report(self, passed: int, of: int = 100, dataset: str = "qa", **changes: Any) -> list[Kind]:
        """A report, and an hour."""
        self.number += 1
        low, high = wilson_interval(passed, of) or (0.0, 1.0)
        values: dict[str, Any] = {
            "id": f"report {self.number}",
            "dataset": dataset,
            "snapshot": f"w{self.number:04d}",
            "run_id": f"run{self.number}",
            "at": self.now,
            "pass_rate": passed / of,
            "low": low,
            "high": high,
            "coverage": 1.0,
            "threshold": 0.8,
            "min_coverage": 0.95,
            "evidence": f"e{self.number}",
        }
        return self.see(Reported(**{**values, **changes}), wait=HOUR)

    def verdict(self, outcome: str, p_value: float | None = 0.02, dataset: str = "qa") -> list[Kind]:
        self.number += 1
        return self.see(
            Compared(
                id=f"verdict {self.number}",
                dataset=dataset,
                snapshot=f"w{self.number:04d}",
                run_id=f"run{self.number}",
                at=self.now,
                outcome=outcome,
                p_value=p_value,
                sentence="pass rate 70 % after 90 %",
                evidence=f"e{self.number}",
            ),
            wait=HOUR,
        )

    def failed(self, dataset: str = "qa", *, judge_down: bool = False, wait: float = 0.0) -> list[Kind]:
        self.number += 1
        told = RunFailed(
            id=f"run {self.number}", dataset=dataset, run_id="r", at=self.now, why="it broke", judge_down=judge_down
        )
        return self.see(told, wait=wait)

    def see(self, observed: Any, *, wait: float = 0.0) -> list[Kind]:
        self.board = Board(self.board.content())  # what is kept is all that there is
        self.board.apply(observed)
        found = self.tell()
        self.now += wait
        return found

    def tell(self) -> list[Kind]:
        notices = self.board.tell(self.now, RULES)
        self.told += notices
        return [notice.kind for notice in notices]

    @property
    def state(self) -> State:
        return self.board.datasets["qa"].state


@pytest.fixture
def replay() -> Replay:
    return Replay()


def test_a_pass_rate_that_is_surely_too_low_alerts_at_once_and_recovers_once(replay: Replay) -> None:
    assert replay.report(93) == []
    assert replay.report(60) == [Kind.OPENED]
    assert replay.state is State.FIRING
    assert replay.report(93) == [Kind.RECOVERED]
    assert replay.report(93) == []
    assert replay.state is State.OK


def test_where_the_interval_straddles_the_threshold_a_second_run_confirms_it(replay: Replay) -> None:
    assert replay.report(77) == []
    assert replay.state is State.WARNING
    assert replay.report(76) == [Kind.OPENED]
    assert replay.report(84) == [Kind.UPDATED], "84 of 100 may still be a rate of 77 %"
    assert replay.state is State.FIRING
    assert replay.report(85) == [Kind.RECOVERED]


def test_a_warning_that_is_not_confirmed_says_nothing(replay: Replay) -> None:
    assert (replay.report(77), replay.report(88), replay.report(77)) == ([], [], [])
    assert replay.state is State.WARNING


def test_the_same_measurement_told_twice_confirms_nothing(replay: Replay) -> None:
    """A run whose scores all come from the store says again what was known."""
    assert replay.report(77, evidence="same") == []
    assert replay.report(77, evidence="same") == []
    assert replay.state is State.WARNING
    assert replay.report(77, evidence="other") == [Kind.OPENED]


def test_an_observation_counts_once(replay: Replay) -> None:
    replay.report(77, id="one")
    assert replay.report(76, id="one") == []
    assert replay.state is State.WARNING


def test_an_older_snapshot_scored_again_alerts_nobody(replay: Replay) -> None:
    replay.report(93, snapshot="2026w47")
    assert replay.report(20, snapshot="2026w46") == []
    assert replay.report(20, snapshot="2026w48", history=True) == []
    assert replay.state is State.OK


def test_too_little_measured_is_inconclusive_and_says_nothing_of_the_pass_rate(replay: Replay) -> None:
    replay.report(93)
    assert replay.report(40, coverage=0.5) == [Kind.OPENED]
    assert replay.state is State.INCONCLUSIVE
    assert replay.told[-1].causes == ["coverage"]
    assert replay.report(93) == [Kind.RECOVERED]


def test_a_spent_budget_is_told_as_such(replay: Replay) -> None:
    replay.report(40, coverage=0.5, budget_spent=True)
    assert replay.told[-1].causes == ["budget"]
    assert replay.report(93, coverage=0.97, budget_spent=True) == [Kind.UPDATED], "spent, although enough was measured"
    assert replay.report(93) == [Kind.RECOVERED]
    assert replay.report(60, coverage=0.97, budget_spent=True) == [Kind.OPENED]
    assert replay.told[-1].causes == ["budget", "pass_rate"]


def test_a_drop_against_the_baseline_is_confirmed_unless_it_is_beyond_doubt(replay: Replay) -> None:
    replay.report(93)
    assert replay.verdict("fail") == []
    assert replay.state is State.WARNING
    assert replay.verdict("fail") == [Kind.OPENED]
    assert replay.told[-1].facts["qa"]["drop"] == "pass rate 70 % after 90 %"
    assert replay.verdict("pass") == [Kind.RECOVERED]
    assert replay.verdict("fail", p_value=1e-6) == [Kind.OPENED]


def test_two_causes_of_a_dataset_are_one_incident(replay: Replay) -> None:
    assert replay.report(60) == [Kind.OPENED]
    assert replay.verdict("fail", p_value=1e-6) == [Kind.UPDATED]
    assert replay.report(95) == [Kind.UPDATED], "the drop is not over yet"
    assert replay.verdict("pass") == [Kind.RECOVERED]
    assert len(replay.board.incidents) == 1


def test_a_failed_run_alerts_and_a_report_ends_it(replay: Replay) -> None:
    replay.report(93)
    assert replay.failed() == [Kind.OPENED]
    assert replay.state is State.NO_DATA
    assert replay.told[-1].facts["qa"]["why"] == "it broke"
    assert replay.failed() == []
    assert replay.report(93) == [Kind.RECOVERED]


def test_a_judge_that_is_down_is_one_message_for_all_datasets(replay: Replay) -> None:
    for name in ("a", "b", "c", "d"):
        assert replay.failed(name, judge_down=True, wait=10.0) == []
    replay.now += GROUP_SECONDS
    assert replay.tell() == [Kind.OPENED]
    assert replay.told[-1].datasets == ["a", "b", "c", "d"]
    assert replay.failed("e", judge_down=True) == [Kind.UPDATED]
    assert [replay.report(93, dataset=name) for name in "abcd"] == [[]] * 4
    assert replay.report(93, dataset="e") == [Kind.RECOVERED]
    assert set(replay.told[-1].datasets) == set("abcde")


def test_a_short_outage_that_is_over_before_it_was_told_says_nothing(replay: Replay) -> None:
    replay.failed(judge_down=True)
    assert replay.report(93) == []
    replay.now += 2 * GROUP_SECONDS
    assert replay.tell() == []


def test_most_scores_lost_to_a_judge_that_does_not_answer_are_its_outage(replay: Replay) -> None:
    replay.report(40, coverage=0.5, judge_down=True)
    replay.now += GROUP_SECONDS
    replay.tell()
    assert replay.told[-1].causes == [Cause.JUDGE_DOWN]


def test_a_weekly_run_that_did_not_come_alerts_for_all_datasets_at_once(replay: Replay) -> None:
    replay.report(93, dataset="qa")
    replay.report(93, dataset="other")
    replay.now += 9 * 24 * HOUR
    replay.board.check_clock(replay.now, RULES, watched=["qa", "other", "never scored"])
    replay.now += GROUP_SECONDS
    assert replay.tell() == [Kind.OPENED]
    assert replay.told[-1].datasets == ["qa", "other"]
    replay.report(93, dataset="qa")
    assert replay.report(93, dataset="other") == [Kind.RECOVERED]


def test_an_open_incident_is_told_again_after_two_weeks_unless_somebody_works_on_it(replay: Replay) -> None:
    replay.report(60)
    opened = replay.told[-1].incident
    replay.now += 2 * WEEK
    assert replay.tell() == [Kind.REMINDER]
    assert replay.board.acknowledge(opened, "kim") is not None
    replay.now += 2 * WEEK
    assert replay.tell() == []
    assert replay.report(95) == [Kind.RECOVERED]
    assert replay.board.acknowledge(opened, "kim") is None


def test_a_muted_dataset_says_nothing_until_the_mute_ends(replay: Replay) -> None:
    replay.board.mute("qa", WEEK)
    assert replay.report(60) == []
    assert replay.state is State.FIRING
    replay.now = WEEK + 1
    assert replay.tell() == [Kind.OPENED]


def test_what_recovers_while_it_is_muted_was_never_told(replay: Replay) -> None:
    replay.board.mute("*", 4 * WEEK)
    assert (replay.report(60), replay.report(95)) == ([], [])


def test_an_overdue_backup_alerts_and_recovers(replay: Replay) -> None:
    replay.board.check_backup(0.0, overdue=False, age_hours=1.0)
    assert replay.tell() == []
    replay.board.check_backup(1.0, overdue=True, age_hours=40.0)
    assert replay.tell() == [Kind.OPENED]
    replay.board.check_backup(2.0, overdue=False, age_hours=0.5)
    assert replay.tell() == [Kind.RECOVERED]


def test_a_notice_survives_being_kept() -> None:
    replay = Replay()
    replay.report(60)
    assert Notice.of(replay.told[0].content()) == replay.told[0]
