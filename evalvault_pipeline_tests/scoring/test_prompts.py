"""The Korean judge prompts: valid for ragas's models, sent for Korean datasets alone, and part of a score's version."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.scoring import prompts, ragas_metrics
from evalvault_pipeline.scoring.korean import NgramTokenizer
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.prompts import load_prompts, prompt_version
from evalvault_pipeline.scoring.ragas_metrics import RAGAS_METRICS, prompt_heads, shape_of
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.doubles.openai_server import OpenAIServer
from evalvault_pipeline_tests.scoring.judged import RUBRIC, judge, openai_spec
from evalvault_pipeline_tests.scoring.judged import prompts as prompts_seen

# Scores are kept under the version: an edit that leaves it as it is would mix the scores of two prompts.
PINNED = {"ko-1": "3c092ad4a9273df5d0dc75dedbb6145028a1c1e69c9492f4c222d57674987dae"}

LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]
CHAT_METRICS = [name for name in LLM_METRICS if METRICS[name].chat]
HANGUL = re.compile("[가-힣]")
KOREAN = EvalCase(
    case_id="ko",
    question="암 진단비는 얼마인가요?",
    answer="암 진단비는 3,000만원입니다. 진단서가 필요합니다.",
    contexts=("암 진단비는 일반암 기준 3,000만원이 지급됩니다.", "보험금 청구에는 진단서가 필요합니다."),
    ground_truth="암 진단비는 일반암 기준 3,000만원이 지급됩니다.",
)
ENGLISH = EvalCase(
    case_id="en",
    question="How much is the cancer benefit?",
    answer="It is 30,000 dollars. It is paid within 3 days.",
    contexts=("The cancer benefit is 30,000 dollars.", "A claim needs a medical certificate."),
    ground_truth="The cancer benefit is 30,000 dollars.",
)
TEXTS = {name: text for name, text in load_prompts("ko").items() if name != "version"}


def ragas_prompts(language: str) -> dict[str, list[Any]]:
    """Name in `korean.toml` -> the prompts that it stands for, as they are sent."""
    llm, embeddings = ragas_metrics._edges()
    found: dict[str, list[Any]] = {}
    for name, kind in RAGAS_METRICS.items():
        metric = ragas_metrics._built(name, llm(None), embeddings(None), language, RUBRIC)
        for attribute, prompt in kind.prompts.items():
            found.setdefault(prompt, []).append(getattr(metric, attribute))
    return found


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str):
        yield value


# The file -----------------------------------------------------------------------------------------------------------------


def test_a_change_of_the_korean_prompts_raises_their_version() -> None:
    text = (files(prompts) / "korean.toml").read_bytes().replace(b"\r\n", b"\n")
    digest, version = hashlib.sha256(text).hexdigest(), prompt_version("ko")
    assert PINNED.get(version) == digest, (
        f"korean.toml is not the {version} that scores were kept under: raise `version` in it and write {digest} beside the new "
        "version in PINNED (test_prompts.py). A comment counts too."
    )


def test_there_is_a_korean_prompt_for_each_of_ragass_and_no_other() -> None:
    assert set(TEXTS) == {prompt for kind in RAGAS_METRICS.values() for prompt in kind.prompts.values()}


@pytest.mark.parametrize("name", TEXTS)
def test_every_example_is_what_the_judge_is_given_and_what_it_may_answer(name: str) -> None:
    """Valid for ragas's models, without a field that they do not know, and within the bounds of its metric."""
    for prompt in ragas_prompts("ko")[name]:
        assert TEXTS[name]["examples"], "a prompt without an example"
        for example in TEXTS[name]["examples"]:
            prompt.input_model.model_validate(example["input"], strict=True, extra="forbid")
            prompt.output_model.model_validate(example["output"], strict=True, extra="forbid")
            shape_of(prompt.output_model).parse(json.dumps(example["output"], ensure_ascii=False))


@pytest.mark.parametrize("name", TEXTS)
def test_every_prompt_is_korean_and_asks_for_korean_with_english_keys(name: str) -> None:
    instruction = TEXTS[name]["instruction"]
    assert HANGUL.search(instruction)
    assert re.search(r"키는 영어", instruction), "the judge is told that keys stay English"
    outputs = [text for example in TEXTS[name]["examples"] for text in texts_of(example["output"])]
    free = [text for text in outputs if text not in ("0", "1") and not re.fullmatch(r"[\d.,%]+", text)]
    assert all(HANGUL.search(text) for text in free)
    if free:
        assert "한국어" in instruction, "the judge is told the language of what it writes"


