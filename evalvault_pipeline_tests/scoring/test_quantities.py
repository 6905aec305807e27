"""Numbers and dates: what is one thing in two notations, and what is not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalvault_pipeline.scoring.quantities import dates, missing_from, quantities


def the_quantity(text: str) -> tuple[Fraction, str]:
    found = quantities(text)
    assert len(found) == 1, found
    return found[0].value, found[0].unit


@pytest.mark.parametrize(
    ("texts", "value", "unit"),
    [
        (["1억 5천만원", "150,000,000원", "일억오천만 원", "₩150,000,000", "15000만원"], 150_000_000, "krw"),
        (["1만5천원", "15,000원", "1만 5,000원"], 15_000, "krw"),
        (["1조 2천억원", "1,200,000,000,000원"], 1_200_000_000_000, "krw"),
        (["24개월", "2년", "two years", "24 months"], 24, "month"),
        (["10퍼센트", "10%", "10 percent"], 10, "%"),
        (["thirty days", "30 days", "30일", "30-day", "30영업일"], 30, "day"),
        (["twenty-five days", "25일"], 25, "day"),
        (["한 달", "1개월", "one month"], 1, "month"),
        (["사흘", "3일"], 3, "day"),
        (["두 번", "2회", "two times", "2차례"], 2, "times"),
        (["12시간", "720분", "twelve hours"], 720, "minute"),
        (["$1.5 million", "1,500,000 dollars"], 1_500_000, "usd"),
        (["만 60세", "60살", "60 years old"], 60, "age"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_the_same_amount_in_other_notations_has_one_value_and_unit(texts: list[str], value: int, unit: str):
    assert [the_quantity(text) for text in texts] == [(Fraction(value), unit)] * len(texts)


@pytest.mark.parametrize(
    "text", ["2026-03-01", "2026년 3월 1일", "2026.3.1", "March 1, 2026", "1 March 2026", "1st of Mar 2026"]
)
def test_a_date_is_the_same_date_however_it_is_written(text: str):
    (found,) = dates(text)
    assert (found.year, found.month, found.day) == (2026, 3, 1)
    assert quantities(text) == []


def test_a_fraction_is_read_from_both_notations_and_a_zero_below_is_none():
    assert the_quantity("10분의 3") == the_quantity("3/10") == (Fraction(3, 10), "ratio")
    assert all(item.unit != "ratio" for item in quantities("0분의 3"))


def test_a_telephone_number_is_one_code_and_no_date():
    assert the_quantity("1588-1234") == (Fraction(15_881_234), "code")
    assert dates("010-1234-5678") == []


def test_a_day_or_month_that_no_calendar_has_is_no_date():
    assert dates("2026-13-01") == dates("2026.3.45") == dates("13월 5일") == dates("January 45") == []


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("1억 5천만원입니다", "150,000,000원을 지급"),
        ("2년입니다", "보험기간은 24개월"),
        ("2026-03-01부터", "2026년 3월 1일 시행"),
        ("3월 1일", "2026년 3월 1일"),
        ("10퍼센트", "10%"),
        ("thirty days", "within 30 days"),
    ],
)
def test_an_equal_amount_in_another_notation_is_found(text: str, source: str):
    assert missing_from(text, [source]) == []


@pytest.mark.parametrize(
    ("text", "source", "gone"),
    [
        ("1억원", "1억 5천만원", ["1억원"]),
        ("30%", "30일", ["30%"]),
        ("3년", "24개월", ["3년"]),
        ("2026년 4월 1일", "2026년 3월 1일", ["2026년 4월 1일"]),
        ("2026년 3월 1일", "3월 1일", ["2026년 3월 1일"]),
        ("forty days", "30 days", ["forty days"]),
    ],
)
def test_another_amount_unit_or_date_is_missing_and_named_as_written(text: str, source: str, gone: list[str]):
    assert missing_from(text, [source]) == gone


def test_a_number_may_stand_in_any_of_the_sources():
    assert missing_from("10%와 30일", ["10%", "30일"]) == []


@given(st.integers(min_value=1, max_value=10**15))
def test_digits_with_and_without_thousands_separators_are_equal(number: int):
    assert the_quantity(f"{number:,}원") == the_quantity(f"{number}원") == (Fraction(number), "krw")


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("0123456789.,-/년월일만억천백십원%$ 분의"), max_size=60))
def test_every_number_and_date_of_a_text_stands_in_that_text(text: str):
    assert missing_from(text, [text]) == []


@pytest.mark.parametrize("text", ["9" * 5_000, "1," + "234," * 2_000, "9" * 5_000 + "분의 3", "1." + "3" * 5_000])
def test_a_run_of_digits_longer_than_python_reads_is_no_amount_and_no_crash(text: str):
    assert missing_from(f"{text} 그리고 30일", ["30일"]) in ([], ["3"], ["1."], ["1"])


@pytest.mark.parametrize("text", ["fıve days", "sİx months"])
def test_a_turkish_letter_in_a_number_word_is_no_number_and_no_crash(text: str):
    """`re.IGNORECASE` lets `ı` pass for `i`, and its lower case is not `five`."""
    assert quantities(text) == []


def test_a_label_of_a_masked_number_is_that_number_and_no_amount() -> None:
    assert missing_from("[PHONE_1]", ["문의 [PHONE_1]"]) == []
    assert missing_from("[PHONE_1]", ["1년, [PHONE_2], [EMAIL_1]"]) == ["[PHONE_1]"]
    assert missing_from("1년", ["[PHONE_1]"]) == ["1년"]
