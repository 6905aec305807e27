"""Numbers, amounts, periods and dates in Korean and English text, brought to one form so that they can be compared.

`1억 5천만원` = `150,000,000원`, `2년` = `24개월`, `2026년 3월 1일` = `2026-03-01`, `10퍼센트` = `10%`, `thirty days` = `30 days`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit; `unit` is "" where none is recognised. `text` is how it stood there."""

    value: Fraction
    unit: str
    text: str

    def matches(self, other: Quantity) -> bool:
        return self.value == other.value and (self.unit == other.unit or not self.unit or not other.unit)


@dataclass(frozen=True, slots=True)
class CalendarDate:
    """A date of which some parts may be unsaid. `text` is how it stood there."""

    year: int | None
    month: int | None
    day: int | None
    text: str

    def matches(self, other: CalendarDate) -> bool:
        """Every part that this date names is the other's too."""
        mine, theirs = (self.year, self.month, self.day), (other.year, other.month, other.day)
        return all(part is None or part == their for part, their in zip(mine, theirs, strict=True))


_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = r"(?P<{}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<y>(?:19|20)\d{2})\s*년\s*(?P<m>\d{1,2})\s*월(?:\s*(?P<d>\d{1,2})\s*일)?",
        r"(?<![\d.-])(?P<y>(?:19|20)\d{2})(?P<s>[-./])\s?(?P<m>\d{1,2})(?P=s)\s?(?P<d>\d{1,2})(?!\d)",
        r"(?<!\d)(?P<m>\d{1,2})\s*월\s*(?P<d>\d{1,2})\s*일",
        r"(?<!\d)(?P<y>(?:19|20)\d{2})\s*년(?!\s*(?:간|납|만기|형|동안|이상|이하|이내))",
        r"(?<!\d)(?P<m>1[0-2]|[1-9])\s*월(?![가-힣]*\s*\d)(?!납)",
        rf"\b{_MONTH.format('n')}\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<y>(?:19|20)\d{{2}}))?\b",
        rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH.format('n')}(?:,?\s+(?P<y>(?:19|20)\d{{2}}))?\b",
    )
]
# What stands in place of a masked number (cases/redaction.py): the same label is the same number, and it is no amount.
_LABEL = re.compile(r"\[(?P<kind>[A-Z]+(?:_[A-Z]+)*)_(?P<number>\d{1,9})\]")
_CODE = re.compile(r"(?<![\d-])\d{2,4}-\d{3,4}(?:-\d{4})?(?![\d-])")
_FRACTION = re.compile(r"(\d+)\s*분의\s*(\d+)|(?<![\d/])(\d{1,2})/(\d{1,2})(?![\d/])")

_BIG = {"만": 10**4, "억": 10**8, "조": 10**12}
_SMALL = {"십": 10, "백": 100, "천": 1_000}
_SINO = {char: value for value, char in enumerate("영일이삼사오육칠팔구")}
_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_KOREAN_NUMBER = re.compile(
    rf"(?P<cur>[$€₩])?\s?(?<![\d.,])(?:{_PLAIN})(?:\s?(?:[십백천만억]|조(?=\s?[\d원억]))|(?<=[십백천만억조])\s?(?:{_PLAIN}))*"
    r"(?P<scale>\s?(?:hundred|thousand|million|billion|[kKM](?![a-zA-Z가-힣])))?"
)
_HANGUL_NUMBER = re.compile(
    r"(?<![가-힣0-9])(?=[일이삼사오육칠팔구]*[십백천만억])[일이삼사오육칠팔구십백천만억]+(?=\s?(?:원|퍼센트|개월|달러|년간|회|명|세(?![가-힣])))"
)
_NATIVE = {word: value for value, word in enumerate("한 두 세 네 다섯 여섯 일곱 여덟 아홉 열".split(), start=1)}
_NATIVE_NUMBER = re.compile(
    rf"(?<![가-힣])(?P<word>{'|'.join(_NATIVE)})\s?(?P<unit>달|번|차례|가지|명|해|시간|살)(?![가-힣]*째)"
)
_NATIVE_DAYS = re.compile(r"(?<![가-힣])(하루|이틀|사흘|나흘|열흘|보름)")
_DAYS = {"하루": 1, "이틀": 2, "사흘": 3, "나흘": 4, "열흘": 10, "보름": 15}
_ENGLISH = {
    word: value
    for value, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
        "nineteen".split(),
        start=1,
    )
} | {word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
_ENGLISH_NUMBER = re.compile(
    rf"\b(?P<a>{'|'.join(_ENGLISH)})(?:[-\s](?P<b>one|two|three|four|five|six|seven|eight|nine))?[-\s]"
    r"(?=(?:business |calendar |consecutive )?(?:day|week|month|year|hour|minute|time|percent|dollar|people|person)s?\b)",
    re.IGNORECASE | re.ASCII,  # without ASCII `fıve` (Turkish dotless i) is `five`, which its lower case is not
)
# Python's int() refuses 4,300 digits and more; so long a run is no amount.
_ENDLESS = re.compile(r"[\d,]{1000,}")
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "k": 1_000, "m": 10**6}

