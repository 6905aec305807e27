"""An alert in words: what it says is so now, and old figures are called old."""

from __future__ import annotations

from typing import Any

import pytest

from evalvault_pipeline.publishing.alerts import Language, Message, RunFacts, compose
from evalvault_pipeline.reporting.incidents import BACKUPS, Kind, Notice

DAY = 86400.0
FACTS: dict[str, Any] = {
    "snapshot": "2026w46",
    "run_id": "r1",
    "at": 10 * DAY,
    "pass_rate": 0.766,
    "low": 0.649,
    "high": 0.853,
    "coverage": 1.0,
    "threshold": 0.8,
    "min_coverage": 0.95,
}


def told(kind: Kind, *causes: str, language: Language = "en", **changes: Any) -> Message:
    notice = Notice(
        id="qa-quality-1.1",
        incident="qa-quality-1",
        kind=kind,
        at=19 * DAY,
        causes=list(causes),
        datasets=["qa"],
        facts={"qa": {**FACTS, **changes}},
    )
    return compose(notice, language=language, details=RunFacts())


def test_an_alert_names_the_release_and_its_pass_rate_with_the_interval() -> None:
    message = told(Kind.OPENED, "pass_rate")
    assert message.title == "[Alert] qa: pass rate below 80.0 %"
    assert ("release", "2026w46") in message.fields
    assert ("pass rate", "76.6 % (64.9 % – 85.3 %)") in message.fields


def test_a_pass_rate_just_below_the_threshold_does_not_read_as_the_threshold() -> None:
    message = told(Kind.OPENED, "pass_rate", pass_rate=0.7996, low=0.783, high=0.815)
    assert ("pass rate", "79.96 % (78.3 % – 81.5 %)") in message.fields


def test_what_one_more_run_has_to_confirm_is_not_told_as_if_it_held() -> None:
    message = told(Kind.UPDATED, "pass_rate", pass_rate=1.0, low=0.207, high=1.0, recovering=["pass_rate"])
    assert message.title == "[Update] qa: pass rate not below 80.0 % any more, which one more run has to confirm"
    korean = told(Kind.UPDATED, "drop", language="ko", recovering=["drop"])
    assert korean.title == "[갱신] qa: 기준 실행 수준으로 회복, 다음 실행에서 확인 필요"


def test_a_recovery_does_not_read_as_its_opposite() -> None:
    assert told(Kind.RECOVERED, "pass_rate", "drop").title == "[Recovered] qa: pass rate; no worse than the baseline"
    korean = told(Kind.RECOVERED, "pass_rate", "drop", language="ko")
    assert korean.title == "[복구됨] qa: 통과율; 기준 실행 수준 회복"


def test_figures_of_before_are_called_the_last_report() -> None:
    for causes in (["run_failed"], ["no_data"], ["judge_down"]):
        message = told(Kind.OPENED, *causes, failed_run="r2", why="it broke")
        assert ("last report", "2026w46, 76.6 % (64.9 % – 85.3 %), 9 days ago") in message.fields
        assert "release" not in dict(message.fields)
    korean = told(Kind.OPENED, "no_data", language="ko")
    assert ("마지막 보고서", "2026w46, 76.6% (64.9% – 85.3%), 9일 전") in korean.fields


@pytest.mark.parametrize(
    ("hours", "words"), [(None, "there is none"), (26.4, "26 h old"), (1.0, "1 h old"), (0.34, "0.3 h old")]
)
def test_the_age_of_a_backup_is_told_in_hours_and_below_one_in_tenths(hours: float | None, words: str) -> None:
    notice = Notice(
        id="backups-1.1",
        incident="backups-1",
        kind=Kind.OPENED,
        at=0.0,
        causes=["backup"],
        datasets=[BACKUPS],
        facts={BACKUPS: {"age_hours": hours}},
    )
    assert ("the backup is overdue", words) in compose(notice, language="en", details=RunFacts()).fields


def test_of_too_little_measured_no_pass_rate_is_told() -> None:
    message = told(Kind.OPENED, "coverage", pass_rate=0.0, low=0.0, high=0.037, coverage=0.0)
    assert "0.0 % (" not in message.text
    assert ("coverage", "0.0 %") in message.fields


def test_an_english_sentence_is_left_out_of_a_korean_message() -> None:
    assert "pass rate 70 % after 90 %" in told(Kind.OPENED, "drop", drop="pass rate 70 % after 90 %").text
    assert "after" not in told(Kind.OPENED, "drop", language="ko", drop="pass rate 70 % after 90 %").text
