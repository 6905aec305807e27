"""Real llama.cpp judges a few cases: in this process, and behind its own HTTP server as anybody's OpenAI-compatible one.

The model is a random one of a megabyte, so what it says means nothing; that it is asked, bounded, counted and refused
rightly does.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import InvalidSetting, JudgeMisconfigured, MissingSetting
from evalvault_pipeline.evaluate import evaluate_file
from evalvault_pipeline.scoring.gguf import GgufJudge
from evalvault_pipeline.scoring.judges import CallFailed, JudgeSpec, Shape, judge_spec
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import MetricScore, Reason
from evalvault_pipeline.scoring.providers import identify
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.scoring.judged import judge

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

needs_llama = pytest.mark.skipif(
    xllamacpp is None,
    reason="NO REAL LLAMA.CPP: xllamacpp has no wheel for this machine, so the gguf judge is not tested (extra `local-judge`)",
)
LLM_METRICS = [name for name, metric in METRICS.items() if metric.score is None]
CASES = [
    EvalCase(
        case_id="en",
        question="How much is the cancer benefit?",
        answer="The cancer benefit is 30,000 dollars. It is paid within 3 days.",
        contexts=("The cancer benefit is 30,000 dollars for a general cancer.", "A claim needs a certificate."),
        ground_truth="The cancer benefit is 30,000 dollars.",
    ),
    EvalCase(
        case_id="ko",
        question="암 진단비는 얼마인가요?",
        answer="암 진단비는 3,000만원입니다.",
        contexts=("암 진단비는 일반암 기준 3,000만원이 지급됩니다.",),
        ground_truth="암 진단비는 3,000만원이다.",
    ),
]
QUESTION = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "noncommittal": {"type": "integer", "enum": [0, 1]}},
    "required": ["question", "noncommittal"],
    "additionalProperties": False,
}
SHAPE = Shape(name="Question", schema=QUESTION, schema_json=json.dumps(QUESTION).encode(), parse=json.loads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(chat model, embedding model), made once."""
    from evalvault_pipeline_tests.doubles.tiny_gguf import write_chat_model, write_embedding_model

    folder = tmp_path_factory.mktemp("gguf")
    return write_chat_model(folder / "tiny-chat.gguf"), write_embedding_model(folder / "tiny-embedding.gguf")


def spec_of(chat: Path | None, embedding: Path | None, **changes: Any) -> JudgeSpec:
    given = {"provider": "gguf", "model": "tiny-chat", "model_path": chat, "embedding_path": embedding, "max_concurrency": 2}
    named = {"embedding_model": embedding.stem if embedding else None}
    return JudgeSpec(**{**given, **named, **changes})


def asked(spec: JudgeSpec, ask: Callable[[GgufJudge], Any]) -> Any:
    """What an opened judge answers."""

    async def go() -> Any:
        found = GgufJudge(spec)
        try:
            await found.open()
            return await ask(found)
        finally:
            await found.close()

    return asyncio.run(go())


def dataset(folder: Path, *more: EvalCase) -> Path:
    rows = [
        {
            "id": one.case_id,
            "question": one.question,
            "answer": one.answer,
            "contexts": one.contexts,
            "ground_truth": one.ground_truth,
        }
        for one in (*CASES, *more)
    ]
    path = folder / "w1.json"
    path.write_text(json.dumps({"name": "d", "test_cases": rows}, ensure_ascii=False), encoding="utf-8")
    return path


def evaluated(path: Path, folder: Path, metrics: list[str], **environment: str) -> dict[tuple[str, str], MetricScore]:
    """(case id, metric) -> score, the way that `evalvault run` goes."""
    settings = load_settings(folder, EVALVAULT_RESULTS_DIR=str(folder / "results"), EVALVAULT_TOKENIZER="ngram", **environment)
    with evaluate_file(path, settings=settings, metrics=metrics) as report:
        return {(score.case_id, score.metric): score for result in report.results for score in result.scores}


