"""Score a few cases with a judge that is a double: what the tests of the LLM metrics share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalvault_pipeline.cases.model import Batch, EvalCase, Snapshot
from evalvault_pipeline.scoring.calls import Patience
from evalvault_pipeline.scoring.engine import score_batches
from evalvault_pipeline.scoring.judges import JudgeIdentity, JudgeSpec
from evalvault_pipeline.scoring.judging import Judging
from evalvault_pipeline.scoring.model import MetricScore
from evalvault_pipeline.scoring.plan import ScoringPlan
from evalvault_pipeline_tests.conftest import a_secret
from evalvault_pipeline_tests.doubles.judge_answers import answer_for
from evalvault_pipeline_tests.doubles.openai_server import CHAT, OpenAIServer

RUBRIC = {
    "score1_description": "It is wrong.",
    "score2_description": "It is mostly wrong.",
    "score3_description": "It is half right.",
    "score4_description": "It is right, and lacks a detail.",
    "score5_description": "It is right and complete.",
}
_folders = itertools.count(1)


def openai_spec(server: OpenAIServer, **changes: Any) -> JudgeSpec:
    """The double as a judge. The model is one that takes temperature and max_tokens, as ragas sends them."""
    given = {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "embedding_model": "text-embedding-3-small",
        "base_url": server.base_url,
        "api_key": a_secret("sk-test"),
        "max_concurrency": 8,
    }
    return JudgeSpec(**{**given, **changes})


def judge(
    cases: Sequence[EvalCase],
    metrics: Iterable[str],
    spec: JudgeSpec,
    folder: Path,
    *,
    language: str = "en",
    rubric: Mapping[str, str] = RUBRIC,
    store_url: str = "",
    patience: Patience | None = None,
) -> dict[tuple[str, str], MetricScore]:
    """(case id, metric) -> score; with a score store of its own unless one is named."""
    own = folder / f"judged-{next(_folders)}"
    plan = ScoringPlan(
        thresholds=dict.fromkeys(metrics, 0.5),
        tokenizer="ngram",
        no_judge="none",
        language=language,
        rubric=rubric,
        judge=spec.name,
    )
    judging = Judging(
        identity=JudgeIdentity(spec=spec), journal=own / "journal", patience=patience or Patience(wait_min=0.01, wait_max=0.02)
    )
    batch = Batch(snapshot=Snapshot(dataset="d", name="s", language=language), index=1, cases=tuple(cases))
    url = store_url or f"sqlite:///{own / 'scores.sqlite'}"
    scored = score_batches([batch], plan=plan, store_url=url, judging=judging)
    return {(score.case_id, score.metric): score for result in scored for score in result.scores}


def prompts(server: OpenAIServer) -> list[str]:
    """The user messages of all chats that a recording double has seen."""
    return [text for path, body in server.requests if path == CHAT for text in user_messages(body)]


def user_messages(body: Mapping[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "user"]


def saying(*answers: tuple[set[str], Any]) -> Callable[..., Any]:
    """A mind for a double: (property names, answer) for the kinds of question that a test cares about.

    The answer may be a text, which is sent as it is, or a function of (schema, prompt, occurrence). The rest is answered
    sensibly. Nothing is made to fit the schema.
    """

    def mind(schema: Any, prompt: str, *, occurrence: int = 0) -> Any:
        for names, answer in answers:
            if names == set(schema.get("properties", ())):
                return answer(schema, prompt, occurrence) if callable(answer) else answer
        return answer_for(schema, prompt, occurrence=occurrence)

    return mind
