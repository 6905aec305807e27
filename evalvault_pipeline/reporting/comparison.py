"""Two runs over the same cases: what changed, by how much, and how sure that is.

Pure: runs come in as columns (`recorded.RecordedRun`). What is decided upon a comparison stands in `gate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.errors import UnusableResults
from evalvault_pipeline.reporting.recorded import RecordedRun, case_states, known, metric_states
from evalvault_pipeline.reporting.statistics import (
    detectable_drop,
    exact_mcnemar,
    flip_interval,
    holm,
    mean_below,
    mean_differs,
    paired_mean_interval,
)
from evalvault_pipeline.scoring.model import ROUNDING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SLICE_MINIMUM = 20
SLICE_VALUES = 30
CHANGES_IN_FULL = 50


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure in both runs, over the `pairs` of cases in which it is known in both.

    `baseline` and `candidate` are the pass rate or the mean, `difference` is candidate - baseline and `interval` its 95 %
    interval. `p_value` (paired t-test of a mean; McNemar's for the pass rate) and `flips_p_value` (McNemar's, of the metric's
    own passes) are two-sided, the `adjusted` ones corrected by Holm over the metrics. `noise` is one standard error that the
    judge's noise alone gives the difference; `scores` are a metric's (before, after), as arrays over the pairs.
    """

    name: str
    pairs: int
    baseline: float | None
    candidate: float | None
    interval: tuple[float, float] | None
    newly_failing: int
    newly_passing: int
    p_value: float
    flips_p_value: float
    adjusted: float = 1.0
    flips_adjusted: float = 1.0
    noise: float = 0.0
    lower_is_better: bool = False
    scores: Any = field(default=None, repr=False, compare=False)

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None or self.candidate is None else self.candidate - self.baseline

    @property
    def drop(self) -> float:
        """By how much it got worse; below 0 where it got better."""
        difference = self.difference or 0.0
        return difference if self.lower_is_better else -difference

    def beyond(self, margin: float) -> float:
        """One-sided p-value that the mean got worse by no more than `margin`."""
        if self.scores is None:
            return 1.0
        before, after = self.scores
        return mean_below(before - after if self.lower_is_better else after - before, -margin)


