"""What must not leave the machine is replaced by a label: e-mail addresses, phones, registration and card numbers.

Used for everything that is sent to others (Phoenix); the files of a run keep their texts. Hangul is `\\w`, so a particle
that is glued to a number would hide it from `\\b`: the rules look for digits around a number instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SEP = r"[-.\s]?"
_BEFORE, _AFTER = r"(?<![\d+])", r"(?!\d)"
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
# Birth date, then a digit that says century and sex (5 to 8: foreigners). Since 2020 the rest has no checksum.
_REGISTRATION = re.compile(rf"{_BEFORE}\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\s?-\s?[1-8]\d{{6}}{_AFTER}")
_PHONE = re.compile(
    rf"(?:(?<![\d+])\+?82{_SEP}\(?0?\)?1[016789]|{_BEFORE}01[016789]){_SEP}\d{{3,4}}{_SEP}\d{{4}}{_AFTER}"
    rf"|{_BEFORE}(?:0(?:2|[3-6][1-5]|70|50\d))\)?[-.\s]\d{{3,4}}[-.\s]\d{{4}}{_AFTER}"
)
_CARD = re.compile(rf"{_BEFORE}\d{{4}}[- ]?\d{{4}}[- ]?\d{{4}}[- ]?\d{{4}}{_AFTER}")
# A stretch in which any of the numbers may stand: found ten times as fast as the three rules go over a text.
_NUMBERS = re.compile(r"[+\d][\d().+\s-]{7,}\d")
_UNSENDABLE = re.compile("[\ud800-\udfff\x00]")


def redacted(text: str) -> str:
    """The text with `[EMAIL]`, `[SSN]`, `[CARD]`, `[PHONE]` in place of what a person is known by, and as valid UTF-8."""
    text = _UNSENDABLE.sub("\ufffd", text)
    if "@" in text:
        text = _EMAIL.sub("[EMAIL]", text)
    return _NUMBERS.sub(lambda found: _redacted_numbers(found.group()), text)


def _redacted_numbers(text: str) -> str:
    text = _REGISTRATION.sub("[SSN]", text)
    text = _CARD.sub(lambda found: "[CARD]" if _luhn(found.group()) else found.group(), text)
    return _PHONE.sub("[PHONE]", text)


def redacted_values(value: Any) -> Any:
    """JSON values with every text in them redacted; keys stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: redacted_values(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [redacted_values(item) for item in value]
    return value


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in re.sub(r"\D", "", number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(digits[::-2])) % 10 == 0
