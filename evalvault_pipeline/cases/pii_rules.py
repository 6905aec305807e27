"""Which digits are a phone, a registration number, a card: shapes, birth dates, check digits, and the words beside them.

A shape that could be something else too, such as a policy number or an amount, needs a check digit or a word for it
(`pii_words.py`). How a text is gone over stands in `pii.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from operator import mul

from evalvault_pipeline.cases.pii_words import BAR, Found, Kind, Place

Check = Callable[[Place, "re.Match[str]"], Found | None]
Rule = tuple["re.Pattern[str]", Check]

GAP = r"(?:-\r?\n ?|[-. _/()*\t]{0,3})"  # one generous class of what may stand between the parts of a number
_END = "(?![0-9])"
_LAST = rf"{_END}(?!-[0-9{BAR}])"  # no part of a longer number


def number_at(place: Place) -> Found | None:
    """The number that begins at a place, of digits alone; the first rule that knows it says what it is."""
    if place.start and place.text[place.start - 1] == "+" and place.plus:
        found = _first(place, _WITH_PLUS)
    else:
        found = _first(place, _BY_FIRST_DIGIT[place.text[place.start]])
        if found is None and place.word in _BY_WORD:
            found = _first(place, _BY_WORD[place.word])
    return found and with_opening(found, place)


def _first(place: Place, rules: Sequence[Rule]) -> Found | None:
    text, start = place.text, place.start
    for pattern, check in rules:
        if (match := pattern.match(text, start)) and (found := check(place, match)):
            return found
    return None


def with_opening(found: Found, place: Place) -> Found:
    """With the plus and the bracket that belong to it: `(02) 123-4567`."""
    text, start = place.text, found.start
    if not start or text[start - 1] not in "+(":
        return found
    if place.plus:
        start -= 1
    if start > place.floor and text[start - 1] == "(" and ")" in text[start : found.end]:
        start -= 1
    return found if start == found.start else Found(found.kind, start, found.end, found.key)


_NO_DIGITS = {code: None for code in range(128) if not chr(code).isdigit()}


def _digits(text: str) -> str:
    text = text.replace("-", "")  # often all there is, and a translation takes three times as long
    return text if text.isdigit() else text.translate(_NO_DIGITS)


def _found(kind: Kind, match: re.Match[str], key: str = "") -> Found:
    return Found(kind, match.start(), match.end(), key or _digits(match[0]))


# --- registration numbers of persons and businesses

_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _registration(place: Place, match: re.Match[str]) -> Found | None:
    """Birth date, a digit for century and sex (5 to 8: foreigners), six more; or a company's number of that length.

    Since October 2020 these are drawn: the check digit proves a number where it fits, and says nothing where it does not.
    """
    birth, rest = match[1], match[2]
    if place.word is Kind.BUSINESS_NUMBER and not place.other_number:
        return _found(Kind.BUSINESS_NUMBER, match)
    if rest[0] not in "12345678" or not _is_day(birth):
        return None
    end, named = match.end(), place.word is Kind.SSN
    if not (place.loose or (named and not place.other_number)) and not _is_registration(birth + rest):
        return None
    if named:
        return _found(Kind.SSN, match)
    if not match[0].isdigit():
        amount = place.text[end : end + 1] != " " and place.is_quantity(end)
        return None if amount else _found(Kind.SSN, match)
    if place.is_bank(end) or place.in_a_word(end) or place.is_quantity(end) or not _is_likely(birth + rest):
        return None
    return _found(Kind.SSN, match)


def _is_day(digits: str) -> bool:
    month, day = int(digits[2:4]), int(digits[4:])
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1]


def _is_likely(digits: str) -> bool:
    """Whether somebody was born then who may live; without proof also no time in milliseconds (14... to 19...)."""
    year = int(digits[:2])
    if digits[6] in "3478":
        return year < 50 and (not 14 <= year <= 19 or _is_registration(digits))
    return year >= 30 or _is_registration(digits)


def is_sure_registration(digits: str) -> bool:
    """Whether digits without a word for them are a person's number rather than a counter or a time in milliseconds."""
    year = int(digits[:2])
    return len(digits) == 13 and not 14 <= year <= 19 and (year >= 30 or _is_registration(digits))


def _is_registration(digits: str) -> bool:
    total = _weighted(digits[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5))
    return ((13 if digits[6] in "5678" else 11) - total % 11) % 10 == int(digits[12])


_BUSINESS_BEHIND = re.compile(r"[ (]{0,2}사업자")


def _business(place: Place, match: re.Match[str]) -> Found | None:
    word = place.word is Kind.BUSINESS_NUMBER or _BUSINESS_BEHIND.match(place.text, match.end())
    named = word and not place.other_number
    proven = match[0].count("-") == 2 and place.word is not Kind.ACCOUNT and place.loose and _is_business(_digits(match[0]))
    return _found(Kind.BUSINESS_NUMBER, match) if named or proven else None