@dataclass(frozen=True, kw_only=True)
class CaseChange:
    """A case whose verdict changed, as it stands in both runs' files."""

    case_id: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SliceDifference:
    """The pass rate among the pairs whose metadata `key` is `value`; `adjusted` is Holm's over all slices."""

    key: str
    value: str
    pairs: int
    baseline: float
    candidate: float
    interval: tuple[float, float] | None
    newly_failing: int
    newly_passing: int
    p_value: float
    adjusted: float = 1.0

    @property
    def difference(self) -> float:
        return self.candidate - self.baseline


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate against a baseline.

    `warnings` say what else than the answers differs between the two; `comparable` is False where something else measured
    (another judge, or another version of a metric). `worst` and `best` are (newly failing, newly passing) over all pairs if
    what is measured in one run only had gone against, or for, the candidate. `identical`: no answer and no score differs.
    """

    baseline: RecordedRun
    candidate: RecordedRun
    pairs: int
    only_in_baseline: tuple[str, ...]
    only_in_candidate: tuple[str, ...]
    changed_inputs: tuple[str, ...]
    warnings: tuple[str, ...]
    comparable: bool
    identical: bool
    pass_rate: Difference
    worst: tuple[int, int]
    best: tuple[int, int]
    metrics: tuple[Difference, ...]
    slices: tuple[SliceDifference, ...]
    too_small_slices: int
    newly_failing: tuple[str, ...]
    newly_passing: tuple[str, ...]
    newly_failing_cases: tuple[CaseChange, ...]
    newly_passing_cases: tuple[CaseChange, ...]
    flip_rate: float

    @property
    def detectable_drop(self) -> float:
        """The smallest drop of the pass rate that so many pairs can show."""
        return detectable_drop(self.pass_rate.pairs, self.flip_rate)

    @property
    def bounds(self) -> tuple[float, float]:
        """Difference of the pass rates over all pairs in the worst and in the best case of what is unmeasured."""
        worst, best = ((after - before) / self.pairs if self.pairs else 0.0 for before, after in (self.worst, self.best))
        return worst, best


def compare_runs(baseline: RecordedRun, candidate: RecordedRun, *, slice_keys: Sequence[str] | None = None) -> Comparison:
    """Pair the cases by id and input digest, and say what differs. Both sides are held to the candidate's thresholds.

    `slice_keys` None takes every metadata field with 2 to 30 values. Raises UnusableResults where there is nothing to pair.
    """
    import numpy as np

    metrics = [name for name in candidate.metrics if name in baseline.values]
    if not metrics:
        raise UnusableResults(
            f"{baseline.source} and {candidate.source} have no metric in common: {', '.join(baseline.metrics)} and "
            f"{', '.join(candidate.metrics)}. Score both with the same --metrics."
        )
    pairing = _paired(baseline, candidate)
    if not pairing.before.size:
        raise UnusableResults(
            f"{baseline.source} and {candidate.source} have no case in common, by id and question: "
            f"{_some(baseline.case_ids)} and {_some(candidate.case_ids)}. Compare two runs over the same dataset."
        )
    thresholds = {name: candidate.threshold(name) for name in metrics}
    before = case_states(baseline, metrics, thresholds)[pairing.before]
    after = case_states(candidate, metrics, thresholds)[pairing.after]
    flip_rate = _case_flip_rate(baseline, candidate, metrics)
    compared = [_metric_difference(name, baseline, candidate, pairing) for name in metrics]
    warnings, comparable = _what_else_differs(baseline, candidate, metrics)
    both = known(before) & known(after)
    one = known(before) ^ known(after)
    failing, passing = (before == 1.0) & (after == 0.0), (before == 0.0) & (after == 1.0)
    slices, too_small = _slices(candidate, pairing, before, after, slice_keys)
    same_answers = all(
        baseline.case_digests[old] == candidate.case_digests[new]
        for old, new in zip(pairing.before, pairing.after, strict=True)
    )
    same_scores = all(
        np.array_equal(baseline.values[name][pairing.before], candidate.values[name][pairing.after], equal_nan=True)
        for name in metrics
    )
    names = candidate.case_ids
    identical = same_answers and same_scores
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        pairs=int(before.size),
        only_in_baseline=pairing.only_before,
        only_in_candidate=pairing.only_after,
        changed_inputs=pairing.changed,
        warnings=tuple(warnings),
        comparable=comparable,
        identical=identical,
        pass_rate=_pass_difference(before[both], after[both], flip_rate, identical),
        worst=(int((failing | one & (before != 0.0) & (after != 1.0)).sum()), int(passing.sum())),
        best=(int(failing.sum()), int((passing | one & (before != 1.0) & (after != 0.0)).sum())),
        metrics=_corrected(compared),
        slices=slices,
        too_small_slices=too_small,
        newly_failing=tuple(names[index] for index in pairing.after[failing]),
        newly_passing=tuple(names[index] for index in pairing.after[passing]),
        newly_failing_cases=_changes(baseline, candidate, pairing, failing),
        newly_passing_cases=_changes(baseline, candidate, pairing, passing),
        flip_rate=flip_rate,
    )


@dataclass(frozen=True, kw_only=True)
class _Pairing:
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    changed: tuple[str, ...]


def _paired(baseline: RecordedRun, candidate: RecordedRun) -> _Pairing:
    import numpy as np

    places = {name: index for index, name in enumerate(baseline.case_ids)}
    before, after, only_after, changed = [], [], [], []
    for index, name in enumerate(candidate.case_ids):
        place = places.pop(name, None)
        if place is None:
            only_after.append(name)
        elif baseline.input_digests[place] != candidate.input_digests[index]:
            changed.append(name)
        else:
            before.append(place)
            after.append(index)
    return _Pairing(
        before=np.array(before, dtype=np.int64),
        after=np.array(after, dtype=np.int64),
        only_before=tuple(places),
        only_after=tuple(only_after),
        changed=tuple(changed),
    )


def _pass_difference(before: Floats, after: Floats, flip_rate: float, identical: bool) -> Difference:
    pairs, failing, passing = int(before.size), int((before > after).sum()), int((after > before).sum())
    p_value = exact_mcnemar(failing, passing)
    return Difference(
        name="pass_rate",
        pairs=pairs,
        baseline=float(before.mean()) if pairs else None,
        candidate=float(after.mean()) if pairs else None,
        interval=(0.0, 0.0) if identical and pairs else flip_interval(failing, passing, pairs),
        newly_failing=failing,
        newly_passing=passing,
        p_value=p_value,
        flips_p_value=p_value,
        adjusted=p_value,
        flips_adjusted=p_value,
        noise=math.sqrt(flip_rate / pairs) if pairs else 0.0,
    )


def _metric_difference(name: str, baseline: RecordedRun, candidate: RecordedRun, pairing: _Pairing) -> Difference:
    old, new = baseline.values[name][pairing.before], candidate.values[name][pairing.after]
    both = known(old) & known(new)
    old, new = old[both], new[both]
    threshold, lower = candidate.threshold(name), candidate.lower_is_better(name)
    before, after = metric_states(old, threshold, lower), metric_states(new, threshold, lower)
    failing, passing = int((before > after).sum()), int((after > before).sum())
    differences = new - old
    pairs = int(old.size)
    deviation = max(baseline.noise(name, "deviation"), candidate.noise(name, "deviation"))
    return Difference(
        name=name,
        pairs=pairs,
        baseline=float(old.mean()) if pairs else None,
        candidate=float(new.mean()) if pairs else None,
        interval=paired_mean_interval(differences),
        newly_failing=failing,
        newly_passing=passing,
        p_value=mean_differs(differences),
        flips_p_value=exact_mcnemar(failing, passing),
        noise=deviation * math.sqrt(2 / pairs) if pairs else 0.0,
        lower_is_better=lower,
        scores=(old, new),
    )


def _corrected(compared: Sequence[Difference]) -> tuple[Difference, ...]:
    means, flips = holm([one.p_value for one in compared]), holm([one.flips_p_value for one in compared])
    return tuple(
        replace(one, adjusted=mean, flips_adjusted=flip) for one, mean, flip in zip(compared, means, flips, strict=True)
    )


def _case_flip_rate(baseline: RecordedRun, candidate: RecordedRun, metrics: Sequence[str]) -> float:
    """Share of cases whose verdict the judges' noise changes between two runs, if metrics flip independently."""
    steady = 1.0
    for name in metrics:
        steady *= 1.0 - max(baseline.noise(name, "flip_rate"), candidate.noise(name, "flip_rate"))
    return 1.0 - steady


