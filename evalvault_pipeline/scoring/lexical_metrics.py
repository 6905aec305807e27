"""Metrics that need no judge: computed from the texts alone, the same on every machine.

Each function takes a case and a tokenizer and returns `Measured` with its evidence, or `Unmeasured`. Names, thresholds and
needed fields stand in `metrics.py`; none of these stands in for an LLM metric.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.korean import Tokenizer
from evalvault_pipeline.scoring.model import Measured, Reason, Unmeasured
from evalvault_pipeline.scoring.quantities import figures, missing_from
from evalvault_pipeline.scoring.sentences import claims_nothing, clauses, is_negative, is_refusal, sentences

Outcome = Measured | Unmeasured

CHRF_ORDER = 6
CHRF_BETA = 2.0
# A context holds a reference text when so much of its content stands in the context.
RELEVANT_SHARE = 0.7
# A context clause speaks of the same thing as an answer clause from this share of shared content words on.
SAME_SUBJECT = 0.6
# A sentence of fewer content words (`아니요.`, `Free.`) is judged together with its neighbour.
WHOLE_SENTENCE_WORDS = 3


def exact_match(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """1 when answer and reference are equal but for case, punctuation, white space and English articles.

    Source: exact match of SQuAD (Rajpurkar et al., 2016), normalisation after its evaluation script. Ours besides: the signs
    `%$₩€+-` count, white space does not, and where nothing else is left (`A`, `?`) the text itself is compared.
    """
    answer, reference = _squad_form(case.answer), _squad_form(case.ground_truth or "")
    return Measured(value=float(answer == reference))


def token_f1(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """F1 = 2PR / (P + R) over the multiset of shared tokens; P over the answer's, R over the reference's.

    Texts without any token (an emoji, `A`) are equal or not. Source: F1 of SQuAD (Rajpurkar et al., 2016); Korean by
    morphemes, or by syllables as in KorQuAD 1.0 (Lim et al., 2019).
    """
    answer, reference = tokenizer.tokens(case.answer), tokenizer.tokens(case.ground_truth or "")
    shared = sum((Counter(answer) & Counter(reference)).values())
    if not shared:
        equal = not answer and not reference and _folded(case.answer) == _folded(case.ground_truth or "")
        return Measured(value=float(equal), evidence={"precision": 0.0, "recall": 0.0})
    precision, recall = shared / len(answer), shared / len(reference)
    return Measured(
        value=2 * precision * recall / (precision + recall), evidence={"precision": _r(precision), "recall": _r(recall)}
    )


def chrf(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """Character n-gram F-score, orders 1 to 6, beta 2, white space left out, sentence level, in [0, 1].

    Source: chrF of Popovic, 2015; as computed by sacreBLEU (`word_order=0`, effective order), but for two empty texts, which
    are equal here (1) and 0 there.
    """
    answer, reference = "".join(case.answer.split()), "".join((case.ground_truth or "").split())
    precision_sum = recall_sum = 0.0
    orders = 0
    for order in range(1, CHRF_ORDER + 1):
        ours, theirs = _ngrams(answer, order), _ngrams(reference, order)
        ours_total, theirs_total = max(len(answer) - order + 1, 0), max(len(reference) - order + 1, 0)
        if not ours_total or not theirs_total:
            continue
        shared = sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs)
        precision_sum += shared / ours_total
        recall_sum += shared / theirs_total
        orders += 1
    if not orders:
        return Measured(value=float(answer == reference))
    precision, recall = precision_sum / orders, recall_sum / orders
    weight = CHRF_BETA**2
    value = (1 + weight) * precision * recall / (weight * precision + recall) if precision + recall else 0.0
    return Measured(value=min(value, 1.0), evidence={"precision": _r(precision), "recall": _r(recall)})


def lexical_support(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """The least supported sentence of the answer: min over sentences s of support(s) * numbers(s) * negation(s).

    support(s): share of the content words of s that stand in the contexts. numbers(s): 1 when every number and date of s
    stands there too, else 0. negation(s): 0 when the context clause that shares most words with a clause of s says the
    opposite, else 1. Sentences that decline or only greet claim nothing and are left out; an answer of such sentences is 1,
    an empty answer 0.
    Source: ours; the support term is the token precision of K-Precision (Adlakha et al., 2024) over content morphemes.
    """
    if not case.answer.strip():
        return Measured(value=0.0, evidence={"note": "the answer is empty"})
    passages = [_passage(context, tokenizer) for context in case.contexts if context]
    known = frozenset[str]().union(*(passage.content for passage in passages))
    checked = [_checked_sentence(sentence, known, passages, tokenizer) for sentence in _claims(case.answer, tokenizer)]
    if not checked:
        return Measured(value=1.0, evidence={"note": "the answer claims nothing"})
    weakest = min(checked, key=lambda item: float(item["value"]))
    return Measured(value=float(weakest["value"]), evidence={"weakest": weakest, "sentences": len(checked)})


@dataclass(frozen=True, slots=True)
class _Clause:
    text: str
    content: frozenset[str]
    negative: bool


@dataclass(frozen=True, slots=True)
class _Passage:
    """A context as the metrics see it."""

    text: str
    clauses: tuple[_Clause, ...]
    content: frozenset[str]


@lru_cache(maxsize=8192)
def _passage(context: str, tokenizer: Tokenizer) -> _Passage:
    """Kept, because a RAG system serves the same passages again and again; about 15 kB each."""
    found = tuple(_Clause(clause, tokenizer.content(clause), is_negative(clause)) for clause in clauses(context))
    return _Passage(context, found, frozenset[str]().union(*(clause.content for clause in found)))


def _claims(answer: str, tokenizer: Tokenizer) -> list[str]:
    """The sentences that claim something, fragments joined to the sentence before or, at the start, after them."""
    joined: list[str] = []
    for sentence in sentences(answer):
        if claims_nothing(sentence):
            continue
        fragment = len(tokenizer.content(sentence)) < WHOLE_SENTENCE_WORDS
        if joined and (fragment or len(tokenizer.content(joined[-1])) < WHOLE_SENTENCE_WORDS):
            joined[-1] += f" {sentence}"
        else:
            joined.append(sentence)
    return joined


def _checked_sentence(
    sentence: str, known: frozenset[str], passages: Sequence[_Passage], tokenizer: Tokenizer
) -> dict[str, Any]:
    words = tokenizer.content(sentence)
    absent = sorted(words - known)
    support = 1.0 - len(absent) / len(words) if words else 1.0
    missing = missing_from(sentence, (passage.text for passage in passages))
    denied = _contradicting_clause(sentence, passages, tokenizer)
    found: dict[str, Any] = {
        "sentence": sentence,
        "value": 0.0 if missing or denied else support,
        "support": _r(support),
        "words_not_found": absent,
    }
    if missing:
        found["numbers_not_found"] = missing
    if denied:
        found["contradicted_by"] = denied
    return found


def _contradicting_clause(sentence: str, passages: Sequence[_Passage], tokenizer: Tokenizer) -> str | None:
    for clause in clauses(sentence):
        words = tokenizer.content(clause)
        if len(words) < 2:
            continue
        ranked: list[tuple[float, float, _Clause]] = []
        for passage in passages:
            for other in passage.clauses:
                shared = len(words & other.content)
                if shared and shared / len(words) >= SAME_SUBJECT:
                    ranked.append((shared / len(words), shared / len(other.content), other))
        if not ranked:
            continue
        best = max(item[:2] for item in ranked)
        nearest = [other for share, density, other in ranked if (share, density) == best]
        if all(other.negative != is_negative(clause) for other in nearest):
            return nearest[0].text
    return None


def number_consistency(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """Share of the answer's numbers, amounts, periods and dates that stand in the contexts; 1 where it names none, 0 for an
    empty answer.

    `1억 5천만원` equals `150,000,000원`, `24개월` equals `2년`. Source: ours.
    """
    if not case.answer.strip():
        return Measured(value=0.0, evidence={"note": "the answer is empty"})
    claimed = figures(case.answer)
    total = len(claimed.dates) + len(claimed.quantities)
    if not total:
        return Measured(value=1.0, evidence={"numbers": 0})
    missing = missing_from(case.answer, case.contexts)
    return Measured(value=1.0 - len(missing) / total, evidence={"numbers": total, "not_found": missing})


def no_answer_accuracy(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """1 when the answer declines exactly where the question cannot be answered, else 0.

    Whether it can, says `metadata.answerable`; without it, a reference that itself declines. Source: SQuAD 2.0's
    HasAns/NoAns (Rajpurkar et al., 2018).
    """
    answerable = case.metadata.get("answerable")
    if not isinstance(answerable, bool):
        if case.ground_truth is None:
            return _no_field("ground_truth or metadata.answerable")
        answerable = not is_refusal(case.ground_truth)
    declined = is_refusal(case.answer) if not answerable else _only_refusals(case.answer)
    return Measured(value=float(declined != answerable), evidence={"answerable": answerable, "declined": declined})


def keyword_coverage(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """Share of `metadata.keywords` that stand in the answer, white space and case aside. Source: ours."""
    keywords = _filled(case.metadata.get("keywords"))
    if not keywords:
        return _no_field("metadata.keywords")
    answer = _folded(case.answer)
    missing = [keyword for keyword in keywords if _folded(keyword) not in answer]
    return Measured(value=1.0 - len(missing) / len(keywords), evidence={"missing": missing})


def hit_rate(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """1 when any retrieved context is relevant, else 0. Source: success@k of trec_eval."""
    return _ranked(case, tokenizer, lambda hits, wanted: float(any(hits)))


def mrr(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """1 / rank of the first relevant context, 0 without one. Source: reciprocal rank (Voorhees, TREC-8, 1999)."""
    return _ranked(case, tokenizer, lambda hits, wanted: 1.0 / (hits.index(True) + 1) if any(hits) else 0.0)


def ndcg(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """DCG / ideal DCG with binary gain and discount log2(rank + 1). Source: Jarvelin and Kekalainen, 2002."""

    def value(hits: list[bool], wanted: int) -> float:
        gained = sum(1.0 / math.log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
        ideal = sum(1.0 / math.log2(rank + 1) for rank in range(1, min(max(wanted, sum(hits)), len(hits)) + 1))
        return min(gained / ideal, 1.0) if ideal else 0.0

    return _ranked(case, tokenizer, value)


def retrieval_precision(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """Relevant retrieved contexts / retrieved contexts. Source: ragas's ID-based and non-LLM context precision."""
    return _ranked(case, tokenizer, lambda hits, wanted: sum(hits) / len(hits))


