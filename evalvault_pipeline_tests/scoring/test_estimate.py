"""What a dry run says is what the run then asks for: the same calls, and prompts of about as many tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.evaluate import estimate_file, evaluate_file
from evalvault_pipeline.scoring.estimate import Estimate, estimate, tokens_of
from evalvault_pipeline.scoring.judges import JudgeSpec
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import MetricScore
from evalvault_pipeline.scoring.usage import price_of
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer
from evalvault_pipeline_tests.doubles.openai_server import CHAT, EMBEDDINGS, OpenAIServer
from evalvault_pipeline_tests.doubles.serving import token_count
from evalvault_pipeline_tests.scoring.judged import RUBRIC, judge, openai_spec
from evalvault_pipeline_tests.scoring.test_ragas_equality import CASES

LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]


def estimated(metric: str, case: EvalCase, spec: JudgeSpec, language: str = "en") -> Estimate:
    return estimate(metric, case, spec=spec, language=language, rubric=RUBRIC)


def within_a_factor_of_two(one: float, other: float) -> bool:
    return one <= 2 * other and other <= 2 * one


@pytest.mark.parametrize("language", ["en", "ko"])
def test_calls_are_those_of_the_run_and_prompt_tokens_within_a_factor_of_two(language: str, tmp_path: Path) -> None:
    """For every metric on every case: several contexts, a repeated one, a two-letter answer, a long one, Korean ones."""
    with OpenAIServer() as server:
        spec = openai_spec(server)
        found = judge(CASES, LLM_METRICS, spec, tmp_path, language=language)
    wrong = {}
    for (case_id, metric), score in found.items():
        assert score.unmeasured is None
        case = next(case for case in CASES if case.case_id == case_id)
        told = estimated(metric, case, spec, language)
        if told.calls != score.judge_calls or not within_a_factor_of_two(told.prompt_tokens, score.prompt_tokens):
            wrong[case_id, metric] = (told.calls, score.judge_calls, told.prompt_tokens, score.prompt_tokens)
    assert wrong == {}


def test_a_dataset_is_estimated_more_closely_than_a_case(tmp_path: Path) -> None:
    """Embeddings within a factor of two of the double's count as well; its answers are short, so theirs are within ten."""
    with OpenAIServer() as server:
        spec = openai_spec(server)
        found = judge(CASES, LLM_METRICS, spec, tmp_path)
    told = sum((estimated(metric, case, spec) for metric in LLM_METRICS for case in CASES), Estimate())
    prompt = sum(score.prompt_tokens for score in found.values())
    completion = sum(score.completion_tokens for score in found.values())
    embedded = sum(score.embedding_tokens for score in found.values())
    assert told.prompt_tokens == pytest.approx(prompt, rel=0.1)
    assert within_a_factor_of_two(told.embedding_tokens, embedded)
    assert completion <= told.completion_tokens <= 10 * completion


@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_three_replies_are_one_call_or_three(provider: Any, tmp_path: Path) -> None:
    """OpenAI gives three replies to one call, and bills its prompt once; Ollama is asked three times."""
    case = CASES[0]
    server: Any = OpenAIServer() if provider == "openai" else OllamaServer()
    with server:
        spec = openai_spec(server) if provider == "openai" else ollama_spec(server)
        score = judge([case], ["answer_relevancy"], spec, tmp_path)[case.case_id, "answer_relevancy"]
    told = estimated("answer_relevancy", case, spec)
    assert score.unmeasured is None, score.detail
    assert told.calls == score.judge_calls == (1 if provider == "openai" else 3)
    assert within_a_factor_of_two(told.prompt_tokens, score.prompt_tokens)


def ollama_spec(server: OllamaServer) -> JudgeSpec:
    return JudgeSpec(provider="ollama", model="tiny", embedding_model="tiny-embed", base_url=server.url)


@pytest.mark.parametrize(("slots", "calls"), [(1, 3), (2, 3), (3, 1), (8, 1)])
def test_a_model_file_gives_as_many_replies_to_a_call_as_it_has_slots(slots: int, calls: int) -> None:
    spec = JudgeSpec(provider="gguf", model="m", max_concurrency=slots)
    assert estimated("answer_relevancy", CASES[0], spec).calls == calls


def test_a_context_that_only_repeats_the_question_costs_no_call() -> None:
    case = EvalCase(case_id="c", question="Is it covered?", answer="Yes.", contexts=("Is it covered?",))
    spec = JudgeSpec(provider="openai", model="gpt-4o-mini")
    assert estimated("context_relevance", case, spec) == Estimate()
    assert estimated("context_relevance", replace(case, contexts=("It is.",)), spec).calls == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [("The cancer benefit is 30,000 dollars. " * 30, "English"), ("암 진단비는 3,000만원입니다. " * 30, "Korean")],
)
def test_tokens_of_a_text_are_about_those_of_the_double(text: str, kind: str) -> None:
    assert within_a_factor_of_two(tokens_of(text), token_count(text)), kind
    assert tokens_of("") == 1


# Money --------------------------------------------------------------------------------------------------------------------


