"""When to alert: each dataset's state, and the incidents that open and close with it.

Pure: what was observed comes in, in order, with the clock; notices go out. They are kept in `publishing/alert_book.py`, worded
in `publishing/alerts.py`, and sent by the job of `defs/alerts.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

HOUR = 3600.0
GROUP_SECONDS = 120.0  # how long an outage is waited for to hit other datasets too, before one message names them all
GROUP_LATEST_SECONDS = 3600.0  # and at the most, while evaluations are under way that it may hit
CERTAIN = 0.001  # one-sided p of a drop that needs no second run to confirm it
STILL_LIKELY = 0.1  # an inconclusive verdict with a smaller p neither ends a drop nor the suspicion of one
KEPT_OBSERVATIONS = 2_000
KEPT_INCIDENTS = 200


class State(StrEnum):
    """Of a dataset. `warning`: a bad report that one more has to confirm; `inconclusive`: too little was measured to tell."""

    OK = "ok"
    WARNING = "warning"
    FIRING = "firing"
    NO_DATA = "no_data"
    INCONCLUSIVE = "inconclusive"


class Cause(StrEnum):
    """Why an incident is open."""

    PASS_RATE = "pass_rate"  # noqa: S105  no password
    DROP = "drop"
    COVERAGE = "coverage"
    BUDGET = "budget"
    JUDGE_DOWN = "judge_down"
    RUN_FAILED = "run_failed"
    NO_DATA = "no_data"
    BACKUP = "backup"


STATES = {
    Cause.PASS_RATE: State.FIRING,
    Cause.DROP: State.FIRING,
    Cause.BACKUP: State.FIRING,
    Cause.RUN_FAILED: State.NO_DATA,
    Cause.NO_DATA: State.NO_DATA,
    Cause.JUDGE_DOWN: State.NO_DATA,
    Cause.COVERAGE: State.INCONCLUSIVE,
    Cause.BUDGET: State.INCONCLUSIVE,
}
SHARED = {Cause.JUDGE_DOWN, Cause.NO_DATA}  # one incident for all datasets that it hits
BACKUPS = "backups"  # what stands in a dataset's place in the incident of an overdue backup; no dataset may have its name


class Kind(StrEnum):
    """What a notice says of its incident. An update goes into its thread, and nowhere where there are no threads.

    `extended`: another cause or dataset, which every channel is told. The digest has no incident.
    """

    OPENED = "opened"
    UPDATED = "updated"
    EXTENDED = "extended"
    REMINDER = "reminder"
    RECOVERED = "recovered"
    DIGEST = "digest"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When to alert. `repeat_seconds`: after which an open incident is told again; `no_data_seconds`: after which a report is
    missed."""

    repeat_seconds: float = 336 * HOUR
    no_data_seconds: float = 192 * HOUR


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A report on a snapshot. Rates are shares of 1, `low` and `high` the 95 % interval of the pass rate.

    `evidence` names what was measured: two reports with the same one are one observation, told twice. `judge_down`: most of
    what is unmeasured is so because the judge did not answer. `history`: an older snapshot, scored again.
    """

    id: str
    dataset: str
    snapshot: str
    run_id: str
    at: float
    pass_rate: float
    low: float
    high: float
    coverage: float
    threshold: float
    min_coverage: float
    evidence: str
    language: str = "en"
    budget_spent: bool = False
    judge_down: bool = False
    history: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A verdict against the promoted baseline. `outcome`: pass, fail or inconclusive; `p_value` one-sided.

    `comparable`: by the same judge and metrics, over pairs enough.
    """

    id: str
    dataset: str
    snapshot: str
    run_id: str
    at: float
    outcome: str
    p_value: float | None
    sentence: str
    evidence: str
    comparable: bool = True
    history: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """A run that ended without a report on its dataset. It says nothing where a report came after it had `started`."""

    id: str
    dataset: str
    run_id: str
    at: float
    why: str
    started: float = 0.0
    judge_down: bool = False
    history: bool = False


Observation = Reported | Compared | RunFailed


