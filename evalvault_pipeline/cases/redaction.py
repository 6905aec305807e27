"""The firewall: what a person is known by is replaced by labels before anything leaves the process.

Once while a dataset is read: `Firewall` masks each case, so that the judge, the store, the tables, reports, Phoenix and alerts
see labels only. And once more on what is sent or logged (`redacted`), as a second line. What is looked for stands in `pii.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from evalvault_pipeline.cases.model import EvalCase, PiiReport, RowProblem
from evalvault_pipeline.cases.pii import LABEL, find_pii, find_together, introduced_by
from evalvault_pipeline.cases.pii_rules import is_sure_registration
from evalvault_pipeline.cases.pii_words import BAR, Found, Kind, Place

Policy = Literal["redact", "block", "off"]
NAMES = {
    Kind.PHONE: "a phone number",
    Kind.EMAIL: "an e-mail address",
    Kind.SSN: "a registration number",
    Kind.BUSINESS_NUMBER: "a business number",
    Kind.PASSPORT: "a passport number",
    Kind.DRIVER_LICENSE: "a driver's license number",
    Kind.CARD: "a card number",
    Kind.ACCOUNT: "an account number",
}
_SURROGATES = re.compile("[\ud800-\udfff]")


def redacted(text: str) -> str:
    """The text with `[PHONE]`, `[EMAIL]`, `[SSN]` ... in place of what a person is known by, and as valid UTF-8."""
    return _redacted(text, "")


def redacted_values(value: Any) -> Any:
    """JSON values with every text in them redacted; keys stay."""
    return _mapped(value, "", _redacted, keys=False)


def _redacted(text: str, about: str) -> str:
    text = text.replace(BAR, "\ufffd")
    try:
        text.encode()  # which is faster than to look for them
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\ufffd", text)
    found = find_pii(text, about=about)
    return _labelled(text, found, lambda one: f"[{one.kind}]") if found else text


class Firewall:
    """Masks the cases of one dataset file by its policy, and counts what was masked."""

    def __init__(self, policy: Policy = "redact") -> None:
        self.policy = policy
        self._masked: Counter[str] = Counter()
        self._cases = 0

    @property
    def report(self) -> PiiReport:
        return PiiReport(policy=self.policy, masked=dict(sorted(self._masked.items())), cases=self._cases)

    def refuse(self, case: EvalCase, *, path: str, line: int) -> list[RowProblem]:
        """Why a case must not be read: an id that names a person, and under `block` every field that holds what does.

        An id cannot be masked: by it cases are paired from release to release. The value is never repeated.
        """
        if self.policy == "off":
            return []
        problems = []
        if sure := [one for one in find_pii(case.case_id) if _is_sure(case.case_id[one.start : one.end], one)]:
            problems.append(("id", sure, "Give the case an id that names nobody: ids are kept in every result."))
        if self.policy == "block":
            texts = list(_texts(case))
            held: dict[str, list[Found]] = {}
            for (field, _, _), found in zip(texts, _found_in(texts), strict=True):
                held.setdefault(field, []).extend(found)
            remedy = 'Take it out, or set pii = "redact" for this dataset.'
            problems += [(field, found, remedy) for field, found in held.items() if found]
        return [
            RowProblem(path=path, line=line, field=field, found=f"holds {_named(found)}", remedy=remedy)
            for field, found, remedy in problems
        ]

    def mask(self, case: EvalCase) -> EvalCase:
        """The case with `[PHONE_1]` and the like in every text: the same number has the same label everywhere in it.

        What one text says to be an account is masked in all of them. Labels are numbered in the order question, reference,
        contexts, metadata, answer: another answer renames nothing else, unless it has the word for a number that was asked.
        """
        if self.policy != "redact":
            return case
        texts = list(_texts(case))
        found = {(text, about): some for (_, text, about), some in zip(texts, _found_in(texts), strict=True)}
        if not any(found.values()):
            return case
        labels = _Labels(text for _, text, _ in texts)
        for _, text, about in texts:
            for one in found[text, about]:
                labels.of(one)
                self._masked[one.kind] += 1
        self._cases += 1

        def mask(text: str, about: str) -> str:
            return _labelled(text, found[text, about], labels.of)

        return replace(
            case,
            question=mask(case.question, ""),
            answer=mask(case.answer, ""),
            contexts=tuple(mask(context, "") for context in case.contexts),
            ground_truth=None if case.ground_truth is None else mask(case.ground_truth, ""),
            metadata=_mapped(case.metadata, "", mask),
        )

    def mask_header(self, value: Any) -> Any:
        """Texts of a file's header, in which there is nothing to match: their labels bear no number."""
        return value if self.policy == "off" else redacted_values(value)


