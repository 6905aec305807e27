"""A number's surroundings: the words before and behind it that say what it is.

Rules that ask for them stand in `pii_rules.py`. The text is a folded one (`pii.py`): dashes are `-`, spaces ` `, digits ASCII.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal, NamedTuple

# In place of what was found already, and of labels: nothing is read across it.
BAR = "\x00"


class Kind(StrEnum):
    """What a person is known by, as labels call it."""

    PHONE = "PHONE"
    EMAIL = "EMAIL"
    SSN = "SSN"
    BUSINESS_NUMBER = "BUSINESS_NUMBER"
    PASSPORT = "PASSPORT"
    DRIVER_LICENSE = "DRIVER_LICENSE"
    CARD = "CARD"
    ACCOUNT = "ACCOUNT"


class Found(NamedTuple):
    """A place in a text. `key` is the same for the same number in another spelling."""

    kind: Kind
    start: int
    end: int
    key: str

    def moved(self, by: int) -> Found:
        return Found(self.kind, self.start + by, self.end + by, self.key)


NEAR = 30  # characters before a number in which a word for it is looked for
# Words for a kind; a space may stand at `_`. Latin ones stand alone: `tel` is not in `hotel`.
_WORDS_OF = {
    Kind.PHONE: "전화 연락 휴대폰 핸드폰 폰_번호 팩스 문자 카톡 tel telephone phone cellphone mobile cell call ring fax "
    "contact reach dial text whatsapp hp h.p",
    Kind.SSN: "주민 외국인_등록 rrn ssn arc resident_registration resident_no resident_number resident_id social_security "
    "alien_registration foreigner_registration",
    Kind.BUSINESS_NUMBER: "사업자 법인_등록 법인_번호 brn business_registration business_number business_no business_id "
    "corporate_registration company_registration biz_reg biz._reg corp_reg corp._reg tax_id tax_no",
    Kind.PASSPORT: "여권 passport",
    Kind.DRIVER_LICENSE: "면허 license licence",
    Kind.CARD: "카드 card visa mastercard amex",
    Kind.ACCOUNT: "계좌 통장 입금 송금 이체 예금 은행 뱅크 농협 수협 신협 새마을금고 우체국 account acct bank deposit wire a/c",
}
# Behind these a word is the end of another one: 가입금액 is an amount, 차입금 a debt, 주문자 a customer.
_NOT_BEHIND = {"입금": "가납수차매불유전편산투", "문자": "주", "전화": "안"}
_BANK_NAMES = "은행 뱅크 금고 새마을금고 농협 수협 신협 우체국".split()
_INSURERS = "생명 손해 손보 화재 보험 공제 연합회".split()  # behind a bank's name: 농협생명 is none
_NO_INSURER = f"(?! ?(?:{'|'.join(_INSURERS)}))"
_KIND_OF = {word.replace("_", "")[::-1]: kind for kind, words in _WORDS_OF.items() for word in words.split()}


# What stands before a number is read backwards: the nearest word comes first, and what is right before it is anchored.
def _branch(word: str) -> str:
    """A pattern that begins with a letter: it is skipped where none of the first letters stands."""
    first, rest = word[-1], re.escape(word[-2::-1]).replace("_", " ?")
    if word.isascii():
        return rf"{first}(?<![a-z]{first}){rest}(?![a-z])"
    if word not in _BANK_NAMES:
        return first + rest + (f"(?![{signs}])" if (signs := _NOT_BEHIND.get(word)) else "")
    return first + "".join(f"(?<!{insurer[::-1]}{gap}{first})" for insurer in _INSURERS for gap in ("", " ")) + rest


_WORDS = re.compile("|".join(_branch(word) for words in _WORDS_OF.values() for word in words.split()))
# Right before a number: that it is another one, which names no person.
_OTHERS = (
    "증권 계약 청약 약관 접수 사고 사건 판례 민원 송장 등기 주문 문서 상품 모델 일련 제품 시리얼 관리 승인 거래 참조 차대 "
    "대리점 지점 설계사 지급 결재 의안 단체 품목 질병 수납 영수증 전표 심사 담보 특약 상담 티켓 예약 인가 허가 심의 심의필 "
    "특허 출원 고유 과제 발급 조회 처리 확인 인증 신청 대출 수표 증서 추적 고지 납부 "
    "policy contract claim order invoice tracking ticket reference case "
    "serial model part item product document receipt transaction approval application shipment quote proposal booking "
    "confirmation group certificate file plan loan enrollment"
).split()
_MEMBERS = "고객 회원 직원 사원 가입 member subscriber customer".split()
_NUMBERS = "번호 코드 넘버 no no. number num id code #".split()
_NAMES = (
    "imei isbn isbn-10 isbn-13 issn doi sku lot ref ref. 로트 사번 바코드 barcode 타임스탬프 timestamp epoch 버전 version "
    "build uuid 증번 청약서 계약서 심의필 확인필 loan"
).split()
_PARTICLES = "은 는 이 가 의 을 를 인 is was".split()


def _one_of(words: list[str]) -> str:
    return "|".join(re.escape(word[::-1]) for word in words)


# 한빛증권 is a company.
_OTHER_NUMBER = re.compile(
    rf"[ :=#(\"'\[]{{0,3}}(?:(?:{_one_of(_PARTICLES)}) ?)?(?:(?:{_one_of(_NUMBERS)}) ?"
    rf"(?:{_one_of(_OTHERS)}|(?P<registered>록등)|(?P<member>{_one_of(_MEMBERS)}))"
    rf"|(?:제|권증(?: ?험보)?)(?![가-힣])|{_one_of(_NAMES)})"
)
_BANKS = "신한|국민|하나|우리|기업|카카오|카뱅|토스|케이|씨티|KB|NH|IBK|SC제일|SC"  # as they are called for short
_BANK_BEFORE = re.compile(rf"[ :]{{0,2}}(?:{_one_of(_BANKS.split('|'))})(?![가-힣A-Za-z])")
_ACCOUNT_BEHIND = re.compile("[ (,]{0,3}(?:계좌|통장|예금주|(?:으?로|에) ?(?:입금|송금|이체|환급))")
# Without brackets those that are no word of their own and no unit, and no card or insurer of that name.
_BANK_BEHIND = re.compile(
    rf"{_ACCOUNT_BEHIND.pattern}|[ (,]{{0,3}}[가-힣A-Za-z]{{0,6}}(?:{'|'.join(_BANK_NAMES)}){_NO_INSURER}"
    rf"| ?\((?:{_BANKS})[ ,)]| (?:신한|카뱅|씨티|NH|IBK|SC제일)(?![가-힣A-Za-z])(?! ?(?:카드|라이프|금융|증권)){_NO_INSURER}"
)
_ACCOUNT_BEFORE = re.compile(_one_of("계좌 통장 입금 송금 이체 예금 환급 account acct a/c deposit wire".split()), re.IGNORECASE)
# 원래, 명의, 건강 and 점포 are no units.
_AMOUNT_BEHIND = re.compile(
    " ?(?:[만천]? ?원(?![래본하장])|억|달러|유로|%|퍼센트|KRW|USD|won(?![a-z])|dollars)"
    "|건(?!강)|명(?!의)|점(?![포장주])|ms(?![a-z])"
)
_AMOUNTS = "액 한도 원금 이자 수수료 보험료 보험금 환급금 합계 누계 fee fees amount balance limit total".split()
_AMOUNT_BEFORE = re.compile(rf"[ :=]{{0,3}}(?:(?:{_one_of(_PARTICLES)}) ?)?(?:{_one_of(_AMOUNTS)})", re.IGNORECASE)
_MONEY_BEFORE = re.compile(f" ?(?:[₩$€£¥]|{_one_of('KRW USD EUR'.split())})")
_THOUSANDS = re.compile("[0-9]{3}(?![0-9]|-[0-9]+-)")
_PHONE_LETTERS = re.compile(r"(?:tel|t|fax|f|hp|h\.p|p|ph|phone|m|mobile|c|cell)[-.]?|2b", re.IGNORECASE)  # %2B
_TOKEN = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-")
_LETTERS = _TOKEN - frozenset("0123456789-")


class Place:
    """A digit that no digit stands before. Nothing before `floor` is seen: there the last number ended.

    `opening` is where its stretch of digits and separators begins, in which there are no words.
    """

    __slots__ = ("_bank", "_glued", "_kept", "_opening", "_other", "_word", "floor", "start", "text")

    def __init__(self, text: str, start: int, *, floor: int = 0, opening: int | None = None) -> None:
        self.text, self.start, self.floor = text, start, floor
        self._opening = start if opening is None else opening
        # Looked up when first asked for, and kept (functools.cached_property takes a lock before Python 3.12).
        self._word: Kind | Literal["unread"] | None = "unread"
        self._other: re.Match[str] | Literal["unread"] | None = "unread"
        self._glued: str | None = None
        self._kept: str | None = None
        self._bank = (-1, False)  # up to which end

    @property
    def word(self) -> Kind | None:
        """What the nearest word before it says that it is."""
        if self._word == "unread":
            found = _WORDS.search(self._near.lower())
            self._word = _KIND_OF[found[0].replace(" ", "")] if found else None
        return self._word

    @property
    def glued(self) -> str:
        """Letters, digits and hyphens right before it: `POL-` of `POL-212-555-0123`."""
        if self._glued is None:
            at = self.start
            while at > max(self.floor, self.start - NEAR) and self.text[at - 1] in _TOKEN:
                at -= 1
            self._glued = self.text[at : self.start]
        return self._glued

    @property
    def other_number(self) -> bool:
        """Whether the words right before it say that it is a policy's, an order's, a product's number."""
        other = self._named_otherwise
        return other is not None and other["registered"] is None

    @property
    def registration_number(self) -> bool:
        """Whether they say that it is somebody's or something's registration number: no phone."""
        other = self._named_otherwise
        return other is not None and other["registered"] is not None

    @property
    def member_number(self) -> bool:
        """Whether they say that it is a customer's number, for which a phone may be taken."""
        other = self._named_otherwise
        return other is not None and other["member"] is not None

    @property
    def loose(self) -> bool:
        """Whether a number may begin here without a word for it: nothing hangs on it, no other number is named."""
        if self.glued and (glued := self.glued.strip("-")) and not _PHONE_LETTERS.fullmatch(glued):
            return False
        return not (self.fraction or self.other_number)

    @property
    def fraction(self) -> bool:
        """Whether it stands behind the point or comma of a number: the 02 of 1.02, the 234 of 1,234; no column of a table."""
        at = self.start - 2
        if at < self.floor or self.text[at + 1] not in ".," or not self.text[at].isdigit():
            return False
        return self.text[at + 1] == "." or _THOUSANDS.match(self.text, self.start) is not None

    @property
    def in_a_time(self) -> bool:
        """Whether it stands behind the colon of a time: the 05 of 9:05."""
        return self.start - 2 >= self.floor and self.text[self.start - 1] == ":" and self.text[self.start - 2].isdigit()

    @property
    def plus(self) -> bool:
        """Whether a plus of its own stands before it: not that of `a+82`."""
        at = self.start - 1
        return at >= self.floor and self.text[at] == "+" and (at == self.floor or self.text[at - 1] not in _TOKEN)

    def is_bank(self, end: int) -> bool:
        """Whether a word for an account stands before it, a bank's short name right before it, or either right behind `end`."""
        if self._bank[0] != end:
            found = self.word is Kind.ACCOUNT or _BANK_BEHIND.match(self.text, end) or _BANK_BEFORE.match(self._near)
            self._bank = (end, bool(found))
        return self._bank[1]

    def is_bank_alone(self, end: int) -> bool:
        """Whether a bank is named, if at all, and no account: what begins with a year is a document's number then."""
        return not (_ACCOUNT_BEHIND.match(self.text, end) or _ACCOUNT_BEFORE.search(self._near))

    def is_quantity(self, end: int) -> bool:
        """Whether the digits up to `end` are money or a count."""
        if _AMOUNT_BEHIND.match(self.text, end):
            return True
        before = self._near
        return bool(_MONEY_BEFORE.match(before) or ("-" not in self.text[self.start : end] and _AMOUNT_BEFORE.match(before)))

    def in_a_word(self, end: int) -> bool:
        """Whether letters hang on the digits up to `end`, as in a hash; `tel` and the like are none."""
        before = self.glued and self.glued[-1] in _LETTERS and not _PHONE_LETTERS.fullmatch(self.glued)
        return bool(before) or self.text[end : end + 1] in _LETTERS

    @property
    def _named_otherwise(self) -> re.Match[str] | None:
        if self._other == "unread":
            before = self._backwards(self.start - len(self.glued)) if self.glued else self._near
            self._other = _OTHER_NUMBER.match(before.lower())
        return self._other

    @property
    def _near(self) -> str:
        if self._kept is None:
            self._kept = self._backwards(self.start)
        return self._kept

    def _backwards(self, end: int) -> str:
        """What stands before `end`, as far as words are looked for, the last character first."""
        if end - self._opening >= NEAR:
            return ""
        start = end - NEAR
        return self.text[start if start > self.floor else self.floor : end].rpartition(BAR)[2][::-1]
