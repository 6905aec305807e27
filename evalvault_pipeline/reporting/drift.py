"""Whether the questions of a snapshot still resemble those of the reference one, and where answers and scores moved.

Pure: texts and their vectors come in, figures go out. Vectors are made in `scoring/embeddings.py`, pages in
`publishing/drift_page.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nsmallest
from math import log
from typing import TYPE_CHECKING

from evalvault_pipeline.reporting.distances import clustered, mmd, neighbours, projected, psi, same_distribution, unit
from evalvault_pipeline.scoring.model import CaseResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MOST_CASES = 1_000  # of a side: a permutation test over more takes longer and finds the same
ALARM = 0.01  # chance of an alarm where nothing shifted, over the tests of the questions together
CLUSTER_DIMENSIONS = 16
TERMS = 4


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is compared of one snapshot: a sample of its cases, the same ones every time. `passed` None: unmeasured."""

    snapshot: str
    ids: Sequence[str]
    questions: Sequence[str]
    answers: Sequence[str]
    passed: Sequence[bool | None]
    scores: Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One quantity of both sides: its size, and the chance of so much where nothing shifted; None: a side has no value."""

    name: str
    statistic: str
    value: float | None
    p_value: float | None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Questions of one topic: how many on each side, and which share of them passed (None: none was measured)."""

    number: int
    terms: Sequence[str]
    before: int
    after: int
    pass_rate_before: float | None
    pass_rate_after: float | None

    @property
    def name(self) -> str:
        return f"{self.number + 1}: {', '.join(self.terms)}" if self.terms else str(self.number + 1)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A snapshot beside the reference; without one only its clusters and its map.

    `points` are (x, y) of each case of the reference, then of the snapshot; `labels` its case ids with their clusters.
    """

    current: Side
    reference: Side | None
    embedder: str
    shifts: Sequence[Shift]
    clusters: Sequence[Cluster]
    points: Sequence[tuple[float, float]]
    assigned: Sequence[int]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def labels(self) -> dict[str, str]:
        before = len(self.reference.ids) if self.reference else 0
        return {
            case_id: self.clusters[number].name
            for case_id, number in zip(self.current.ids, self.assigned[before:], strict=True)
        }

    @property
    def question_shifts(self) -> list[Shift]:
        return [shift for shift in self.shifts if shift.name == "questions"]

    @property
    def resembles(self) -> bool:
        """No test of the questions says, at 1 % over all of them (Bonferroni), that they shifted."""
        tests = self.question_shifts
        return all(shift.p_value is None or shift.p_value * len(tests) > ALARM for shift in tests)

    @property
    def sentence(self) -> str:
        if self.reference is None:
            return "there is no earlier snapshot to compare the questions with"
        told = ", ".join(f"{shift.statistic} {shift.value:.3f} (p = {shift.p_value:.3f})" for shift in self.question_shifts)
        said = "resemble" if self.resembles else "do not resemble"
        grown = max(self.clusters, key=lambda one: _share(one.after, self.current) - _share(one.before, self.reference))
        where = "" if self.resembles else f"; most grew {grown.name}: {grown.before} to {grown.after} cases"
        return f"the questions {said} those of {self.reference.snapshot}: {told}{where}"


def side_of(snapshot: str, results: Iterable[CaseResult]) -> Side:
    """The cases of a snapshot that are compared: all, or the 1,000 whose ids have the smallest digests."""
    chosen = nsmallest(MOST_CASES, results, key=lambda result: sha256(result.case.case_id.encode()).digest())
    metrics = dict.fromkeys(score.metric for result in chosen for score in result.scores)
    return Side(
        snapshot=snapshot,
        ids=[result.case.case_id for result in chosen],
        questions=[result.case.question for result in chosen],
        answers=[result.case.answer for result in chosen],
        passed=[result.passed for result in chosen],
        scores={
            name: [
                score.value for result in chosen for score in result.scores if score.metric == name and score.value is not None
            ]
            for name in metrics
        },
    )


def measure_drift(
    current: Side,
    reference: Side | None,
    *,
    embed: Callable[[Sequence[str]], Floats],
    words: Callable[[str], Sequence[str]],
    embedder: str,
    project: Callable[[Floats], Floats] = projected,
    notes: Sequence[str] = (),
) -> Drift:
    """Compare two snapshots.

    `embed` gives a row for each text, `words` those that a topic can be named by, `project` the map's two dimensions.
    """
    import numpy as np

    before = list(reference.questions) if reference else []
    texts = [*before, *current.questions]
    vectors = unit(embed(texts))
    assigned = clustered(projected(vectors, CLUSTER_DIMENSIONS))
    shifts: list[Shift] = []
    if reference is not None:
        size = len(before)
        for statistic, found in (
            ("MMD²", mmd(vectors[:size], vectors[size:])),
            ("nearest neighbours", neighbours(vectors[:size], vectors[size:])),
            ("PSI", psi(assigned[:size], assigned[size:], int(assigned.max()) + 1)),
        ):
            shifts.append(Shift(name="questions", statistic=statistic, value=round(found[0], 9), p_value=found[1]))
        answers = unit(embed([*reference.answers, *current.answers]))
        value, chance = mmd(answers[:size], answers[size:])
        shifts.append(Shift(name="answers", statistic="MMD²", value=round(value, 9), p_value=chance))
        for name, old, new in (
            ("question length", reference.questions, current.questions),
            ("answer length", reference.answers, current.answers),
        ):
            shifts.append(_moved(name, [float(len(text)) for text in old], [float(len(text)) for text in new]))
        both = [name for name in current.scores if name in reference.scores]
        shifts += [_moved(name, list(reference.scores[name]), list(current.scores[name])) for name in both]
    passed = [*(reference.passed if reference else ()), *current.passed]
    clusters = _clusters(texts, passed, [int(number) for number in assigned], len(before), words)
    return Drift(
        current=current,
        reference=reference,
        embedder=embedder,
        shifts=shifts,
        clusters=clusters,
        points=[(float(x), float(y)) for x, y in np.round(project(vectors), 4)],
        assigned=[int(number) for number in assigned],
        notes=notes,
    )


def _moved(name: str, before: list[float], after: list[float]) -> Shift:
    """The difference of means, with the chance of distributions that differ so much."""
    means = [sum(side) / len(side) if side else None for side in (before, after)]
    old, new = means
    if old is None or new is None:
        return Shift(name=name, statistic="difference of means", value=None, p_value=None, before=old, after=new)
    chance = same_distribution(before, after)
    return Shift(name=name, statistic="difference of means", value=new - old, p_value=chance, before=old, after=new)


def _clusters(
    texts: Sequence[str],
    passed: Sequence[bool | None],
    assigned: Sequence[int],
    size: int,
    words: Callable[[str], Sequence[str]],
) -> list[Cluster]:
    found = [set(words(text)) for text in texts]
    everywhere = Counter(word for some in found for word in some)
    clusters = []
    for number in range(max(assigned) + 1):
        members = [place for place, cluster in enumerate(assigned) if cluster == number]
        inside = Counter(word for place in members for word in found[place])
        weights = {word: count * log((1 + len(texts)) / everywhere[word]) for word, count in inside.items() if count > 1}
        terms = sorted(weights, key=lambda word: (-weights[word], word))[:TERMS]
        sides = [place for place in members if place < size], [place for place in members if place >= size]
        rates = []
        for side in sides:
            measured = [passed[place] for place in side if passed[place] is not None]
            rates.append(sum(map(bool, measured)) / len(measured) if measured else None)
        clusters.append(
            Cluster(
                number=number,
                terms=terms,
                before=len(sides[0]),
                after=len(sides[1]),
                pass_rate_before=rates[0],
                pass_rate_after=rates[1],
            )
        )
    return clusters


def _share(count: int, side: Side | None) -> float:
    return count / len(side.ids) if side and side.ids else 0.0