def _what_else_differs(baseline: RecordedRun, candidate: RecordedRun, metrics: Sequence[str]) -> tuple[list[str], bool]:
    old, new = baseline.header, candidate.header
    told: list[str] = []
    comparable = True
    if old["dataset_name"] != new["dataset_name"]:
        told.append(f"another dataset: {old['dataset_name']}, now {new['dataset_name']}")
    judges = any(
        baseline.judges.get(name) != candidate.judges.get(name) and _both(baseline, candidate, name) for name in metrics
    )
    if old["model_name"] != new["model_name"] or old.get("judge", {}) != new.get("judge", {}) or judges:
        comparable = False
        same = old["model_name"] == new["model_name"]
        told.append(
            f"another judge: {old['model_name']}, now {new['model_name']}{' with other settings or prompts' if same else ''}"
        )
    for name in metrics:
        if baseline.version(name) != candidate.version(name):
            comparable = False
            told.append(f"another version of {name}: {baseline.version(name)}, now {candidate.version(name)}")
        if not math.isclose(baseline.threshold(name), candidate.threshold(name), abs_tol=ROUNDING):
            was, now = baseline.threshold(name), candidate.threshold(name)
            told.append(f"another threshold of {name}: {was:g}, now {now:g}; both runs are held to {now:g} here")
    for these, where in (
        (set(baseline.metrics) - set(metrics), "baseline"),
        (set(candidate.metrics) - set(metrics), "candidate"),
    ):
        if these:
            told.append(f"measured in the {where} only, and left out here: {', '.join(sorted(these))}")
    if old["dataset_version"] != new["dataset_version"]:
        told.append(f"another version of the dataset: {old['dataset_version']}, now {new['dataset_version']}")
    policy, policy_now = map(_pii_policy, (old, new))
    if policy != policy_now:
        told.append(
            f"another policy for personal data: {policy}, now {policy_now}; what one of them masks is another text there"
        )
    for run, where in ((baseline, "baseline"), (candidate, "candidate")):
        if missing := run.header["missing_batches"]:
            told.append(f"the {where} lacks {len(missing)} batches: {', '.join(missing[:5])}")
        if skipped := run.header["skipped_rows"]:
            told.append(f"the {where} left out {len(skipped)} bad rows")
        if run.header["passed_test_cases"] != run.passed or run.header["total_test_cases"] != len(run.case_ids):
            told.append(
                f"the {where}'s file says {run.header['passed_test_cases']} of {run.header['total_test_cases']} cases passed, "
                f"its scores {run.passed} of {len(run.case_ids)}: it was edited, and the scores are taken"
            )
    return told, comparable


