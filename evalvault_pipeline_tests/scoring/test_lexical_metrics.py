"""The deterministic metrics: golden values, properties over any text, and how well they tell right answers from wrong ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalvault_pipeline.cases.loading import read_cases
from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.scoring.korean import NgramTokenizer, Tokenizer, choose_tokenizer
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.scoring.model import Measured, Reason, Unmeasured
from evalvault_pipeline_tests.conftest import PROJECT

NGRAM = NgramTokenizer()
DETERMINISTIC = [metric.name for metric in METRICS.values() if metric.score]
RANKED = ["hit_rate", "mrr", "ndcg", "retrieval_precision", "retrieval_recall"]
KOREAN = "보험금은 청구 서류를 접수한 날부터 3영업일 이내에 지급합니다"


@pytest.fixture(scope="module", params=["ngram", "kiwi"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "kiwi":
        pytest.importorskip("kiwipiepy")
    return choose_tokenizer(request.param)


def outcome(
    metric: str,
    answer: str = "",
    contexts: Iterable[str] = (),
    truth: str | None = None,
    by: Tokenizer = NGRAM,
    **metadata: Any,
) -> Measured | Unmeasured:
    case = EvalCase(case_id="c", question="?", answer=answer, contexts=tuple(contexts), ground_truth=truth, metadata=metadata)
    score = METRICS[metric].score
    assert score
    return score(case, by)


def value(
    metric: str,
    answer: str = "",
    contexts: Iterable[str] = (),
    truth: str | None = None,
    by: Tokenizer = NGRAM,
    **metadata: Any,
) -> float:
    found = outcome(metric, answer, contexts, truth, by, **metadata)
    assert isinstance(found, Measured), found
    return found.value


# Any text at all ---------------------------------------------------------------------------------------------------------

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=40) | st.lists(
    st.sampled_from(
        [
            *"보험금은 지급하지 않습니다. 1억 5천만원 2년 24개월 30% 아니요. 2026-03-01 pays not thirty days $5 the 😀 \n \x1b \x00 、。 我们".split(
                " "
            ),
            "",
        ]
    ),
    max_size=12,
).map(" ".join)
CASE = st.builds(
    EvalCase,
    case_id=st.just("c"),
    question=TEXT,
    answer=TEXT,
    contexts=st.lists(TEXT, max_size=3).map(tuple),
    ground_truth=st.none() | TEXT,
    metadata=st.fixed_dictionaries(
        {},
        optional={
            "answerable": st.booleans() | st.none() | TEXT,
            "keywords": st.lists(TEXT | st.none(), max_size=3) | TEXT,
            "context_ids": st.lists(st.sampled_from(["a", "b", 1, None]), max_size=3),
            "reference_context_ids": st.lists(st.sampled_from(["a", "b", 1, None, ""]), max_size=3),
            "reference_contexts": st.lists(TEXT, max_size=3),
        },
    ),
)


def check_any_case(case: EvalCase, by: Tokenizer) -> None:
    for name in DETERMINISTIC:
        score = METRICS[name].score
        assert score
        found = score(case, by)
        assert score(case, by) == found, name
        if isinstance(found, Measured):
            assert math.isfinite(found.value) and 0.0 <= found.value <= 1.0, name
            json.dumps(found.evidence, allow_nan=False)
        else:
            assert found.reason is Reason.NO_FIELD and found.detail, name


@given(CASE)
@settings(max_examples=300)
def test_any_case_is_measured_in_0_to_1_or_says_what_is_missing_and_twice_the_same(case: EvalCase):
    check_any_case(case, NGRAM)


@given(CASE)
@settings(max_examples=60)
def test_any_case_is_measured_in_0_to_1_with_the_korean_model_too(case: EvalCase):
    pytest.importorskip("kiwipiepy")
    check_any_case(case, choose_tokenizer("kiwi"))


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "chrf"])
@given(text=TEXT)
def test_an_answer_that_is_its_reference_scores_1(metric: str, text: str):
    assert value(metric, text, truth=text) == 1.0


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "chrf"])
@pytest.mark.parametrize("text", [KOREAN, "네", "1억원", "그렇습니다", "日本語", "😀"])
def test_a_korean_answer_that_is_its_reference_scores_1_with_either_tokenizer(metric: str, text: str, tokenizer: Tokenizer):
    """The tool that this one replaces gave two equal Korean sentences a ROUGE of 0."""
    assert value(metric, text, truth=text, by=tokenizer) == 1.0


# chrf --------------------------------------------------------------------------------------------------------------------

WRITING = st.text(alphabet="가나다라보험금은지급 abcde1,.\t\n", max_size=60)


@given(WRITING, WRITING)
@settings(max_examples=300)
def test_chrf_is_sacrebleus_sentence_score(answer: str, reference: str):
    from sacrebleu.metrics import CHRF

    if not answer.split() and not reference.split():
        assert value("chrf", answer, truth=reference) == 1.0  # sacreBLEU has no n-gram to compare and says 0
    else:
        theirs = CHRF(word_order=0).sentence_score(answer, [reference]).score / 100
        assert value("chrf", answer, truth=reference) == pytest.approx(theirs, abs=1e-9)


def test_chrf_of_ab_against_abc_is_computed_by_hand():
    """P = (2/2 + 1/1) / 2, R = (2/3 + 1/2) / 2; F2 = 5PR / (4P + R)."""
    recall = (2 / 3 + 1 / 2) / 2
    assert value("chrf", "a b", truth="abc") == pytest.approx(5 * recall / (4 + recall))


def test_chrf_of_texts_without_a_common_character_is_0():
    assert value("chrf", "가나다", truth="abc") == value("chrf", "", truth="abc") == value("chrf", "abc", truth="") == 0.0


# exact_match, token_f1 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("3,000만원", "3000만원", 1.0),
        ("삼천만원 입니다.", "삼천만원입니다", 1.0),
        ("10%", "10", 0.0),
        ("-5", "5", 0.0),
        ("1억원", "2억원", 0.0),
        ("", "1억원", 0.0),
        ("", "A", 0.0),
        ("the", "A", 0.0),
        ("?", "!", 0.0),
    ],
)
def test_exact_match_ignores_case_punctuation_space_and_articles_and_nothing_else(answer: str, reference: str, expected: float):
    assert value("exact_match", answer, truth=reference) == expected


def test_token_f1_is_that_of_squad_computed_by_hand():
    """Shared: claim, paid. P = 2/4 (the article is no token), R = 2/3, F1 = 4/7."""
    found = outcome("token_f1", "The claim is paid today", truth="claim was paid")
    assert found == Measured(value=pytest.approx(4 / 7), evidence={"precision": 0.5, "recall": 0.6667})


def test_token_f1_counts_korean_syllables_without_the_model_as_korquad_does():
    """암진단비 against 암수술비: 암 and 비 are shared, of four each."""
    assert value("token_f1", "암진단비", truth="암수술비") == 0.5


def test_token_f1_counts_korean_morphemes_with_the_model():
    """`보험금을 지급` and `보험금이 지급` differ in particles only, which are no tokens."""
    pytest.importorskip("kiwipiepy")
    assert value("token_f1", "보험금을 지급", truth="보험금이 지급", by=choose_tokenizer("kiwi")) == 1.0


def test_a_repeated_word_counts_as_often_as_both_texts_have_it():
    """One `paid` is shared: P = 1/3, R = 1/1."""
    assert value("token_f1", "paid paid paid", truth="paid") == pytest.approx(0.5)


@pytest.mark.parametrize(("answer", "reference"), [("日本", "中国"), ("", "A"), ("😀", "😢"), ("암", "癌")])
def test_different_texts_never_score_as_equal_for_want_of_tokens(answer: str, reference: str, tokenizer: Tokenizer):
    assert value("token_f1", answer, truth=reference, by=tokenizer) == 0.0


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "chrf"])
def test_a_short_reference_is_compared_with_the_answer_and_never_replaced_by_it(metric: str):
    """The tool that this one replaces made a reference under 6 characters the answer itself; `1억원` then agreed with all."""
    assert value(metric, "2년입니다", truth="1억원") == 0.0
    assert value(metric, "1억원", truth="1억원") == 1.0


# Retrieval ---------------------------------------------------------------------------------------------------------------

BY_IDS: dict[str, Any] = {"context_ids": ["x", "a", "y", "b"], "reference_context_ids": ["a", "b", "c"]}
HITS_AT_2_AND_4 = {
    "hit_rate": 1.0,
    "mrr": 1 / 2,
    "ndcg": (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2),
    "retrieval_precision": 2 / 4,
    "retrieval_recall": 2 / 3,
}


@pytest.mark.parametrize("metric", RANKED)
def test_retrieval_by_ids_is_computed_by_hand_from_the_ranks_of_the_relevant(metric: str):
    assert value(metric, contexts=["-"] * 4, **BY_IDS) == pytest.approx(HITS_AT_2_AND_4[metric])


@pytest.mark.parametrize("metric", RANKED)
def test_retrieval_by_reference_texts_finds_the_contexts_that_hold_them(metric: str, tokenizer: Tokenizer):
    contexts = ["자동차 정비 안내", "암 진단비는 3,000만원을 지급합니다.", "서류 접수 창구", "청구는 3년 안에 해야 합니다."]
    references = ["암 진단비 3천만원 지급", "청구는 3년 안에", "해지 환급금의 계산 방법"]
    assert value(metric, contexts=contexts, by=tokenizer, reference_contexts=references) == pytest.approx(
        HITS_AT_2_AND_4[metric]
    )


def test_retrieval_falls_back_on_the_ground_truth_and_says_so(tokenizer: Tokenizer):
    found = outcome(
        "mrr", contexts=["정비 안내", "암 진단비는 3,000만원입니다."], truth="암 진단비는 3천만원이다", by=tokenizer
    )
    assert found == Measured(value=0.5, evidence={"basis": "ground_truth", "relevant_ranks": [2], "retrieved": 2})


def test_a_context_with_the_words_but_another_amount_is_not_relevant(tokenizer: Tokenizer):
    assert value("hit_rate", contexts=["암 진단비는 5,000만원입니다."], truth="암 진단비는 3천만원", by=tokenizer) == 0.0


@pytest.mark.parametrize("metric", RANKED)
def test_every_rank_relevant_is_1_and_none_is_0(metric: str):
    assert value(metric, contexts=["-"] * 2, context_ids=["a", "b"], reference_context_ids=["b", "a"]) == 1.0
    assert value(metric, contexts=["-"] * 2, context_ids=["x", "y"], reference_context_ids=["b", "a"]) == 0.0


@pytest.mark.parametrize("metric", RANKED)
@pytest.mark.parametrize(
    "references",
    [
        {"reference_contexts": ["보험금 지급"]},
        {"truth": "보험금 지급"},
        {"context_ids": [], "reference_context_ids": ["a"]},
        {"reference_context_ids": ["a"]},
    ],
    ids=["texts", "ground truth", "empty ids", "no ids"],
)
def test_nothing_retrieved_where_something_is_wanted_is_0_and_not_unmeasured(metric: str, references: dict[str, Any]):
    case = EvalCase(
        case_id="c",
        question="?",
        answer="",
        ground_truth=references.get("truth"),
        metadata={name: item for name, item in references.items() if name != "truth"},
    )
    assert METRICS[metric].lacking(case) is None
    assert value(metric, **references) == 0.0


@pytest.mark.parametrize("metric", RANKED)
@pytest.mark.parametrize("truth", [None, "제공된 자료에서 확인할 수 없습니다."], ids=["none", "one that declines"])
def test_without_references_retrieval_is_unmeasured(metric: str, truth: str | None):
    found = outcome(metric, contexts=["보험금 지급"], truth=truth, context_ids=["a"])
    assert isinstance(found, Unmeasured) and found.reason is Reason.NO_FIELD and "reference_context_ids" in found.detail


@pytest.mark.parametrize("blank", [["", " ", None], [], None, ""])
def test_an_empty_reference_is_no_reference_that_every_context_holds(blank: object):
    assert isinstance(outcome("hit_rate", contexts=["보험금"], reference_contexts=blank), Unmeasured)
    assert isinstance(outcome("hit_rate", contexts=["보험금"], context_ids=["", None], reference_context_ids=blank), Unmeasured)


def test_an_unnamed_context_keeps_its_rank():
    assert value("mrr", contexts=["-"] * 3, context_ids=[None, "", "a"], reference_context_ids=["a"]) == pytest.approx(1 / 3)


def test_ids_may_be_numbers():
    assert value("hit_rate", contexts=["-"], context_ids=[7], reference_context_ids=["7"]) == 1.0


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True), st.sets(st.sampled_from("abcdef"), min_size=1))
def test_ndcg_is_the_textbook_formula(ids: list[str], wanted: set[str]):
    gains = [1.0 if item in wanted else 0.0 for item in ids]
    ideal = sorted(gains + [1.0] * (len(wanted) - int(sum(gains))), reverse=True)[: len(ids)]
    expected = _dcg(gains) / _dcg(ideal)
    assert value("ndcg", contexts=["-"] * len(ids), context_ids=ids, reference_context_ids=sorted(wanted)) == pytest.approx(
        expected
    )


def _dcg(gains: list[float]) -> float:
    return sum(gain / math.log2(position + 2) for position, gain in enumerate(gains))


# keyword_coverage, no_answer_accuracy, number_consistency -----------------------------------------------------------------


def test_keywords_are_found_whatever_their_case_and_spacing():
    found = outcome("keyword_coverage", "MRI 검사비는 보상합니다", keywords=["mri", "검사 비", "한도"])
    assert found == Measured(value=pytest.approx(2 / 3), evidence={"missing": ["한도"]})


@pytest.mark.parametrize("keywords", [None, [], [""], [None, "  "], ""])
def test_without_keywords_their_coverage_is_unmeasured(keywords: object):
    found = outcome("keyword_coverage", "네", keywords=keywords)
    assert found == Unmeasured(reason=Reason.NO_FIELD, detail="the case has no metadata.keywords")


@pytest.mark.parametrize(
    ("answer", "answerable", "expected"),
    [
        ("제공된 자료에서 확인할 수 없습니다.", False, 1.0),
        ("3천만원입니다.", False, 0.0),
        ("3천만원입니다.", True, 1.0),
        ("제공된 자료에서 확인할 수 없습니다.", True, 0.0),
        ("", False, 1.0),
        ("", True, 0.0),
        ("I cannot find this in the contexts.", False, 1.0),
        ("It is paid within 30 days.", False, 0.0),
        ("3천만원입니다. 특약의 한도는 약관에 명시되어 있지 않습니다.", True, 1.0),
    ],
)
def test_declining_is_right_exactly_where_the_question_cannot_be_answered(answer: str, answerable: bool, expected: float):
    assert value("no_answer_accuracy", answer, truth="무엇이든", answerable=answerable) == expected


def test_whether_a_question_can_be_answered_is_read_from_the_reference_where_the_metadata_do_not_say():
    assert value("no_answer_accuracy", "알 수 없습니다.", truth="자료에서 확인할 수 없다.") == 1.0
    assert value("no_answer_accuracy", "알 수 없습니다.", truth="3천만원") == 0.0
    assert isinstance(outcome("no_answer_accuracy", "알 수 없습니다."), Unmeasured)


def test_number_consistency_is_the_share_of_numbers_that_stand_in_the_contexts():
    found = outcome("number_consistency", "2년 동안 10%, 1억원", ["24개월간 10퍼센트를 지급"])
    assert found == Measured(value=pytest.approx(2 / 3), evidence={"numbers": 3, "not_found": ["1억원"]})
    assert value("number_consistency", "숫자가 없습니다", ["30일"]) == 1.0


# lexical_support ---------------------------------------------------------------------------------------------------------

POLICY = (
    "암 진단비는 1억 5천만원을 지급합니다. 보험기간은 24개월이며 계약일은 2026년 3월 1일입니다. "
    "대물배상 한도를 계약자가 선택하지 않으면 한도는 1억원으로 체결합니다. 음주운전으로 생긴 손해는 보상하지 않습니다. "
    "자기부담금은 손해액의 10%입니다."
)
TERMS = (
    "The insurer pays the claim within 30 days after the documents arrive. Water damage from burst pipes is covered. "
    "Theft of jewellery is not covered. The contract starts on March 1, 2026. The deductible is $500."
)


def support(answer: str, context: str, by: Tokenizer) -> float:
    return value("lexical_support", answer, [context], by=by)


@pytest.mark.parametrize(
    "answer",
    [
        "암 진단비는 150,000,000원을 지급합니다.",
        "암 진단비는 일억오천만 원을 지급합니다.",
        "보험기간은 2년입니다.",
        "계약일은 2026-03-01입니다.",
        "자기부담금은 손해액의 10퍼센트입니다.",
        "음주운전으로 생긴 손해는 보상하지 않습니다.",
        "대물배상 한도를 선택하지 않으면 한도는 1억원으로 체결합니다.",
        "대물배상 한도를 선택하지 않은 경우의 한도는 1억원으로 체결합니다.",
    ],
)
def test_a_korean_answer_that_the_context_says_in_another_notation_is_supported(answer: str, tokenizer: Tokenizer):
    assert support(answer, POLICY, tokenizer) >= METRICS["lexical_support"].threshold


@pytest.mark.parametrize(
    "answer",
    [
        "The claim is paid within thirty days after the documents arrive.",
        "Theft of jewellery is not covered.",
        "Theft of jewellery isn't covered.",
        "Water damage from burst pipes is covered.",
        "The contract starts on 2026-03-01.",
        "The deductible is 500 dollars.",
        "No. Theft of jewellery is not covered.",
    ],
)
def test_an_english_answer_that_the_context_says_in_another_notation_is_supported(answer: str, tokenizer: Tokenizer):
    assert support(answer, TERMS, tokenizer) >= METRICS["lexical_support"].threshold


@pytest.mark.parametrize(
    "answer",
    [
        "암 진단비는 2억원을 지급합니다.",
        "암 진단비는 일억육천만 원을 지급합니다.",
        "보험기간은 3년입니다.",
        "계약일은 2026년 4월 1일입니다.",
        "자기부담금은 손해액의 20%입니다.",
        "음주운전으로 생긴 손해는 보상합니다.",
        "네, 음주운전으로 생긴 손해도 보상합니다.",
        "암 진단비는 1억 5천만원을 지급하지 않습니다.",
    ],
)
def test_a_wrong_amount_date_or_negation_in_korean_is_0(answer: str, tokenizer: Tokenizer):
    assert support(answer, POLICY, tokenizer) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "The claim is paid within forty days after the documents arrive.",
        "Theft of jewellery is covered.",
        "Water damage from burst pipes is not covered.",
        "The contract starts on March 2, 2026.",
        "The deductible is $5,000.",
    ],
)
def test_a_wrong_amount_date_or_negation_in_english_is_0(answer: str, tokenizer: Tokenizer):
    assert support(answer, TERMS, tokenizer) == 0.0


def test_words_that_no_context_holds_lower_the_support_and_are_named(tokenizer: Tokenizer):
    found = outcome("lexical_support", "Theft of bicycles abroad is reimbursed.", [TERMS], by=tokenizer)
    assert isinstance(found, Measured) and found.value == 0.25
    assert found.evidence["weakest"]["words_not_found"] == ["abroad", "bicycle", "reimbursed"]


def test_the_weakest_sentence_decides(tokenizer: Tokenizer):
    good, bad = "Water damage from burst pipes is covered.", "Roadside assistance tows vehicles abroad."
    found = outcome("lexical_support", f"{good} {bad}", [TERMS], by=tokenizer)
    assert isinstance(found, Measured) and found.value == 0.0
    assert found.evidence["weakest"]["sentence"] == bad and found.evidence["sentences"] == 2


@pytest.mark.parametrize(
    "answer",
    ["제공된 자료에서 확인할 수 없습니다.", "I don't know.", "감사합니다.", "안녕하세요! 알 수 없습니다. 감사합니다."],
)
def test_an_answer_that_declines_or_greets_claims_nothing(answer: str, tokenizer: Tokenizer):
    found = outcome("lexical_support", answer, [POLICY], by=tokenizer)
    assert found == Measured(value=1.0, evidence={"note": "the answer claims nothing"})


def test_a_courtesy_beside_a_wrong_answer_does_not_save_it(tokenizer: Tokenizer):
    assert support("안녕하세요! 암 진단비는 2억원을 지급합니다. 감사합니다.", POLICY, tokenizer) == 0.0


@pytest.mark.parametrize(
    "answer", ["아니요. 음주운전으로 생긴 손해는 보상하지 않습니다.", "음주운전으로 생긴 손해는 보상하지 않습니다. 네."]
)
def test_a_fragment_is_judged_with_its_neighbour(answer: str, tokenizer: Tokenizer):
    found = outcome("lexical_support", answer, [POLICY], by=tokenizer)
    assert isinstance(found, Measured) and found.evidence["sentences"] == 1 and found.evidence["weakest"]["sentence"] == answer
    assert found.value == 1.0


def test_an_answer_in_a_script_of_which_the_contexts_hold_nothing_is_not_supported(tokenizer: Tokenizer):
    """A small model that answers a Korean question in Chinese must not pass."""
    assert support("保险公司支付全部医疗费用。", POLICY, tokenizer) == 0.0


# How well lexical_support tells right answers from wrong ones -----------------------------------------------------------


def area_under_curve(good: list[float], bad: list[float]) -> float:
    """P(a right answer scores above a wrong one), ties half."""
    pairs = [(right > wrong) + (right == wrong) / 2 for right in good for wrong in bad]
    return sum(pairs) / len(pairs)


def split_by_label(cases: Iterable[tuple[EvalCase, str]], by: Tokenizer) -> tuple[list[float], list[float]]:
    scored = [(value("lexical_support", case.answer, case.contexts, by=by), label) for case, label in cases]
    return [item for item, label in scored if label == "correct"], [item for item, label in scored if label != "correct"]


def demo_cases() -> list[tuple[EvalCase, str]]:
    files = sorted((PROJECT / "data" / "datasets").glob("insurance_qa*/*.json*"))
    return [(case, str(case.metadata["label"])) for file in files for case in read_cases(file)]


@pytest.mark.parametrize(("choice", "least"), [("kiwi", 0.95), ("ngram", 0.93)])
def test_lexical_support_tells_the_right_from_the_wrong_answers_of_the_demo_data(choice: Any, least: float):
    if choice == "kiwi":
        pytest.importorskip("kiwipiepy")
    cases = demo_cases()
    good, bad = split_by_label(cases, choose_tokenizer(choice))
    threshold = METRICS["lexical_support"].threshold
    assert len(good) > 200 and len(bad) > 40
    assert area_under_curve(good, bad) >= least
    assert sum(item >= threshold for item in good) / len(good) >= 0.95
    assert sum(item < threshold for item in bad) / len(bad) >= 0.90


@pytest.fixture(scope="module")
def held_out() -> list[tuple[EvalCase, str]]:
    """24 cases of other domains, written before the rules were read, and never tuned on."""
    rows = json.loads(Path(__file__).with_name("held_out.json").read_text(encoding="utf-8"))
    return [
        (
            EvalCase(
                case_id=row["id"],
                question=row["question"],
                answer=row["answer"],
                contexts=tuple(row["contexts"]),
                ground_truth=row["ground_truth"],
            ),
            row["label"],
        )
        for row in rows
    ]


def test_lexical_support_holds_on_cases_that_its_rules_were_not_made_from(
    held_out: list[tuple[EvalCase, str]], tokenizer: Tokenizer
):
    """Measured when this was written: AUC 0.91; 12 of 12 wrong answers fail, 8 (kiwi) or 7 (ngram) of 12 right ones pass.

    Weak on paraphrase: it is a check for wrong answers that asks a person about some right ones.
    """
    good, bad = split_by_label(held_out, tokenizer)
    threshold = METRICS["lexical_support"].threshold
    assert (len(good), len(bad)) == (12, 12)
    assert area_under_curve(good, bad) >= 0.85
    assert sum(item < threshold for item in bad) >= 11
    assert sum(item >= threshold for item in good) >= 6


@pytest.mark.parametrize("metric", DETERMINISTIC)
def test_a_metric_does_not_change_its_case(metric: str, a_case: Callable[..., EvalCase]):
    case = a_case(metadata={"keywords": ["암"], "answerable": True, "reference_contexts": ["암 진단비"]})
    digest = case.digest
    score = METRICS[metric].score
    assert score
    score(case, NGRAM)
    assert EvalCase(**{name: getattr(case, name) for name in EvalCase.__dataclass_fields__}).digest == digest


def test_an_empty_answer_supports_nothing(tokenizer: Tokenizer):
    """It claims nothing either, but a system that stays silent must not pass."""
    found = outcome("lexical_support", "", [POLICY], by=tokenizer)
    assert found == Measured(value=0.0, evidence={"note": "the answer is empty"})
