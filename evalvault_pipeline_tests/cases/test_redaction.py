"""What is taken out of texts before they are sent to others, and what of an insurance text stays."""

from __future__ import annotations

import pytest

from evalvault_pipeline.cases.redaction import redacted, redacted_values


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("010-1234-5678로 전화하세요", "[PHONE]로 전화하세요"),
        ("01012345678", "[PHONE]"),
        ("010 1234 5678, 011.234.5678", "[PHONE], [PHONE]"),
        ("+82 10-1234-5678", "[PHONE]"),
        ("02-123-4567 또는 (031) 123-4567", "[PHONE] 또는 ([PHONE]"),
        ("kim.lee+x@mail.example.co.kr으로", "[EMAIL]으로"),
        ("900101-1234567입니다", "[SSN]입니다"),
        ("외국인 900101-5234567", "외국인 [SSN]"),
        ("카드 4111-1111-1111-1111", "카드 [CARD]"),
        ("half \ud800 and \x00", "half \ufffd and \ufffd"),
    ],
)
def test_what_a_person_is_known_by_is_replaced_by_a_label(text: str, sent: str) -> None:
    assert redacted(text) == sent


@pytest.mark.parametrize(
    "text",
    [
        "보험금 3,000만원, 2026-11-24부터 90일",
        "제12조 제3항, 증권번호 2026-0001-0002",
        "4111-1111-1111-1112",  # no card: its check digit is wrong
        "991301-1234567",  # no 13th month
        "비율 0.02-0.03, 1588-1234",
        "a@b",
    ],
)
def test_amounts_dates_articles_and_numbers_that_are_no_persons_stay(text: str) -> None:
    assert redacted(text) == text


def test_texts_inside_of_values_are_redacted_and_the_rest_stays() -> None:
    values = {"note": "010-1234-5678", "in": [{"mail": "a@b.kr"}, 3, None, True], "share": 0.5}
    assert redacted_values(values) == {"note": "[PHONE]", "in": [{"mail": "[EMAIL]"}, 3, None, True], "share": 0.5}


def test_a_long_text_of_digits_takes_no_long_time() -> None:
    assert redacted("1" * 200_000) == "1" * 200_000
    assert redacted("a." * 100_000 + "@") == "a." * 100_000 + "@"
