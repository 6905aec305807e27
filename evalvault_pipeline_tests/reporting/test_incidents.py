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
        self.board, self.now = Board(), 1e9
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

    def verdict(
        self, outcome: str, p_value: float | None = 0.02, dataset: str = "qa", *, comparable: bool = True
    ) -> list[Kind]:
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
                comparable=comparable,
            ),
            wait=HOUR,
        )

    def failed(self, dataset: str = "qa", *, wait: float = 0.0, **changes: Any) -> list[Kind]:
        self.number += 1
        values: dict[str, Any] = {"id": f"run {self.number}", "dataset": dataset, "run_id": "r", "at": self.now}
        return self.see(RunFailed(**{**values, "why": "it broke", "started": self.now - 60.0, **changes}), wait=wait)

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


def test_a_bad_report_is_held_against_the_last_good_one_and_what_recovers_is_said_to(replay: Replay) -> None:
    replay.report(93)
    replay.report(75)
    assert replay.report(74) == [Kind.OPENED]
    assert replay.told[-1].facts["qa"]["last_good"] == {"snapshot": "w0001", "run_id": "run1"}
    assert replay.told[-1].facts["qa"]["recovering"] == []
    assert replay.report(84) == [Kind.UPDATED]
    assert replay.told[-1].facts["qa"]["recovering"] == ["pass_rate"]
    assert replay.report(84) == [Kind.RECOVERED]


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
    assert replay.verdict("fail", p_value=1e-6) == [Kind.EXTENDED], "every channel is told of another cause"
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
    assert replay.failed("e", judge_down=True) == [Kind.EXTENDED]
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
    assert replay.board.acknowledge(opened, "kim", 0.0) is not None
    replay.now += 2 * WEEK
    assert replay.tell() == []
    assert replay.report(95) == [Kind.RECOVERED]
    assert replay.board.acknowledge(opened, "kim", 0.0) is None


def test_a_muted_dataset_says_nothing_until_the_mute_ends(replay: Replay) -> None:
    replay.board.mute("qa", replay.now + WEEK)
    assert replay.report(60) == []
    assert replay.state is State.FIRING
    replay.now += WEEK + 1
    assert replay.tell() == [Kind.OPENED]


def test_what_recovers_while_it_is_muted_was_never_told(replay: Replay) -> None:
    replay.board.mute("*", replay.now + 4 * WEEK)
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


def test_another_cause_is_told_everywhere_and_ends_an_acknowledgement(replay: Replay) -> None:
    replay.report(93)
    assert replay.report(90, coverage=0.97, budget_spent=True) == [Kind.OPENED]
    (incident,) = replay.board.open_incidents
    replay.board.acknowledge(incident.id, "kim", 0.0)
    assert replay.report(10, coverage=0.97, budget_spent=True) == [Kind.EXTENDED]
    assert replay.told[-1].causes == ["budget", "pass_rate"]
    assert replay.board.open_incidents[0].acknowledged_by == ""
    assert replay.report(12, coverage=0.97, budget_spent=True) == [Kind.UPDATED], "no other cause"


def test_a_message_names_the_causes_that_hold_and_a_recovery_all_that_held(replay: Replay) -> None:
    replay.report(93)
    replay.report(60)
    replay.verdict("fail", p_value=1e-6)
    replay.report(95)
    assert (replay.told[-1].kind, replay.told[-1].causes) == (Kind.UPDATED, ["drop"])
    replay.verdict("pass")
    assert (replay.told[-1].kind, replay.told[-1].causes) == (Kind.RECOVERED, ["pass_rate", "drop"])
    assert "drop" not in replay.told[-1].facts["qa"], "what is over is no reason any more"


def test_a_dataset_that_left_the_catalog_holds_no_incident_open(replay: Replay) -> None:
    for name in ("a", "b"):
        replay.report(93, dataset=name)
    for name in ("a", "b"):
        replay.failed(name, judge_down=True)
    replay.now += GROUP_SECONDS
    assert replay.tell() == [Kind.OPENED]
    replay.report(93, dataset="a")
    replay.board.check_clock(replay.now, RULES, watched=["a"])
    assert replay.tell() == [], "nothing recovered"
    assert replay.board.open_incidents == []
    replay.failed("a", judge_down=True)
    replay.now += GROUP_SECONDS
    assert replay.tell() == [Kind.OPENED], "the next outage is one of its own"