class _Labels:
    """The labels of one case. Numbers that its texts hold already are not given again."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for text in texts:
            for kind, number in LABEL.findall(text) if "[" in text else ():
                self._last[kind] = max(self._last[kind], int(number or 0))

    def of(self, one: Found) -> str:
        known = (one.kind.value, one.key)
        if known not in self._given:
            self._last[one.kind] += 1
            self._given[known] = f"[{one.kind}_{self._last[one.kind]}]"
        return self._given[known]


def _is_sure(text: str, one: Found) -> bool:
    """Whether it is no mere number: ids are often counters and times."""
    if one.kind is Kind.SSN and is_sure_registration(one.key):
        return True
    return not text.isdigit() or one.key.startswith("01")


def _named(found: Iterable[Found]) -> str:
    return " and ".join(dict.fromkeys(NAMES[one.kind] for one in found))


def _labelled(text: str, found: Sequence[Found], label: Callable[[Found], str]) -> str:
    pieces, position = [], 0
    for one in found:
        pieces += [text[position : one.start], label(one)]
        position = one.end
    return "".join((*pieces, text[position:]))


def _texts(case: EvalCase) -> Iterator[tuple[str, str, str]]:
    """(field, text, what it is said to be) of all that is masked, in the order in which labels are numbered."""
    yield "question", case.question, ""
    if case.ground_truth is not None:
        yield "ground_truth", case.ground_truth, ""
    for context in case.contexts:
        yield "contexts", context, ""
    for text, about in _inside(case.metadata, ""):
        yield "metadata", text, about
    yield "answer", case.answer, ""


def _found_in(texts: Iterable[tuple[str, str, str]]) -> list[list[Found]]:
    return find_together([(text, about) for _, text, about in texts])


def _inside(value: Any, about: str) -> Iterator[tuple[str, str]]:
    """(text, the key that it stands under) of all texts in JSON values, keys among them, in the order of keys."""
    if isinstance(value, str):
        yield value, about
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield key, ""
            yield from _inside(value[key], key)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _inside(item, about)
    elif _is_named_number(value, about):
        yield str(value), about


def _mapped(value: Any, about: str, change: Callable[[str, str], str], *, keys: bool = True) -> Any:
    """JSON values with what `_inside` yields changed; keys too, unless they are to stay."""
    if isinstance(value, str):
        return change(value, about)
    if isinstance(value, Mapping):
        changed: dict[str, Any] = {}
        for key, item in value.items():
            changed[_unused(change(key, ""), changed) if keys else key] = _mapped(item, key, change, keys=keys)
        return changed
    if isinstance(value, Sequence):
        return [_mapped(item, about, change, keys=keys) for item in value]
    if _is_named_number(value, about) and (text := change(str(value), about)) != str(value):
        return text
    return value


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Two spellings of one number have one label, and both keys stay."""
    return next(one for one in (name, *(f"{name} ({number})" for number in range(2, len(taken) + 2))) if one not in taken)


def _is_named_number(value: Any, about: str) -> bool:
    """Whether a number of JSON stands under a key with a word for what a person is known by: `{"phone": 1012345678}`."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    head = introduced_by(about)
    return Place(head, len(head)).word is not None
