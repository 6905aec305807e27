"""An alert in words, English or Korean: what every channel renders in its own form.

When to alert stands in `reporting/incidents.py`; the figures are gathered in `alerting.py`; channels are `slack.py`, `email.py`
and `webhook.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evalvault_pipeline.reporting.incidents import BACKUPS, Board, Cause, Kind, Notice, State
from evalvault_pipeline.reporting.overview import DatasetOverview
from evalvault_pipeline.reporting.spending import spent_by
from evalvault_pipeline.reporting.statistics import percent

Language = Literal["en", "ko"]
DATASETS_SHOWN = 10
CASE_TEXT = 160
WORDS: Mapping[str, tuple[str, str]] = {
    "opened": ("Alert", "경보"),
    "updated": ("Update", "갱신"),
    "extended": ("Worse", "추가 경보"),
    "reminder": ("Still open", "계속 진행 중"),
    "recovered": ("Recovered", "복구됨"),
    "pass_rate": ("pass rate below {threshold}", "통과율이 {threshold} 미만"),
    "drop": ("significantly worse than the baseline", "기준 실행보다 유의하게 나빠짐"),
    "coverage": ("too little was measured to tell", "측정된 점수가 부족해 판단할 수 없음"),
    "budget": ("the judge's budget is spent", "심사 예산 소진"),
    "judge_down": ("the judge does not answer", "심사 모델이 응답하지 않음"),
    "run_failed": ("the run failed", "실행 실패"),
    "no_data": ("no new report came", "새 보고서가 없음"),
    "backup": ("the backup is overdue", "백업이 늦어짐"),
    "over_pass_rate": ("pass rate", "통과율"),
    "over_drop": ("no worse than the baseline", "기준 실행 수준 회복"),
    "over_coverage": ("coverage", "측정률"),
    "over_budget": ("budget", "심사 예산"),
    "over_judge_down": ("the judge answers", "심사 모델 응답"),
    "over_run_failed": ("the run", "실행"),
    "over_no_data": ("a report came", "보고서 수신"),
    "over_backup": ("the backup", "백업"),
    "back_pass_rate": (
        "pass rate not below {threshold} any more, which one more run has to confirm",
        "통과율이 {threshold} 이상으로 회복, 다음 실행에서 확인 필요",
    ),
    "back_drop": (
        "no worse than the baseline any more, which one more run has to confirm",
        "기준 실행 수준으로 회복, 다음 실행에서 확인 필요",
    ),
    "dataset": ("dataset", "데이터셋"),
    "release": ("release", "릴리스"),
    "rate": ("pass rate", "통과율"),
    "measured": ("coverage", "측정률"),
    "fell": ("metrics that fell", "내려간 지표"),
    "against": ("against", "비교 대상"),
    "cases": ("Newly failing cases", "새로 실패한 케이스"),
    "worst": ("Failing cases", "실패한 케이스"),
    "why": ("why", "이유"),
    "ago": ("{days:.0f} days ago", "{days:.0f}일 전"),
    "backup_age": ("{hours} h old", "{hours}시간 전"),
    "no_backup": ("there is none", "백업이 없음"),
    "last_report": ("last report", "마지막 보고서"),
    "run": ("Dagster run", "Dagster 실행"),
    "report": ("report", "보고서"),
    "experiment": ("Phoenix experiment", "Phoenix 실험"),
    "more": ("and {count} more", "외 {count}개"),
    "incident": ("incident", "인시던트"),
    "nothing_measured": ("nothing was measured", "측정된 점수 없음"),
    "digest": ("EvalVault, the last 24 hours", "EvalVault 지난 24시간"),
    "nothing_ran": ("nothing was evaluated", "실행된 평가 없음"),
    "spent": ("spent on judges", "심사 비용"),
    "tokens": ("{tokens:,} tokens, {calls:,} calls, {cost}", "토큰 {tokens:,}개, 호출 {calls:,}회, {cost}"),
    "no_price": ("no known price", "가격 정보 없음"),
    "state_warning": ("to be confirmed by the next run", "다음 실행에서 확인 필요"),
    "state_firing": ("alert", "경보"),
    "state_no_data": ("no new report", "새 보고서 없음"),
    "state_inconclusive": ("too little measured to tell", "측정 부족으로 판단 불가"),
    "none": ("none", "없음"),
    "open": ("open incidents", "진행 중인 인시던트"),
    "sample": ("This is a sample: the channel works.", "테스트 메시지입니다. 채널이 동작합니다."),
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One alert. `fields` are (label, text), `cases` (id, redacted text), `links` (label, address or file).

    `opened_at` tells incidents of the same name apart, in seconds: ids begin anew with a new store.
    """

    id: str
    incident: str
    kind: Kind
    title: str
    fields: Sequence[tuple[str, str]] = ()
    cases_title: str = ""
    cases: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    opened_at: int = 0
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of it as plain text."""
        lines = [self.title, *(f"{label}: {text}" for label, text in self.fields)]
        if self.cases:
            lines += [f"{self.cases_title}:", *(f"- {name}: {text}" for name, text in self.cases)]
        return "\n".join([*lines, *(f"{label}: {target}" for label, target in self.links)])


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run's cases say beyond its figures: (metric, before, now) of those that fell, cases, links, and the other run."""

    fell: Sequence[tuple[str, float, float]] = ()
    against: str = ""
    newly_failing: bool = False
    cases: Sequence[tuple[str, str]] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def words(language: Language) -> Callable[..., str]:
    """A word by its name, in a language, with its parts filled in."""

    def word(name: str, **parts: object) -> str:
        return WORDS[name][language == "ko"].format(**parts)

    return word