def test_backups_that_are_not_watched_any_more_hold_no_incident_open(replay: Replay) -> None:
    replay.board.check_backup(replay.now, overdue=True, age_hours=40.0)
    assert replay.tell() == [Kind.OPENED]
    replay.board.check_backup(replay.now, overdue=None)
    assert replay.tell() == []
    assert replay.board.open_incidents == []


def test_an_outage_waits_for_the_datasets_that_are_still_evaluated(replay: Replay) -> None:
    """The weekly job goes through them one after another: one message names all that the outage hit."""
    told = []
    for name in ("a", "b", "c"):
        replay.board.apply(RunFailed(id=name, dataset=name, run_id="r", at=replay.now, why="no answer", judge_down=True))
        for _ in range(10):
            replay.now += 60.0
            told += replay.board.tell(replay.now, RULES, busy=True)
    assert told == []
    (notice,) = replay.board.tell(replay.now, RULES, busy=False)
    assert (notice.kind, notice.datasets) == (Kind.OPENED, ["a", "b", "c"])


def test_an_outage_is_told_within_an_hour_although_evaluations_go_on(replay: Replay) -> None:
    replay.failed("a", judge_down=True)
    assert replay.board.tell(replay.now + 3599.0, RULES, busy=True) == []
    assert [notice.kind for notice in replay.board.tell(replay.now + 3601.0, RULES, busy=True)] == [Kind.OPENED]


def test_a_verdict_that_cannot_tell_ends_no_drop(replay: Replay) -> None:
    replay.report(93)
    replay.verdict("fail", p_value=1e-6)
    assert [replay.verdict("inconclusive", p_value=0.5, comparable=False) for _ in range(3)] == [[], [], []]
    assert [replay.verdict("inconclusive", p_value=0.04) for _ in range(3)] == [[], [], []], "it is likely still"
    assert replay.state is State.FIRING
    assert replay.verdict("inconclusive", p_value=0.5) == []
    assert replay.verdict("inconclusive", p_value=0.6) == [Kind.RECOVERED], "small datasets seldom get a pass"


def test_a_verdict_that_cannot_tell_ends_no_suspicion(replay: Replay) -> None:
    replay.report(93)
    replay.verdict("fail")
    replay.verdict("inconclusive", p_value=0.04)
    assert replay.verdict("fail") == [Kind.OPENED]


def test_the_name_of_a_snapshot_that_is_gone_stops_no_alert(replay: Replay) -> None:
    replay.report(93, snapshot="zz-trial")
    assert replay.report(10, snapshot="2026w01") == [], "as long as it is there, it is the newest"
    replay.number += 1
    present = ["2026w01", "2026w02"]
    low, high = wilson_interval(10, 100) or (0.0, 1.0)
    seen = Reported(
        id="gone", dataset="qa", snapshot="2026w02", run_id="r", at=replay.now, pass_rate=0.1, low=low, high=high,
        coverage=1.0, threshold=0.8, min_coverage=0.95, evidence="other",
    )  # fmt: skip
    replay.board.apply(seen, present)
    assert replay.tell() == [Kind.OPENED]


def test_a_run_that_failed_after_its_report_or_over_history_is_no_missing_report(replay: Replay) -> None:
    replay.report(93)
    assert replay.failed(started=replay.now - 2 * HOUR) == [], "a report came since it started"
    assert replay.failed(history=True) == []
    assert replay.state is State.OK
    assert replay.failed() == [Kind.OPENED]


def test_a_recovery_within_a_mute_is_told_when_the_mute_ends(replay: Replay) -> None:
    replay.report(93)
    replay.report(20)
    replay.board.mute("qa", replay.now + 5 * HOUR)
    assert replay.report(95) == []
    replay.now += 5 * HOUR
    assert replay.tell() == [Kind.RECOVERED]


def test_a_muted_dataset_is_not_named_in_what_is_told_of_others(replay: Replay) -> None:
    replay.board.mute("a", replay.now + HOUR)
    replay.failed("a", judge_down=True)
    replay.failed("b", judge_down=True)
    replay.now += GROUP_SECONDS
    assert replay.tell() == [Kind.OPENED]
    assert replay.told[-1].datasets == ["b"]
