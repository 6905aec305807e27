"""Why a score is what it is: what the judge said is kept with every score, in the store and in the results file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.publishing.results_file import write_results
from evalvault_pipeline.scoring.evidence import EVIDENCE
from evalvault_pipeline.scoring.judges import JudgeIdentity
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judged import RUBRIC, judge, openai_spec, saying

LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]
CASE = EvalCase(
    case_id="c1",
    question="How much is the cancer benefit?",
    answer="The cancer benefit is 30,000 dollars. It is paid within 3 days.",
    contexts=("The cancer benefit is 30,000 dollars for a general cancer.", "A claim needs a medical certificate."),
    ground_truth="The cancer benefit is 30,000 dollars for a general cancer. A claim needs a medical certificate.",
)
YES, NO = "The given text says so.", "The given text does not say so."
AMOUNT, SPEED = "The cancer benefit is 30,000 dollars.", "It is paid within 3 days."
GENERAL, CLAIM = CASE.contexts


def said(statement: str, verdict: int, **more: Any) -> dict[str, Any]:
    return {"statement": statement, "verdict": verdict, "reason": YES if verdict else NO, **more}


# What the double's mind says of the case, which the score rests on.
KEPT: dict[str, dict[str, Any]] = {
    "faithfulness": {"statements": [said(AMOUNT, 1), said(SPEED, 0)]},
    "answer_relevancy": {
        "questions": [
            f"{start} {AMOUNT[:-1]}?" for start in ("What is known about", "What is said about", "How would you describe")
        ],
        "noncommittal": 0,
        "cosine": 0.644118,
    },
    "context_precision": {"contexts": [{"context": rank, "verdict": 1, "reason": YES} for rank in (1, 2)]},
    "context_precision_without_reference": {
        "contexts": [{"context": 1, "verdict": 1, "reason": YES}, {"context": 2, "verdict": 0, "reason": NO}]
    },
    "context_recall": {"statements": [said(GENERAL, 1), said(CLAIM, 1)]},
    "factual_correctness": {
        "answer_claims": [said(AMOUNT, 1), said(SPEED, 0)],
        "reference_claims": [said(GENERAL, 1), said(CLAIM, 0)],
    },
    "semantic_similarity": {"cosine": 0.628994},
    "answer_accuracy": {"ratings": [0, 0]},
    "context_relevance": {"ratings": [2, 2]},
    "response_groundedness": {"ratings": [1, 1]},
    "noise_sensitivity": {
        "statements": [said(AMOUNT, 1, contexts=[1]), said(SPEED, 0, contexts=[])],
        "relevant_contexts": [1, 2],
    },
    "summary_score": {
        "keyphrases": ["000", "30", "The", "certificate", "benefit", "dollars"],
        "questions": [
            {"question": f"Is '{phrase}' mentioned?", "answered": phrase in ("The", "benefit", "dollars")}
            for phrase in ("000", "30", "The", "certificate", "benefit", "dollars")
        ],
        "answered_share": 0.5,
        "conciseness": 0.336842,
    },
    "rubric": {"rating": 1, "feedback": NO},
}


def test_every_llm_metric_keeps_what_the_judge_said_in_the_store(tmp_path: Path) -> None:
    """A later run, an `explain` and a report read it from there; nothing of it is asked again."""
    assert set(KEPT) == set(LLM_METRICS) == set(EVIDENCE)
    url = f"sqlite:///{tmp_path / 'scores.sqlite'}"
    with OpenAIServer() as server:
        spec = openai_spec(server)
        found = judge([CASE], LLM_METRICS, spec, tmp_path, store_url=url)
        again = judge([CASE], LLM_METRICS, spec, tmp_path, store_url=url)
    identity = JudgeIdentity(spec=spec)
    by = {
        name: (
            found["c1", name].metric_version,
            identity.fingerprint(chat=METRICS[name].chat, embeddings=METRICS[name].embeddings),
        )
        for name in LLM_METRICS
    }
    with ScoreStore(url) as store:
        rows = store.find([CASE.digest], metrics=by)
    assert {name: rows[CASE.digest, name].evidence for name in LLM_METRICS} == KEPT
    assert {name: found["c1", name].evidence for name in LLM_METRICS} == KEPT
    assert {name: (again["c1", name].evidence, again["c1", name].reused) for name in LLM_METRICS} == {
        name: (evidence, True) for name, evidence in KEPT.items()
    }


def test_the_evidence_of_every_metric_stands_in_the_results_file(tmp_path: Path) -> None:
    """Also with a rubric from the catalog, through the same way that `evalvault run` takes."""
    rubric = "\n".join(f'{key} = "{text}"' for key, text in RUBRIC.items())
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        f'[datasets.d]\ndescription = "d"\nfiles = "d/*"\nlanguage = "en"\nmetrics = ["rubric"]\n[datasets.d.rubric]\n{rubric}\n',
        encoding="utf-8",
    )
    dataset = tmp_path / "d" / "w1.json"
    dataset.parent.mkdir()
    row = {
        "id": "c1",
        "question": CASE.question,
        "answer": CASE.answer,
        "contexts": CASE.contexts,
        "ground_truth": CASE.ground_truth,
    }
    dataset.write_text(json.dumps({"name": "d", "test_cases": [row]}), encoding="utf-8")
    with OpenAIServer() as server:
        settings = load_settings(
            tmp_path,
            EVALVAULT_PROFILE="openai",
            EVALVAULT_JUDGE_MODEL="gpt-4o-mini",
            OPENAI_API_KEY="sk-test",
            OPENAI_BASE_URL=server.base_url,
            EVALVAULT_RESULTS_DIR=str(tmp_path / "results"),
            EVALVAULT_TOKENIZER="ngram",
        )
        spec = load_catalog(catalog).owner_of(dataset)
        with evaluate_file(dataset, settings=settings, spec=spec, metrics=LLM_METRICS) as report:
            write_results(tmp_path / "results.json", report)
    (entry,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"]
    assert {score["name"]: score["evidence"] for score in entry["metrics"]} == KEPT


# What a value does not say by itself --------------------------------------------------------------------------------------


def test_the_two_halves_of_a_summary_score_make_it_up(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        found = judge([CASE], ["summary_score"], openai_spec(server), tmp_path)["c1", "summary_score"]
    halves = (found.evidence["answered_share"], found.evidence["conciseness"])
    assert found.value == pytest.approx(sum(halves) / 2, abs=1e-6)
    text = "\n".join(CASE.contexts)
    assert halves[1] == pytest.approx(1 - len(CASE.answer) / len(text), abs=1e-6)


def test_a_wrong_statement_counts_as_noise_only_where_a_relevant_context_bears_it_out(tmp_path: Path) -> None:
    """The evidence says which contexts are relevant, so that the share can be counted again by hand."""
    case = replace(
        CASE, answer=f"{AMOUNT} {CLAIM} {SPEED}", contexts=(GENERAL, f"{CLAIM} {GENERAL}", SPEED), ground_truth=GENERAL
    )
    with OpenAIServer() as server:
        found = judge([case], ["noise_sensitivity"], openai_spec(server), tmp_path)["c1", "noise_sensitivity"]
    assert found.evidence["relevant_contexts"] == [1, 2]
    assert [(item["verdict"], item["contexts"]) for item in found.evidence["statements"]] == [(1, [1, 2]), (0, [2]), (0, [3])]
    relevant = set(found.evidence["relevant_contexts"])
    noise = [item for item in found.evidence["statements"] if not item["verdict"] and relevant & set(item["contexts"])]
    assert found.value == pytest.approx(len(noise) / 3)


def test_a_number_of_verdicts_that_is_not_that_of_the_statements_is_noted(tmp_path: Path) -> None:
    """ragas counts the verdicts that there are; the reader should know."""

    def mind(schema: Any, prompt: str, occurrence: int) -> Any:
        if "verdict" in json.dumps(schema):
            return {"statements": [{"statement": "a", "reason": "r", "verdict": 1}]}
        return {"statements": ["a", "b", "c"]}

    with OpenAIServer(answer=saying(({"statements"}, mind))) as server:
        found = judge([CASE], ["faithfulness"], openai_spec(server), tmp_path)["c1", "faithfulness"]
    assert (found.value, found.evidence["note"]) == (1.0, "the judge gave 1 verdicts on 3 statements")


def test_a_number_of_answers_that_is_not_that_of_the_questions_is_noted(tmp_path: Path) -> None:
    mind = saying(({"questions"}, {"questions": ["a?", "b?"]}), ({"answers"}, {"answers": ["1", "0", "1"]}))
    with OpenAIServer(answer=mind) as server:
        found = judge([CASE], ["summary_score"], openai_spec(server), tmp_path)["c1", "summary_score"]
    assert found.evidence["questions"] == [{"question": "a?", "answered": True}, {"question": "b?", "answered": False}]
    assert found.evidence["note"] == "the judge gave 3 answers to 2 questions"


def test_a_context_that_only_repeats_the_question_is_rated_0_without_a_judge(tmp_path: Path) -> None:
    """ragas decides that itself; the evidence says so, for there are no ratings to show."""
    case = EvalCase(case_id="c1", question="Is it covered?", answer="Yes.", contexts=("Is it covered?",))
    with OpenAIServer() as server:
        found = judge([case], ["context_relevance"], openai_spec(server), tmp_path)["c1", "context_relevance"]
    assert (found.value, found.evidence, found.unmeasured) == (0.0, {"note": "no judge was needed"}, None)


def test_three_noncommittal_replies_have_no_cosine_to_show() -> None:
    """ragas multiplies it by 0: the 0 is no cosine."""
    replies = [SimpleNamespace(question=f"q{number}", noncommittal=1) for number in range(3)]
    assert EVIDENCE["answer_relevancy"](replies, 0.0) == ({"questions": ["q0", "q1", "q2"], "noncommittal": 3}, "")
    replies[0].noncommittal = 0
    assert EVIDENCE["answer_relevancy"](replies, 0.4)[0]["cosine"] == 0.4