@pytest.mark.parametrize("name", ["nli_verdicts", "noise_verdicts"])
def test_the_examples_of_verdicts_judge_each_statement_once_and_word_by_word(name: str) -> None:
    """A judge imitates them; noise_sensitivity is unmeasured where the numbers differ."""
    for example in TEXTS[name]["examples"]:
        assert [item["statement"] for item in example["output"]["statements"]] == example["input"]["statements"]
        assert {item["verdict"] for item in example["output"]["statements"]} == {0, 1}


def test_the_example_of_closed_questions_answers_each() -> None:
    for example in TEXTS["summary_answers"]["examples"]:
        assert len(example["output"]["answers"]) == len(example["input"]["questions"])
        assert set(example["output"]["answers"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *((f"answer_accuracy_judge{number}", {0, 2, 4}) for number in (1, 2)),
        *(
            (f"{metric}_judge{number}", {0, 1, 2})
            for metric in ("context_relevance", "response_groundedness")
            for number in (1, 2)
        ),
    ],
)
def test_the_examples_of_a_rating_show_its_whole_scale(name: str, scale: set[int]) -> None:
    assert {example["output"]["rating"] for example in TEXTS[name]["examples"]} == scale
    for rating in scale:
        assert str(rating) in TEXTS[name]["instruction"]


def test_a_language_without_prompts_of_its_own_has_ragass_and_no_version() -> None:
    assert (load_prompts("en"), load_prompts("fr"), prompt_version("en")) == ({}, {}, "")


# What is sent -------------------------------------------------------------------------------------------------------------


def english_lines() -> set[str]:
    """Lines of ragas's own instructions and examples, long enough to be nobody else's; the words around them are kept."""
    heads = {head for name in CHAT_METRICS for head in prompt_heads(name, "en", RUBRIC).values()}
    lines = {line.strip() for head in heads for line in head.splitlines()}
    around = re.compile(
        r'-{8}|"\w+": null|Please return the output in a JSON|Now perform the same|\{.*"properties"|score[1-5]_description'
    )
    return {line for line in lines if len(line) >= 25 and not around.match(line)}


def test_a_korean_dataset_is_judged_with_korean_prompts_and_no_example_of_ragas(tmp_path: Path) -> None:
    english = english_lines()
    assert len(english) > 150
    instructions = {text["instruction"].strip() for text in TEXTS.values()}
    with OpenAIServer(record=True) as server:
        found = judge([KOREAN], LLM_METRICS, openai_spec(server), tmp_path, language="ko")
        asked = prompts_seen(server)
    assert {name: score.detail for (_, name), score in found.items() if score.value is None} == {}
    assert {
        instruction for instruction in instructions if any(prompt.startswith(instruction) for prompt in asked)
    } == instructions
    for prompt in asked:
        assert any(prompt.startswith(instruction) for instruction in instructions)
        assert english & {line.strip() for line in prompt.splitlines()} == set()
        assert "\\u" not in prompt, "Hangul is written as Hangul"


def test_an_english_dataset_is_judged_with_ragass_own_prompts(tmp_path: Path) -> None:
    """Byte for byte, which test_ragas_equality shows; here: nothing of ours gets in."""
    with OpenAIServer(record=True) as server:
        judge([ENGLISH], LLM_METRICS, openai_spec(server), tmp_path, language="en")
        assert [prompt for prompt in prompts_seen(server) if HANGUL.search(prompt)] == []


def test_the_rubric_of_the_catalog_stands_in_both_languages_prompts() -> None:
    for language, heading in (("en", "Scoring Rubrics:"), ("ko", "채점 기준:")):
        head = prompt_heads("rubric", language, RUBRIC)["scoring_prompt"]
        assert heading in head
        assert all(f"{key}: {text}" in head for key, text in RUBRIC.items())


def test_the_order_in_which_a_rubric_is_written_does_not_matter() -> None:
    """Its digest is part of the version and does not depend on it, so the prompt must not."""
    turned = dict(reversed(RUBRIC.items()))
    for language in ("en", "ko"):
        assert prompt_heads("rubric", language, turned) == prompt_heads("rubric", language, RUBRIC)