def _is_business(digits: str) -> bool:
    total = _weighted(digits[:9], (1, 3, 7, 1, 3, 7, 1, 3, 5)) + int(digits[8]) * 5 // 10
    return (10 - total % 10) % 10 == int(digits[9])


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(map(mul, map(int, digits), weights))


def _social_security(place: Place, match: re.Match[str]) -> Found | None:
    return None if place.other_number else _found(Kind.SSN, match)


# --- phones

_TO_KOREA = re.compile("(?:00(?:[1-9]|7[0-9]{2})?)?82")
_DAY_FIRST = re.compile(r"[0-3][0-9][-. ]{1,2}[01][0-9][-. ]{1,2}(?:19|20)[0-9]{2}")


def _phone_key(digits: str) -> str:
    """The national number, whatever stood before it."""
    if abroad := _TO_KOREA.match(digits):
        return "0" + digits[abroad.end() :].removeprefix("0")
    return digits[1:] if len(digits) == 11 and digits.startswith("1") else digits


def _phone(match: re.Match[str]) -> Found:
    return _found(Kind.PHONE, match, _phone_key(_digits(match[0])))


def spellings(found: Iterable[Found]) -> dict[str, tuple[Kind, str]]:
    """By kind and key, what else the same is written as: a phone with and without its prefixes. No signs between digits."""
    spelt: dict[str, tuple[Kind, str]] = {}
    for kind, _, _, key in found:
        others = [key.removeprefix("+")]
        if kind is Kind.PHONE and key.startswith("0"):
            others += [f"82{key}", f"82{key[1:]}", *([key[1:]] if key.startswith("01") else [])]
        for spelling in others:
            spelt.setdefault(spelling, (kind, key))
    return spelt


def _korean_abroad(place: Place, match: re.Match[str]) -> Found | None:
    """+82, 0082, or 82 before a mobile number or a number with hyphens."""
    if place.plus or match[0].startswith("00"):
        return _phone(match)
    fits = "-" in match[0] or match[1].startswith("1")
    hidden = match[0].isdigit() and (place.in_a_word(match.end()) or place.is_quantity(match.end()))
    return _phone(match) if fits and place.loose and not hidden else None


def _mobile(place: Place, match: re.Match[str]) -> Found | None:
    """010 to 019. In parts it is a phone unless it hangs on the number of something else; as one run it can be a number too."""
    if not match[0].isdigit():
        return None if place.glued and place.other_number else _phone(match)
    other = place.other_number and not place.member_number
    hidden = any(sign.isdigit() for sign in place.glued) or place.in_a_word(match.end())
    return None if other or hidden or place.fraction else _phone(match)


def _landline(place: Place, match: re.Match[str]) -> Found | None:
    if not place.loose or place.registration_number:
        return None
    if match[0].isdigit():
        if place.in_a_word(match.end()) or place.word is Kind.ACCOUNT:
            return None
        if match[2][0] in "01" or (len(match[0]) == 9 and place.word is not Kind.PHONE):
            return None
    return _phone(match)


def _american(place: Place, match: re.Match[str]) -> Found | None:
    """Three, three, four. With spaces alone, as one run, or in an area that begins with 1, it takes a word for it."""
    if not place.plus and (not place.loose or place.registration_number or place.word is Kind.ACCOUNT):
        return None
    if not place.plus and place.is_quantity(match.end()):
        return None
    if match[1] == "1" and match[0].isdigit():  # a Korean mobile number whose 0 is lost, if it is any
        return None
    marked = place.plus or (match[1] != "1" and "/" not in match[0] and any(sign in match[0] for sign in "-.)"))
    return _phone(match) if marked or place.word is Kind.PHONE else None


def _named_phone(place: Place, match: re.Match[str]) -> Found | None:
    """Another number with a trunk prefix, such as a British one, or a mobile number whose 0 a spreadsheet ate."""
    if not place.loose or place.in_a_time or place.is_quantity(match.end()) or _DAY_FIRST.match(match[0]):
        return None
    digits = _digits(match[0])
    return _found(Kind.PHONE, match, digits if digits.startswith("0") else f"0{digits}")


def _foreign(place: Place, match: re.Match[str]) -> Found | None:
    return None if place.is_quantity(match.end()) else _found(Kind.PHONE, match, f"+{_digits(match[0])}")


# --- papers

_REGIONS = dict(
    zip(
        "서울 부산 경기 강원 충북 충남 전북 전남 경북 경남 제주 대구 인천 광주 대전 울산".split(),
        map(str, range(11, 27)),
        strict=True,
    )
)
_REGION = re.compile(rf"({'|'.join(_REGIONS)})[ -]?\Z")