def test_dollars_are_the_models_price_and_not_guessed_where_it_has_none() -> None:
    case = CASES[0]
    known = JudgeSpec(provider="openai", model="gpt-4o-mini", embedding_model="text-embedding-3-small")
    chat, embedding = price_of("openai", "gpt-4o-mini"), price_of("openai", "text-embedding-3-small")
    assert chat and embedding
    told = estimated("answer_relevancy", case, known)
    assert told.dollars == pytest.approx(
        chat.of(told.prompt_tokens, told.completion_tokens) + embedding.of(told.embedding_tokens, 0)
    )
    assert estimated("semantic_similarity", case, known).dollars == pytest.approx(embedding.of(told_embedded(case, known), 0))
    assert estimated("faithfulness", case, replace(known, model="my-own-model")).dollars is None
    assert (Estimate(dollars=1.0) + Estimate(dollars=None)).dollars is None
    assert (Estimate(dollars=1.0) + Estimate(dollars=0.5)).dollars == 1.5


def told_embedded(case: EvalCase, spec: JudgeSpec) -> int:
    return estimated("semantic_similarity", case, spec).embedding_tokens


# A dry run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[list[EvalCase]], Path]:
    def write(cases: list[EvalCase]) -> Path:
        rows = [
            {"id": case.case_id, "question": case.question, "answer": case.answer, "contexts": case.contexts} for case in cases
        ]
        path = tmp_path / "w1.json"
        path.write_text(json.dumps({"name": "d", "test_cases": rows}), encoding="utf-8")
        return path

    return write


def settings_for(server: OpenAIServer, folder: Path, **more: str) -> Settings:
    return load_settings(
        folder,
        EVALVAULT_PROFILE="openai",
        EVALVAULT_JUDGE_MODEL="gpt-4o-mini",
        OPENAI_API_KEY="sk-test",
        OPENAI_BASE_URL=server.base_url,
        EVALVAULT_RESULTS_DIR=str(folder / "results"),
        EVALVAULT_TOKENIZER="ngram",
        **more,
    )


def run(path: Path, settings: Settings, metrics: list[str]) -> list[MetricScore]:
    with evaluate_file(path, settings=settings, metrics=metrics) as report:
        return [score for result in report.results for score in (*result.scores, *result.repeats)]


METRICS_ASKED = ["faithfulness", "answer_relevancy", "context_precision_without_reference", "context_recall", "chrf"]


@pytest.mark.parametrize("repeats", ["1", "3"])
def test_a_dry_run_asks_no_judge_and_tells_the_calls_of_the_run(
    repeats: str, tmp_path: Path, dataset: Callable[[list[EvalCase]], Path]
) -> None:
    """Repeats of the noise sample included; what a case lacks the fields for is not counted."""
    path = dataset(CASES[:6])
    with OpenAIServer() as server:
        settings = settings_for(server, tmp_path, EVALVAULT_JUDGE_REPEATS=repeats)
        told = estimate_file(path, settings=settings, metrics=METRICS_ASKED)
        assert (server.calls[CHAT], server.calls[EMBEDDINGS]) == (0, 0)
        assert set(told) == set(METRICS_ASKED) - {"chrf"}
        assert told["context_recall"] == (0, 0, Estimate()), "these cases have no reference"
        scores = run(path, settings, METRICS_ASKED)
        assert sum(cost.calls for _, _, cost in told.values()) == server.calls[CHAT]
    made = {name: sum(score.judge_calls for score in scores if score.metric == name) for name in told}
    assert {name: cost.calls for name, (_, _, cost) in told.items()} == made
    assert {name: missing for name, (missing, _, _) in told.items()} == {
        name: sum(score.metric == name and score.value is not None for score in scores) for name in told
    }


def test_after_a_run_only_what_changed_is_estimated(tmp_path: Path, dataset: Callable[[list[EvalCase]], Path]) -> None:
    path = dataset(CASES[:4])
    with OpenAIServer() as server:
        settings = settings_for(server, tmp_path)
        run(path, settings, METRICS_ASKED)
        assert estimate_file(path, settings=settings, metrics=["faithfulness"])["faithfulness"] == (0, 4, Estimate())
        again = estimate_file(path, settings=settings, metrics=["faithfulness"], fresh=["faithfulness"])["faithfulness"]
        assert (again[0], again[1], again[2].calls) == (4, 0, 8)
        dataset([*CASES[:3], CASES[5]])
        missing, stored, cost = estimate_file(path, settings=settings, metrics=["faithfulness"])["faithfulness"]
    assert (missing, stored, cost.calls) == (1, 3, 2)


def test_a_content_that_stands_twice_is_judged_and_estimated_once(
    tmp_path: Path, dataset: Callable[[list[EvalCase]], Path]
) -> None:
    path = dataset([CASES[0], replace(CASES[0], case_id="twin")])
    with OpenAIServer() as server:
        settings = settings_for(server, tmp_path)
        told = estimate_file(path, settings=settings, metrics=["faithfulness"])["faithfulness"]
        run(path, settings, ["faithfulness"])
        assert told[2].calls == server.calls[CHAT] == 2
