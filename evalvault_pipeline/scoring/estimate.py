"""What judging will take, before it is paid: calls, tokens and dollars of a case, from its texts and the prompts.

An estimate: the first prompts are known, the judge's answers are not. It is close for prompts, rough for answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.journal import Bill
from evalvault_pipeline.scoring.judges import JudgeSpec
from evalvault_pipeline.scoring.ragas_metrics import prompt_heads
from evalvault_pipeline.scoring.usage import price_of


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Calls and tokens; `dollars` None where the price is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    dollars: float | None = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            embedding_tokens=self.embedding_tokens + other.embedding_tokens,
            dollars=None if self.dollars is None or other.dollars is None else self.dollars + other.dollars,
        )

    def without(self, paid: Bill) -> Estimate:
        """What is left of it where a part is paid already."""
        known = self.dollars is not None and paid.cost_usd is not None
        return Estimate(
            calls=max(self.calls - paid.calls, 0),
            prompt_tokens=max(self.prompt_tokens - paid.prompt_tokens, 0),
            completion_tokens=max(self.completion_tokens - paid.completion_tokens, 0),
            embedding_tokens=self.embedding_tokens,
            dollars=max((self.dollars or 0.0) - (paid.cost_usd or 0.0), 0.0) if known else None,
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.embedding_tokens


def estimate(metric: str, case: EvalCase, *, spec: JudgeSpec, language: str, rubric: Mapping[str, str]) -> Estimate:
    """What one metric on one case will take."""
    heads = _heads(metric, language, tuple(rubric.items()))
    calls = prompt = completion = 0
    for attribute, text_tokens, answer_tokens, times in _steps(metric, case):
        calls += times
        prompt += times * (heads[attribute] + text_tokens)
        completion += times * answer_tokens
    if metric == "answer_relevancy":  # three replies: of one call, which is billed for one prompt, or of three calls
        completion *= 3
        if spec.provider == "ollama" or (spec.provider == "gguf" and spec.max_concurrency < 3):
            calls, prompt = 3 * calls, 3 * prompt
    embedded = 0
    if metric == "answer_relevancy":
        embedded = 4 * tokens_of(case.question)
    elif metric == "semantic_similarity":
        embedded = tokens_of(case.answer) + tokens_of(case.ground_truth or "")
    chat, embedding = price_of(spec.provider, spec.model), price_of(spec.provider, spec.embedding_model or "")
    dollars: float | None = 0.0
    if calls:
        dollars = chat.of(prompt, completion) if chat else None
    if embedded:
        dollars = dollars + embedding.of(embedded, 0) if embedding and dollars is not None else None
    return Estimate(calls=calls, prompt_tokens=prompt, completion_tokens=completion, embedding_tokens=embedded, dollars=dollars)


def tokens_of(text: str) -> int:
    """About as many tokens as current models make of a text: four ASCII characters one, of Hangul three characters two."""
    ascii_letters = sum(char < "\x80" for char in text)
    return int(ascii_letters / 4 + (len(text) - ascii_letters) / 1.5) + 1


@lru_cache
def _heads(metric: str, language: str, rubric: tuple[tuple[str, str], ...]) -> dict[str, int]:
    return {name: tokens_of(head) for name, head in prompt_heads(metric, language, dict(rubric)).items()}


def _steps(metric: str, case: EvalCase) -> Iterator[tuple[str, int, int, int]]:
    """(prompt, tokens of its input, tokens of the answer, how many such calls) of each step."""
    question, answer = tokens_of(case.question), tokens_of(case.answer)
    reference, contexts = tokens_of(case.ground_truth or ""), [tokens_of(context) for context in case.contexts]
    every, mean = sum(contexts), sum(contexts) // max(len(contexts), 1)

    def verdicts(tokens: int) -> int:
        return 2 * tokens + 60  # each statement again, with a reason

    match metric:
        case "faithfulness":
            yield "statement_generator_prompt", question + answer, answer + 20, 1
            yield "nli_statement_prompt", every + answer, verdicts(answer), 1
        case "answer_relevancy":
            yield "prompt", answer, question + 20, 1
        case "context_precision":
            yield "prompt", question + reference + mean, 60, len(contexts)
        case "context_precision_without_reference":
            yield "prompt", question + answer + mean, 60, len(contexts)
        case "context_recall":
            yield "prompt", question + every + reference, verdicts(reference), 1
        case "factual_correctness":
            yield "prompt", (answer + reference) // 2, (answer + reference) // 2 + 20, 2
            yield "nli_prompt", answer + reference, verdicts((answer + reference) // 2), 2
        case "answer_accuracy":
            yield "judge1_prompt", question + answer + reference, 10, 1
            yield "judge2_prompt", question + answer + reference, 10, 1
        case "context_relevance" if "\n".join(case.contexts).strip() in case.question.strip():
            return  # such a context is rated 0 without a judge
        case "context_relevance":
            yield "judge1_prompt", question + every, 10, 1
            yield "judge2_prompt", question + every, 10, 1
        case "response_groundedness":
            yield "judge1_prompt", answer + every, 10, 1
            yield "judge2_prompt", answer + every, 10, 1
        case "noise_sensitivity":
            yield "statement_prompt", question + (answer + reference) // 2, (answer + reference) // 2 + 20, 2
            yield (
                "faithfulness_prompt",
                mean + (answer + reference) // 2,
                verdicts((answer + reference) // 2),
                2 * len(contexts),
            )
            yield "faithfulness_prompt", answer + reference, verdicts(answer), 1
        case "summary_score":
            yield "extract_keyphrases_prompt", every, 80, 1
            yield "generate_questions_prompt", every + 80, 200, 1
            yield "generate_answers_prompt", answer + 200, 40, 1
        case "rubric":
            yield "scoring_prompt", question + answer + every + reference, 120, 1