def _license(place: Place, match: re.Match[str]) -> Found | None:
    named = place.word is Kind.DRIVER_LICENSE and not place.other_number
    shaped = not match[0].isdigit() and place.loose and place.word is not Kind.ACCOUNT
    return _found(Kind.DRIVER_LICENSE, match) if named or shaped else None


def _regional_license(place: Place, match: re.Match[str]) -> Found | None:
    """Before 2000s' numbering: a region in words, 서울 12-345678-90."""
    region = _REGION.search(place.text, max(place.floor, place.start - 3), place.start)
    if not region:
        return None
    return Found(Kind.DRIVER_LICENSE, region.start(), match.end(), _REGIONS[region[1]] + _digits(match[0]))


def _passport_of_digits(place: Place, match: re.Match[str]) -> Found | None:
    return _found(Kind.PASSPORT, match) if place.loose else None


_PAPER_BEHIND = re.compile(
    rf"[^{BAR}]*?(?:(?P<{Kind.PASSPORT}>여권|passport)|(?P<{Kind.DRIVER_LICENSE}>면허|licen))", re.IGNORECASE
)


def paper_key(match: re.Match[str]) -> str:
    return match[0].replace(" ", "").replace("-", "").upper()


def paper_at(place: Place, match: re.Match[str]) -> Found | None:
    """An IBAN by its check digits, a Korean passport by the form of 2021; any other number with letters by a word for it."""
    text = paper_key(match)
    if len(text) > 11:
        as_number = int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) if match[0].isupper() else 0
        return _found(Kind.ACCOUNT, match, text) if as_number % 97 == 1 else None
    if place.other_number:
        return None
    if text[4].isalpha() and text[0] in "DGMORS" and match[0].isupper():
        return _found(Kind.PASSPORT, match, text)
    behind = _PAPER_BEHIND.match(place.text, match.end(), match.end() + 12)
    for kind in (Kind.PASSPORT, Kind.DRIVER_LICENSE):
        if place.word is kind or (behind and behind[kind]):
            return _found(kind, match, text)
    return None


# --- cards and accounts

# By length: 9 opens cards for use in Korea alone. An IMEI has 15 digits and a check digit too, and opens with 35 or 86.
_ISSUERS = {14: re.compile("3[0689]"), 15: re.compile("3[47]"), 16: re.compile("[4569]|35|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)")}
_MOMENT = re.compile(
    "(?:19[5-9]|20[0-4])[0-9](?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])|[-. /]{1,2}[01]?[0-9][-. /]{1,2}[0-3]?[0-9])(?!-)"
)

_YEAR_FIRST = re.compile("(?:19[5-9]|20[0-4])[0-9]-")
_YEARS = re.compile("(?:(?:19[5-9]|20[0-4])[0-9][-. ]{0,3})+")


def _card(place: Place, match: re.Match[str]) -> Found | None:
    digits = _digits(match[0])
    if (
        not _ISSUERS[len(digits)].match(digits)
        or not _luhn(digits)
        or place.other_number
        or not (place.loose or place.word is Kind.CARD)
    ):
        return None
    if match[0].isdigit():
        short = len(digits) == 14 and place.word is not Kind.CARD
        return None if short or place.in_a_word(match.end()) or place.is_quantity(match.end()) else _found(Kind.CARD, match)
    return None if _is_round(match[0]) else _found(Kind.CARD, match)


def _is_round(numbers: str) -> bool:
    return all(number.endswith("00") for number in re.findall("[0-9]+", numbers))


_DOUBLED = dict(zip("0123456789", (0, 2, 4, 6, 8, 1, 3, 5, 7, 9), strict=True))  # with its two digits added up


def _luhn(digits: str) -> bool:
    return (sum(map(int, digits[::-2])) + sum(map(_DOUBLED.__getitem__, digits[-2::-2]))) % 10 == 0


def _account(place: Place, match: re.Match[str]) -> Found | None:
    """10 to 16 digits, or 9 in one run, beside a word for an account or a bank; no time, no amount, no list of years."""
    text, end = match[0], match.end()
    if not (place.is_bank(end) and place.loose) or place.is_quantity(end):
        return None
    if not (9 if text.isdigit() else 10) <= len(_digits(text)) <= 16 or _MOMENT.match(text):
        return None
    if _YEARS.fullmatch(text) or (" " in text and _is_round(text)) or (_YEAR_FIRST.match(text) and place.is_bank_alone(end)):
        return None
    return _found(Kind.ACCOUNT, match)


# --- by the digit that a number begins with


def _rule(pattern: str, check: Check) -> Rule:
    return re.compile(pattern), check