def _pii_policy(header: Mapping[str, Any]) -> str:
    pii = header.get("pii")
    return str(pii.get("policy")) if isinstance(pii, dict) else "unknown"


def _both(baseline: RecordedRun, candidate: RecordedRun, metric: str) -> bool:
    return bool(baseline.judges.get(metric)) and bool(candidate.judges.get(metric))


def _slices(
    candidate: RecordedRun, pairing: _Pairing, before: Floats, after: Floats, keys: Sequence[str] | None
) -> tuple[tuple[SliceDifference, ...], int]:
    """(the slices with enough pairs, how many had too few)."""
    import numpy as np

    measured = np.flatnonzero(known(before) & known(after)).tolist()
    found: list[SliceDifference] = []
    too_small = 0
    for key, column in candidate.metadata.items():
        if keys is not None and key not in keys:
            continue
        places: dict[str, list[int]] = {}
        for place, index in zip(measured, pairing.after[measured].tolist(), strict=True):
            if (value := column[index]) is not None:
                places.setdefault(value, []).append(place)
        if keys is None and not 2 <= len(places) <= SLICE_VALUES:
            continue
        for value, these in sorted(places.items()):
            if len(these) < SLICE_MINIMUM:
                too_small += 1
                continue
            old, new = before[np.array(these)], after[np.array(these)]
            failing, passing = int((old > new).sum()), int((new > old).sum())
            found.append(
                SliceDifference(
                    key=key,
                    value=value,
                    pairs=len(these),
                    baseline=float(old.mean()),
                    candidate=float(new.mean()),
                    interval=flip_interval(failing, passing, len(these)),
                    newly_failing=failing,
                    newly_passing=passing,
                    p_value=exact_mcnemar(failing, passing),
                )
            )
    adjusted = holm([one.p_value for one in found])
    return tuple(replace(one, adjusted=p_value) for one, p_value in zip(found, adjusted, strict=True)), too_small


def _changes(
    baseline: RecordedRun, candidate: RecordedRun, pairing: _Pairing, which: NDArray[np.bool_]
) -> tuple[CaseChange, ...]:
    places = zip(pairing.before[which][:CHANGES_IN_FULL], pairing.after[which][:CHANGES_IN_FULL], strict=True)
    return tuple(
        CaseChange(case_id=candidate.case_ids[new], before=baseline.entry(int(old)), after=candidate.entry(int(new)))
        for old, new in places
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "no case"