def retrieval_recall(case: EvalCase, tokenizer: Tokenizer) -> Outcome:
    """References found among the retrieved contexts / references. Source: ragas's ID-based and non-LLM context recall."""
    relevance = _relevance(case, tokenizer)
    if isinstance(relevance, Unmeasured):
        return relevance
    basis, _hits, found, wanted = relevance
    return Measured(value=found / wanted, evidence={"basis": basis, "found": found, "wanted": wanted})


def _ranked(case: EvalCase, tokenizer: Tokenizer, value: Callable[[list[bool], int], float]) -> Outcome:
    relevance = _relevance(case, tokenizer)
    if isinstance(relevance, Unmeasured):
        return relevance
    basis, hits, _, wanted = relevance
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    return Measured(
        value=value(hits, wanted) if hits else 0.0, evidence={"basis": basis, "relevant_ranks": ranks, "retrieved": len(hits)}
    )


def _relevance(case: EvalCase, tokenizer: Tokenizer) -> tuple[str, list[bool], int, int] | Unmeasured:
    """(basis, relevant or not by rank, references found, references): by ids, else by texts, else by the ground truth."""
    ids, wanted_ids = _texts(case.metadata.get("context_ids")), _filled(case.metadata.get("reference_context_ids"))
    if wanted_ids and (ids or not any(case.contexts)):
        wanted = set(wanted_ids)
        return "reference_context_ids", [item in wanted for item in ids], len(wanted & set(ids)), len(wanted)
    references = _filled(case.metadata.get("reference_contexts"))
    basis = "reference_contexts"
    if not references and case.ground_truth and not is_refusal(case.ground_truth):
        references, basis = [case.ground_truth], "ground_truth"
    if not references:
        return _no_field("metadata.reference_context_ids with context_ids, metadata.reference_contexts or ground_truth")
    holds = [[_holds(context, reference, tokenizer) for reference in references] for context in case.contexts]
    found = sum(any(column) for column in zip(*holds, strict=True)) if holds else 0
    return basis, [any(row) for row in holds], found, len(references)


