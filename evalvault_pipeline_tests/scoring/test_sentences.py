"""Sentences, clauses, negation, refusal and courtesy."""

from __future__ import annotations

import pytest

from evalvault_pipeline.scoring.sentences import claims_nothing, clauses, is_negative, is_refusal, sentences


def test_sentences_end_at_full_stops_and_new_lines_but_not_inside_a_number():
    assert sentences("이율은 3.5%입니다. 확인하세요!\n\n- \n끝") == ["이율은 3.5%입니다.", "확인하세요!", "끝"]


def test_a_text_of_signs_alone_has_no_sentence():
    assert sentences(" … !?\n--- ") == sentences("") == []


def test_coordination_and_contrast_end_a_clause():
    assert clauses("A는 보상하지만 B는 보상하지 않으며 C는 제외합니다.") == [
        "A는 보상하지만",
        "B는 보상하지 않으며",
        "C는 제외합니다.",
    ]
    assert clauses("Fire is covered, but theft is not; ask us.") == ["Fire is covered", "but theft is not", "ask us."]


@pytest.mark.parametrize(
    "text",
    [
        "보험금을 지급하지 않습니다",
        "지급할 수 없습니다",
        "보상에서 제외됩니다",
        "해지하시면 안 됩니다",
        "보장하는 손해가 아닙니다",
        "재가입이 불가합니다",
        "Flood damage is not covered",
        "It isn't covered",
        "Theft is excluded",
        "You cannot cancel",
        "Cover without a deductible is never given",
    ],
)
def test_a_clause_that_denies_is_negative(text: str):
    assert is_negative(text)


@pytest.mark.parametrize(
    "text",
    [
        "보험금을 지급합니다",
        "따로 선택하지 않으면 1억원으로 체결됩니다",
        "가입하지 않은 경우의 보험금도 지급합니다",
        "횟수에 제한 없이 보장합니다",
        "면책기간은 90일입니다",
        "불가피한 사고도 보상합니다",
        "안전 점검을 받습니다",
        "문제없이 지급됩니다",
        "Payment is made no later than 30 days after the claim",
        "Not only fire but also theft is covered",
        "A member who cannot attend is refunded",
        "A notable note",
    ],
)
def test_a_negated_condition_or_noun_does_not_make_the_clause_negative(text: str):
    assert not is_negative(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "제공된 자료에서 확인할 수 없습니다.",
        "약관에 명시되어 있지 않습니다.",
        "관련 정보가 없습니다.",
        "모르겠습니다.",
        "The context does not mention this.",
        "I don't know.",
        "I cannot find this in the policy.",
        "No information is given.",
    ],
)
def test_an_answer_that_says_nothing_or_that_it_cannot_answer_declines(text: str):
    assert is_refusal(text) and claims_nothing(text)


@pytest.mark.parametrize("text", ["보험금을 지급하지 않습니다.", "20%입니다.", "It is not covered.", "You may not cancel."])
def test_a_denial_is_an_answer_and_no_refusal(text: str):
    assert not is_refusal(text) and not claims_nothing(text)


@pytest.mark.parametrize(
    "text", ["감사합니다.", "안녕하세요!", "고객센터로 문의 주시기 바랍니다.", "Thank you for asking.", "Please contact us."]
)
def test_a_courtesy_claims_nothing_and_does_not_decline(text: str):
    assert claims_nothing(text) and not is_refusal(text)