_AREA = "2|3[1-3]|4[1-4]|5[1-5]|6[0-4]|70|80|50[2-8]?|303"
_ABROAD = _rule(
    rf"(?:00(?:[1-9]|7[0-9]{{2}})?{GAP})?82{GAP}0?{GAP}((?:1[016789]|{_AREA}){GAP}[0-9]{{3,4}}{GAP}[0-9]{{4}}){_END}",
    _korean_abroad,
)
_AMERICAN = _rule(rf"(?:1[-. ]{{0,2}}\(?)?([1-9])[0-9]{{2}}\)?[-. /]{{0,2}}[0-9]{{3}}[-. ]{{0,2}}[0-9]{{4}}{_LAST}", _american)
_FOREIGN = _rule(rf"(?<=\+)[1-9](?:[-. ()]{{0,3}}[0-9]){{7,14}}{_END}", _foreign)
_REGISTRATION = _rule(rf"([0-9]{{6}}){GAP}([0-9]{{7}}){_LAST}", _registration)
_ACCOUNT = _rule(
    rf"(?:[0-9]{{1,8}}(?: ?[-.] ?[0-9]{{1,8}}){{1,4}}|[0-9]{{2,8}}(?: [0-9]{{2,8}}){{1,4}}|[0-9]{{9,16}}){_LAST}", _account
)
_CARDS = [
    _rule(rf"[2-69][0-9]{{3}}(?:{GAP}[0-9]{{4}}){{3}}{_LAST}", _card),
    _rule(rf"3[0-9]{{3}}{GAP}[0-9]{{6}}{GAP}[0-9]{{4,5}}{_LAST}", _card),
]
_LICENSE = _rule(rf"(?:1[1-9]|2[0-8]){GAP}[0-9]{{2}}{GAP}[0-9]{{6}}{GAP}[0-9]{{2}}{_LAST}", _license)
_LICENSE_OF_REGION = _rule(rf"[0-9]{{2}}{GAP}[0-9]{{6}}{GAP}[0-9]{{2}}{_LAST}", _regional_license)
_BUSINESS = _rule(rf"[0-9]{{3}}{GAP}[0-9]{{2}}{GAP}[0-9]{{5}}{_LAST}", _business)
_OTHER_DIGITS = [_REGISTRATION, *_CARDS, _LICENSE, _LICENSE_OF_REGION, _BUSINESS, _AMERICAN, _ACCOUNT]
_BY_FIRST_DIGIT = {
    "0": [
        _rule(rf"01[016789]{GAP}(?:[0-9]{{3,4}}{GAP}[0-9]{{4}}|[0-9]{{2}}(?:[-. ][0-9]{{2}}){{3}}){_END}", _mobile),
        _ABROAD,
        _REGISTRATION,
        _rule(rf"0({_AREA}){GAP}([0-9]{{3,4}}{GAP}[0-9]{{4}}){_LAST}", _landline),
        _LICENSE_OF_REGION,
        _ACCOUNT,
    ],
    **dict.fromkeys("12345679", _OTHER_DIGITS),
    "8": [_REGISTRATION, _ABROAD, *_OTHER_DIGITS[1:]],
}
_BY_WORD: dict[Kind | None, list[Rule]] = {
    Kind.PHONE: [
        _rule(rf"0[1-9](?:[-. ()]{{0,2}}[0-9]){{7,9}}{_LAST}", _named_phone),
        _rule(rf"1[016789]{GAP}[0-9]{{3,4}}{GAP}[0-9]{{4}}{_LAST}", _named_phone),
    ],
    Kind.SSN: [
        _rule(rf"[0-9]{{3}}[- ]?[0-9]{{2}}[- ]?[0-9]{{4}}{_LAST}", _social_security),
        _rule(rf"([0-9]{{6}}) ?~ ?([0-9]{{7}}){_LAST}", _registration),
    ],
    Kind.PASSPORT: [_rule(rf"[0-9]{{9}}{_LAST}", _passport_of_digits)],
}
_WITH_PLUS = [_ABROAD, _AMERICAN, _FOREIGN]
_ALL_RULES = dict.fromkeys(
    pattern.pattern for rules in (_WITH_PLUS, *_BY_FIRST_DIGIT.values(), *_BY_WORD.values()) for pattern, _ in rules
)
_SHAPES, _SHAPES_AND_ACCOUNTS = (
    re.compile(rf"(?=[0-9])(?<![0-9])(?:{'|'.join(pattern for pattern in _ALL_RULES if pattern not in left_out)})")
    for left_out in ({_ACCOUNT[0].pattern}, ())
)


def shape_after(text: str, start: int, end: int, *, accounts: bool = False) -> int | None:
    """Where the next number begins whose shape a rule knows; None where none does."""
    match = (_SHAPES_AND_ACCOUNTS if accounts else _SHAPES).search(text, start, end)
    return match.start() if match else None
