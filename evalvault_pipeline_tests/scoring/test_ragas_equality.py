"""Our scores are ragas's own: the same cases through plain ragas and through ours, with the same judge, give equal values."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline_tests.doubles.judge_answers import input_of
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judged import judge, openai_spec, prompts
from evalvault_pipeline_tests.scoring.plain_ragas import as_share, plain_values

LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]
RECORDED = Path(__file__).with_name("recorded_answers.json")
EXACT = 1e-12  # ours leaves out no step and no rounding of ragas's

BENEFIT = "The cancer benefit is 30,000 dollars for a general cancer. It is paid within 3 business days."
CLAIM = "A claim needs a medical certificate and a copy of the passport."
SURRENDER = "The surrender value is paid back within 10 days. In the first year there is none."
EXCLUSION = "Cosmetic surgery is not covered by the plan."
WAITING = " ".join(f"Clause {number} sets a waiting period of {number} days for group {number}." for number in range(1, 26))


def case(case_id: str, question: str, answer: str, contexts: Sequence[str], truth: str) -> EvalCase:
    return EvalCase(case_id=case_id, question=question, answer=answer, contexts=tuple(contexts), ground_truth=truth)


CASES = [
    case("right", "How much is the cancer benefit?", "The cancer benefit is 30,000 dollars.", [BENEFIT, CLAIM], BENEFIT),
    case("wrong", "How much is the cancer benefit?", "It is 90,000 dollars. It doubles at night.", [CLAIM, BENEFIT], BENEFIT),
    case("half", "When is it paid?", f"{BENEFIT} {EXCLUSION}", [SURRENDER, BENEFIT, CLAIM], f"{BENEFIT} {CLAIM}"),
    case("noisy", "How much is it?", f"{BENEFIT} {EXCLUSION}", [BENEFIT, EXCLUSION], BENEFIT.split(". ")[0] + "."),
    case("repeats", "What does a claim need?", f"{CLAIM} {EXCLUSION}", [CLAIM, SURRENDER, CLAIM, EXCLUSION], CLAIM),
    case("short", "Is cosmetic surgery covered?", "No", [EXCLUSION, BENEFIT], f"No. {EXCLUSION}"),
    case("long", "Which waiting periods are there?", f"{WAITING} {EXCLUSION}", [WAITING[:600], WAITING], WAITING),
    case("shrug", "What is the surrender value?", "I do not know. There is no information.", [SURRENDER], SURRENDER),
    case("echo", EXCLUSION, EXCLUSION, [EXCLUSION], EXCLUSION),
    case(
        "strange", 'A "quote", {braces}?', 'input: {"answer": "no"}\nOutput: \\ 😀 {}', ["{}\n\ninput: {", CLAIM], "A\ttab\\n"
    ),
    case(
        "korean",
        "암 진단비는 얼마인가요?",
        "암 진단비는 일반암 기준 3,000만원입니다. 진단서가 필요합니다.",
        ["암 진단비는 일반암 기준 3,000만원이 지급됩니다.", "보험금 청구에는 진단서가 필요합니다."],
        "암 진단비는 일반암 기준 3,000만원이 지급됩니다.",
    ),
    case(
        "korean wrong",
        "해지환급금은 언제 받나요?",
        "자동차 수리는 7일 안에 끝납니다. 해지환급금은 10일 안에 지급됩니다.",
        ["해지환급금은 10일 안에 지급됩니다.", "성형 수술은 보장하지 않습니다.", "해지환급금은 10일 안에 지급됩니다."],
        "해지환급금은 10일 안에 지급됩니다. 첫해에는 없습니다.",
    ),
    case("korean short", "보장되나요?", "네", ["성형 수술은 보장하지 않습니다."], "아니요"),
]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    """One double for each side, so that both see the same three questions: plain ragas asks three times, ours for three."""
    with OpenAIServer(record=True, vary=True) as theirs, OpenAIServer(record=True) as ours:
        yield theirs, ours


@pytest.mark.parametrize("name", LLM_METRICS)
def test_plain_ragas_and_ours_give_equal_values_for_equal_prompts(
    name: str, servers: tuple[OpenAIServer, OpenAIServer], tmp_path: Path
) -> None:
    """Also for a context that stands twice, a two-letter answer, texts that look like prompts, and Korean ones."""
    theirs, ours = servers
    for server in servers:
        server.requests.clear()
    plain = asyncio.run(plain_values(name, CASES, theirs))
    found = judge(CASES, [name], openai_spec(ours), tmp_path)
    assert {one.case_id: found[one.case_id, name].detail for one in CASES if found[one.case_id, name].value is None} == {}
    differences = {
        one.case_id: (plain[one.case_id], found[one.case_id, name].value)
        for one in CASES
        if abs(as_share(name, plain[one.case_id]) - (found[one.case_id, name].value or 0.0)) > EXACT
    }
    assert differences == {}
    assert len({round(value, 6) for value in plain.values()}) > 1, "these cases do not tell values apart"
    asked = Counter(prompts(theirs))
    if name == "answer_relevancy":  # what plain ragas asks three times, ours asks for three replies
        asked = Counter({prompt: count // 3 for prompt, count in asked.items()})
    assert Counter(prompts(ours)) == asked


# Recorded answers: odd ones that are valid all the same ------------------------------------------------------------------

CONTENT = json.loads(RECORDED.read_text(encoding="utf-8"))


def replaying(answers: dict[str, list[dict[str, Any]]]) -> Any:
    """A mind that knows only these answers: for each kind of question the first whose `when` stands in the prompt.

    A list of answers is for a prompt that is asked several times.
    """

    def mind(schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
        kind = "verdicts" if "statements" in input_of(prompt) else next(iter(schema["properties"]))
        if kind == "reason":  # ours sends the properties in ragas's order, and both name the verdict second
            kind = "verdict"
        answer = next(one["answer"] for one in answers[kind] if one["when"] in prompt)
        return answer[occurrence % len(answer)] if isinstance(answer, list) else answer

    return mind


@pytest.mark.parametrize("recorded", CONTENT["recorded"], ids=lambda recorded: f"{recorded['metric']}: {recorded['name']}")
def test_recorded_answers_give_the_value_that_plain_ragas_gives(recorded: dict[str, Any], tmp_path: Path) -> None:
    """Odd answers too: ragas's formulas decide what they mean, and ours must not."""
    name, mind = recorded["metric"], replaying(recorded["answers"])
    given = CONTENT["case"]
    one = case("recorded", given["question"], given["answer"], given["contexts"], given["ground_truth"])
    with OpenAIServer(answer=mind, vary=True) as theirs, OpenAIServer(answer=mind) as ours:
        plain = asyncio.run(plain_values(name, [one], theirs))["recorded"]
        score = judge([one], [name], openai_spec(ours), tmp_path)["recorded", name]
    assert (score.unmeasured, score.detail) == (None, "")
    assert score.value == pytest.approx(as_share(name, plain), abs=EXACT, rel=0)
    if recorded["value"] is not None:
        assert plain == pytest.approx(recorded["value"], abs=1e-9)


def test_a_server_that_gives_one_reply_at_a_time_gives_the_same_answer_relevancy(tmp_path: Path) -> None:
    """Ollama and many gateways ignore `n`: then three calls ask what one asks."""
    cases = CASES[:3]  # with three different answers, so that no draw of one is taken by another
    with OpenAIServer(vary=True) as theirs, OpenAIServer(native_n=False, vary=True, record=True) as ours:
        plain = asyncio.run(plain_values("answer_relevancy", cases, theirs))
        found = judge(cases, ["answer_relevancy"], openai_spec(ours), tmp_path)
    assert {case_id: score.value for (case_id, _), score in found.items()} == pytest.approx(plain, abs=EXACT, rel=0)
    assert Counter(Counter(prompts(ours)).values()) == {3: 3}
