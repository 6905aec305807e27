"""A verdict as JUnit XML: what CI systems list as tests. A case is a test; an unmeasured one is skipped, with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

from evalvault_pipeline.publishing.markdown import number, why
from evalvault_pipeline.publishing.results_file import replacing
from evalvault_pipeline.reporting.gate import Outcome, Verdict
from evalvault_pipeline.scoring.model import ROUNDING

# What XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, verdict: Verdict) -> None:
    """Write one suite with a test for each rule of the gate, and one with a test for each case; atomically."""
    run = verdict.run
    findings = verdict.findings
    failed = sum(one.outcome is Outcome.FAIL for one in findings)
    skipped = sum(one.outcome is Outcome.INCONCLUSIVE for one in findings)
    total = len(run.case_ids)
    with replacing(path) as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        counts = _counts(total + len(findings), run.failed + failed, run.unmeasured + skipped)
        file.write(f"<testsuites name={_attribute(run.name)} {counts}>\n")
        file.write(f"  <testsuite name={_attribute(f'{run.name} gate')} {_counts(len(findings), failed, skipped)}>\n")
        for finding in findings:
            _test(file, "gate", finding.rule.value, 0.0, *_outcome(finding.outcome, finding.sentence))
        file.write("  </testsuite>\n")
        properties = {"run_id": run.run_id, "judge": str(run.header["model_name"]), "outcome": verdict.outcome.value}
        file.write(
            f"  <testsuite name={_attribute(run.name)} {_counts(total, run.failed, run.unmeasured)}>\n    <properties>\n"
        )
        for name, value in properties.items():
            file.write(f"      <property name={_attribute(name)} value={_attribute(value)}/>\n")
        file.write("    </properties>\n")
        for index, (case_id, state) in enumerate(zip(run.case_ids, run.decided.tolist(), strict=True)):
            case = run.entry(index)
            seconds = float(case.get("seconds") or 0.0)
            _test(file, str(run.header["dataset_name"]), case_id, seconds, *_case(case, state))
        file.write("  </testsuite>\n</testsuites>\n")


def _case(case: Mapping[str, Any], state: float) -> tuple[str, str, str]:
    """(element, message, text) of a case; the element is empty for one that passed."""
    if state == 1.0:
        return "", "", ""
    failed = [score for score in case["metrics"] if _fails(score)]
    if state == 0.0:
        return "failure", "; ".join(map(_figure, failed)), f"question: {case.get('question')}\nanswer: {case.get('answer')}"
    unknown = [score for score in case["metrics"] if score["score"] is None]
    return "skipped", "; ".join(_reasons(unknown)) or "unmeasured", ""


def _fails(score: Mapping[str, Any]) -> bool:
    value, threshold = score["score"], score["threshold"]
    if value is None:
        return False
    return bool((value - threshold if score["lower_is_better"] else threshold - value) > ROUNDING)


def _figure(score: Mapping[str, Any]) -> str:
    sign = ">" if score["lower_is_better"] else "<"
    reason = why(score["evidence"])
    return f"{score['name']} {number(score['score'])} {sign} {score['threshold']:g}{f' ({reason})' if reason else ''}"


def _reasons(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{score['name']} unmeasured ({score['unmeasured']}): {score['reason'] or ''}".rstrip(": ") for score in scores]


def _outcome(outcome: Outcome, sentence: str) -> tuple[str, str, str]:
    element = {Outcome.PASS: "", Outcome.FAIL: "failure", Outcome.INCONCLUSIVE: "skipped"}[outcome]
    return element, f"inconclusive: {sentence}" if outcome is Outcome.INCONCLUSIVE else sentence, ""


def _test(file: TextIO, group: str, name: str, seconds: float, element: str, message: str, text: str) -> None:
    head = f'    <testcase classname={_attribute(group)} name={_attribute(name)} time="{seconds:.3f}"'
    if not element:
        file.write(f"{head}/>\n")
        return
    file.write(f"{head}>\n      <{element} message={_attribute(message)}>{escape(_clean(text))}</{element}>\n    </testcase>\n")


def _counts(tests: int, failures: int, skipped: int) -> str:
    return f'tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}"'


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    return _ILLEGAL.sub("�", text)