@dataclass(kw_only=True)
class DatasetState:
    """What is known of a dataset. `causes`: those that hold, each with the incident that it belongs to.

    `good`: snapshot and run of the newest report whose pass rate was not too low, which a bad one is held against.
    """

    name: str
    since: float = 0.0
    state: State = State.OK
    causes: dict[str, str] = field(default_factory=dict)
    suspected: dict[str, str] = field(default_factory=dict)  # cause -> evidence that one more has to confirm
    recovering: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # of the newest report
    snapshot: str = ""
    reported_at: float | None = None
    good: dict[str, str] = field(default_factory=dict)

    def settle(self, now: float) -> None:
        held = {STATES[Cause(cause)] for cause in self.causes}
        order = (State.FIRING, State.NO_DATA, State.INCONCLUSIVE)
        state = next((one for one in order if one in held), State.WARNING if self.suspected else State.OK)
        if state is not self.state:
            self.state, self.since = state, now


@dataclass(kw_only=True)
class Incident:
    """What was alerted as one: the datasets that it still holds, and all that it held. `grown`: by what was not told yet."""

    id: str
    key: str
    opened_at: float
    causes: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    told_at: float | None = None
    told_last: float | None = None
    closed_at: float | None = None
    acknowledged_by: str = ""
    acknowledged_at: float | None = None
    notices: int = 0
    news: bool = False
    grown: bool = False


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What is to be told of an incident. `causes`: those that hold, of a recovery all that held; `facts`: of each dataset, its
    newest report, causes and reasons."""

    id: str
    incident: str
    kind: Kind
    at: float
    causes: list[str]
    datasets: list[str]
    facts: Mapping[str, Mapping[str, Any]]
    opened_at: float = 0.0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Notice:
        return cls(**{**content, "kind": Kind(content["kind"])})

    def content(self) -> dict[str, Any]:
        return asdict(self)


class Board:
    """Every dataset's state and every incident. `apply` what was observed, then `tell` what there is to say."""

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        kept = content or {}
        self.datasets = {
            name: DatasetState(**{**values, "state": State(values["state"])})
            for name, values in kept.get("datasets", {}).items()
        }
        self.incidents = {name: Incident(**values) for name, values in kept.get("incidents", {}).items()}
        self.mutes: dict[str, float] = dict(kept.get("mutes", {}))
        self.seen: dict[str, None] = dict.fromkeys(kept.get("seen", []))
        self.count: int = kept.get("count", 0)

    def content(self) -> dict[str, Any]:
        """All of it as JSON values."""
        closed = sorted((one for one in self.incidents.values() if one.closed_at), key=lambda one: one.closed_at or 0.0)
        for one in closed[:-KEPT_INCIDENTS]:
            del self.incidents[one.id]
        return {
            "datasets": {name: asdict(one) for name, one in self.datasets.items()},
            "incidents": {name: asdict(one) for name, one in self.incidents.items()},
            "mutes": self.mutes,
            "seen": list(self.seen)[-KEPT_OBSERVATIONS:],
            "count": self.count,
        }

    @property
    def open_incidents(self) -> list[Incident]:
        return [one for one in self.incidents.values() if one.closed_at is None]

    def apply(self, seen: Observation, present: Collection[str] = ()) -> None:
        """Take in one observation; one that was taken in before, or of an older snapshot than the newest, changes nothing.

        `present`: the dataset's snapshots that there are. One that is gone is not what others are measured by.
        """
        if seen.id in self.seen:
            return
        self.seen[seen.id] = None
        one = self.datasets.setdefault(seen.dataset, DatasetState(name=seen.dataset, since=seen.at))
        if seen.history:
            return
        if isinstance(seen, RunFailed):
            self._failed(one, seen)
        elif seen.snapshot >= one.snapshot or (present and one.snapshot not in present):
            if isinstance(seen, Reported):
                self._reported(one, seen)
            else:
                self._compared(one, seen)
        one.settle(seen.at)

    def check_clock(self, now: float, rules: Rules, *, watched: Iterable[str]) -> None:
        """Datasets that have been reported on, and whose next report did not come in time; others are watched no more."""
        names = list(watched)
        for name in [name for name in self.datasets if name not in names and name != BACKUPS]:
            self._forget(name, now)
        for name in names:
            one = self.datasets.get(name)
            if one is None or one.reported_at is None or now - one.reported_at < rules.no_data_seconds:
                continue
            if Cause.NO_DATA not in one.causes and Cause.RUN_FAILED not in one.causes and Cause.JUDGE_DOWN not in one.causes:
                self._raise(one, Cause.NO_DATA, now)
                one.settle(now)

    def check_backup(self, now: float, *, overdue: bool | None, age_hours: float | None = None) -> None:
        """The newest backup is older than it should be; None: backups are not watched."""
        if overdue is None:
            self._forget(BACKUPS, now)
        if not overdue and BACKUPS not in self.datasets:
            return
        one = self.datasets.setdefault(BACKUPS, DatasetState(name=BACKUPS, since=now))
        one.facts = {"age_hours": age_hours}
        if overdue and Cause.BACKUP not in one.causes:
            self._raise(one, Cause.BACKUP, now)
        elif not overdue:
            self._clear(one, Cause.BACKUP, at=now)
        one.settle(now)

    def tell(self, now: float, rules: Rules, *, busy: bool = False) -> list[Notice]:
        """The notices that are due, each once; of a muted dataset none, until its mute ends.

        `busy`: evaluations are under way, which an outage may hit too.
        """
        self.mutes = {name: until for name, until in self.mutes.items() if until > now}
        wait = GROUP_LATEST_SECONDS if busy else GROUP_SECONDS
        return [notice for incident in list(self.incidents.values()) if (notice := self._told(incident, now, rules, wait))]

    def mute(self, dataset: str, until: float) -> None:
        """Say nothing of a dataset, or of all (`*`), until then."""
        self.mutes[dataset] = until

    def acknowledge(self, incident: str, by: str, at: float) -> Incident | None:
        """Somebody works on it: it is not told again until it recovers. None where no such incident is open."""
        found = self.incidents.get(incident)
        if found is None or found.closed_at is not None:
            return None
        found.acknowledged_by, found.acknowledged_at = by, at
        return found

    def _told(self, incident: Incident, now: float, rules: Rules, wait: float) -> Notice | None:
        if incident.closed_at is not None:
            if not incident.news or incident.told_at is None or not self._audible(incident.hit):
                return None
            return self._notice(incident, Kind.RECOVERED, now)
        if not self._audible(incident.datasets):
            return None
        if incident.told_at is None:
            if incident.causes[0] in SHARED and now - incident.opened_at < wait:
                return None
            incident.told_at = now
            return self._notice(incident, Kind.OPENED, now)
        if incident.grown:
            return self._notice(incident, Kind.EXTENDED, now)
        if not incident.acknowledged_by and now - (incident.told_last or incident.told_at) >= rules.repeat_seconds:
            return self._notice(incident, Kind.REMINDER, now)
        return self._notice(incident, Kind.UPDATED, now) if incident.news else None

    def _notice(self, incident: Incident, kind: Kind, now: float) -> Notice:
        incident.notices += 1
        incident.news = incident.grown = False
        if kind in (Kind.OPENED, Kind.EXTENDED, Kind.REMINDER):
            incident.told_last = now
        over = kind is Kind.RECOVERED
        names = self._audible(incident.hit if over else incident.datasets)
        held = [cause for cause in incident.causes if any(self._holds(incident, cause, name) for name in names)]
        return Notice(
            id=f"{incident.id}.{incident.notices}",
            incident=incident.id,
            kind=kind,
            at=now,
            causes=list(incident.causes) if over else held,
            datasets=names,
            facts={
                name: {
                    **self.datasets[name].facts,
                    "causes": list(self.datasets[name].causes),
                    "recovering": list(self.datasets[name].recovering),
                }
                for name in names
                if name in self.datasets
            },
            opened_at=incident.opened_at,
        )

    def _holds(self, incident: Incident, cause: str, dataset: str) -> bool:
        return dataset in self.datasets and self.datasets[dataset].causes.get(cause) == incident.id

    def _audible(self, datasets: Iterable[str]) -> list[str]:
        return [name for name in datasets if not self._muted(name)]

    def _muted(self, dataset: str) -> bool:
        return "*" in self.mutes or dataset in self.mutes

    def _reported(self, one: DatasetState, seen: Reported) -> None:
        one.snapshot, one.reported_at = seen.snapshot, seen.at
        one.facts = {
            **{key: value for key, value in asdict(seen).items() if key not in ("id", "dataset", "history", "evidence")},
            **{key: one.facts[key] for key in ("drop",) if key in one.facts and Cause.DROP in one.causes},
            "last_good": one.good,
        }
        for cause in (Cause.RUN_FAILED, Cause.NO_DATA):
            self._clear(one, cause, at=seen.at)
        enough = seen.coverage >= seen.min_coverage
        holding = {Cause.BUDGET} if seen.budget_spent else set()
        if not enough:
            holding |= {Cause.JUDGE_DOWN} if seen.judge_down else holding or {Cause.COVERAGE}
        for cause in (Cause.JUDGE_DOWN, Cause.BUDGET, Cause.COVERAGE):
            if cause in holding:
                self._raise(one, cause, seen.at)
            else:
                self._clear(one, cause, at=seen.at)
        if enough:  # a pass rate over what little was measured says nothing
            self._judge(
                one,
                Cause.PASS_RATE,
                bad=seen.pass_rate < seen.threshold,
                certain=seen.high < seen.threshold or seen.low >= seen.threshold,
                evidence=seen.evidence,
                at=seen.at,
            )
            if seen.pass_rate >= seen.threshold:
                one.good = {"snapshot": seen.snapshot, "run_id": seen.run_id}
        self._renew(one, (Cause.PASS_RATE, Cause.DROP, *holding))

    def _compared(self, one: DatasetState, seen: Compared) -> None:
        bad = seen.outcome == "fail"
        if seen.outcome == "inconclusive" and not (seen.comparable and (seen.p_value or 0.0) >= STILL_LIKELY):
            return
        one.facts |= {"drop": seen.sentence} if bad else {}
        certain = seen.p_value is not None and seen.p_value < CERTAIN if bad else seen.outcome == "pass"
        self._judge(one, Cause.DROP, bad=bad, certain=certain, evidence=seen.evidence, at=seen.at)

    def _failed(self, one: DatasetState, seen: RunFailed) -> None:
        if one.reported_at is not None and one.reported_at > seen.started > 0.0:
            return
        cause = Cause.JUDGE_DOWN if seen.judge_down else Cause.RUN_FAILED
        one.facts |= {"why": seen.why, "failed_run": seen.run_id}
        if cause not in one.causes:
            self._raise(one, cause, seen.at)

    def _judge(self, one: DatasetState, cause: Cause, *, bad: bool, certain: bool, evidence: str, at: float) -> None:
        """Raise or clear a cause: at once where it is certain, else when a second, other measurement says the same."""
        holds = cause in one.causes
        waiting = one.suspected if bad else one.recovering
        (one.recovering if bad else one.suspected).pop(cause, None)
        if bad is holds:
            return
        if certain or waiting.get(cause, evidence) != evidence:
            waiting.pop(cause, None)
            if bad:
                self._raise(one, cause, at)
            else:
                self._clear(one, cause, at=at)
        else:
            waiting[cause] = evidence

    def _raise(self, one: DatasetState, cause: Cause, at: float) -> None:
        if cause in one.causes:
            return
        key = cause.value if cause in SHARED else f"{one.name}/{'run' if cause is Cause.RUN_FAILED else 'quality'}"
        incident = next((found for found in self.open_incidents if found.key == key), None)
        if incident is None:
            self.count += 1
            incident = Incident(id=f"{key.replace('/', '-')}-{self.count}", key=key, opened_at=at)
            self.incidents[incident.id] = incident
        elif incident.told_at is not None:
            incident.news = True
            if cause.value not in incident.causes or one.name not in incident.hit:
                incident.grown, incident.acknowledged_by, incident.acknowledged_at = True, "", None
        for names, name in ((incident.causes, cause.value), (incident.datasets, one.name), (incident.hit, one.name)):
            if name not in names:
                names.append(name)
        one.causes[cause] = incident.id

    def _forget(self, name: str, now: float) -> None:
        """Watch it no more; an incident that held nothing else ends without a word."""
        if (one := self.datasets.pop(name, None)) is not None:
            for cause in list(one.causes):
                self._clear(one, Cause(cause), at=now, quietly=True)

    def _clear(self, one: DatasetState, cause: Cause, *, at: float, quietly: bool = False) -> None:
        one.suspected.pop(cause, None)
        one.recovering.pop(cause, None)
        if cause is Cause.DROP:
            one.facts.pop("drop", None)
        name = one.causes.pop(cause, None)
        if name is None:
            return
        incident = self.incidents[name]
        if name not in one.causes.values() and one.name in incident.datasets:
            incident.datasets.remove(one.name)
        if not incident.datasets:
            incident.closed_at, incident.news = at, not quietly

    def _renew(self, one: DatasetState, causes: Iterable[Cause]) -> None:
        """A new report on a dataset with an open incident is news of it."""
        for name in {one.causes[cause] for cause in causes if cause in one.causes}:
            self.incidents[name].news = self.incidents[name].told_at is not None