def assert_three_valued(found: dict[tuple[str, str], MetricScore]) -> None:
    """Every score is a share, or unmeasured for a reason that a nonsense judge may give; most are shares."""
    for score in found.values():
        if score.value is None:
            assert score.unmeasured in (Reason.UNPARSABLE, Reason.TRUNCATED, Reason.REFUSED), (score.metric, score.detail)
            assert score.detail
        else:
            assert math.isfinite(score.value)
            assert 0.0 <= score.value <= 1.0
    measured = [score for score in found.values() if score.value is not None]
    assert len(measured) >= 0.7 * len(found), {score.metric: score.detail for score in found.values() if score.value is None}
    assert all(score.prompt_tokens > 0 and score.completion_tokens > 0 for score in measured if METRICS[score.metric].chat)


# In this process ----------------------------------------------------------------------------------------------------------


@needs_llama
def test_a_model_file_scores_a_dataset_without_a_server_or_a_key(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Every LLM metric, with Korean prompts, in this process; a second run asks nothing."""
    environment = {"EVALVAULT_PROFILE": "gguf", "EVALVAULT_GGUF": str(models[0]), "EVALVAULT_EMBEDDING_GGUF": str(models[1])}
    metrics = [name for name in LLM_METRICS if name != "rubric"]
    path = dataset(tmp_path)
    found = evaluated(path, tmp_path, metrics, **environment)
    assert_three_valued(found)
    assert all(score.judge.startswith("gguf/tiny-") for score in found.values())
    assert {score.metric_version for score in found.values() if METRICS[score.metric].chat} == {"ragas-0.4.3+ko-1"}
    again = evaluated(path, tmp_path, metrics, **environment)
    assert {key: score.value for key, score in again.items()} == {key: score.value for key, score in found.items()}
    assert {score.reused for score in again.values() if score.value is not None} == {True}


@needs_llama
def test_the_same_seed_gives_the_same_scores(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Two runs with a store of their own each: same model, same prompts, same seeds, same evidence."""
    metrics = ["faithfulness", "answer_relevancy", "context_recall", "rubric"]
    first, second = (judge(CASES, metrics, spec_of(*models, max_concurrency=1), tmp_path) for _ in "ab")
    assert {key: (score.value, score.evidence) for key, score in first.items()} == {
        key: (score.value, score.evidence) for key, score in second.items()
    }


@needs_llama
@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_answer_relevancy_is_measured_with_any_number_of_slots(slots: int, models: tuple[Path, Path], tmp_path: Path) -> None:
    """llama.cpp refuses `n` above its slots, and with three slots a model that pools means ended the process."""
    found = judge(CASES[:1], ["answer_relevancy"], spec_of(*models, max_concurrency=slots), tmp_path)["en", "answer_relevancy"]
    assert (found.unmeasured, found.detail) == (None, "")
    assert len(found.evidence["questions"]) == 3


@needs_llama
def test_an_answer_follows_the_schema_whatever_the_weights(models: tuple[Path, Path]) -> None:
    async def ask(opened: GgufJudge) -> Any:
        return await opened.chat([("user", "질문을 만들어라.")], SHAPE, n=1, max_tokens=400, seed=0)

    answer = asked(spec_of(*models), ask)
    said = json.loads(answer.replies[0].text)
    assert (set(said), said["noncommittal"] in (0, 1), answer.replies[0].cut) == ({"question", "noncommittal"}, True, False)
    assert answer.prompt_tokens > 0 and answer.completion_tokens > 0


@needs_llama
def test_an_answer_that_ends_at_the_limit_is_cut(models: tuple[Path, Path]) -> None:
    async def ask(opened: GgufJudge) -> Any:
        return await opened.chat([("user", "Ask.")], SHAPE, n=1, max_tokens=3, seed=0)

    assert asked(spec_of(*models), ask).replies[0].cut


@needs_llama
def test_a_prompt_longer_than_the_context_is_truncated_and_says_what_to_raise(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    """llama.cpp refuses it; nothing is cut off in silence."""
    long = EvalCase(case_id="long", question="q?", answer="a b c. " * 3000, contexts=("c",))
    found = judge([long, CASES[0]], ["faithfulness"], spec_of(*models, num_ctx=8192), tmp_path)
    assert (found["long", "faithfulness"].unmeasured, found["en", "faithfulness"].unmeasured) == (Reason.TRUNCATED, None)
    assert "OLLAMA_NUM_CTX is 8192; raise it" in found["long", "faithfulness"].detail


@needs_llama
def test_an_answer_that_finds_the_context_full_is_truncated_and_says_what_to_raise(models: tuple[Path, Path]) -> None:
    """It ends far below its own limit, so to ask again with a higher one would only cost time."""

    async def ask(opened: GgufJudge) -> Any:
        with pytest.raises(CallFailed) as failure:
            await opened.chat([("user", "x " * 241)], SHAPE, n=1, max_tokens=2048, seed=0)
        return failure.value

    failure = asked(spec_of(models[0], None, num_ctx=512, max_concurrency=1), ask)
    assert (failure.reason, failure.retry) == (Reason.TRUNCATED, False)
    assert re.search(
        r"the prompt of \d+ tokens leaves no room for the answer \(OLLAMA_NUM_CTX is 512; raise it\)", failure.detail
    )


@needs_llama
def test_a_text_of_many_tokens_is_embedded_whole_and_one_too_many_is_truncated(models: tuple[Path, Path]) -> None:
    """llama.cpp's batch is 512 tokens unless told otherwise, and an answer may well be longer."""

    async def embed(opened: GgufJudge) -> Any:
        found = await opened.embed(["가" * 1000, "짧은 글"])
        with pytest.raises(CallFailed) as failure:
            await opened.embed(["가" * 5000])
        return found, failure.value

    found, failure = asked(spec_of(None, models[1], num_ctx=2048), embed)
    assert [vector.shape for vector in found.vectors] == [(64,), (64,)]
    assert found.tokens > 1000
    assert (failure.reason, failure.retry) == (Reason.TRUNCATED, False)
    assert "OLLAMA_NUM_CTX is 2048; raise it" in failure.detail


@needs_llama
def test_texts_that_are_alike_have_vectors_that_are(models: tuple[Path, Path]) -> None:
    """Real pooling over real tokens: enough to see that vectors belong to their texts."""

    async def embed(opened: GgufJudge) -> Any:
        return (
            await opened.embed(["암 진단비는 얼마인가요?", "암 진단비는 얼마인가요", "Cosmetic surgery is not covered."])
        ).vectors

    same, alike, other = asked(spec_of(None, models[1]), embed)
    assert float(same @ alike) > float(same @ other)
    assert float(same @ same) == pytest.approx(1.0, abs=1e-5)


@needs_llama
def test_other_weights_are_another_judge(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Under the same name: the file's digest is part of the fingerprint, so its scores are its own."""
    from evalvault_pipeline_tests.doubles.tiny_gguf import write_chat_model

    other = write_chat_model(tmp_path / "tiny-chat.gguf", seed=7)
    prints = {
        identify(spec_of(path, models[1])).fingerprint(chat=True, embeddings=False) for path in (models[0], other, models[0])
    }
    assert len(prints) == 2


# What cannot be loaded ----------------------------------------------------------------------------------------------------


@needs_llama
@pytest.mark.parametrize("content", [b"", b"no model at all " * 100, "half"])
def test_a_file_that_is_no_model_is_named(content: Any, models: tuple[Path, Path], tmp_path: Path) -> None:
    """Half a download, say. The run ends with one sentence."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(models[0].read_bytes()[:300_000] if content == "half" else content)
    with pytest.raises(JudgeMisconfigured, match=r"broken\.gguf cannot be loaded as a GGUF model: .+\. Name another file\.$"):
        judge(CASES[:1], ["faithfulness"], spec_of(path, None), tmp_path)


@needs_llama
def test_a_chat_model_as_the_embedding_model_leaves_the_metric_unmeasured_and_says_why(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    found = judge(CASES[:1], ["semantic_similarity", "faithfulness"], spec_of(models[0], models[0]), tmp_path)
    assert (found["en", "semantic_similarity"].value, found["en", "faithfulness"].unmeasured) == (None, None)
    assert "Pooling type 'none'" in found["en", "semantic_similarity"].detail


@pytest.mark.parametrize("variable", ["EVALVAULT_GGUF", "EVALVAULT_EMBEDDING_GGUF"])
def test_a_file_that_is_not_there_is_named_before_anything_is_loaded(variable: str, tmp_path: Path) -> None:
    there = tmp_path / "there.gguf"
    there.touch()
    settings = load_settings(
        tmp_path, **{"EVALVAULT_PROFILE": "gguf", "EVALVAULT_GGUF": str(there), variable: str(tmp_path / "away.gguf")}
    )
    with pytest.raises(InvalidSetting, match=rf"{variable} names .*away\.gguf, and there is no such file"):
        judge_spec(settings)


def test_the_profile_without_a_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(MissingSetting, match="`EVALVAULT_GGUF` is not set"):
        load_settings(tmp_path, EVALVAULT_PROFILE="gguf").require_judge()


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    path = tmp_path / "model.gguf"
    path.touch()
    with pytest.raises(JudgeMisconfigured, match=r"pip install 'evalvault-pipeline\[local-judge\]'"):
        judge(CASES[:1], ["faithfulness"], spec_of(path, None), tmp_path)


# Behind llama.cpp's own server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_server(models: tuple[Path, Path]) -> Iterator[str]:
    """llama.cpp's HTTP server on a free port: two slots of 8,192 tokens, chat and embeddings by one model."""
    params = xllamacpp.CommonParams()
    params.model.path = str(models[0])
    params.model_alias = {"tiny"}
    params.n_parallel, params.n_ctx = 2, 16_384
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = -1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def over_http(url: str, **more: str) -> dict[str, str]:
    return {
        "EVALVAULT_PROFILE": "openai",
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "none",
        "EVALVAULT_JUDGE_MODEL": "tiny",
        "EVALVAULT_EMBEDDING_MODEL": "tiny",
        "EVALVAULT_MAX_CONCURRENCY": "2",
        **more,
    }


@needs_llama
def test_a_server_of_somebody_elses_scores_a_dataset(llama_server: str, tmp_path: Path) -> None:
    """Chat under a JSON schema, embeddings as base64 or not, `n` refused, errors of its own: all of it real."""
    metrics = [name for name in LLM_METRICS if name != "rubric"]
    found = evaluated(dataset(tmp_path), tmp_path, metrics, **over_http(llama_server))
    assert_three_valued(found)
    for metric in ("answer_relevancy", "semantic_similarity"):
        assert {(score.unmeasured, score.embedding_tokens > 0) for (_, name), score in found.items() if name == metric} == {
            (None, True)
        }


@needs_llama
def test_a_prompt_that_is_too_long_for_the_server_is_truncated(llama_server: str, tmp_path: Path) -> None:
    long = EvalCase(case_id="long", question="q?", answer="a b c. " * 3000, contexts=("c",), ground_truth="c")
    found = evaluated(dataset(tmp_path, long), tmp_path, ["faithfulness"], **over_http(llama_server))
    assert found["long", "faithfulness"].unmeasured == Reason.TRUNCATED
    assert found["en", "faithfulness"].unmeasured is None


@needs_llama
def test_a_text_that_is_too_long_to_embed_costs_the_others_nothing(llama_server: str, tmp_path: Path) -> None:
    """llama.cpp takes 512 tokens at once; the texts of a batch are sent together, and one must not spoil it for the rest."""
    long = EvalCase(case_id="long", question="q?", answer="a b c. " * 3000, contexts=("c",), ground_truth="c")
    spec = JudgeSpec(provider="openai", model="tiny", embedding_model="tiny", base_url=llama_server, max_concurrency=2)
    found = judge([*CASES, long], ["semantic_similarity"], spec, tmp_path)
    assert {case_id: score.unmeasured for (case_id, _), score in found.items()} == {
        "en": None,
        "ko": None,
        "long": Reason.TRUNCATED,
    }


@needs_llama
def test_a_model_has_answered_once_before_it_can_be_closed(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp hangs for ever in closing a server whose loop has not begun; an answer shows that it has."""
    import xllamacpp

    answered: list[str] = []

    class Watched(xllamacpp.Server):
        def handle_completions(self, wanted: Any) -> Any:
            found = super().handle_completions(wanted)
            answered.append(next(iter({"choices", "error"} & set(found)), "nothing"))
            return found

        def handle_embeddings(self, wanted: Any) -> Any:
            found = super().handle_embeddings(wanted)
            answered.append(next(iter({"data", "error"} & set(found)), "nothing"))
            return found

    async def nothing(_: GgufJudge) -> None:
        assert answered == ["choices", "data"]

    monkeypatch.setattr(xllamacpp, "Server", Watched)
    asked(spec_of(*models), nothing)
