"""What is found of what a person is known by: measured on labelled strings, in every spelling, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalvault_pipeline.cases.loading import read_cases
from evalvault_pipeline.cases.pii import find_pii
from evalvault_pipeline.cases.pii_words import Kind
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline_tests.cases.labelled import Score, Span, read_labelled, scored
from evalvault_pipeline_tests.conftest import PROJECT


def spans(text: str) -> list[Span]:
    return [(one.start, one.end, one.kind.value) for one in find_pii(text)]


def found(text: str) -> list[tuple[str, str]]:
    return [(one.kind.value, text[one.start : one.end]) for one in find_pii(text)]


# --- labelled strings


@pytest.fixture(scope="module")
def suite() -> Score:
    return scored(read_labelled("pii_suite.jsonl"), spans)


def test_the_labelled_suite_is_large_half_of_it_is_hard_negatives_and_it_has_every_kind() -> None:
    strings = read_labelled("pii_suite.jsonl")
    assert len(strings) >= 300
    assert sum(not one.spans for one in strings) >= len(strings) / 2
    assert {kind for one in strings for _, _, kind in one.spans} == set(Kind)
    assert len({one.text for one in strings}) == len(strings)


def test_recall_and_precision_on_the_labelled_suite(suite: Score) -> None:
    assert suite.recall() >= 0.99, suite.faults
    assert suite.precision() >= 0.98, suite.faults


@pytest.mark.parametrize("kind", Kind)
def test_no_kind_is_left_behind(suite: Score, kind: Kind) -> None:
    assert suite.recall(kind.value) >= 0.95, suite.faults
    assert suite.precision(kind.value) >= 0.95, suite.faults


@pytest.mark.parametrize(
    ("name", "strings_without", "recall", "precision"),
    [
        ("pii_held_out.jsonl", 95, 0.96, 0.96),
        ("pii_fresh.jsonl", 79, 0.99, 0.98),
        ("pii_unseen.jsonl", 99, 0.99, 0.99),
        ("pii_unseen_2.jsonl", 130, 0.99, 0.99),
    ],
)
def test_strings_that_the_rules_were_not_tuned_on_hold_a_floor(
    name: str, strings_without: int, recall: float, precision: float
) -> None:
    strings = read_labelled(name)
    score = scored(strings, spans)
    assert len(strings) >= 120 and sum(not one.spans for one in strings) == strings_without
    assert score.recall() >= recall and score.precision() >= precision, score.faults


def test_the_insurance_texts_of_the_demo_datasets_hold_nothing() -> None:
    files = sorted((PROJECT / "data" / "datasets").glob("*/*"))
    cases = [case for file in files for case in read_cases(file, pii="off")]
    assert len(cases) > 250
    assert [found(text) for case in cases for text in (case.question, case.answer, *case.contexts) if find_pii(text)] == []


# --- spellings

SEPARATORS = [
    "-",
    " ",
    ".",
    "",
    " - ",
    "_",
    "/",
    "\u2013",
    "\u2011",
    "\u2212",
    "\xb7",
    "\u3000",
    "\xa0",
    "\u200b",
    "\u3161",
    "-\n",
]
FULL_WIDTH = str.maketrans("0123456789-.@ ", "０１２３４５６７８９－．＠　")


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("particle", ["로 연락", "은", "이고, ", ")", "입니다."])
@pytest.mark.parametrize(
    ("kind", "before", "parts"),
    [
        ("PHONE", "", ("010", "1234", "5678")),
        ("PHONE", "연락처 ", ("011", "234", "5678")),
        ("SSN", "주민등록번호 ", ("900101", "1234567")),
        ("SSN", "", ("850315", "5123456")),
        ("CARD", "카드 ", ("4518", "7574", "9118", "6252")),
        ("BUSINESS_NUMBER", "사업자등록번호 ", ("123", "45", "67890")),
        ("DRIVER_LICENSE", "면허번호 ", ("11", "20", "123456", "78")),
    ],
)
def test_a_number_is_found_with_any_separator_particle_and_width(
    kind: str, before: str, parts: tuple[str, ...], particle: str, separator: str
) -> None:
    number = separator.join(parts)
    for written in (number, number.translate(FULL_WIDTH)):
        text = f"{before}{written}{particle}"
        assert found(text) == [(kind, written)]
        assert find_pii(text)[0].key == "".join(parts)


@pytest.mark.parametrize("before", ["88213", "7", "12", "1234", "2026-03-02", "31.50", "3,000", "A12", "해지"])
@pytest.mark.parametrize("comma", [",", ", ", "\t", "|", ";", '","'])
@pytest.mark.parametrize(
    "number",
    ["02-784-3391", "031-234-5678", "01012345678", "900101-1234567", "4048258800716391", "684-87-11908", "11-20-123456-78"],
)
def test_a_number_is_found_in_a_column_of_a_table(before: str, comma: str, number: str) -> None:
    for behind in ("", f"{comma}31.50", f"{comma}Gold"):
        assert [text for _, text in found(f"{before}{comma}{number}{behind}")] == [number]


@pytest.mark.parametrize(
    "text",
    [
        "계좌 잔액 1,234,567,890",
        "계좌 1,234,567,890,123",
        "담보명,가입금액,보험료\n41002,상해사망,100000000,5400",
        "연도,수입금액\n2024,1234567890",
        "차입금\t1000000000",
        "납입금액|100000000|월",
    ],
)
def test_amounts_in_a_table_stay(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "number",
    [
        "010-1234-5678",
        "+82 10 1234 5678",
        "+82-(0)10-1234-5678",
        "0082 10-1234-5678",
        "821012345678",
        "010)1234.5678",
        "０１０１２３４５６７８",
    ],
)
def test_a_phone_has_one_key_however_it_is_written(number: str) -> None:
    (one,) = find_pii(number)
    assert (one.kind, one.key, one.start, one.end) == (Kind.PHONE, "01012345678", 0, len(number))


def test_a_registration_number_is_found_whatever_its_check_digit_says() -> None:
    for last in range(10):
        assert found(f"주민번호 900101-123456{last}")
        assert found(f"900101-123456{last}")


def test_a_card_is_found_by_its_check_digit_only() -> None:
    assert [last for last in range(10) if found(f"카드 4111-1111-1111-111{last}")] == [1]


def test_a_time_in_milliseconds_is_no_registration_number_unless_it_is_called_one() -> None:
    assert found("1707054686233") == []
    assert found("주민번호 1707054686233") == [("SSN", "1707054686233")]


def test_a_policy_number_stays_and_the_number_beside_it_goes() -> None:
    text = "증권번호 123456-1234567, 계약번호는 110-123-456789, 피보험자 900101-1234567, 계좌 110-123-456789"
    assert found(text) == [("SSN", "900101-1234567"), ("ACCOUNT", "110-123-456789")]


def test_what_a_text_is_said_to_be_counts_as_a_word_for_it() -> None:
    assert find_pii("1234567890") == []
    assert [one.kind for one in find_pii("1234567890", about="account_no")] == [Kind.ACCOUNT]
    assert [(one.start, one.end) for one in find_pii("1234567890", about="사업자번호")] == [(0, 10)]
    assert find_pii("123-45-67890", about="policy_number") == []


# --- twice is once, and never slow

PIECES = st.sampled_from(
    "계좌|신한은행 |증권번호 |전화 |tel|-|.|/| |(|)|+|82|010|02|1234|5678|123|45|67890|900101|1234567|4111|1111|@|naver.com|a|M|여권 |"
    "면허 |서울 |[|]|[PHONE_1]|[ACCOUNT]|[1]|원|,|\n|로 입금|카드 |IBAN |주민 |1|0|2|_|~|①|０|－|hong@example.com|010-1234-5678|M123A4567|~|*|"
    "\r\n|농협생명 |증권 |등록번호 |증권번호 |2024|2021|한도 |김철수|: |SC제일 | 신한|농협| 보험|점|심의필 |loan |9:".split("|")
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=80))
@example("018-5869-6527+1 980 971 6761")
@example("a@b.com-c@d.com-M123A4567")
@example("02-123-4567-010-1234-5678")
@example("062-706-7040M305A4044")
@example("a@b.krphone010-1234-5678")
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=80))
def test_what_is_found_lies_in_the_text_in_order_without_overlaps(text: str) -> None:
    position = 0
    for one in find_pii(text):
        assert position <= one.start < one.end <= len(text)
        assert one.key
        position = one.end


KILLERS = {
    "digits": "1",
    "zeros": "0",
    "digits apart": "1 ",
    "digits far apart": "1   ",
    "hyphens": "1-",
    "only separators": "- . ",
    "pairs": "12 34 ",
    "fours": "4111 ",
    "almost phones": "010-1234-567 ",
    "phones in a chain": "02-123-4567-",
    "mobiles in a chain": "010-1234-5678-",
    "almost registration numbers": "900101-123456 ",
    "accounts": "계좌 1-",
    "banks": "은행",
    "bank and digits": "은행 12345678 ",
    "policy": "증권번호 ",
    "at": "@",
    "addresses": "a@b.",
    "local part": "a.",
    "domain": "x@a.a.a",
    "addresses in a chain": "a@b.com-",
    "plus": "+",
    "plus and digits": "+1",
    "brackets": "(",
    "bracketed": "(02)",
    "labels": "[PHONE_1]",
    "almost labels": "[PHONE_",
    "IBAN": "DE89 3704 ",
    "capitals": "AB12",
    "passports": "여권 M1234567",
    "circled": "①",
    "full width": "０１０－",
    "zero width": "1\u200b",
    "zero width alone": "\u200b",
    "licenses": "A12345678 ",
    "stars and separators": "1* -~",
    "Hangul before @": "김@",
    "commas": "1,234,",
    "lines": "1-\n",
}


@pytest.mark.parametrize("piece", KILLERS.values(), ids=KILLERS.keys())
def test_a_text_four_times_as_long_takes_about_four_times_as_long(piece: str) -> None:
    """Quadratic would be 16 times, exponential without end; the least of three runs, since the machine has other work."""
    short, long = (piece * (size // len(piece)) for size in (10_000, 40_000))
    least = [min(_seconds(text) for _ in range(3)) for text in (short, long)]
    assert least[1] < 9 * max(least[0], 0.002), least


def _seconds(text: str) -> float:
    started = time.process_time()
    redacted(text)
    return time.process_time() - started


@settings(max_examples=60)
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
def test_no_repeated_pattern_takes_long(piece: str) -> None:
    """The slowest text that was found, `4111 ` again and again, takes 0.07 s."""
    text = piece * (20_000 // len(piece))
    assert _seconds(text) < 2.0


def test_two_megabytes_a_second_are_gone_through() -> None:
    """On one line in three something is found; docs/benchmarks.md has the figures."""
    prose = "제12조(입원) 실손의료보험의 입원 보험금은 300만원을 한도로 연 12회까지 지급합니다. 계약일은 2024-01-01입니다. "
    text = "\n".join([prose, prose + "문의 010-1234-5678로, 계좌 신한은행 110-123-456789", prose] * 500)
    assert len(text.encode()) / 1e6 / min(_seconds(text) for _ in range(3)) > 2.0


@pytest.mark.parametrize("iban", ["ES91 2100 0418 4502 0005 1332", "BE68539007547034"])
@pytest.mark.parametrize("behind", [" for the refund.", " is mine", " by", "로 환불해 주세요", "."])
def test_a_word_behind_an_iban_is_no_part_of_it(iban: str, behind: str) -> None:
    text = f"The IBAN of the account is {iban}{behind}"
    assert iban in [text[one.start : one.end] for one in find_pii(text)]