def _holds(context: str, reference: str, tokenizer: Tokenizer) -> bool:
    words = tokenizer.content(reference)
    if words and len(words & _passage(context, tokenizer).content) / len(words) < RELEVANT_SHARE:
        return False
    missing = missing_from(reference, [context])
    if not words and _folded(reference) not in _folded(context):
        return not missing and any(map(str.isdigit, reference))
    return not missing


def _only_refusals(answer: str) -> bool:
    parts = sentences(answer)
    return all(map(is_refusal, parts)) if parts else True


def _no_field(name: str) -> Unmeasured:
    return Unmeasured(reason=Reason.NO_FIELD, detail=f"the case has no {name}")


def _texts(value: object) -> list[str]:
    """What metadata lists, as text; null keeps its place as an empty text, for `context_ids` run beside the contexts."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    return ["" if item is None else str(item) for item in value] if isinstance(value, list | tuple) else []


def _filled(value: object) -> list[str]:
    return [text for text in _texts(value) if text.strip()]


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def _squad_form(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = "".join(" " if unicodedata.category(char)[0] in "PS" and char not in "%$₩€+-" else char for char in plain)
    return "".join(word for word in plain.split() if word not in {"a", "an", "the"}) or _folded(text)


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter([text[start : start + order] for start in range(len(text) - order + 1)])


def _r(value: float) -> float:
    return round(value, 4)