# What stands behind a number -> (unit, factor). The first that fits wins.
_UNITS: list[tuple[re.Pattern[str], str, Fraction]] = [
    (re.compile(rf"\s?(?:{pattern})", re.IGNORECASE), unit, Fraction(factor))
    for pattern, unit, factor in (
        (r"%p|퍼센트\s?포인트|percentage points?", "%p", 1),
        (r"%|퍼센트|프로(?![가-힣]*그램)|percent\b", "%", 1),
        (r"원|won\b|krw\b", "krw", 1),
        (r"달러|dollars?\b|usd\b", "usd", 1),
        (r"유로|euros?\b|eur\b", "eur", 1),
        (r"세(?![가-힣]*대)|살|years? old\b|years? of age\b", "age", 1),
        (r"년|[-]?years?\b|yrs?\b", "month", 12),
        (r"개월|달(?!러)|[-]?months?\b", "month", 1),
        (r"주(?:일|간)?(?![가-힣]*[행차택])|[-]?weeks?\b", "day", 7),
        (r"(?:영업)?일(?!반)|[-]?(?:business |calendar |consecutive )?days?\b", "day", 1),
        (r"시간|[-]?hours?\b", "minute", 60),
        (r"분(?!의|기|납|할)|[-]?minutes?\b", "minute", 1),
        (r"회|번(?!째)|차례|times?\b", "times", 1),
        (r"명|인(?!치)|people\b|persons?\b", "person", 1),
        (r"배", "fold", 1),
        (r"km\b|킬로미터|km(?=[가-힣])", "km", 1),
        (r"조(?=[\s의에제,.)]|$)", "article", 1),
        (r"항", "paragraph", 1),
        (r"급", "grade", 1),
        (r"건|개(?!월)|가지|종", "item", 1),
    )
]
_CURRENCY = {"$": "usd", "€": "eur", "₩": "krw"}


def dates(text: str) -> list[CalendarDate]:
    """Dates in order of appearance."""
    return _split(text)[0]


def quantities(text: str) -> list[Quantity]:
    """Numbers that are no part of a date, in order of appearance of their kinds."""
    rest = _split(text)[1]
    found: list[Quantity] = []

    def take(match: re.Match[str], value: Fraction, unit: str, end: int) -> str:
        found.append(Quantity(value, unit, rest[match.start() : end].strip()))
        return " " * (end - match.start())

    for pattern, parse in _PARSERS:
        position, pieces = 0, []
        for match in pattern.finditer(rest):
            if match.start() < position:
                continue
            parsed = parse(match)
            if parsed is None:
                continue
            value, unit = parsed
            end = match.end()
            if not unit:
                unit, factor, end = _unit_at(rest, end)
                value *= factor
            pieces.append(rest[position : match.start()])
            pieces.append(take(match, value, unit, end))
            position = end
        rest = "".join(pieces) + rest[position:]
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """All numbers and dates of a text."""

    dates: tuple[CalendarDate, ...]
    quantities: tuple[Quantity, ...]

    def hold(self, item: CalendarDate | Quantity) -> bool:
        if isinstance(item, CalendarDate):
            return any(item.matches(other) for other in self.dates)
        return any(item.matches(other) for other in self.quantities)


@lru_cache(maxsize=8192)
def figures(text: str) -> Figures:
    """Kept, because contexts recur from case to case."""
    return Figures(tuple(dates(text)), tuple(quantities(text)))


