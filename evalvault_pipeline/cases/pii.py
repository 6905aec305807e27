"""Where in a text something stands that a person is known by: phones, e-mail, numbers of papers, cards and accounts.

This module goes over the text; which digits are what stands in `pii_rules.py`, what takes their place in `redaction.py`.

First come e-mail addresses, then numbers with letters in them, then those of digits alone. What was found before, and labels
such as `[PHONE_1]`, are bars that nothing is read across. So replacing what was found by labels changes nothing about the rest:
redacting twice is redacting once. Every pattern takes linear time. The texts of a case are read together: what one of them says
to be an account is one in the others too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from evalvault_pipeline.cases.pii_rules import number_at, paper_at, paper_key, shape_after, spellings, with_opening
from evalvault_pipeline.cases.pii_words import BAR, Found, Kind, Place

# What is read as what, one character for one: other digits and full-width signs, every dash, space and middle dot.
_FOLDED = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **{
            chr(zero + digit): str(digit)
            for zero in (0x660, 0x6F0, 0x966, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6)
            for digit in range(10)
        },
        **dict.fromkeys("\u02d7\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2500\u30fc\u3161\ufe58\ufe63", "-"),
        **dict.fromkeys("\xa0\xad\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u202f\u205f\u2060\u3000\ufeff", " "),
        **dict.fromkeys("\xb7\u2022\u2024\u2027\u2219\u22c5\u3002\u30fb\u318d\uff61\uff65", "."),
        "\ufe6b": "@",
    }
)
# A circled digit alone is the mark of a list; several in a row are a number.
_CIRCLED = str.maketrans("\u24ea\u2460\u2461\u2462\u2463\u2464\u2465\u2466\u2467\u2468", "0123456789")
# All of these are in it, and little else: ranges are looked for ten times as fast as 200 characters one by one.
_FOLDABLE = re.compile(
    "[\xa0\xad\xb7\u02d7\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u1680\u2000-\u2060\u2212-\u22c5\u2460-\u24ea\u2500\u3000-\u3002\u30fb\u30fc\u3161"
    "\u318d\ufe58-\ufe6b\ufeff\uff01-\uff65\U0001d7ce-\U0001d7ff]+"
)

LABEL = re.compile(rf"\[({'|'.join(Kind)})(?:_([0-9]+))?\]")

_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_AT = re.compile("@|%40")  # as it is, and in the address of a web page
_DOMAIN = re.compile(r" ?((?:[A-Za-z0-9-]+\.)+(?P<top>[A-Za-z]{2,24})|[A-Za-z0-9가-힣-]+\.(?:한국|닷컴|닷넷))")
_NO_HANGUL = re.compile("[^가-힣]")
_COMMON_TOPS = frozenset("com net org edu gov info biz io ai co kr jp cn us uk de fr".split())
_FILE_ENDINGS = frozenset("png jpg jpeg gif svg webp pdf css js ts json html xml yaml yml".split())
_MAIL_WORD = re.compile(rf"(?:메일|주소|mail|address)[^@{BAR}]{{0,6}}\Z", re.IGNORECASE)

# A passport's or licence's number with letters, or an IBAN. It opens a word; to begin with a class of characters is fast.
_PAPER = re.compile(
    rf"[A-Za-z](?=[A-Za-z]?[ -]?[0-9])(?<![A-Za-z0-9{BAR}][A-Za-z])"
    rf"(?:[0-9]{{3}}[A-Za-z][0-9]{{4}}|[A-Za-z]?[ -]?[0-9]{{6,8}}(?!-[0-9{BAR}])"
    "|[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"  # of one case: a word behind it is no part of it
    "|[a-z][0-9]{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?)(?![A-Za-z0-9])"
)

# Seven digits close to each other: without them, or an @, nothing is looked for. Where the first digit of several fails, so
# would the others.
_PROMISING = re.compile("[0-9](?<![0-9][0-9])(?:[^0-9]{0,3}+[0-9]){6}+")
# Nine digits or more with little between them: nothing shorter is looked at.
_STRETCH = re.compile(r"[0-9](?<![0-9][0-9])(?:[-. _/()*~\t\r\n]{0,4}+[0-9]){8,}+")
_RUN = re.compile("[0-9]+[^0-9]*")


Known = Mapping[str, tuple[Kind, str]]  # by spelling: kind and key


def find_pii(text: str, *, about: str = "") -> list[Found]:
    """What a person is known by in `text`, in order, without overlaps. `about` says what the text is: a key of metadata."""
    head = introduced_by(about) if about else ""
    found = _search(_folded(head + text))
    return _behind(head, found) if head else found


def find_together(texts: Sequence[tuple[str, str]]) -> list[list[Found]]:
    """What is found in each (text, about) of a case: also what a text has no word for, where another one has.

    Ends when nothing more is found beside the bars, so masking a masked case changes nothing.
    """
    heads = [introduced_by(about) if about else "" for _, about in texts]
    barred = [_folded(head + text) for head, (text, _) in zip(heads, texts, strict=True)]
    found = [_search(text) for text in barred]
    known: dict[str, tuple[Kind, str]] = {}
    if any(found):
        barred = [_barred(_without_labels(text), some) for text, some in zip(barred, found, strict=True)]
    while new := spellings(one for some in found for one in some).items() - known.items():
        known.update(new)
        for at, some in enumerate(found):
            while more := _search(barred[at], known):
                barred[at] = _barred(barred[at], more)
                some += more
    return [_behind(head, sorted(some, key=attrgetter("start"))) for head, some in zip(heads, found, strict=True)]


def _search(folded: str, known: Known | None = None) -> list[Found]:
    with_at = "@" in folded or "%40" in folded
    if not with_at and not _PROMISING.search(folded):
        return []
    folded = _without_labels(folded)
    found = list(_emails(folded, known or {})) if with_at else []
    folded = _barred(folded, found) if found else folded
    if _PAPER.search(folded):
        papers = [one for match in _PAPER.finditer(folded) if (one := _paper(folded, match, known or {}))]
        folded = _barred(folded, papers)
        found += papers
    if known and (numbers := list(_known_numbers(folded, known))):
        folded = _barred(folded, numbers)
        found += numbers
    found += _numbers(folded)
    return sorted(found, key=attrgetter("start")) if len(found) > 1 else found


def _behind(head: str, found: list[Found]) -> list[Found]:
    return [one.moved(-len(head)) for one in found if one.start >= len(head)]


def introduced_by(about: str) -> str:
    """A key of metadata as words before its value."""
    return f"{_without_labels(about).replace('_', ' ')}: "


def _without_labels(text: str) -> str:
    return LABEL.sub(lambda label: BAR * len(label[0]), text) if "[" in text else text


def _folded(text: str) -> str:
    return text if text.isascii() or not _FOLDABLE.search(text) else _FOLDABLE.sub(_fold, text)


def _fold(signs: re.Match[str]) -> str:
    circled = len(signs[0]) > 1 and signs[0].translate(_CIRCLED).isascii()
    return signs[0].translate(_CIRCLED if circled else _FOLDED)


def _barred(text: str, found: Iterable[Found]) -> str:
    pieces, position = [], 0
    for one in found:
        pieces += [text[position : one.start], BAR * (one.end - one.start)]
        position = one.end
    return "".join((*pieces, text[position:]))


def _emails(text: str, known: Known) -> Iterator[Found]:
    floor = 0
    while sign := _AT.search(text, floor):
        at = sign.start()
        before = text[floor:at].removesuffix(" ")
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".-")
        if not local and not text[at - 1 : at].isascii():
            local = _NO_HANGUL.split(before[-10:])[-1]
        start = floor + len(before) - len(local)
        floor = sign.end()
        domain = _DOMAIN.match(text, floor) if local and local != "git" else None
        if domain and _is_domain(domain[1], domain["top"], text[domain.end() : domain.end() + 1]):
            key = f"{local}@{domain[1]}".lower()
            spaced = domain.end() - start > len(local) + len(sign[0]) + len(domain[1])
            if not spaced or key in known or _is_address(local, domain[1], before[: len(before) - len(local)][-12:]):
                floor = domain.end()
                yield Found(Kind.EMAIL, start, floor, key)


def _is_domain(domain: str, top: str | None, following: str) -> bool:
    """No version (`react@1.2.beta`), no picture (`icon@2x.png`), no word that goes on behind the top domain."""
    if top is None:
        return True
    *names, _ = domain.split(".")
    return (
        top.lower() not in _FILE_ENDINGS
        and not (len(names) > 1 and all(name.isdigit() for name in names))
        and (top.lower() in _COMMON_TOPS or not (following == BAR or (following.isascii() and following.isalnum())))
    )


def _is_address(local: str, domain: str, before: str) -> bool:
    """Whether `local @ domain` is an address and not a sentence: `contact us @ www.example.com`."""
    named = any(sign in local for sign in "._+0123456789") or _MAIL_WORD.search(before) is not None
    return named and not domain.lower().startswith("www.")


def _paper(text: str, match: re.Match[str], known: Known) -> Found | None:
    if known and (same := known.get(paper_key(match))):
        return Found(same[0], match.start(), match.end(), same[1])
    return paper_at(Place(text, match.start()), match)


def _known_numbers(text: str, known: Known) -> Iterator[Found]:
    """Numbers of `known` between whatever separators; of two that begin at one place the longer."""
    lengths = sorted({len(spelling) for spelling in known}, reverse=True)
    for stretch in _STRETCH.finditer(text):
        places = [at for at in range(*stretch.span()) if text[at].isdigit()]
        digits, first = "".join(text[at] for at in places), 0
        while first < len(places):
            start = places[first]
            opens = not text[start - 1 : start].isdecimal()
            for length in lengths if opens else ():
                end = places[first + length - 1] + 1 if first + length <= len(places) else 0
                if end and (same := known.get(digits[first : first + length])) and not text[end : end + 1].isdecimal():
                    yield with_opening(Found(same[0], start, end, same[1]), Place(text, start))
                    first += length - 1
                    break
            first += 1


def _numbers(text: str) -> Iterator[Found]:
    floor = 0
    for stretch in _STRETCH.finditer(text):
        end, near_a_bank = stretch.end(), None
        first = place = Place(text, stretch.start(), floor=floor)
        while True:
            one = number_at(place)
            if one:
                floor = one.end
                yield one
            following = _RUN.match(text, place.start, end)
            position = one.end if one else following.end() if following else end
            if end - position < 9:
                break
            if near_a_bank is None:  # an account's shape is nearly any: it is looked for beside words for it only
                near_a_bank = first.is_bank(end)
            start = shape_after(text, position, end, accounts=near_a_bank)
            if start is None:
                break
            place = Place(text, start, floor=floor, opening=first.start)