# The version --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LLM_METRICS)
def test_the_version_of_a_score_names_ragas_the_prompts_and_the_rubric(name: str) -> None:
    """Embeddings have no prompt; English prompts are ragas's, and have its version."""

    def version(language: str, rubric: Mapping[str, str]) -> str:
        return METRICS[name].versioned(NgramTokenizer(), language=language, rubric=rubric)

    digest = re.compile(r"\+rubric-[0-9a-f]{8}$")
    korean, english = version("ko", RUBRIC), version("en", RUBRIC)
    assert digest.sub("", korean) == ("ragas-0.4.3+ko-1" if METRICS[name].chat else "ragas-0.4.3")
    assert digest.sub("", english) == "ragas-0.4.3"
    assert bool(digest.search(korean)) == bool(digest.search(english)) == (name == "rubric")
    changed = {**RUBRIC, "score3_description": "It is nearly right."}
    assert (version("ko", changed) == korean) == (name != "rubric")


def test_another_language_is_another_score_in_the_store(tmp_path: Path) -> None:
    """The same case in the same store: what the Korean prompts measured is not what ragas's would have."""
    url = f"sqlite:///{tmp_path / 'scores.sqlite'}"
    with OpenAIServer() as server:
        spec = openai_spec(server)
        first = judge([KOREAN], ["faithfulness"], spec, tmp_path, language="ko", store_url=url)
        other = judge([KOREAN], ["faithfulness"], spec, tmp_path, language="en", store_url=url)
        again = judge([replace(KOREAN, case_id="x")], ["faithfulness"], spec, tmp_path, language="ko", store_url=url)
    versions = [score.metric_version for scores in (first, other, again) for score in scores.values()]
    reused = [score.reused for scores in (first, other, again) for score in scores.values()]
    assert versions == ["ragas-0.4.3+ko-1", "ragas-0.4.3", "ragas-0.4.3+ko-1"]
    assert reused == [False, False, True]


# Which language -----------------------------------------------------------------------------------------------------------


def versions_of(path: Path, server: OpenAIServer, folder: Path, catalog: str = "") -> set[str]:
    """The version under which a dataset file's faithfulness is scored, the way `evalvault run` scores it."""
    settings = load_settings(
        folder,
        EVALVAULT_PROFILE="openai",
        EVALVAULT_JUDGE_MODEL="gpt-4o-mini",
        OPENAI_API_KEY="sk-test",
        OPENAI_BASE_URL=server.base_url,
        EVALVAULT_RESULTS_DIR=str(folder / "results"),
        EVALVAULT_TOKENIZER="ngram",
    )
    spec = None
    if catalog:
        (folder / "catalog.toml").write_text(catalog, encoding="utf-8")
        spec = load_catalog(folder / "catalog.toml").owner_of(path)
        assert spec is not None
    with evaluate_file(path, settings=settings, spec=spec, metrics=["faithfulness"]) as report:
        assert report.coverage == 1.0
        return {score.metric_version for result in report.results for score in result.scores}


@pytest.mark.parametrize(
    ("cases", "version"),
    [
        ([KOREAN], "ragas-0.4.3+ko-1"),
        ([ENGLISH], "ragas-0.4.3"),
        ([KOREAN, ENGLISH], "ragas-0.4.3+ko-1"),
        ([ENGLISH] * 9 + [replace(ENGLISH, question="How much is the 암 benefit?")], "ragas-0.4.3"),
    ],
    ids=["Korean", "English", "mixed", "one Korean word"],
)
def test_without_a_catalog_the_questions_tell_the_language(cases: list[EvalCase], version: str, tmp_path: Path) -> None:
    path = written(cases, tmp_path)
    with OpenAIServer(record=True) as server:
        assert versions_of(path, server, tmp_path) == {version}
        korean = [
            prompt
            for prompt in prompts_seen(server)
            if prompt.startswith(TEXTS["faithfulness_statements"]["instruction"].strip())
        ]
    assert bool(korean) == ("ko-1" in version)


def test_the_catalogs_language_is_over_what_the_questions_tell(tmp_path: Path) -> None:
    path = written([KOREAN], tmp_path)
    catalog = '[datasets.d]\ndescription = "d"\nfiles = "d/*"\nlanguage = "en"\nmetrics = ["faithfulness"]\n'
    with OpenAIServer() as server:
        assert versions_of(path, server, tmp_path, catalog) == {"ragas-0.4.3"}


def written(cases: list[EvalCase], folder: Path) -> Path:
    rows = [
        {"id": str(number), "question": case.question, "answer": case.answer, "contexts": case.contexts}
        for number, case in enumerate(cases)
    ]
    path = folder / "d" / "w1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"name": "d", "test_cases": rows}, ensure_ascii=False), encoding="utf-8")
    return path