def missing_from(text: str, sources: Iterable[str]) -> list[str]:
    """The numbers and dates of `text` that stand in none of `sources`, as they are written: dates first."""
    claimed = figures(text)
    items: list[CalendarDate | Quantity] = [*claimed.dates, *claimed.quantities]
    if not items:
        return []
    known = [figures(source) for source in sources]
    return [item.text for item in items if not any(source.hold(item) for source in known)]


def _split(text: str) -> tuple[list[CalendarDate], str]:
    rest = _ENDLESS.sub(" ", unicodedata.normalize("NFKC", text))
    found: list[tuple[int, CalendarDate]] = []
    for pattern in _DATES:
        for match in pattern.finditer(rest):
            parts = match.groupdict()
            named = parts.get("n")
            month = _MONTHS.index(named.lower()) + 1 if named else _int(parts.get("m"))
            day = _int(parts.get("d"))
            if (month is None or 1 <= month <= 12) and (day is None or 1 <= day <= 31):
                found.append((match.start(), CalendarDate(_int(parts.get("y")), month, day, match[0].strip())))
                rest = rest[: match.start()] + " " * len(match[0]) + rest[match.end() :]
    return [item for _, item in sorted(found, key=lambda pair: pair[0])], rest


def _int(text: str | None) -> int | None:
    return int(text) if text else None


def _unit_at(text: str, position: int) -> tuple[str, Fraction, int]:
    for pattern, unit, factor in _UNITS:
        match = pattern.match(text, position)
        if match:
            return unit, factor, match.end()
    return "", Fraction(1), position


def _label(match: re.Match[str]) -> tuple[Fraction, str]:
    return Fraction(-int(match["number"])), match["kind"]


def _code(match: re.Match[str]) -> tuple[Fraction, str]:
    return Fraction(int(match[0].replace("-", ""))), "code"


def _fraction(match: re.Match[str]) -> tuple[Fraction, str] | None:
    below, above = (match[1], match[2]) if match[1] else (match[4], match[3])
    return (Fraction(int(above), int(below)), "ratio") if int(below) else None


def _mixed(match: re.Match[str]) -> tuple[Fraction, str]:
    text = match[0]
    scale = (match["scale"] or "").strip().lower()
    if match["scale"]:
        text = text[: -len(match["scale"])]
    value = _korean_value(text.lstrip("$€₩ ")) * _SCALES.get(scale, 1)
    return value, _CURRENCY.get(match["cur"] or "", "")


def _korean_value(text: str) -> Fraction:
    """The value of digits mixed with 십백천만억조, such as `1억 5천만` or `이천오백만`."""
    total = section = Fraction(0)
    number: Fraction | None = None
    for token in re.findall(rf"{_PLAIN}|[가-힣]", text):
        if token in _BIG:
            section = section + (number or 0) if number is not None or section else Fraction(1)
            total, section, number = total + section * _BIG[token], Fraction(0), None
        elif token in _SMALL:
            section, number = section + (1 if number is None else number) * _SMALL[token], None
        else:
            number = Fraction(_SINO[token]) if token in _SINO else Fraction(token.replace(",", ""))
    return total + section + (number or 0)


def _hangul(match: re.Match[str]) -> tuple[Fraction, str]:
    return _korean_value(match[0]), ""


_NATIVE_UNITS = {"달": ("month", 1), "번": ("times", 1), "차례": ("times", 1), "가지": ("item", 1), "명": ("person", 1)} | {
    "해": ("month", 12),
    "시간": ("minute", 60),
    "살": ("age", 1),
}


def _native(match: re.Match[str]) -> tuple[Fraction, str]:
    unit, factor = _NATIVE_UNITS[match["unit"]]
    return Fraction(_NATIVE[match["word"]] * factor), unit


def _native_days(match: re.Match[str]) -> tuple[Fraction, str]:
    return Fraction(_DAYS[match[1]]), "day"


def _english(match: re.Match[str]) -> tuple[Fraction, str]:
    return Fraction(_ENGLISH[match["a"].lower()] + (_ENGLISH[match["b"].lower()] if match["b"] else 0)), ""


_PARSERS = (
    (_LABEL, _label),
    (_CODE, _code),
    (_FRACTION, _fraction),
    (_KOREAN_NUMBER, _mixed),
    (_HANGUL_NUMBER, _hangul),
    (_NATIVE_NUMBER, _native),
    (_NATIVE_DAYS, _native_days),
    (_ENGLISH_NUMBER, _english),
)
