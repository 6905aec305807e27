"""Why a score is what it is: statements, verdicts, reasons and questions of the judge, kept with each score.

Each function takes the answers that a ragas metric was given, in their order, and gives (evidence, fault): a fault is a
sentence that says why these answers make no measurement although each by itself is well formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Evidence = tuple[dict[str, Any], str]


def _verdicts(items: Sequence[Any], asked: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "statements": [{"statement": item.statement, "verdict": item.verdict, "reason": item.reason} for item in items]
    }
    if len(items) != asked:
        found["note"] = f"the judge gave {len(items)} verdicts on {asked} statements"
    return found


def _faithfulness(answers: Sequence[Any]) -> Evidence:
    statements, verdicts = answers
    return _verdicts(verdicts.statements, len(statements.statements)), ""


def _answer_relevancy(answers: Sequence[Any]) -> Evidence:
    declined = sum(answer.noncommittal for answer in answers)
    return {"questions": [answer.question for answer in answers], "noncommittal": declined}, ""


def _context_precision(answers: Sequence[Any]) -> Evidence:
    verdicts = [
        {"context": rank, "verdict": answer.verdict, "reason": answer.reason} for rank, answer in enumerate(answers, start=1)
    ]
    return {"contexts": verdicts}, ""


def _context_recall(answers: Sequence[Any]) -> Evidence:
    found = [
        {"statement": item.statement, "verdict": item.attributed, "reason": item.reason} for item in answers[0].classifications
    ]
    return {"statements": found}, ""


def _factual_correctness(answers: Sequence[Any]) -> Evidence:
    """Claims of the answer against the reference, then claims of the reference against the answer."""
    sides: list[tuple[list[str], list[Any]]] = []
    for answer in answers:
        if hasattr(answer, "claims"):
            sides.append((answer.claims, []))
        else:
            sides[-1][1].extend(answer.statements)
    (of_answer, in_reference), (of_reference, in_answer) = sides
    if not of_reference:
        return {}, "the judge found no claim in the reference, so there is nothing to compare with"
    found = {
        "answer_claims": _verdicts(in_reference, len(of_answer))["statements"],
        "reference_claims": _verdicts(in_answer, len(of_reference))["statements"],
    }
    return found, ""


def _semantic_similarity(answers: Sequence[Any]) -> Evidence:
    return {}, ""


def _ratings(answers: Sequence[Any]) -> Evidence:
    """Empty where ragas needs no judge: a context that only repeats the question."""
    return {"ratings": [answer.rating for answer in answers]} if answers else {"note": "no judge was needed"}, ""


def _noise_sensitivity(answers: Sequence[Any]) -> Evidence:
    """Each statement of the answer: whether the reference bears it out, and which contexts do."""
    of_reference, of_answer, *verdicts, against_reference = answers
    for judged, asked in [
        *((answer, of_reference) for answer in verdicts[::2]),
        *((answer, of_answer) for answer in verdicts[1::2]),
        (against_reference, of_answer),
    ]:
        if len(judged.statements) != len(asked.statements):
            return {}, f"the judge gave {len(judged.statements)} verdicts on {len(asked.statements)} statements"
    found = [
        {
            "statement": statement,
            "verdict": against_reference.statements[number].verdict,
            "reason": against_reference.statements[number].reason,
            "contexts": [rank for rank, answer in enumerate(verdicts[1::2], start=1) if answer.statements[number].verdict],
        }
        for number, statement in enumerate(of_answer.statements)
    ]
    return {"statements": found}, ""


def _summary_score(answers: Sequence[Any]) -> Evidence:
    keyphrases, questions, replies = answers
    asked = [
        {"question": question, "answered": reply == "1"}
        for question, reply in zip(questions.questions, replies.answers, strict=False)
    ]
    found: dict[str, Any] = {"keyphrases": keyphrases.keyphrases, "questions": asked}
    if len(questions.questions) != len(replies.answers):
        found["note"] = f"the judge gave {len(replies.answers)} answers to {len(questions.questions)} questions"
    return found, ""


def _rubric(answers: Sequence[Any]) -> Evidence:
    return {"rating": answers[0].score, "feedback": answers[0].feedback}, ""


EVIDENCE: Mapping[str, Callable[[Sequence[Any]], Evidence]] = {
    "faithfulness": _faithfulness,
    "answer_relevancy": _answer_relevancy,
    "context_precision": _context_precision,
    "context_precision_without_reference": _context_precision,
    "context_recall": _context_recall,
    "factual_correctness": _factual_correctness,
    "semantic_similarity": _semantic_similarity,
    "answer_accuracy": _ratings,
    "context_relevance": _ratings,
    "response_groundedness": _ratings,
    "noise_sensitivity": _noise_sensitivity,
    "summary_score": _summary_score,
    "rubric": _rubric,
}
