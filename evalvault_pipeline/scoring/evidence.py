"""Why a score is what it is: statements, verdicts, reasons and questions of the judge, kept with each score.

Each function takes the answers that a ragas metric was given, in their order, and ragas's value, and gives (evidence, fault):
a fault is a sentence that says why these answers make no measurement although each by itself is well formed.
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


def _faithfulness(answers: Sequence[Any], value: float) -> Evidence:
    statements, verdicts = answers
    return _verdicts(verdicts.statements, len(statements.statements)), ""


def _answer_relevancy(answers: Sequence[Any], value: float) -> Evidence:
    """The mean cosine of question and made-up questions, which ragas sets to 0 where every one says "noncommittal"."""
    declined = sum(answer.noncommittal for answer in answers)
    found: dict[str, Any] = {"questions": [answer.question for answer in answers], "noncommittal": declined}
    return (found if declined == len(answers) else {**found, "cosine": round(value, 6)}), ""


def _context_precision(answers: Sequence[Any], value: float) -> Evidence:
    verdicts = [
        {"context": rank, "verdict": answer.verdict, "reason": answer.reason} for rank, answer in enumerate(answers, start=1)
    ]
    return {"contexts": verdicts}, ""


def _context_recall(answers: Sequence[Any], value: float) -> Evidence:
    found = [
        {"statement": item.statement, "verdict": item.attributed, "reason": item.reason} for item in answers[0].classifications
    ]
    return {"statements": found}, ""


def _factual_correctness(answers: Sequence[Any], value: float) -> Evidence:
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


def _semantic_similarity(answers: Sequence[Any], value: float) -> Evidence:
    return {"cosine": round(value, 6)}, ""


def _ratings(answers: Sequence[Any], value: float) -> Evidence:
    """Empty where ragas needs no judge: a context that only repeats the question."""
    return {"ratings": [answer.rating for answer in answers]} if answers else {"note": "no judge was needed"}, ""


def _noise_sensitivity(answers: Sequence[Any], value: float) -> Evidence:
    """Each statement of the answer: whether the reference bears it out, and which contexts do.

    A context is relevant that bears out a statement of the reference; the score counts wrong statements from these.
    """
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
    relevant = [rank for rank, answer in enumerate(verdicts[::2], start=1) if any(item.verdict for item in answer.statements)]
    return {"statements": found, "relevant_contexts": relevant}, ""


def _summary_score(answers: Sequence[Any], value: float) -> Evidence:
    """The score is the mean of two shares: questions that the answer answers, and how much shorter it is than the contexts."""
    keyphrases, questions, replies = answers
    asked = [
        {"question": question, "answered": reply == "1"}
        for question, reply in zip(questions.questions, replies.answers, strict=False)
    ]
    answered = replies.answers.count("1") / len(replies.answers)
    found: dict[str, Any] = {
        "keyphrases": keyphrases.keyphrases,
        "questions": asked,
        "answered_share": round(answered, 6),
        "conciseness": round(2 * value - answered, 6),
    }
    if len(questions.questions) != len(replies.answers):
        found["note"] = f"the judge gave {len(replies.answers)} answers to {len(questions.questions)} questions"
    return found, ""


def _rubric(answers: Sequence[Any], value: float) -> Evidence:
    return {"rating": answers[0].score, "feedback": answers[0].feedback}, ""


EVIDENCE: Mapping[str, Callable[[Sequence[Any], float], Evidence]] = {
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
