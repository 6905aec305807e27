"""What takes the place of what a person is known by, in one text and in the texts of a case; what is refused instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalvault_pipeline.cases.model import EvalCase, PiiReport
from evalvault_pipeline.cases.redaction import NAMES, Firewall, Policy, redacted, redacted_values

ACase = Callable[..., EvalCase]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("010-1234-5678로 전화하세요", "[PHONE]로 전화하세요"),
        ("02-123-4567 또는 (031) 123-4567", "[PHONE] 또는 [PHONE]"),
        ("kim.lee+x@mail.example.co.kr으로", "[EMAIL]으로"),
        ("https://a.kr/?u=bomi.seo%40example.com&hp=%2B821012345678", "https://a.kr/?u=[EMAIL]&hp=%2B[PHONE]"),
        ("900101-1234567입니다", "[SSN]입니다"),
        ("카드 4111-1111-1111-1111", "카드 [CARD]"),
        ("여권 M12345678, 면허 11-20-123456-78", "여권 [PASSPORT], 면허 [DRIVER_LICENSE]"),
        ("Corp. Reg. No. 180111-0937227", "Corp. Reg. No. [BUSINESS_NUMBER]"),
        ("사업자번호 1234567890, 계좌 110-123-456789", "사업자번호 [BUSINESS_NUMBER], 계좌 [ACCOUNT]"),
        ("half \ud800 and \x00", "half \ufffd and \ufffd"),
    ],
)
def test_what_a_person_is_known_by_is_replaced_by_a_label(text: str, sent: str) -> None:
    assert redacted(text) == sent


def test_every_kind_has_a_name_for_messages() -> None:
    assert all(name.startswith(("a ", "an ")) for name in NAMES.values()) and len(NAMES) == 8


def test_texts_inside_of_values_are_redacted_and_the_rest_stays() -> None:
    values = {"note": "010-1234-5678", "in": [{"mail": "a@b.kr"}, 3, None, True], "share": 0.5}
    assert redacted_values(values) == {"note": "[PHONE]", "in": [{"mail": "[EMAIL]"}, 3, None, True], "share": 0.5}


# --- a case


def test_a_number_has_the_same_label_in_all_texts_of_its_case_however_it_is_written(a_case: ACase) -> None:
    case = a_case(
        question="010-1234-5678 계약을 해지하려면?",
        answer="01012345678이 아니라 02-555-6666으로 전화하세요.",
        contexts=("+82-10-1234-5678 고객", "지점 (02) 555-6666"),
        ground_truth="０１０－１２３４－５６７８",
    )
    masked = Firewall().mask(case)
    assert masked.question == "[PHONE_1] 계약을 해지하려면?"
    assert masked.answer == "[PHONE_1]이 아니라 [PHONE_2]으로 전화하세요."
    assert masked.contexts == ("[PHONE_1] 고객", "지점 [PHONE_2]")
    assert masked.ground_truth == "[PHONE_1]"


@pytest.mark.parametrize(
    ("named", "bare", "masked"),
    [
        ("국민은행 110-234-567890", "110-234-567890 입니다.", "[ACCOUNT_1] 입니다."),
        ("Account number: 4410293847", "It is 4410293847.", "It is [ACCOUNT_1]."),
        ("계좌 110-234-567890", "110 234.567890(본인)", "[ACCOUNT_1](본인)"),
        ("여권번호: M72839104", "M72839104, m72839104", "[PASSPORT_1], [PASSPORT_1]"),
        ("passport 728391045", "728391045?", "[PASSPORT_1]?"),
        ("면허번호 112084172093", "112084172093번", "[DRIVER_LICENSE_1]번"),
        ("driver's license D1234567", "D1234567", "[DRIVER_LICENSE_1]"),
        ("사업자번호 1234567890", "1234567890", "[BUSINESS_NUMBER_1]"),
        ("SSN 078-05-1120", "078051120 and 078-05-1120", "[SSN_1] and [SSN_1]"),
        ("주민번호 1707054686233", "1707054686233", "[SSN_1]"),
        ("call 4155550123", "(415) 555 0123 or 4155550123", "[PHONE_1] or [PHONE_1]"),
        ("phone: 1012345678", "1012345678", "[PHONE_1]"),
        ("+65 6123 4567", "65 6123 4567", "[PHONE_1]"),
        ("IBAN DE89 3704 0044 0532 0130 00", "de89370400440532013000", "[ACCOUNT_1]"),
        ("메일은 kim @ naver.com", "kim @ naver.com, KIM @ Naver.com", "[EMAIL_1], [EMAIL_1]"),
    ],
)
def test_what_one_text_says_to_be_personal_is_masked_in_all_of_them(named: str, bare: str, masked: str, a_case: ACase) -> None:
    assert redacted(bare) != masked.replace("_1]", "]")
    answered, asked = a_case(question=named, answer=bare), a_case(question=bare, answer=named)
    assert Firewall().mask(answered).answer == masked == Firewall().mask(asked).question
    firewall = Firewall("block")
    assert [problem.field for problem in firewall.refuse(answered, path="x.csv", line=1)] == ["question", "answer"]


def test_an_account_of_the_metadata_is_masked_where_no_word_says_what_it_is(a_case: ACase) -> None:
    metadata = {"account_no": "110-234-567890", "memo": "110234567890", "110 234 567890": "x"}
    masked = Firewall().mask(a_case(contexts=("110.234.567890 확인",), metadata=metadata))
    assert masked.contexts == ("[ACCOUNT_1] 확인",)
    assert masked.metadata == {"account_no": "[ACCOUNT_1]", "memo": "[ACCOUNT_1]", "[ACCOUNT_1]": "x"}


def test_a_case_with_many_numbers_is_read_in_linear_time(a_case: ACase) -> None:
    def seconds(count: int) -> float:
        named, bare = (" ".join(f"{word}{4410293847 + 7 * at}" for at in range(count)) for word in ("계좌 ", ""))
        case, started = a_case(question=named, answer=bare), time.process_time()
        assert bare not in Firewall().mask(case).answer
        return time.process_time() - started

    assert min(seconds(4_000) for _ in range(2)) < 9 * max(0.002, *(seconds(1_000) for _ in range(2)))


def test_part_of_a_longer_number_is_another_number(a_case: ACase) -> None:
    masked = Firewall().mask(a_case(question="계좌 4410293847", answer="14410293847, 44102938470, 3841 4410 293"))
    assert masked.answer == "14410293847, 44102938470, 3841 4410 293"


def test_kinds_are_numbered_apart_and_each_case_begins_with_1(a_case: ACase) -> None:
    firewall = Firewall()
    first = firewall.mask(a_case(question="010-1111-2222, a@b.kr, 010-3333-4444"))
    second = firewall.mask(a_case(question="010-3333-4444"))
    assert (first.question, second.question) == ("[PHONE_1], [EMAIL_1], [PHONE_2]", "[PHONE_1]")


def test_another_answer_renames_nothing_that_was_asked(a_case: ACase) -> None:
    """Runs are paired by what was asked, so a release that names more phones must not change it."""
    cases = [a_case(answer=answer, ground_truth="010-1234-5678") for answer in ("없음", "02-999-8888과 a@b.kr입니다.")]
    masked = [Firewall().mask(case) for case in cases]
    assert masked[0].input_digest == masked[1].input_digest
    assert masked[1].answer == "[PHONE_2]과 [EMAIL_1]입니다."


def test_metadata_is_masked_with_its_keys_and_by_what_they_say(a_case: ACase) -> None:
    metadata = {
        "phone": 1012345678,
        "account_no": "1234567890",
        "policy_number": "900101-1234567",
        "created": 1707054686233,
        "hong@example.com": {"again": ["01012345678", 3, None]},
        "answerable": True,
    }
    masked = Firewall().mask(a_case(question="010-1234-5678", metadata=metadata))
    assert masked.metadata == {
        "phone": "[PHONE_1]",
        "account_no": "[ACCOUNT_1]",
        "policy_number": "900101-1234567",
        "created": 1707054686233,
        "[EMAIL_1]": {"again": ["[PHONE_1]", 3, None]},
        "answerable": True,
    }
    assert list(masked.metadata) == ["phone", "account_no", "policy_number", "created", "[EMAIL_1]", "answerable"]


def test_two_spellings_of_one_number_as_keys_both_stay(a_case: ACase) -> None:
    masked = Firewall().mask(a_case(metadata={"010-1234-5678": 1, "01012345678": 2}))
    assert masked.metadata == {"[PHONE_1]": 1, "[PHONE_1] (2)": 2}


def test_a_label_that_stands_there_already_keeps_its_number(a_case: ACase) -> None:
    masked = Firewall().mask(a_case(question="[PHONE_2]와 010-1234-5678", answer="[PHONE_7]"))
    assert (masked.question, masked.answer) == ("[PHONE_2]와 [PHONE_8]", "[PHONE_7]")


def test_a_case_without_personal_data_is_the_same_case(a_case: ACase) -> None:
    case, firewall = a_case(), Firewall()
    assert firewall.mask(case) is case
    assert firewall.report == PiiReport(policy="redact", masked={}, cases=0)


WORDS = st.sampled_from(
    "010-1234-5678|01012345678|02-123-4567|a@b.kr|[PHONE_3]|증권번호 |계좌 110-123-456789|3,000만원| |, |phone|x|110-123-456789|-|"
    "110123456789|1|여권 |M72839104|m72839104|주민 |900101-1234567|9001011234567|사업자번호 |1234567890|메일 |a @ b.kr| @ |naver.com|"
    "account|card 4111|1111 1111 1111|call |1012345678".split("|")
)
TEXTS = st.lists(WORDS, max_size=6).map("".join)


@settings(max_examples=150)
@given(question=TEXTS, answer=TEXTS, context=TEXTS, key=TEXTS, value=TEXTS)
def test_masking_a_masked_case_changes_nothing(question: str, answer: str, context: str, key: str, value: str) -> None:
    case = EvalCase(case_id="c", question=question, answer=answer, contexts=(context,), metadata={key: [value, {"n": 1}]})
    once = Firewall().mask(case)
    firewall = Firewall()
    assert firewall.mask(once) == once
    assert firewall.report.masked == {}


def test_what_was_masked_is_counted_by_label_and_never_named(a_case: ACase) -> None:
    firewall = Firewall()
    firewall.mask(a_case(question="010-1234-5678", answer="01012345678, a@b.kr"))
    firewall.mask(a_case())
    assert firewall.report == PiiReport(policy="redact", masked={"EMAIL": 1, "PHONE": 2}, cases=1)
    assert str(firewall.report) == "1 EMAIL, 2 PHONE in 1 case"


# --- policies


@pytest.mark.parametrize("policy", ["block", "off"])
def test_only_redact_changes_texts(policy: Policy, a_case: ACase) -> None:
    case = a_case(question="010-1234-5678")
    assert Firewall(policy).mask(case) is case


def test_block_names_each_field_with_what_it_holds_and_never_the_value(a_case: ACase) -> None:
    case = a_case(question="010-1234-5678", contexts=("", "a@b.kr, 900101-1234567"), metadata={"phone": 1012345678})
    problems = Firewall("block").refuse(case, path="x.csv", line=7)
    remedy = 'Take it out, or set pii = "redact" for this dataset.'
    assert [str(problem) for problem in problems] == [
        f"x.csv:7: question: holds a phone number. {remedy}",
        f"x.csv:7: contexts: holds an e-mail address and a registration number. {remedy}",
        f"x.csv:7: metadata: holds a phone number. {remedy}",
    ]


@pytest.mark.parametrize("policy", ["redact", "block"])
@pytest.mark.parametrize(
    "case_id",
    [
        "hong@example.com",
        "user-01012345678",
        "010-1234-5678",
        "900101-1234567",
        "9001011234567",
        "8503155123456",
        "0502283146733",
    ],
)
def test_an_id_that_names_a_person_is_refused(case_id: str, policy: Policy, a_case: ACase) -> None:
    (problem,) = Firewall(policy).refuse(a_case(case_id=case_id), path="x.csv", line=7)
    assert problem.field == "id" and problem.found.startswith("holds a") and case_id not in str(problem)


@pytest.mark.parametrize(
    "case_id",
    ["kr-001", "4111111111111111", "1707054686233", "1707054686236", "2401013000001", "2026-11-23/0001", "0212345678"],
)
def test_an_id_that_is_a_counter_or_a_time_is_taken(case_id: str, a_case: ACase) -> None:
    assert Firewall("block").refuse(a_case(case_id=case_id), path="x.csv", line=7) == []


def test_off_lets_everything_through_and_says_so(a_case: ACase) -> None:
    firewall = Firewall("off")
    assert firewall.refuse(a_case(case_id="hong@example.com", question="010-1234-5678"), path="x", line=1) == []
    assert str(firewall.report) == "off: personal data is NOT masked"


def test_two_cases_that_differ_in_a_number_only_are_one_case_to_the_store(a_case: ACase) -> None:
    """What a metric sees of them is the same."""
    cases: list[Any] = [a_case(question=f"{number} 계약은?") for number in ("010-1234-5678", "010-8765-4321")]
    assert replace(cases[0]).digest != cases[1].digest
    assert Firewall().mask(cases[0]).digest == Firewall().mask(cases[1]).digest