def is_about_report(notice: Notice, facts: Mapping[str, Any]) -> bool:
    """Whether what is wrong, or was, stands in the newest report; else the report is one of before."""
    without = {Cause.RUN_FAILED, Cause.NO_DATA, Cause.BACKUP}
    return notice.kind is Kind.RECOVERED or not (set(notice.causes) <= without or facts.get("failed_run"))


def compose(notice: Notice, *, language: Language, details: RunFacts) -> Message:
    """The message of a notice; `details` are of the dataset's run where it is about one dataset."""
    word = words(language)
    names = [word("backup") if name == BACKUPS else name for name in notice.datasets]
    shown = ", ".join(names[:DATASETS_SHOWN])
    if len(names) > DATASETS_SHOWN:
        shown += f" {word('more', count=len(names) - DATASETS_SHOWN)}"
    first = notice.facts.get(next(iter(notice.datasets), ""), {})
    threshold = _percent(first["threshold"], language) if "threshold" in first else ""
    prefix = dict.fromkeys(first.get("recovering", ()) if len(names) == 1 else (), "back_")
    if notice.kind is Kind.RECOVERED:
        prefix = dict.fromkeys(notice.causes, "over_")
    causes = "; ".join(word(f"{prefix.get(cause, '')}{cause}", threshold=threshold) for cause in notice.causes)
    title = f"[{word(notice.kind.value)}] {shown}" + ("" if notice.causes == [Cause.BACKUP] else f": {causes}")
    fields: list[tuple[str, str]] = []
    for name in notice.datasets[:DATASETS_SHOWN]:
        fields += _about(notice, name, language, several=len(notice.datasets) > 1)
    if details.fell:
        fell = ", ".join(f"{metric} {before:.3f} → {now:.3f}" for metric, before, now in details.fell)
        fields += [(word("fell"), fell), (word("against"), details.against)]
    fields.append((word("incident"), notice.incident))
    return Message(
        id=notice.id,
        incident=notice.incident,
        kind=notice.kind,
        title=title,
        fields=fields,
        cases_title=word("cases" if details.newly_failing else "worst"),
        cases=details.cases,
        links=[(word(name), target) for name, target in details.links.items()],
        opened_at=int(notice.opened_at),
        content={**notice.content(), "title": title},
    )


