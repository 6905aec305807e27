"""An alert in words, English or Korean: what every channel renders in its own form.

When to alert stands in `reporting/incidents.py`; the figures are gathered in `alerting.py`; channels are `slack.py`, `email.py`
and `webhook.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evalvault_pipeline.publishing.markdown import percent
from evalvault_pipeline.reporting.incidents import BACKUPS, Board, Kind, Notice
from evalvault_pipeline.reporting.spending import spent_by

Language = Literal["en", "ko"]
DATASETS_SHOWN = 10
CASE_TEXT = 160
WORDS: Mapping[str, tuple[str, str]] = {
    "opened": ("Alert", "경보"),
    "updated": ("Update", "갱신"),
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
    "dataset": ("dataset", "데이터셋"),
    "release": ("release", "릴리스"),
    "rate": ("pass rate", "통과율"),
    "measured": ("coverage", "측정률"),
    "fell": ("metrics that fell", "내려간 지표"),
    "against": ("against", "비교 대상"),
    "cases": ("Newly failing cases", "새로 실패한 케이스"),
    "worst": ("Failing cases", "실패한 케이스"),
    "why": ("why", "이유"),
    "backup_age": ("{hours} h old", "{hours}시간 전"),
    "no_backup": ("there is none", "백업이 없음"),
    "last_report": ("last report", "마지막 보고서"),
    "run": ("Dagster run", "Dagster 실행"),
    "report": ("report", "보고서"),
    "experiment": ("Phoenix experiment", "Phoenix 실험"),
    "more": ("and {count} more", "외 {count}개"),
    "incident": ("incident", "인시던트"),
    "digest": ("EvalVault, the last 24 hours", "EvalVault 지난 24시간"),
    "nothing_ran": ("nothing was evaluated", "실행된 평가 없음"),
    "spent": ("spent on judges", "심사 비용"),
    "tokens": ("{tokens:,} tokens, {calls:,} calls, {cost}", "토큰 {tokens:,}개, 호출 {calls:,}회, {cost}"),
    "no_price": ("no known price", "가격 정보 없음"),
    "none": ("none", "없음"),
    "open": ("open incidents", "진행 중인 인시던트"),
    "sample": ("This is a sample: the channel works.", "테스트 메시지입니다. 채널이 동작합니다."),
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One alert. `fields` are (label, text), `cases` (id, redacted text), `links` (label, address or file)."""

    id: str
    incident: str
    kind: Kind
    title: str
    fields: Sequence[tuple[str, str]] = ()
    cases_title: str = ""
    cases: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
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


def compose(notice: Notice, *, language: Language, details: RunFacts) -> Message:
    """The message of a notice; `details` are of the dataset's run where it is about one dataset."""
    word = words(language)
    names = [word("backup") if name == BACKUPS else name for name in notice.datasets] or list(notice.facts)
    shown = ", ".join(names[:DATASETS_SHOWN])
    if len(names) > DATASETS_SHOWN:
        shown += f" {word('more', count=len(names) - DATASETS_SHOWN)}"
    first = notice.facts.get(next(iter(notice.datasets), ""), {})
    threshold = percent(first["threshold"]) if "threshold" in first else ""
    causes = "; ".join(word(cause, threshold=threshold) for cause in notice.causes)
    title = f"[{word(notice.kind.value)}] {shown}" + ("" if notice.causes == ["backup"] else f": {causes}")
    fields: list[tuple[str, str]] = []
    for name in notice.datasets[:DATASETS_SHOWN]:
        fields += _about(notice.facts.get(name, {}), name, word, several=len(notice.datasets) > 1)
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
        fields=[(word("why"), word("sample")), (word("rate"), "76.6 % (64.9 % – 85.3 %)")],
        content={"kind": "test", "title": word("sample")},
    )


def compose_digest(
    headers: Sequence[Mapping[str, Any]], board: Board, *, language: Language, timezone: str, day: str
) -> Message:
    """The daily digest of these runs (headers of results files, the oldest first)."""
    word = words(language)
    newest = {str(header["dataset_name"]): header for header in headers}
    fields = [
        (name, f"{header['snapshot']}: {percent(header['pass_rate'])}, {word('measured')} {percent(header['coverage'])}")
        for name, header in list(newest.items())[:DATASETS_SHOWN]
    ]
    total = spent_by(headers, "dataset", timezone=timezone)[-1]
    cost = word("no_price") if total.dollars is None else f"{total.dollars:.4f} USD"
    fields += [(word("spent"), word("tokens", tokens=total.tokens, calls=total.calls, cost=cost))]
    fields += [(word("open"), ", ".join(one.id for one in board.open_incidents) or word("none"))]
    title = word("digest") + ("" if headers else f": {word('nothing_ran')}")
    return Message(id=f"digest-{day}", incident=f"digest-{day}", kind=Kind.UPDATED, title=title, fields=fields)


def _about(facts: Mapping[str, Any], name: str, word: Callable[..., str], *, several: bool) -> list[tuple[str, str]]:
    if name == BACKUPS:
        age = facts.get("age_hours")
        return [(word("backup"), word("no_backup") if age is None else word("backup_age", hours=f"{age:.0f}"))]
    found = [(word("dataset"), name)]
    if "pass_rate" in facts:
        found.append((word("release"), str(facts["snapshot"])))
        span = f"{percent(facts['pass_rate'])} ({percent(facts['low'])} – {percent(facts['high'])})"
        found.append((word("rate"), span))
        if facts["coverage"] < 1.0:
            found.append((word("measured"), percent(facts["coverage"])))
    why = "; ".join(str(facts[key]) for key in ("drop", "why") if facts.get(key))
    found += [(word("why"), why)] if why else []
    return [(word("dataset"), "; ".join(f"{text}" for _, text in found))] if several else found