def sample(language: Language) -> Message:
    """What `evalvault alert test` sends."""
    word = words(language)
    return Message(
        id="test",
        incident="test",
        kind=Kind.OPENED,
        title=f"[{word('opened')}] EvalVault",
        fields=[
            (word("why"), word("sample")),
            (word("rate"), f"{_percent(0.766, language)} ({_percent(0.649, language)} – {_percent(0.853, language)})"),
        ],
        content={"kind": "test", "title": word("sample")},
    )


def compose_digest(
    notice: Notice,
    lines: Sequence[DatasetOverview],
    headers: Sequence[Mapping[str, Any]],
    board: Board,
    *,
    language: Language,
    timezone: str,
) -> Message:
    """The daily digest: how datasets stand, and what these runs (headers of results files) spent."""
    word = words(language)
    datasets = [line for line in lines if line.snapshot]  # not the backups, and none without a whole run
    fields = [(line.dataset, _figures(line, language)) for line in datasets[:DATASETS_SHOWN]]
    if len(datasets) > DATASETS_SHOWN:
        fields.append((word("dataset"), word("more", count=len(datasets) - DATASETS_SHOWN)))
    total = spent_by(headers, "dataset", timezone=timezone)[-1]
    cost = word("no_price") if total.dollars is None else f"{total.dollars:.4f} USD"
    fields += [(word("spent"), word("tokens", tokens=total.tokens, calls=total.calls, cost=cost))]
    fields += [(word("open"), ", ".join(one.id for one in board.open_incidents) or word("none"))]
    title = word("digest") + ("" if headers else f": {word('nothing_ran')}")
    return Message(
        id=notice.id,
        incident=notice.incident,
        kind=notice.kind,
        title=title,
        fields=fields,
        opened_at=int(notice.opened_at),
        content={**notice.content(), "title": title},
    )


def _figures(line: DatasetOverview, language: Language) -> str:
    word = words(language)
    state = f", {word(f'state_{line.state.value}')}" if line.state not in (None, State.OK) else ""
    if line.pass_rate is None:
        return f"{line.snapshot}: {word('nothing_measured')}{state}"
    rate, span = _percent(line.pass_rate, language), line.bounds or line.interval
    told = " – ".join(_percent(one, language) for one in span) if span else ""
    if line.bounds:
        rate = told
    elif told:
        rate += f" ({told})"
    coverage = _percent(line.coverage or 0.0, language)
    return f"{line.snapshot}: {rate}, {word('measured')} {coverage}{state}"


def _about(notice: Notice, name: str, language: Language, *, several: bool) -> list[tuple[str, str]]:
    word = words(language)
    facts = notice.facts.get(name, {})
    if name == BACKUPS:
        age = facts.get("age_hours")
        if age is None:
            return [(word("backup"), word("no_backup"))]
        return [(word("backup"), word("backup_age", hours=f"{age:.0f}" if age >= 1 else f"{age:.1f}"))]
    found = [(word("dataset"), name)]
    if "pass_rate" in facts:
        low, high, coverage = (_percent(facts[key], language) for key in ("low", "high", "coverage"))
        rate = _percent(facts["pass_rate"], language, beside=facts["threshold"])
        span = f"{rate} ({low} – {high})"
        if not is_about_report(notice, facts):
            age = word("ago", days=(notice.at - facts["at"]) / 86400.0)
            found.append((word("last_report"), f"{facts['snapshot']}, {span}, {age}"))
        else:
            found.append((word("release"), str(facts["snapshot"])))
            if facts["coverage"] >= facts["min_coverage"]:
                found.append((word("rate"), span))
            if facts["coverage"] < 1.0:
                found.append((word("measured"), coverage))
    why = "; ".join(str(facts[key]) for key in ("drop", "why") if facts.get(key) and not (key == "drop" and language == "ko"))
    found += [(word("why"), why)] if why else []
    return [(word("dataset"), "; ".join(f"{text}" for _, text in found))] if several else found


def _percent(share: float, language: Language, *, beside: float | None = None) -> str:
    """A share as it is written in the language: Korean has no space before the sign."""
    text = percent(share, beside=beside)
    return text.replace(" %", "%") if language == "ko" else text
